//! From files to a model.
//!
//! Owns reading config files, include files and node files. It applies commands through `apply` and keeps nothing.

use std::path::{Path, PathBuf};

use ibex_perlbal_core::dispatcher::NodeSpec;
use ibex_perlbal_proto::command::{self, Command};

use super::{Context, Model, System, apply};

/// Where a config file is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: ERROR: {text}")]
pub(crate) struct LoadError {
    /// `file:line`, or `command N`.
    pub(crate) place: String,
    /// What the language says about it.
    pub(crate) text: String,
}

/// Reads a file and further commands into a fresh model.
pub(crate) fn load(file: Option<&Path>, commands: &[String]) -> Result<Model, LoadError> {
    let mut loader = Loader {
        model: Model::default(),
        context: Context::for_file(),
    };
    if let Some(file) = file {
        loader.file(file, 0)?;
    }
    for (index, text) in commands.iter().enumerate() {
        loader.line(text, &format!("command {}", index + 1), 0)?;
    }
    Ok(loader.model)
}

/// Includes may include; a circle would not end.
const INCLUDE_DEPTH_MAX: u32 = 8;

struct Loader {
    model: Model,
    context: Context,
}

impl Loader {
    fn file(&mut self, path: &Path, depth: u32) -> Result<(), LoadError> {
        let place = path.display().to_string();
        let text = std::fs::read(path).map_err(|e| LoadError {
            place: place.clone(),
            text: e.to_string(),
        })?;
        for (index, line) in String::from_utf8_lossy(&text).lines().enumerate() {
            self.line(line, &format!("{place}:{}", index + 1), depth)?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str, place: &str, depth: u32) -> Result<(), LoadError> {
        let wrong = |text: String| LoadError {
            place: place.to_owned(),
            text,
        };
        let Some(text) = command::prepare(line, &System).map_err(|e| wrong(e.0))? else {
            return Ok(());
        };
        let command = command::parse(&text).map_err(|e| wrong(e.0))?;
        if let Command::Include(patterns) = command {
            if depth >= INCLUDE_DEPTH_MAX {
                return Err(wrong("includes are nested too deeply".to_owned()));
            }
            for path in expand_includes(&patterns).map_err(wrong)? {
                self.file(&path, depth + 1)?;
            }
            return Ok(());
        }
        apply(&mut self.model, &mut self.context, command)
            .map(drop)
            .map_err(|e| wrong(e.0))
    }
}

/// Files that match the patterns, in order; `*` and `?` in the last component only.
pub(crate) fn expand_includes(patterns: &[String]) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for pattern in patterns {
        let path = Path::new(pattern);
        let name = path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        if !name.contains(['*', '?']) {
            if !path.is_file() {
                return Err(format!("No files found for include pattern '{pattern}'"));
            }
            files.push(path.to_path_buf());
            continue;
        }
        let directory = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let mut found: Vec<PathBuf> = std::fs::read_dir(directory)
            .map_err(|e| format!("{}: {e}", directory.display()))?
            .filter_map(|entry| entry.ok().map(|e| e.path()))
            .filter(|p| {
                p.is_file()
                    && p.file_name().is_some_and(|n| {
                        glob_matches(name.as_bytes(), n.to_string_lossy().as_bytes())
                    })
            })
            .collect();
        if found.is_empty() {
            return Err(format!("No files found for include pattern '{pattern}'"));
        }
        found.sort();
        files.append(&mut found);
    }
    Ok(files)
}

fn glob_matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            glob_matches(rest, name)
                || name
                    .split_first()
                    .is_some_and(|(_, tail)| glob_matches(pattern, tail))
        }
        (Some((b'?', rest)), Some((_, tail))) => glob_matches(rest, tail),
        (Some((p, rest)), Some((n, tail))) if p == n => glob_matches(rest, tail),
        _ => false,
    }
}

/// What tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileMark(i64, i64, u64, u64);

impl FileMark {
    pub(crate) fn of(path: &str) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let meta = std::fs::metadata(path).ok()?;
        Some(Self(
            meta.mtime(),
            meta.mtime_nsec(),
            meta.size(),
            meta.ino(),
        ))
    }
}

/// Nodes of a node file: the first `ip[:port]` of each line, port 80 by default, `#` comments; other lines are ignored.
pub(crate) fn read_nodefile(path: &str) -> std::io::Result<Vec<NodeSpec>> {
    let text = std::fs::read_to_string(path)?;
    let mut nodes: Vec<NodeSpec> = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let address = line.split_whitespace().find_map(|word| {
            super::apply::node_address(word).filter(|a| a.parse::<std::net::SocketAddr>().is_ok())
        });
        if let Some(address) = address
            && !nodes.iter().any(|n| *n.address == *address)
        {
            nodes.push(NodeSpec::new(&address));
        }
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, name, expected) in [
            ("*.conf", "a.conf", true),
            ("*.conf", "a.con", false),
            ("a?c", "abc", true),
            ("*", "", true),
            ("a*b*c", "aXbYc", true),
        ] {
            assert_eq!(
                glob_matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn errors_name_file_and_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("p.conf");
        std::fs::write(
            &file,
            "# a comment\nCREATE POOL a\nPOOL a ADD 10.0.0.1:80\n\nFROBNICATE\n",
        )
        .unwrap();
        let error = load(Some(&file), &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{}:5: ERROR: unknown command: frobnicate", file.display())
        );
        assert_eq!(
            load(None, &["CREATE POOL a".into(), "CREATE POOL a".into()])
                .unwrap_err()
                .to_string(),
            "command 2: ERROR: pool 'a' already exists"
        );
    }

    #[test]
    fn node_files() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("nodes");
        std::fs::write(
            &file,
            "10.0.0.1\n# 10.0.0.9\nweb 10.0.0.2:8080 # fast\nnonsense\n10.0.0.1:80\n",
        )
        .unwrap();
        let nodes: Vec<String> = read_nodefile(file.to_str().unwrap())
            .unwrap()
            .iter()
            .map(|n| n.address.to_string())
            .collect();
        assert_eq!(nodes, ["10.0.0.1:80", "10.0.0.2:8080"]);
    }
}

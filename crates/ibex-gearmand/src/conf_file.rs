//! `--config-file` of the original: a file of flags, in place of the family's TOML, and flags of the original that are other names of ours.
//!
//! The flags of the file take the place of `--config-file FILE` at the front of the command line, so what is given there wins. A name that ends in `.toml`
//! is the family's `--config`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// The command line with such files put into it.
///
/// # Errors
/// A file that cannot be read, or holds something else.
pub(crate) fn expand(given: Vec<OsString>) -> Result<Vec<OsString>, String> {
    let mut given = given.into_iter();
    let mut all: Vec<OsString> = given.next().into_iter().collect();
    let mut rest = Vec::new();
    while let Some(argument) = given.next() {
        let joined = argument
            .to_str()
            .and_then(|text| text.strip_prefix("--config-file="));
        let named = match joined {
            Some(name) => Some(OsString::from(name)),
            None if argument == OsStr::new("--config-file") => Some(
                given
                    .next()
                    .ok_or_else(|| "--config-file needs the name of a file".to_owned())?,
            ),
            None => None,
        };
        match named {
            Some(name) if Path::new(&name).extension() == Some(OsStr::new("toml")) => {
                all.extend([OsString::from("--config"), name]);
            }
            Some(name) => all.extend(flags_of(Path::new(&name))?.map(OsString::from)),
            // COMPAT(gearmand): --check-args reads the flags and ends.
            None if argument == OsStr::new("--check-args") => rest.push("--check-config".into()),
            None => rest.push(argument),
        }
    }
    all.extend(rest);
    Ok(all)
}

/// Words of lines; `#` begins a comment line.
fn flags_of(path: &Path) -> Result<impl Iterator<Item = String>, String> {
    let failed = |reason: String| format!("--config-file {}: {reason}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let words: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace)
        .map(str::to_owned)
        .collect();
    match words.first() {
        Some(word) if !word.starts_with('-') => Err(failed(format!("{word:?} is no flag"))),
        _ => Ok(words.into_iter()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<OsString> {
        list.iter().map(OsString::from).collect()
    }

    #[test]
    fn flags_of_a_file_come_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gearmand.conf");
        std::fs::write(&path, "# ports\n--port=4731 -t 2\n\n--verbose INFO\n").unwrap();
        let name = path.to_str().unwrap();
        let expected = strings(&[
            "d",
            "--port=4731",
            "-t",
            "2",
            "--verbose",
            "INFO",
            "-p",
            "1",
            "--check-config",
        ]);
        let given = strings(&["d", "-p", "1", "--config-file", name, "--check-args"]);
        assert_eq!(expand(given), Ok(expected.clone()));
        let joined = format!("--config-file={name}");
        assert_eq!(
            expand(strings(&["d", &joined, "-p", "1", "--check-args"])),
            Ok(expected)
        );
        let toml = strings(&["d", "--config-file", "x.toml"]);
        assert_eq!(expand(toml), Ok(strings(&["d", "--config", "x.toml"])));
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gearmand.conf");
        std::fs::write(&path, "port = 1\n").unwrap();
        let given = |name: &str| strings(&["d", "--config-file", name]);
        let error = expand(given(path.to_str().unwrap())).unwrap_err();
        assert!(error.ends_with("\"port\" is no flag"), "{error}");
        assert!(expand(given("/does/not/exist")).is_err());
        assert!(expand(strings(&["d", "--config-file"])).is_err());
    }
}

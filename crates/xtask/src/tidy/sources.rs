//! Rules about source files: a header that says what the file owns, no leftovers of the workbench, lines that fit, one integration test binary per crate.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::sh;

/// Longest line, in characters.
const LINE_CHARS_MAX: usize = 160;
/// Pieces that must not stay in the code. Written in two halves so that this file does not find itself.
const LEFTOVERS: &[(&str, &str)] = &[
    ("dbg", "!("),
    ("todo", "!("),
    ("unimplemented", "!("),
    ("FIX", "ME"),
    ("XX", "X:"),
    ("HA", "CK:"),
    ("#[ig", "nore]"),
];

/// Every Rust file of the workspace.
fn rust_files() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for top in ["crates", "integration-tests"] {
        walk(&sh::root().join(top), &mut files)?;
    }
    files.sort();
    Ok(files)
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("read folder {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                walk(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Applies `check` to every line of every Rust file.
fn each_line(check: impl Fn(&str) -> Option<String>) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for path in rust_files()? {
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        for (index, line) in text.lines().enumerate() {
            if let Some(finding) = check(line) {
                findings.push(format!("{}:{}: {finding}", shown(&path), index + 1));
            }
        }
    }
    Ok(findings)
}

fn shown(path: &Path) -> String {
    path.strip_prefix(sh::root())
        .unwrap_or(path)
        .display()
        .to_string()
}

/// Every file opens with `//!`.
pub(super) fn headers() -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for path in rust_files()? {
        let text = fs::read_to_string(&path)?;
        if !text.trim_start().starts_with("//!") {
            findings.push(format!(
                "{}: starts without `//!`: what does it own, and why apart?",
                shown(&path)
            ));
        }
    }
    Ok(findings)
}

/// No debugging macros, no unfinished places, no tests switched off without a reason.
pub(super) fn leftovers() -> Result<Vec<String>> {
    each_line(|line| {
        let found = LEFTOVERS
            .iter()
            .map(|(head, tail)| format!("{head}{tail}"))
            .find(|leftover| line.contains(leftover.as_str()));
        found.map(|leftover| format!("leftover {leftover:?}"))
    })
}

/// Lines fit the screen; one that holds a text (SQL, a recorded answer) may be as long as the text, and rows of a table in a comment too.
pub(super) fn long_lines() -> Result<Vec<String>> {
    each_line(|line| {
        let count = line.chars().count();
        let is_free = line.contains('"')
            || line.trim_start().starts_with("//! |")
            || line.trim_end().ends_with('\\');
        (count > LINE_CHARS_MAX && !is_free).then(|| format!("line of {count} characters"))
    })
}

/// `tests/` of a crate holds one binary, `tests/it/main.rs`; each more is linked, started and waited for.
pub(super) fn test_binaries() -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for entry in fs::read_dir(sh::root().join("crates"))? {
        let Ok(files) = fs::read_dir(entry?.path().join("tests")) else {
            continue;
        };
        for file in files {
            let path = file?.path();
            let is_binary = path.extension().is_some_and(|extension| extension == "rs")
                || path.join("main.rs").is_file() && !path.ends_with("it");
            if is_binary {
                findings.push(format!("{}: move it into tests/it/", shown(&path)));
            }
        }
    }
    Ok(findings)
}

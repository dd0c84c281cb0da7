//! What is wrong with a configuration, said so that a person can repair it.
//!
//! Owns the form of the message: where (`file:line:col`, variable or flag), which key, what is allowed, and the offending
//! line. It decides nothing; the loader collects these and reports all of them.

use std::path::{Path, PathBuf};

use super::secret::mask_url;

/// One line of a file, for messages that point into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// From 1.
    pub(crate) line: usize,
    /// From 1, in characters.
    pub(crate) column: usize,
    /// The line's text.
    pub(crate) text: String,
}

impl Place {
    /// The place of a byte offset in a source text.
    pub(crate) fn at(path: &Path, source: &str, offset: usize) -> Self {
        let before = source.get(..offset).unwrap_or(source);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let text = source
            .get(start..)
            .unwrap_or_default()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
        let column = before.get(start..).unwrap_or_default().chars().count() + 1;
        Self {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column,
            text,
        }
    }
}

/// Who set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody: the built-in default.
    Default,
    /// A file.
    File(Place),
    /// An environment variable, by its name.
    Env(String),
    /// A flag, as written.
    Flag(String),
}

impl Origin {
    /// The short form for `--print-config`: `default`, `file:12`, `env IBEX_LISTEN`, `flag`.
    pub(crate) fn short(&self) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::File(place) => format!("{}:{}", place.path.display(), place.line),
            Self::Env(name) => format!("env {name}"),
            Self::Flag(flag) => format!("flag {flag}"),
        }
    }
}

/// Whether the line is about a secret, and so must not be shown even when it cannot be parsed.
fn place_tells(origin: &Origin) -> bool {
    let Origin::File(place) = origin else {
        return false;
    };
    let key = place.text.split('=').next().unwrap_or_default();
    ["password", "secret", "token"]
        .iter()
        .any(|word| key.contains(word) && !key.contains("_file"))
}

/// Everything that is wrong with one attempt to load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Errors(Vec<String>);

impl Errors {
    /// A single problem without a place.
    pub(crate) fn one(message: impl Into<String>) -> Self {
        Self(vec![message.into()])
    }

    /// Adds one problem of `key` set by `origin`. The line is left out when the caller says so, or when it is about a secret.
    pub(crate) fn add(&mut self, origin: &Origin, key: &str, message: &str, show_line: bool) {
        let key = if key.is_empty() {
            String::new()
        } else {
            format!("{key}: ")
        };
        let mut text = match origin {
            Origin::Default => format!("{key}{message} (built-in default)"),
            Origin::File(place) => format!(
                "{}:{}:{}: {key}{message}",
                place.path.display(),
                place.line,
                place.column
            ),
            Origin::Env(name) => format!("environment variable {name}: {key}{message}"),
            Origin::Flag(flag) => format!("{flag}: {key}{message}"),
        };
        if let (Origin::File(place), true) = (origin, show_line && !place_tells(origin)) {
            let shown = mask_url(&place.text);
            let number = place.line.to_string();
            let gap = " ".repeat(number.len());
            let indent: String = place
                .text
                .chars()
                .take(place.column - 1)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            put!(
                text,
                "\n  {gap} |\n  {number} | {shown}\n  {gap} | {indent}^"
            );
        }
        self.0.push(text);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The messages, one or more lines each.
    pub(crate) fn messages(&self) -> &[String] {
        &self.0
    }
}

impl std::fmt::Display for Errors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_line_and_column_from_one() {
        let source = "a = 1\n  b = \"ü\" # x\n";
        let place = Place::at(Path::new("f.toml"), source, source.find('#').unwrap());
        assert_eq!(
            (place.line, place.column, place.text.as_str()),
            (2, 11, "  b = \"ü\" # x")
        );
        assert_eq!(Place::at(Path::new("f"), "", 0).line, 1);
    }

    #[test]
    fn a_line_with_a_secret_is_not_shown() {
        for source in [
            "password = \"canary",
            "x_token = canary",
            "url = \"mysql://u:canary@h",
        ] {
            let mut errors = Errors::default();
            errors.add(
                &Origin::File(Place::at(Path::new("f"), source, 0)),
                "",
                "broken",
                true,
            );
            assert!(!errors.to_string().contains("canary"), "{errors}");
        }
    }

    #[test]
    fn the_message_points_at_the_column() {
        let mut errors = Errors::default();
        errors.add(
            &Origin::File(Place::at(Path::new("f.toml"), "x = 1\ny = 2\n", 10)),
            "y",
            "must be 3",
            true,
        );
        assert_eq!(
            errors.to_string(),
            "f.toml:2:5: y: must be 3\n    |\n  2 | y = 2\n    |     ^"
        );
    }
}

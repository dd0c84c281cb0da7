//! The log of a daemon under test: JSON lines as `ibex-kit` writes them, and the rule that a WARN or ERROR nobody announced fails the test.

use serde_json::{Map, Value};

/// One line of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// `ERROR`, `WARN`, `INFO`, `DEBUG`, `TRACE`, or `RAW` for a line that is not JSON (a panic, a message before logging was up).
    pub level: String,
    /// The constant phrase.
    pub msg: String,
    /// All other members of the object.
    pub fields: Map<String, Value>,
    /// The line as it was written.
    pub raw: String,
}

impl Line {
    /// Reads one line of standard error.
    #[must_use]
    pub fn parse(raw: &str) -> Self {
        match serde_json::from_str::<Map<String, Value>>(raw) {
            Ok(mut fields) => Self {
                level: take(&mut fields, "level").to_ascii_uppercase(),
                msg: take(&mut fields, "msg"),
                fields,
                raw: raw.to_owned(),
            },
            Err(_) => Self {
                level: "RAW".to_owned(),
                msg: raw.to_owned(),
                fields: Map::new(),
                raw: raw.to_owned(),
            },
        }
    }

    /// Whether a human or an operator should look: WARN, ERROR, or something that is no log line at all.
    #[must_use]
    pub fn is_alarming(&self) -> bool {
        matches!(self.level.as_str(), "WARN" | "ERROR" | "RAW")
    }
}

fn take(fields: &mut Map<String, Value>, key: &str) -> String {
    match fields.remove(key) {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// Reads a whole log.
#[must_use]
pub fn parse(text: &str) -> Vec<Line> {
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(Line::parse)
        .collect()
}

/// The alarming lines that contain none of the `announced` phrases.
#[must_use]
pub fn unannounced<'a>(lines: &'a [Line], announced: &[String]) -> Vec<&'a Line> {
    lines
        .iter()
        .filter(|line| {
            line.is_alarming()
                && !announced
                    .iter()
                    .any(|phrase| line.raw.contains(phrase.as_str()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = concat!(
        "{\"ts\":\"2026-11-25T00:00:00Z\",\"level\":\"INFO\",\"msg\":\"ready\",\"elapsed\":0.1}\n",
        "{\"level\":\"warn\",\"msg\":\"store unreachable, will retry\",\"error\":\"refused\"}\n",
        "thread 'main' panicked at src/main.rs\n",
    );

    #[test]
    fn reads_levels_phrases_and_fields() {
        let lines = parse(LOG);
        assert_eq!(lines[0].level, "INFO");
        assert_eq!(lines[0].msg, "ready");
        assert_eq!(lines[0].fields["elapsed"], 0.1);
        assert_eq!(lines[2].level, "RAW");
    }

    #[test]
    fn only_what_was_announced_is_forgiven() {
        let lines = parse(LOG);
        let left = unannounced(&lines, &["store unreachable".to_owned()]);
        assert_eq!(
            left.len(),
            1,
            "the panic is never forgiven by another phrase"
        );
        assert_eq!(left[0].level, "RAW");
    }
}

//! How a log record looks: text and JSON, always one line.
//!
//! Owns the collection of an event's fields and the two forms. It writes nowhere.

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata};

use super::{LEVELS, level_index};

/// The fields of an event: the message, and the rest in order.
#[derive(Debug, Default)]
pub(super) struct Fields {
    message: String,
    rest: Vec<(&'static str, serde_json::Value)>,
}

impl Fields {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        fields
    }

    fn put(&mut self, field: &Field, value: serde_json::Value) {
        if field.name() == "message" {
            self.message = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
        } else {
            self.rest.push((field.name(), value));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

/// RFC 3339, UTC, microseconds.
pub(super) fn timestamp() -> String {
    let now = jiff::Timestamp::now();
    format!("{now:.6}")
}

/// A field's text: quoted when it would be ambiguous; never more than one line.
fn shown(value: &serde_json::Value) -> String {
    let odd = |c: char| c.is_whitespace() || c == '"' || c == '=' || c.is_control();
    let plain = value
        .as_str()
        .filter(|text| !text.is_empty() && !text.contains(odd));
    plain.map_or_else(|| value.to_string(), str::to_owned)
}

fn one_line(text: &str) -> String {
    if text.contains(|c: char| c.is_control()) {
        text.escape_debug().to_string()
    } else {
        text.to_owned()
    }
}

pub(super) fn body(metadata: &Metadata<'_>, fields: &Fields) -> String {
    let mut text = format!("{}: {}", metadata.target(), one_line(&fields.message));
    for (name, value) in &fields.rest {
        put!(text, " {name}={}", shown(value));
    }
    text
}

pub(super) fn text_line(metadata: &Metadata<'_>, fields: &Fields, colour: bool) -> String {
    let level = *metadata.level();
    let (on, off) = match (colour, level_index(level)) {
        (false, _) => ("", ""),
        (true, 0) => ("\x1b[31m", "\x1b[0m"),
        (true, 1) => ("\x1b[33m", "\x1b[0m"),
        (true, 2) => ("\x1b[32m", "\x1b[0m"),
        (true, _) => ("\x1b[2m", "\x1b[0m"),
    };
    format!(
        "{} {on}{level:>5}{off} {}",
        timestamp(),
        body(metadata, fields)
    )
}

pub(super) fn json_line(metadata: &Metadata<'_>, fields: &Fields, node: &str) -> String {
    let mut object = serde_json::Map::new();
    object.insert("ts".to_owned(), timestamp().into());
    object.insert(
        "level".to_owned(),
        LEVELS
            .get(level_index(*metadata.level()))
            .copied()
            .unwrap_or("info")
            .into(),
    );
    object.insert("target".to_owned(), metadata.target().into());
    object.insert("msg".to_owned(), fields.message.clone().into());
    object.insert("node".to_owned(), node.into());
    for (name, value) in &fields.rest {
        object.insert((*name).to_owned(), value.clone());
    }
    serde_json::Value::Object(object).to_string()
}

/// Syslog priorities.
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_one_word_or_quoted() {
        let shown = |text: &str| shown(&serde_json::Value::from(text));
        assert_eq!(
            [shown("a-b"), shown("a b"), shown(""), shown("a\nb")],
            ["a-b", "\"a b\"", "\"\"", "\"a\\nb\""]
        );
        assert_eq!(one_line("a\nb"), "a\\nb");
    }
}

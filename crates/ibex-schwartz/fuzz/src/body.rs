//! What must hold for any bytes, shared by the fuzzer and by the test that replays its corpus.

use ibex_schwartz::{Handle, Schedule, storable};

/// Levels of a decoded structure: what the decoder promises, and one wrapper per level for blessed values.
const LEVELS_MAX: usize = 2 * 64 + 2;

fn levels(value: &serde_json::Value) -> usize {
    1 + match value {
        serde_json::Value::Array(items) => items.iter().map(levels).max().unwrap_or(0),
        serde_json::Value::Object(fields) => fields.values().map(levels).max().unwrap_or(0),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => 0,
    }
}

/// Decodes, and checks what comes out; a panic is the finding.
pub(crate) fn run(data: &[u8]) {
    if let Ok(value) = storable::decode(data) {
        assert!(storable::is_frozen(data), "decoded without its mark");
        assert!(levels(&value) <= LEVELS_MAX, "deeper than promised");
        // What can be written again reads as it did.
        if let Ok(again) = storable::encode(&value) {
            assert!(
                storable::decode(&again).is_ok(),
                "our own bytes are refused"
            );
        }
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(handle) = text.parse::<Handle>() {
        assert_eq!(handle.to_string(), text, "two spellings of one handle");
    }
    if text.len() < 100
        && let Ok(schedule) = Schedule::parse(text, "")
        && let Some(next) = schedule.next(1_800_000_000)
    {
        assert!(next > 1_800_000_000, "a run in the past");
    }
}

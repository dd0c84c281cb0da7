//! Label values that come from users: capped, so that strangers cannot make series without end.
//!
//! Owns the set of names kept apart (spec/ops.md 4.3, `metrics.max_names`); later names are summed under `other`. It keeps
//! no numbers.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use crate::lock;

/// The label of everything beyond the cap.
pub const OTHER: &str = "other";

/// The longest label value, in bytes; longer names are cut. Policy: cut, at a character.
const LABEL_BYTES_MAX: usize = 128;

/// The names one metric has seen. Cheap to clone; clones share the set.
#[derive(Debug, Clone)]
pub struct LabelCap {
    max: usize,
    seen: Arc<Mutex<BTreeSet<String>>>,
}

impl LabelCap {
    /// Keeps at most `max` names apart.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            max,
            seen: Arc::default(),
        }
    }

    /// The label for a name: itself, printable and not too long, or `other` if the cap is reached.
    #[must_use]
    pub fn label(&self, name: &[u8]) -> String {
        let mut text = name.escape_ascii().to_string();
        // Escaped bytes are ASCII, so every index is at a character.
        text.truncate(LABEL_BYTES_MAX);
        let mut seen = lock(&self.seen);
        if seen.contains(&text) {
            return text;
        }
        if seen.len() >= self.max {
            return OTHER.to_owned();
        }
        seen.insert(text.clone());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beyond_the_cap_are_other() {
        let cap = LabelCap::new(2);
        assert_eq!(
            [
                cap.label(b"a"),
                cap.label(b"b\n"),
                cap.label(b"c"),
                cap.label(b"a")
            ],
            ["a", "b\\n", OTHER, "a"]
        );
        assert_eq!(LabelCap::new(1).label(&[b'x'; 500]).len(), LABEL_BYTES_MAX);
    }
}

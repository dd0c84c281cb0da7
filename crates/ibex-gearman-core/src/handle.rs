//! Handles as they stand in packets: `<prefix>:<number>`, built in place, read back to the number.

use std::fmt;

use ibex_base::ascii;
use ibex_gearman_proto::limits::HANDLE_BYTES_MAX;

use crate::job::JobId;

/// A handle's text, without an allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HandleText {
    bytes: [u8; HANDLE_BYTES_MAX],
    len: u8,
}

impl AsRef<[u8]> for HandleText {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl fmt::Debug for HandleText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_ref()))
    }
}

/// Writes and reads handles of one server.
#[derive(Debug, Clone)]
pub(crate) struct Handles {
    /// With the colon.
    prefix: Vec<u8>,
}

/// Room for the colon and the longest number.
const PREFIX_BYTES_MAX: usize = HANDLE_BYTES_MAX - 1 - ascii::U64_DIGITS_MAX;

impl Handles {
    /// Handles with this prefix, cut to what always fits.
    pub(crate) fn new(prefix: &str) -> Self {
        let mut prefix = prefix
            .as_bytes()
            .get(..PREFIX_BYTES_MAX)
            .unwrap_or(prefix.as_bytes())
            .to_vec();
        prefix.push(b':');
        Self { prefix }
    }

    pub(crate) fn text(&self, id: JobId) -> HandleText {
        let mut digits = [0; ascii::U64_DIGITS_MAX];
        let number = ascii::format_u64(id.0, &mut digits);
        let mut bytes = [0; HANDLE_BYTES_MAX];
        let mut len = 0;
        for (slot, byte) in bytes.iter_mut().zip(self.prefix.iter().chain(number)) {
            *slot = *byte;
            len += 1;
        }
        HandleText { bytes, len }
    }

    /// The job that `text` names, if it is a handle of this server.
    pub(crate) fn parse(&self, text: &[u8]) -> Option<JobId> {
        let number = text.strip_prefix(&self.prefix[..])?;
        // A number has one text: no leading zeros.
        if number.first() == Some(&b'0') && number.len() > 1 {
            return None;
        }
        ascii::parse_u64(number).map(JobId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let handles = Handles::new("H:host");
        for id in [0, 1, 42, u64::MAX] {
            let text = handles.text(JobId(id));
            assert_eq!(text.as_ref(), format!("H:host:{id}").as_bytes());
            assert_eq!(handles.parse(text.as_ref()), Some(JobId(id)));
        }
        for text in [
            "H:host:",
            "H:host",
            "H:other:1",
            "H:host:1x",
            "H:host:01",
            "H:host:-1",
            "",
            "H:host:18446744073709551616",
        ] {
            assert_eq!(handles.parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_long_prefix_is_cut() {
        let handles = Handles::new(&"h".repeat(80));
        let text = handles.text(JobId(u64::MAX));
        assert_eq!(text.as_ref().len(), HANDLE_BYTES_MAX);
        assert_eq!(handles.parse(text.as_ref()), Some(JobId(u64::MAX)));
    }
}

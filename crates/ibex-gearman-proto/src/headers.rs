//! Headers of submissions and assignments (option `headers`, ours): `key=value` pairs joined by `;`, values percent-encoded.
//!
//! Only the form is here. What a key does to a job is the job server's business, which keys a caller may name the client library's; the page is
//! `docs/gearman/protocol.md`.

/// Appends a pair, with a separator if there is one before it. Bytes of `value` that would end it, and control bytes, are escaped; `key` is taken as it is.
pub fn put(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    if !out.is_empty() {
        out.push(b';');
    }
    out.extend_from_slice(key.as_bytes());
    out.push(b'=');
    for byte in value {
        match byte {
            b';' | b'%' | 0..=31 | 127 => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.push(b'%');
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
            _ => out.push(*byte),
        }
    }
}

/// The pairs in their order, escapes taken off the values. What is no pair is left out; a `%` without two digits behind it stands for itself.
pub fn pairs(text: &[u8]) -> impl Iterator<Item = (&[u8], Vec<u8>)> {
    text.split(|byte| *byte == b';').filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        Some((&pair[..at], unescaped(&pair[at + 1..])))
    })
}

/// The value of the first pair with this key.
#[must_use]
pub fn value_of(text: &[u8], key: &[u8]) -> Option<Vec<u8>> {
    pairs(text)
        .find(|(found, _)| *found == key)
        .map(|(_, value)| value)
}

fn unescaped(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => digit(*high).zip(digit(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                out.push(high << 4 | low);
                rest = &tail[2..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

const fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_read() {
        let mut text = Vec::new();
        put(&mut text, "ttl", b"60");
        put(&mut text, "x-any", b"a;b=%\0\xff");
        assert_eq!(text, b"ttl=60;x-any=a%3Bb=%25%00\xff");
        let read: Vec<_> = pairs(&text).collect();
        assert_eq!(
            read,
            [
                (&b"ttl"[..], b"60".to_vec()),
                (b"x-any", b"a;b=%\0\xff".to_vec())
            ]
        );
        assert_eq!(value_of(&text, b"ttl"), Some(b"60".to_vec()));
        assert_eq!(value_of(&text, b"x"), None);
    }

    #[test]
    fn what_is_no_pair_harms_nobody() {
        for (text, count) in [
            (&b""[..], 0),
            (b";;", 0),
            (b"a", 0),
            (b"a=;b", 1),
            (b"=", 1),
        ] {
            assert_eq!(pairs(text).count(), count, "{}", text.escape_ascii());
        }
        assert_eq!(value_of(b"a=%", b"a"), Some(b"%".to_vec()));
        assert_eq!(value_of(b"a=%4", b"a"), Some(b"%4".to_vec()));
        assert_eq!(value_of(b"a=%zz%41", b"a"), Some(b"%zzA".to_vec()));
    }
}

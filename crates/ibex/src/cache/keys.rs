//! The list of a server's keys (`lru_crawler metadump`): its lines, and patterns to choose among them.

use anyhow::{Context as _, bail};

use super::wire::Connection;

/// One item as a dump describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: Vec<u8>,
    /// Seconds since 1970; `None` for ever.
    pub(super) expires_at: Option<i64>,
    /// Seconds since 1970.
    pub(super) last_access: i64,
    pub(super) cas: u64,
    pub(super) is_fetched: bool,
    /// Bytes it takes, overhead included.
    pub(super) size: u64,
    /// Servers before 1.6.22 do not tell.
    pub(super) flags: Option<u32>,
}

impl Entry {
    /// Reads `key=… exp=… la=… cas=… fetch=… cls=… size=… flags=…`.
    fn parse(line: &str) -> Option<Self> {
        let field = |name: &str| {
            line.split(' ')
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        };
        let expires_at: i64 = field("exp")?.parse().ok()?;
        Some(Self {
            key: decode(field("key")?),
            expires_at: (expires_at >= 0).then_some(expires_at),
            last_access: field("la")?.parse().ok()?,
            cas: field("cas")?.parse().ok()?,
            is_fetched: field("fetch")? == "yes",
            size: field("size")?.parse().ok()?,
            flags: field("flags").and_then(|flags| flags.parse().ok()),
        })
    }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// A key for people: as it is, or percent-encoded where it has blanks, control bytes or bytes that are no UTF-8.
pub(super) fn shown(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.contains(|c: char| c.is_whitespace() || c.is_control()) => {
            text.to_owned()
        }
        Ok(_) | Err(_) => key
            .iter()
            .map(|byte| {
                if byte.is_ascii_alphanumeric() || b"-._~:/".contains(byte) {
                    char::from(*byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            })
            .collect(),
    }
}

/// Shell pattern: `*` any bytes, `?` one byte, all else itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<u8>);

impl std::str::FromStr for Pattern {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.as_bytes().to_vec()))
    }
}

impl Pattern {
    /// Linear in the key for each star: after a mismatch only the last star takes one byte more.
    pub(super) fn matches(&self, key: &[u8]) -> bool {
        let (pattern, mut at, mut of) = (&self.0, 0, 0);
        let mut star: Option<(usize, usize)> = None;
        while at < key.len() {
            match pattern.get(of) {
                Some(b'*') => {
                    star = Some((of, at));
                    of += 1;
                }
                Some(byte) if *byte == b'?' || *byte == key[at] => {
                    at += 1;
                    of += 1;
                }
                Some(_) | None => {
                    let Some((star_of, star_at)) = star else {
                        return false;
                    };
                    star = Some((star_of, star_at + 1));
                    at = star_at + 1;
                    of = star_of + 1;
                }
            }
        }
        pattern[of..].iter().all(|byte| *byte == b'*')
    }
}

/// A dump under way.
pub(super) struct Keys {
    connection: Connection,
    pattern: Option<Pattern>,
    first: Option<String>,
    is_over: bool,
}

/// The server does not dump.
#[derive(Debug, thiserror::Error)]
#[error("{server} refused the dump: {text}")]
pub(super) struct Refused {
    server: String,
    text: String,
}

impl Keys {
    pub(super) async fn of(server: &str, pattern: Option<Pattern>) -> anyhow::Result<Self> {
        let mut connection = Connection::open(server).await?;
        connection.send(b"lru_crawler metadump all\r\n").await?;
        let first = connection.first_line().await?;
        let is_refused = ["ERROR", "CLIENT_ERROR", "SERVER_ERROR", "BUSY"]
            .iter()
            .any(|word| first.starts_with(word));
        if is_refused {
            let server = server.to_owned();
            return Err(Refused {
                server,
                text: first,
            }
            .into());
        }
        Ok(Self {
            connection,
            pattern,
            // The original sends no OK.
            first: (first != "OK").then_some(first),
            is_over: false,
        })
    }

    /// The next item that fits; `None` at the end, and again when asked again.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Entry>> {
        while !self.is_over {
            let line = match self.first.take() {
                Some(line) => line,
                None => self.connection.line().await?,
            };
            if line == "END" {
                self.is_over = true;
                break;
            }
            if line.starts_with("BUSY") || line.starts_with("ERROR") {
                bail!("{}: {line}", self.connection.server());
            }
            let entry = Entry::parse(&line)
                .with_context(|| format!("{}: no dump: {line}", self.connection.server()))?;
            let fits = self
                .pattern
                .as_ref()
                .is_none_or(|pattern| pattern.matches(&entry.key));
            if fits {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_servers() {
        let ours = "key=a%20b%25 exp=-1 la=17 cas=9 fetch=yes cls=1 size=63 flags=5";
        let entry = Entry::parse(ours).unwrap();
        assert_eq!((&entry.key[..], entry.expires_at), (&b"a b%"[..], None));
        assert_eq!((entry.flags, entry.size), (Some(5), 63));
        let debian = "key=k exp=1700000000 la=1699999000 cas=2 fetch=no cls=1 size=63";
        let entry = Entry::parse(debian).unwrap();
        assert_eq!((entry.expires_at, entry.flags), (Some(1_700_000_000), None));
        assert_eq!(Entry::parse("nonsense"), None);
    }

    #[test]
    fn keys_for_people() {
        assert_eq!(shown(b"user:42"), "user:42");
        assert_eq!(shown("grüße".as_bytes()), "grüße");
        assert_eq!(shown(b"a b\xff"), "a%20b%FF");
    }

    #[test]
    fn patterns() {
        let matches = |pattern: &str, key: &str| {
            let pattern: Pattern = pattern.parse().unwrap();
            pattern.matches(key.as_bytes())
        };
        for (pattern, key) in [
            ("*", ""),
            ("*", "abc"),
            ("a*", "a"),
            ("user:*:name", "user:42:name"),
            ("*b*b", "abbab"),
            ("a?c", "abc"),
            ("abc", "abc"),
            ("a**", "abc"),
        ] {
            assert!(matches(pattern, key), "{pattern} {key}");
        }
        for (pattern, key) in [
            ("", "a"),
            ("a", ""),
            ("a?", "a"),
            ("user:*:name", "user:42:names"),
            ("*b", "abc"),
            ("abc", "abcd"),
        ] {
            assert!(!matches(pattern, key), "{pattern} {key}");
        }
    }
}

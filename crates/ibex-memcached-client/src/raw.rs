//! Meta commands as they are, for what the other operations do not say: any flag of `mg`, `ms`, `md` and `ma`, and every flag of the answer.

use crate::conn::Flow;
use crate::key::Key;
use crate::server::{Dialect, Effect, TooOld};
use crate::{Client, Error, refused};
use bytes::{BufMut, Bytes, BytesMut};
use ibex_memcached_proto::reply::{Code, Reply, ReplyFlags};
use std::collections::BTreeMap;

/// Longest request line, in bytes, key not counted: beyond 2048 a server closes the connection.
const FLAGS_BYTES_MAX: usize = 1700;

/// A meta request without its key: a command and its flags in the order they are added, which is the order the server does them in.
///
/// ```
/// use ibex_memcached_client::MetaRequest;
/// // The value and its remaining seconds, and 30 more from now on.
/// let request = MetaRequest::get().flag(b'v').flag(b't').number(b'T', 30);
/// # drop(request);
/// ```
///
/// The flags are those of memcached's `doc/protocol.txt`. Not possible: `q`, because a request without an answer would leave its caller waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaRequest {
    verb: &'static [u8; 2],
    operation: &'static str,
    effect: Effect,
    flags: BytesMut,
    value: Option<Bytes>,
    wrong: Option<&'static str>,
}

/// The code of a meta answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaCode {
    /// `HD`: done, or a hit without value.
    Done,
    /// `VA`: a hit with value.
    Value,
    /// `EN`: a miss of `mg`.
    Miss,
    /// `NF`: no such item, for the others.
    NotFound,
    /// `NS`: not stored.
    NotStored,
    /// `EX`: the cas number differs.
    Exists,
}

/// A meta answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaReply {
    /// What happened.
    pub code: MetaCode,
    /// The value of [`MetaCode::Value`], empty otherwise. Never decompressed: that is what [`crate::Codec::decode`] is for.
    pub value: Bytes,
    /// The flags that came back with their tokens, empty for those without one. `W`, `Z` and `X` among them tell of leases and outdated values.
    pub flags: BTreeMap<u8, Bytes>,
}

impl MetaReply {
    /// Whether the flag came back.
    #[must_use]
    pub fn has(&self, letter: u8) -> bool {
        self.flags.contains_key(&letter)
    }

    /// The number behind a flag; `None` if it did not come back or is none (`t-1`: no expiry).
    #[must_use]
    pub fn number(&self, letter: u8) -> Option<u64> {
        let token = self.flags.get(&letter)?;
        std::str::from_utf8(token).ok()?.parse().ok()
    }
}

impl MetaRequest {
    fn new(verb: &'static [u8; 2], operation: &'static str, effect: Effect) -> Self {
        Self {
            verb,
            operation,
            effect,
            flags: BytesMut::new(),
            value: None,
            wrong: None,
        }
    }

    /// `mg`: read.
    #[must_use]
    pub fn get() -> Self {
        Self::new(b"mg", "mg", Effect::Reads)
    }

    /// `ms`: store `value`.
    #[must_use]
    pub fn set(value: impl Into<Bytes>) -> Self {
        Self {
            value: Some(value.into()),
            ..Self::new(b"ms", "ms", Effect::Writes)
        }
    }

    /// `md`: delete or make outdated.
    #[must_use]
    pub fn delete() -> Self {
        Self::new(b"md", "md", Effect::Writes)
    }

    /// `ma`: count.
    #[must_use]
    pub fn arithmetic() -> Self {
        Self::new(b"ma", "ma", Effect::Writes)
    }

    /// Adds a flag without a token.
    #[must_use]
    pub fn flag(self, letter: u8) -> Self {
        self.token(letter, b"")
    }

    /// Adds a flag with a number. Seconds, where it is a time.
    #[must_use]
    pub fn number(self, letter: u8, number: i64) -> Self {
        self.token(letter, number.to_string())
    }

    /// Adds a flag with any token.
    #[must_use]
    pub fn token(mut self, letter: u8, token: impl AsRef<[u8]>) -> Self {
        let token = token.as_ref();
        if !letter.is_ascii_alphabetic() {
            self.wrong = Some("a flag is a letter");
        } else if letter == b'q' {
            self.wrong = Some("a quiet request has no answer");
        } else if !token.iter().all(u8::is_ascii_graphic) {
            self.wrong = Some("a token has no blanks and no control bytes");
        } else if self.flags.len() + token.len() + 2 > FLAGS_BYTES_MAX {
            self.wrong = Some("too many flags");
        }
        // These make items, change their expiry or hand out leases.
        if b"NRTE".contains(&letter) {
            self.effect = Effect::Writes;
        }
        self.flags.put_u8(b' ');
        self.flags.put_u8(letter);
        self.flags.put_slice(token);
        self
    }

    fn write(&self, wire: &[u8], out: &mut BytesMut) {
        out.put_slice(self.verb);
        out.put_u8(b' ');
        out.put_slice(wire);
        if let Some(value) = &self.value {
            out.put_slice(format!(" {}", value.len()).as_bytes());
        }
        out.put_slice(&self.flags);
        out.put_slice(b"\r\n");
        if let Some(value) = &self.value {
            out.put_slice(value);
            out.put_slice(b"\r\n");
        }
    }
}

fn all(flags: &ReplyFlags<'_>) -> BTreeMap<u8, Bytes> {
    (b'A'..=b'z')
        .filter_map(|letter| Some((letter, Bytes::copy_from_slice(flags.token(letter)?))))
        .collect()
}

fn code_of(code: Code) -> Option<MetaCode> {
    match code {
        Code::Hd => Some(MetaCode::Done),
        Code::Va => Some(MetaCode::Value),
        Code::En => Some(MetaCode::Miss),
        Code::Nf => Some(MetaCode::NotFound),
        Code::Ns => Some(MetaCode::NotStored),
        Code::Ex => Some(MetaCode::Exists),
        Code::Mn => None,
    }
}

impl Client {
    /// Sends `request` for `key` to the key's server. Neither codec nor near cache take part, except that a request that may change the item drops its copy.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Unsupported`] from servers before 1.6, [`Error::Request`] for flags that cannot be sent.
    pub async fn meta<'k>(
        &self,
        key: impl Into<Key<'k>>,
        request: &MetaRequest,
    ) -> Result<MetaReply, Error> {
        if let Some(wrong) = request.wrong {
            return Err(Error::Request(wrong.to_owned()));
        }
        let key = key.into();
        let wire = self.wire_key(key)?;
        let _change = (request.effect == Effect::Writes).then(|| self.change(&wire));
        let write = |dialect, out: &mut BytesMut| match dialect {
            Dialect::Meta => {
                request.write(&wire, out);
                Ok(())
            }
            Dialect::Classic => Err(TooOld),
        };
        let mut found = None;
        let read = |reply: Reply<'_>| match reply {
            Reply::Meta { code, flags, data } if code != Code::Mn => {
                found = code_of(code).map(|code| MetaReply {
                    code,
                    value: Bytes::copy_from_slice(data),
                    flags: all(&flags),
                });
                Ok(Flow::Done)
            }
            other => refused(&other),
        };
        let server = self.route(key).await?.server;
        server
            .exchange(request.operation, request.effect, write, read)
            .await?;
        found.ok_or(Error::Refused {
            server: server.name().to_owned(),
            operation: request.operation,
            text: "no answer".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_written_in_the_order_of_its_flags() {
        let mut out = BytesMut::new();
        let request = MetaRequest::set("hi").number(b'T', 30).flag(b'c');
        request.token(b'O', "abc").write(b"k", &mut out);
        assert_eq!(out, "ms k 2 T30 c Oabc\r\nhi\r\n");
    }

    #[test]
    fn what_cannot_be_sent_is_noticed() {
        let get = MetaRequest::get;
        assert_eq!(get().flag(b'v').wrong, None);
        for wrong in [
            get().flag(b'q'),
            get().flag(b' '),
            get().token(b'O', "a b"),
            get().token(b'O', "a\r\nflush_all"),
            get().token(b'P', "x".repeat(FLAGS_BYTES_MAX - 1)),
        ] {
            assert!(wrong.wrong.is_some(), "{wrong:?}");
        }
        let longest = get().token(b'P', "x".repeat(FLAGS_BYTES_MAX - 2));
        assert_eq!(longest.wrong, None);
    }
}

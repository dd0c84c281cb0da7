//! Replies of the tracker: encoding for the tracker, parsing for clients.
//!
//! One reply is one line. `OK ` keeps its blank even without pairs, because a client of the original insists on it.

use crate::error_code::ErrorCode;
use crate::urlencode::{self, Pairs};
use bytes::{BufMut, BytesMut};

/// The answer to one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Done, with results.
    Ok(Pairs),
    /// Refused.
    Err {
        /// Code on the wire; [`ErrorCode`] names the known ones.
        code: String,
        /// For people.
        text: String,
    },
}

/// A line that is no reply. The connection that sent it cannot be trusted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("tracker sent something other than OK or ERR")]
pub struct ReplyError;

impl Reply {
    /// Done, without results.
    #[must_use]
    pub fn ok() -> Self {
        Self::Ok(Pairs::new())
    }

    /// Refused with the code's usual text.
    #[must_use]
    pub fn refused(code: ErrorCode) -> Self {
        Self::refused_with(code, code.text())
    }

    /// Refused with a computed text.
    #[must_use]
    pub fn refused_with(code: ErrorCode, text: impl Into<String>) -> Self {
        Self::Err {
            code: code.code().to_owned(),
            text: text.into(),
        }
    }

    /// Appends the line; `callid` is echoed in the place each kind of reply has for it.
    pub fn encode(&self, callid: Option<&[u8]>, out: &mut BytesMut) {
        match self {
            Self::Ok(pairs) => {
                out.put_slice(b"OK ");
                if let Some(callid) = callid {
                    out.put_slice(b"callid=");
                    urlencode::encode(callid, out);
                    if !pairs.is_empty() {
                        out.put_u8(b'&');
                    }
                }
                pairs.encode(out);
            }
            Self::Err { code, text } => {
                out.put_slice(b"ERR ");
                out.put_slice(code.as_bytes());
                out.put_u8(b' ');
                urlencode::encode(text.as_bytes(), out);
                if let Some(callid) = callid {
                    out.put_u8(b' ');
                    urlencode::encode(callid, out);
                }
            }
        }
        out.put_slice(b"\r\n");
    }

    /// Reads a reply line (without its end) and the call id it echoes.
    ///
    /// # Errors
    /// [`ReplyError`] when the line is neither `OK` nor `ERR`.
    pub fn parse(line: &[u8]) -> Result<(Self, Option<Vec<u8>>), ReplyError> {
        if let Some(args) = line
            .strip_prefix(b"OK")
            .filter(|rest| rest.is_empty() || rest.starts_with(b" "))
        {
            let pairs = Pairs::decode(args.trim_ascii());
            let callid = pairs.value("callid").map(<[u8]>::to_vec);
            return Ok((Self::Ok(pairs), callid));
        }
        let rest = line.strip_prefix(b"ERR ").ok_or(ReplyError)?;
        let mut words = rest
            .split(|&byte| byte == b' ')
            .filter(|word| !word.is_empty());
        let text = |word: Option<&[u8]>| {
            word.map(|word| String::from_utf8_lossy(&urlencode::decode(word)).into_owned())
                .unwrap_or_default()
        };
        let code = text(words.next());
        let message = text(words.next());
        Ok((
            Self::Err {
                code,
                text: message,
            },
            words.next().map(urlencode::decode),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wire(reply: &Reply, callid: Option<&[u8]>) -> String {
        let mut out = BytesMut::new();
        reply.encode(callid, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn recorded_lines() {
        assert_eq!(wire(&Reply::ok(), None), "OK \r\n");
        assert_eq!(wire(&Reply::ok(), Some(b"7")), "OK callid=7\r\n");
        assert_eq!(
            wire(&Reply::refused(ErrorCode::UnknownCommand), Some(b"7")),
            "ERR unknown_command Unknown+server+command 7\r\n"
        );
        assert_eq!(
            wire(&Reply::refused(ErrorCode::NoDomain), None),
            "ERR no_domain No+domain+provided\r\n"
        );
        assert_eq!(
            wire(&Reply::Ok(Pairs::new().with("domain", "a&b")), Some(b"x")),
            "OK callid=x&domain=a%26b\r\n"
        );
    }

    #[test]
    fn parses_both_kinds() {
        let (reply, callid) = Reply::parse(b"ERR db Database+error 9").expect("reply");
        assert_eq!(reply, Reply::refused(ErrorCode::Db));
        assert_eq!(callid.as_deref(), Some(&b"9"[..]));
        assert_eq!(Reply::parse(b"OK ").expect("reply"), (Reply::ok(), None));
        assert_eq!(Reply::parse(b"OKAY"), Err(ReplyError));
        assert_eq!(Reply::parse(b""), Err(ReplyError));
    }

    proptest! {
        #[test]
        fn errors_round_trip(text in "[ -~]{1,60}", callid in "[a-z0-9&= ]{1,9}") {
            let reply = Reply::refused_with(ErrorCode::CopyErr, text);
            let line = wire(&reply, Some(callid.as_bytes()));
            let (parsed, echoed) = Reply::parse(line.trim_end_matches("\r\n").as_bytes()).expect("reply");
            prop_assert_eq!(parsed, reply);
            prop_assert_eq!(echoed, Some(callid.into_bytes()));
        }

        #[test]
        fn never_panics(line: Vec<u8>) {
            let _reply = Reply::parse(&line);
        }
    }
}

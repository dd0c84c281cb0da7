//! What counts as a login: SASL PLAIN in packets, a `set` in text. The connection keeps who is in.

use crate::auth::Users;
use crate::exec::Cx;
use ibex_memcached_proto::binary::{Body, Header, Opcode, Response, Status, Verb};
use ibex_memcached_proto::line::Words;
use ibex_memcached_proto::texts;

/// Longest text login in bytes, the original's.
const TEXT_LOGIN_BYTES_MAX: u64 = 16_384;
/// A line shorter than this before the login is no client of ours; blank lines are borne.
const LINE_BYTES_MIN: usize = 4;
/// Longest name of a mechanism, the original's.
const MECHANISM_BYTES_MAX: usize = 32;
/// The only mechanism.
const MECHANISM: &[u8] = b"PLAIN";

/// Opcodes that may come before the login.
pub(crate) fn is_allowed(verb: Verb) -> bool {
    is_login(verb) || verb == Verb::Version
}

/// Opcodes that are the login.
pub(crate) fn is_login(verb: Verb) -> bool {
    matches!(verb, Verb::SaslMechanisms | Verb::SaslAuth | Verb::SaslStep)
}

/// Answers a SASL packet; whether the client is in now.
pub(crate) fn sasl(
    cx: &Cx<'_>,
    users: &Users,
    header: &Header,
    opcode: Opcode,
    body: &Body<'_>,
    was_in: bool,
    out: &mut Vec<u8>,
) -> bool {
    let mut answer = |status: Status, value: &[u8]| {
        let response = Response {
            opcode: header.opcode,
            status,
            opaque: header.opaque,
            cas: 0,
            extras: &[],
            key: &[],
            value_bytes: value.len(),
        };
        response.write(out);
        out.extend_from_slice(value);
    };
    if opcode.verb == Verb::SaslMechanisms {
        answer(Status::Ok, MECHANISM);
        return was_in;
    }
    if body.key.len() > MECHANISM_BYTES_MAX {
        let status = Status::InvalidArguments;
        answer(status, status.message());
        return was_in;
    }
    cx.counters.auth_cmds.add(1);
    // The mechanism there is has one step: nothing is left for a second.
    let is_in = opcode.verb == Verb::SaslAuth
        && body.key == MECHANISM
        && plain(body.value).is_some_and(|(user, password)| users.admits(user, password));
    if is_in {
        answer(Status::Ok, b"Authenticated");
    } else {
        cx.counters.auth_errors.add(1);
        answer(Status::AuthFailure, Status::AuthFailure.message());
    }
    is_in
}

/// User and password of `authzid NUL user NUL password`.
fn plain(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = value.splitn(3, |byte| *byte == 0).skip(1);
    Some((parts.next()?, parts.next()?))
}

/// What a text line before the login is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// A login with a block of this length.
    Block(usize),
    /// Anything else.
    Refused,
    /// A login that is too long.
    TooLong,
    /// Nothing a client would send.
    Close,
}

/// Reads a line before the login.
pub(crate) fn block_bytes(line: &[u8]) -> Line {
    if !line.is_empty() && line.len() < LINE_BYTES_MIN {
        return Line::Close;
    }
    let words: Vec<&[u8]> = Words::new(line).collect();
    let [b"set", _, _, _, bytes, ..] = words.as_slice() else {
        return Line::Refused;
    };
    match ibex_base::ascii::parse_u64(bytes) {
        None => Line::Refused,
        Some(bytes) if bytes > TEXT_LOGIN_BYTES_MAX => Line::TooLong,
        Some(bytes) => usize::try_from(bytes).map_or(Line::TooLong, Line::Block),
    }
}

/// The reply to a text login.
pub(crate) fn text(users: &Users, login: &[u8]) -> &'static [u8] {
    let Some(at) = login.iter().position(|byte| *byte == b' ') else {
        return texts::AUTH_FORMAT;
    };
    if users.admits(&login[..at], &login[at + 1..]) {
        texts::STORED
    } else {
        texts::AUTH_FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_lines() {
        assert_eq!(block_bytes(b"set a 0 0 7"), Line::Block(7));
        assert_eq!(block_bytes(b"set a 0 0 16384"), Line::Block(16_384));
        assert_eq!(block_bytes(b"set a 0 0 16385"), Line::TooLong);
        assert_eq!(block_bytes(b"get foo"), Line::Refused);
        assert_eq!(block_bytes(b"set a 0 0 x"), Line::Refused);
        assert_eq!(block_bytes(b""), Line::Refused);
        assert_eq!(block_bytes(b"mn"), Line::Close);
    }

    #[test]
    fn plain_messages() {
        assert_eq!(plain(b"\0user\0pass"), Some((&b"user"[..], &b"pass"[..])));
        assert_eq!(
            plain(b"admin\0user\0pa\0ss"),
            Some((&b"user"[..], &b"pa\0ss"[..]))
        );
        assert_eq!(plain(b"\0user"), None);
        assert_eq!(plain(b""), None);
    }
}

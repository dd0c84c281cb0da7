//! The binary protocol: headers, opcodes and status numbers. See `doc/protocol-binary.txt`.
//!
//! [`Header::parse`] reads the 24 bytes before every request; [`Header::check`] says whether lengths suit the opcode; [`Body`] cuts extras, key and value;
//! [`Response`] writes answers. What a command does is the server's business.

use crate::KEY_BYTES_MAX;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 24;
/// First byte of a request.
pub const REQUEST_MAGIC: u8 = 0x80;
/// First byte of a response.
pub const RESPONSE_MAGIC: u8 = 0x81;
/// Longest body of a request in bytes; policy: status "invalid arguments", then close.
pub const BODY_BYTES_MAX: usize = 1 << 30;

/// What a request asks for; its quiet form is the same verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// 00, 09
    Get,
    /// 0c, 0d: the answer carries the key.
    GetKey,
    /// 01, 11
    Set,
    /// 02, 12
    Add,
    /// 03, 13
    Replace,
    /// 04, 14
    Delete,
    /// 05, 15
    Increment,
    /// 06, 16
    Decrement,
    /// 07, 17
    Quit,
    /// 08, 18
    Flush,
    /// 0a
    Noop,
    /// 0b
    Version,
    /// 0e, 19
    Append,
    /// 0f, 1a
    Prepend,
    /// 10
    Stat,
    /// 1c
    Touch,
    /// 1d, 1e
    GetAndTouch,
    /// 23, 24: the answer carries the key.
    GetAndTouchKey,
    /// 20
    SaslMechanisms,
    /// 21
    SaslAuth,
    /// 22
    SaslStep,
}

/// A verb and whether uninteresting answers are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opcode {
    /// What is asked for.
    pub verb: Verb,
    /// The quiet form.
    pub quiet: bool,
}

impl Opcode {
    /// The opcode's meaning; `None` if it has none.
    pub fn parse(byte: u8) -> Option<Self> {
        let (verb, quiet) = match byte {
            0x00 => (Verb::Get, false),
            0x01 => (Verb::Set, false),
            0x02 => (Verb::Add, false),
            0x03 => (Verb::Replace, false),
            0x04 => (Verb::Delete, false),
            0x05 => (Verb::Increment, false),
            0x06 => (Verb::Decrement, false),
            0x07 => (Verb::Quit, false),
            0x08 => (Verb::Flush, false),
            0x09 => (Verb::Get, true),
            0x0a => (Verb::Noop, false),
            0x0b => (Verb::Version, false),
            0x0c => (Verb::GetKey, false),
            0x0d => (Verb::GetKey, true),
            0x0e => (Verb::Append, false),
            0x0f => (Verb::Prepend, false),
            0x10 => (Verb::Stat, false),
            0x11 => (Verb::Set, true),
            0x12 => (Verb::Add, true),
            0x13 => (Verb::Replace, true),
            0x14 => (Verb::Delete, true),
            0x15 => (Verb::Increment, true),
            0x16 => (Verb::Decrement, true),
            0x17 => (Verb::Quit, true),
            0x18 => (Verb::Flush, true),
            0x19 => (Verb::Append, true),
            0x1a => (Verb::Prepend, true),
            0x1c => (Verb::Touch, false),
            0x1d => (Verb::GetAndTouch, false),
            0x1e => (Verb::GetAndTouch, true),
            0x20 => (Verb::SaslMechanisms, false),
            0x21 => (Verb::SaslAuth, false),
            0x22 => (Verb::SaslStep, false),
            0x23 => (Verb::GetAndTouchKey, false),
            0x24 => (Verb::GetAndTouchKey, true),
            _ => return None,
        };
        Some(Self { verb, quiet })
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Success.
    Ok,
    /// No item.
    NotFound,
    /// There is an item, or its cas number differs.
    Exists,
    /// Over the item size limit.
    TooLarge,
    /// Lengths that do not suit the opcode.
    InvalidArguments,
    /// append or prepend without item.
    NotStored,
    /// Arithmetic on a value that is no number.
    NonNumeric,
    /// Login refused or missing.
    AuthFailure,
    /// The login goes on.
    AuthContinue,
    /// Unknown opcode.
    UnknownCommand,
    /// No room.
    OutOfMemory,
}

impl Status {
    /// Its number on the wire.
    pub fn code(self) -> u16 {
        match self {
            Self::Ok => 0,
            Self::NotFound => 1,
            Self::Exists => 2,
            Self::TooLarge => 3,
            Self::InvalidArguments => 4,
            Self::NotStored => 5,
            Self::NonNumeric => 6,
            Self::AuthFailure => 0x20,
            Self::AuthContinue => 0x21,
            Self::UnknownCommand => 0x81,
            Self::OutOfMemory => 0x82,
        }
    }

    /// The text an error carries as value.
    pub fn message(self) -> &'static [u8] {
        match self {
            Self::Ok | Self::AuthContinue => b"",
            Self::NotFound => b"Not found",
            Self::Exists => b"Data exists for key.",
            Self::TooLarge => b"Too large.",
            Self::InvalidArguments => b"Invalid arguments",
            Self::NotStored => b"Not stored.",
            Self::NonNumeric => b"Non-numeric server-side value for incr or decr",
            Self::AuthFailure => b"Auth failure.",
            Self::UnknownCommand => b"Unknown command",
            Self::OutOfMemory => b"Out of memory",
        }
    }
}

/// The 24 bytes before a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The opcode byte.
    pub opcode: u8,
    /// Length of the key.
    pub key_bytes: u16,
    /// Length of the extras.
    pub extras_bytes: u8,
    /// Length of extras, key and value.
    pub body_bytes: u32,
    /// Echoed in the answer.
    pub opaque: u32,
    /// Compare with this cas number unless it is 0.
    pub cas: u64,
}

/// The stream is not the binary protocol (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("wrong magic")]
pub struct WrongMagic;

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    /// The status to answer.
    pub status: Status,
    /// Whether the connection is closed behind the answer; else the body is skipped.
    pub closes: bool,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

impl Header {
    /// Reads a request's header off `buf`; `None` if it is not whole.
    ///
    /// # Errors
    /// [`WrongMagic`] if the first byte is not that of a request.
    pub fn parse(buf: &[u8]) -> Result<Option<Self>, WrongMagic> {
        if buf.first().is_some_and(|magic| *magic != REQUEST_MAGIC) {
            return Err(WrongMagic);
        }
        let read = || {
            Some(Self {
                opcode: *buf.get(1)?,
                key_bytes: u16::from_be_bytes(array(buf, 2)?),
                extras_bytes: *buf.get(4)?,
                body_bytes: u32::from_be_bytes(array(buf, 8)?),
                opaque: u32::from_be_bytes(array(buf, 12)?),
                cas: u64::from_be_bytes(array(buf, 16)?),
            })
        };
        Ok(read())
    }

    /// Appends the header as a client sends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[REQUEST_MAGIC, self.opcode]);
        out.extend_from_slice(&self.key_bytes.to_be_bytes());
        out.extend_from_slice(&[self.extras_bytes, 0, 0, 0]);
        out.extend_from_slice(&self.body_bytes.to_be_bytes());
        out.extend_from_slice(&self.opaque.to_be_bytes());
        out.extend_from_slice(&self.cas.to_be_bytes());
    }

    /// Length of the value, if the lengths add up.
    pub fn value_bytes(&self) -> Option<usize> {
        let before = u32::from(self.key_bytes) + u32::from(self.extras_bytes);
        self.body_bytes
            .checked_sub(before)
            .and_then(|bytes| usize::try_from(bytes).ok())
    }

    /// Whether the lengths suit the opcode.
    ///
    /// # Errors
    /// What to answer if they do not.
    pub fn check(&self) -> Result<Opcode, Wrong> {
        let close = |status| Wrong {
            status,
            closes: true,
        };
        let value = self.value_bytes().ok_or(close(Status::UnknownCommand))?;
        if usize::from(self.key_bytes) > KEY_BYTES_MAX || self.body_bytes as usize > BODY_BYTES_MAX
        {
            return Err(close(Status::InvalidArguments));
        }
        let opcode = Opcode::parse(self.opcode).ok_or(Wrong {
            status: Status::UnknownCommand,
            closes: false,
        })?;
        let (has_key, extras) = (self.key_bytes > 0, self.extras_bytes);
        let fine = match opcode.verb {
            Verb::Get | Verb::GetKey => has_key && extras == 0 && value == 0,
            Verb::Delete => has_key && extras == 0 && value == 0,
            Verb::Set | Verb::Add | Verb::Replace => has_key && extras == 8,
            Verb::Append | Verb::Prepend => has_key && extras == 0,
            Verb::Increment | Verb::Decrement => has_key && extras == 20 && value == 0,
            Verb::Touch | Verb::GetAndTouch | Verb::GetAndTouchKey => {
                has_key && extras == 4 && value == 0
            }
            Verb::Flush => !has_key && matches!(extras, 0 | 4) && value == 0,
            Verb::Quit | Verb::Noop | Verb::Version | Verb::SaslMechanisms => {
                !has_key && extras == 0 && value == 0
            }
            Verb::Stat => extras == 0 && value == 0,
            Verb::SaslAuth | Verb::SaslStep => has_key && extras == 0,
        };
        if fine {
            Ok(opcode)
        } else {
            Err(close(Status::InvalidArguments))
        }
    }
}

/// A request's body in its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body<'a> {
    /// Numbers that belong to the opcode.
    pub extras: &'a [u8],
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

impl<'a> Body<'a> {
    /// Cuts `body` as `header` says; `None` if it is shorter than that.
    pub fn cut(header: &Header, body: &'a [u8]) -> Option<Self> {
        let (extras, rest) = body.split_at_checked(usize::from(header.extras_bytes))?;
        let (key, value) = rest.split_at_checked(usize::from(header.key_bytes))?;
        Some(Self { extras, key, value })
    }

    /// The extras' 32-bit number at byte `at`, 0 if they are shorter.
    pub fn number(&self, at: usize) -> u32 {
        array(self.extras, at).map_or(0, u32::from_be_bytes)
    }

    /// The extras' 64-bit number at byte `at`, 0 if they are shorter.
    pub fn wide_number(&self, at: usize) -> u64 {
        array(self.extras, at).map_or(0, u64::from_be_bytes)
    }
}

/// An answer's fixed part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// The request's opcode byte.
    pub opcode: u8,
    /// How it ended.
    pub status: Status,
    /// The request's opaque.
    pub opaque: u32,
    /// The item's cas number.
    pub cas: u64,
    /// Numbers that belong to the opcode.
    pub extras: &'a [u8],
    /// The key, where the opcode answers with it.
    pub key: &'a [u8],
    /// Length of the value the caller appends.
    pub value_bytes: usize,
}

impl Response<'_> {
    /// Appends header, extras and key; the value is for the caller to append.
    pub fn write(&self, out: &mut Vec<u8>) {
        let key_bytes = u16::try_from(self.key.len()).unwrap_or(u16::MAX);
        let extras_bytes = u8::try_from(self.extras.len()).unwrap_or(u8::MAX);
        let body = self.extras.len() + self.key.len() + self.value_bytes;
        out.extend_from_slice(&[RESPONSE_MAGIC, self.opcode]);
        out.extend_from_slice(&key_bytes.to_be_bytes());
        out.extend_from_slice(&[extras_bytes, 0]);
        out.extend_from_slice(&self.status.code().to_be_bytes());
        out.extend_from_slice(&u32::try_from(body).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(&self.opaque.to_be_bytes());
        out.extend_from_slice(&self.cas.to_be_bytes());
        out.extend_from_slice(self.extras);
        out.extend_from_slice(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(opcode: u8, key_bytes: u16, extras_bytes: u8, body_bytes: u32) -> Header {
        Header {
            opcode,
            key_bytes,
            extras_bytes,
            body_bytes,
            opaque: 7,
            cas: 9,
        }
    }

    #[test]
    fn lengths_must_suit_the_opcode() {
        for (case, expected) in [
            (header(0x00, 3, 0, 3), None),
            (
                header(0x00, 0, 0, 0),
                Some((Status::InvalidArguments, true)),
            ),
            (
                header(0x00, 251, 0, 251),
                Some((Status::InvalidArguments, true)),
            ),
            (header(0x01, 3, 8, 20), None),
            (
                header(0x01, 3, 4, 20),
                Some((Status::InvalidArguments, true)),
            ),
            (
                header(0x01, 30, 8, 20),
                Some((Status::UnknownCommand, true)),
            ),
            (header(0x70, 0, 0, 5), Some((Status::UnknownCommand, false))),
            (header(0x08, 0, 4, 4), None),
            (
                header(0x0a, 0, 0, 1),
                Some((Status::InvalidArguments, true)),
            ),
        ] {
            let wrong = case.check().err().map(|wrong| (wrong.status, wrong.closes));
            assert_eq!(wrong, expected, "{case:?}");
        }
    }

    #[test]
    fn text_is_the_wrong_magic() {
        assert_eq!(Header::parse(b"get k\r\n"), Err(WrongMagic));
        assert_eq!(Header::parse(b""), Ok(None));
    }

    proptest! {
        #[test]
        fn a_written_header_reads_back(opcode: u8, key_bytes: u16, extras_bytes: u8, body_bytes: u32, opaque: u32, cas: u64) {
            let header = Header { opcode, key_bytes, extras_bytes, body_bytes, opaque, cas };
            let mut out = Vec::new();
            header.write(&mut out);
            prop_assert_eq!(out.len(), HEADER_BYTES);
            prop_assert_eq!(Header::parse(&out), Ok(Some(header)));
            prop_assert_eq!(Header::parse(&out[..HEADER_BYTES - 1]), Ok(None));
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some(header)) = Header::parse(&bytes) {
                let is_fine = header.check().is_ok();
                let cut = Body::cut(&header, &bytes);
                prop_assert!(!is_fine || cut.is_none_or(|body| body.key.len() == usize::from(header.key_bytes)));
            }
        }
    }
}

//! Where a message body ends.
//!
//! Owns the decision of RFC 9112 section 6 for requests and responses, and the reader that takes a body off a buffer.
//! Apart from `head`, because the rules here are the ones that stop request smuggling.
//! It does not buffer, time out or limit totals: that is the daemon's policy.

use bytes::{Bytes, BytesMut};
use ibex_base::ascii;

use crate::chunk::{self, ChunkDecoder};
use crate::head::{BROKEN_RESPONSE, Fields, Refusal, Request, Response, Version};

/// How the length of a request's body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestBody {
    /// No body.
    None,
    /// Exactly so many bytes; not zero.
    Length(u64),
    /// Chunked coding.
    Chunked,
}

/// How the length of a response's body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseBody {
    /// No body: HEAD, 1xx, 204, 304.
    None,
    /// Exactly so many bytes.
    Length(u64),
    /// Chunked coding.
    Chunked,
    /// Everything until the backend closes.
    UntilClose,
}

/// Text the clients of the original match on when a length is negative.
pub const NEGATIVE_LENGTH: &str = "Invalid request: Content-Length < 0";

/// Framing of a request.
///
/// # Errors
/// 400 or 501 as the balancer's rules say; the connection is closed after the answer.
pub fn request_body(request: &Request) -> Result<RequestBody, Refusal> {
    let length = content_length(&request.fields)?;
    match (transfer_encoding(&request.fields)?, length) {
        (true, Some(_)) => Err(Refusal::new(400, "Transfer-Encoding and Content-Length")),
        (true, None) => Ok(RequestBody::Chunked),
        (false, Some(0) | None) => Ok(RequestBody::None),
        (false, Some(n)) => Ok(RequestBody::Length(n)),
    }
}

/// Framing of a response to a request, and whether the backend connection may live on afterwards.
///
/// # Errors
/// 502 when lengths contradict each other or a coding is not understood.
pub fn response_body(response: &Response, to_head: bool) -> Result<(ResponseBody, bool), Refusal> {
    let length = content_length(&response.fields).map_err(|_| BROKEN_RESPONSE)?;
    let chunked = transfer_encoding(&response.fields).map_err(|_| BROKEN_RESPONSE)?;
    let keeps = keeps_alive(response);
    if to_head || response.status < 200 || matches!(response.status, 204 | 304) {
        return Ok((ResponseBody::None, keeps));
    }
    Ok(match (chunked, length) {
        // RFC 9112 6.3: the coding wins, and the peer is not to be trusted with another message.
        (true, Some(_)) => (ResponseBody::Chunked, false),
        (true, None) => (ResponseBody::Chunked, keeps),
        (false, Some(n)) => (ResponseBody::Length(n), keeps),
        (false, None) => (ResponseBody::UntilClose, false),
    })
}

/// True when the sender of the response lets us keep the connection.
#[must_use]
pub fn keeps_alive(response: &Response) -> bool {
    let closes = response.fields.has_token("Connection", "close");
    match response.version {
        Version::V11 => !closes,
        Version::V10 => !closes && response.fields.has_token("Connection", "keep-alive"),
    }
}

/// The one length all Content-Length fields agree on.
fn content_length(fields: &Fields) -> Result<Option<u64>, Refusal> {
    let mut agreed = None;
    for value in fields.all("Content-Length") {
        for element in value.split(|b| *b == b',') {
            let element = crate::head::trim_blanks(element);
            if element.first() == Some(&b'-') && ascii::parse_u64(&element[1..]).is_some() {
                return Err(Refusal::new(400, NEGATIVE_LENGTH));
            }
            let n = ascii::parse_u64(element).filter(|n| i64::try_from(*n).is_ok());
            let n = n.ok_or(Refusal::new(400, "Invalid Content-Length"))?;
            if agreed.is_some_and(|before| before != n) {
                return Err(Refusal::new(400, "Contradicting Content-Length"));
            }
            agreed = Some(n);
        }
    }
    Ok(agreed)
}

fn transfer_encoding(fields: &Fields) -> Result<bool, Refusal> {
    let mut values = fields.all("Transfer-Encoding");
    let Some(value) = values.next() else {
        return Ok(false);
    };
    if values.next().is_some() {
        return Err(Refusal::new(400, "More than one Transfer-Encoding"));
    }
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(true);
    }
    if crate::head::is_token(value) && !value.to_ascii_lowercase().starts_with(b"chunked") {
        return Err(Refusal::new(501, "Transfer-Encoding not implemented"));
    }
    let codings: Vec<&[u8]> = crate::head::list(value).collect();
    let all_tokens = !codings.is_empty() && codings.iter().all(|c| crate::head::is_token(c));
    let chunked = codings
        .iter()
        .filter(|c| c.eq_ignore_ascii_case(b"chunked"))
        .count();
    // `gzip, chunked` is well formed and simply not implemented; `chunked, chunked` or `xchunked;` is neither.
    let plain = all_tokens
        && (chunked == 0
            || (chunked == 1
                && codings
                    .last()
                    .is_some_and(|c| c.eq_ignore_ascii_case(b"chunked"))));
    if plain && codings.len() > 1 {
        Err(Refusal::new(501, "Transfer-Encoding not implemented"))
    } else {
        Err(Refusal::new(400, "Invalid Transfer-Encoding"))
    }
}

/// One step of reading a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// More bytes are needed.
    Need,
    /// Some body bytes, never empty.
    Data(Bytes),
    /// The body is complete; the buffer begins behind it.
    End,
}

/// Takes one body off a connection's buffer.
#[derive(Debug)]
pub enum BodyReader {
    /// So many bytes are missing.
    Length(u64),
    /// Chunked coding.
    Chunked(Box<ChunkDecoder>),
    /// Until the peer closes; the caller knows when that is.
    UntilClose,
}

impl BodyReader {
    /// Reader of a request body. Clients may end chunk lines by a bare LF, as they may header lines.
    #[must_use]
    pub fn for_request(body: RequestBody, trailer_bytes_max: usize) -> Self {
        match body {
            RequestBody::None => Self::Length(0),
            RequestBody::Length(n) => Self::Length(n),
            RequestBody::Chunked => Self::Chunked(Box::new(ChunkDecoder::new(
                chunk::LineEnds::Any,
                trailer_bytes_max,
            ))),
        }
    }

    /// Reader of a response body.
    #[must_use]
    pub fn for_response(body: ResponseBody, trailer_bytes_max: usize) -> Self {
        match body {
            ResponseBody::None => Self::Length(0),
            ResponseBody::Length(n) => Self::Length(n),
            ResponseBody::Chunked => Self::Chunked(Box::new(ChunkDecoder::new(
                chunk::LineEnds::CrLf,
                trailer_bytes_max,
            ))),
            ResponseBody::UntilClose => Self::UntilClose,
        }
    }

    /// The next piece of the body that is in the buffer.
    ///
    /// # Errors
    /// A 400 refusal when the chunked coding is broken.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Step, Refusal> {
        match self {
            Self::Length(0) => Ok(Step::End),
            Self::Length(left) => {
                let take = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                if take == 0 {
                    return Ok(Step::Need);
                }
                *left -= take as u64;
                Ok(Step::Data(buffer.split_to(take).freeze()))
            }
            Self::Chunked(decoder) => decoder.next(buffer),
            Self::UntilClose if buffer.is_empty() => Ok(Step::Need),
            Self::UntilClose => Ok(Step::Data(buffer.split().freeze())),
        }
    }

    /// True when the end of the connection is the end of the body.
    #[must_use]
    pub fn ends_by_close(&self) -> bool {
        matches!(self, Self::UntilClose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::{Limits, RequestParser, ResponseParser};

    fn framed(fields: &str) -> Result<RequestBody, Refusal> {
        let mut buffer =
            BytesMut::from(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes());
        request_body(
            &RequestParser::default()
                .parse(&mut buffer, &Limits::default())?
                .expect("complete"),
        )
    }

    #[test]
    fn request_lengths() {
        assert_eq!(framed(""), Ok(RequestBody::None));
        assert_eq!(framed("Content-Length: 0\r\n"), Ok(RequestBody::None));
        assert_eq!(
            framed("Content-Length: 12\r\n"),
            Ok(RequestBody::Length(12))
        );
        assert_eq!(
            framed("Content-Length: 12, 12\r\n"),
            Ok(RequestBody::Length(12))
        );
        assert_eq!(
            framed("Content-Length: 12\r\ncontent-length: 12\r\n"),
            Ok(RequestBody::Length(12))
        );
        assert_eq!(
            framed("Content-Length: 9223372036854775807\r\n"),
            Ok(RequestBody::Length(9_223_372_036_854_775_807))
        );
        assert_eq!(
            framed("Transfer-Encoding: Chunked\r\n"),
            Ok(RequestBody::Chunked)
        );
    }

    #[test]
    fn refused_lengths() {
        for value in [
            "abc",
            "+1",
            "0x10",
            "1_0",
            "1 0",
            "",
            "9223372036854775808",
            "99999999999999999999999",
            "1, 2",
            "1,",
        ] {
            assert_eq!(
                framed(&format!("Content-Length: {value}\r\n"))
                    .unwrap_err()
                    .status,
                400,
                "{value:?}"
            );
        }
        assert_eq!(
            framed("Content-Length: 1\r\nContent-Length: 2\r\n")
                .unwrap_err()
                .status,
            400
        );
        assert!(
            framed("Content-Length: -1\r\n")
                .unwrap_err()
                .text
                .contains("Content-Length < 0")
        );
        assert_eq!(
            framed("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n")
                .unwrap_err()
                .status,
            400
        );
    }

    #[test]
    fn refused_codings() {
        for (value, status) in [
            ("gzip", 501),
            ("gzip, chunked", 501),
            ("identity", 501),
            ("chunked, chunked", 400),
            ("chunked, gzip", 400),
            ("xchunked;", 400),
            ("", 400),
            ("chunkedx", 400),
            ("chunked;a=b", 400),
            ("\"chunked\"", 400),
        ] {
            assert_eq!(
                framed(&format!("Transfer-Encoding: {value}\r\n"))
                    .unwrap_err()
                    .status,
                status,
                "{value:?}"
            );
        }
        assert_eq!(
            framed("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")
                .unwrap_err()
                .status,
            400
        );
    }

    #[test]
    fn responses() {
        let framed = |head: &str, to_head| {
            let mut buffer = BytesMut::from(format!("{head}\r\n").as_bytes());
            response_body(
                &ResponseParser::default()
                    .parse(&mut buffer, &Limits::default())
                    .unwrap()
                    .unwrap(),
                to_head,
            )
        };
        assert_eq!(
            framed("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", false),
            Ok((ResponseBody::Length(5), true))
        );
        assert_eq!(
            framed("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", true),
            Ok((ResponseBody::None, true))
        );
        assert_eq!(
            framed("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n", false),
            Ok((ResponseBody::Length(5), false))
        );
        assert_eq!(
            framed("HTTP/1.0 304 OK\r\nConnection: keep-alive\r\n", false),
            Ok((ResponseBody::None, true))
        );
        assert_eq!(
            framed("HTTP/1.1 200 OK\r\n", false),
            Ok((ResponseBody::UntilClose, false))
        );
        assert_eq!(
            framed(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                false
            ),
            Ok((ResponseBody::Chunked, false))
        );
        assert!(
            framed(
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
                false
            )
            .is_err()
        );
    }
}

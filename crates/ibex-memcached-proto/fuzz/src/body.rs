//! What one fuzz input must satisfy; shared with the replaying test, so that it compiles on stable and every crash stays a regression test.

use ibex_memcached_proto::binary::{Body, HEADER_BYTES, Header};
use ibex_memcached_proto::line::{self, Step};
use ibex_memcached_proto::{reply, request, udp};

/// Reads `data` as everything it could be.
pub(crate) fn run(data: &[u8]) {
    lines(data);
    packets(data);
    replies(data);
    datagram(data);
}

/// Lines are found whatever part of them was looked at before, and a request borrows from its line only.
fn lines(data: &[u8]) {
    let mut rest = data;
    while let Step::Line { line, consumed } = line::split(rest, 0) {
        assert!(consumed > line.len() && consumed <= rest.len());
        for scanned in [line.len() / 2, line.len()] {
            assert_eq!(line::split(rest, scanned), Step::Line { line, consumed });
        }
        match request::parse(line) {
            Ok(request) => assert!(!format!("{request:?}").is_empty()),
            Err(refusal) => {
                assert!(refusal.close || refusal.text.ends_with(b"\r\n"));
                assert!(refusal.swallow.is_none_or(|bytes| bytes < 1 << 31));
            }
        }
        rest = &rest[consumed..];
    }
}

/// A header reads back as it is written, and the lengths that were checked cut the body.
fn packets(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some(header)) = Header::parse(rest) {
        let mut wire = Vec::new();
        header.write(&mut wire);
        assert_eq!(Header::parse(&wire), Ok(Some(header)));
        let Some(behind) = rest.get(HEADER_BYTES..) else {
            return;
        };
        let Some(bytes) = behind.get(..header.body_bytes as usize) else {
            return;
        };
        if header.check().is_ok() {
            let body = Body::cut(&header, bytes).expect("checked lengths cut the body");
            assert_eq!(body.key.len(), usize::from(header.key_bytes));
            assert_eq!(header.value_bytes(), Some(body.value.len()));
        }
        rest = &behind[bytes.len()..];
    }
}

/// A reply is the same with anything behind it, and no part of it is one.
fn replies(data: &[u8]) {
    let mut rest = data;
    while let Ok(reply::Step::Frame { reply, consumed }) = reply::parse(rest) {
        assert!(consumed > 0 && consumed <= rest.len());
        let alone = reply::Step::Frame { reply, consumed };
        assert_eq!(reply::parse(&rest[..consumed]), Ok(alone));
        let cut = reply::parse(&rest[..consumed - 1]);
        assert!(matches!(cut, Ok(reply::Step::Need(1..))), "{cut:?}");
        rest = &rest[consumed..];
    }
}

/// What was cut into datagrams comes together again.
fn datagram(data: &[u8]) {
    if let Ok(request) = udp::parse(data) {
        assert_eq!(request.payload.len() + udp::HEADER_BYTES, data.len());
        let parts =
            udp::datagrams(request.id, request.payload).expect("short enough to be numbered");
        let joined: Vec<u8> = parts.flat_map(|(_, part)| part.iter().copied()).collect();
        assert_eq!(joined, request.payload);
    }
}

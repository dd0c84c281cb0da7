//! What one fuzz input must satisfy; shared with the replaying test, so that it compiles on stable and every crash stays a regression test.

use ibex_gearman_proto::{Decoder, Incoming, Step, decode_response};

/// Parses `data` as a server and as a client; messages must re-encode to something that parses the same.
pub(crate) fn run(data: &[u8]) {
    server(data);
    client(data);
}

fn server(data: &[u8]) {
    let decoder = Decoder::new(1 << 20);
    let mut rest = data;
    while let Ok(Step::Frame { message, consumed }) = decoder.parse(rest) {
        assert!(consumed > 0 && consumed <= rest.len());
        if let Incoming::Request(request) = &message {
            let mut wire = Vec::new();
            request.encode(&mut wire);
            let Ok(Step::Frame {
                message: again,
                consumed: all,
            }) = decoder.parse(&wire)
            else {
                panic!("own bytes do not parse")
            };
            assert_eq!(all, wire.len());
            assert_eq!(again, message);
        }
        rest = &rest[consumed..];
    }
    if let Ok(Step::Need(bytes)) = decoder.parse(rest) {
        assert!(bytes > rest.len());
    }
}

fn client(data: &[u8]) {
    let mut rest = data;
    while let Ok(Step::Frame { message, consumed }) = decode_response(rest, 1 << 20) {
        assert!(consumed > 0 && consumed <= rest.len());
        let mut wire = Vec::new();
        message.encode(&mut wire);
        let Ok(Step::Frame {
            message: again,
            consumed: all,
        }) = decode_response(&wire, 1 << 20)
        else {
            panic!("own bytes do not parse")
        };
        assert_eq!(all, wire.len());
        assert_eq!(again, message);
        rest = &rest[consumed..];
    }
    if let Ok(Step::Need(bytes)) = decode_response(rest, 1 << 20) {
        assert!(bytes > rest.len());
    }
}

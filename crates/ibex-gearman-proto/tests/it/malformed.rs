//! The table of malformed input, row by row (`docs/gearman/failure-modes.md`, "Hostile input, row by row").

use ibex_gearman_proto::{
    AdminCommand, Decoder, Incoming, ParseError, Refusal, Request, Step, kind, limits,
};

fn packet(magic: &[u8; 4], kind: u32, payload: &[u8]) -> Vec<u8> {
    let mut wire = magic.to_vec();
    wire.extend_from_slice(&kind.to_be_bytes());
    wire.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    wire.extend_from_slice(payload);
    wire
}

#[track_caller]
fn check(wire: &[u8], expected: Incoming<'_>) {
    let consumed = wire.len();
    assert_eq!(
        Decoder::default().parse(wire),
        Ok(Step::Frame {
            message: expected,
            consumed
        })
    );
}

#[track_caller]
fn check_fatal(wire: &[u8], expected: ParseError, farewell_has: &[u8]) {
    assert_eq!(Decoder::default().parse(wire), Err(expected));
    let mut farewell = Vec::new();
    expected.encode_farewell(&mut farewell);
    assert!(
        farewell
            .windows(farewell_has.len().max(1))
            .any(|w| w == farewell_has)
            || farewell_has.is_empty() && farewell.is_empty()
    );
}

#[test]
fn first_byte_decides() {
    check(b"version\n", Incoming::Admin(AdminCommand::Version));
    check(b"version\r\n", Incoming::Admin(AdminCommand::Version));
    check(b"\n", Incoming::Admin(AdminCommand::Unknown(b"")));
    check_fatal(b"\0REX", ParseError::BadMagic, b"");
    check_fatal(b"\0\0", ParseError::BadMagic, b"");
    check_fatal(b"\0x", ParseError::BadMagic, b"");
}

#[test]
fn server_magic_is_refused_once_it_is_whole() {
    let wire = packet(b"\0RES", kind::ECHO_REQ, b"x");
    check(&wire, Incoming::Refused(Refusal::ServerMagic));
    assert_eq!(Decoder::default().parse(&wire[..12]), Ok(Step::Need(13)));
}

#[test]
fn types_that_do_not_exist() {
    for kind in [0, 43, 44, 1000, 1004, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        check(
            &packet(b"\0REQ", kind, b"payload"),
            Incoming::Refused(Refusal::UnknownType),
        );
    }
}

#[test]
fn types_that_are_not_for_servers() {
    for kind in [5, 6, 8, 10, 11, 17, 19, 20, 27, 31, 40, 42] {
        check(
            &packet(b"\0REQ", kind, b"payload"),
            Incoming::Refused(Refusal::NotExpected),
        );
    }
}

#[test]
fn missing_separators_end_the_connection() {
    for (kind, payload) in [
        (kind::SUBMIT_JOB, &b"f\0u"[..]),
        (kind::SUBMIT_JOB, b""),
        (kind::SUBMIT_JOB_EPOCH, b"f\0u\x001"),
        (kind::SUBMIT_JOB_SCHED, b"f\0u\0*\0*\0*\0*\0*"),
        (kind::SUBMIT_REDUCE_JOB, b"f\0u\0r\0x"),
        (kind::CAN_DO_TIMEOUT, b"f"),
        (kind::WORK_STATUS, b"h\x001"),
        (kind::WORK_COMPLETE, b"h"),
        (kind::WORK_DATA, b"h"),
        (kind::WORK_EXCEPTION, b"h"),
    ] {
        // The separator that follows belongs to the next packet and must not be found.
        let mut wire = packet(b"\0REQ", kind, payload);
        wire.extend_from_slice(&packet(b"\0REQ", kind::GRAB_JOB, b""));
        check_fatal(
            &wire,
            ParseError::MissingArguments { kind },
            b"INVALID_PACKET",
        );
    }
}

#[test]
fn payload_of_bare_types_is_ignored() {
    check(
        &packet(b"\0REQ", kind::PRE_SLEEP, b"junk\0junk"),
        Incoming::Request(Request::PreSleep),
    );
    check(
        &packet(b"\0REQ", kind::RESET_ABILITIES, b"\0"),
        Incoming::Request(Request::ResetAbilities),
    );
}

#[test]
fn announced_length_is_judged_before_it_arrives() {
    let decoder = Decoder::new(100);
    let header = |length: u32| {
        let mut wire = b"\0REQ\0\0\0\x10".to_vec();
        wire.extend_from_slice(&length.to_be_bytes());
        wire
    };
    assert_eq!(decoder.parse(&header(99)), Ok(Step::Need(111)));
    assert_eq!(decoder.parse(&header(100)), Ok(Step::Need(112)));
    assert_eq!(
        decoder.parse(&header(101)),
        Err(ParseError::TooLarge { payload_bytes: 101 })
    );
    assert_eq!(
        decoder.parse(&header(u32::MAX)),
        Err(ParseError::TooLarge {
            payload_bytes: u32::MAX
        })
    );
}

#[test]
fn lines_end_or_the_connection_does() {
    let mut line = vec![b'x'; limits::LINE_BYTES_MAX];
    assert_eq!(
        Decoder::default().parse(&line),
        Ok(Step::Need(limits::LINE_BYTES_MAX + 1))
    );
    line.push(b'\n');
    assert!(matches!(
        Decoder::default().parse(&line),
        Ok(Step::Frame { .. })
    ));
    line.insert(0, b'x');
    check_fatal(&line, ParseError::LineTooLong, b"LINE_TOO_LONG");
}

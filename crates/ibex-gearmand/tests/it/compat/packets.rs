//! Scenes of packets by themselves: echoes, options, limits, types and numbers that are none.

use ibex_gearman_proto::{Grab, Request, Submit};

use super::Staged;

pub(super) const SCENES: &[Staged] = &[
    ("echo and options", None, |s| {
        let mut c = s.connect();
        s.tell(
            "c",
            &mut c,
            &[
                Request::Echo { data: b"x\0y" },
                Request::Option {
                    name: b"exceptions",
                },
                Request::Option { name: b"nonsense" },
            ],
        );
    }),
    ("types that are not for servers", None, |s| {
        let mut c = s.connect();
        for kind in [6_u32, 8, 10, 11, 17, 19, 20, 27, 31] {
            c.send_bytes(
                &[
                    b"\0REQ",
                    &kind.to_be_bytes()[..],
                    &9_u32.to_be_bytes(),
                    b"a\0b\0c\0d\0e",
                ]
                .concat(),
            );
            s.listen("c", &mut c);
        }
    }),
    (
        "a unique key of 64 bytes",
        Some("unique key of 64 bytes"),
        |s| {
            let (mut c, mut w) = (s.connect(), s.connect());
            s.tell(
                "c",
                &mut c,
                &[Request::Submit(
                    Submit::new(b"f", &[b'u'; 64], b"x").background(),
                )],
            );
            s.tell(
                "w",
                &mut w,
                &[
                    Request::CanDo { function: b"f" },
                    Request::GrabJob(Grab::Unique),
                ],
            );
        },
    ),
    ("a unique key of 65 bytes", None, |s| {
        let mut c = s.connect();
        s.tell(
            "c",
            &mut c,
            &[Request::Submit(
                Submit::new(b"f", &[b'u'; 65], b"x").background(),
            )],
        );
    }),
    ("options by any case, long names", None, |s| {
        let mut c = s.connect();
        for name in [&b"EXCEPTIONS"[..], b"", b"exceptions ", &[b'o'; 63]] {
            s.tell("c", &mut c, &[Request::Option { name }]);
        }
    }),
    ("empty echoes and names", None, |s| {
        let (mut c, mut w) = (s.connect(), s.connect());
        s.tell("c", &mut c, &[Request::Echo { data: b"" }]);
        let submit = Submit::new(b"", b"", b"x").background();
        s.tell("c", &mut c, &[Request::Submit(submit)]);
        s.tell(
            "w",
            &mut w,
            &[
                Request::CanDo { function: b"" },
                Request::GrabJob(Grab::Plain),
            ],
        );
    }),
    (
        "types that do not exist",
        Some("packet types that do not exist"),
        |s| {
            let mut c = s.connect();
            for kind in [0_u32, 43, 44, 1000, 0x7fff_ffff] {
                c.send_bytes(
                    &[
                        b"\0REQ",
                        &kind.to_be_bytes()[..],
                        &3_u32.to_be_bytes(),
                        b"abc",
                    ]
                    .concat(),
                );
                s.listen("c", &mut c);
            }
        },
    ),
    ("the magic of servers", None, |s| {
        let mut c = s.connect();
        c.send_bytes(b"\0RES\0\0\0\x10\0\0\0\x01x");
        s.listen("c", &mut c);
    }),
    ("SUBMIT_JOB_SCHED", Some("SUBMIT_JOB_SCHED"), |s| {
        let mut c = s.connect();
        s.tell(
            "c",
            &mut c,
            &[Request::Submit(Submit {
                schedule: Some([b"0", b"3", b"", b"", b""]),
                ..Submit::new(b"f", b"k", b"x").background()
            })],
        );
    }),
    (
        "an epoch that is no number",
        Some("SUBMIT_JOB_EPOCH without a number"),
        |s| {
            let mut c = s.connect();
            s.tell(
                "c",
                &mut c,
                &[Request::Submit(Submit {
                    epoch: Some(b"soon"),
                    ..Submit::new(b"f", b"k", b"x").background()
                })],
            );
        },
    ),
];

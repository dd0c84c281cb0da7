//! Scenes of jobs between clients and workers: what is relayed, what meets by its key, what is asked about.

use ibex_gearman_proto::{Grab, Priority, Request, Submit};

use super::Staged;

pub(super) const SCENES: &[Staged] = &[
    ("foreground job with everything", None, |s| {
        let (mut c, mut w) = (s.connect(), s.connect());
        s.tell(
            "w",
            &mut w,
            &[
                Request::SetClientId { id: b"w1" },
                Request::CanDo { function: b"f" },
                Request::GrabJob(Grab::Plain),
            ],
        );
        s.tell("w", &mut w, &[Request::PreSleep]);
        s.tell(
            "c",
            &mut c,
            &[Request::Submit(Submit::new(b"f", b"u", b"work\0load"))],
        );
        s.tell("w", &mut w, &[Request::GrabJob(Grab::Unique)]);
        let h = s.handle(1);
        let handle = h.as_bytes();
        s.tell("c", &mut c, &[Request::GetStatus { handle }]);
        s.tell(
            "w",
            &mut w,
            &[
                Request::WorkStatus {
                    handle,
                    numerator: b"3",
                    denominator: b"10",
                },
                Request::WorkData {
                    handle,
                    data: b"part",
                },
            ],
        );
        s.tell("c", &mut c, &[Request::GetStatus { handle }]);
        s.tell(
            "w",
            &mut w,
            &[
                Request::WorkWarning {
                    handle,
                    data: b"careful",
                },
                Request::WorkComplete {
                    handle,
                    data: b"done",
                },
            ],
        );
        s.tell("c", &mut c, &[Request::GetStatus { handle }]);
        s.tell("w", &mut w, &[Request::GrabJob(Grab::All)]);
    }),
    ("failure", None, |s| {
        let (mut c, mut w) = (s.connect(), s.connect());
        s.tell(
            "c",
            &mut c,
            &[Request::Submit(Submit::new(b"f", b"", b"x"))],
        );
        s.tell(
            "w",
            &mut w,
            &[
                Request::CanDo { function: b"f" },
                Request::GrabJob(Grab::Plain),
            ],
        );
        let h = s.handle(1);
        s.tell(
            "w",
            &mut w,
            &[Request::WorkFail {
                handle: h.as_bytes(),
            }],
        );
        s.listen("c", &mut c);
    }),
    ("exception to a client that asked", None, |s| {
        let (mut c, mut w) = (s.connect(), s.connect());
        s.tell(
            "c",
            &mut c,
            &[
                Request::Option {
                    name: b"exceptions",
                },
                Request::Submit(Submit::new(b"f", b"", b"x")),
            ],
        );
        s.tell(
            "w",
            &mut w,
            &[
                Request::CanDo { function: b"f" },
                Request::GrabJob(Grab::Plain),
            ],
        );
        let h = s.handle(1);
        s.tell(
            "w",
            &mut w,
            &[Request::WorkException {
                handle: h.as_bytes(),
                data: b"boom",
            }],
        );
        s.listen("c", &mut c);
    }),
    (
        "exception to a client that did not ask",
        Some("exception to a client that did not ask"),
        |s| {
            let (mut c, mut w) = (s.connect(), s.connect());
            s.tell(
                "c",
                &mut c,
                &[Request::Submit(Submit::new(b"f", b"", b"x"))],
            );
            s.tell(
                "w",
                &mut w,
                &[
                    Request::CanDo { function: b"f" },
                    Request::GrabJob(Grab::Plain),
                ],
            );
            let h = s.handle(1);
            s.tell(
                "w",
                &mut w,
                &[Request::WorkException {
                    handle: h.as_bytes(),
                    data: b"boom",
                }],
            );
            s.listen("c", &mut c);
        },
    ),
    ("coalescing", None, |s| {
        let (mut a, mut b, mut w) = (s.connect(), s.connect(), s.connect());
        s.tell(
            "a",
            &mut a,
            &[Request::Submit(Submit::new(b"f", b"k", b"1"))],
        );
        s.tell(
            "b",
            &mut b,
            &[Request::Submit(Submit::new(b"f", b"k", b"2"))],
        );
        s.tell(
            "w",
            &mut w,
            &[
                Request::CanDo { function: b"f" },
                Request::GrabJob(Grab::Plain),
            ],
        );
        let h = s.handle(1);
        s.tell(
            "w",
            &mut w,
            &[Request::WorkComplete {
                handle: h.as_bytes(),
                data: b"r",
            }],
        );
        s.listen("a", &mut a);
        s.listen("b", &mut b);
    }),
    ("priorities of one function", None, |s| {
        let (mut c, mut w) = (s.connect(), s.connect());
        for (priority, workload) in [
            (Priority::Low, b"l"),
            (Priority::Normal, b"n"),
            (Priority::High, b"h"),
        ] {
            s.tell(
                "c",
                &mut c,
                &[Request::Submit(
                    Submit::new(b"f", b"", workload)
                        .background()
                        .priority(priority),
                )],
            );
        }
        s.tell("w", &mut w, &[Request::CanDo { function: b"f" }]);
        for _ in 0..4 {
            s.tell("w", &mut w, &[Request::GrabJob(Grab::Plain)]);
        }
    }),
    ("status by unique key", None, |s| {
        let mut c = s.connect();
        s.tell(
            "c",
            &mut c,
            &[
                Request::Submit(Submit::new(b"f", b"k", b"1")),
                Request::GetStatusUnique { unique: b"k" },
                Request::GetStatusUnique { unique: b"none" },
            ],
        );
    }),
    ("every kind of submission", None, |s| {
        let (mut c, mut w) = (s.connect(), s.connect());
        let submit = |unique: &'static [u8]| Submit::new(b"f", unique, unique);
        s.tell(
            "c",
            &mut c,
            &[
                Request::Submit(submit(b"1")),
                Request::Submit(submit(b"2").priority(Priority::High)),
                Request::Submit(submit(b"3").priority(Priority::Low)),
                Request::Submit(submit(b"4").background()),
                Request::Submit(submit(b"5").background().priority(Priority::High)),
                Request::Submit(submit(b"6").background().priority(Priority::Low)),
                Request::Submit(Submit {
                    epoch: Some(b"1000"),
                    ..submit(b"7").background()
                }),
                Request::Submit(Submit {
                    reducer: Some([b"reduce", b"0"]),
                    ..submit(b"8")
                }),
                Request::Submit(Submit {
                    reducer: Some([b"reduce", b"0"]),
                    ..submit(b"9").background()
                }),
            ],
        );
        s.tell("w", &mut w, &[Request::CanDo { function: b"f" }]);
        for _ in 0..10 {
            s.tell("w", &mut w, &[Request::GrabJob(Grab::All)]);
        }
    }),
    ("unique keys that are a dash", None, |s| {
        let (mut c, mut w) = (s.connect(), s.connect());
        for workload in [&b"a"[..], b"a", b"b", b"", b""] {
            let submit = Submit::new(b"f", b"-", workload).background();
            s.tell("c", &mut c, &[Request::Submit(submit)]);
        }
        s.tell("w", &mut w, &[Request::CanDo { function: b"f" }]);
        for _ in 0..5 {
            s.tell("w", &mut w, &[Request::GrabJob(Grab::Unique)]);
        }
    }),
    ("empty unique keys never meet", None, |s| {
        let mut c = s.connect();
        for _ in 0..3 {
            let submit = Submit::new(b"f", b"", b"same").background();
            s.tell("c", &mut c, &[Request::Submit(submit)]);
        }
        s.tell("c", &mut c, &[Request::GetStatusUnique { unique: b"" }]);
    }),
    ("one connection submits the same twice", None, |s| {
        let (mut c, mut w) = (s.connect(), s.connect());
        let submit = Request::Submit(Submit::new(b"f", b"k", b"x"));
        s.tell("c", &mut c, &[submit, submit]);
        s.tell(
            "w",
            &mut w,
            &[
                Request::CanDo { function: b"f" },
                Request::GrabJob(Grab::Plain),
            ],
        );
        let h = s.handle(1);
        let handle = h.as_bytes();
        s.tell(
            "w",
            &mut w,
            &[
                Request::WorkData { handle, data: b"p" },
                Request::WorkComplete { handle, data: b"r" },
            ],
        );
        s.listen("c", &mut c);
    }),
    ("a foreground client joins a background job", None, |s| {
        let (mut c, mut w) = (s.connect(), s.connect());
        let submit = Submit::new(b"f", b"k", b"x");
        s.tell("c", &mut c, &[Request::Submit(submit.background())]);
        s.tell("c", &mut c, &[Request::Submit(submit)]);
        s.tell(
            "w",
            &mut w,
            &[
                Request::CanDo { function: b"f" },
                Request::GrabJob(Grab::Plain),
            ],
        );
        let h = s.handle(1);
        s.tell(
            "w",
            &mut w,
            &[Request::WorkComplete {
                handle: h.as_bytes(),
                data: b"r",
            }],
        );
        s.listen("c", &mut c);
    }),
];

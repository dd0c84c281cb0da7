//! Scenes of workers: what they register, take, report, and leave behind.

use ibex_gearman_proto::{Grab, Priority, Request, Submit};

use super::Staged;

pub(super) const SCENES: &[Staged] = &[
    ("reports about jobs nobody has", None, |s| {
        let mut w = s.connect();
        let handle = b"H:nowhere:77";
        s.tell(
            "w",
            &mut w,
            &[
                Request::WorkData { handle, data: b"" },
                Request::WorkWarning { handle, data: b"" },
            ],
        );
        s.tell(
            "w",
            &mut w,
            &[
                Request::WorkStatus {
                    handle,
                    numerator: b"1",
                    denominator: b"2",
                },
                Request::WorkComplete { handle, data: b"" },
            ],
        );
        s.tell(
            "w",
            &mut w,
            &[
                Request::WorkFail { handle },
                Request::WorkException { handle, data: b"" },
                Request::GetStatus { handle },
            ],
        );
    }),
    ("a worker that dies", None, |s| {
        let (mut c, mut w, mut v) = (s.connect(), s.connect(), s.connect());
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
        s.tell(
            "v",
            &mut v,
            &[
                Request::CanDo { function: b"f" },
                Request::GrabJob(Grab::Plain),
                Request::PreSleep,
            ],
        );
        drop(w);
        let noop = v.next().unwrap();
        s.heard.push(format!("v: {noop}"));
        s.tell("v", &mut v, &[Request::GrabJob(Grab::Plain)]);
        s.listen("c", &mut c);
    }),
    ("ALL_YOURS", Some("ALL_YOURS"), |s| {
        let mut w = s.connect();
        s.tell("w", &mut w, &[Request::AllYours]);
    }),
    (
        "a worker registered twice",
        Some("a function registered twice"),
        |s| {
            let mut w = s.connect();
            s.tell(
                "w",
                &mut w,
                &[
                    Request::CanDo { function: b"twice" },
                    Request::CanDo { function: b"twice" },
                ],
            );
            let line = w
                .list("status")
                .into_iter()
                .find(|l| l.starts_with("twice"))
                .unwrap();
            s.heard.push(line);
        },
    ),
    ("priorities over functions", Some("priorities"), |s| {
        let (mut c, mut w) = (s.connect(), s.connect());
        s.tell(
            "c",
            &mut c,
            &[Request::Submit(
                Submit::new(b"a", b"", b"low")
                    .background()
                    .priority(Priority::Low),
            )],
        );
        s.tell(
            "c",
            &mut c,
            &[Request::Submit(
                Submit::new(b"b", b"", b"high")
                    .background()
                    .priority(Priority::High),
            )],
        );
        for functions in [[&b"a"[..], b"b"], [&b"b"[..], b"a"]] {
            s.tell(
                "w",
                &mut w,
                &[
                    Request::ResetAbilities,
                    Request::CanDo {
                        function: functions[0],
                    },
                    Request::CanDo {
                        function: functions[1],
                    },
                ],
            );
            s.tell("w", &mut w, &[Request::GrabJob(Grab::Plain)]);
        }
    }),
    ("forms of assignment with a reducer", None, |s| {
        let (mut c, mut w) = (s.connect(), s.connect());
        for unique in [b"1", b"2", b"3"] {
            s.tell(
                "c",
                &mut c,
                &[Request::Submit(Submit {
                    reducer: Some([b"reduce", b"0"]),
                    ..Submit::new(b"f", unique, b"w").background()
                })],
            );
        }
        s.tell("w", &mut w, &[Request::CanDo { function: b"f" }]);
        for form in [Grab::Plain, Grab::Unique, Grab::All, Grab::All] {
            s.tell("w", &mut w, &[Request::GrabJob(form)]);
        }
    }),
    ("registrations taken back", None, |s| {
        let (mut c, mut w) = (s.connect(), s.connect());
        s.tell(
            "w",
            &mut w,
            &[
                Request::CanDo { function: b"f" },
                Request::CanDo { function: b"g" },
                Request::CantDo { function: b"f" },
                Request::CantDo { function: b"never" },
            ],
        );
        for function in [b"f", b"g"] {
            let submit = Submit::new(function, b"", b"x").background();
            s.tell("c", &mut c, &[Request::Submit(submit)]);
        }
        s.tell("w", &mut w, &[Request::GrabJob(Grab::Plain)]);
        s.tell("w", &mut w, &[Request::GrabJob(Grab::Plain)]);
        s.tell(
            "w",
            &mut w,
            &[Request::ResetAbilities, Request::CanDo { function: b"f" }],
        );
        s.tell("w", &mut w, &[Request::GrabJob(Grab::Plain)]);
        let status = w.list("status");
        s.heard.extend(status);
    }),
    ("a job given back by CANT_DO", None, |s| {
        let (mut c, mut w, mut v) = (s.connect(), s.connect(), s.connect());
        let submit = Submit::new(b"f", b"", b"x").background();
        s.tell("c", &mut c, &[Request::Submit(submit)]);
        for wire in [&mut w, &mut v] {
            s.tell("w", wire, &[Request::CanDo { function: b"f" }]);
        }
        s.tell("w", &mut w, &[Request::GrabJob(Grab::Plain)]);
        s.tell("w", &mut w, &[Request::CantDo { function: b"f" }]);
        s.tell("v", &mut v, &[Request::GrabJob(Grab::Plain)]);
    }),
    ("a sleeper is woken", None, |s| {
        let (mut c, mut w) = (s.connect(), s.connect());
        s.tell(
            "w",
            &mut w,
            &[
                Request::CanDo { function: b"f" },
                Request::GrabJob(Grab::Plain),
                Request::PreSleep,
            ],
        );
        let submit = Submit::new(b"f", b"", b"x").background();
        s.tell("c", &mut c, &[Request::Submit(submit)]);
        s.listen("w", &mut w);
        s.tell("w", &mut w, &[Request::GrabJob(Grab::Plain)]);
    }),
    ("a worker that holds several jobs", None, |s| {
        let (mut c, mut w) = (s.connect(), s.connect());
        for _ in 0..2 {
            let submit = Submit::new(b"f", b"", b"x");
            s.tell("c", &mut c, &[Request::Submit(submit)]);
        }
        s.tell("w", &mut w, &[Request::CanDo { function: b"f" }]);
        s.tell("w", &mut w, &[Request::GrabJob(Grab::Plain)]);
        s.tell("w", &mut w, &[Request::GrabJob(Grab::Plain)]);
        for n in [2, 1] {
            let h = s.handle(n);
            s.tell(
                "w",
                &mut w,
                &[Request::WorkComplete {
                    handle: h.as_bytes(),
                    data: b"r",
                }],
            );
            s.listen("c", &mut c);
        }
    }),
    ("results reported twice, and by another", None, |s| {
        let (mut c, mut w, mut v) = (s.connect(), s.connect(), s.connect());
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
        let complete = Request::WorkComplete {
            handle: h.as_bytes(),
            data: b"r",
        };
        s.tell("v", &mut v, &[Request::CanDo { function: b"f" }, complete]);
        s.tell("w", &mut w, &[complete]);
        s.tell("w", &mut w, &[complete]);
        s.listen("c", &mut c);
    }),
    ("a client that asks for a job", None, |s| {
        let mut w = s.connect();
        s.tell(
            "w",
            &mut w,
            &[Request::GrabJob(Grab::Plain), Request::PreSleep],
        );
        s.tell("w", &mut w, &[Request::GrabJob(Grab::All)]);
    }),
];

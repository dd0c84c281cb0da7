//! Scenes of the text protocol: lists and commands.

use ibex_gearman_proto::{Grab, Priority, Request, Submit};

use ibex_testkit::wait;

use super::Staged;

pub(super) const SCENES: &[Staged] = &[
    ("text commands", None, |s| {
        let mut c = s.connect();
        for line in [
            "create function x\r\n",
            "drop function x\r\n",
            "drop function x\r\n",
            "maxqueue x 5\r\n",
            "maxqueue\r\n",
            "create\r\n",
            "drop\r\n",
            "cancel job H:none:1\r\n",
            "show nonsense\r\n",
            "nonsense\r\n",
            "shutdown\r\n",
        ] {
            s.line("c", &mut c, line);
        }
    }),
    ("text lists", None, |s| {
        let (mut c, mut w, mut o) = (s.connect(), s.connect(), s.connect());
        s.tell(
            "w",
            &mut w,
            &[
                Request::SetClientId { id: b"me" },
                Request::CanDo { function: b"f" },
            ],
        );
        s.tell(
            "c",
            &mut c,
            &[
                Request::Submit(Submit::new(b"f", b"k", b"x")),
                Request::Submit(
                    Submit::new(b"f", b"k2", b"x")
                        .background()
                        .priority(Priority::Low),
                ),
            ],
        );
        s.tell("w", &mut w, &[Request::GrabJob(Grab::Plain)]);
        for list in ["status", "prioritystatus"] {
            let lines = o.list(list).into_iter().filter(|l| l.starts_with("f\\t"));
            s.heard.extend(lines);
        }
        let mut jobs = o.list("show unique jobs");
        jobs.sort();
        s.heard.extend(jobs);
        let workers = o
            .list("workers")
            .into_iter()
            .filter(|l| l.contains(" me "))
            .map(|l| l.split_once(' ').unwrap().1.to_owned());
        s.heard.extend(workers);
    }),
    ("lists of jobs", None, |s| {
        let (mut c, mut w, mut o) = (s.connect(), s.connect(), s.connect());
        s.tell("w", &mut w, &[Request::CanDo { function: b"f" }]);
        s.tell(
            "c",
            &mut c,
            &[Request::Submit(Submit::new(b"f", b"k1", b"x"))],
        );
        s.tell(
            "c",
            &mut c,
            &[Request::Submit(Submit::new(b"f", b"k2", b"x").background())],
        );
        s.tell("w", &mut w, &[Request::GrabJob(Grab::Plain)]);
        let mut jobs: Vec<_> = o
            .list("show jobs")
            .iter()
            .map(|line| s.named(line))
            .collect();
        jobs.sort();
        s.heard.extend(jobs);
        let mut keys = o.list("show unique jobs");
        keys.sort();
        s.heard.extend(keys);
        drop(w);
        // Its worker is gone: given back once.
        wait::until_true("the job to wait again", || {
            o.list("status").iter().any(|line| line == "f\\t2\\t0\\t0")
        })
        .unwrap();
        let mut jobs: Vec<_> = o
            .list("show jobs")
            .iter()
            .map(|line| s.named(line))
            .collect();
        jobs.sort();
        s.heard.extend(jobs);
    }),
    (
        "a waiting job cancelled",
        Some("`cancel job` of a waiting job"),
        |s| {
            let (mut c, mut o) = (s.connect(), s.connect());
            s.tell(
                "c",
                &mut c,
                &[Request::Submit(Submit::new(b"f", b"", b"x").background())],
            );
            let line = format!("cancel job {}\r\n", s.handle(1));
            s.line("o", &mut o, &line);
            s.line("o", &mut o, &line);
            let status = o.list("status");
            s.heard.extend(status);
        },
    ),
    ("a waiting foreground job cancelled", None, |s| {
        let (mut c, mut o) = (s.connect(), s.connect());
        s.tell(
            "c",
            &mut c,
            &[Request::Submit(Submit::new(b"f", b"", b"x"))],
        );
        let line = format!("cancel job {}\r\n", s.handle(1));
        s.line("o", &mut o, &line);
        s.listen("c", &mut c);
    }),
    ("a function with a worker is not dropped", None, |s| {
        let (mut w, mut o) = (s.connect(), s.connect());
        s.tell("w", &mut w, &[Request::CanDo { function: b"f" }]);
        s.line("o", &mut o, "drop function f\r\n");
    }),
    (
        "a function with a waiting job is dropped",
        Some("`drop function` with waiting jobs"),
        |s| {
            let (mut c, mut o) = (s.connect(), s.connect());
            s.tell(
                "c",
                &mut c,
                &[Request::Submit(Submit::new(b"f", b"", b"x").background())],
            );
            s.line("o", &mut o, "drop function f\r\n");
        },
    ),
    (
        "lines that end in a bare line feed",
        Some("names at the end of a line without CR"),
        |s| {
            let mut o = s.connect();
            s.line("o", &mut o, "create function long\n");
            let status = o.list("status");
            s.heard.extend(status);
        },
    ),
    ("maxqueue", None, |s| {
        let (mut c, mut o) = (s.connect(), s.connect());
        s.line("o", &mut o, "create function f\r\n");
        s.line("o", &mut o, "maxqueue f 1\r\n");
        for _ in 0..2 {
            let submit = Submit::new(b"f", b"", b"x").background();
            s.tell("c", &mut c, &[Request::Submit(submit)]);
        }
        s.line("o", &mut o, "maxqueue f 3 2 1\r\n");
        for priority in [
            Priority::Low,
            Priority::Normal,
            Priority::High,
            Priority::High,
            Priority::High,
        ] {
            let submit = Submit::new(b"f", b"", b"x").background().priority(priority);
            s.tell("c", &mut c, &[Request::Submit(submit)]);
        }
        for line in [
            "maxqueue f\r\n",
            "maxqueue f 0\r\n",
            "maxqueue f -1\r\n",
            "maxqueue f x\r\n",
        ] {
            s.line("o", &mut o, line);
        }
        let submit = Submit::new(b"f", b"", b"x").background();
        s.tell("c", &mut c, &[Request::Submit(submit)]);
    }),
    (
        "maxqueue before the function is there",
        Some("`maxqueue` of an unknown function"),
        |s| {
            let (mut c, mut o) = (s.connect(), s.connect());
            s.line("o", &mut o, "maxqueue f 1\r\n");
            for _ in 0..2 {
                let submit = Submit::new(b"f", b"", b"x").background();
                s.tell("c", &mut c, &[Request::Submit(submit)]);
            }
        },
    ),
    ("words and blanks of lines", None, |s| {
        let mut o = s.connect();
        for line in [
            "show unique jobs extra\r\n",
            "drop nonsense x\r\n",
            "  \r\n",
            "\r\n",
            "show\r\n",
            "cancel\r\n",
            "cancel job\r\n",
            "create function\r\n",
            "drop function\r\n",
            "create nonsense x\r\n",
            "show jobs extra\r\n",
        ] {
            s.line("o", &mut o, line);
        }
    }),
    (
        "control bytes in names",
        Some("control bytes in names and ids of lists"),
        |s| {
            let (mut w, mut o) = (s.connect(), s.connect());
            s.tell(
                "w",
                &mut w,
                &[
                    Request::SetClientId { id: b"me\x01" },
                    Request::CanDo {
                        function: b"a\x01b",
                    },
                ],
            );
            let status = o.list("status");
            s.heard.extend(status);
        },
    ),
    (
        "cancel of something else",
        Some("`cancel` of what is no job"),
        |s| {
            let mut o = s.connect();
            s.line("o", &mut o, "cancel nonsense x\r\n");
        },
    ),
];

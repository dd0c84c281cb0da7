//! Debian's gearmand beside ours, the same bytes to both. Where they differ, the difference is one of the list below, and it really is one.
//!
//! Handles are compared by their order of appearance, not by their numbers.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use ibex_gearman_proto::{Grab, Priority, Request, Submit};
use ibex_testkit::{Daemon, skip, wait};

use crate::packets::Wire;

/// The original as a child process.
pub(crate) struct Original(
    Child,
    SocketAddr,
    #[expect(dead_code, reason = "kept until the process is gone")] tempfile::TempDir,
);

impl Original {
    pub(crate) fn addr(&self) -> SocketAddr {
        self.1
    }

    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(flags: &[String]) -> Option<Self> {
        let program = skip::program("gearmand")?;
        let port = ibex_testkit::ports::free().port();
        // It unlinks its pid file when it starts and ends: never a path that anybody else needs.
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new(program)
            .args([
                "-L",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-t",
                "1",
                "-l",
                "stderr",
            ])
            .args(flags)
            .arg("-P")
            .arg(dir.path().join("pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        wait::until_true("the original listens", || {
            std::net::TcpStream::connect(addr).is_ok()
        })
        .unwrap();
        Some(Self(child, addr, dir))
    }
}

impl Drop for Original {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// One scene: what several connections do, and what they heard.
pub(crate) struct Scene {
    addr: SocketAddr,
    heard: Vec<String>,
    handles: Vec<String>,
}

impl Scene {
    fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            heard: Vec::new(),
            handles: Vec::new(),
        }
    }

    fn connect(&self) -> Wire {
        Wire::connect(self.addr)
    }

    /// Sends, waits until everything is answered, notes what was heard.
    fn tell(&mut self, who: &str, wire: &mut Wire, requests: &[Request<'_>]) {
        for request in requests {
            wire.send(*request);
        }
        self.listen(who, wire);
    }

    fn line(&mut self, who: &str, wire: &mut Wire, line: &str) {
        wire.send_bytes(line.as_bytes());
        self.listen(who, wire);
    }

    fn listen(&mut self, who: &str, wire: &mut Wire) {
        for packet in wire.said() {
            let words = packet
                .split(' ')
                .map(|word| self.named(word))
                .collect::<Vec<_>>();
            self.heard.push(format!("{who}: {}", words.join(" ")));
        }
    }

    /// `h1`, `h2` … for handles, in the order in which they were seen.
    fn named(&mut self, word: &str) -> String {
        let (handle, rest) = word
            .split_once("\\t")
            .map_or((word, String::new()), |(h, rest)| (h, format!("\\t{rest}")));
        if !handle.starts_with("H:") {
            return word.to_owned();
        }
        let at = self
            .handles
            .iter()
            .position(|h| h == handle)
            .unwrap_or_else(|| {
                self.handles.push(handle.to_owned());
                self.handles.len() - 1
            });
        format!("h{}{rest}", at + 1)
    }

    /// The handle that was seen as the n-th.
    fn handle(&self, n: usize) -> String {
        self.handles
            .get(n - 1)
            .cloned()
            .unwrap_or_else(|| "H:none:1".into())
    }
}

pub(crate) type Play = fn(&mut Scene);

/// Name, the row of `docs/gearman/compatibility.md` that says how ours differs (`None`: it must not), and the scene.
pub(crate) const SCENES: &[(&str, Option<&str>, Play)] = &[
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

#[test]
fn the_same_bytes_to_both() {
    let mut wrong = Vec::new();
    for (name, difference, play) in SCENES {
        // Fresh servers: what one scene leaves behind must not play in the next.
        let Some(original) = Original::start() else {
            return;
        };
        let daemon = Daemon::builder("ibex-gearmand")
            .set("queue", "memory")
            .start()
            .unwrap();
        let (mut ours, mut theirs) = (
            Scene::new(daemon.addr("gearman").unwrap()),
            Scene::new(original.1),
        );
        play(&mut ours);
        play(&mut theirs);
        daemon.stop().unwrap();
        let is_same = ours.heard == theirs.heard;
        match difference {
            None if !is_same => wrong.push(format!(
                "{name}\n  ours   {:#?}\n  theirs {:#?}",
                ours.heard, theirs.heard
            )),
            Some(reason) if is_same => wrong.push(format!(
                "{name}: no difference any more ({reason}): {:#?}",
                ours.heard
            )),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

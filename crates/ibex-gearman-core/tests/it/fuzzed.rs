//! The body of the fuzz target on stable: conversations of every kind, cut off everywhere and mutated.

use ibex_gearman_proto::{Grab, Request, Submit};
use ibex_testkit::fuzz;

#[path = "../../fuzz/src/body.rs"]
mod body;

/// Builds one input.
struct Talk(Vec<u8>);

impl Talk {
    fn new(flags: u8) -> Self {
        Self(vec![flags])
    }

    fn bytes(mut self, conn: u8, bytes: &[u8]) -> Self {
        for piece in bytes.chunks(255) {
            // Connections are known by the remainder, whether a batch goes on by another: every number says both.
            self.0.push(body::OP_BYTES + conn);
            self.0.push(u8::try_from(piece.len()).unwrap());
            self.0.extend_from_slice(piece);
        }
        self
    }

    fn says(self, conn: u8, request: Request<'_>) -> Self {
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        self.bytes(conn, &bytes)
    }

    fn line(self, conn: u8, line: &str) -> Self {
        self.bytes(conn, format!("{line}\r\n").as_bytes())
    }

    fn step(mut self, op: u8, number: u8) -> Self {
        self.0.extend([op, number]);
        self
    }
}

/// Headers, kept results, and a result that will do for an equal job.
fn with_headers() -> Talk {
    let can = Request::CanDo { function: b"f" };
    let submit = |workload| Submit::new(b"f", b"k", workload).background();
    Talk::new(2)
        .says(1, Request::Option { name: b"headers" })
        .says(1, Request::Option { name: b"results" })
        .says(
            1,
            Request::Submit(submit(b"result-ttl=9;ttl=1;attempts=2\0a")),
        )
        .says(1, Request::Submit(submit(b"delay=1;dedupe=5;timeout=1\0b")))
        .says(0, can)
        .says(0, Request::GrabJob(Grab::Unique))
        .says(
            0,
            Request::WorkComplete {
                handle: b"H:1",
                data: b"r",
            },
        )
        .step(240, 9)
        .says(1, Request::GetStatus { handle: b"H:1" })
        .says(1, Request::Attach { handle: b"H:1" })
        .says(1, Request::Submit(submit(b"dedupe=5\0b")))
}

fn seeds() -> Vec<Vec<u8>> {
    let submit = |unique: &'static [u8]| Submit::new(b"f", unique, b"work");
    let can = Request::CanDo { function: b"f" };
    let timed = Request::CanDoTimeout {
        function: b"f",
        timeout: b"1",
    };
    let done = |handle: &'static [u8]| Request::WorkComplete { handle, data: b"r" };
    let nack = Request::Nack {
        handle: b"H:1",
        delay: b"3",
        data: b"later",
    };
    let recurring = Submit {
        schedule: Some([b"*/2", b"", b"*", b"", b""]),
        ..submit(b"r").background()
    };
    let later = Submit {
        epoch: Some(b"1000000030"),
        ..submit(b"e").background()
    };
    let talks = [
        Talk::new(1)
            .says(0, can)
            .says(0, Request::PreSleep)
            .says(1, Request::Submit(submit(b"")))
            .says(0, Request::GrabJob(Grab::Plain))
            .says(0, done(b"H:1")),
        Talk::new(0)
            .says(1, Request::Submit(submit(b"u").background()))
            .says(2, Request::Submit(submit(b"u")))
            .step(body::OP_STORED, 3)
            .says(0, timed)
            .says(0, Request::GrabJob(Grab::All))
            .step(220, 60)
            .says(0, Request::GrabJob(Grab::Unique))
            .step(204, 0)
            .line(3, "retry dead f")
            .step(244, 7)
            .line(3, "show jobs"),
        Talk::new(0)
            .says(1, Request::Submit(recurring))
            .says(1, Request::Submit(later))
            .step(body::OP_STORED, 1)
            .step(231, 255)
            .step(250, 9)
            .step(251, 9)
            .line(2, "drop schedule f r")
            .step(233, 7),
        Talk::new(1)
            .says(0, Request::Option { name: b"push=3" })
            .says(0, can)
            .says(0, Request::Option { name: b"cancel" })
            .says(1, Request::Submit(submit(b"a")))
            .says(1, Request::Submit(submit(b"-")))
            .says(1, Request::Submit(submit(b"-")))
            .says(0, nack)
            .says(2, Request::Attach { handle: b"H:2" })
            .line(4, "pause f")
            .line(4, "limit f running 1")
            .line(4, "limit f rate 5/s burst 2")
            .line(4, "maxqueue f 2")
            .line(4, "resume f")
            .line(4, "purge f")
            .step(205, 0),
        with_headers(),
        Talk::new(3)
            .says(0, Request::Option { name: b"wait" })
            .says(0, can)
            .says(0, Request::GrabJob(Grab::Plain))
            .says(5, can)
            .says(5, Request::PreSleep)
            .says(
                1,
                Request::Option {
                    name: b"exceptions",
                },
            )
            .says(1, Request::Submit(submit(b"x")))
            .says(
                0,
                Request::WorkException {
                    handle: b"H:1",
                    data: b"boom",
                },
            )
            .says(5, Request::ResetAbilities)
            .line(2, "cancel job H:1")
            .line(2, "drop function f"),
    ];
    talks.into_iter().map(|talk| talk.0).collect()
}

#[test]
fn conversations_hold() {
    fuzz::prefixes(&seeds(), body::run);
}

#[test]
fn mutated_conversations_hold() {
    fuzz::neighbours(&seeds(), 4730, 4000, body::run);
}

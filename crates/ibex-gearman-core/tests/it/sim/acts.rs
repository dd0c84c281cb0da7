//! What clients, workers, operators and time do to the job server.

use std::time::Duration;

use ibex_gearman_core::{CancelOutcome, ConnId, End, Input, JobId, JobState};
use ibex_gearman_proto::{Grab, Mode, Priority, QueueLimits, Request, Submit};

use super::model::{Due, Peer};
use super::{EPOCH_MS, FUNCTIONS, Sim, number_of};

/// What a submission with the option `headers` says; the last one cannot be read.
const HEADERS: [&str; 10] = [
    "",
    "",
    "x-a=b",
    "ttl=3",
    "delay=2",
    "timeout=2",
    "attempts=2;backoff=1..2",
    "dedupe=5",
    "result-ttl=20",
    "speed=9",
];

const OPTIONS: [&str; 12] = [
    "exceptions",
    "cancel",
    "heartbeat",
    "no-workers-fail",
    "headers",
    "headers",
    "results",
    "subscribe",
    "wait",
    "push=2",
    "push=0",
    "nonsense",
];

impl Sim {
    pub(super) fn connect(&mut self) {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        self.note(format_args!("connect {}", conn.0));
        self.peers.insert(conn, Peer::default());
        self.server.handle(self.now, Input::Connected(conn));
    }

    fn some_peer(&mut self) -> Option<ConnId> {
        let conns: Vec<ConnId> = self.peers.keys().copied().collect();
        self.rng.pick(&conns).copied()
    }

    pub(super) fn close_one(&mut self) {
        let Some(conn) = self.some_peer() else { return };
        self.note(format_args!("close {}", conn.0));
        self.peers.remove(&conn);
        self.server.handle(self.now, Input::Closed(conn));
    }

    pub(super) fn send(&mut self, conn: ConnId, request: Request<'_>) {
        self.note(format_args!("{} -> {request:?}", conn.0));
        self.server.handle(self.now, Input::Packet(conn, request));
    }

    pub(super) fn expect(&mut self, conn: ConnId, due: Due) {
        self.peers.get_mut(&conn).unwrap().expected.push_back(due);
    }

    pub(super) fn client_act(&mut self) {
        let Some(conn) = self.some_peer() else { return };
        match self.rng.below(14) {
            0..9 => self.submit(conn),
            9 => {
                self.expect(conn, Due::Echo);
                self.send(conn, Request::Echo { data: b"e" });
            }
            10 => {
                self.expect(conn, Due::Status);
                let handle = format!("H:s:{}", self.rng.below(100));
                let handle = handle.as_bytes();
                self.send(conn, Request::GetStatus { handle });
            }
            11 => {
                self.expect(conn, Due::Status);
                let unique = *self.rng.pick(&["k1", "k2", "-", "k9"]).unwrap();
                let unique = unique.as_bytes();
                self.send(conn, Request::GetStatusUnique { unique });
            }
            12 => {
                self.expect(conn, Due::Created(Mode::Foreground));
                let handle = format!("H:s:{}", self.rng.below(100));
                let handle = handle.as_bytes();
                self.send(conn, Request::Attach { handle });
            }
            _ => {
                let name = *self.rng.pick(&OPTIONS).unwrap();
                self.expect(conn, Due::Option);
                let peer = self.peers.get_mut(&conn).unwrap();
                peer.learn(name);
                let name = name.as_bytes();
                self.send(conn, Request::Option { name });
            }
        }
    }

    fn submit(&mut self, conn: ConnId) {
        let function = self.rng.pick(&FUNCTIONS).unwrap().as_bytes();
        let unique = *self.rng.pick(&["", "", "-", "k1", "k2", "k3"]).unwrap();
        // Some are large enough to leave memory.
        let len = *self.rng.pick(&[0, 2, 2, 300, 300, 1000]).unwrap();
        let digit = char::from(b'0' + u8::try_from(self.rng.below(3)).unwrap());
        let workload = digit.to_string().repeat(len);
        let priority = *self.rng.pick(&Priority::ALL).unwrap();
        let is_foreground = self.rng.chance(5, 9);
        let schedule = (!is_foreground && self.rng.chance(1, 12)).then_some([
            &b"*/2"[..],
            b"",
            b"*",
            b"*",
            b"*",
        ]);
        let has_headers = self.peers[&conn].wants_headers && schedule.is_none();
        let argument = if has_headers {
            format!("{}\0{workload}", self.rng.pick(&HEADERS).unwrap())
        } else {
            workload
        };
        let submit =
            Submit::new(function, unique.as_bytes(), argument.as_bytes()).priority(priority);
        if is_foreground {
            self.expect(conn, Due::Created(Mode::Foreground));
            self.send(conn, Request::Submit(submit));
            return;
        }
        self.expect(conn, Due::Created(Mode::Background));
        let at = (self.clock_ms / 1000 + self.rng.below(20)).to_string();
        let submit = Submit {
            epoch: self.rng.chance(1, 4).then_some(at.as_bytes()),
            schedule,
            ..submit.background()
        };
        self.send(conn, Request::Submit(submit));
    }

    pub(super) fn worker_act(&mut self) {
        let Some(conn) = self.some_peer() else { return };
        let function = self.rng.index(FUNCTIONS.len());
        let name = FUNCTIONS[function].as_bytes();
        match self.rng.below(20) {
            0..3 => {
                if self.rng.chance(1, 2) {
                    self.send(conn, Request::CanDo { function: name });
                } else {
                    self.send(
                        conn,
                        Request::CanDoTimeout {
                            function: name,
                            timeout: b"3",
                        },
                    );
                }
            }
            3 => {
                if self.rng.chance(1, 3) {
                    self.send(conn, Request::ResetAbilities);
                } else {
                    self.send(conn, Request::CantDo { function: name });
                }
            }
            4..9 => {
                let due = Due::Job(self.step, self.now);
                self.expect(conn, due);
                let form = *self
                    .rng
                    .pick(&[Grab::Plain, Grab::Unique, Grab::All])
                    .unwrap();
                self.send(conn, Request::GrabJob(form));
            }
            9..12 => self.send(conn, Request::PreSleep),
            _ => self.report(conn),
        }
    }

    /// A report about a held job, or sometimes about any job.
    fn report(&mut self, conn: ConnId) {
        let holding = &self.peers[&conn].holding;
        let job = match self.rng.pick(holding) {
            Some(job) if self.rng.chance(9, 10) => *job,
            _ => JobId(self.rng.below(60)),
        };
        let text = format!("H:s:{}", job.0);
        let handle = text.as_bytes();
        let is_held = self
            .server
            .job(self.now, handle)
            .is_some_and(|j| j.state == JobState::Running(conn));
        if is_held && !self.peers[&conn].holding.contains(&job) {
            // The assignment is still behind a held reply: no worker knows of it.
            return;
        }
        if !is_held {
            // Behind a held reply nobody could tell whose ERROR it is.
            if self.server.held_replies(conn) > 0 {
                return;
            }
            self.expect(conn, Due::MaybeError);
        }
        let result = format!("r{}", job.0);
        let (request, end) = match self.rng.below(10) {
            0 => {
                let (numerator, denominator) = (b"1", b"2");
                let status = Request::WorkStatus {
                    handle,
                    numerator,
                    denominator,
                };
                (status, None)
            }
            1 => (Request::WorkData { handle, data: b"d" }, None),
            2 => (Request::WorkWarning { handle, data: b"w" }, None),
            3 => (Request::WorkFail { handle }, Some(End::Fail)),
            4 => {
                let end = End::Exception("x".into());
                (Request::WorkException { handle, data: b"x" }, Some(end))
            }
            5 => {
                let (delay, data) = (b"2", b"");
                let nack = Request::Nack {
                    handle,
                    delay,
                    data,
                };
                (nack, None)
            }
            6 => (Request::Touch { handle }, None),
            _ => {
                let data = result.as_bytes();
                let end = End::Complete(result.clone().into());
                (Request::WorkComplete { handle, data }, Some(end))
            }
        };
        let is_given_up = matches!(request, Request::Nack { .. }) || end.is_some();
        let peer = self.peers.get_mut(&conn).unwrap();
        peer.holding.retain(|j| *j != job || !is_given_up);
        self.send(conn, request);
        let Some(end) = end.filter(|_| is_held) else {
            return;
        };
        let is_complete = matches!(end, End::Complete(_));
        self.completed += u64::from(is_complete);
        // What failed may come again, or be among the dead.
        let is_gone = self.server.job(self.now, handle).is_none();
        assert!(
            is_gone || !is_complete,
            "a job that was done is still there"
        );
        let is_dead = self
            .server
            .dead()
            .any(|dead| dead.handle.as_ref() == handle);
        if is_gone && !is_dead {
            self.end(job, Some(end));
        }
    }

    /// A job is over; nobody may hear of it as of one that waits.
    pub(super) fn end(&mut self, job: JobId, end: Option<End>) {
        self.ended.insert(job, self.step);
        self.acknowledged.remove(&job);
        if let Some(end) = end {
            self.ends.insert(job, end);
        }
    }

    pub(super) fn pass_time(&mut self) {
        let ms = *self
            .rng
            .pick(&[1, 49, 50, 999, 1000, 3000, 20_000])
            .unwrap();
        // A shell ends its batch before it waits.
        self.settle();
        self.note(format_args!("pass {ms} ms"));
        self.now += Duration::from_millis(ms);
        self.clock_ms += ms;
        if self.rng.chance(1, 6) {
            // Somebody sets the wall clock, back or forth.
            self.clock_ms = EPOCH_MS + self.rng.below(100_000);
            self.server.handle(self.now, Input::Clock(self.clock_ms));
        }
        // A shell is called at the deadline or late, or too early.
        self.server.handle_timeout(self.now);
        assert!(
            self.server.poll_timeout().is_none_or(|at| at > self.now),
            "what is due was done"
        );
    }

    pub(super) fn operator_act(&mut self) {
        let name = self.rng.pick(&FUNCTIONS).unwrap().as_bytes();
        let now = self.now;
        let act = self.rng.below(11);
        self.note(format_args!("operator {act} {}", name.escape_ascii()));
        match act {
            0 => {
                let id = JobId(self.rng.below(100));
                let outcome = self
                    .server
                    .cancel_job(now, format!("H:s:{}", id.0).as_bytes());
                if outcome == CancelOutcome::Cancelled {
                    self.end(id, None);
                }
            }
            1 => {
                let waiting: Vec<_> = self
                    .server
                    .jobs(now)
                    .filter(|j| j.function == name && j.state == JobState::Waiting)
                    .collect();
                assert_eq!(self.server.purge(now, name, None), waiting.len());
                for job in waiting {
                    let id = number_of(job.handle.as_ref());
                    self.end(id, None);
                }
            }
            2 => {
                let limits = [self.shrunk(), self.shrunk(), self.shrunk()];
                self.server.limit_queue(name, QueueLimits(limits));
            }
            3 => {
                let max = self.shrunk();
                self.server.limit_running(now, name, max);
            }
            4 => {
                let (rate, burst) = (self.shrunk(), self.shrunk());
                self.server.limit_rate(now, name, rate, burst);
            }
            5 => self.server.pause(now, name, true),
            6 => self.server.pause(now, name, false),
            7 => {
                let is_draining = self.rng.chance(1, 3);
                self.server.drain(is_draining);
            }
            8 => {
                self.server
                    .retry_dead(now, self.rng.chance(1, 2).then_some(name));
            }
            9 => {
                let unique = *self.rng.pick(&["", "-", "k1", "k2", "k3"]).unwrap();
                self.server.drop_schedule(name, unique.as_bytes());
            }
            _ => {
                self.server.drop_function(name);
            }
        }
    }

    fn shrunk(&mut self) -> u32 {
        *self.rng.pick(&[0, 0, 1, 2, 50]).unwrap()
    }
}

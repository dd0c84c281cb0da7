//! What one fuzz input must satisfy; shared with the test that runs it on stable.
//!
//! An input is a list of steps, each an operation byte and what it needs: bytes for one of six connections (binary packets and admin lines, cut anywhere),
//! an end of a connection, time, answers of the store. After every batch the invariants hold and the bounds are kept; when everybody has left, only
//! background jobs remain.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ibex_gearman_core::{Config, ConnId, Input, JobServer, Output};
use ibex_gearman_proto::{AdminCommand, DeadTarget, Decoder, Incoming, Step};

const CONNS: usize = 6;
const JOBS_MAX: usize = 40;
const BYTES_MAX: u64 = 64 << 10;
/// Steps of one input: longer ones say nothing new.
const STEPS_MAX: usize = 400;

/// Bytes for connection `op % 6`, in the next byte's number.
pub(crate) const OP_BYTES: u8 = 0;
/// The end of connection `op % 6`.
const OP_CLOSE: u8 = 204;
/// Time passes.
const OP_TIME: u8 = 216;
/// The store stores.
pub(crate) const OP_STORED: u8 = 232;
/// The store refuses.
const OP_REFUSED: u8 = 244;
/// The wall clock jumps.
const OP_CLOCK: u8 = 250;

const EPOCH_MS: u64 = 1_000_000_000_000;

struct Peer {
    id: ConnId,
    unread: Vec<u8>,
}

struct World {
    server: JobServer,
    now: Instant,
    decoder: Decoder,
    peers: [Option<Peer>; CONNS],
    next_conn: u64,
    /// Store requests somebody waits for.
    store: VecDeque<ibex_gearman_core::JobId>,
    /// Jobs whose workload the store is asked for.
    fetches: Vec<ibex_gearman_core::JobId>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "an origin; only differences matter"
)]
fn origin() -> Instant {
    Instant::now()
}

/// Runs one input.
pub(crate) fn run(data: &[u8]) {
    let flags = data.first().copied().unwrap_or(0);
    let config = Config {
        handle_prefix: "H".into(),
        durable: flags & 1 == 0,
        retries_max: (flags & 2 == 0).then_some(2),
        jobs_max: JOBS_MAX,
        workload_bytes_max: BYTES_MAX,
        dead_max: 5,
        ..Config::default()
    };
    let now = origin();
    let mut world = World {
        server: JobServer::new(config, now, EPOCH_MS),
        now,
        decoder: Decoder::new(4096),
        peers: [const { None }; CONNS],
        next_conn: 0,
        store: VecDeque::new(),
        fetches: Vec::new(),
    };
    let mut rest = data.get(1..).unwrap_or_default();
    for _ in 0..STEPS_MAX {
        let [op, number, tail @ ..] = rest else { break };
        rest = world.step(*op, *number, tail);
        world.drain(op % 3 == 0);
    }
    for slot in 0..CONNS {
        world.close(slot);
    }
    world.drain(false);
    assert_eq!(world.server.running_count(), 0);
    assert!(world.server.jobs(world.now).all(|job| job.is_background));
}

impl World {
    fn step<'a>(&mut self, op: u8, number: u8, tail: &'a [u8]) -> &'a [u8] {
        match op {
            OP_BYTES..OP_CLOSE => {
                let (bytes, rest) = tail.split_at(usize::from(number).min(tail.len()));
                self.feed(usize::from(op) % CONNS, bytes);
                return rest;
            }
            OP_CLOSE..OP_TIME => self.close(usize::from(op) % CONNS),
            OP_TIME..OP_STORED => {
                self.now += Duration::from_millis(u64::from(number) * u64::from(number));
                self.server.handle_timeout(self.now);
            }
            OP_STORED..OP_REFUSED => self.answer_store(number, true),
            OP_REFUSED..OP_CLOCK => self.answer_store(number, false),
            OP_CLOCK.. => {
                let jump = u64::from(number) * 60_000;
                let clock = if op & 1 == 0 {
                    EPOCH_MS + jump
                } else {
                    EPOCH_MS - jump
                };
                self.server.handle(self.now, Input::Clock(clock));
            }
        }
        tail
    }

    fn feed(&mut self, slot: usize, bytes: &[u8]) {
        let mut peer = self.peers[slot].take().unwrap_or_else(|| {
            self.next_conn += 1;
            let id = ConnId(self.next_conn);
            self.server.handle(self.now, Input::Connected(id));
            Peer {
                id,
                unread: Vec::new(),
            }
        });
        peer.unread.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            match self.decoder.parse(&peer.unread[at..]) {
                Ok(Step::Need(_)) => break,
                Ok(Step::Frame { message, consumed }) => {
                    match message {
                        Incoming::Request(request) => {
                            self.server
                                .handle(self.now, Input::Packet(peer.id, request));
                        }
                        Incoming::Refused(refusal) => {
                            self.server
                                .handle(self.now, Input::Refused(peer.id, refusal));
                        }
                        Incoming::Admin(command) => administer(&mut self.server, self.now, command),
                    }
                    at += consumed;
                }
                Err(_) => {
                    self.server.handle(self.now, Input::Closed(peer.id));
                    return;
                }
            }
        }
        peer.unread.drain(..at);
        self.peers[slot] = Some(peer);
    }

    fn close(&mut self, slot: usize) {
        if let Some(peer) = self.peers[slot].take() {
            self.server.handle(self.now, Input::Closed(peer.id));
        }
    }

    fn answer_store(&mut self, number: u8, is_stored: bool) {
        for _ in 0..=number % 8 {
            let Some(job) = self.store.pop_front() else {
                return;
            };
            let input = if is_stored {
                Input::Persisted(job)
            } else {
                Input::PersistFailed(job)
            };
            self.server.handle(self.now, input);
        }
        // What the workloads were it has not kept: they cannot be read, or are lost.
        for job in self.fetches.drain(..) {
            let input = if is_stored {
                Input::FetchFailed(job)
            } else {
                Input::FetchLost(job)
            };
            self.server.handle(self.now, input);
        }
    }

    fn drain(&mut self, is_early: bool) {
        loop {
            let output = if is_early {
                self.server.poll_output_early()
            } else {
                self.server.poll_output()
            };
            match output {
                Some(Output::Persist(job)) => self.store.push_back(job.id),
                Some(Output::Revive(job)) => self.store.push_back(job),
                Some(Output::Fetch(jobs)) => self.fetches.extend(jobs),
                Some(Output::KeepSchedule(schedule)) => self.store.push_back(schedule.id),
                Some(Output::Send(conn, _) | Output::Text(conn, _)) => {
                    assert!(conn.0 <= self.next_conn, "a reply to nobody");
                }
                Some(
                    Output::Attempt { .. }
                    | Output::Forget(_)
                    | Output::Bury { .. }
                    | Output::KeepResult(_)
                    | Output::ForgetResult(_)
                    | Output::RestoreSchedule(_)
                    | Output::MoveSchedule { .. }
                    | Output::DropSchedule { .. },
                ) => {}
                None => break,
            }
        }
        if !is_early {
            self.server.check_invariants(self.now);
        }
        assert!(
            self.server.job_count() <= JOBS_MAX,
            "more jobs than allowed"
        );
        assert!(
            self.server.workload_bytes() <= BYTES_MAX,
            "more bytes than allowed"
        );
    }
}

/// What the daemon does with admin commands that change something.
fn administer(server: &mut JobServer, now: Instant, command: AdminCommand<'_>) {
    match command {
        AdminCommand::CancelJob(handle) => drop(server.cancel_job(now, handle)),
        AdminCommand::CreateFunction(name) => {
            let _is_known = server.create_function(name);
        }
        AdminCommand::DropFunction(name) => drop(server.drop_function(name)),
        AdminCommand::MaxQueue { function, limits } => server.limit_queue(function, limits),
        AdminCommand::LimitRunning {
            function,
            running_max,
        } => server.limit_running(now, function, running_max),
        AdminCommand::LimitRate {
            function,
            per_second,
            burst,
        } => server.limit_rate(now, function, per_second, burst),
        AdminCommand::Pause(name) => server.pause(now, name, true),
        AdminCommand::Resume(name) => server.pause(now, name, false),
        AdminCommand::Purge { function, priority } => drop(server.purge(now, function, priority)),
        AdminCommand::Drain(is_on) => server.drain(is_on),
        AdminCommand::RetryDead(target) => drop(server.retry_dead(now, named(target))),
        AdminCommand::DropDead(target) => drop(server.drop_dead(named(target))),
        AdminCommand::DropSchedule { function, unique } => {
            server.drop_schedule(function, unique);
        }
        AdminCommand::Version
        | AdminCommand::GetPid
        | AdminCommand::Verbose
        | AdminCommand::Status
        | AdminCommand::PriorityStatus
        | AdminCommand::Workers
        | AdminCommand::ShowJobs
        | AdminCommand::ShowUniqueJobs
        | AdminCommand::ShowJob(_)
        | AdminCommand::ShowFunctions
        | AdminCommand::ShowDead(_)
        | AdminCommand::ShowSchedules
        | AdminCommand::ShowUnknown
        | AdminCommand::PerlJobs
        | AdminCommand::PerlClients
        | AdminCommand::Metrics
        | AdminCommand::Reload
        | AdminCommand::Shutdown { .. }
        | AdminCommand::Incomplete(_)
        | AdminCommand::Unknown(_) => {
            // What lists show must hold together at any time.
            let lists =
                server.functions(now).count() + server.jobs(now).count() + server.conns().count();
            assert!(lists < 100_000);
        }
    }
}

fn named(target: DeadTarget<'_>) -> Option<&[u8]> {
    match target {
        DeadTarget::Named(name) => Some(name),
        DeadTarget::All => None,
    }
}

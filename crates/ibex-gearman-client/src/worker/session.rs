//! A worker's life with one server: connect, register, grab, sleep, report, and come back when the connection breaks.
//!
//! One GRAB_JOB is out at a time, and only while a permit to run is in hand, so a server never waits for a worker that is full. A finished job's
//! result and the next
//! GRAB_JOB leave in one write. A server that knows `push` is not asked at all: jobs come by themselves and wait here for a permit.
//!
//! Options go first, before anything else that could be answered by an ERROR, so the first answers are theirs, in order.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use ibex_gearman_proto::{Grab, Request, Response, Step, decode_response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::job::{Can, Job, JobError, Report};
use super::{Function, Handler, Plan};
use crate::address::{Address, Stream};
use crate::client::jitter;
use crate::config::backoff;
use crate::headers::rounded_up;

/// Reports of running jobs that may wait for the socket; beyond it handlers wait, which is the backpressure of a slow server.
const REPORTS_MAX: usize = 256;
/// Unwritten bytes at which no further report is taken.
const OUT_BYTES_MAX: usize = 1 << 20;
/// Free room kept for one read.
const READ_BYTES: usize = 64 << 10;

/// Behind this answer a server hands over no more jobs: it was told to stop before.
const FENCE: &[u8] = b"no more";

/// Handlers that run: with each the number and the handle it was started with. Outlives the sessions.
#[derive(Default)]
struct Running {
    tasks: JoinSet<(u64, Bytes)>,
    next: u64,
}

/// Keeps a session with `address` until `stop`.
pub(crate) async fn keep(plan: Arc<Plan>, address: Address, stop: CancellationToken) {
    // Ends with this future.
    let mut running = Running::default();
    let mut failures = 0;
    while !stop.is_cancelled() {
        let connected = tokio::select! {
            connected = tokio::time::timeout(plan.config.connect_deadline, address.connect(&plan.config)) => connected,
            () = stop.cancelled() => return,
        };
        let reason = match connected {
            Ok(Ok(stream)) => {
                failures = 0;
                match Session::new(&plan, stream, &mut running).run(&stop).await {
                    Ok(()) => return,
                    Err(reason) => reason,
                }
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no connection in time".to_owned(),
        };
        failures += 1;
        tracing::debug!(peer = %address, error = reason, "job server lost, will come back");
        tokio::select! {
            () = tokio::time::sleep(backoff(&plan.config, failures, jitter())) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Where the grabbing stands.
enum Phase {
    /// Whether the server pushes is not known yet.
    Opening,
    /// The server hands over jobs by itself.
    Pushed,
    /// Free to ask for a job once there is a permit.
    Ready,
    /// GRAB_JOB is out; the permit is for its answer.
    Asked(OwnedSemaphorePermit),
    /// PRE_SLEEP is out; a NOOP wakes.
    Asleep,
}

/// An option whose answer is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Push,
    Headers,
    Nack,
    Touch,
    Other,
}

/// What an assignment says.
#[derive(Default)]
struct Given {
    handle: Bytes,
    function: Bytes,
    unique: Bytes,
    reducer: Bytes,
    headers: Bytes,
    workload: Bytes,
}

struct Session<'p> {
    plan: &'p Plan,
    read: ReadHalf<Box<dyn Stream>>,
    write: WriteHalf<Box<dyn Stream>>,
    unread: BytesMut,
    out: BytesMut,
    phase: Phase,
    running: &'p mut Running,
    /// By handle: the number of the handler's task, and what tells it that nobody wants the result.
    unwanted: BTreeMap<Bytes, (u64, CancellationToken)>,
    asked: VecDeque<Asked>,
    has_headers: bool,
    can: Can,
    reports: mpsc::Receiver<Report>,
    reporter: mpsc::Sender<Report>,
    lost: CancellationToken,
    heard: Instant,
    is_probed: bool,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // Handlers of a lost connection run on: they may be half way through something. They hold their permits until they end.
        self.lost.cancel();
    }
}

impl<'p> Session<'p> {
    fn new(plan: &'p Plan, stream: Box<dyn Stream>, running: &'p mut Running) -> Self {
        let (read, write) = tokio::io::split(stream);
        let (reporter, reports) = mpsc::channel(REPORTS_MAX);
        let mut out = BytesMut::new();
        let asked = options(plan)
            .into_iter()
            .map(|(name, asked)| {
                let name = name.as_bytes();
                Request::Option { name }.encode(&mut out);
                asked
            })
            .collect();
        if let Some(id) = &plan.id {
            Request::SetClientId { id: id.as_bytes() }.encode(&mut out);
        }
        for (name, function) in &plan.functions {
            register(name, function, &mut out);
        }
        Self {
            plan,
            read,
            write,
            unread: BytesMut::with_capacity(READ_BYTES),
            out,
            phase: match plan.wants.push {
                Some(_) => Phase::Opening,
                None => Phase::Ready,
            },
            running,
            unwanted: BTreeMap::new(),
            asked,
            has_headers: false,
            can: Can::default(),
            reports,
            reporter,
            lost: CancellationToken::new(),
            heard: Instant::now(),
            is_probed: false,
        }
    }

    /// `Ok` after an orderly stop, else why the connection is of no more use.
    async fn run(&mut self, stop: &CancellationToken) -> Result<(), String> {
        let mut drain_until = None;
        loop {
            let draining = drain_until.is_some();
            if draining
                && self.running.tasks.is_empty()
                && matches!(self.phase, Phase::Ready | Phase::Asleep)
                && self.reports.is_empty()
            {
                return self.say_goodbye().await;
            }
            if !draining && matches!(self.phase, Phase::Ready) {
                self.grab_if_permitted();
            }
            let probe_at = self.heard
                + self.plan.config.idle_probe
                + if self.is_probed {
                    self.plan.config.reply_deadline
                } else {
                    std::time::Duration::ZERO
                };
            tokio::select! {
                () = stop.cancelled(), if !draining => {
                    drain_until = Some(Instant::now() + self.plan.drain_deadline);
                    self.want_no_more();
                }
                () = tokio::time::sleep_until(drain_until.unwrap_or(probe_at)), if draining => return Ok(()),
                Some(report) = self.reports.recv(), if self.out.len() < OUT_BYTES_MAX => {
                    self.out.extend_from_slice(&report.packet);
                    drop(report);
                    while self.out.len() < OUT_BYTES_MAX && let Ok(report) = self.reports.try_recv() {
                        self.out.extend_from_slice(&report.packet);
                    }
                }
                permit = Arc::clone(&self.plan.permits).acquire_owned(), if !draining && matches!(self.phase, Phase::Ready) => {
                    if let Ok(permit) = permit {
                        self.grab(permit);
                    }
                }
                read = self.read.read_buf(&mut self.unread) => match read {
                    Ok(0) => return Err("closed by the server".into()),
                    Ok(_) => self.take_packets()?,
                    Err(error) => return Err(error.to_string()),
                },
                written = self.write.write_buf(&mut self.out), if !self.out.is_empty() => match written {
                    Ok(0) => return Err("closed by the server".into()),
                    Ok(_) => {}
                    Err(error) => return Err(error.to_string()),
                },
                Some(ended) = self.running.tasks.join_next() => {
                    if let Ok((task, handle)) = ended
                        && self.unwanted.get(&handle).is_some_and(|(of, _)| *of == task)
                    {
                        self.unwanted.remove(&handle);
                    }
                }
                () = tokio::time::sleep_until(probe_at) => {
                    if self.is_probed {
                        return Err("silent".into());
                    }
                    self.is_probed = true;
                    Request::Echo { data: b"probe" }.encode(&mut self.out);
                }
            }
        }
    }

    /// Asks for a job in the same write as what is already waiting, if there is room to run it.
    fn grab_if_permitted(&mut self) {
        if let Ok(permit) = Arc::clone(&self.plan.permits).try_acquire_owned() {
            self.grab(permit);
        }
    }

    fn grab(&mut self, permit: OwnedSemaphorePermit) {
        Request::GrabJob(self.plan.grab).encode(&mut self.out);
        self.phase = Phase::Asked(permit);
    }

    /// Tells a server that hands over jobs without being asked again to stop. Held jobs are not touched.
    fn want_no_more(&mut self) {
        let wants = self.plan.wants;
        match self.phase {
            Phase::Opening | Phase::Pushed => {
                Request::Option { name: b"push=0" }.encode(&mut self.out);
                self.asked.push_back(Asked::Other);
            }
            // It may never be answered otherwise.
            Phase::Asked(_) if wants.wait => Request::PreSleep.encode(&mut self.out),
            Phase::Ready | Phase::Asked(_) | Phase::Asleep => return,
        }
        Request::Echo { data: FENCE }.encode(&mut self.out);
    }

    async fn say_goodbye(&mut self) -> Result<(), String> {
        Request::ResetAbilities.encode(&mut self.out);
        let flush = async {
            self.write.write_all_buf(&mut self.out).await?;
            self.write.shutdown().await
        };
        match tokio::time::timeout(self.plan.config.reply_deadline, flush).await {
            Ok(Ok(())) => {}
            // The work is done and reported as far as the server takes it; a deaf server finds out by itself.
            Ok(Err(error)) => tracing::debug!(error = %error, "goodbye not heard"),
            Err(_) => tracing::debug!("goodbye not heard in time"),
        }
        Ok(())
    }

    fn take_packets(&mut self) -> Result<(), String> {
        self.heard = Instant::now();
        self.is_probed = false;
        let packet_bytes_max = self.plan.config.packet_bytes_max;
        loop {
            let consumed = match decode_response(&self.unread, packet_bytes_max)
                .map_err(|error| error.to_string())?
            {
                Step::Need(bytes) => {
                    let missing = bytes.saturating_sub(self.unread.len());
                    self.unread
                        .reserve(missing.clamp(READ_BYTES / 8, READ_BYTES));
                    return Ok(());
                }
                Step::Frame { consumed, .. } => consumed,
            };
            let frame = self.unread.split_to(consumed).freeze();
            let Ok(Step::Frame { message, .. }) = decode_response(&frame, packet_bytes_max) else {
                return Err("a frame changed while it was read".into());
            };
            self.take(message.map(|part| frame.slice_ref(part)))?;
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "whatever packet is added, a worker that did not ask for it gives up"
    )]
    fn take(&mut self, packet: Response<Bytes>) -> Result<(), String> {
        match packet {
            Response::Noop => {
                if matches!(self.phase, Phase::Asleep) {
                    self.phase = Phase::Ready;
                }
                Ok(())
            }
            Response::NoJob => {
                Request::PreSleep.encode(&mut self.out);
                self.phase = Phase::Asleep;
                Ok(())
            }
            Response::JobAssign {
                handle,
                function,
                workload,
            } => self.start(Given {
                handle,
                function,
                workload,
                ..Given::default()
            }),
            Response::JobAssignUnique {
                handle,
                function,
                unique,
                workload,
            } => {
                let (headers, workload) = self.without_headers(workload)?;
                self.start(Given {
                    handle,
                    function,
                    unique,
                    headers,
                    workload,
                    ..Given::default()
                })
            }
            Response::JobAssignAll {
                handle,
                function,
                unique,
                reducer,
                workload,
            } => self.start(Given {
                handle,
                function,
                unique,
                reducer,
                workload,
                ..Given::default()
            }),
            Response::Option { .. } => {
                self.learn(true);
                Ok(())
            }
            Response::Error { .. } if !self.asked.is_empty() => {
                self.learn(false);
                Ok(())
            }
            // Nobody wants this job any more.
            Response::WorkFail { handle } => {
                if let Some((_, unwanted)) = self.unwanted.get(&handle) {
                    unwanted.cancel();
                }
                Ok(())
            }
            Response::Echo { data } => {
                if data == FENCE {
                    // Gives the permit of an open question back.
                    self.phase = Phase::Asleep;
                }
                Ok(())
            }
            Response::Error { code, text } => {
                // A result that came too late, for instance. Nothing was lost here.
                tracing::debug!(code = %String::from_utf8_lossy(&code), text = %String::from_utf8_lossy(&text), "job server refused a report");
                Ok(())
            }
            other => Err(format!("a packet of type {} for clients", other.kind())),
        }
    }

    /// The answer to the oldest open option.
    fn learn(&mut self, is_known: bool) {
        match self.asked.pop_front() {
            Some(Asked::Push) => {
                self.phase = if is_known {
                    Phase::Pushed
                } else {
                    Phase::Ready
                }
            }
            Some(Asked::Headers) => self.has_headers = is_known,
            Some(Asked::Nack) => self.can.nack = is_known,
            Some(Asked::Touch) => self.can.touch = is_known,
            Some(Asked::Other) | None => {}
        }
    }

    fn start(&mut self, given: Given) -> Result<(), String> {
        let permit = match std::mem::replace(&mut self.phase, Phase::Ready) {
            Phase::Asked(permit) => Some(permit),
            Phase::Pushed => {
                self.phase = Phase::Pushed;
                None
            }
            Phase::Opening | Phase::Ready | Phase::Asleep => {
                return Err("a job nobody asked for".into());
            }
        };
        let task = self.running.next;
        self.running.next += 1;
        let unwanted = self.lost.child_token();
        self.unwanted
            .insert(given.handle.clone(), (task, unwanted.clone()));
        let job = Job {
            handle: given.handle,
            function: given.function,
            unique: given.unique,
            reducer: given.reducer,
            workload: given.workload,
            headers: given.headers,
            reports: self.reporter.clone(),
            lost: self.lost.clone(),
            unwanted,
            can: self.can,
        };
        let handler = self
            .plan
            .functions
            .get(&job.function)
            .map(|function| Arc::clone(&function.handler));
        let permits = Arc::clone(&self.plan.permits);
        self.running.tasks.spawn(async move {
            let named = (task, job.handle.clone());
            let permit = match permit {
                Some(permit) => permit,
                None => tokio::select! {
                    biased;
                    // Lost or cancelled before its turn: it is not begun, and nobody wants to hear of it.
                    () = job.cancelled() => return named,
                    permit = permits.acquire_owned() => match permit {
                        Ok(permit) => permit,
                        Err(_) => return named,
                    },
                },
            };
            run(job, handler, permit).await;
            named
        });
        Ok(())
    }

    /// Takes the headers off the front of a JOB_ASSIGN_UNIQ's workload.
    fn without_headers(&self, workload: Bytes) -> Result<(Bytes, Bytes), String> {
        if !self.has_headers {
            return Ok((Bytes::new(), workload));
        }
        let at = workload
            .iter()
            .position(|byte| *byte == 0)
            .ok_or("a job without the headers that were agreed on")?;
        Ok((workload.slice(..at), workload.slice(at + 1..)))
    }
}

async fn run(job: Job, handler: Option<Handler>, permit: OwnedSemaphorePermit) {
    let outcome = match handler {
        Some(handler) => {
            let reported = job.clone();
            // The handler itself may panic before it returns its future.
            AssertUnwindSafe(async move { handler(reported).await })
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Err(JobError::exception("worker panicked")))
        }
        None => Err(JobError::exception("function is not registered here")),
    };
    let handle = &job.handle;
    let seconds;
    let end = match &outcome {
        Ok(data) => Request::WorkComplete { handle, data },
        Err(JobError::Back { delay, reason }) if job.can_give_back() => {
            seconds = rounded_up(*delay).as_secs().to_string();
            Request::Nack {
                handle,
                delay: seconds.as_bytes(),
                data: reason,
            }
        }
        Err(JobError::Exception(data) | JobError::Back { reason: data, .. }) => {
            Request::WorkException { handle, data }
        }
        Err(JobError::Fail) => Request::WorkFail { handle },
    };
    job.end(&end, permit).await;
}

/// What a server is asked whether it can; one that cannot says so.
fn options(plan: &Plan) -> Vec<(String, Asked)> {
    let mut options = Vec::new();
    let token = plan.config.token.as_ref();
    options.extend(token.map(|token| (format!("auth={token}"), Asked::Other)));
    options.push(("cancel".to_owned(), Asked::Other));
    options.push(("nack".to_owned(), Asked::Nack));
    options.push(("touch".to_owned(), Asked::Touch));
    if plan.wants.headers {
        options.push(("headers".to_owned(), Asked::Headers));
    }
    if plan.wants.heartbeat {
        options.push(("heartbeat".to_owned(), Asked::Other));
    }
    if plan.wants.wait && plan.wants.push.is_none() {
        options.push(("wait".to_owned(), Asked::Other));
    }
    if let Some(jobs) = plan.wants.push {
        let form = match plan.grab {
            Grab::All => "push-all",
            Grab::Plain | Grab::Unique => "push",
        };
        options.push((format!("{form}={jobs}"), Asked::Push));
    }
    options
}

fn register(name: &[u8], function: &Function, out: &mut BytesMut) {
    match function.timeout {
        None => Request::CanDo { function: name }.encode(out),
        Some(timeout) => {
            let seconds = timeout.as_secs().max(1).to_string();
            Request::CanDoTimeout {
                function: name,
                timeout: seconds.as_bytes(),
            }
            .encode(out);
        }
    }
}

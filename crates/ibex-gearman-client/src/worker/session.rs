//! A worker's life with one server: connect, register, grab, sleep, report, and come back when the connection breaks.
//!
//! One GRAB_JOB is out at a time, and only while a permit to run is in hand, so a server never waits for a worker that is full. A finished job's
//! result and the next
//! GRAB_JOB leave in one write.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use ibex_gearman_proto::{Request, Response, Step, decode_response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::job::{Job, JobError, Report};
use super::{Function, Plan};
use crate::address::{Address, Stream};
use crate::client::jitter;
use crate::config::backoff;

/// Reports of running jobs that may wait for the socket; beyond it handlers wait, which is the backpressure of a slow server.
const REPORTS_MAX: usize = 256;
/// Unwritten bytes at which no further report is taken.
const OUT_BYTES_MAX: usize = 1 << 20;
/// Free room kept for one read.
const READ_BYTES: usize = 64 << 10;

/// Keeps a session with `address` until `stop`.
pub(crate) async fn keep(plan: Arc<Plan>, address: Address, stop: CancellationToken) {
    // Outlives the sessions, and ends with this future.
    let mut running = JoinSet::new();
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
    /// Free to ask for a job once there is a permit.
    Ready,
    /// GRAB_JOB is out; the permit is for its answer.
    Asked(OwnedSemaphorePermit),
    /// PRE_SLEEP is out; a NOOP wakes.
    Asleep,
}

struct Session<'p> {
    plan: &'p Plan,
    read: ReadHalf<Box<dyn Stream>>,
    write: WriteHalf<Box<dyn Stream>>,
    unread: BytesMut,
    out: BytesMut,
    phase: Phase,
    running: &'p mut JoinSet<()>,
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
    fn new(plan: &'p Plan, stream: Box<dyn Stream>, running: &'p mut JoinSet<()>) -> Self {
        let (read, write) = tokio::io::split(stream);
        let (reporter, reports) = mpsc::channel(REPORTS_MAX);
        let mut out = BytesMut::new();
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
            phase: Phase::Ready,
            running,
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
                && self.running.is_empty()
                && !matches!(self.phase, Phase::Asked(_))
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
                () = stop.cancelled(), if !draining => drain_until = Some(Instant::now() + self.plan.drain_deadline),
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
                Some(_) = self.running.join_next() => {}
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
            } => self.start(handle, function, Bytes::new(), Bytes::new(), workload),
            Response::JobAssignUnique {
                handle,
                function,
                unique,
                workload,
            } => self.start(handle, function, unique, Bytes::new(), workload),
            Response::JobAssignAll {
                handle,
                function,
                unique,
                reducer,
                workload,
            } => self.start(handle, function, unique, reducer, workload),
            Response::Error { code, text } => {
                // A result that came too late, for instance. Nothing was lost here.
                tracing::debug!(code = %String::from_utf8_lossy(&code), text = %String::from_utf8_lossy(&text), "job server refused a report");
                Ok(())
            }
            Response::Echo { .. } | Response::Option { .. } => Ok(()),
            other => Err(format!("a packet of type {} for clients", other.kind())),
        }
    }

    fn start(
        &mut self,
        handle: Bytes,
        function: Bytes,
        unique: Bytes,
        reducer: Bytes,
        workload: Bytes,
    ) -> Result<(), String> {
        let Phase::Asked(permit) = std::mem::replace(&mut self.phase, Phase::Ready) else {
            return Err("a job nobody asked for".into());
        };
        let job = Job {
            handle,
            function,
            unique,
            reducer,
            workload,
            reports: self.reporter.clone(),
            lost: self.lost.clone(),
        };
        let handler = self
            .plan
            .functions
            .get(&job.function)
            .map(|function| Arc::clone(&function.handler));
        self.running.spawn(async move {
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
            let end = match &outcome {
                Ok(data) => Request::WorkComplete { handle, data },
                Err(JobError::Exception(data)) => Request::WorkException { handle, data },
                Err(JobError::Fail) => Request::WorkFail { handle },
            };
            job.end(&end, permit).await;
        });
        Ok(())
    }
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

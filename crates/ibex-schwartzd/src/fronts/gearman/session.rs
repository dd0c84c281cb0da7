//! One connection of the job server: packets in order, jobs in its hands, and what wakes it while it sleeps.
//!
//! A sleeping worker is a fetch that waits: the job is taken for it before the NOOP goes out, so one job wakes one worker, and its GRAB_JOB finds the
//! job in hand. A worker that does not come for it within [`HAND_TIME_MAX`] (it may be busy for another server) loses it to the next, uncounted.
//!
//! Leases of a connection last as long as the connection, which the daemon extends by itself; a function with CAN_DO_TIMEOUT has a lease of that length
//! and no more. The end of the connection gives everything back.

use super::submit::job_of;
use super::{Front, admin};
use crate::held::Token;
use bytes::{Bytes, BytesMut};
use ibex_gearman_client as client;
use ibex_gearman_proto::{
    Decoder, ErrorCode, Grab, Incoming, Mode, Request, Response, Step, Submit,
};
use ibex_kit::Stream;
use ibex_schwartz::{Error, Finish, Finished, GrabbedJob, Handle};
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What stands before the handle of a durable job.
const PREFIX: &str = "S:";
/// A job taken for a sleeper waits so long for its GRAB_JOB.
const HAND_TIME_MAX: Duration = Duration::from_secs(1);
/// Free room kept for one read.
const READ_BYTES: usize = 64 << 10;
/// Bytes of a packet beside its workload: names, key and header.
const PACKET_EXTRA_BYTES: usize = 4096;
/// A peer that takes nothing for so long is closed.
const WRITE_TIME_MAX: Duration = Duration::from_secs(60);
/// Functions of one connection: as many as a fetch may name. Policy: ERROR.
const ABILITIES_MAX: usize = 1000;
/// Jobs in the hands of one connection. Policy: NO_JOB.
const HELD_MAX: usize = 1000;
/// Foreground jobs one connection waits for. Policy: ERROR.
const FORWARDED_MAX: usize = 1000;
/// Events of foreground jobs that wait for a slow reader; beyond it their server is read no more.
const RELAYED_MAX: usize = 64;
/// A lease is made longer when a third of it is over.
const EXTENSIONS_PER_LEASE: u32 = 3;

type Taken = Result<Vec<GrabbedJob>, Arc<Error>>;
type Sleep = Pin<Box<dyn Future<Output = Taken> + Send>>;

/// An ERROR packet.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) code: &'static str,
    pub(super) text: String,
}

impl Wrong {
    pub(super) fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}

/// A job the worker has.
#[derive(Debug)]
pub(super) struct InHands {
    pub(super) token: Token,
    /// The lease is the worker's whole time.
    is_bounded: bool,
    progress: (u32, u32),
}

/// One connection.
pub(super) struct Session {
    pub(super) front: Arc<Front>,
    id: u64,
    peer: String,
    stream: Stream,
    decoder: Decoder,
    unread: BytesMut,
    out: BytesMut,
    name: String,
    wants_exceptions: bool,
    /// Functions, and the time a run may take.
    abilities: BTreeMap<String, Option<u64>>,
    pub(super) held: BTreeMap<Handle, InHands>,
    /// Taken for it while it slept, and since when.
    hand: Option<(GrabbedJob, Instant)>,
    asleep: Option<Sleep>,
    /// The job whose exception came; some workers send WORK_FAIL after it.
    excepted: Option<Handle>,
    relayed: mpsc::Receiver<(client::Handle, Option<client::Event>)>,
    relay: mpsc::Sender<(client::Handle, Option<client::Event>)>,
    relaying: JoinSet<()>,
    forwarded: BTreeMap<Bytes, client::Handle>,
    is_closing: bool,
}

/// What a connection waits for.
enum Happening {
    Read(usize),
    Woken(Taken),
    Relayed(client::Handle, Option<client::Event>),
    Tick,
    Stop,
}

impl Session {
    pub(super) fn new(front: Arc<Front>, id: u64, peer: String, stream: Stream) -> Self {
        let (relay, relayed) = mpsc::channel(RELAYED_MAX);
        let packet_bytes_max = front.app.arg_bytes_max() + PACKET_EXTRA_BYTES;
        Self {
            front,
            id,
            name: peer.clone(),
            peer,
            stream,
            decoder: Decoder::new(packet_bytes_max),
            unread: BytesMut::new(),
            out: BytesMut::new(),
            wants_exceptions: false,
            abilities: BTreeMap::new(),
            held: BTreeMap::new(),
            hand: None,
            asleep: None,
            excepted: None,
            relayed,
            relay,
            relaying: JoinSet::new(),
            forwarded: BTreeMap::new(),
            is_closing: false,
        }
    }

    /// Serves until the peer goes, or `stop`.
    pub(super) async fn run(&mut self, stop: &CancellationToken) -> io::Result<()> {
        let lease = self.front.app.config.load().grab_for.std();
        let mut beat = tokio::time::interval(lease / EXTENSIONS_PER_LEASE);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.is_closing {
            match self.next(&mut beat, stop).await? {
                Happening::Read(0) | Happening::Stop => break,
                Happening::Read(_) => self.understand().await,
                Happening::Woken(taken) => self.woken(taken),
                Happening::Relayed(handle, event) => self.pass_on(&handle, event),
                Happening::Tick => self.keep().await,
            }
            self.write().await?;
        }
        Ok(())
    }

    async fn next(
        &mut self,
        beat: &mut tokio::time::Interval,
        stop: &CancellationToken,
    ) -> io::Result<Happening> {
        let patience = self.hand.as_ref().map(|(_, since)| *since + HAND_TIME_MAX);
        self.unread.reserve(READ_BYTES.min(self.decoder_room()));
        Ok(tokio::select! {
            read = self.stream.read_buf(&mut self.unread) => Happening::Read(read?),
            taken = sleeping(&mut self.asleep) => {
                self.asleep = None;
                Happening::Woken(taken)
            }
            Some((handle, event)) = self.relayed.recv() => Happening::Relayed(handle, event),
            _ = beat.tick(), if !self.held.is_empty() => Happening::Tick,
            () = until(patience), if patience.is_some() => Happening::Tick,
            () = stop.cancelled() => Happening::Stop,
        })
    }

    /// Idle connections keep no buffer: what is read is small until a packet says that it is not.
    fn decoder_room(&self) -> usize {
        if self.unread.is_empty() {
            4096
        } else {
            READ_BYTES
        }
    }

    /// Everything whole in the buffer; submissions that follow each other share a commit.
    async fn understand(&mut self) {
        let mut batch = Vec::new();
        loop {
            let consumed = match self.decoder.parse(&self.unread) {
                Ok(Step::Need(_)) => break,
                Ok(Step::Frame { consumed, .. }) => consumed,
                Err(error) => {
                    self.submit(std::mem::take(&mut batch)).await;
                    error.encode_farewell(&mut self.out);
                    self.is_closing = true;
                    return;
                }
            };
            let frame = self.unread.split_to(consumed).freeze();
            let Ok(Step::Frame { message, .. }) = self.decoder.parse(&frame) else {
                break;
            };
            if let Incoming::Request(Request::Submit(submit)) = &message
                && !self.is_forwarded(submit)
            {
                batch.push(job_of(submit, self.front.app.arg_bytes_max()));
                continue;
            }
            self.submit(std::mem::take(&mut batch)).await;
            match message {
                Incoming::Request(request) => self.handle(request).await,
                Incoming::Admin(command) => {
                    let text = admin::answer(&self.front, command).await;
                    self.out.extend_from_slice(&text);
                }
                Incoming::Refused(refusal) => {
                    let (code, text) = refusal.error();
                    self.wrong(&Wrong::new(code.as_str(), text));
                }
            }
        }
        self.submit(batch).await;
    }

    fn is_forwarded(&self, submit: &Submit<'_>) -> bool {
        !self.front.forward.is_empty()
            && submit.mode == Mode::Foreground
            && submit.epoch.is_none()
            && submit.schedule.is_none()
            && submit.reducer.is_none()
    }

    async fn submit(&mut self, batch: Vec<Result<ibex_schwartz::Job, Wrong>>) {
        let jobs: Vec<_> = batch
            .iter()
            .filter_map(|one| one.as_ref().ok().cloned())
            .collect();
        let mut handles = match jobs.is_empty() {
            true => Ok(Vec::new()),
            false => self.front.app.put_each(jobs).await,
        }
        .map(Vec::into_iter);
        for one in batch {
            match (one, &mut handles) {
                (Err(wrong), _) => self.wrong(&wrong),
                (Ok(_), Ok(handles)) => {
                    if let Some(handle) = handles.next() {
                        let handle = format!("{PREFIX}{handle}");
                        self.say(&Response::JobCreated { handle });
                    }
                }
                (Ok(_), Err(refusal)) => {
                    let wrong = Wrong::new(ErrorCode::QueueError.as_str(), refusal.message.clone());
                    self.wrong(&wrong);
                }
            }
        }
    }

    pub(super) fn say(&mut self, response: &Response<String>) {
        response.encode(&mut self.out);
    }

    pub(super) fn wrong(&mut self, wrong: &Wrong) {
        self.say(&Response::Error {
            code: wrong.code.to_owned(),
            text: wrong.text.clone(),
        });
    }

    pub(super) fn echo(&mut self, data: &[u8]) {
        Response::<&[u8]>::Echo { data }.encode(&mut self.out);
    }

    pub(super) fn want_exceptions(&mut self) {
        self.wants_exceptions = true;
    }

    /// Its name in lists.
    pub(super) fn rename(&mut self, name: String) {
        self.name.clone_from(&name);
        if let Some(seen) = self.front.seen().get_mut(&self.id) {
            seen.name = name;
        }
    }

    pub(super) fn can_do(&mut self, function: &[u8], timeout: Option<u64>) {
        let Ok(function) = std::str::from_utf8(function) else {
            return self.wrong(&Wrong::new(
                ErrorCode::InvalidFunctionName.as_str(),
                "function name is no UTF-8",
            ));
        };
        if self.abilities.len() >= ABILITIES_MAX && !self.abilities.contains_key(function) {
            return self.wrong(&Wrong::new(
                ErrorCode::QueueError.as_str(),
                format!("a connection has at most {ABILITIES_MAX} functions"),
            ));
        }
        self.abilities.insert(function.to_owned(), timeout);
        self.list_abilities();
    }

    pub(super) fn cannot_do(&mut self, function: &[u8]) {
        if let Ok(function) = std::str::from_utf8(function) {
            self.abilities.remove(function);
        }
        self.list_abilities();
    }

    pub(super) fn can_do_nothing(&mut self) {
        self.abilities.clear();
        self.list_abilities();
    }

    fn list_abilities(&self) {
        if let Some(seen) = self.front.seen().get_mut(&self.id) {
            seen.funcs = self.abilities.keys().cloned().collect();
        }
    }

    fn want(&self) -> Option<ibex_schwartz::Grab> {
        if self.abilities.is_empty() || self.held.len() >= HELD_MAX {
            return None;
        }
        let funcs = self.abilities.keys().cloned().collect();
        let mut want = self.front.app.want(funcs, 1, None).ok()?;
        want.prioritize = true;
        Some(want)
    }

    /// PRE_SLEEP: a fetch waits for it.
    pub(super) fn sleep(&mut self) {
        if self.hand.is_some() {
            return self.say(&Response::Noop);
        }
        if let Some(want) = self.want() {
            let hub = Arc::clone(&self.front.app.hub);
            self.asleep = Some(Box::pin(async move {
                // Longer than any connection lives.
                let until = Instant::now() + Duration::from_secs(365 * 86_400);
                hub.fetch(&want, until).await
            }));
        }
    }

    fn woken(&mut self, taken: Taken) {
        match taken {
            Ok(mut jobs) => {
                if let Some(job) = jobs.pop() {
                    self.hand = Some((job, Instant::now()));
                    self.say(&Response::Noop);
                }
            }
            Err(error) => {
                // It asks again, and is told NO_JOB, until the databases are back.
                tracing::debug!(conn = self.id, error = %error, "nothing can be taken now");
                self.say(&Response::Noop);
            }
        }
    }

    /// GRAB_JOB in its three forms.
    pub(super) async fn grab(&mut self, form: Grab) {
        self.asleep = None;
        let job = match self.hand.take() {
            Some((job, _)) if self.abilities.contains_key(&job.job.funcname) => Some(job),
            other => {
                if let Some((job, _)) = other {
                    self.front.app.hub.give_back(vec![job]).await;
                }
                self.take().await
            }
        };
        match job {
            Some(job) => self.assign(job, form).await,
            None => self.say(&Response::NoJob),
        }
    }

    async fn take(&mut self) -> Option<GrabbedJob> {
        let want = self.want()?;
        match self.front.app.hub.fetch(&want, Instant::now()).await {
            Ok(mut jobs) => jobs.pop(),
            Err(error) => {
                tracing::debug!(conn = self.id, error = %error, "nothing can be taken now");
                None
            }
        }
    }

    async fn assign(&mut self, job: GrabbedJob, form: Grab) {
        let app = Arc::clone(&self.front.app);
        let grab_for = app.config.load().grab_for.std().as_secs();
        let token = app.note_out(&job, &self.name, grab_for, Some(self.id));
        let bound = self.abilities.get(&job.job.funcname).copied().flatten();
        if let Some(seconds) = bound {
            // Its own length from here on; a lease that was lost meanwhile is noticed at the end of the run.
            if let Err(refusal) = app
                .end_run(&job.handle, token, Finish::Extend(seconds))
                .await
            {
                tracing::debug!(job = %job.handle, error = refusal.message, "lease has its first length");
            }
        }
        self.held.insert(
            job.handle.clone(),
            InHands {
                token,
                is_bounded: bound.is_some(),
                progress: (0, 0),
            },
        );
        let handle = format!("{PREFIX}{}", job.handle);
        let unique = job.job.uniqkey.unwrap_or_default();
        let response: Response<&[u8]> = match form {
            Grab::Plain => Response::JobAssign {
                handle: handle.as_bytes(),
                function: job.job.funcname.as_bytes(),
                workload: &job.job.arg,
            },
            Grab::Unique | Grab::All => Response::JobAssignUnique {
                handle: handle.as_bytes(),
                function: job.job.funcname.as_bytes(),
                unique: unique.as_bytes(),
                workload: &job.job.arg,
            },
        };
        response.encode(&mut self.out);
    }

    /// The handle of a job in these hands.
    pub(super) fn mine(&self, handle: &[u8]) -> Option<(Handle, Token)> {
        let handle = durable(handle)?;
        let token = self.held.get(&handle)?.token;
        Some((handle, token))
    }

    /// Ends a run; a job that is not in these hands is `missing`.
    pub(super) async fn end(&mut self, handle: &[u8], end: Finish, missing: &'static str) {
        let is_excepted = self.excepted.take();
        let Some((handle, token)) = self.mine(handle) else {
            if is_excepted.is_some() && is_excepted == durable(handle) {
                return;
            }
            return self.wrong(&Wrong::new(ErrorCode::JobNotFound.as_str(), missing));
        };
        match self.front.app.end_run(&handle, token, end).await {
            Ok((Finished::Extended(_), _)) => {}
            Ok(_) => drop(self.held.remove(&handle)),
            Err(refusal) if refusal.status.is_client_error() => {
                self.held.remove(&handle);
                self.wrong(&Wrong::new(ErrorCode::JobNotFound.as_str(), missing));
            }
            Err(refusal) => {
                // Still under its lease: the worker may say so again.
                self.wrong(&Wrong::new(ErrorCode::QueueError.as_str(), refusal.message));
            }
        }
    }

    pub(super) fn except(&mut self, handle: &[u8]) {
        self.excepted = durable(handle);
    }

    pub(super) fn progress(&mut self, handle: &[u8], numerator: &[u8], denominator: &[u8]) {
        let number = |text: &[u8]| {
            std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse().ok())
                .unwrap_or(0)
        };
        if let Some(handle) = durable(handle)
            && let Some(held) = self.held.get_mut(&handle)
        {
            held.progress = (number(numerator), number(denominator));
        }
    }

    pub(super) fn progress_of(&self, handle: &Handle) -> (u32, u32) {
        self.held.get(handle).map_or((0, 0), |held| held.progress)
    }

    /// Makes leases longer, and gives back what was taken for a sleeper that does not come.
    async fn keep(&mut self) {
        if self
            .hand
            .as_ref()
            .is_some_and(|(_, since)| since.elapsed() >= HAND_TIME_MAX)
            && let Some((job, _)) = self.hand.take()
        {
            self.front.app.hub.give_back(vec![job]).await;
        }
        let app = Arc::clone(&self.front.app);
        let grab_for = app.config.load().grab_for.std().as_secs();
        let mut lost = Vec::new();
        for (handle, held) in self.held.iter().filter(|(_, held)| !held.is_bounded) {
            if let Err(refusal) = app
                .end_run(handle, held.token, Finish::Extend(grab_for))
                .await
            {
                tracing::debug!(job = %handle, error = refusal.message, "lease cannot be made longer");
                if refusal.status.is_client_error() {
                    lost.push(handle.clone());
                }
            }
        }
        for handle in lost {
            self.held.remove(&handle);
        }
    }

    /// A foreground job goes to a job server that is meant for them.
    pub(super) async fn forward(&mut self, submit: &Submit<'_>) {
        if self.forwarded.len() >= FORWARDED_MAX {
            return self.wrong(&Wrong::new(
                ErrorCode::QueueError.as_str(),
                format!("a connection waits for at most {FORWARDED_MAX} jobs"),
            ));
        }
        let front = Arc::clone(&self.front);
        let submitted = async {
            let mut foreground = front
                .forwarding()
                .await?
                .submit(submit.function, Bytes::copy_from_slice(submit.workload))
                .priority(submit.priority);
            if !submit.unique.is_empty() {
                foreground = foreground.unique(Bytes::copy_from_slice(submit.unique));
            }
            foreground.await
        };
        match submitted.await {
            Ok(mut job) => {
                let handle = job.handle().clone();
                Response::<&[u8]>::JobCreated {
                    handle: handle.as_bytes(),
                }
                .encode(&mut self.out);
                self.forwarded
                    .insert(Bytes::copy_from_slice(handle.as_bytes()), handle.clone());
                let relay = self.relay.clone();
                self.relaying.spawn(async move {
                    loop {
                        // A server that is lost is a job that failed.
                        let event = job.next().await.unwrap_or(None);
                        let is_end = event.as_ref().is_none_or(client::Event::is_end);
                        if relay.send((handle.clone(), event)).await.is_err() || is_end {
                            return;
                        }
                    }
                });
            }
            Err(error) => self.wrong(&Wrong::new(
                ErrorCode::QueueError.as_str(),
                error.to_string(),
            )),
        }
    }

    fn pass_on(&mut self, handle: &client::Handle, event: Option<client::Event>) {
        while self.relaying.try_join_next().is_some() {}
        if event.as_ref().is_none_or(client::Event::is_end) {
            self.forwarded.remove(handle.as_bytes());
        }
        let handle = Bytes::copy_from_slice(handle.as_bytes());
        let response: Response<Bytes> = match event {
            Some(client::Event::Status {
                numerator,
                denominator,
            }) => Response::WorkStatus {
                handle,
                numerator: numerator.to_string().into(),
                denominator: denominator.to_string().into(),
            },
            Some(client::Event::Data(data)) => Response::WorkData { handle, data },
            Some(client::Event::Warning(data)) => Response::WorkWarning { handle, data },
            Some(client::Event::Complete(data)) => Response::WorkComplete { handle, data },
            Some(client::Event::Exception(data)) if self.wants_exceptions => {
                Response::WorkException { handle, data }
            }
            Some(client::Event::Exception(_) | client::Event::Fail) | None => {
                Response::WorkFail { handle }
            }
        };
        response.encode(&mut self.out);
    }

    pub(super) fn forwarded(&self, handle: &[u8]) -> Option<client::Handle> {
        self.forwarded.get(handle).cloned()
    }

    async fn write(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let written = tokio::time::timeout(WRITE_TIME_MAX, self.stream.write_all(&self.out)).await;
        self.out = BytesMut::new();
        written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Everything back.
    pub(super) async fn leave(&mut self) {
        self.asleep = None;
        if let Some((job, _)) = self.hand.take() {
            self.front.app.hub.give_back(vec![job]).await;
        }
        let app = Arc::clone(&self.front.app);
        app.give_back(app.leases.take_stream(self.id)).await;
        tracing::debug!(
            conn = self.id,
            peer = self.peer,
            "gearman connection closed"
        );
    }
}

/// The handle of a durable job.
pub(super) fn durable(handle: &[u8]) -> Option<Handle> {
    std::str::from_utf8(handle)
        .ok()?
        .strip_prefix(PREFIX)?
        .parse()
        .ok()
}

async fn sleeping(asleep: &mut Option<Sleep>) -> Taken {
    match asleep {
        Some(sleep) => sleep.await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

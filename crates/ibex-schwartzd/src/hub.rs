//! Who waits for which functions, and the grabs that serve them.
//!
//! Apart because it is the only place where inserts meet fetches. Fetches for the same functions that come together are served by one
//! grab, one transaction; a fetch that found nothing waits and is woken by exactly as many jobs as came. It keeps no jobs: the
//! tables do.
//!
//! A wake-up is a hint. It can come for nothing (another program was faster) and it must never be missing: an insert between a look
//! and the wait is remembered by the waiter's own flag, and once a second one waiter of each function that has a ready job is woken, whose success wakes
//! the next.

use crate::metrics::{Cause, CauseLabels, Metrics};
use ibex_kit::Kit;
use ibex_schwartz::{Client, Error, Grab, GrabbedJob, Only};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

/// Jobs one grab takes at most: a transaction of some milliseconds.
const GRAB_JOBS_MAX: usize = 1000;

type Answer = Result<Vec<GrabbedJob>, Arc<Error>>;

/// Fetches that one grab can serve together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    funcs: Vec<String>,
    grab_for: u64,
    prioritize: bool,
    floor: Option<u16>,
    coalesce: Option<String>,
    prefix: Option<String>,
}

struct Asked {
    max: usize,
    reply: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct Waiting {
    /// Waiters of each function, oldest first.
    by_func: BTreeMap<String, BTreeMap<u64, Arc<Bell>>>,
    /// Until when nothing of a function becomes due by itself.
    quiet_until: BTreeMap<String, Instant>,
    /// Functions to whose jobs something happened since the databases were asked last.
    touched: BTreeSet<String>,
    /// Fetches that have not been served yet; an entry exists while a task serves that kind.
    grabs: BTreeMap<Kind, VecDeque<Asked>>,
}

/// Wakes one waiter, and says why.
#[derive(Default)]
struct Bell {
    notify: Notify,
    cause: AtomicU8,
}

impl Bell {
    fn ring(&self, cause: Cause) {
        self.cause.store(cause.code(), Ordering::Relaxed);
        self.notify.notify_one();
    }

    fn cause(&self) -> Cause {
        Cause::from_code(self.cause.load(Ordering::Relaxed))
    }
}

/// The hub.
pub(crate) struct Hub {
    client: Client,
    kit: Kit,
    metrics: Arc<Metrics>,
    waiting: Mutex<Waiting>,
    next_id: AtomicU64,
    /// Told when the databases shall be asked for inserts of others at once.
    pub(crate) look: Notify,
    /// Cancelled when nothing more is handed out.
    pub(crate) closing: CancellationToken,
}

/// A place in the lists of waiters, left when dropped.
struct Place<'h> {
    hub: &'h Hub,
    funcs: &'h [String],
    id: u64,
    bell: Arc<Bell>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.hub.lock();
        for func in self.funcs {
            if let Some(waiters) = waiting.by_func.get_mut(func) {
                waiters.remove(&self.id);
                if waiters.is_empty() {
                    waiting.by_func.remove(func);
                }
            }
        }
        drop(waiting);
        self.hub.metrics.waiters.dec();
    }
}

/// The answer of a grab. Dropped while jobs are on their way, it gives them back: a fetch may be dropped at any moment.
struct Awaited<'h> {
    hub: &'h Arc<Hub>,
    answer: Option<oneshot::Receiver<Answer>>,
}

impl Awaited<'_> {
    async fn received(&mut self) -> Answer {
        let Some(answer) = &mut self.answer else {
            return Ok(Vec::new());
        };
        let received = answer.await;
        self.answer = None;
        received.unwrap_or_else(|_| Ok(Vec::new()))
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let Some(mut answer) = self.answer.take() else {
            return;
        };
        answer.close();
        if let Ok(Ok(jobs)) = answer.try_recv()
            && !jobs.is_empty()
        {
            let hub = Arc::clone(self.hub);
            self.hub
                .kit
                .spawn("give-back", async move { hub.give_back(jobs).await });
        }
    }
}

impl Place<'_> {
    /// Stands in every list again: a wake-up took this place out of one.
    fn stand(&self) {
        let mut waiting = self.hub.lock();
        for func in self.funcs {
            waiting
                .by_func
                .entry(func.clone())
                .or_default()
                .insert(self.id, Arc::clone(&self.bell));
        }
    }
}

impl Hub {
    pub(crate) fn new(client: Client, kit: Kit, metrics: Arc<Metrics>) -> Self {
        Self {
            client,
            kit,
            metrics,
            waiting: Mutex::default(),
            next_id: AtomicU64::new(1),
            look: Notify::new(),
            closing: CancellationToken::new(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes up to `jobs` waiters of a function after something this daemon did.
    pub(crate) fn wake(&self, func: &str, jobs: u64) {
        self.wake_for(Cause::Own, func, jobs);
    }

    /// Wakes up to `jobs` waiters of a function.
    pub(crate) fn wake_for(&self, cause: Cause, func: &str, jobs: u64) {
        let mut waiting = self.lock();
        waiting.quiet_until.remove(func);
        if waiting.by_func.contains_key(func) {
            waiting.touched.insert(func.to_owned());
        }
        let Some(waiters) = waiting.by_func.get_mut(func) else {
            return;
        };
        for _ in 0..jobs {
            let Some((_, bell)) = waiters.pop_first() else {
                break;
            };
            bell.ring(cause);
        }
        if waiters.is_empty() {
            waiting.by_func.remove(func);
        }
    }

    /// Wakes one waiter of each function: nobody knows whether there is something for it.
    pub(crate) fn tick(&self) {
        self.wake_each(Cause::Tick);
    }

    /// Wakes one waiter of each function.
    pub(crate) fn wake_each(&self, cause: Cause) {
        for func in self.waited_for() {
            self.wake_for(cause, &func, 1);
        }
    }

    /// Functions somebody waits for.
    fn waited_for(&self) -> Vec<String> {
        self.lock().by_func.keys().cloned().collect()
    }

    /// Those of them that may have a job by now: whose next job is due, to which something happened since that was found out, or of which nothing is
    /// known. With `all` what is known is forgotten.
    pub(crate) fn perhaps_due(&self, all: bool) -> Vec<String> {
        let now = Instant::now();
        let mut waiting = self.lock();
        let Waiting {
            by_func,
            quiet_until,
            touched,
            ..
        } = &mut *waiting;
        touched.clear();
        if all {
            quiet_until.clear();
        }
        let is_quiet = |func: &String| quiet_until.get(func).is_some_and(|until| *until > now);
        by_func
            .keys()
            .filter(|func| !is_quiet(func))
            .cloned()
            .collect()
    }

    /// Nothing of these functions is due before those moments, as far as the databases know.
    pub(crate) fn quiet(&self, until: Vec<(String, Instant)>) {
        let mut waiting = self.lock();
        for (func, until) in until {
            if waiting.by_func.contains_key(&func) && !waiting.touched.contains(&func) {
                waiting.quiet_until.insert(func, until);
            }
        }
    }

    /// Whether anybody waits.
    pub(crate) fn has_waiters(&self) -> bool {
        !self.lock().by_func.is_empty()
    }

    /// Jobs for one fetch: at once, or when some come before `until`; none after that or when the daemon closes.
    pub(crate) async fn fetch(
        self: &Arc<Self>,
        want: &Grab,
        until: Instant,
    ) -> Result<Vec<GrabbedJob>, Arc<Error>> {
        let started = Instant::now();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.metrics.waiters.inc();
        let place = Place {
            hub: self,
            funcs: &want.funcs,
            id,
            bell: Arc::default(),
        };
        let mut woken = None;
        loop {
            if self.closing.is_cancelled() {
                return Ok(Vec::new());
            }
            place.stand();
            let jobs = self.grab(want).await?;
            if !jobs.is_empty() {
                self.metrics
                    .pickup_seconds
                    .observe(started.elapsed().as_secs_f64());
                if let Some(cause) = woken {
                    self.picked_up(cause);
                }
                // There may be more than this fetch could take.
                for func in &want.funcs {
                    self.wake_for(woken.unwrap_or(Cause::Own), func, 1);
                }
                return Ok(jobs);
            }
            tokio::select! {
                () = place.bell.notify.notified() => woken = Some(place.bell.cause()),
                () = tokio::time::sleep_until(until.into()) => return Ok(Vec::new()),
                () = self.closing.cancelled() => return Ok(Vec::new()),
            }
        }
    }

    fn picked_up(&self, cause: Cause) {
        let by = cause.as_str();
        self.metrics
            .pickups
            .get_or_create(&CauseLabels { by })
            .inc();
    }

    /// Joins the grab of its kind that runs next.
    async fn grab(self: &Arc<Self>, want: &Grab) -> Answer {
        let (coalesce, prefix) = match &want.only {
            Only::Any => (None, None),
            Only::Coalesce(value) => (Some(value.clone()), None),
            Only::CoalescePrefix(prefix) => (None, Some(prefix.clone())),
            // By handle: nobody else can want the same.
            // In a place of its own: a fetch that waits must not be as large as a grab.
            Only::Job(_) => return Box::pin(self.client.grab(want)).await.map_err(Arc::new),
        };
        let mut funcs = want.funcs.clone();
        funcs.sort_unstable();
        let kind = Kind {
            funcs,
            grab_for: want.grab_for,
            prioritize: want.prioritize,
            floor: want.floor,
            coalesce,
            prefix,
        };
        let (reply, answer) = oneshot::channel();
        let mut answer = Awaited {
            hub: self,
            answer: Some(answer),
        };
        let asked = Asked {
            max: want.max,
            reply,
        };
        let is_new = {
            let mut waiting = self.lock();
            match waiting.grabs.get_mut(&kind) {
                Some(queue) => {
                    queue.push_back(asked);
                    false
                }
                None => {
                    waiting.grabs.insert(kind.clone(), VecDeque::from([asked]));
                    true
                }
            }
        };
        if is_new {
            let (hub, want) = (Arc::clone(self), want.clone());
            // A task of its own: a client that goes away must not take the others' grab with it.
            self.kit
                .spawn("grab", async move { hub.serve(kind, want).await });
        }
        answer.received().await
    }

    /// Makes jobs ready again that nobody got; no failure is counted.
    pub(crate) async fn give_back(&self, jobs: Vec<GrabbedJob>) {
        for job in jobs {
            if let Err(error) = job.database.release_job(job.job.jobid, job.lease).await {
                tracing::debug!(job = %job.handle, error = %error, "job comes back when its lease ends");
            }
            self.wake(&job.job.funcname, 1);
        }
    }

    /// Serves a kind until no fetch of it is left.
    async fn serve(&self, kind: Kind, want: Grab) {
        loop {
            let batch: Vec<Asked> = {
                let mut waiting = self.lock();
                let Some(queue) = waiting.grabs.get_mut(&kind) else {
                    return;
                };
                let mut sum = 0;
                let mut batch = Vec::new();
                while let Some(asked) =
                    queue.pop_front_if(|asked| sum == 0 || sum + asked.max <= GRAB_JOBS_MAX)
                {
                    sum += asked.max;
                    batch.push(asked);
                }
                if batch.is_empty() {
                    waiting.grabs.remove(&kind);
                    return;
                }
                batch
            };
            let max = batch.iter().map(|asked| asked.max).sum();
            let outcome = self
                .client
                .grab(&Grab {
                    max,
                    ..want.clone()
                })
                .await;
            match outcome {
                Ok(jobs) => {
                    if !jobs.is_empty() {
                        self.metrics
                            .group_jobs
                            .observe(f64::from(u32::try_from(jobs.len()).unwrap_or(u32::MAX)));
                    }
                    self.deal(batch, jobs).await;
                }
                Err(error) => {
                    let error = Arc::new(error);
                    for asked in batch {
                        drop(asked.reply.send(Err(Arc::clone(&error))));
                    }
                }
            }
        }
    }

    /// Deals jobs out in the order the fetches came; what a client that went away had is given back.
    async fn deal(&self, batch: Vec<Asked>, jobs: Vec<GrabbedJob>) {
        let mut jobs = jobs.into_iter();
        let mut back = Vec::new();
        for asked in batch {
            let mine: Vec<GrabbedJob> = jobs.by_ref().take(asked.max).collect();
            if let Err(Ok(unwanted)) = asked.reply.send(Ok(mine)) {
                back.extend(unwanted);
            }
        }
        back.extend(jobs);
        self.give_back(back).await;
    }
}

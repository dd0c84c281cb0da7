//! Leases this daemon gave out: the token clients show, and the database value behind it.
//!
//! Apart because the token outlives changes of the value: an extended lease has a new value in the row and the same token. Nothing
//! here is needed for correctness after a restart; a token alone names job and value, and the database decides.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ibex_base::rng::Rng;
use ibex_schwartz::{Database, GrabbedJob, RetryPolicy};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// What a client shows to touch a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) jobid: u64,
    pub(crate) value: u64,
    pub(crate) nonce: u64,
}

impl Token {
    pub(crate) fn encode(self) -> String {
        let mut bytes = Vec::with_capacity(24);
        for part in [self.jobid, self.value, self.nonce] {
            bytes.extend(part.to_be_bytes());
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub(crate) fn decode(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let bytes: [u8; 24] = bytes.try_into().ok()?;
        let part = |start: usize| {
            bytes
                .get(start..start + 8)
                .and_then(|part| part.try_into().ok())
                .map(u64::from_be_bytes)
        };
        Some(Self {
            jobid: part(0)?,
            value: part(8)?,
            nonce: part(16)?,
        })
    }
}

/// A lease that is out.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) database: Database,
    pub(crate) jobid: u64,
    pub(crate) func: String,
    pub(crate) worker: String,
    pub(crate) attempt: u32,
    /// The value in the row now.
    pub(crate) value: u64,
    nonce: u64,
    pub(crate) since: Instant,
    expires: Instant,
    /// The connection whose end gives the job back.
    stream: Option<u64>,
    /// Someone asked to stop this run.
    pub(crate) is_cancelled: bool,
    /// What the worker said of failures when it fetched.
    policy: Option<RetryPolicy>,
}

type Key = (String, u64);

/// What a stream has in hand.
#[derive(Debug, Default)]
pub(crate) struct Hand {
    jobs: AtomicUsize,
    freed: Notify,
}

impl Hand {
    /// Jobs in hand.
    pub(crate) fn jobs(&self) -> usize {
        self.jobs.load(Ordering::Relaxed)
    }

    /// Returns when one of them went, or had gone since this was asked last. One caller at a time.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }
}

/// All leases that are out.
#[derive(Debug)]
pub(crate) struct Leases {
    held: Mutex<BTreeMap<Key, Held>>,
    /// Of streams that asked to be told. Locked alone, or while `held` is.
    hands: Mutex<BTreeMap<u64, Arc<Hand>>>,
    rng: Mutex<Rng>,
    next_stream: AtomicU64,
    /// Told when the last one is back.
    pub(crate) returned: Notify,
}

impl Held {
    /// What its worker said of failures when it fetched.
    pub(crate) fn policy(&self) -> Option<RetryPolicy> {
        self.policy.clone()
    }
}

impl Leases {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            held: Mutex::default(),
            hands: Mutex::default(),
            rng: Mutex::new(Rng::new(seed)),
            next_stream: AtomicU64::new(1),
            returned: Notify::new(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name for a connection whose end gives its jobs back.
    pub(crate) fn new_stream(&self) -> u64 {
        self.next_stream.fetch_add(1, Ordering::Relaxed)
    }

    /// What a stream has in hand, counted from now until it ends.
    pub(crate) fn hand(&self, stream: u64) -> Arc<Hand> {
        Arc::clone(self.hands().entry(stream).or_default())
    }

    fn hands(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<Hand>>> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job is in a stream's hand.
    fn took(&self, held: &Held) {
        if let Some(hand) = held.stream.and_then(|id| self.hands().get(&id).cloned()) {
            hand.jobs.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It is no more.
    fn let_go(&self, held: &Held) {
        if let Some(hand) = held.stream.and_then(|id| self.hands().get(&id).cloned()) {
            hand.jobs.fetch_sub(1, Ordering::Relaxed);
            hand.freed.notify_one();
        }
    }

    /// Notes a hand-out; the token goes to the client.
    pub(crate) fn add(
        &self,
        job: &GrabbedJob,
        worker: &str,
        grab_for: u64,
        stream: Option<u64>,
    ) -> Token {
        let nonce = self
            .rng
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next_u64();
        let now = Instant::now();
        let held = Held {
            database: job.database.clone(),
            jobid: job.job.jobid,
            func: job.job.funcname.clone(),
            worker: worker.to_owned(),
            attempt: job.attempt,
            value: job.lease,
            nonce,
            since: now,
            expires: now + Duration::from_secs(grab_for),
            stream,
            is_cancelled: false,
            policy: None,
        };
        self.took(&held);
        let key = (job.handle.database().to_owned(), job.job.jobid);
        if let Some(before) = self.lock().insert(key, held) {
            self.let_go(&before);
        }
        Token {
            jobid: job.job.jobid,
            value: job.lease,
            nonce,
        }
    }

    /// Notes what the worker of a lease said of failures.
    pub(crate) fn set_policy(&self, database: &str, jobid: u64, policy: RetryPolicy) {
        if let Some(held) = self.lock().get_mut(&(database.to_owned(), jobid)) {
            held.policy = Some(policy);
        }
    }

    /// What the worker that has a job said of failures; `None` when this daemon gave no lease on it.
    pub(crate) fn policy_on(&self, database: &str, jobid: u64) -> Option<RetryPolicy> {
        self.lock()
            .get(&(database.to_owned(), jobid))
            .and_then(|held| held.policy.clone())
    }

    /// What the worker that shows this token said of failures.
    pub(crate) fn policy(&self, database: &str, token: Token) -> Option<RetryPolicy> {
        self.lock()
            .get(&(database.to_owned(), token.jobid))
            .filter(|held| held.nonce == token.nonce)
            .and_then(|held| held.policy.clone())
    }

    /// The value a token stands for now, and what is known of the run; `None` when a newer lease of ours is out for that job.
    pub(crate) fn value(&self, database: &str, token: Token) -> Option<(u64, Option<Held>)> {
        match self.lock().get(&(database.to_owned(), token.jobid)) {
            Some(held) if held.nonce == token.nonce => Some((held.value, Some(held.clone()))),
            Some(_) => None,
            // Given out by another daemon or before a restart.
            None => Some((token.value, None)),
        }
    }

    /// Notes a longer lease; answers whether the run shall stop.
    pub(crate) fn extended(&self, database: &str, jobid: u64, value: u64, grab_for: u64) -> bool {
        match self.lock().get_mut(&(database.to_owned(), jobid)) {
            Some(held) => {
                held.value = value;
                held.expires = Instant::now() + Duration::from_secs(grab_for);
                held.is_cancelled
            }
            None => false,
        }
    }

    /// The lease that is out on a job, as its token; `None` when this daemon gave none.
    pub(crate) fn token(&self, database: &str, jobid: u64) -> Option<Token> {
        self.lock()
            .get(&(database.to_owned(), jobid))
            .map(|held| Token {
                jobid,
                value: held.value,
                nonce: held.nonce,
            })
    }

    /// The function of a job that is out; empty when this daemon gave no lease on it.
    pub(crate) fn func(&self, database: &str, jobid: u64) -> String {
        let held = self.lock();
        let found = held.get(&(database.to_owned(), jobid));
        found.map_or_else(String::new, |held| held.func.clone())
    }

    /// The run is over, or the lease is lost.
    pub(crate) fn remove(&self, database: &str, jobid: u64) -> Option<Held> {
        let mut held = self.lock();
        let removed = held.remove(&(database.to_owned(), jobid));
        if let Some(removed) = &removed {
            self.let_go(removed);
        }
        if held.is_empty() {
            self.returned.notify_waiters();
        }
        removed
    }

    /// Asks the worker of a job to stop; `false` when it is not one of ours.
    pub(crate) fn cancel(&self, database: &str, jobid: u64) -> bool {
        match self.lock().get_mut(&(database.to_owned(), jobid)) {
            Some(held) => {
                held.is_cancelled = true;
                true
            }
            None => false,
        }
    }

    /// Takes out those that ran out before `grace` ago.
    pub(crate) fn take_expired(&self, grace: Duration) -> Vec<Held> {
        let now = Instant::now();
        self.take(|held| held.expires + grace <= now)
    }

    /// Takes out those of a connection that ended.
    pub(crate) fn take_stream(&self, stream: u64) -> Vec<Held> {
        let taken = self.take(|held| held.stream == Some(stream));
        self.hands().remove(&stream);
        taken
    }

    /// Takes out those of a worker that said goodbye.
    pub(crate) fn take_worker(&self, worker: &str) -> Vec<Held> {
        self.take(|held| held.worker == worker)
    }

    /// Takes out all.
    pub(crate) fn take_all(&self) -> Vec<Held> {
        self.take(|_| true)
    }

    fn take(&self, wanted: impl Fn(&Held) -> bool) -> Vec<Held> {
        let mut held = self.lock();
        let keys: Vec<Key> = held
            .iter()
            .filter(|(_, one)| wanted(one))
            .map(|(key, _)| key.clone())
            .collect();
        let taken: Vec<Held> = keys.iter().filter_map(|key| held.remove(key)).collect();
        for one in &taken {
            self.let_go(one);
        }
        if held.is_empty() {
            self.returned.notify_waiters();
        }
        taken
    }

    /// Leases out now.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// How many each worker with a name has.
    pub(crate) fn count_by_worker(&self) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for held in self.lock().values().filter(|held| !held.worker.is_empty()) {
            match counts.get_mut(&held.worker) {
                Some(count) => *count += 1,
                None => drop(counts.insert(held.worker.clone(), 1)),
            }
        }
        counts
    }

    /// All, for pages.
    pub(crate) fn all(&self) -> Vec<Held> {
        self.lock().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_their_text() {
        let token = Token {
            jobid: 7,
            value: 1_800_000_000,
            nonce: u64::MAX,
        };
        assert_eq!(Token::decode(&token.encode()), Some(token));
        assert_eq!(token.encode().len(), 32);
        for text in [
            "",
            "x",
            "!!!!",
            &"A".repeat(31),
            &"A".repeat(33),
            &"A".repeat(100_000),
        ] {
            assert_eq!(Token::decode(text), None, "{}", text.len());
        }
    }
}

//! Workers with a name that ask this daemon, and the list of all daemons' workers that the databases hold.
//!
//! Apart from leases, because a worker that waits is there, too, and from orders, which are what people want. A worker costs a row every few
//! seconds while it lives, nothing per call.

use crate::api::App;
use crate::http::Refusal;
use ibex_schwartz::{Error, SeenWorker, WORKER_DEAD_SECONDS};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Workers this daemon knows at once. Policy: more work as any other and are not listed.
pub(crate) const WORKERS_MAX: usize = 10_000;
/// Characters of a name. Policy: 400.
const NAME_CHARS_MAX: usize = 255;
/// How often the databases are told, and asked for orders.
const NOTE_EVERY: Duration = Duration::from_secs(2);
/// A worker that waits is told of again this often.
const TELL_AGAIN: Duration = Duration::from_secs(20);
/// Longest pause while no database answers.
const AWAY_MAX: Duration = Duration::from_secs(60);

/// A worker that asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) funcs: Vec<String>,
    /// When it was heard of; the end of its wait while it waits.
    pub(crate) last: Instant,
    /// When the databases were told, unless it asked since.
    told: Option<Instant>,
}

impl Asked {
    /// Seconds since it was heard of.
    pub(crate) fn age(&self) -> u64 {
        self.last.elapsed().as_secs()
    }
}

/// All that asked within a minute.
#[derive(Debug, Default)]
pub(crate) struct Roster(Mutex<BTreeMap<String, Asked>>);

impl Roster {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Asked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a worker asks, and will wait for so long. One without a name is nobody.
    ///
    /// # Errors
    /// A name that is too long or has controls in it.
    pub(crate) fn saw(
        &self,
        worker: &str,
        funcs: &[String],
        wait: Duration,
    ) -> Result<(), Refusal> {
        if worker.is_empty() {
            return Ok(());
        }
        Self::check(worker)?;
        let mut asked = self.lock();
        let (last, is_full) = (Instant::now() + wait, asked.len() >= WORKERS_MAX);
        match asked.get_mut(worker) {
            Some(known) => {
                if known.funcs != funcs {
                    known.funcs = funcs.to_vec();
                }
                (known.last, known.told) = (last, None);
            }
            None if is_full => {}
            None => {
                let new = Asked {
                    funcs: funcs.to_vec(),
                    last,
                    told: None,
                };
                asked.insert(worker.to_owned(), new);
            }
        }
        Ok(())
    }

    /// Workers that have jobs live, though they ask for nothing.
    fn busy<'w>(&self, workers: impl Iterator<Item = &'w String>) {
        let mut asked = self.lock();
        let last = Instant::now() + NOTE_EVERY;
        for worker in workers {
            if let Some(known) = asked.get_mut(worker) {
                known.last = known.last.max(last);
            }
        }
    }

    /// It said goodbye.
    pub(crate) fn forget(&self, worker: &str) {
        self.lock().remove(worker);
    }

    /// Whether it can be a worker's name.
    pub(crate) fn check(worker: &str) -> Result<(), Refusal> {
        let count = worker.chars().count();
        if count == 0 || count > NAME_CHARS_MAX || worker.chars().any(char::is_control) {
            return Err(Refusal::bad_request(
                "a worker's name has 1 to 255 characters, none of them a control",
            ));
        }
        Ok(())
    }

    /// Those that asked within a minute.
    pub(crate) fn all(&self) -> BTreeMap<String, Asked> {
        self.lock().clone()
    }

    /// Forgets the dead; answers how many are left, and those the databases do not know of yet.
    fn news(&self) -> (usize, Vec<(String, Asked)>) {
        let (mut asked, now) = (self.lock(), Instant::now());
        asked.retain(|_, one| one.last.elapsed() <= Duration::from_secs(WORKER_DEAD_SECONDS));
        let news = asked
            .iter_mut()
            .filter(|(_, one)| {
                one.told
                    .is_none_or(|told| one.last > now && told + TELL_AGAIN <= now)
            })
            .map(|(name, one)| {
                one.told = Some(now);
                (name.clone(), one.clone())
            })
            .collect();
        (asked.len(), news)
    }
}

/// Tells the databases who asked, and hears what people want of whom, every few seconds.
pub(crate) async fn keep(app: Arc<App>) {
    let mut pause = NOTE_EVERY;
    loop {
        tokio::time::sleep(pause).await;
        pause = match note(&app).await {
            Ok(()) => NOTE_EVERY,
            // Without tables of our own workers are known to their daemon alone.
            Err(Error::Config(_)) => AWAY_MAX,
            Err(error) => {
                tracing::debug!(error = %error, "workers cannot be noted now");
                (pause * 2).min(AWAY_MAX)
            }
        };
    }
}

async fn note(app: &App) -> Result<(), Error> {
    let running = app.leases.count_by_worker();
    app.roster.busy(running.keys());
    let (count, news) = app.roster.news();
    app.metrics
        .workers
        .set(i64::try_from(count).unwrap_or(i64::MAX));
    if !news.is_empty() {
        let seen: Vec<SeenWorker> = news
            .into_iter()
            .map(|(id, one)| SeenWorker {
                running: running.get(&id).copied().unwrap_or(0),
                id,
                age: one.age(),
                funcs: one.funcs,
            })
            .collect();
        app.client.note_workers(&app.name, &seen).await?;
    }
    let before = app.orders.changes();
    app.orders.learn(before, app.client.worker_orders().await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_is_news_once_and_the_list_is_bounded() {
        let roster = Roster::default();
        let funcs = vec!["f".to_owned()];
        roster.saw("", &funcs, Duration::ZERO).unwrap();
        roster.saw("w", &funcs, Duration::ZERO).unwrap();
        let (count, news) = roster.news();
        assert_eq!((count, news.len()), (1, 1));
        assert_eq!(news[0].1.funcs, funcs);
        assert_eq!(roster.news().1.len(), 0);
        roster.saw("w", &funcs, Duration::ZERO).unwrap();
        assert_eq!(roster.news().1.len(), 1);
        for n in 0..WORKERS_MAX + 5 {
            roster
                .saw(&format!("n{n}"), &funcs, Duration::ZERO)
                .unwrap();
        }
        assert_eq!(roster.news().0, WORKERS_MAX);
        assert!(roster.saw(&"x".repeat(255), &funcs, Duration::ZERO).is_ok());
        assert!(
            roster
                .saw(&"x".repeat(256), &funcs, Duration::ZERO)
                .is_err()
        );
        assert!(roster.saw("a\nb", &funcs, Duration::ZERO).is_err());
    }
}

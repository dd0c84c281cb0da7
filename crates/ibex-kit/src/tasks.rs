//! Tracked tasks: none is anonymous, none outlives the process's end unnoticed, none may panic and leave the rest running.
//!
//! Owns the list of live tasks and the count of work in flight. It decides no deadlines; the drain does.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio_util::task::TaskTracker;

use crate::lock;

#[derive(Debug)]
struct Entry {
    name: String,
    spawned: Instant,
    /// Milliseconds after `spawned`.
    last_poll: AtomicU64,
    polls: AtomicU64,
}

impl Entry {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            spawned: Instant::now(),
            last_poll: AtomicU64::new(0),
            polls: AtomicU64::new(0),
        }
    }
}

/// One task as the admin port shows it.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct TaskView {
    pub(crate) name: String,
    pub(crate) age_seconds: f64,
    pub(crate) idle_seconds: f64,
    pub(crate) polls: u64,
}

#[derive(Debug, Default)]
struct List {
    live: Mutex<BTreeMap<u64, Arc<Entry>>>,
    next: AtomicU64,
}

/// All tasks of the process.
#[derive(Debug)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    list: Arc<List>,
    fatal: tokio::sync::watch::Sender<Option<String>>,
    busy: Arc<AtomicUsize>,
    busy_changed: Arc<tokio::sync::Notify>,
}

impl Default for Tasks {
    fn default() -> Self {
        let (fatal, _) = tokio::sync::watch::channel(None);
        Self {
            tracker: TaskTracker::new(),
            list: Arc::default(),
            fatal,
            busy: Arc::default(),
            busy_changed: Arc::default(),
        }
    }
}

/// Held while work is in flight; a drain waits until none is held.
#[derive(Debug)]
pub struct BusyGuard {
    busy: Arc<AtomicUsize>,
    changed: Arc<tokio::sync::Notify>,
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        if self.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.changed.notify_waiters();
        }
    }
}

impl Tasks {
    pub(crate) fn spawn<F>(&self, name: &str, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let listed = self.list(Entry::new(name));
        self.tracker.spawn(Tracked {
            future: Box::pin(future),
            listed,
        })
    }

    /// The same book-keeping for a thread: the closure is to be run on it.
    pub(crate) fn tracked(
        &self,
        name: &str,
        work: impl FnOnce() + Send + 'static,
    ) -> impl FnOnce() + Send + 'static {
        let listed = self.list(Entry::new(name));
        let token = self.tracker.token();
        move || {
            let _tracked = (listed, token);
            work();
        }
    }

    fn list(&self, entry: Entry) -> Listed {
        let entry = Arc::new(entry);
        let id = self.list.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.list.live).insert(id, Arc::clone(&entry));
        Listed {
            id,
            entry,
            list: Arc::clone(&self.list),
            fatal: self.fatal.clone(),
        }
    }

    pub(crate) fn busy(&self) -> BusyGuard {
        self.busy.fetch_add(1, Ordering::AcqRel);
        BusyGuard {
            busy: Arc::clone(&self.busy),
            changed: Arc::clone(&self.busy_changed),
        }
    }

    pub(crate) fn busy_count(&self) -> usize {
        self.busy.load(Ordering::Acquire)
    }

    /// Until no work is in flight and every task has ended.
    pub(crate) async fn idle(&self) {
        self.tracker.close();
        self.tracker.wait().await;
        loop {
            let changed = self.busy_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.busy_count() == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Resolves with the name of a task that panicked.
    pub(crate) async fn fatal(&self) -> String {
        let mut fatal = self.fatal.subscribe();
        match fatal.wait_for(Option::is_some).await {
            Ok(name) => name.clone().unwrap_or_default(),
            // The sender lives in `self`, so this cannot end.
            Err(_) => std::future::pending().await,
        }
    }

    pub(crate) fn view(&self) -> Vec<TaskView> {
        let view = |entry: &Arc<Entry>| {
            let age = entry.spawned.elapsed();
            let last = std::time::Duration::from_millis(entry.last_poll.load(Ordering::Relaxed));
            TaskView {
                name: entry.name.clone(),
                age_seconds: age.as_secs_f64(),
                idle_seconds: age.saturating_sub(last).as_secs_f64(),
                polls: entry.polls.load(Ordering::Relaxed),
            }
        };
        lock(&self.list.live).values().map(view).collect()
    }

    /// The names of live tasks, each with how many there are.
    pub(crate) fn names(&self) -> BTreeMap<String, usize> {
        let mut names = BTreeMap::new();
        for entry in lock(&self.list.live).values() {
            *names.entry(entry.name.clone()).or_insert(0) += 1;
        }
        names
    }
}

/// The entry of a running task; its drop takes it off the list, and reports a panic.
struct Listed {
    id: u64,
    entry: Arc<Entry>,
    list: Arc<List>,
    fatal: tokio::sync::watch::Sender<Option<String>>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        lock(&self.list.live).remove(&self.id);
        if std::thread::panicking() {
            self.fatal.send_replace(Some(self.entry.name.clone()));
        }
    }
}

struct Tracked<F> {
    future: Pin<Box<F>>,
    listed: Listed,
}

impl<F: Future> Future for Tracked<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let entry = &self.listed.entry;
        entry.last_poll.store(
            u64::try_from(entry.spawned.elapsed().as_millis()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
        entry.polls.fetch_add(1, Ordering::Relaxed);
        self.future.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_reported_by_name() {
        let tasks = Tasks::default();
        let handle = tasks.spawn("fragile", async { panic!("as the test wants") });
        assert!(handle.await.is_err());
        assert_eq!(tasks.fatal().await, "fragile");
    }

    #[tokio::test]
    async fn a_thread_is_waited_for_and_its_panic_reported() {
        let tasks = Tasks::default();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let thread =
            std::thread::spawn(tasks.tracked("looper", move || assert!(released.recv().is_err())));
        assert_eq!(tasks.names().get("looper"), Some(&1));
        drop(release);
        tasks.idle().await;
        thread.join().unwrap();
        let thread = std::thread::spawn(tasks.tracked("cracked", || panic!("as the test wants")));
        assert!(thread.join().is_err());
        assert_eq!(tasks.fatal().await, "cracked");
    }

    #[tokio::test]
    async fn idle_waits_for_tasks_and_guards() {
        let tasks = Arc::new(Tasks::default());
        let guard = tasks.busy();
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn("work", released);
        assert_eq!(tasks.names().get("work"), Some(&1));
        let waiting = tokio::spawn({
            let tasks = Arc::clone(&tasks);
            async move { tasks.idle().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        release.send(()).unwrap();
        drop(guard);
        waiting.await.unwrap();
        assert!(tasks.view().is_empty());
    }
}

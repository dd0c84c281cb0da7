//! Warm restart: a daemon that is told to stop gracefully writes its items to a file, the next one takes them up.
//!
//! ```text
//! FILE       block block block …    items in carried form, cut into blocks of about a megabyte, each with its digest
//! FILE.meta  text                   how long FILE is, how many items, clock and cas counter, digest of itself
//! ```
//! FILE.meta is written last and taken away before anything is read, so a process that dies in between leaves nothing that looks whole. Items are carried, not
//! their memory: number of shards, memory, item size and class table may all change. Why not a mapped file: docs/notes/2026-11-warm-restart.md.

mod blocks;
mod meta;

use crate::clock::Clock;
use crate::config::Config;
use crate::shared::Shared;
use crate::store::{Restored, Store};
use blocks::{Reader, Writer};
use ibex_kit::{Failure, Kit};
use meta::Meta;
use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The service manager is asked for this much more time with each sign of progress.
const MORE_TIME: Duration = Duration::from_secs(30);

fn meta_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".meta");
    PathBuf::from(name)
}

fn failed(path: &Path, what: &str) -> impl Fn(io::Error) -> Failure {
    let path = path.display().to_string();
    let what = what.to_owned();
    move |error| Failure::io(format!("memory_file {path}: {what}: {error}"))
}

fn refused(path: &Path, reason: &str) -> Failure {
    let meta = meta_path(path);
    Failure::config(format!(
        "memory_file {}: {reason}; remove {} to start empty",
        path.display(),
        meta.display()
    ))
}

fn threads(config: &Config) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    processors.min(config.threads as usize).max(1)
}

/// What an earlier process left.
#[derive(Debug)]
pub(crate) struct Left {
    path: PathBuf,
    file: File,
    meta: Meta,
    text: Vec<u8>,
}

impl Left {
    /// Looks whether an earlier process left items in the configured file. Nothing is read yet but what describes them.
    pub(crate) fn find(config: &Config) -> Result<Option<Self>, Failure> {
        if config.memory_file.is_empty() {
            return Ok(None);
        }
        let path = PathBuf::from(&config.memory_file);
        // Opened for writing although it is read: that it can be written is better known now than at the end.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed(&path, "open"))?;
        let text = match std::fs::read(meta_path(&path)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&meta_path(&path), "read")(error)),
        };
        let meta = Meta::parse(&text).map_err(|reason| refused(&path, &reason))?;
        let bytes = file.metadata().map_err(failed(&path, "look"))?.len();
        if bytes != meta.bytes {
            let reason = format!(
                "holds {bytes} bytes, not the {} that were written",
                meta.bytes
            );
            return Err(refused(&path, &reason));
        }
        Ok(Some(Self {
            path,
            file,
            meta,
            text,
        }))
    }

    /// A clock that goes on where the other one ended.
    pub(crate) fn clock(&self) -> Clock {
        Clock::resumed(self.meta.zero_unix, self.meta.now)
    }

    /// The other process's seed: with it every item finds the room it had, so that a full cache loses none. Files of before it was kept have none.
    pub(crate) fn seed(&self) -> Option<u64> {
        self.meta.seed
    }

    /// The other process's size of its hash table, for the statistics.
    pub(crate) fn hash_power(&self) -> u32 {
        self.meta.hash_power
    }

    /// Puts all items into the store. The files are gone afterwards; refused ones stay as they were.
    pub(crate) fn take_up(
        self,
        config: &Config,
        kit: &Kit,
        store: &Store,
        now: u32,
    ) -> Result<Restored, Failure> {
        let started = Instant::now();
        let at = meta_path(&self.path);
        std::fs::remove_file(&at).map_err(failed(&at, "remove"))?;
        let outcome = self.read_all(threads(config), kit, store, now);
        let restored = match outcome {
            Ok(restored) => restored,
            Err(reason) => {
                std::fs::write(&at, &self.text).map_err(failed(&at, "write back"))?;
                return Err(refused(&self.path, &reason));
            }
        };
        self.file.set_len(0).map_err(failed(&self.path, "empty"))?;
        store.resume_cas(self.meta.cas);
        let flush_at = (self.meta.flush_at != 0).then_some(self.meta.flush_at);
        let mut evicted = 0;
        store.each(|shard| {
            evicted += shard.stats().evictions;
            shard.reset_stats();
            shard.flush_later(flush_at);
        });
        let elapsed = started.elapsed().as_secs_f64();
        let Restored { items, lost } = restored;
        tracing::info!(
            items,
            lost,
            evicted,
            bytes = self.meta.bytes,
            elapsed,
            "items restored"
        );
        Ok(restored)
    }

    fn read_all(
        &self,
        threads: usize,
        kit: &Kit,
        store: &Store,
        now: u32,
    ) -> Result<Restored, String> {
        let blocks = Reader::new(&self.file, self.meta.bytes)?;
        blocks.check(&self.meta)?;
        store.expect(self.meta.items, self.meta.bytes);
        let (next, sum) = (AtomicUsize::new(0), Mutex::new(Restored::default()));
        let work = || -> Result<(), String> {
            let mut buffer = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(block) = blocks.load(number, &mut buffer)? else {
                    return Ok(());
                };
                if number % 64 == 0 {
                    kit.extend_startup(MORE_TIME, "restoring items");
                }
                let restored = store
                    .take_up(now, block)
                    .ok_or("a block holds no whole items")?;
                if restored.items + restored.lost != blocks.items(number) {
                    return Err("a block holds another number of items than it says".to_owned());
                }
                let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                sum.items += restored.items;
                sum.lost += restored.lost;
            }
        };
        all(threads, &work)?;
        Ok(sum.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Does the work on several threads; the first error of any.
fn all<E: Send>(threads: usize, work: &(impl Fn() -> Result<(), E> + Sync)) -> Result<(), E> {
    std::thread::scope(|scope| {
        let handles: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mine = work();
        let theirs = handles.into_iter().map(|handle| match handle.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        theirs.fold(mine, Result::and)
    })
}

/// Writes all items, giving the store's memory back on the way. No worker runs any more.
pub(crate) fn save(shared: &Shared) -> Result<(), Failure> {
    let started = Instant::now();
    let path = PathBuf::from(&shared.config.memory_file);
    let now = shared.clock.now();
    let file = File::create(&path).map_err(failed(&path, "write"))?;
    let writer = Writer::new(&file);
    let next = AtomicUsize::new(0);
    let flush_at = shared.store.by_number(0).and_then(|shard| shard.flush_at());
    let work = || -> io::Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(shard) = shared.store.take(number) else {
                return Ok(());
            };
            shared.kit.extend_startup(MORE_TIME, "saving items");
            let mut blocks = writer.shard(shard.stats().curr_items);
            // Marks of namespaces are not carried, so neither is what they make invisible.
            let keeps = |key: &[u8], cas| !shared.namespaces.is_gone(key, cas);
            shard.give_all(now, keeps, |write| blocks.item(write))?;
            blocks.finish()?;
        }
    };
    let outcome = all(threads(&shared.config), &work).and_then(|()| file.sync_data());
    if let Err(error) = outcome {
        // Half a file is of no use to anybody.
        let _emptied = file.set_len(0).is_ok();
        return Err(failed(&path, "write")(error));
    }
    let totals = writer.totals();
    let meta = Meta {
        bytes: totals.bytes,
        blocks: totals.blocks,
        items: totals.items,
        digest: totals.digest,
        zero_unix: shared.clock.unix(0),
        now,
        cas: shared.store.cas(),
        hash_power: shared.globals.hash_power.load(Ordering::Relaxed),
        flush_at: flush_at.unwrap_or(0),
        seed: Some(shared.store.seed()),
    };
    write_meta(&path, &meta).map_err(failed(&meta_path(&path), "write"))?;
    let elapsed = started.elapsed().as_secs_f64();
    tracing::info!(
        items = totals.items,
        bytes = totals.bytes,
        elapsed,
        "items saved"
    );
    Ok(())
}

fn write_meta(path: &Path, meta: &Meta) -> io::Result<()> {
    let at = meta_path(path);
    let mut fresh = at.clone().into_os_string();
    fresh.push(".new");
    let file = File::create(&fresh)?;
    io::Write::write_all(&mut &file, meta.text().as_bytes())?;
    file.sync_data()?;
    std::fs::rename(&fresh, &at)
}

//! A page that is costly to make, many readers, and a writer: one computation for all of them, outdated pages instead of waiting, and no outdated page stored
//! after a change.
//!
//! `cargo run -p ibex-memcached-client --example pages` with a memcached on 127.0.0.1:11211 or those at $MEMCACHED_SERVERS.
#![allow(
    clippy::print_stdout,
    dead_code,
    reason = "a program to read; a test runs `run` without `main`"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ibex_memcached_client::{Client, Config, LeaseOptions};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const READERS: usize = 100;

#[tokio::main]
async fn main() -> Outcome<()> {
    let servers = std::env::var("MEMCACHED_SERVERS").unwrap_or_else(|_| "127.0.0.1".to_owned());
    let config = Config::new(servers.split(',').map(str::to_owned));
    let (made, last) = run(config).await?;
    println!(
        "{READERS} readers before and after a change: the page was made {made} times and reads {last:?}"
    );
    Ok(())
}

/// How often the page was made, and what it says in the end.
pub(crate) async fn run(config: Config) -> Outcome<(u64, String)> {
    let cache = Client::connect(config).await?;
    cache.delete("page").await?;
    let (version, made) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(0)));
    read_by_all(&cache, &version, &made).await?;
    // The writer: first the database, then the cache. Who still computes the old page cannot store it any more.
    version.store(2, Ordering::SeqCst);
    cache.invalidate("page", Duration::from_secs(60)).await?;
    let last = read_by_all(&cache, &version, &made).await?;
    Ok((made.load(Ordering::SeqCst), last))
}

async fn read_by_all(
    cache: &Client,
    version: &Arc<AtomicU64>,
    made: &Arc<AtomicU64>,
) -> Outcome<String> {
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let (cache, version, made) = (cache.clone(), Arc::clone(version), Arc::clone(made));
            tokio::spawn(async move {
                let options = LeaseOptions::new(Duration::from_secs(600)).without_stale();
                let make = || async {
                    made.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let page = format!("version {}", version.load(Ordering::SeqCst));
                    Ok::<_, std::io::Error>(Bytes::from(page))
                };
                cache.get_or_compute("page", options, make).await
            })
        })
        .collect();
    let mut last = Bytes::new();
    for reader in readers {
        last = reader.await??;
    }
    Ok(String::from_utf8_lossy(&last).into_owned())
}

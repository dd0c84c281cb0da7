//! What calls cost the program that makes them: processor time of its one thread for each, the time of the machine's other side not counted.
//!
//! `cargo run --release -p ibex-memcached-client --example cost` with a memcached on 127.0.0.1:11211 or those at $MEMCACHED_SERVERS.
#![allow(
    clippy::print_stdout,
    dead_code,
    reason = "a program to read; a test runs `run` without `main`"
)]

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use ibex_memcached_client::{Client, Config, Expiry, LeaseOptions, NearCache};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const VALUE: [u8; 100] = [b'x'; 100];
/// Calls made at the same time, and keys of a multi-get.
const AT_ONCE: usize = 64;
const KEYS: usize = 100;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let servers = std::env::var("MEMCACHED_SERVERS").unwrap_or_else(|_| "127.0.0.1".to_owned());
    let config = Config::new(servers.split(',').map(str::to_owned));
    for (what, cost) in run(config, 2000).await? {
        println!("{what:30} {:8.2} µs", cost.as_secs_f64() * 1e6);
    }
    Ok(())
}

/// Processor time of this thread so far. Linux only.
fn used() -> Outcome<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// What one call, or one key of a multi-get, costs on average, each over `rounds` calls or batches of calls.
pub(crate) async fn run(config: Config, rounds: u32) -> Outcome<Vec<(&'static str, Duration)>> {
    let minute = Expiry::After(Duration::from_secs(60));
    let cache = Client::connect(config.clone()).await?;
    let keys: Vec<String> = (0..KEYS).map(|n| format!("cost:{n}")).collect();
    for key in &keys {
        cache.set(key, VALUE, minute).await?;
    }
    let mut costs = Vec::new();
    let begun = used()?;
    for _ in 0..rounds {
        cache.get("cost:0").await?.ok_or("a miss")?;
    }
    costs.push(("get", (used()? - begun) / rounds));

    let begun = used()?;
    for _ in 0..rounds {
        cache.set("cost:0", VALUE, minute).await?;
    }
    costs.push(("set", (used()? - begun) / rounds));

    let begun = used()?;
    for _ in 0..rounds {
        let gets = keys.iter().take(AT_ONCE).map(|key| cache.get(key));
        for found in join_all(gets).await {
            found?.ok_or("a miss")?;
        }
    }
    costs.push(("get, 64 at once, each", (used()? - begun) / rounds / 64));

    let begun = used()?;
    for _ in 0..rounds {
        let found = cache.get_multi(&keys).await?;
        if found.len() != KEYS {
            return Err("misses".into());
        }
    }
    costs.push(("multi-get of 100, each", (used()? - begun) / rounds / 100));

    let options = LeaseOptions::new(minute);
    let begun = used()?;
    for _ in 0..rounds {
        let compute = || async { Ok::<_, Infallible>(Bytes::new()) };
        cache.get_or_compute("cost:0", options, compute).await?;
    }
    costs.push(("get_or_compute, a hit", (used()? - begun) / rounds));

    let near = NearCache::new(1 << 20)
        .with_age_max(Duration::from_secs(60))
        .with_admission(Duration::from_secs(60), 1);
    let cache = Client::connect(config.with_near_cache(near)).await?;
    // Two reads: the second finds that it was read before, and keeps it.
    cache.get("cost:0").await?;
    cache.get("cost:0").await?;
    // The kernel counts at its ticks: what never waits must run for some of them.
    let begun = used()?;
    for _ in 0..rounds * 200 {
        cache.get("cost:0").await?.ok_or("a miss")?;
    }
    costs.push(("get, near", (used()? - begun) / (rounds * 200)));
    Ok(costs)
}

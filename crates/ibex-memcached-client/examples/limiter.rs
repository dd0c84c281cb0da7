//! At most so many calls a minute for each visitor, counted in the cache by all processes together; without an event loop.
//!
//! `cargo run -p ibex-memcached-client --example limiter` with a memcached on 127.0.0.1:11211 or those at $MEMCACHED_SERVERS.
#![allow(
    clippy::print_stdout,
    dead_code,
    reason = "a program to read; a test runs `run` without `main`"
)]

use std::time::Duration;

use ibex_memcached_client::blocking::Client;
use ibex_memcached_client::{Config, Error, Expiry};

const CALLS_MAX: u64 = 10;
const WINDOW: Duration = Duration::from_secs(60);

fn main() -> Result<(), Error> {
    let servers = std::env::var("MEMCACHED_SERVERS").unwrap_or_else(|_| "127.0.0.1".to_owned());
    let config = Config::new(servers.split(',').map(str::to_owned));
    println!("{} of 25 calls were let in", run(config)?);
    Ok(())
}

/// How many of 25 calls of one visitor, from five threads, were let in.
pub(crate) fn run(config: Config) -> Result<usize, Error> {
    let cache = Client::connect(config)?;
    let visitor = format!("calls:{}", std::process::id());
    let threads: Vec<_> = (0..5)
        .map(|_| {
            let (cache, visitor) = (cache.clone(), visitor.clone());
            std::thread::spawn(move || (0..5).filter(|_| is_let_in(&cache, &visitor)).count())
        })
        .collect();
    let counts = threads.into_iter().filter_map(|thread| thread.join().ok());
    Ok(counts.sum())
}

/// Counts one call. Without the cache everybody is let in: a limit is no reason to be down.
fn is_let_in(cache: &Client, visitor: &str) -> bool {
    let counted = match cache.incr(visitor, 1) {
        // The first of the window, unless another was faster.
        Ok(None) => match cache.add(visitor, "1", Expiry::After(WINDOW)) {
            Ok(true) => Ok(Some(1)),
            Ok(false) => cache.incr(visitor, 1),
            Err(error) => Err(error),
        },
        counted => counted,
    };
    match counted {
        Ok(count) => count.unwrap_or(1) <= CALLS_MAX,
        Err(_) => true,
    }
}

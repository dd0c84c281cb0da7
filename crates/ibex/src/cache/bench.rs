//! `ibex cache bench`: loads one cache server and says how long its answers take.
//!
//! Closed loop (`--pipeline`): each connection sends when the last answer is there, as fast as the server allows; this measures throughput. Open loop
//! (`--rate`): requests are due at times fixed beforehand, whatever the server does, and latency counts from the time a request was *due*. A server that
//! stalls for a second therefore shows a second in the tail; a closed loop would send nothing meanwhile and show one slow answer (coordinated omission).
//!
//! Its own threads and sockets, not the pooled client: the tool must cost less than the server, and timers of the runtime are too coarse for a schedule.

mod conn;
mod drive;
mod report;
mod work;

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use ibex_base::rng::Rng;

use crate::output::Format;
use conn::Connection;
use drive::{Pace, Plan};
use work::{KeySpread, Sizes, Work};

/// The most keys of one multiget: what fits well into one line of any server.
const MULTIGET_MAX: u32 = 1000;
/// Connections of one tool; beyond it file descriptors and poll(2) get in the way.
const CONNECTIONS_MAX: u32 = 10_000;

/// Arguments of `ibex cache bench`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Connections, shared among the threads.
    #[arg(long, short, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)))]
    connections: u32,
    /// Threads of the tool.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Seconds to measure.
    #[arg(long, short, default_value_t = 10.0)]
    duration: f64,
    /// Seconds to run before that without measuring.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Open loop: requests a second, all connections together. Latency counts from the time a request is due.
    #[arg(long, conflicts_with = "pipeline")]
    rate: Option<f64>,
    /// Open loop: how requests follow one another.
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    arrivals: Arrivals,
    /// Closed loop: requests each connection sends at once; it then waits for all answers.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pipeline: u32,
    /// Keys in use.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    /// Bytes of a key, at least 10: a number after zeros.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(10..=250))]
    key_bytes: u32,
    /// Which keys: `uniform`, `zipf:EXPONENT` (0.99 is usual) or `scan` (one after the other).
    #[arg(long, default_value = "uniform")]
    key_spread: KeySpread,
    /// Bytes of values: `100`, `10-1000` (uniform), or sizes with weights as `100=90,10000=10`. A key's value has always the same size.
    #[arg(long, default_value = "100")]
    value_bytes: Sizes,
    /// Share of requests that store, 0 to 1; the others read.
    #[arg(long, default_value_t = 0.0)]
    sets: f64,
    /// Keys of one read.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MULTIGET_MAX)))]
    multiget: u32,
    /// Stores what a read misses.
    #[arg(long, conflicts_with = "multiget")]
    fill_misses: bool,
    /// Lifetime of stored values in seconds; 0 = for ever.
    #[arg(long, default_value_t = 0)]
    expire: u32,
    /// `get`/`set`, or the meta commands `mg`/`ms`.
    #[arg(long, value_enum, default_value_t = Protocol::Classic)]
    protocol: Protocol,
    /// Measures at once, without storing every key before.
    #[arg(long)]
    no_fill: bool,
    /// Seed of keys, sizes and arrivals: the same seed asks the same.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Arrivals {
    /// At random, independent of one another, as users come.
    Poisson,
    /// At equal distances.
    Constant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Classic,
    Meta,
}

/// Runs the load against the one server of `servers` and prints what it measured.
///
/// # Errors
/// When the arguments make no load, or the server cannot be reached, closes a connection or answers nonsense.
pub(super) fn run(args: &Args, servers: &[String], format: Format) -> anyhow::Result<ExitCode> {
    let [server] = servers else {
        bail!("bench loads one server; name it with --server");
    };
    let addr = resolve(server)?;
    let plan = plan(args)?;
    if !args.no_fill {
        drive::fill(&mut Connection::open(addr)?, &plan)?;
    }
    let measured = drive::run(addr, &plan)?;
    measured.print(format);
    Ok(ExitCode::from(u8::from(measured.has_failed())))
}

fn resolve(server: &str) -> anyhow::Result<SocketAddr> {
    let named = || format!("server {server:?} is not host[:port]");
    let with_port = if server.parse::<SocketAddr>().is_ok() || server.contains(':') {
        server.to_owned()
    } else {
        format!("{server}:11211")
    };
    with_port
        .to_socket_addrs()
        .with_context(named)?
        .next()
        .with_context(named)
}

fn plan(args: &Args) -> anyhow::Result<Plan> {
    ensure!(
        (0.0..=1.0).contains(&args.sets),
        "--sets is a share from 0 to 1"
    );
    let span = |seconds: f64, what: &str| {
        Duration::try_from_secs_f64(seconds)
            .with_context(|| format!("--{what} is a number of seconds from 0"))
    };
    let pace = match args.rate {
        Some(rate) => {
            ensure!(
                rate.is_finite() && rate > 0.0,
                "--rate is a number of requests a second"
            );
            Pace::Open {
                gap: f64::from(args.connections) / rate,
                is_random: args.arrivals == Arrivals::Poisson,
            }
        }
        None => Pace::Closed {
            pipeline: args.pipeline,
        },
    };
    Ok(Plan {
        connections: args.connections,
        threads: args.threads.min(args.connections),
        warmup: span(args.warmup, "warmup")?,
        duration: span(args.duration, "duration")?,
        rate: args.rate,
        pace,
        fills_misses: args.fill_misses,
        work: Work {
            keys: args.keys,
            key_bytes: usize::try_from(args.key_bytes)?,
            spread: args.key_spread.sampler(args.keys),
            sizes: args.value_bytes.clone(),
            sets: args.sets,
            multiget: args.multiget,
            expire: args.expire,
            is_meta: args.protocol == Protocol::Meta,
        },
        rng: Rng::new(args.seed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_hosts_with_or_without_port() {
        assert_eq!(resolve("127.0.0.1").unwrap().port(), 11211);
        assert_eq!(resolve("127.0.0.1:1234").unwrap().port(), 1234);
        assert_eq!(resolve("[::1]:7").unwrap().port(), 7);
        assert!(resolve("127.0.0.1:x").is_err());
    }
}

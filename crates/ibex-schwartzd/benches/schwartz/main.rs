//! `cargo bench -p ibex-schwartzd --bench schwartz [-- words] [--seconds N] [--rounds N]`: ours on SQLite with every commit synced, the Perl
//! library on SQLite, and beanstalkd that syncs every write (`-f0`), one after the other in interleaved rounds, medians.
//!
//! Arguments of 100 bytes. Words choose cases by a part of their name. What is not installed is left out with a line. The folders lie
//! beside the built programs, so that all write to the same disk.
#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a program for people who measure; it stops at the first surprise"
)]

mod clients;

use std::collections::BTreeMap;
use std::time::Duration;

use clients::{Beanstalkd, Ours, Perl, latency_of_foreign, latency_of_http};

/// A way to do the work of a case: operations per second.
type Run = fn(Duration) -> Option<f64>;

const CASES: [(&str, &[(&str, Run)]); 4] = [
    (
        "insert in bulk",
        &[
            ("ours, 500 a request, 4 connections", |time| {
                Some(Ours::start()?.insert_bulk(4, 500, time))
            }),
            ("Perl insert_jobs(100)", |time| {
                Perl::run("insert_jobs", time)
            }),
            ("beanstalkd -f0, 500 pipelined, 4 connections", |time| {
                Some(Beanstalkd::start()?.put(4, 500, time))
            }),
        ],
    ),
    (
        "insert singly, 32 connections",
        &[
            ("ours", |time| Some(Ours::start()?.insert_bulk(32, 1, time))),
            ("Perl insert, 1 process", |time| Perl::run("insert", time)),
            ("beanstalkd -f0", |time| {
                Some(Beanstalkd::start()?.put(32, 1, time))
            }),
        ],
    ),
    (
        "insert singly, 1 connection",
        &[
            ("ours", |time| Some(Ours::start()?.insert_bulk(1, 1, time))),
            ("Perl insert", |time| Perl::run("insert", time)),
            ("beanstalkd -f0", |time| {
                Some(Beanstalkd::start()?.put(1, 1, time))
            }),
        ],
    ),
    (
        "take 100 and finish 100, 4 connections",
        &[
            ("ours", |time| Some(Ours::start()?.work(4, 100, time))),
            ("Perl work_once, 1 worker", |time| Perl::run("work", time)),
            ("beanstalkd -f0, pipelined", |time| {
                Some(Beanstalkd::start()?.work(4, 100, time))
            }),
        ],
    ),
];

fn main() {
    let mut words = Vec::new();
    let (mut seconds, mut rounds) = (3.0, 3);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => seconds = args.next().unwrap().parse().unwrap(),
            "--rounds" => rounds = args.next().unwrap().parse().unwrap(),
            "--bench" => {}
            word => words.push(word.to_owned()),
        }
    }
    let is_wanted =
        |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let time = Duration::from_secs_f64(seconds);
    for (name, ways) in CASES.iter().filter(|(name, _)| is_wanted(name)) {
        let mut figures: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for _ in 0..rounds {
            for (index, (_, run)) in ways.iter().enumerate() {
                figures.entry(index).or_default().extend(run(time));
            }
        }
        println!("{name}");
        let ours = figures.get(&0).map_or(0.0, |all| median(all));
        for (index, (way, _)) in ways.iter().enumerate() {
            let all = figures.get(&index).cloned().unwrap_or_default();
            if all.is_empty() {
                println!("  {way:<46} not installed");
                continue;
            }
            let bar = "█".repeat(((median(&all) / ours * 40.0) as usize).clamp(1, 60));
            println!(
                "  {way:<46} {:>9.0}/s  ours is {:>6.1} x  {bar}  {:.0?}",
                median(&all),
                ours / median(&all),
                all
            );
        }
    }
    if is_wanted("latency") {
        println!("latency of a waiting fetch, ms");
        for (name, measured) in [
            ("insert over HTTP", latency_of_http(2000)),
            (
                "insert of a Perl program into the file",
                latency_of_foreign(300),
            ),
        ] {
            match measured {
                Some(mut all) => {
                    all.sort_by(f64::total_cmp);
                    let at = |part: f64| all[((all.len() - 1) as f64 * part) as usize];
                    println!(
                        "  {name:<46} p50 {:.2}  p99 {:.2}  max {:.2}  of {}",
                        at(0.5),
                        at(0.99),
                        at(1.0),
                        all.len()
                    );
                }
                None => println!("  {name:<46} not installed"),
            }
        }
    }
}

fn median(all: &[f64]) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

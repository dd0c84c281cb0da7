//! `cargo xtask bench schwartz [-- words --seconds N --rounds N --idle N --save]`: ours with every commit synced, the Perl library, and beanstalkd that
//! syncs every write (`-f0`), one after the other in interleaved rounds, medians.
//!
//! Arguments of 100 bytes. Words choose cases by a part of their name: `bulk`, `single`, `take`, `MariaDB`, `latency`, `million`, `galera`. What is not
//! installed is left out with a line. The folders lie beside the built programs, so that all write to the same disk. `--save` writes `docs/schwartz/data`
//! and the plots of `docs/schwartz`; `--plot` alone draws them again.
#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a program for people who measure; it stops at the first surprise"
)]

mod beanstalkd;
#[path = "../../tests/it/galera/cluster.rs"]
mod cluster;
mod clusters;
mod http;
mod latency;
mod million;
mod ours;
mod perl;
mod place;
mod report;
#[path = "../../../../integration-tests/benches/memcached/svg.rs"]
#[allow(dead_code, reason = "only bars are drawn here")]
mod svg;

use std::path::Path;
use std::time::Duration;

use beanstalkd::Beanstalkd;
use ibex_testkit::mariadb::Server;
use ours::Ours;
use place::Kind;
use report::Report;

/// A way to do the work of a case: operations per second.
type Run = fn(Kind<'_>, Duration) -> Option<f64>;

/// A case: where, the ways to do it with ours first, and by how much ours shall be faster than the others.
struct Case {
    name: &'static str,
    is_maria: bool,
    ways: &'static [(&'static str, Run)],
    targets: &'static [f64],
}

/// Where figures and plots go.
const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/schwartz");

/// Jobs that lie ready before work is measured; less where inserting them takes long.
const READY: usize = 200_000;
const READY_SLOW: usize = 50_000;

const CASES: [Case; 8] = [
    Case {
        name: "insert in bulk",
        is_maria: false,
        ways: &[
            ("ours, 500 a request, 4 connections", |kind, time| {
                Some(Ours::start(kind)?.insert(4, 500, time))
            }),
            ("Perl insert_jobs(100)", |kind, time| {
                perl::run("insert_jobs", kind, time)
            }),
            ("beanstalkd -f0, 500 pipelined, 4 connections", |_, time| {
                Some(Beanstalkd::start()?.put(4, 500, time))
            }),
        ],
        targets: &[20.0, 20.0],
    },
    Case {
        name: "insert singly, 32 connections",
        is_maria: false,
        ways: &[
            ("ours", |kind, time| {
                Some(Ours::start(kind)?.insert(32, 1, time))
            }),
            ("Perl insert, 1 process", |kind, time| {
                perl::run("insert", kind, time)
            }),
            ("beanstalkd -f0", |_, time| {
                Some(Beanstalkd::start()?.put(32, 1, time))
            }),
        ],
        targets: &[10.0],
    },
    Case {
        name: "insert singly, 1 connection",
        is_maria: false,
        ways: &[
            ("ours", |kind, time| {
                Some(Ours::start(kind)?.insert(1, 1, time))
            }),
            ("Perl insert", |kind, time| perl::run("insert", kind, time)),
            ("beanstalkd -f0", |_, time| {
                Some(Beanstalkd::start()?.put(1, 1, time))
            }),
        ],
        targets: &[1.0],
    },
    Case {
        name: "take 100 and finish 100, 4 connections",
        is_maria: false,
        ways: &[
            ("ours", |kind, time| {
                Some(Ours::start(kind)?.work(4, 100, READY, time))
            }),
            ("Perl work_once, 1 worker", |kind, time| {
                perl::run("work", kind, time)
            }),
            ("beanstalkd -f0, pipelined", |_, time| {
                Some(Beanstalkd::start()?.work(4, 100, READY_SLOW, time))
            }),
        ],
        targets: &[200.0, 5.0],
    },
    Case {
        name: "MariaDB: insert in bulk",
        is_maria: true,
        ways: &[
            ("ours, 500 a request, 4 connections", |kind, time| {
                Some(Ours::start(kind)?.insert(4, 500, time))
            }),
            ("Perl insert_jobs(100)", |kind, time| {
                perl::run("insert_jobs", kind, time)
            }),
        ],
        targets: &[20.0],
    },
    Case {
        name: "MariaDB: insert singly, 32 connections",
        is_maria: true,
        ways: &[
            ("ours", |kind, time| {
                Some(Ours::start(kind)?.insert(32, 1, time))
            }),
            (
                "one INSERT a commit on 32 connections, no queue",
                |kind, time| ours::bare_inserts(kind, 32, time),
            ),
            ("Perl insert, 1 process", |kind, time| {
                perl::run("insert", kind, time)
            }),
        ],
        targets: &[0.8],
    },
    Case {
        name: "MariaDB: insert singly, 1 connection",
        is_maria: true,
        ways: &[
            ("ours", |kind, time| {
                Some(Ours::start(kind)?.insert(1, 1, time))
            }),
            ("Perl insert", |kind, time| perl::run("insert", kind, time)),
        ],
        targets: &[1.0],
    },
    Case {
        name: "MariaDB: take 100 and finish 100, 4 connections",
        is_maria: true,
        ways: &[
            ("ours", |kind, time| {
                Some(Ours::start(kind)?.work(4, 100, READY_SLOW, time))
            }),
            ("Perl work_once, 1 worker", |kind, time| {
                perl::run("work", kind, time)
            }),
        ],
        targets: &[],
    },
];

struct Options {
    words: Vec<String>,
    time: Duration,
    idle: Duration,
    rounds: usize,
    saves: bool,
    plots: bool,
}

impl Options {
    fn read() -> Self {
        let mut options = Self {
            words: Vec::new(),
            time: Duration::from_secs(3),
            idle: Duration::from_secs(60),
            rounds: 3,
            saves: false,
            plots: false,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut seconds = || Duration::from_secs_f64(args.next().unwrap().parse().unwrap());
            match arg.as_str() {
                "--seconds" => options.time = seconds(),
                "--idle" => options.idle = seconds(),
                "--rounds" => options.rounds = args.next().unwrap().parse().unwrap(),
                "--save" => options.saves = true,
                "--plot" => options.plots = true,
                "--bench" => {}
                word => options.words.push(word.to_owned()),
            }
        }
        options
    }

    fn wants(&self, name: &str) -> bool {
        let is_part = |word: &String| name.contains(word.as_str());
        self.words.is_empty() || self.words.iter().any(is_part)
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // The test runner starts benches with --test to see that they work.
    if arguments
        .iter()
        .any(|arg| arg == "--test" || arg == "--list")
    {
        return;
    }
    let options = Options::read();
    if options.plots {
        report::plot(Path::new(DOCS));
        return;
    }
    let server = Server::start_own().unwrap();
    if let Some(server) = &server {
        // As a server whose acknowledgements count.
        server
            .sql("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
            .unwrap();
    }
    let mut report = Report::default();
    for case in CASES.iter().filter(|case| options.wants(case.name)) {
        let kind = if case.is_maria {
            Kind::Maria(server.as_ref())
        } else {
            Kind::Sqlite
        };
        let mut ways: Vec<(&'static str, Vec<f64>)> = case
            .ways
            .iter()
            .map(|(name, _)| (*name, Vec::new()))
            .collect();
        for _ in 0..options.rounds {
            for ((_, run), (_, figures)) in case.ways.iter().zip(&mut ways) {
                figures.extend(run(kind, options.time));
            }
        }
        report.rates(case.name, ways, case.targets);
    }
    if options.wants("latency") {
        latencies(&mut report, server.as_ref());
    }
    if options.wants("million") {
        million(&mut report, options.idle);
    }
    if options.wants("galera") {
        galera(&mut report, options.time.max(Duration::from_secs(10)));
    }
    if options.saves {
        report.save(Path::new(DOCS));
    }
}

fn latencies(report: &mut Report, server: Option<&Server>) {
    println!("latency: from an insert to the worker that waits");
    let over_http = Ours::start(Kind::Sqlite).map(|ours| {
        let times = latency::of_http(&ours, 2000);
        ours.daemon.stop().unwrap();
        times
    });
    report.latency("HTTP to long poll", over_http);
    report.latency("HTTP to stream", latency::of_stream(2000));
    report.latency(
        "Perl into SQLite to long poll",
        latency::of_foreign(Kind::Sqlite, 300),
    );
    report.latency(
        "Perl into MariaDB to long poll",
        latency::of_foreign(Kind::Maria(server), 100),
    );
    report.latency("HTTP to poked Perl worker", latency::of_poke(500));
}

fn million(report: &mut Report, time: Duration) {
    println!("a million jobs of ten thousand functions");
    if let Some(idle) = million::idle(time) {
        report.fact(
            "idle, nobody waits: processor, at most 1 %",
            format!("{:.2} %", idle.cpu_alone),
        );
        report.fact(
            "idle, 100 workers wait for 100 functions each",
            format!("{:.2} %", idle.cpu_waited),
        );
        report.fact(
            "idle: resident, at most 200 MiB",
            format!("{:.0} MiB", idle.resident_mib),
        );
        report.latency("HTTP to long poll, empty tables", Some(idle.pickup_empty));
        report.latency("HTTP to long poll, a million scheduled", Some(idle.pickup));
    }
    for (how, ready, first) in million::restart().unwrap_or_default() {
        report.fact(
            format!("start {how}: at most 3 s"),
            format!("ready after {ready:.2} s, first jobs after {first:.2} s"),
        );
    }
}

fn galera(report: &mut Report, time: Duration) {
    let Some(seen) = clusters::run(time) else {
        println!("galera: not installed");
        return;
    };
    report.rates(
        "galera, 3 nodes: take and finish",
        vec![
            ("3 daemons", vec![seen.ours]),
            (
                "3 Perl workers",
                seen.perl.map(|(rate, _)| rate).into_iter().collect(),
            ),
        ],
        &[5.0],
    );
    report.fact(
        "ours: jobs handed out twice, rows of errors",
        format!("{}, {}", seen.ours_twice, seen.ours_errors),
    );
    if let Some((_, thrown)) = seen.perl {
        report.fact("Perl: calls that threw", thrown.to_string());
    }
}

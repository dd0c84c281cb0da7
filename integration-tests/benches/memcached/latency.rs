//! Latency against load: `ibex cache bench` in an open loop, at shares of what the original answers at most, both servers in turn.
//!
//! Of several rounds the quietest counts, the one with the lowest 99th percentile: whatever else the machine does only ever adds.

use std::process::Command;

use ibex_testkit::daemon;

use crate::Options;
use crate::data::Rows;
use crate::servers::{Server, start_all};

const CONNECTIONS: &str = "16";
/// Shares of the original's highest rate, in percent.
const LOADS: [u32; 9] = [10, 20, 30, 40, 50, 60, 70, 80, 90];
const COLUMNS: [&str; 4] = ["mean_us", "p50_us", "p99_us", "p999_us"];

/// The row of reads that `ibex cache bench` prints.
fn bench(server: &Server, options: &Options, more: &[&str]) -> serde_json::Value {
    let seconds = options.seconds().as_secs_f64().to_string();
    let output = Command::new(daemon::binary("ibex").unwrap())
        .args(["--output", "json", "cache", "--server"])
        .arg(format!("127.0.0.1:{}", server.port))
        .args(["bench", "--connections", CONNECTIONS, "--warmup", "0.3"])
        .args(["--duration", &seconds])
        .args(more)
        .output()
        .unwrap();
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        panic!("{}", String::from_utf8_lossy(&output.stderr));
    });
    rows[0].clone()
}

fn number(row: &serde_json::Value, name: &str) -> f64 {
    row[name].as_str().unwrap().parse().unwrap()
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

pub(crate) fn run(options: &Options) -> bool {
    let servers = start_all(256, &[]);
    let last = servers.last().unwrap();
    let highest = median(
        (0..options.rounds())
            .map(|_| number(&bench(last, options, &[]), "per_s"))
            .collect(),
    );
    println!(
        "\nlatency in µs, {CONNECTIONS} connections; {} answers at most {highest:.0} gets a second",
        last.name
    );
    let mut rows = Rows::new(&["server", "load", "rate", "mean", "p50", "p99", "p99.9"]);
    for load in LOADS {
        let rate = highest * f64::from(load) / 100.0;
        let asked = ["--no-fill", "--rate", &format!("{rate:.0}")];
        let mut seen = vec![Vec::new(); servers.len()];
        for _ in 0..options.rounds() {
            for (server, seen) in servers.iter().zip(&mut seen) {
                seen.push(bench(server, options, &asked));
            }
        }
        for (server, seen) in servers.iter().zip(&seen) {
            let p99 = |row: &&serde_json::Value| number(row, "p99_us");
            let quietest = seen.iter().min_by(|a, b| p99(a).total_cmp(&p99(b)));
            let latencies = COLUMNS.map(|name| number(quietest.unwrap(), name));
            let head = [
                server.name.to_owned(),
                load.to_string(),
                format!("{rate:.0}"),
            ];
            let latencies = latencies.map(|value| format!("{value:.1}"));
            rows.push(head.into_iter().chain(latencies).collect());
        }
    }
    rows.keep(options, "latency");
    true
}

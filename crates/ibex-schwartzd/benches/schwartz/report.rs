//! What was measured: lines for people, a file of tab-separated values, plots.

use std::fmt::Write as _;
use std::path::Path;

use crate::latency::Times;
use crate::svg::Frame;

/// One way to do the work of a case.
struct Way {
    name: &'static str,
    figures: Vec<f64>,
}

/// Everything of one run.
#[derive(Default)]
pub(crate) struct Report {
    rates: Vec<(&'static str, Vec<Way>)>,
    latencies: Vec<(&'static str, Times)>,
    facts: Vec<(String, String)>,
}

pub(crate) fn median(all: &[f64]) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

fn at(times: &[f64], part: f64) -> f64 {
    times
        .get(((times.len().max(1) - 1) as f64 * part) as usize)
        .copied()
        .unwrap_or(0.0)
}

impl Report {
    /// Figures of one case, ours first; `targets` are the ratios that the specification wants, in the order of the other ways.
    pub(crate) fn rates(
        &mut self,
        case: &'static str,
        ways: Vec<(&'static str, Vec<f64>)>,
        targets: &[f64],
    ) {
        println!("{case}");
        let ours = ways.first().map_or(0.0, |(_, figures)| median(figures));
        for (index, (way, figures)) in ways.iter().enumerate() {
            if figures.is_empty() {
                println!("  {way:<52} not installed");
                continue;
            }
            let ratio = ours / median(figures);
            let target = index.checked_sub(1).and_then(|other| targets.get(other));
            let target = target.map_or(String::new(), |target| {
                let word = if ratio >= *target { "met" } else { "missed" };
                format!("  at least {target} x: {word}")
            });
            let ratio = if index == 0 {
                String::new()
            } else {
                format!("ours is {ratio:.2} x{target}")
            };
            println!(
                "  {way:<52} {:>9.0}/s  {figures:.0?}  {ratio}",
                median(figures)
            );
        }
        let ways = ways
            .into_iter()
            .map(|(name, figures)| Way { name, figures })
            .collect();
        self.rates.push((case, ways));
    }

    pub(crate) fn latency(&mut self, way: &'static str, times: Option<Times>) {
        let Some(times) = times else {
            println!("  {way:<52} not installed");
            return;
        };
        println!(
            "  {way:<52} p50 {:.2} ms  p99 {:.2} ms  max {:.2} ms  of {}",
            at(&times, 0.5),
            at(&times, 0.99),
            at(&times, 1.0),
            times.len()
        );
        self.latencies.push((way, times));
    }

    /// Anything else, with what is wanted of it.
    pub(crate) fn fact(&mut self, name: impl Into<String>, value: String) {
        let name = name.into();
        println!("  {name:<52} {value}");
        self.facts.push((name, value));
    }

    /// `bench.tsv` and two plots.
    pub(crate) fn save(&self, dir: &Path) {
        std::fs::create_dir_all(dir.join("data")).unwrap();
        let mut text = "what\tway\tmedian\tall\n".to_owned();
        for (case, ways) in &self.rates {
            for way in ways {
                let (name, all) = (way.name, &way.figures);
                writeln!(text, "{case}\t{name}\t{:.0}\t{all:.0?}", median(all)).unwrap();
            }
        }
        for (way, times) in &self.latencies {
            for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
                writeln!(text, "latency {name}, ms\t{way}\t{:.2}\t", at(times, part)).unwrap();
            }
        }
        for (name, value) in &self.facts {
            writeln!(text, "{name}\t\t{value}\t").unwrap();
        }
        std::fs::write(dir.join("data/bench.tsv"), text).unwrap();
        plot(dir);
    }
}

/// The two plots of what `bench.tsv` has: rates on SQLite, and how long a waiting worker waits where it is told of inserts.
pub(crate) fn plot(dir: &Path) {
    let text = std::fs::read_to_string(dir.join("data/bench.tsv")).unwrap();
    let (mut rates, mut latencies): (Groups, Groups) = Default::default();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [what, way, value, _] = fields[..] else {
            continue;
        };
        let Ok(value) = value.parse::<f64>() else {
            continue;
        };
        let is_polled = way.contains("MariaDB") || way.contains(',');
        if what.starts_with("latency ") && !is_polled {
            add(&mut latencies, way, value);
        } else if RATES.iter().any(|case| what.starts_with(case)) {
            add(
                &mut rates,
                what.trim_end_matches(", 4 connections"),
                value / 1000.0,
            );
        }
    }
    let frame = Frame {
        title: "Jobs a second on SQLite, every commit synced",
        below: "",
        beside: "thousand jobs a second",
        series: &["ibex-schwartzd", "TheSchwartz (Perl)", "beanstalkd -f0"],
    };
    rates.retain(|(_, bars)| bars.len() == frame.series.len());
    if !rates.is_empty() {
        std::fs::write(dir.join("throughput.svg"), frame.bars(&rates)).unwrap();
    }
    let frame = Frame {
        title: "From an insert to the waiting worker",
        below: "",
        beside: "milliseconds",
        series: &["median", "99th percentile"],
    };
    if !latencies.is_empty() {
        std::fs::write(dir.join("latency.svg"), frame.bars(&latencies)).unwrap();
    }
}

/// Cases whose ways are ours, Perl's and beanstalkd's.
const RATES: [&str; 2] = ["insert ", "take "];

/// Bars by the label of their group.
type Groups = Vec<(String, Vec<f64>)>;

fn add(groups: &mut Groups, label: &str, bar: f64) {
    match groups.iter_mut().find(|(own, _)| own == label) {
        Some((_, bars)) => bars.push(bar),
        None => groups.push((label.to_owned(), vec![bar])),
    }
}

//! What was measured: one record for each thread while it runs, one report of all at the end.

use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;

use super::work::Asked;
use crate::output::{Format, Table};

/// The longest latency told apart, in nanoseconds: ten minutes.
const LATENCY_MAX: u64 = 600_000_000_000;
/// Digits of a latency that are kept.
const DIGITS: u8 = 3;
/// A request that goes out later than this after it was due: the tool or the server's window held it.
const LATE: Duration = Duration::from_millis(1);
/// Below this share of the rate asked for, the run did not do what it was told.
const RATE_SHARE_MIN: f64 = 0.98;

/// Counts and latencies of reads or of stores.
#[derive(Debug)]
struct Kind {
    latency: Histogram<u64>,
    hits: u64,
    misses: u64,
}

impl Kind {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            latency: Histogram::new_with_bounds(1, LATENCY_MAX, DIGITS)
                .context("make a histogram")?,
            hits: 0,
            misses: 0,
        })
    }

    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.latency
            .add(&other.latency)
            .context("add up histograms")?;
        self.hits += other.hits;
        self.misses += other.misses;
        Ok(())
    }
}

/// What one thread saw of the requests due between two times of the run.
#[derive(Debug)]
pub(super) struct Record {
    from: Duration,
    until: Duration,
    reads: Kind,
    stores: Kind,
    refused: u64,
    unanswered: u64,
    late: u64,
    /// When the last of the counted answers came.
    last: Duration,
}

impl Record {
    pub(super) fn new(from: Duration, until: Duration) -> anyhow::Result<Self> {
        Ok(Self {
            from,
            until,
            reads: Kind::new()?,
            stores: Kind::new()?,
            refused: 0,
            unanswered: 0,
            late: 0,
            last: from,
        })
    }

    fn counts(&self, due: Duration) -> bool {
        (self.from..self.until).contains(&due)
    }

    /// A request of an open loop went out.
    pub(super) fn sent(&mut self, due: Duration, now: Duration) {
        if self.counts(due) && now.saturating_sub(due) > LATE {
            self.late += 1;
        }
    }

    /// A request is answered.
    pub(super) fn answered(&mut self, asked: Asked, hits: u32, due: Duration, now: Duration) {
        if !self.counts(due) {
            return;
        }
        let kind = match asked {
            Asked::Read { keys, .. } => {
                self.reads.hits += u64::from(hits);
                self.reads.misses += u64::from(keys.saturating_sub(hits));
                &mut self.reads
            }
            Asked::Store => &mut self.stores,
        };
        let taken = u64::try_from(now.saturating_sub(due).as_nanos()).unwrap_or(LATENCY_MAX);
        kind.latency.saturating_record(taken);
        self.last = self.last.max(now);
    }

    /// The server would not do what it was asked.
    pub(super) fn refused(&mut self) {
        self.refused += 1;
    }

    pub(super) fn refusals(&self) -> u64 {
        self.refused
    }

    /// The run ended without these answers.
    pub(super) fn unanswered(&mut self, requests: usize) {
        self.unanswered += requests as u64;
    }
}

/// All threads together.
#[derive(Debug)]
pub(super) struct Measured {
    all: Record,
    rate: Option<f64>,
    seconds: f64,
}

impl Measured {
    pub(super) fn new(
        records: Vec<Record>,
        duration: Duration,
        rate: Option<f64>,
    ) -> anyhow::Result<Self> {
        let mut all = Record::new(Duration::ZERO, Duration::MAX)?;
        let mut seconds = duration.as_secs_f64();
        for record in records {
            all.reads.add(&record.reads)?;
            all.stores.add(&record.stores)?;
            all.refused += record.refused;
            all.unanswered += record.unanswered;
            all.late += record.late;
            // Answers that came after the end took longer than the span they are counted in.
            let taken = record.last.saturating_sub(record.from).as_secs_f64();
            seconds = seconds.max(taken);
        }
        Ok(Self { all, rate, seconds })
    }

    /// Whether the server refused or owed answers.
    pub(super) fn has_failed(&self) -> bool {
        self.all.refused > 0 || self.all.unanswered > 0
    }

    /// Rows on standard output; what went wrong on standard error.
    pub(super) fn print(&self, format: Format) {
        let mut table = Table::new(&[
            "what", "requests", "per_s", "hits", "misses", "mean_us", "p50_us", "p90_us", "p99_us",
            "p999_us", "max_us",
        ]);
        for (what, kind) in [("read", &self.all.reads), ("store", &self.all.stores)] {
            if !kind.latency.is_empty() {
                table.push(self.row(what, kind));
            }
        }
        table.print(format);
        for complaint in self.complaints() {
            eprintln!("ibex: {complaint}");
        }
    }

    fn row(&self, what: &str, kind: &Kind) -> Vec<String> {
        let micros = |nanos: u64| format!("{:.1}", as_f64(nanos) / 1e3);
        let latency = &kind.latency;
        let mut row = vec![
            what.to_owned(),
            latency.len().to_string(),
            format!("{:.0}", as_f64(latency.len()) / self.seconds),
            kind.hits.to_string(),
            kind.misses.to_string(),
            format!("{:.1}", latency.mean() / 1e3),
        ];
        row.extend([0.5, 0.9, 0.99, 0.999].map(|part| micros(latency.value_at_quantile(part))));
        row.push(micros(latency.max()));
        row
    }

    fn complaints(&self) -> Vec<String> {
        let answered = self.all.reads.latency.len() + self.all.stores.latency.len();
        let mut complaints = Vec::new();
        if self.all.refused > 0 {
            complaints.push(format!("{} requests were refused", self.all.refused));
        }
        if self.all.unanswered > 0 {
            complaints.push(format!(
                "{} requests were never answered",
                self.all.unanswered
            ));
        }
        if self.all.late > 0 {
            complaints.push(format!(
                "{} requests went out more than 1 ms late; their latency counts from when they were due",
                self.all.late
            ));
        }
        let reached = as_f64(answered) / self.seconds;
        if let Some(rate) = self.rate
            && reached < rate * RATE_SHARE_MIN
        {
            complaints.push(format!(
                "{reached:.0} requests a second were answered of the {rate:.0} asked for"
            ));
        }
        complaints
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts and nanoseconds for people"
)]
fn as_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Asked = Asked::Read { keys: 1, key: 0 };

    #[test]
    fn only_what_is_due_in_the_span_counts() {
        let second = Duration::from_secs(1);
        let mut record = Record::new(second, second * 2).unwrap();
        for due in [0, 999, 1000, 1999, 2000] {
            let due = Duration::from_millis(due);
            record.answered(READ, 1, due, due + Duration::from_millis(500));
        }
        let measured = Measured::new(vec![record], second, None).unwrap();
        assert_eq!(measured.all.reads.latency.len(), 2);
        assert_eq!(measured.all.reads.hits, 2);
        // The second answer came half a second after the span.
        assert!((measured.seconds - 1.499).abs() < 1e-9);
    }

    #[test]
    fn a_rate_that_was_not_reached_is_said() {
        let second = Duration::from_secs(1);
        let mut record = Record::new(Duration::ZERO, second).unwrap();
        record.answered(READ, 0, Duration::ZERO, second);
        record.sent(Duration::ZERO, second);
        record.refused();
        let measured = Measured::new(vec![record], second, Some(100.0)).unwrap();
        let said = measured.complaints().join("\n");
        for phrase in [
            "1 requests were refused",
            "more than 1 ms late",
            "1 requests a second were answered of the 100",
        ] {
            assert!(said.contains(phrase), "{said}");
        }
        assert!(measured.has_failed());
    }
}

//! The tally of a run: suites with what passed, failed and was skipped, the table at the end, and the one line that stands alone.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::sh;

/// Numbers of one suite. A check that is no collection of tests counts as one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

/// One line of the table.
#[derive(Debug)]
struct Suite {
    name: String,
    counts: Counts,
    elapsed: Duration,
    reasons: Vec<String>,
}

/// All suites of a run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    suites: Vec<Suite>,
}

impl Tally {
    /// Runs a command that is one check.
    pub(crate) fn check(&mut self, name: &str, command: &mut Command) {
        let start = self.announce(name);
        let outcome = sh::run(command);
        self.record(
            name,
            start,
            outcome.map(|()| Counts {
                passed: 1,
                ..Counts::default()
            }),
        );
    }

    /// Runs a function that is one check.
    pub(crate) fn check_with(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        self.count_with(name, || {
            check().map(|()| Counts {
                passed: 1,
                ..Counts::default()
            })
        });
    }

    /// Runs a function that counts for itself.
    pub(crate) fn count_with(&mut self, name: &str, check: impl FnOnce() -> Result<Counts>) {
        let start = self.announce(name);
        let outcome = check();
        self.record(name, start, outcome);
    }

    /// Notes that a suite cannot run here.
    pub(crate) fn skip(&mut self, name: &str, reason: &str) {
        eprintln!("== {name}: skipped: {reason}");
        let counts = Counts {
            skipped: 1,
            ..Counts::default()
        };
        self.suites.push(Suite {
            name: name.to_owned(),
            counts,
            elapsed: Duration::ZERO,
            reasons: vec![reason.to_owned()],
        });
    }

    /// Adds the skips that the tests of the last suite noted: they were counted as passed there.
    pub(crate) fn note_skips(&mut self, skips: Vec<String>) {
        let Some(suite) = self.suites.last_mut() else {
            return;
        };
        let count = skips.len() as u64;
        suite.counts.passed = suite.counts.passed.saturating_sub(count);
        suite.counts.skipped += count;
        suite.reasons = skips;
    }

    fn announce(&self, name: &str) -> Instant {
        eprintln!("== {}. {name}", self.suites.len() + 1);
        Instant::now()
    }

    fn record(&mut self, name: &str, start: Instant, outcome: Result<Counts>) {
        let mut reasons = Vec::new();
        let counts = outcome.unwrap_or_else(|error| {
            eprintln!("== {name}: FAILED: {error:#}");
            reasons.push(
                format!("{error:#}")
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
            );
            Counts {
                failed: 1,
                ..Counts::default()
            }
        });
        self.suites.push(Suite {
            name: name.to_owned(),
            counts,
            elapsed: start.elapsed(),
            reasons,
        });
    }

    /// Whether something failed so far.
    pub(crate) fn has_failed(&self) -> bool {
        self.suites.iter().any(|suite| suite.counts.failed > 0)
    }

    /// Prints the table and the last line; the exit code says the same.
    pub(crate) fn finish(&self) -> ExitCode {
        eprintln!(
            "\n{:<34} {:>7} {:>7} {:>7} {:>8}  reasons",
            "suite", "passed", "failed", "skipped", "seconds"
        );
        let mut sum = Counts::default();
        for suite in &self.suites {
            let Counts {
                passed,
                failed,
                skipped,
            } = suite.counts;
            let seconds = suite.elapsed.as_secs_f64();
            let first = suite.reasons.first().map_or("", String::as_str);
            eprintln!(
                "{:<34} {passed:>7} {failed:>7} {skipped:>7} {seconds:>8.1}  {first}",
                suite.name
            );
            for reason in suite.reasons.iter().skip(1) {
                eprintln!("{:67}  {reason}", "");
            }
            sum.passed += passed;
            sum.failed += failed;
            sum.skipped += skipped;
        }
        eprintln!();
        println(&format!(
            "{} passed, {} failed, {} skipped",
            sum.passed, sum.failed, sum.skipped
        ));
        if sum.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// A line on standard output, which belongs to results.
#[expect(
    clippy::print_stdout,
    reason = "the result of a command line tool belongs on standard output"
)]
pub(crate) fn println(line: &str) {
    println!("{line}");
}

/// Reads the summary lines of nextest and of the standard test harness.
pub(crate) fn count_tests(output: &str) -> Counts {
    let mut counts = Counts::default();
    for whole in output.lines() {
        let line = whole.trim();
        if line.starts_with("Summary [") && line.contains("tests run:")
            || line.starts_with("Summary [") && line.contains("test run:")
        {
            counts.passed += number_before(line, " passed");
            counts.failed += number_before(line, " failed")
                + number_before(line, " timed out")
                + number_before(line, " exec failed");
            counts.skipped += number_before(line, " skipped");
        } else if whole.starts_with("test result:") {
            // Indented, it is the output of a failed test that nextest shows and has counted already.
            counts.passed += number_before(line, " passed");
            counts.failed += number_before(line, " failed");
            counts.skipped += number_before(line, " ignored");
        }
    }
    counts
}

fn number_before(line: &str, word: &str) -> u64 {
    let Some(at) = line.find(word) else { return 0 };
    let digits = line[..at]
        .rsplit(|letter: char| !letter.is_ascii_digit())
        .next()
        .unwrap_or_default();
    digits.parse().unwrap_or(0)
}

/// Runs a test command, showing its output and counting its tests.
pub(crate) fn run_tests(command: &mut Command) -> Result<Counts> {
    use std::io::{BufRead, BufReader};
    let shown = sh::shown(command);
    let (reader, writer) = std::io::pipe()?;
    // The command keeps the writing ends until it is dropped or replaced; without that the reader below would never see the end.
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("start {shown}"))?;
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut text = String::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        eprintln!("{line}");
        text.push_str(&line);
        text.push('\n');
    }
    let status = child.wait()?;
    let mut counts = count_tests(&text);
    if !status.success() && counts.failed == 0 {
        eprintln!("{shown} ended with {status}");
        counts.failed = 1;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_kinds_of_summary() {
        let text = "     Summary [   0.750s] 19 tests run: 17 passed (1 slow), 1 failed, 1 timed out, 3 skipped\n\
                    test result: ok. 4 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.1s\n";
        assert_eq!(
            count_tests(text),
            Counts {
                passed: 21,
                failed: 2,
                skipped: 5
            }
        );
    }

    #[test]
    fn a_failed_test_that_nextest_shows_is_counted_once() {
        let text = "    test result: FAILED. 0 passed; 1 failed; 0 ignored\n\
                    Summary [   0.7s] 2 tests run: 1 passed, 1 failed, 0 skipped\n";
        assert_eq!(count_tests(text).failed, 1);
    }

    #[test]
    fn one_test_is_written_in_the_singular() {
        assert_eq!(
            count_tests("Summary [0.1s] 1 test run: 1 passed, 0 skipped"),
            Counts {
                passed: 1,
                failed: 0,
                skipped: 0
            }
        );
    }
}

//! The Perl library at work on tables that our schema made.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::place::{Kind, Place};

/// A script's command; `None` where the library is not installed.
pub(crate) fn script(case: &str, dsn: &str, user: &str, time: Duration) -> Option<Command> {
    let driver = dsn.split(':').nth(1)?;
    let found = Command::new("perl")
        .args(["-MTheSchwartz", &format!("-MDBD::{driver}"), "-e", "1"])
        .stderr(Stdio::null())
        .status();
    if !found.is_ok_and(|status| status.success()) {
        return None;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/schwartz/perl.pl");
    let mut command = Command::new("perl");
    command.args([script, case, dsn, user, &time.as_secs_f64().to_string()]);
    Some(command)
}

/// Operations per second of one process.
pub(crate) fn run(case: &str, kind: Kind<'_>, time: Duration) -> Option<f64> {
    let place = Place::new(kind)?;
    let (dsn, user) = place.dbi();
    let mut command = script(case, &dsn, user, time)?;
    place.make_classic();
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    Some(rate(child).0)
}

/// Waits for a script: operations per second, and how often the library threw.
pub(crate) fn rate(child: Child) -> (f64, u64) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<f64> = text
        .split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect();
    (numbers[0] / numbers[1], numbers[2] as u64)
}

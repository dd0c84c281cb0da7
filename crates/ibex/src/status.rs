//! `ibex status`: one line for each daemon, from its admin port.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use http::Method;

use crate::admin::{self, Answer};
use crate::family::{Daemon, Family};
use crate::output::{Format, Table};

/// Arguments of `ibex status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these daemons; all when none is named.
    names: Vec<String>,
}

/// What one daemon said about itself.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    cells: Vec<String>,
    is_up: bool,
    is_ready: bool,
}

/// Asks every daemon at once and prints a line for each. Exit code 1 when a listed daemon is not ready.
///
/// # Errors
/// When a named daemon is not in the family.
pub async fn run(args: &Args, family: &Family, format: Format) -> anyhow::Result<ExitCode> {
    let daemons: Vec<&Daemon> = if args.names.is_empty() {
        family.daemons().iter().collect()
    } else {
        args.names
            .iter()
            .map(|name| family.find(name))
            .collect::<anyhow::Result<_>>()?
    };
    let mut table = Table::new(&[
        "daemon", "up", "ready", "version", "uptime", "admin", "note",
    ]);
    let mut is_well = true;
    for daemon in daemons {
        let line = ask(daemon).await;
        is_well &= line.is_ready || (family.is_guess && !line.is_up);
        table.push(line.cells);
    }
    table.print(format);
    Ok(if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

async fn ask(daemon: &Daemon) -> Line {
    let (ready, metrics) = tokio::join!(
        admin::call(daemon, Method::GET, "/readyz", ""),
        admin::call(daemon, Method::GET, "/metrics", "")
    );
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64());
    let metrics = metrics.ok().filter(|answer| answer.status.is_success());
    line(
        daemon,
        ready,
        &metrics.map_or_else(String::new, |answer| answer.text),
        now,
    )
}

fn line(daemon: &Daemon, ready: anyhow::Result<Answer>, metrics: &str, now: f64) -> Line {
    let (is_up, is_ready, note) = match ready {
        Ok(answer) if answer.status.is_success() => (true, true, String::new()),
        Ok(answer) => (true, false, answer.text.trim().replace('\n', "; ")),
        Err(error) => (false, false, error.root_cause().to_string()),
    };
    let word = |fact| if fact { "yes" } else { "no" }.to_owned();
    let uptime = sample(metrics, "process_start_time_seconds")
        .and_then(|value| value.parse::<f64>().ok())
        .map_or_else(String::new, |start| uptime_text(now - start));
    let version = label(metrics, "ibex_build_info", "version").unwrap_or_default();
    let cells = vec![
        daemon.name.clone(),
        word(is_up),
        word(is_ready),
        version,
        uptime,
        daemon.admin.clone(),
        note,
    ];
    Line {
        cells,
        is_up,
        is_ready,
    }
}

/// The value of the first sample called `name`, with or without labels.
fn sample<'a>(metrics: &'a str, name: &str) -> Option<&'a str> {
    let line = metrics.lines().find(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with([' ', '{']))
    })?;
    line.rsplit(' ').next()
}

/// The value of `label` in the first sample called `name`.
fn label(metrics: &str, name: &str, label: &str) -> Option<String> {
    let line = metrics
        .lines()
        .find(|line| line.starts_with(&format!("{name}{{")))?;
    let (_, rest) = line.split_once(&format!("{label}=\""))?;
    rest.split_once('"').map(|(value, _)| value.to_owned())
}

/// Seconds as the two largest units.
fn uptime_text(seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to a century"
    )]
    let seconds = seconds.clamp(0.0, 3.2e9) as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    fn daemon() -> Daemon {
        Daemon {
            name: "gearmand".to_owned(),
            admin: "127.0.0.1:9815".to_owned(),
            token_file: None,
        }
    }

    #[test]
    fn a_ready_daemon_shows_version_and_uptime() {
        let metrics = "# HELP x y\nibex_build_info{daemon=\"gearmand\",version=\"0.3.0\"} 1\n\
                       process_start_time_seconds 1000\n";
        let ready = Ok(Answer {
            status: StatusCode::OK,
            text: "ok\n".to_owned(),
        });
        let line = line(&daemon(), ready, metrics, 1_065.0);
        assert!(line.is_ready);
        assert_eq!(
            line.cells[1..5],
            ["yes", "yes", "0.3.0", "1m5s"].map(str::to_owned)
        );
    }

    #[test]
    fn a_daemon_that_waits_for_its_store_says_why() {
        let text = "[-]store: connect timeout\n".to_owned();
        let ready = Ok(Answer {
            status: StatusCode::SERVICE_UNAVAILABLE,
            text,
        });
        let line = line(&daemon(), ready, "", 0.0);
        assert!(line.is_up && !line.is_ready);
        assert_eq!(line.cells[6], "[-]store: connect timeout");
    }

    #[test]
    fn uptimes_keep_two_units() {
        for (seconds, text) in [
            (0.4, "0s"),
            (59.0, "59s"),
            (61.0, "1m1s"),
            (7_260.0, "2h1m"),
            (180_000.0, "2d2h"),
        ] {
            assert_eq!(uptime_text(seconds), text);
        }
    }
}

//! Queues that are behind, leases that look wrong, failures: what schwartzmon shows, in its form.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::place::Place;
use super::server::escaped;
use crate::output::print_text;

/// A lease that ends later than this is suspicious: no job runs for a month.
const LEASE_SECONDS_MAX: u64 = 30 * 86_400;
/// Failures one look of `errors` asks for.
const ERRORS_MAX: u32 = 1000;
/// Between two looks of `errors -f`, as schwartzmon.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// Arguments of `ibex schwartz queues`.
#[derive(Debug, clap::Args)]
pub(super) struct Queues {
    /// Only this function.
    #[arg(long)]
    job: Option<String>,
    /// Seconds the oldest job may wait.
    #[arg(long, default_value_t = 0)]
    maxage: u64,
    /// Jobs that may wait.
    #[arg(long, default_value_t = 0)]
    maxcount: u64,
    /// Instead: jobs whose lease ends more than 30 days from now or whose function has no name, with their handles.
    #[arg(long, conflicts_with_all = ["maxage", "maxcount"])]
    stuck: bool,
}

/// Jobs of a function that wait.
struct Depth {
    func: String,
    ready: u64,
    oldest: u64,
}

/// Prints what is over a limit; exit code 1 if anything is.
pub(super) async fn queues(place: &Place, args: Queues) -> anyhow::Result<ExitCode> {
    let lines = if args.stuck {
        stuck(place, args.job.as_deref()).await?
    } else {
        behind(place, &args).await?
    };
    print_text(&lines);
    Ok(ExitCode::from(u8::from(!lines.is_empty())))
}

async fn behind(place: &Place, args: &Queues) -> anyhow::Result<String> {
    let depths: Vec<Depth> = match place {
        Place::Tables(client) => client
            .counts()
            .await?
            .into_iter()
            .map(|count| Depth {
                func: count.funcname,
                ready: count.ready,
                oldest: count.oldest_ready_age,
            })
            .collect(),
        Place::Daemon(server) => {
            let answer = server.get("/v1/funcs").await?;
            let funcs = answer["funcs"].as_array().into_iter().flatten();
            funcs
                .map(|func| Depth {
                    func: func["func"].as_str().unwrap_or_default().to_owned(),
                    ready: func["ready"].as_u64().unwrap_or(0),
                    oldest: func["oldest_ready_age"].as_u64().unwrap_or(0),
                })
                .collect()
        }
    };
    let mut lines = String::new();
    for Depth {
        func,
        ready,
        oldest,
    } in depths
    {
        let is_asked = args.job.as_ref().is_none_or(|job| *job == func);
        // COMPAT(schwartzmon): either limit alone is reason enough. DIFFERS(schwartzmon): jobs that workers have are not outstanding.
        if is_asked && (oldest > args.maxage || ready > args.maxcount) {
            lines.push_str(&format!(
                "{func}\n  outstanding: {ready}\n  behind_secs: {oldest}\n"
            ));
        }
    }
    Ok(lines)
}

/// `FUNC HANDLE SECONDS`, the last until the lease ends.
async fn stuck(place: &Place, job: Option<&str>) -> anyhow::Result<String> {
    let now = SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |since| since.as_secs());
    let mut found: Vec<(String, String, u64)> = Vec::new();
    match place {
        Place::Tables(client) => {
            for suspect in client.suspects(LEASE_SECONDS_MAX).await? {
                let func = suspect
                    .funcname
                    .unwrap_or_else(|| "(no function)".to_owned());
                found.push((func, suspect.handle.to_string(), suspect.grabbed_until));
            }
        }
        Place::Daemon(server) => {
            let mut after = String::new();
            loop {
                let path = format!("/v1/jobs?state=grabbed&limit={ERRORS_MAX}{after}");
                let answer = server.get(&path).await?;
                let jobs = answer["jobs"].as_array().cloned().unwrap_or_default();
                for job in &jobs {
                    let until = job["grabbed_until"].as_u64().unwrap_or(0);
                    if until > now + LEASE_SECONDS_MAX {
                        let text = |name: &str| job[name].as_str().unwrap_or_default().to_owned();
                        found.push((text("func"), text("handle"), until));
                    }
                }
                let last = jobs.last().and_then(|job| job["handle"].as_str());
                match last {
                    Some(last) if jobs.len() >= ERRORS_MAX as usize => {
                        after = format!("&after={}", escaped(last));
                    }
                    Some(_) | None => break,
                }
            }
        }
    }
    found.retain(|(func, ..)| job.is_none_or(|job| job == func));
    let line = |(func, handle, until): &(String, String, u64)| {
        format!("{func} {handle} {}\n", until.saturating_sub(now))
    };
    Ok(found.iter().map(line).collect())
}

/// Arguments of `ibex schwartz errors`.
#[derive(Debug, clap::Args)]
pub(super) struct Errors {
    /// Only of this function.
    #[arg(long)]
    func: Option<String>,
    /// How many.
    #[arg(long, default_value_t = 100)]
    last: u32,
    /// Only those of the last so many seconds.
    #[arg(long, value_name = "SECONDS")]
    inlast: Option<u64>,
    /// From now on, as they come.
    #[arg(long, short, conflicts_with_all = ["last", "inlast"])]
    follow: bool,
}

/// A failure as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Failure {
    time: u64,
    jobid: u64,
    message: String,
}

impl Failure {
    fn line(&self) -> String {
        let (time, jobid) = (clock_text(self.time), self.jobid);
        format!("{time} [{jobid}]: {}\n", self.message.trim_end())
    }
}

/// Prints failures, the oldest first.
pub(super) async fn errors(place: &Place, args: Errors) -> anyhow::Result<ExitCode> {
    let func = args.func.as_deref();
    if args.follow {
        return follow(place, func).await;
    }
    let mut failures = failures(place, func, args.inlast, args.last).await?;
    failures.reverse();
    print_text(&failures.iter().map(Failure::line).collect::<String>());
    Ok(ExitCode::SUCCESS)
}

/// The newest failures, newest first.
async fn failures(
    place: &Place,
    func: Option<&str>,
    inlast: Option<u64>,
    last: u32,
) -> anyhow::Result<Vec<Failure>> {
    match place {
        Place::Tables(client) => {
            let since = match inlast {
                None => 0,
                Some(seconds) => client.time().await?.saturating_sub(seconds),
            };
            let found = client.errors(func, since, last).await?;
            Ok(found
                .into_iter()
                .map(|(_, failure)| Failure {
                    time: failure.time,
                    jobid: failure.jobid,
                    message: failure.message,
                })
                .collect())
        }
        Place::Daemon(server) => {
            let mut path = format!("/v1/errors?last={last}");
            if let Some(func) = func {
                path.push_str(&format!("&func={}", escaped(func)));
            }
            if let Some(seconds) = inlast {
                path.push_str(&format!("&inlast={seconds}"));
            }
            let answer = server.get(&path).await?;
            let found = answer["errors"].as_array().into_iter().flatten();
            Ok(found
                .map(|failure| Failure {
                    time: failure["time"].as_u64().unwrap_or(0),
                    jobid: failure["jobid"].as_u64().unwrap_or(0),
                    message: failure["message"].as_str().unwrap_or_default().to_owned(),
                })
                .collect())
        }
    }
}

/// Prints what is new, once a second, until SIGINT or SIGTERM. Failures have no numbers: equal ones of one second are told apart by how many there are.
async fn follow(place: &Place, func: Option<&str>) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut seen: Option<BTreeMap<Failure, usize>> = None;
    loop {
        let found = failures(place, func, Some(60), ERRORS_MAX).await?;
        let mut counts: BTreeMap<Failure, usize> = BTreeMap::new();
        for failure in found {
            *counts.entry(failure).or_default() += 1;
        }
        if let Some(seen) = &seen {
            for (failure, count) in &counts {
                let old = seen.get(failure).copied().unwrap_or(0);
                for _ in old..*count {
                    print_text(&failure.line());
                }
            }
        }
        seen = Some(counts);
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_EVERY) => {}
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// Local time in the form of C's `asctime`, as schwartzmon prints it; a number that is no time stays a number.
fn clock_text(epoch: u64) -> String {
    let second = i64::try_from(epoch).ok();
    let time = second.and_then(|second| jiff::Timestamp::from_second(second).ok());
    time.map_or_else(
        || epoch.to_string(),
        |time| {
            let local = time.to_zoned_datetime(jiff::tz::TimeZone::system());
            local.strftime("%a %b %e %H:%M:%S %Y").to_string()
        },
    )
}

/// The functions a daemon shows.
pub(super) fn listed(answer: &Value, name: &str) -> Vec<Value> {
    answer[name].as_array().cloned().unwrap_or_default()
}

//! `ibex reload|drain|undrain|workers|log-level`: one call to one daemon's admin port.

use std::process::ExitCode;

use anyhow::Context as _;
use http::Method;

use crate::admin;
use crate::family::Family;
use crate::output::{Format, Table, print_text};

/// A daemon named on the command line.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// The daemon, as the family file names it: `gearmand`, `memcached1` …
    daemon: String,
}

/// Arguments of `ibex workers`.
#[derive(Debug, clap::Args)]
pub struct Workers {
    /// The daemon.
    daemon: String,
    /// Pause this worker.
    #[arg(long, value_name = "WORKER", conflicts_with = "resume")]
    pause: Option<String>,
    /// Resume this worker.
    #[arg(long, value_name = "WORKER")]
    resume: Option<String>,
}

/// Arguments of `ibex log-level`.
#[derive(Debug, clap::Args)]
pub struct LogLevel {
    /// The daemon.
    daemon: String,
    /// The new filter, such as `info,ibex_gearmand=debug`; without it the present one is printed.
    filter: Option<String>,
    /// Go back to the present filter after this long, such as `10m`.
    #[arg(long = "for", value_name = "DURATION", requires = "filter")]
    duration: Option<String>,
}

/// Posts to `path` and prints the answer.
///
/// # Errors
/// When the daemon is unknown, unreachable or refuses.
pub async fn post(target: &Target, family: &Family, path: &str) -> anyhow::Result<ExitCode> {
    let daemon = family.find(&target.daemon)?;
    print_text(
        &admin::call(daemon, Method::POST, path, "")
            .await?
            .success()?,
    );
    Ok(ExitCode::SUCCESS)
}

/// Lists a daemon's background workers, or pauses or resumes one.
///
/// # Errors
/// As for [`post`].
pub async fn workers(args: &Workers, family: &Family, format: Format) -> anyhow::Result<ExitCode> {
    let daemon = family.find(&args.daemon)?;
    let act = match (&args.pause, &args.resume) {
        (Some(worker), _) => Some((worker, "pause")),
        (None, Some(worker)) => Some((worker, "resume")),
        (None, None) => None,
    };
    if let Some((worker, verb)) = act {
        let path = format!("/-/workers/{worker}/{verb}");
        print_text(
            &admin::call(daemon, Method::POST, &path, "")
                .await?
                .success()?,
        );
        return Ok(ExitCode::SUCCESS);
    }
    let text = admin::call(daemon, Method::GET, "/-/workers", "")
        .await?
        .success()?;
    workers_table(&text)?.print(format);
    Ok(ExitCode::SUCCESS)
}

fn workers_table(text: &str) -> anyhow::Result<Table> {
    let parsed: serde_json::Value = serde_json::from_str(text).context("parse worker list")?;
    let list = parsed.as_array().or_else(|| parsed["workers"].as_array());
    let mut table = Table::new(&["worker", "state", "done", "total", "error"]);
    for worker in list.context("worker list is not an array")? {
        let cell = |key: &str| match (&worker[key], worker[key].as_str()) {
            (_, Some(text)) => text.to_owned(),
            (value, None) if value.is_null() => String::new(),
            (value, None) => value.to_string(),
        };
        table.push(vec![
            cell("name"),
            cell("state"),
            cell("done"),
            cell("total"),
            cell("last_error"),
        ]);
    }
    Ok(table)
}

/// Shows or changes the log filter.
///
/// # Errors
/// As for [`post`].
pub async fn log_level(args: &LogLevel, family: &Family) -> anyhow::Result<ExitCode> {
    let daemon = family.find(&args.daemon)?;
    let answer = match &args.filter {
        None => admin::call(daemon, Method::GET, "/-/log-level", "").await?,
        Some(filter) => {
            let query = args
                .duration
                .as_ref()
                .map_or_else(String::new, |d| format!("?for={d}"));
            admin::call(daemon, Method::PUT, &format!("/-/log-level{query}"), filter).await?
        }
    };
    print_text(&answer.success()?);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_lists_become_rows() {
        let text =
            r#"[{"name":"replicate","state":"idle","done":3,"total":null,"last_error":null}]"#;
        assert_eq!(
            workers_table(text).unwrap().render(Format::Tsv),
            "worker\tstate\tdone\ttotal\terror\nreplicate\tidle\t3\t\t\n"
        );
        assert!(workers_table("{}").is_err());
    }
}

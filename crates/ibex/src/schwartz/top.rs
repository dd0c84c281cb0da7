//! `ibex schwartz top`: functions and workers, again and again; or the scoreboard files that classic workers write.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use super::look::listed;
use super::place::Place;
use crate::output::{Format, Table, print_text};

/// Arguments of `ibex schwartz top`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Seconds between two looks.
    #[arg(long, short, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    interval: u64,
    /// End after so many looks; 0 = never.
    #[arg(long, default_value_t = 0)]
    count: u64,
    /// Show the workers whose scoreboard files are in `DIR/theschwartz`, as the Perl library writes them.
    #[arg(long, value_name = "DIR")]
    scoreboard: Option<PathBuf>,
}

/// Shows the tables until it is stopped or counted out.
pub(super) async fn run(place: &Place, args: Args) -> anyhow::Result<ExitCode> {
    let is_live = std::io::stdout().is_terminal();
    let mut left = args.count;
    loop {
        let text = look(place, args.scoreboard.as_deref()).await?;
        if is_live {
            // Home, and clear to the end.
            print_text("\x1b[H\x1b[2J");
        }
        print_text(&text);
        if left == 1 {
            return Ok(ExitCode::SUCCESS);
        }
        left = left.saturating_sub(1);
        tokio::time::sleep(Duration::from_secs(args.interval)).await;
    }
}

async fn look(place: &Place, scoreboard: Option<&Path>) -> anyhow::Result<String> {
    let mut text = funcs(place).await?.render(Format::Table);
    if let Some(workers) = workers(place).await? {
        text.push('\n');
        text.push_str(&workers.render(Format::Table));
    }
    if let Some(dir) = scoreboard {
        text.push('\n');
        text.push_str(&boards(&dir.join("theschwartz"))?.render(Format::Table));
    }
    Ok(text)
}

async fn funcs(place: &Place) -> anyhow::Result<Table> {
    let mut table = Table::new(&[
        "function",
        "ready",
        "grabbed",
        "scheduled",
        "blocked",
        "oldest",
        "",
    ]);
    match place {
        Place::Tables(client) => {
            for count in client.counts().await? {
                table.push(vec![
                    count.funcname,
                    count.ready.to_string(),
                    count.grabbed.to_string(),
                    count.scheduled.to_string(),
                    count.blocked.to_string(),
                    count.oldest_ready_age.to_string(),
                    paused(count.paused_until.is_some()),
                ]);
            }
        }
        Place::Daemon(server) => {
            for func in listed(&server.get("/v1/funcs").await?, "funcs") {
                let number = |name: &str| func[name].as_u64().unwrap_or(0).to_string();
                table.push(vec![
                    func["func"].as_str().unwrap_or_default().to_owned(),
                    number("ready"),
                    number("grabbed"),
                    number("scheduled"),
                    number("blocked"),
                    number("oldest_ready_age"),
                    paused(func["paused"] == true),
                ]);
            }
        }
    }
    Ok(table)
}

fn paused(is_paused: bool) -> String {
    if is_paused { "paused" } else { "" }.to_owned()
}

/// Runs of the daemon's workers; the tables know none.
async fn workers(place: &Place) -> anyhow::Result<Option<Table>> {
    let Place::Daemon(server) = place else {
        return Ok(None);
    };
    let mut table = Table::new(&["worker", "function", "job", "attempt", "seconds"]);
    for worker in listed(&server.get("/v1/workers").await?, "workers") {
        for run in listed(&worker, "jobs") {
            let number = |name: &str| run[name].as_u64().unwrap_or(0).to_string();
            table.push(vec![
                worker["worker"].as_str().unwrap_or_default().to_owned(),
                run["func"].as_str().unwrap_or_default().to_owned(),
                number("jobid"),
                number("attempt"),
                number("running_seconds"),
            ]);
        }
    }
    Ok(Some(table))
}

/// Scoreboard files: `scoreboard.PID` with lines `name=value`; one with `done` waits for work.
fn boards(dir: &Path) -> anyhow::Result<Table> {
    let mut table = Table::new(&["pid", "function", "seconds", "state", "argument"]);
    let entries = std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("scoreboard."))
        })
        .collect();
    files.sort();
    for file in files {
        // A worker that ends removes its file.
        let Ok(text) = std::fs::read_to_string(&file) else {
            continue;
        };
        table.push(board(&text));
    }
    Ok(table)
}

fn board(text: &str) -> Vec<String> {
    let value = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default()
    };
    let seconds = |name: &str| value(name).parse::<i64>().ok();
    let now = jiff::Timestamp::now().as_second();
    let (state, since) = match (seconds("started"), seconds("done")) {
        (Some(started), Some(done)) => ("idle", Some(done.saturating_sub(started))),
        (Some(started), None) => ("works", Some(now.saturating_sub(started))),
        (None, _) => ("", None),
    };
    vec![
        value("pid").to_owned(),
        value("funcname").to_owned(),
        since.map_or(String::new(), |since| since.to_string()),
        state.to_owned(),
        value("arg").chars().take(60).collect(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scoreboards_of_perl_workers_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let idle = "pid=7\nfuncname=Mail\nstarted=100\narg=x\ndone=103\n";
        std::fs::write(dir.path().join("scoreboard.7"), idle).unwrap();
        std::fs::write(dir.path().join("other"), "pid=8\n").unwrap();
        let table = boards(dir.path()).unwrap().render(Format::Tsv);
        assert_eq!(table.lines().nth(1), Some("7\tMail\t3\tidle\tx"));
        assert_eq!(table.lines().count(), 2);
    }
}

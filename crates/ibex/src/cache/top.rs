//! `ibex cache top`: how busy every server is, again and again.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use ibex_memcached_client::{Client, Config};

use crate::output::{Format, Table, print_text};

/// Arguments of `ibex cache top`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Seconds between two looks.
    #[arg(long, short, default_value_t = 2.0)]
    interval: f64,
    /// End after so many tables; 0 = never.
    #[arg(long, default_value_t = 0)]
    count: u64,
}

/// A server's counters at one moment.
#[derive(Debug, Clone)]
struct Sample {
    at: Instant,
    stats: BTreeMap<String, String>,
}

impl Sample {
    fn number(&self, name: &str) -> f64 {
        self.stats
            .get(name)
            .and_then(|value| value.parse().ok())
            .unwrap_or(0.0)
    }
}

const COLUMNS: [&str; 13] = [
    "server", "up", "items", "used", "conns", "get/s", "hit", "set/s", "evict/s", "expire/s",
    "in/s", "out/s", "cpu",
];

/// Exit code 1 if no server answered the last look.
pub(super) async fn run(
    args: Args,
    servers: &[String],
    config: impl Fn(Vec<String>) -> Config,
    format: Format,
) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        args.interval.is_finite() && args.interval > 0.0,
        "--interval must be more than 0"
    );
    let interval = Duration::from_secs_f64(args.interval);
    let mut clients = Vec::new();
    for server in servers {
        // Each alone: one that is away must not hide the others, nor be left alone for half a minute.
        let config = config(vec![server.clone()]).with_backoff(u32::MAX, Duration::ZERO);
        clients.push(Client::connect(config).await?);
    }
    let mut before = look(&clients).await;
    if before.iter().all(Option::is_none) {
        // The reason, which the looks drop.
        clients[0].stats("").await?;
    }
    let is_live = format == Format::Table && std::io::stdout().is_terminal();
    let mut left = if args.count == 0 {
        u64::MAX
    } else {
        args.count
    };
    loop {
        tokio::time::sleep(interval).await;
        let now = look(&clients).await;
        let mut table = Table::new(&COLUMNS);
        for ((server, now), before) in servers.iter().zip(&now).zip(&before) {
            table.push(row(server, now.as_ref(), before.as_ref()));
        }
        if is_live {
            // Home, and clear to the end.
            print_text("\x1b[H\x1b[2J");
        }
        table.print(format);
        left -= 1;
        if left == 0 {
            return Ok(ExitCode::from(u8::from(now.iter().all(Option::is_none))));
        }
        before = now;
    }
}

async fn look(clients: &[Client]) -> Vec<Option<Sample>> {
    let looks = clients.iter().map(|client| async {
        let stats = client.stats("").await.ok()?.into_values().next()?;
        Some(Sample {
            at: Instant::now(),
            stats,
        })
    });
    join_all(looks).await
}

fn row(server: &str, now: Option<&Sample>, before: Option<&Sample>) -> Vec<String> {
    let Some(now) = now else {
        let away = ["away"].into_iter().chain(std::iter::repeat("-"));
        return [server]
            .into_iter()
            .chain(away)
            .take(COLUMNS.len())
            .map(str::to_owned)
            .collect();
    };
    // A server that was restarted counts from nothing: no rate is better than a negative one.
    let before = before.filter(|before| now.number("uptime") >= before.number("uptime"));
    let rate = |name: &str| {
        let before = before?;
        let seconds = (now.at - before.at).as_secs_f64();
        (seconds > 0.0).then(|| (now.number(name) - before.number(name)).max(0.0) / seconds)
    };
    let shown = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), short);
    let percent = |part: f64, whole: f64| {
        if whole > 0.0 {
            format!("{:.1}%", 100.0 * part / whole)
        } else {
            "-".to_owned()
        }
    };
    let gets = rate("cmd_get").unwrap_or(0.0);
    let cpu = rate("rusage_user").zip(rate("rusage_system"));
    vec![
        server.to_owned(),
        span(now.number("uptime")),
        short(now.number("curr_items")),
        percent(now.number("bytes"), now.number("limit_maxbytes")),
        short(now.number("curr_connections")),
        shown(rate("cmd_get")),
        percent(rate("get_hits").unwrap_or(0.0), gets),
        shown(rate("cmd_set")),
        shown(rate("evictions")),
        shown(rate("reclaimed")),
        shown(rate("bytes_read")),
        shown(rate("bytes_written")),
        cpu.map_or_else(
            || "-".to_owned(),
            |(user, system)| percent(user + system, 1.0),
        ),
    ]
}

/// A number in at most five places: 950, 12.3k, 4.5M, 6.7G.
fn short(number: f64) -> String {
    let units = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    match units.iter().find(|(size, _)| number >= *size) {
        Some((size, unit)) => format!("{:.1}{unit}", number / size),
        None => format!("{number:.0}"),
    }
}

/// Seconds as people say them: 45s, 12m, 7h, 31d.
fn span(seconds: f64) -> String {
    let units = [(86_400.0, "d"), (3600.0, "h"), (60.0, "m")];
    match units.iter().find(|(size, _)| seconds >= *size) {
        Some((size, unit)) => format!("{:.0}{unit}", (seconds / size).floor()),
        None => format!("{seconds:.0}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: Instant, stats: &[(&str, &str)]) -> Sample {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Sample {
            at,
            stats: stats.iter().map(own).collect(),
        }
    }

    fn cell<'r>(row: &'r [String], name: &str) -> &'r str {
        let at = COLUMNS.iter().position(|column| *column == name).unwrap();
        &row[at]
    }

    #[test]
    fn rates_are_differences_over_time() {
        let start = Instant::now();
        let before = sample(
            start,
            &[("uptime", "10"), ("cmd_get", "100"), ("get_hits", "50")],
        );
        let now = sample(
            start + Duration::from_secs(2),
            &[
                ("uptime", "12"),
                ("cmd_get", "5100"),
                ("get_hits", "4550"),
                ("bytes", "10"),
                ("limit_maxbytes", "40"),
                ("rusage_user", "0.5"),
                ("rusage_system", "0.5"),
            ],
        );
        let row = row("a", Some(&now), Some(&before));
        assert_eq!(cell(&row, "get/s"), "2.5k");
        assert_eq!((cell(&row, "hit"), cell(&row, "used")), ("90.0%", "25.0%"));
        assert_eq!((cell(&row, "cpu"), cell(&row, "up")), ("50.0%", "12s"));
    }

    #[test]
    fn a_restarted_server_and_one_that_is_away() {
        let start = Instant::now();
        let before = sample(start, &[("uptime", "100"), ("cmd_get", "100")]);
        let now = sample(
            start + Duration::from_secs(1),
            &[("uptime", "1"), ("cmd_get", "5")],
        );
        assert_eq!(cell(&row("a", Some(&now), Some(&before)), "get/s"), "-");
        let away = row("a", None, Some(&before));
        assert_eq!((away.len(), &away[1][..]), (COLUMNS.len(), "away"));
    }

    #[test]
    fn numbers_and_spans() {
        let numbers = [0.0, 999.0, 1000.0, 12_345_678.0, 2e9].map(short);
        assert_eq!(numbers, ["0", "999", "1.0k", "12.3M", "2.0G"]);
        let spans = [5.0, 60.0, 7200.0, 864_000.0].map(span);
        assert_eq!(spans, ["5s", "1m", "2h", "10d"]);
    }
}

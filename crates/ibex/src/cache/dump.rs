//! `ibex cache dump`: the keys of every server, as they are read, whatever their number.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use super::keys::{Entry, Keys, Pattern, Refused, shown};
use crate::output::{Format, Table, print_text};

/// Arguments of `ibex cache dump`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only keys like this: `*` any text, `?` one byte.
    #[arg(long = "match", value_name = "PATTERN")]
    pattern: Option<Pattern>,
    /// At most so many keys of each server; 0 = all.
    #[arg(long, default_value_t = 0)]
    limit: u64,
}

const COLUMNS: [&str; 8] = [
    "server",
    "key",
    "size",
    "expires_in",
    "idle",
    "fetched",
    "flags",
    "cas",
];
/// Rows printed together: a table is aligned that far, and a slow pipe is not asked for each row.
const ROWS: usize = 500;

fn row(server: &str, entry: &Entry, now: i64) -> Vec<String> {
    let never = || "-".to_owned();
    vec![
        server.to_owned(),
        shown(&entry.key),
        entry.size.to_string(),
        entry
            .expires_at
            .map_or_else(never, |at| (at - now).max(0).to_string()),
        (now - entry.last_access).max(0).to_string(),
        if entry.is_fetched { "yes" } else { "no" }.to_owned(),
        entry.flags.map_or_else(never, |flags| flags.to_string()),
        entry.cas.to_string(),
    ]
}

/// Prints rows in pieces that together read as one output.
struct Printer {
    format: Format,
    rows: Vec<Vec<String>>,
    is_first: bool,
}

impl Printer {
    fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
        if self.rows.len() >= ROWS {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let mut table = Table::new(&COLUMNS);
        let count = self.rows.len();
        for row in self.rows.drain(..) {
            table.push(row);
        }
        let is_first = std::mem::replace(&mut self.is_first, false);
        match self.format {
            Format::Jsonl => table.print(Format::Jsonl),
            // Only the first piece has the header.
            Format::Table | Format::Tsv => {
                let text = table.render(self.format);
                let body = text.split_once('\n').map_or("", |(_, body)| body);
                print_text(if is_first { &text } else { body });
            }
            Format::Json => {
                let objects = table.render(Format::Jsonl);
                for (n, object) in objects.lines().enumerate() {
                    let lead = if is_first && n == 0 { "[" } else { "," };
                    print_text(&format!("{lead}{object}\n"));
                }
                // An array without rows still begins.
                if is_first && count == 0 {
                    print_text("[");
                }
            }
        }
    }

    fn end(mut self) {
        if !self.rows.is_empty() || self.is_first {
            self.flush();
        }
        if self.format == Format::Json {
            print_text("]\n");
        }
    }
}

/// Exit code 1 if a server refused.
pub(super) async fn run(
    args: Args,
    servers: &[String],
    format: Format,
) -> anyhow::Result<ExitCode> {
    let mut printer = Printer {
        format,
        rows: Vec::new(),
        is_first: true,
    };
    let mut refusals = 0;
    for server in servers {
        let mut keys = match Keys::of(server, args.pattern.clone()).await {
            Ok(keys) => keys,
            Err(error) if error.is::<Refused>() => {
                eprintln!("ibex: {error}");
                refusals += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let mut left = if args.limit == 0 {
            u64::MAX
        } else {
            args.limit
        };
        while left > 0
            && let Some(entry) = keys.next().await?
        {
            printer.push(row(server, &entry, now));
            left -= 1;
        }
    }
    printer.end();
    Ok(ExitCode::from(u8::from(refusals > 0)))
}

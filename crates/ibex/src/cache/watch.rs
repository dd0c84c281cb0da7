//! `ibex cache watch`: what every server does, line by line as it happens.

use std::process::ExitCode;

use tokio::sync::mpsc;

use super::keys::Pattern;
use super::wire::Connection;
use crate::output::{Format, print_text};

/// Lines that wait to be printed. Policy: reading pauses; the server then counts what it leaves out (`skipped=`).
const LINES_MAX: usize = 1024;

/// Arguments of `ibex cache watch`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What: fetchers, mutations, evictions, connevents, deletions, sysevents.
    #[arg(default_value = "fetchers")]
    what: Vec<String>,
    /// Only lines whose key is like this: `*` any text, `?` one byte. Keys are percent-encoded in these lines.
    #[arg(long = "match", value_name = "PATTERN")]
    pattern: Option<Pattern>,
    /// End after so many lines; 0 = never.
    #[arg(long, default_value_t = 0)]
    count: u64,
}

/// Exit code 1 if a server refused.
pub(super) async fn run(
    args: Args,
    servers: &[String],
    format: Format,
) -> anyhow::Result<ExitCode> {
    let (sender, mut receiver) = mpsc::channel(LINES_MAX);
    for server in servers {
        let mut connection = Connection::open(server).await?;
        let request = format!("watch {}\r\n", args.what.join(" "));
        connection.send(request.as_bytes()).await?;
        let first = connection.first_line().await?;
        if first != "OK" {
            eprintln!("ibex: {server} refused the watch: {first}");
            return Ok(ExitCode::from(1));
        }
        let sender = sender.clone();
        tokio::spawn(async move {
            loop {
                let line = connection.line().await;
                let is_over = line.is_err();
                let server = connection.server().to_owned();
                if sender.send((server, line)).await.is_err() || is_over {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut left = if args.count == 0 {
        u64::MAX
    } else {
        args.count
    };
    while left > 0
        && let Some((server, line)) = receiver.recv().await
    {
        let line = line?;
        if args
            .pattern
            .as_ref()
            .is_none_or(|pattern| fits(pattern, &line))
        {
            print_text(&shown(&server, &line, servers.len() > 1, format));
            left -= 1;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn fits(pattern: &Pattern, line: &str) -> bool {
    line.split(' ')
        .find_map(|word| word.strip_prefix("key="))
        .is_some_and(|key| pattern.matches(key.as_bytes()))
}

fn shown(server: &str, line: &str, are_many: bool, format: Format) -> String {
    match format {
        Format::Json | Format::Jsonl => {
            let mut object = serde_json::Map::new();
            object.insert("server".to_owned(), server.into());
            for (name, value) in line.split(' ').filter_map(|word| word.split_once('=')) {
                object.insert(name.to_owned(), value.into());
            }
            format!("{}\n", serde_json::Value::Object(object))
        }
        Format::Table | Format::Tsv if are_many => format!("{server}\t{line}\n"),
        Format::Table | Format::Tsv => format!("{line}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_in_each_format() {
        let line = "ts=1.5 gid=2 type=item_get key=a%20b status=found";
        assert_eq!(
            shown("a:1", line, false, Format::Table),
            format!("{line}\n")
        );
        assert_eq!(
            shown("a:1", line, true, Format::Tsv),
            format!("a:1\t{line}\n")
        );
        let json: serde_json::Value =
            serde_json::from_str(&shown("a:1", line, false, Format::Jsonl)).unwrap();
        assert_eq!(
            (&json["server"], &json["key"]),
            (&"a:1".into(), &"a%20b".into())
        );
        assert!(fits(&"a*".parse().unwrap(), line));
        assert!(!fits(&"b*".parse().unwrap(), line));
        assert!(!fits(&"*".parse().unwrap(), "ts=1 gid=1 type=conn_new"));
    }
}

//! `ibex balance`: commands of the balancer's management port, one after another on one connection.

use std::io::BufRead as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::output::print_text;

/// How long the balancer may take to answer one command.
const DEADLINE: Duration = Duration::from_secs(10);

/// Longest answer that is read, in bytes; a list of 100 000 sockets fits.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Arguments of `ibex balance`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Management port of the balancer; default $PERLBAL_MANAGE, then 127.0.0.1:60000.
    #[arg(long, value_name = "HOST:PORT")]
    manage: Option<String>,
    /// One command, its words as separate arguments: `show service`, `pool web add 10.0.0.5:80`. Without one, commands are read from standard input,
    /// a line each.
    command: Vec<String>,
}

/// Sends the commands and prints their answers. Exit code 1 if one was refused.
///
/// # Errors
/// When the balancer cannot be reached or does not answer.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let address = args
        .manage
        .or_else(|| std::env::var("PERLBAL_MANAGE").ok())
        .unwrap_or_else(|| "127.0.0.1:60000".to_owned());
    let commands = if args.command.is_empty() {
        let lines = std::io::stdin().lock().lines();
        lines
            .collect::<Result<Vec<_>, _>>()
            .context("read standard input")?
    } else {
        vec![args.command.join(" ")]
    };
    let stream = tokio::time::timeout(DEADLINE, TcpStream::connect(&address))
        .await
        .with_context(|| format!("connect to {address}: no answer"))?
        .with_context(|| format!("connect to {address}"))?;
    let mut stream = BufReader::new(stream);
    let mut is_refused = false;
    for command in commands.iter().filter(|command| !is_silent(command)) {
        stream
            .write_all(format!("{command}\r\n").as_bytes())
            .await
            .context("send command")?;
        let answer = tokio::time::timeout(DEADLINE, read(&mut stream))
            .await
            .with_context(|| format!("{command}: no answer within {} s", DEADLINE.as_secs()))??;
        is_refused |= answer.lines().next_back().is_some_and(is_error);
        print_text(&answer);
    }
    Ok(ExitCode::from(u8::from(is_refused)))
}

/// Lines to which the balancer says nothing at all: empty ones and comments.
fn is_silent(command: &str) -> bool {
    let command = command.trim();
    command.is_empty() || command.starts_with('#')
}

fn is_error(line: &str) -> bool {
    line.starts_with("ERROR")
}

/// An answer ends with a lone point, with `OK`, or with an error; a `shutdown` ends with the connection.
async fn read(stream: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut text = String::new();
    loop {
        let mut line = Vec::new();
        if stream
            .read_until(b'\n', &mut line)
            .await
            .context("read answer")?
            == 0
        {
            return Ok(text);
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        text.push_str(&line);
        text.push('\n');
        if line == "." || line == "OK" || is_error(&line) {
            return Ok(text);
        }
        if text.len() > ANSWER_BYTES_MAX {
            bail!("answer exceeds {ANSWER_BYTES_MAX} bytes");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn answers_are_read_to_their_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream
                .write_all(b"a LISTEN ENABLED\r\n.\r\nOK\r\nERROR: no\r\nleft")
                .await
                .unwrap();
        };
        let client = async {
            let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
            let mut answers = Vec::new();
            for _ in 0..4 {
                answers.push(read(&mut stream).await.unwrap());
            }
            answers
        };
        let ((), answers) = tokio::join!(server, client);
        assert_eq!(
            answers,
            ["a LISTEN ENABLED\n.\n", "OK\n", "ERROR: no\n", "left\n"]
        );
    }

    #[test]
    fn comments_are_not_sent() {
        assert!(is_silent("  # x") && is_silent(""));
        assert!(!is_silent("show service"));
    }
}

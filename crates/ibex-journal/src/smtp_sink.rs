//! A small SMTP receiver that writes each mail to a file: where the demonstration's and the tests' mails arrive.
//!
//! Apart because it is no part of the site. It speaks the commands a mail client needs (RFC 5321: HELO/EHLO, MAIL, RCPT, DATA, RSET,
//! NOOP, QUIT) and acknowledges a mail after its file is whole. It relays nothing.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
    BufReader,
};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Longest command or line of a mail; RFC 5321 asks for 512 and 1000.
const LINE_BYTES_MAX: u64 = 4096;
/// Largest mail.
const MAIL_BYTES_MAX: usize = 10 * 1024 * 1024;

/// Receives until the process is ended by SIGTERM or SIGINT.
pub(crate) async fn run(listen: &str, dir: &Path) -> Result<()> {
    let io = |error: std::io::Error| Error::Files(error.to_string());
    std::fs::create_dir_all(dir).map_err(io)?;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| Error::Invalid(format!("listen on {listen}: {error}")))?;
    let address = listener.local_addr().map_err(io)?;
    if let Some(file) = std::env::var_os("IBEX_PORT_FILE").map(PathBuf::from) {
        let aside = file.with_extension("part");
        std::fs::write(&aside, format!("smtp = \"{address}\"\n"))
            .and_then(|()| std::fs::rename(&aside, &file))
            .map_err(io)?;
    }
    crate::commands::say(&format!("receiving mail on {address}"));
    let next = Arc::new(AtomicU64::new(first_free(dir).map_err(io)?));
    let mut terminate =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(io)?;
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let (dir, next) = (dir.to_owned(), Arc::clone(&next));
                sessions.spawn(async move {
                    let (read, write) = stream.into_split();
                    // A client that leaves in the middle is its own matter.
                    let _ended = session(BufReader::new(read), write, &dir, &next).await.is_ok();
                });
            }
            Some(_) = sessions.join_next(), if !sessions.is_empty() => {}
            _ = terminate.recv() => return Ok(()),
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

/// One more than the largest number in the directory.
fn first_free(dir: &Path) -> std::io::Result<u64> {
    let mut largest = 0;
    for file in std::fs::read_dir(dir)? {
        let name = file?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_suffix(".eml"))
            .and_then(|name| name.parse().ok());
        largest = largest.max(number.unwrap_or(0));
    }
    Ok(largest + 1)
}

async fn session(
    mut read: impl AsyncBufRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    dir: &Path,
    next: &AtomicU64,
) -> std::io::Result<()> {
    write.write_all(b"220 ibex-journal smtp-sink\r\n").await?;
    let (mut from, mut to) = (None::<String>, Vec::<String>::new());
    while let Some(line) = line(&mut read).await? {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        let verb = text
            .split([' ', ':'])
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase();
        let argument = text.split_once(':').map(|(_, rest)| rest.trim().to_owned());
        let answer: &[u8] = match verb.as_str() {
            "EHLO" => b"250-smtp-sink\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
            "HELO" | "NOOP" => b"250 ok\r\n",
            "RSET" => {
                (from, to) = (None, Vec::new());
                b"250 ok\r\n"
            }
            "MAIL" if argument.is_some() => {
                (from, to) = (argument, Vec::new());
                b"250 ok\r\n"
            }
            "RCPT" if from.is_some() && argument.is_some() => {
                to.extend(argument);
                b"250 ok\r\n"
            }
            "DATA" if !to.is_empty() => {
                write.write_all(b"354 go ahead\r\n").await?;
                let mail = data(&mut read).await?;
                let envelope = (from.take().unwrap_or_default(), std::mem::take(&mut to));
                match mail.map(|mail| keep(dir, next, &envelope, &mail)) {
                    Some(Ok(())) => b"250 kept\r\n",
                    Some(Err(_)) => b"452 no room\r\n",
                    None => b"552 too large\r\n",
                }
            }
            "MAIL" | "RCPT" | "DATA" => b"503 not now\r\n",
            "QUIT" => {
                write.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => b"500 unknown\r\n",
        };
        write.write_all(answer).await?;
    }
    Ok(())
}

/// A line with its end; `None` at the end of the stream.
async fn line(read: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    read.take(LINE_BYTES_MAX)
        .read_until(b'\n', &mut line)
        .await?;
    Ok((!line.is_empty()).then_some(line))
}

/// Lines up to a single dot, with doubled dots made single; `None` if they are too many.
async fn data(read: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    let mut mail = Vec::new();
    let mut is_too_large = false;
    while let Some(line) = line(read).await? {
        if line == b".\r\n" || line == b".\n" {
            return Ok((!is_too_large).then_some(mail));
        }
        is_too_large |= mail.len() + line.len() > MAIL_BYTES_MAX;
        if !is_too_large {
            mail.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
    }
    Err(std::io::ErrorKind::UnexpectedEof.into())
}

/// Writes the file aside and renames it, so that a reader of the directory sees whole mails only.
fn keep(
    dir: &Path,
    next: &AtomicU64,
    (from, to): &(String, Vec<String>),
    mail: &[u8],
) -> std::io::Result<()> {
    let number = next.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!("{number:06}.eml"));
    let mut content = format!(
        "X-Envelope-From: {from}\r\nX-Envelope-To: {}\r\n",
        to.join(", ")
    )
    .into_bytes();
    content.extend_from_slice(mail);
    let aside = path.with_extension("part");
    std::fs::write(&aside, content)?;
    std::fs::rename(aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(script: &str, dir: &Path) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut out = Vec::new();
        drop(runtime.block_on(session(
            script.as_bytes(),
            &mut out,
            dir,
            &AtomicU64::new(first_free(dir).unwrap()),
        )));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_mail_is_kept_with_its_envelope_and_dots() {
        let dir = tempfile::tempdir().unwrap();
        let said = talk(
            "EHLO x\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\nSubject: s\r\n\r\n..dot\r\n.\r\nQUIT\r\n",
            dir.path(),
        );
        assert!(
            said.ends_with("354 go ahead\r\n250 kept\r\n221 bye\r\n"),
            "{said}"
        );
        let kept = std::fs::read_to_string(dir.path().join("000001.eml")).unwrap();
        assert_eq!(
            kept,
            "X-Envelope-From: <a@x>\r\nX-Envelope-To: <b@y>\r\nSubject: s\r\n\r\n.dot\r\n"
        );
        assert_eq!(first_free(dir.path()).unwrap(), 2);
    }

    #[test]
    fn orders_out_of_turn_are_refused_and_a_broken_mail_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert!(talk("DATA\r\n", dir.path()).ends_with("503 not now\r\n"));
        talk(
            "MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\nhalf",
            dir.path(),
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

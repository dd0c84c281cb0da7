//! `ibex-journal smtp-sink`: a small SMTP receiver that keeps each mail as a file, for the demonstration and the tests.
//!
//! It speaks enough of RFC 5321 for any client to deliver (`EHLO`, `HELO`, `MAIL`, `RCPT`, `DATA`, `RSET`, `NOOP`, `VRFY`, `QUIT`; `8BITMIME`, `SIZE`, `PIPELINING`), listens where it is told and relays
//! nothing. A mail is answered with 250 only after its file is complete under its final name, so "accepted" means that it can be read.
//!
//! The envelope is written in front of the message as `X-Envelope-From` and `X-Envelope-To` lines. Not a mail server: no queue, no authentication, no TLS.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest command line, in bytes, line break included (RFC 5321 section 4.5.3.1.4 asks for 512; extensions add to it). Longer: 500 and the connection is closed.
const LINE_BYTES_MAX: usize = 2048;
/// Longest line of a message, in bytes (RFC 5321 asks for 1000; some clients send more).
const TEXT_LINE_BYTES_MAX: usize = 64 << 10;
/// Largest message, in bytes. Announced as SIZE; a larger one is read to its end and answered with 552.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Recipients of one message; RFC 5321 asks for at least 100. More: 452.
const RECIPIENTS_MAX: usize = 100;
/// How long a client may be silent.
const IDLE: Duration = Duration::from_secs(60);

/// A directory that mails are written to, numbered from the highest number already there.
#[derive(Debug)]
struct Mailbox {
    dir: PathBuf,
    last: AtomicU64,
}

impl Mailbox {
    fn open(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let mut last = 0;
        for entry in std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".eml"));
            last = last.max(number.and_then(|number| number.parse().ok()).unwrap_or(0));
        }
        Ok(Self {
            dir: dir.to_owned(),
            last: AtomicU64::new(last),
        })
    }

    /// Writes a mail under a temporary name, then gives it its number.
    async fn keep(&self, envelope: &Envelope, message: &[u8]) -> io::Result<u64> {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let mut text = format!(
            "X-Envelope-From: {}\r\n",
            envelope.from.as_deref().unwrap_or("")
        );
        for recipient in &envelope.to {
            text.push_str(&format!("X-Envelope-To: {recipient}\r\n"));
        }
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(message);
        let temporary = self.dir.join(format!("{number:06}.tmp"));
        tokio::fs::write(&temporary, bytes).await?;
        tokio::fs::rename(&temporary, self.dir.join(format!("{number:06}.eml"))).await?;
        Ok(number)
    }
}

/// Who sends to whom.
#[derive(Debug, Default)]
struct Envelope {
    from: Option<String>,
    to: Vec<String>,
}

/// Receives mail until `stop` is cancelled. `listener` is already bound, so the caller can publish its address first.
///
/// # Errors
/// When the directory cannot be made or read.
pub async fn run(listener: TcpListener, dir: &Path, stop: CancellationToken) -> anyhow::Result<()> {
    let mailbox = Arc::new(Mailbox::open(dir)?);
    let tracker = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors or a connection that was gone before it was accepted: neither ends the sink.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (mailbox, stop) = (Arc::clone(&mailbox), stop.clone());
        tracker.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                ended = serve(stream, &mailbox) => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "smtp connection ended");
                    }
                }
            }
        });
    }
    tracker.close();
    tracker.wait().await;
    Ok(())
}

async fn serve(stream: TcpStream, mailbox: &Mailbox) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream
        .write_all(b"220 localhost ibex-journal mail sink\r\n")
        .await?;
    let mut envelope = Envelope::default();
    while let Some(line) = read_line(&mut stream, LINE_BYTES_MAX).await? {
        let Some(line) = line else {
            stream.write_all(b"500 5.5.2 line too long\r\n").await?;
            return Ok(());
        };
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        let (verb, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let reply = match verb.to_ascii_uppercase().as_str() {
            "EHLO" => format!(
                "250-localhost\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 SIZE {MESSAGE_BYTES_MAX}\r\n"
            ),
            "HELO" => "250 localhost\r\n".to_owned(),
            "MAIL" => mail_from(&mut envelope, rest),
            "RCPT" => rcpt_to(&mut envelope, rest),
            "DATA" => {
                if envelope.to.is_empty() {
                    "503 5.5.1 no recipient\r\n".to_owned()
                } else {
                    stream.write_all(b"354 end with <CRLF>.<CRLF>\r\n").await?;
                    data(&mut stream, mailbox, &std::mem::take(&mut envelope)).await?
                }
            }
            "RSET" => {
                envelope = Envelope::default();
                "250 2.0.0 ok\r\n".to_owned()
            }
            "NOOP" => "250 2.0.0 ok\r\n".to_owned(),
            "VRFY" => "252 2.1.5 delivery will tell\r\n".to_owned(),
            "QUIT" => {
                stream.write_all(b"221 2.0.0 bye\r\n").await?;
                return Ok(());
            }
            _ => "502 5.5.1 unknown command\r\n".to_owned(),
        };
        stream.write_all(reply.as_bytes()).await?;
    }
    Ok(())
}

fn mail_from(envelope: &mut Envelope, rest: &str) -> String {
    let Some(address) = address(rest, "FROM:") else {
        return "501 5.5.4 expected FROM:<address>\r\n".to_owned();
    };
    *envelope = Envelope {
        from: Some(address),
        to: Vec::new(),
    };
    "250 2.1.0 ok\r\n".to_owned()
}

fn rcpt_to(envelope: &mut Envelope, rest: &str) -> String {
    if envelope.from.is_none() {
        return "503 5.5.1 MAIL first\r\n".to_owned();
    }
    if envelope.to.len() >= RECIPIENTS_MAX {
        return "452 4.5.3 too many recipients\r\n".to_owned();
    }
    match address(rest, "TO:").filter(|address| !address.is_empty()) {
        Some(address) => {
            envelope.to.push(address);
            "250 2.1.5 ok\r\n".to_owned()
        }
        None => "501 5.5.4 expected TO:<address>\r\n".to_owned(),
    }
}

/// The address between the angle brackets after `keyword`, in any case. Parameters after it are ignored.
fn address(text: &str, keyword: &str) -> Option<String> {
    let text = text.trim_start();
    let head = text.get(..keyword.len())?;
    let rest = head
        .eq_ignore_ascii_case(keyword)
        .then(|| text[keyword.len()..].trim_start())?;
    let (address, _) = rest.strip_prefix('<')?.split_once('>')?;
    let is_clean = !address
        .chars()
        .any(|char| char.is_control() || char.is_whitespace());
    is_clean.then(|| address.to_owned())
}

/// Reads a message to its lone point and keeps it; the reply to the client.
async fn data(
    stream: &mut BufReader<TcpStream>,
    mailbox: &Mailbox,
    envelope: &Envelope,
) -> io::Result<String> {
    let mut message = Vec::new();
    let mut is_too_large = false;
    loop {
        let Some(line) = read_line(stream, TEXT_LINE_BYTES_MAX).await? else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let Some(line) = line else {
            is_too_large = true;
            continue;
        };
        if line.trim_ascii_end() == b"." {
            break;
        }
        let line = line.strip_prefix(b".").unwrap_or(&line);
        is_too_large |= message.len() + line.len() > MESSAGE_BYTES_MAX;
        if !is_too_large {
            message.extend_from_slice(line);
        }
    }
    if is_too_large {
        return Ok("552 5.3.4 message too large\r\n".to_owned());
    }
    Ok(match mailbox.keep(envelope, &message).await {
        Ok(number) => format!("250 2.0.0 kept as {number:06}\r\n"),
        Err(error) => {
            tracing::error!(%error, "keep mail failed");
            "451 4.3.0 cannot store\r\n".to_owned()
        }
    })
}

/// One line with its line break. `None`: the client is gone. `Some(None)`: the line was longer than `bytes_max`; what was read of it is dropped, the rest follows as further lines.
async fn read_line(
    stream: &mut BufReader<TcpStream>,
    bytes_max: usize,
) -> io::Result<Option<Option<Vec<u8>>>> {
    let mut line = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    let mut bounded = stream.take(limit);
    match tokio::time::timeout(IDLE, bounded.read_until(b'\n', &mut line)).await {
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
        Ok(Err(error)) => Err(error),
        Ok(Ok(0)) => Ok(None),
        Ok(Ok(_)) if line.ends_with(b"\n") => Ok(Some(Some(line))),
        Ok(Ok(read)) if read >= bytes_max => Ok(Some(None)),
        Ok(Ok(_)) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `input`, closes the sending side, and returns all that came back.
    async fn talk(address: std::net::SocketAddr, input: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(input).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    async fn with_sink<F, R>(check: F)
    where
        F: FnOnce(std::net::SocketAddr, PathBuf) -> R,
        R: Future<Output = ()>,
    {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let (sink_stop, path) = (stop.clone(), dir.path().to_owned());
        let sink = tokio::spawn(async move { run(listener, &path, sink_stop).await });
        check(address, dir.path().to_owned()).await;
        stop.cancel();
        sink.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_pipelined_mail_is_kept_with_its_envelope() {
        with_sink(async |address, dir: PathBuf| {
            let input = b"EHLO x\r\nMAIL FROM:<a@example.org> SIZE=9\r\nRCPT TO:<b@example.org>\r\nDATA\r\n\
                          Subject: hi\r\n\r\n..dots\r\nend\r\n.\r\nQUIT\r\n";
            let replies = talk(address, input).await;
            assert!(replies.contains("250 2.0.0 kept as 000001\r\n221"), "{replies}");
            let mail = std::fs::read_to_string(dir.join("000001.eml")).unwrap();
            assert_eq!(
                mail,
                "X-Envelope-From: a@example.org\r\nX-Envelope-To: b@example.org\r\nSubject: hi\r\n\r\n.dots\r\nend\r\n"
            );
        })
        .await;
    }

    #[tokio::test]
    async fn numbers_go_on_where_they_were() {
        with_sink(async |address, dir: PathBuf| {
            let mail = b"MAIL FROM:<>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nx\r\n.\r\n";
            talk(address, mail).await;
            assert_eq!(Mailbox::open(&dir).unwrap().last.load(Ordering::Relaxed), 1);
        })
        .await;
    }

    #[tokio::test]
    async fn nothing_is_kept_of_a_mail_that_breaks_off() {
        with_sink(async |address, dir: PathBuf| {
            talk(address, b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nhalf").await;
            assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        })
        .await;
    }

    #[tokio::test]
    async fn wrong_order_and_nonsense_are_refused() {
        with_sink(async |address, _| {
            let replies = talk(
                address,
                b"DATA\r\nRCPT TO:<a@b>\r\nMAIL FROM:nobody\r\nWHAT\r\n",
            )
            .await;
            let codes: Vec<_> = replies.lines().map(|line| &line[..3]).collect();
            assert_eq!(codes, ["220", "503", "503", "501", "502"]);
        })
        .await;
    }

    #[tokio::test]
    async fn a_command_line_may_have_its_limit_and_no_more() {
        for (length, code) in [
            (LINE_BYTES_MAX - 1, "502"),
            (LINE_BYTES_MAX, "502"),
            (LINE_BYTES_MAX + 1, "500"),
        ] {
            with_sink(async |address, _| {
                let mut line = vec![b'x'; length - 2];
                line.extend_from_slice(b"\r\n");
                let replies = talk(address, &line).await;
                assert_eq!(&replies.lines().nth(1).unwrap()[..3], code, "{length}");
            })
            .await;
        }
    }
}

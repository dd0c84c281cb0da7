//! Servers that behave in a given way: one that is scripted, and one that passes everything on to a real server and calls itself old.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What a scripted server does about a line.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    Answer(&'static str),
    /// The connection stays open and nothing comes any more.
    Silence,
    /// These bytes, then silence.
    Half(&'static str),
    /// These bytes, then the end of the connection.
    Last(Vec<u8>),
    Close,
}

/// A scripted server; ends with the test.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) address: String,
    lines: Arc<Mutex<Vec<String>>>,
    accepted: Arc<Mutex<usize>>,
}

impl Scripted {
    pub(crate) async fn start(script: impl Fn(&str) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let accepted = Arc::new(Mutex::new(0));
        let (script, seen, count) = (Arc::new(script), Arc::clone(&lines), Arc::clone(&accepted));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *count.lock().unwrap() += 1;
                let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
                tokio::spawn(async move { serve(stream, &*script, &seen).await });
            }
        });
        Self {
            address,
            lines,
            accepted,
        }
    }

    /// The lines that came so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The connections that were opened so far.
    pub(crate) fn accepted(&self) -> usize {
        *self.accepted.lock().unwrap()
    }
}

async fn serve(
    stream: TcpStream,
    script: &(dyn Fn(&str) -> Act + Sync),
    seen: &Mutex<Vec<String>>,
) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        seen.lock().unwrap().push(line.clone());
        let answer = match script(&line) {
            Act::Answer(answer) => answer,
            Act::Silence => continue,
            Act::Half(answer) => answer,
            Act::Last(answer) => {
                drop(writer.write_all(&answer).await);
                return;
            }
            Act::Close => return,
        };
        if writer.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Passes bytes on to a real server, whose VERSION becomes 1.4.
#[derive(Debug)]
pub(crate) struct Old {
    pub(crate) address: String,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Old {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let sent = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&sent);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(target).await.unwrap();
                let (client, server) = (client.into_split(), server.into_split());
                let seen = Arc::clone(&seen);
                tokio::spawn(pass(client.0, server.1, move |bytes| {
                    seen.lock().unwrap().extend_from_slice(bytes);
                }));
                tokio::spawn(pass(server.0, client.1, grow_old));
            }
        });
        Self { address, sent }
    }

    /// The lines that clients sent so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        let sent = self.sent.lock().unwrap();
        let text = String::from_utf8_lossy(&sent).into_owned();
        text.lines().map(str::to_owned).collect()
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut look: impl FnMut(&mut [u8]),
) {
    let mut buf = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buf).await {
        look(&mut buf[..read]);
        if to.write_all(&buf[..read]).await.is_err() {
            return;
        }
    }
}

/// The answer to VERSION is an answer of its own, which no packet splits.
fn grow_old(bytes: &mut [u8]) {
    let young = b"VERSION 1.6";
    if bytes.starts_with(young) {
        bytes[young.len() - 1] = b'4';
    }
}

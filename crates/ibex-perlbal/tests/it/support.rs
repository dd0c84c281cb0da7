//! What the tests share: a balancer with a configuration, backends that do what a closure says, raw clients.
#![allow(
    clippy::unwrap_used,
    reason = "tests and their helpers stop at the first surprise"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ibex_testkit::{Builder, Daemon};

/// Nothing in these tests takes longer, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A balancer that runs the commands, given one per line.
pub(crate) fn balancer(commands: &str) -> Daemon {
    builder(commands).start().unwrap()
}

/// The same, not started yet.
pub(crate) fn builder(commands: &str) -> Builder {
    let mut builder = Daemon::builder("ibex-perlbal").without_env("IBEX_LISTEN");
    for line in commands.lines().filter(|l| !l.trim().is_empty()) {
        builder = builder.arg("-e").arg(line.trim());
    }
    builder
}

/// Commands of a proxy service `web` over the backends, with further settings.
pub(crate) fn proxy_commands(backends: &[SocketAddr], settings: &str) -> String {
    let mut out = String::from("CREATE POOL apps\n");
    for address in backends {
        out.push_str(&format!("POOL apps ADD {address}\n"));
    }
    out.push_str(
        "CREATE SERVICE web\nSET role = reverse_proxy\nSET pool = apps\nSET listen = 127.0.0.1:0\n",
    );
    for line in settings.lines().filter(|l| !l.trim().is_empty()) {
        out.push_str(&format!("SET {}\n", line.trim()));
    }
    out.push_str("ENABLE web\n");
    out.push_str(
        "CREATE SERVICE mgmt\nSET role = management\nSET listen = 127.0.0.1:0\nENABLE mgmt\n",
    );
    out
}

/// A request as a backend saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|l| l.split_once(": "))
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v)
    }

    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }
}

type Handler = dyn Fn(&Seen, &mut TcpStream) -> bool + Send + Sync;

/// A backend on a port of its own, a thread per connection.
pub(crate) struct Backend {
    pub(crate) addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Backend {
    /// The handler writes a response and says whether the connection lives on.
    pub(crate) fn start(
        handler: impl Fn(&Seen, &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let handler: Arc<Handler> = Arc::new(handler);
        let (count, log) = (Arc::clone(&connections), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::SeqCst);
                let (handler, log) = (Arc::clone(&handler), Arc::clone(&log));
                std::thread::spawn(move || serve(stream, &handler, &log));
            }
        });
        Self {
            addr,
            connections,
            seen,
        }
    }

    /// Answers everything with this text.
    pub(crate) fn text(body: &'static str) -> Self {
        Self::start(move |_, stream| respond(stream, "200 OK", "", body.as_bytes()))
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Requests read so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// Writes a response with its length; true: the connection lives on.
pub(crate) fn respond(stream: &mut TcpStream, status: &str, fields: &str, body: &[u8]) -> bool {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{fields}\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).is_ok()
}

/// Writes these bytes as the last ones of the connection.
pub(crate) fn last_words(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    stream
        .write_all(bytes)
        .expect("the balancer reads its answer");
    false
}

fn serve(mut stream: TcpStream, handler: &Arc<Handler>, log: &Arc<Mutex<Vec<Seen>>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(seen) = read_request(&mut reader) {
        log.lock().unwrap().push(seen.clone());
        if !handler(&seen, &mut stream) {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let head = read_head(reader)?;
    let mut seen = Seen {
        head,
        body: Vec::new(),
    };
    if let Some(length) = seen
        .header("Content-Length")
        .and_then(|l| l.parse::<u64>().ok())
    {
        reader.take(length).read_to_end(&mut seen.body).ok()?;
    } else if seen.header("Transfer-Encoding").is_some() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let size = u64::from_str_radix(line.trim(), 16).ok()?;
            reader.take(size).read_to_end(&mut seen.body).ok()?;
            reader.read_line(&mut String::new()).ok()?;
            if size == 0 {
                break;
            }
        }
    }
    Some(seen)
}

/// Reads up to the empty line.
pub(crate) fn read_head(reader: &mut impl std::io::BufRead) -> Option<String> {
    let mut head = String::new();
    loop {
        let start = head.len();
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
        if matches!(&head[start..], "\r\n" | "\n") {
            return Some(head);
        }
    }
}

/// An answer as a client saw it.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|l| l.split_once(": "))
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A client connection spoken to in bytes.
pub(crate) struct Raw {
    reader: BufReader<TcpStream>,
}

impl Raw {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).unwrap())
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            reader: BufReader::new(stream),
        }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    pub(crate) fn send(&mut self, bytes: &str) -> &mut Self {
        self.reader.get_mut().write_all(bytes.as_bytes()).unwrap();
        self
    }

    /// One complete answer to a request that was no HEAD.
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer(false).expect("an answer")
    }

    /// One complete answer, `None` if the connection ends before its head.
    pub(crate) fn try_answer(&mut self, to_head: bool) -> Option<Answer> {
        let head = read_head(&mut self.reader)?;
        let status = head.get(9..12)?.parse().ok()?;
        let mut answer = Answer {
            status,
            head,
            body: Vec::new(),
        };
        if to_head || matches!(status, 100..=199 | 204 | 304) {
            return Some(answer);
        }
        if let Some(length) = answer
            .header("Content-Length")
            .and_then(|l| l.parse::<u64>().ok())
        {
            (&mut self.reader)
                .take(length)
                .read_to_end(&mut answer.body)
                .ok()?;
            assert_eq!(answer.body.len() as u64, length, "truncated");
        } else if answer.header("Transfer-Encoding").is_some() {
            loop {
                let mut line = String::new();
                self.reader.read_line(&mut line).ok()?;
                let size = u64::from_str_radix(line.trim(), 16).ok()?;
                (&mut self.reader)
                    .take(size)
                    .read_to_end(&mut answer.body)
                    .ok()?;
                self.reader.read_line(&mut String::new()).ok()?;
                if size == 0 {
                    break;
                }
            }
        } else {
            self.reader.read_to_end(&mut answer.body).ok()?;
        }
        Some(answer)
    }

    /// Everything until the other side closes.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        // A reset ends it as well; what came before counts.
        drop(self.reader.read_to_end(&mut out));
        out
    }
}

/// One GET on a connection of its own.
pub(crate) fn get(addr: SocketAddr, target: &str) -> Answer {
    Raw::connect(addr)
        .send(&format!(
            "GET {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        ))
        .answer()
}

/// A management session.
pub(crate) struct Manage(BufReader<TcpStream>);

impl Manage {
    pub(crate) fn connect(daemon: &Daemon) -> Self {
        let stream = TcpStream::connect(daemon.addr("mgmt").unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(line.ends_with("\r\n"), "lines end with CRLF: {line:?}");
        line.trim_end().to_owned()
    }

    /// A command that answers one line, `OK` or an error.
    pub(crate) fn run(&mut self, command: &str) -> String {
        self.0
            .get_mut()
            .write_all(format!("{command}\n").as_bytes())
            .unwrap();
        self.line()
    }

    /// A command that lists: lines without the final dot.
    pub(crate) fn list(&mut self, command: &str) -> Vec<String> {
        self.0
            .get_mut()
            .write_all(format!("{command}\n").as_bytes())
            .unwrap();
        let mut lines = Vec::new();
        loop {
            match self.line() {
                end if end == "." => return lines,
                error if error.starts_with("ERROR") => return vec![error],
                line => lines.push(line),
            }
        }
    }

    /// Lines up to `OK`.
    pub(crate) fn until_ok(&mut self, command: &str) -> Vec<String> {
        self.0
            .get_mut()
            .write_all(format!("{command}\n").as_bytes())
            .unwrap();
        let mut lines = Vec::new();
        loop {
            match self.line() {
                end if end == "OK" => return lines,
                line => lines.push(line),
            }
        }
    }
}

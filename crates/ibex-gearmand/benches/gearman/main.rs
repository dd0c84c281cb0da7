//! `cargo bench -p ibex-gearmand --bench gearman [-- words] [--seconds N] [--rounds N] [--bars]`: ours and Debian's gearmand, the same generator, in
//! interleaved rounds, medians.
//!
//! One thread plays all clients and workers over non-blocking sockets, so on a small machine the generator costs both servers the same. A
//! worker answers with its workload and
//! asks for the next job in one write; a workload begins with its time of birth, from which the client takes the latency. CPU per job is
//! what the kernel charged to the server's
//! threads. Words choose cases by a part of their name. `echo floor` is a bare event loop that sends back what it hears: what the machine can do at all.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for people who measure; it stops at the first surprise"
)]

mod cases;
mod servers;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ibex_gearman_proto::{Grab, Request, Response, Step, Submit, decode_response};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use cases::{Asking, CASES, Case, Kind, Load};
use servers::{mariadb, start};

/// One measurement.
#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us: f64,
    bytes: f64,
}

fn main() {
    let mut words = Vec::new();
    let (mut seconds, mut rounds, mut wants_bars) = (2.0, 3, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => seconds = args.next().unwrap().parse().unwrap(),
            "--rounds" => rounds = args.next().unwrap().parse().unwrap(),
            "--bars" => wants_bars = true,
            "--bench" => {}
            word => words.push(word.to_owned()),
        }
    }
    println!(
        "{:<30} {:<22} {:>10} {:>8} {:>8} {:>9} {:>9} {:>7}",
        "case", "server", "per s", "p50 µs", "p99 µs", "CPU µs", "bytes", "ratio"
    );
    let time = Duration::from_secs_f64(seconds);
    let mut bars = String::new();
    let mut maria = None;
    for case in CASES
        .iter()
        .filter(|c| words.is_empty() || words.iter().any(|w| c.name.contains(w.as_str())))
    {
        if case.servers.contains(&Kind::OursMariadb) && maria.is_none() {
            maria = mariadb::Server::start().unwrap();
        }
        let mut samples: BTreeMap<Kind, Vec<Figures>> = BTreeMap::new();
        for _ in 0..rounds {
            for kind in case.servers {
                if let Some(figures) = measure(*case, *kind, time, maria.as_ref()) {
                    samples.entry(*kind).or_default().push(figures);
                }
            }
        }
        let medians: Vec<(Kind, Figures)> = case
            .servers
            .iter()
            .filter_map(|k| Some((*k, median(samples.get(k)?))))
            .collect();
        let base = medians
            .iter()
            .find(|(k, _)| matches!(k, Kind::Theirs1 | Kind::TheirsSqlite))
            .map(|(_, f)| *f);
        bars += &draw(case.name, &medians);
        for (kind, f) in medians {
            let ratio = base.map_or(String::new(), |base| {
                let ratio = if f.bytes > 0.0 {
                    base.bytes / f.bytes
                } else {
                    f.per_second / base.per_second
                };
                format!("{ratio:.2}")
            });
            let name = kind.name();
            println!(
                "{:<30} {name:<22} {:>10.0} {:>8.0} {:>8.0} {:>9.2} {:>9.0} {ratio:>7}",
                case.name, f.per_second, f.p50_us, f.p99_us, f.cpu_us, f.bytes
            );
        }
    }
    if wants_bars {
        println!("\n{bars}");
    }
}

/// One bar per server, the longest as long as the line allows; only rates.
fn draw(case: &str, medians: &[(Kind, Figures)]) -> String {
    const COLUMNS: f64 = 60.0;
    let longest = medians
        .iter()
        .map(|(_, f)| f.per_second)
        .fold(0.0, f64::max);
    if longest <= 0.0 {
        return String::new();
    }
    let mut text = format!("{case}, per second\n");
    for (kind, f) in medians {
        let bar: String = (0..60)
            .take_while(|column| f64::from(*column) < f.per_second / longest * COLUMNS)
            .map(|_| '█')
            .collect();
        text += &format!("  {:<22} {bar} {:.0}\n", kind.name(), f.per_second);
    }
    text
}

fn median(samples: &[Figures]) -> Figures {
    let of = |field: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = samples.iter().map(field).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Figures {
        per_second: of(|f| f.per_second),
        p50_us: of(|f| f.p50_us),
        p99_us: of(|f| f.p99_us),
        cpu_us: of(|f| f.cpu_us),
        bytes: of(|f| f.bytes),
    }
}

impl Case {
    /// A worker wants its next job.
    fn ask(&self, out: &mut Vec<u8>) {
        match self.asking {
            Asking::Grab | Asking::Wait => Request::GrabJob(Grab::Plain).encode(out),
            Asking::Push(_) => {}
        }
    }
}

/// One of our connections.
struct Peer {
    stream: TcpStream,
    unread: Vec<u8>,
    out: Vec<u8>,
    is_worker: bool,
}

struct Generator {
    poll: Poll,
    peers: Vec<Peer>,
    case: Case,
    begun: Instant,
    payload: Vec<u8>,
    done: u64,
    latencies: Vec<u32>,
    /// Submissions still to be made; then clients only wait.
    budget: u64,
}

impl Generator {
    fn new(case: Case) -> Self {
        Self {
            poll: Poll::new().unwrap(),
            peers: Vec::new(),
            case,
            begun: Instant::now(),
            payload: vec![b'x'; case.payload.max(8)],
            done: 0,
            latencies: Vec::new(),
            budget: u64::MAX,
        }
    }

    fn connect(&mut self, addr: SocketAddr, count: usize, is_worker: bool) {
        for _ in 0..count {
            let stream = std::net::TcpStream::connect(addr).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_nonblocking(true).unwrap();
            let mut stream = TcpStream::from_std(stream);
            let token = Token(self.peers.len());
            self.poll
                .registry()
                .register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)
                .unwrap();
            let mut peer = Peer {
                stream,
                unread: Vec::new(),
                out: Vec::new(),
                is_worker,
            };
            if is_worker {
                Request::CanDo { function: b"bench" }.encode(&mut peer.out);
                let option = match self.case.asking {
                    Asking::Grab => None,
                    Asking::Wait => Some("wait".to_owned()),
                    Asking::Push(count) => Some(format!("push={count}")),
                };
                if let Some(name) = option {
                    let name = name.as_bytes();
                    Request::Option { name }.encode(&mut peer.out);
                }
                self.case.ask(&mut peer.out);
            }
            self.peers.push(peer);
        }
    }

    fn request(&mut self, at: usize) {
        if self.budget == 0 {
            return;
        }
        self.budget -= 1;
        let now = u64::try_from(self.begun.elapsed().as_nanos()).unwrap();
        self.payload[..8].copy_from_slice(&now.to_be_bytes());
        let out = &mut self.peers[at].out;
        match self.case.load {
            Load::Echo => Request::Echo {
                data: &self.payload,
            }
            .encode(out),
            Load::Foreground => {
                Request::Submit(Submit::new(b"bench", b"", &self.payload)).encode(out)
            }
            Load::Background | Load::Drain(_) | Load::Backlog(_) | Load::Idle(_) => {
                Request::Submit(Submit::new(b"bench", b"", &self.payload).background()).encode(out)
            }
        }
    }

    fn flush(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        while !peer.out.is_empty() {
            match peer.stream.write(&peer.out) {
                Ok(count) => {
                    peer.out.drain(..count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("write: {error}"),
            }
        }
    }

    fn read(&mut self, at: usize, buffer: &mut [u8]) {
        loop {
            match self.peers[at].stream.read(buffer) {
                Ok(0) => panic!("the server hung up"),
                Ok(count) => {
                    self.peers[at].unread.extend_from_slice(&buffer[..count]);
                    if count < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("read: {error}"),
            }
        }
        let unread = std::mem::take(&mut self.peers[at].unread);
        let mut from = 0;
        while let Step::Frame { message, consumed } =
            decode_response(&unread[from..], 1 << 30).unwrap()
        {
            from += consumed;
            self.hear(at, &message);
        }
        self.peers[at].unread = unread[from..].to_vec();
    }

    fn finished(&mut self, at: usize, born: Option<&[u8]>) {
        self.done += 1;
        if let Some(born) = born.and_then(|data| data.get(..8)) {
            let born = u64::from_be_bytes(born.try_into().unwrap());
            let now = u64::try_from(self.begun.elapsed().as_nanos()).unwrap();
            self.latencies
                .push(u32::try_from(now - born).unwrap_or(u32::MAX));
        }
        self.request(at);
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "what is not listed is not counted"
    )]
    fn hear(&mut self, at: usize, message: &Response<&[u8]>) {
        match message {
            Response::Echo { data } => self.finished(at, Some(data)),
            Response::WorkComplete { data, .. } => self.finished(at, Some(data)),
            Response::JobCreated { .. } if !matches!(self.case.load, Load::Foreground) => {
                self.finished(at, None)
            }
            Response::NoJob => Request::PreSleep.encode(&mut self.peers[at].out),
            Response::Noop => self.case.ask(&mut self.peers[at].out),
            Response::JobAssign {
                handle, workload, ..
            }
            | Response::JobAssignUnique {
                handle, workload, ..
            } => {
                let out = &mut self.peers[at].out;
                Request::WorkComplete {
                    handle,
                    data: workload,
                }
                .encode(out);
                self.case.ask(out);
                if matches!(self.case.load, Load::Drain(_)) {
                    self.done += 1;
                }
            }
            Response::Error { code, text } => {
                panic!("{} {}", code.escape_ascii(), text.escape_ascii())
            }
            _ => {}
        }
    }

    /// Turns until `is_over`.
    fn run(&mut self, is_over: impl Fn(&Self) -> bool) {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 256 << 10];
        for at in 0..self.peers.len() {
            self.flush(at);
        }
        while !is_over(self) {
            self.poll
                .poll(&mut events, Some(Duration::from_millis(50)))
                .unwrap();
            let ready: Vec<usize> = events.iter().map(|e| e.token().0).collect();
            for at in &ready {
                self.read(*at, &mut buffer);
            }
            for at in ready {
                self.flush(at);
            }
        }
    }

    fn start_clients(&mut self) {
        for at in 0..self.peers.len() {
            if !self.peers[at].is_worker {
                for _ in 0..self.case.in_flight {
                    self.request(at);
                }
            }
        }
    }
}

fn measure(
    case: Case,
    kind: Kind,
    time: Duration,
    maria: Option<&mariadb::Server>,
) -> Option<Figures> {
    let database = (kind == Kind::OursMariadb)
        .then(|| maria.map(|server| server.database().unwrap()))
        .flatten();
    let server = start(kind, database.as_ref())?;
    let mut generator = Generator::new(case);
    let resident_before = server.resident();
    match case.load {
        Load::Idle(count) => {
            generator.connect(server.addr, count, true);
            let until = Instant::now() + time;
            generator.run(|_| Instant::now() > until);
            let bytes = (server.resident() - resident_before) / count as f64;
            return Some(Figures {
                bytes,
                ..Figures::default()
            });
        }
        Load::Backlog(count) | Load::Drain(count) => {
            generator.connect(server.addr, case.clients, false);
            generator.budget = count as u64;
            generator.start_clients();
            generator.run(|g| g.done >= count as u64);
            if matches!(case.load, Load::Backlog(_)) {
                let bytes = (server.resident() - resident_before) / count as f64;
                return Some(Figures {
                    bytes,
                    ..Figures::default()
                });
            }
            generator.done = 0;
            generator.connect(server.addr, case.workers, true);
        }
        Load::Echo | Load::Foreground | Load::Background => {
            generator.connect(server.addr, case.workers, true);
            generator.connect(server.addr, case.clients, false);
            generator.start_clients();
            // Until everything is warm.
            let until = Instant::now() + time / 10;
            generator.run(|_| Instant::now() > until);
        }
    }
    (generator.done, generator.latencies) = (0, Vec::new());
    let (begun, cpu) = (Instant::now(), server.cpu());
    match case.load {
        Load::Drain(count) => {
            generator.run(|g| g.done >= count as u64 || begun.elapsed() > time * 10)
        }
        Load::Echo | Load::Foreground | Load::Background | Load::Backlog(_) | Load::Idle(_) => {
            generator.run(|_| begun.elapsed() > time)
        }
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let cpu_us = (server.cpu() - cpu).as_secs_f64() * 1e6 / generator.done.max(1) as f64;
    generator.latencies.sort_unstable();
    let quantile = |q: usize| {
        generator
            .latencies
            .get(generator.latencies.len() * q / 100)
            .map_or(0.0, |ns| f64::from(*ns) / 1000.0)
    };
    Some(Figures {
        per_second: generator.done as f64 / elapsed,
        p50_us: quantile(50),
        p99_us: quantile(99),
        cpu_us,
        bytes: 0.0,
    })
}

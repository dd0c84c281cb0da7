//! CPU per operation and memory of ibex-memcached beside the memcached of the system, interleaved in one run.
//!
//! `cargo bench -p ibex-memcached --bench load [-- --seconds 2 --rounds 3 --only NAME]` starts both servers with the same flags on
//! loopback, drives each scenario
//! against both in turn, and prints the server's own CPU time per operation (user and system, from /proc), which repeats well on a busy machine
//! where throughput does not. `memory` fills both and prints resident bytes per item. Without a memcached on the machine only ours is measured.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a measuring program"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const KEYS: usize = 100_000;
const THREADS: &str = "2";

struct Server {
    name: &'static str,
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start(name: &'static str, program: &Path, megabytes: u32, extra: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = dir.path().join("ports");
        let megabytes = megabytes.to_string();
        let child = Command::new(program)
            .args([
                "-l",
                "127.0.0.1",
                "-p",
                "-1",
                "-U",
                "0",
                "-u",
                "root",
                "-t",
                THREADS,
                "-m",
                &megabytes,
            ])
            .args(extra)
            .env("MEMCACHED_PORT_FILENAME", &ports)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let port = loop {
            let text = std::fs::read_to_string(&ports).unwrap_or_default();
            if let Some(port) = text
                .lines()
                .find_map(|line| line.strip_prefix("TCP INET: "))
            {
                break port.trim().parse().unwrap();
            }
            assert!(Instant::now() < deadline, "{name} did not start");
            std::thread::sleep(Duration::from_millis(5));
        };
        Self {
            name,
            child,
            port,
            _dir: dir,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// User and system time in seconds.
    fn cpu(&self) -> f64 {
        // schedstat counts nanoseconds on the processor, per thread; stat counts ticks of 10 ms.
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
            .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
            .sum::<u64>() as f64
            / 1e9
    }

    fn rss(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_ascii_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            << 10
    }

    fn stat(&self, name: &str) -> u64 {
        let mut stream = self.connect();
        stream.write_all(b"stats\r\n").unwrap();
        let lines = BufReader::new(stream)
            .lines()
            .map_while(Result::ok)
            .take_while(|line| line != "END");
        let prefix = format!("STAT {name} ");
        lines
            .filter_map(|line| line.strip_prefix(&prefix)?.trim().parse().ok())
            .last()
            .unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What one connection sends in one go, how many operations that is, and how many reply bytes end it.
struct Scenario {
    name: &'static str,
    operations: usize,
    value_bytes: usize,
    request: fn(&mut Vec<u8>, &mut Random),
    /// What the last bytes of the whole reply are, and how often they come.
    ends: usize,
    end: &'static [u8],
}

impl Scenario {
    /// Keys in use: fewer where values are large.
    fn keys(&self) -> usize {
        if self.value_bytes > 1000 { 2000 } else { KEYS }
    }
}

struct Random {
    state: u64,
    keys: usize,
}

impl Random {
    fn key(&mut self) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % self.keys as u64) as usize
    }
}

fn get(out: &mut Vec<u8>, random: &mut Random) {
    write!(out, "get key:{:06}\r\n", random.key()).unwrap();
}

fn repeated(
    out: &mut Vec<u8>,
    random: &mut Random,
    count: usize,
    one: impl Fn(&mut Vec<u8>, usize),
) {
    for _ in 0..count {
        let key = random.key();
        one(out, key);
    }
}

fn store(out: &mut Vec<u8>, key: usize, bytes: usize) {
    write!(out, "set key:{key:06} 0 0 {bytes}\r\n").unwrap();
    out.resize(out.len() + bytes, b'v');
    out.extend_from_slice(b"\r\n");
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "get, one at a time",
        operations: 1,
        value_bytes: 100,
        request: get,
        ends: 1,
        end: b"END\r\n",
    },
    Scenario {
        name: "get x32 pipelined",
        operations: 32,
        value_bytes: 100,
        request: |out, random| (0..32).for_each(|_| get(out, random)),
        ends: 32,
        end: b"END\r\n",
    },
    Scenario {
        name: "miss x32 pipelined",
        operations: 32,
        value_bytes: 100,
        request: |out, random| {
            repeated(out, random, 32, |out, key| {
                write!(out, "get miss:{key:06}\r\n").unwrap()
            })
        },
        ends: 32,
        end: b"END\r\n",
    },
    Scenario {
        name: "mg x32 pipelined",
        operations: 32,
        value_bytes: 100,
        request: |out, random| {
            repeated(out, random, 32, |out, key| {
                write!(out, "mg key:{key:06} v f c t\r\n").unwrap()
            });
            out.extend_from_slice(b"mn\r\n");
        },
        ends: 1,
        end: b"MN\r\n",
    },
    Scenario {
        name: "multiget of 100 keys",
        operations: 100,
        value_bytes: 100,
        request: |out, random| {
            out.extend_from_slice(b"get");
            repeated(out, random, 100, |out, key| {
                write!(out, " key:{key:06}").unwrap()
            });
            out.extend_from_slice(b"\r\n");
        },
        ends: 1,
        end: b"END\r\n",
    },
    Scenario {
        name: "set x32 pipelined",
        operations: 32,
        value_bytes: 100,
        request: |out, random| repeated(out, random, 32, |out, key| store(out, key, 100)),
        ends: 32,
        end: b"STORED\r\n",
    },
    Scenario {
        name: "delete x32 pipelined",
        operations: 32,
        value_bytes: 100,
        request: |out, random| {
            repeated(out, random, 32, |out, key| {
                write!(out, "delete gone:{key:06}\r\n").unwrap()
            });
        },
        ends: 32,
        end: b"NOT_FOUND\r\n",
    },
    Scenario {
        name: "get of 10 kB",
        operations: 1,
        value_bytes: 10_000,
        request: get,
        ends: 1,
        end: b"END\r\n",
    },
    Scenario {
        name: "get of 100 kB",
        operations: 1,
        value_bytes: 100_000,
        request: get,
        ends: 1,
        end: b"END\r\n",
    },
];

/// Counts how often `end` has come; values never hold it.
struct Ends {
    end: &'static [u8],
    tail: Vec<u8>,
}

impl Ends {
    fn count(&mut self, bytes: &[u8]) -> usize {
        self.tail.extend_from_slice(bytes);
        let found = memchr_count(&self.tail, self.end);
        let keep = self.tail.len().min(self.end.len() - 1);
        self.tail.drain(..self.tail.len() - keep);
        found
    }
}

fn memchr_count(haystack: &[u8], needle: &[u8]) -> usize {
    haystack
        .iter()
        .enumerate()
        .filter(|(at, byte)| **byte == needle[0] && haystack[*at..].starts_with(needle))
        .count()
}

fn exchange(stream: &mut TcpStream, request: &[u8], scenario: &Scenario, buffer: &mut [u8]) {
    stream.write_all(request).unwrap();
    let mut ends = Ends {
        end: scenario.end,
        tail: Vec::new(),
    };
    let mut left = scenario.ends;
    while left > 0 {
        let read = stream.read(buffer).unwrap();
        assert!(read > 0, "the server closed");
        left -= ends.count(&buffer[..read]).min(left);
    }
}

fn fill(server: &Server, bytes: usize, keys: usize) {
    let mut stream = server.connect();
    let mut replies = vec![0; 1 << 16];
    for chunk in (0..keys).collect::<Vec<_>>().chunks(64) {
        let mut request = Vec::new();
        for key in chunk {
            store(&mut request, *key, bytes);
        }
        let scenario = Scenario {
            name: "",
            operations: 0,
            value_bytes: bytes,
            request: get,
            ends: chunk.len(),
            end: b"STORED\r\n",
        };
        exchange(&mut stream, &request, &scenario, &mut replies);
    }
}

/// Server CPU in microseconds per operation.
fn measure(server: &Server, scenario: &Scenario, span: Duration) -> f64 {
    let connections = 4;
    let before = server.cpu();
    let operations: u64 = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..connections)
            .map(|client| {
                scope.spawn(move || {
                    let (mut stream, mut buffer, mut request) =
                        (server.connect(), vec![0; 1 << 18], Vec::new());
                    let mut random = Random {
                        state: 0x9e37_79b9_7f4a_7c15 + client,
                        keys: scenario.keys(),
                    };
                    let (start, mut done) = (Instant::now(), 0);
                    while start.elapsed() < span {
                        request.clear();
                        (scenario.request)(&mut request, &mut random);
                        exchange(&mut stream, &request, scenario, &mut buffer);
                        done += scenario.operations as u64;
                    }
                    done
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .sum()
    });
    (server.cpu() - before) * 1e6 / operations as f64
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

fn programs() -> Vec<(&'static str, PathBuf, Vec<&'static str>)> {
    let mut programs = vec![(
        "ibex",
        PathBuf::from(env!("CARGO_BIN_EXE_ibex-memcached")),
        vec!["--admin", "none"],
    )];
    let peer = Path::new("/usr/bin/memcached");
    if peer.exists() {
        programs.push(("memcached", peer.into(), Vec::new()));
    }
    programs
}

fn start_all(megabytes: u32) -> Vec<Server> {
    programs()
        .into_iter()
        .map(|(name, program, extra)| Server::start(name, &program, megabytes, &extra))
        .collect()
}

fn cpu(span: Duration, rounds: usize, only: Option<&str>) {
    println!(
        "{:24} {:>12} {:>12} {:>7}   CPU microseconds per operation, -t {THREADS}, medians of {rounds}",
        "scenario", "ibex", "memcached", "ratio"
    );
    for scenario in SCENARIOS
        .iter()
        .filter(|scenario| only.is_none_or(|only| scenario.name.contains(only)))
    {
        let servers = start_all(1024);
        for server in &servers {
            fill(server, scenario.value_bytes, scenario.keys());
        }
        let mut costs = vec![Vec::new(); servers.len()];
        for _ in 0..rounds {
            for (server, costs) in servers.iter().zip(&mut costs) {
                costs.push(measure(server, scenario, span));
            }
        }
        let ours = median(costs.swap_remove(0));
        let theirs = costs.pop().map_or(f64::NAN, median);
        println!(
            "{:24} {ours:12.3} {theirs:12.3} {:7.2}",
            scenario.name,
            ours / theirs
        );
    }
}

fn memory() {
    println!(
        "\n{:24} {:>12} {:>12} {:>14}   -m 1024 below the limit, then -m 64 filled",
        "memory", "items", "RSS bytes", "bytes per item"
    );
    for bytes in [10, 100, 1000] {
        for server in start_all(1024) {
            let (before, keys) = (server.rss(), 400_000);
            fill(&server, bytes, keys);
            let rss = server.rss() - before;
            println!(
                "{:24} {keys:12} {rss:12} {:14.1}",
                format!("{} {bytes} B", server.name),
                rss as f64 / keys as f64
            );
        }
    }
    for server in start_all(64) {
        fill(&server, 100, 900_000);
        let (items, rss) = (server.stat("curr_items"), server.rss());
        println!(
            "{:24} {items:12} {rss:12} {:14.1}",
            format!("{} -m 64, 100 B", server.name),
            rss as f64 / items as f64
        );
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        arguments
            .iter()
            .position(|argument| argument == name)
            .and_then(|at| arguments.get(at + 1))
            .cloned()
    };
    // The test runner starts benches with --test to see that they work.
    if arguments
        .iter()
        .any(|argument| argument == "--test" || argument == "--list")
    {
        return;
    }
    let seconds: f64 = value("--seconds").map_or(2.0, |text| text.parse().unwrap());
    let rounds = value("--rounds").map_or(3, |text| text.parse().unwrap());
    cpu(
        Duration::from_secs_f64(seconds),
        rounds,
        value("--only").as_deref(),
    );
    if value("--only").is_none() {
        memory();
    }
}

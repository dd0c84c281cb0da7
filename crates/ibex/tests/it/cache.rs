//! `ibex cache` against real servers: ours and Debian's memcached, as far as they are here.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ibex_testkit::{daemon, skip, wait};
use serde_json::Value;

/// Killed when dropped.
struct Server {
    child: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const OURS: &str = "ibex-memcached";

fn programs() -> Vec<PathBuf> {
    let ours = match daemon::binary(OURS) {
        Ok(program) => Some(program),
        Err(error) => {
            skip::skip(&format!("{error:#}"));
            None
        }
    };
    ours.into_iter().chain(skip::program("memcached")).collect()
}

fn start(program: &Path) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let ports = dir.path().join("ports");
    let is_ours = program.file_name().is_some_and(|name| name == OURS);
    let own: &[&str] = if is_ours { &["--admin", "none"] } else { &[] };
    let child = Command::new(program)
        .args(own)
        .args(["-l", "127.0.0.1", "-p", "-1", "-U", "0", "-u", "root"])
        .env("MEMCACHED_PORT_FILENAME", &ports)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let port = wait::until(wait::PATIENCE, "the port", || {
        let text = std::fs::read_to_string(&ports).ok()?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("TCP INET: "))?;
        line.trim().parse::<u16>().ok()
    });
    Server {
        child,
        address: format!("127.0.0.1:{}", port.unwrap()),
        _dir: dir,
    }
}

fn tool(servers: &[&Server]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ibex"));
    command.arg("cache");
    for server in servers {
        command.args(["--server", &server.address]);
    }
    command
}

/// Exit code and standard output.
fn run(servers: &[&Server], args: &[&str]) -> (i32, String) {
    let output = tool(servers).args(args).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), text)
}

fn rows(servers: &[&Server], args: &[&str]) -> Vec<Value> {
    let (code, text) = run(servers, &[&["--output", "jsonl"], args].concat());
    assert_eq!(code, 0, "{args:?}: {text}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn values_in_and_out() {
    for program in programs() {
        let server = &start(&program);
        let ends = |code: i32, args: &[&str], text: &str| {
            assert_eq!(run(&[server], args), (code, text.to_owned()), "{args:?}");
        };
        ends(1, &["get", "k"], "");
        ends(1, &["append", "k", "!"], "");
        ends(
            0,
            &["set", "k", "one", "--flags", "7", "--expire", "600"],
            "",
        );
        ends(1, &["add", "k", "two"], "");
        ends(0, &["replace", "k", "two"], "");
        ends(0, &["append", "k", "!"], "");
        ends(0, &["prepend", "k", "<"], "");
        ends(0, &["get", "k"], "<two!");
        ends(0, &["gat", "k", "600"], "<two!");
        ends(0, &["touch", "k", "600"], "");
        ends(0, &["invalidate", "k"], "");
        ends(1, &["get", "k"], "");
        ends(1, &["incr", "n"], "");
        ends(0, &["set", "n", "5"], "");
        ends(0, &["incr", "n", "3"], "8\n");
        ends(0, &["decr", "n", "100"], "0\n");
        ends(0, &["delete", "n"], "");
        ends(1, &["delete", "n"], "");
        assert_eq!(run(&[server], &["stats", "reset"]).0, 0);
        ends(0, &["flush", "--yes"], "");
        ends(0, &["set", "word", "x"], "");
        ends(1, &["incr", "word"], "");
        ends(64, &["get", "bad key"], "");
        ends(64, &["no-such-command"], "");
        let stats = rows(&[server], &["stats"]);
        assert!(stats.iter().any(|row| row["name"] == "curr_items"));
        assert_eq!(rows(&[server], &["version"]).len(), 1);
    }
}

#[test]
fn a_compressed_value_is_shown_as_its_writer_meant_it() {
    use ibex_memcached_client::{Codec, Compression, Convention};
    for program in programs() {
        let server = &start(&program);
        let value = "a page ".repeat(1000);
        for (convention, language) in [
            (Convention::Python, "python"),
            (Convention::Php, "php"),
            (Convention::Perl, "perl"),
        ] {
            let codec = Codec::new(convention).with_compression(Compression::Zlib);
            let (packed, flags) = codec.encode(value.as_bytes(), 0).unwrap();
            let mut storing = tool(&[server])
                .args(["set", "page", "--flags", &flags.to_string()])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            storing.stdin.take().unwrap().write_all(&packed).unwrap();
            assert!(storing.wait().unwrap().success());
            let get = ["get", "page", "--decode", language];
            assert_eq!(run(&[server], &get), (0, value.clone()));
        }
        // What is damaged is told.
        assert_eq!(run(&[server], &["set", "page", "x", "--flags", "8"]).0, 0);
        let get = ["get", "page", "--decode", "python"];
        assert_eq!(run(&[server], &get), (1, String::new()));
    }
}

#[test]
fn every_command_explains_itself() {
    let commands = [
        "get",
        "set",
        "add",
        "replace",
        "append",
        "prepend",
        "delete",
        "incr",
        "decr",
        "touch",
        "gat",
        "invalidate",
        "stats",
        "version",
        "flush",
        "top",
        "watch",
        "dump",
        "warm",
        "bench",
        "map",
    ];
    for command in commands {
        let (code, text) = run(&[], &[command, "--help"]);
        assert!(code == 0 && text.contains("--output"), "{command}: {text}");
    }
}

#[test]
fn a_dump_lists_what_fits_the_pattern() {
    for program in programs() {
        let server = &start(&program);
        for n in 0..20 {
            let key = format!("user:{n}");
            assert_eq!(run(&[server], &["set", &key, "v", "-e", "600"]).0, 0);
        }
        assert_eq!(run(&[server], &["set", "other%", "v"]).0, 0);
        let keys = |args: &[&str]| {
            let rows = rows(&[server], &[&["dump"], args].concat());
            let mut keys: Vec<String> = rows
                .iter()
                .map(|row| row["key"].as_str().unwrap().to_owned())
                .collect();
            keys.sort();
            (keys, rows)
        };
        assert_eq!(keys(&[]).0.len(), 21);
        let (some, rows) = keys(&["--match", "user:1?"]);
        assert_eq!(some.len(), 10);
        let left: u64 = rows[0]["expires_in"].as_str().unwrap().parse().unwrap();
        assert!((1..=600).contains(&left), "{left}");
        let (other, rows) = keys(&["--match", "*%"]);
        assert_eq!(
            (&other[..], rows[0]["expires_in"].as_str()),
            (&["other%".to_owned()][..], Some("-"))
        );
        assert_eq!(keys(&["--limit", "3"]).0.len(), 3);
        let (code, json) = run(&[server], &["--output", "json", "dump"]);
        let all: Vec<Value> = serde_json::from_str(&json).unwrap();
        assert_eq!((code, all.len()), (0, 21));
        let (_, json) = run(&[server], &["--output", "json", "dump", "--match", "none"]);
        assert_eq!(serde_json::from_str::<Vec<Value>>(&json).unwrap().len(), 0);
        let (_, table) = run(&[server], &["dump"]);
        assert_eq!(table.lines().count(), 22);
    }
}

#[test]
fn a_cold_pool_is_warmed_with_flags_and_lifetimes() {
    for program in programs() {
        let (source, one, two) = (start(&program), start(&program), start(&program));
        for n in 0..250 {
            let (key, value) = (format!("key:{n}"), format!("value {n}"));
            let set = ["set", &key, &value, "-f", "5", "-e", "600"];
            assert_eq!(run(&[&source], &set).0, 0);
        }
        assert_eq!(run(&[&source], &["set", "for-ever", "v"]).0, 0);
        assert_eq!(run(&[&source], &["set", "old", "v"]).0, 0);
        assert_eq!(run(&[&source], &["invalidate", "old"]).0, 0);
        let pool = [&one, &two];
        assert_eq!(run(&pool, &["set", "key:0", "younger"]).0, 0);
        let warm = ["warm", "--from", &source.address];
        let counts = &rows(&pool, &warm)[0];
        let count = |name: &str| counts[name].as_str().unwrap().parse::<u64>().unwrap();
        assert_eq!(
            (
                count("copied"),
                count("present"),
                count("leased"),
                count("refused")
            ),
            (250, 1, 1, 0),
            "{counts}"
        );
        assert_eq!(run(&pool, &["get", "key:0"]).1, "younger");
        assert_eq!(run(&pool, &["get", "key:249"]).1, "value 249");
        assert_eq!(run(&pool, &["get", "old"]).0, 1);
        let items = rows(&pool, &["dump"]);
        let servers = |at: &Server| {
            items
                .iter()
                .filter(|row| row["server"] == at.address)
                .count()
        };
        assert!(servers(&one) > 0 && servers(&two) > 0, "both have some");
        let of = |key: &str| items.iter().find(|row| row["key"] == key).unwrap();
        let left: u64 = of("key:1")["expires_in"].as_str().unwrap().parse().unwrap();
        assert!((1..=600).contains(&left), "{left}");
        assert_eq!(of("for-ever")["expires_in"], "-");
        // Servers that do not tell flags in dumps show a dash.
        let flags = of("key:1")["flags"].as_str().unwrap();
        assert!(["5", "-"].contains(&flags), "{flags}");
        let again = [
            &warm[..],
            &["--overwrite", "--match", "key:0", "--rate", "100000"],
        ]
        .concat();
        assert_eq!(rows(&pool, &again)[0]["copied"], "1");
        assert_eq!(run(&pool, &["get", "key:0"]).1, "value 0");
    }
}

#[test]
fn keys_that_only_base64_carries_are_copied_too() {
    for program in programs() {
        let (source, target) = (start(&program), start(&program));
        let mut stream = std::net::TcpStream::connect(&source.address).unwrap();
        // "a b", with flags 3.
        stream
            .write_all(b"ms YSBi 5 b F3 T600\r\nhello\r\n")
            .unwrap();
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).unwrap();
        assert_eq!(reply, "HD\r\n");
        let counts = &rows(&[&target], &["warm", "--from", &source.address])[0];
        assert_eq!(counts["copied"], "1", "{counts}");
        let mut stream = std::net::TcpStream::connect(&target.address).unwrap();
        stream.write_all(b"mg YSBi b v f\r\n").unwrap();
        let lines: Vec<String> = BufReader::new(stream)
            .lines()
            .take(2)
            .map(Result::unwrap)
            .collect();
        assert_eq!(lines[1], "hello");
        assert!(lines[0].starts_with("VA 5 f3"), "{lines:?}");
        assert_eq!(rows(&[&target], &["dump"])[0]["key"], "a%20b");
    }
}

#[test]
fn top_shows_every_server_and_those_that_are_away() {
    for program in programs() {
        let server = &start(&program);
        assert_eq!(run(&[server], &["set", "k", "v"]).0, 0);
        let top = ["top", "--interval", "0.05", "--count", "2"];
        let looks = rows(&[server], &top);
        assert_eq!(looks.len(), 2);
        assert_eq!(looks[1]["items"], "1");
        let mut two = tool(&[server]);
        two.args(["--server", "127.0.0.1:1", "--output", "jsonl"])
            .args(top);
        let text = String::from_utf8(two.output().unwrap().stdout).unwrap();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("\"up\":\"away\""), "{text}");
    }
}

#[test]
fn a_server_that_is_away_is_told_from_a_no() {
    let all: [&[&str]; 8] = [
        &["get", "k"],
        &["set", "k", "v"],
        &["stats"],
        &["top", "--count", "1"],
        &["watch"],
        &["dump"],
        &["warm", "--from", "127.0.0.1:1"],
        &["flush", "--yes"],
    ];
    for args in all {
        let (code, _) = run(&[], &[&["--server", "127.0.0.1:1"], args].concat());
        assert_eq!(code, 69, "{args:?}");
    }
}

#[test]
fn a_watch_prints_what_happens() {
    for program in programs() {
        let server = &start(&program);
        let mut watching = tool(&[server])
            .args(["--output", "jsonl", "watch", "fetchers", "mutations"])
            .args(["--match", "wanted*", "--count", "2"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Nobody says when the watch has begun, so something happens until it is seen.
        let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
        let seen = std::thread::spawn(move || {
            let line = |line: Option<std::io::Result<String>>| -> Value {
                serde_json::from_str(&line.unwrap().unwrap()).unwrap()
            };
            (line(lines.next()), line(lines.next()))
        });
        wait::until_true("two lines", || {
            run(&[server], &["get", "other"]);
            run(&[server], &["set", "wanted1", "v"]);
            seen.is_finished()
        })
        .unwrap();
        let (first, second) = seen.join().unwrap();
        for line in [first, second] {
            assert_eq!(line["key"], "wanted1", "{line}");
            assert_eq!(line["server"], server.address.as_str());
        }
        assert!(watching.wait().unwrap().success());
        let (code, _) = run(&[server], &["watch", "no-such-thing"]);
        assert_eq!(code, 1);
    }
}

#[test]
fn a_map_says_where_a_key_lives() {
    let mut mapping = Command::new(env!("CARGO_BIN_EXE_ibex"))
        .args(["cache", "map", "--distribution", "modula"])
        .args(["--server", "10.0.0.1", "--server", "10.0.0.2:11212:3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = mapping.stdin.take().unwrap();
    keys.write_all(b"a\nb\nc\nd\n").unwrap();
    drop(keys);
    let output = mapping.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    let servers: Vec<_> = text
        .lines()
        .map(|line| line.split_once('\t').unwrap().1)
        .collect();
    assert_eq!(servers.len(), 4);
    assert!(
        servers
            .iter()
            .all(|server| ["10.0.0.1:11211", "10.0.0.2:11212"].contains(server))
    );
}

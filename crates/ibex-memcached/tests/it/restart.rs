//! Items over a graceful stop: everything clients can see is carried, nothing comes back from the dead, and what was not written whole is refused.

use crate::client::Client;
use ibex_testkit::Daemon;
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

struct Folder {
    _dir: tempfile::TempDir,
    file: PathBuf,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("items");
        Self { _dir: dir, file }
    }

    fn meta(&self) -> PathBuf {
        self.file.with_extension("meta")
    }

    fn builder(&self, args: &[&str]) -> ibex_testkit::Builder {
        let builder = Daemon::builder("ibex-memcached")
            .arg("--test-hooks")
            .arg("-e")
            .arg(&self.file);
        args.iter().fold(builder, |builder, arg| builder.arg(*arg))
    }

    fn start(&self, args: &[&str]) -> Daemon {
        self.builder(args).start().unwrap()
    }

    /// The log of a daemon that does not start.
    fn refused(&self) -> String {
        format!("{:?}", self.builder(&[]).start().err().unwrap())
    }
}

/// SIGUSR1; the items are in the file afterwards.
fn stop_gracefully(mut daemon: Daemon, meta: &Path) {
    assert!(!meta.exists(), "a running daemon's items are not on file");
    daemon.signal(Signal::USR1).unwrap();
    assert_eq!(daemon.wait_exit(PATIENCE).unwrap().code(), Some(0));
    daemon.judge_log().unwrap();
    assert!(meta.exists());
}

fn value(n: usize) -> String {
    let sizes = [0, 1, 100, 1000, 9000, 70_000, 300_000];
    let size = sizes[n % sizes.len()];
    (0..size)
        .map(|at| char::from(b'a' + u8::try_from((at + n) % 26).unwrap()))
        .collect()
}

fn fill(client: &mut Client, items: usize) {
    for n in 0..items {
        let value = value(n);
        client.send(format!("set key{n} {n} 0 {}\r\n{value}\r\n", value.len()).as_bytes());
    }
    for _ in 0..items {
        client.until(b"STORED\r\n");
    }
}

fn check(client: &mut Client, items: usize) {
    for n in 0..items {
        let value = value(n);
        let got = client.ask(&format!("get key{n}\r\n"), "END\r\n");
        let expected = format!("VALUE key{n} {n} {}\r\n{value}\r\nEND\r\n", value.len());
        assert!(got == expected, "key{n}: {} bytes", got.len());
    }
}

#[test]
fn a_full_cache_loses_nothing() {
    const ITEMS: usize = 15_000;
    let folder = Folder::new();
    // Four shards, which must be as full afterwards as they were before.
    let args = ["-m", "64", "-t", "4"];
    let held = |client: &mut Client| -> Vec<usize> {
        let is_held = |n: &usize| {
            let got = client.ask(&format!("mg big{n} s\r\n"), "\r\n");
            got != "EN\r\n"
        };
        (0..ITEMS).filter(is_held).collect()
    };
    let daemon = folder.start(&args);
    let mut client = Client::new(&daemon);
    let value = "v".repeat(6000);
    for n in 0..ITEMS {
        client.ask(&format!("set big{n} 0 0 6000\r\n{value}\r\n"), "STORED\r\n");
    }
    let before = held(&mut client);
    assert!(before.len() > 8000 && client.stat("evictions") > 0);
    stop_gracefully(daemon, &folder.meta());
    let daemon = folder.start(&args);
    assert_eq!(held(&mut Client::new(&daemon)), before);
    daemon.stop().unwrap();
}

#[test]
fn items_are_as_they_were() {
    let folder = Folder::new();
    let daemon = folder.start(&[]);
    let mut client = Client::new(&daemon);
    fill(&mut client, 70);
    client.ask("set gone 0 0 1\r\nx\r\ndelete gone\r\n", "DELETED\r\n");
    client.ask(
        "set over 0 5 1\r\nx\r\nset later 7 2000 3\r\nabc\r\n",
        "STORED\r\nSTORED\r\n",
    );
    client.ask(
        "set lease 0 0 1\r\nx\r\nmd lease I T600\r\nmg lease v\r\n",
        "W\r\nx\r\n",
    );
    client.ask("ms Zm9v 2 b\r\nhi\r\ndebugtime 10\r\n", "OK\r\n");
    let cas = client.ask("mg key3 c\r\n", "\r\n");
    client.ask("set last 0 0 1\r\nx\r\n", "STORED\r\n");
    let last = client.ask("mg last c\r\n", "\r\n");
    // Clients in the middle of something do not hold the stop up.
    let mut watching = Client::new(&daemon);
    watching.ask("watch mutations\r\n", "OK\r\n");
    let mut stalled = Client::new(&daemon);
    stalled.send(b"set stalled 0 0 100\r\nabc");
    stop_gracefully(daemon, &folder.meta());

    let daemon = folder.start(&[]);
    let mut client = Client::new(&daemon);
    check(&mut client, 70);
    assert_eq!(
        client.ask("get gone over stalled\r\n", "END\r\n"),
        "END\r\n"
    );
    let later = client.ask("mg later v f t\r\n", "abc\r\n");
    let ttl = later
        .split(" t")
        .nth(1)
        .unwrap()
        .split("\r\n")
        .next()
        .unwrap()
        .parse::<u32>();
    assert!((1900..=1990).contains(&ttl.unwrap()), "{later}");
    assert_eq!(client.ask("mg lease v\r\n", "x\r\n"), "VA 1 Z X\r\nx\r\n");
    assert_eq!(
        client.ask("mg foo v k\r\n", "hi\r\n"),
        "VA 2 kZm9v b\r\nhi\r\n"
    );
    assert_eq!(client.ask("mg key3 c\r\n", "\r\n"), cas);
    client.ask("set next 0 0 1\r\nx\r\n", "STORED\r\n");
    let number = |text: &str| text.trim_end()[4..].parse::<u64>().unwrap();
    let next = client.ask("mg next c\r\n", "\r\n");
    assert!(number(&next) > number(&last), "{next} {last}");
    let restored = daemon.metric("ibex_memcached_restored_items").unwrap();
    assert!((restored - 74.0).abs() < 0.5, "{restored}");
    let settings = client.ask("stats settings\r\n", "END\r\n");
    assert!(settings.contains(&format!("STAT memory_file {}\r\n", folder.file.display())));
    daemon.stop().unwrap();
    assert!(!folder.meta().exists(), "SIGTERM keeps nothing");
    let daemon = folder.start(&[]);
    assert_eq!(Client::new(&daemon).stat("curr_items"), 0);
    daemon.stop().unwrap();
}

#[test]
fn another_memory_item_size_and_number_of_threads() {
    let folder = Folder::new();
    for args in [
        &["-m", "64"][..],
        &["-m", "32", "-t", "1"],
        &["-m", "256", "-I", "20m", "-f", "1.5", "-t", "3"],
        &["-m", "100", "-I", "200k", "-C"],
    ] {
        let daemon = folder.start(args);
        let mut client = Client::new(&daemon);
        if args.len() == 2 {
            fill(&mut client, 140);
        }
        check(&mut client, 140);
        stop_gracefully(daemon, &folder.meta());
    }
    // Not all fits: what was stored last stays.
    let daemon = folder.start(&["-m", "4", "-I", "1m"]);
    let mut client = Client::new(&daemon);
    let items = client.stat("curr_items");
    assert!((50..140).contains(&items), "{items}");
    daemon.stop().unwrap();
}

#[test]
fn a_smaller_memory_keeps_the_youngest() {
    let folder = Folder::new();
    let daemon = folder.start(&["-m", "64"]);
    let mut client = Client::new(&daemon);
    for n in 0..200_000 {
        client.send(format!("set key{n} 0 0 100 noreply\r\n{}\r\n", "v".repeat(100)).as_bytes());
    }
    client.ask("mn\r\n", "MN\r\n");
    stop_gracefully(daemon, &folder.meta());
    let daemon = folder.start(&["-m", "16"]);
    let mut client = Client::new(&daemon);
    let hits = |client: &mut Client, from: usize| {
        let keys: String = (from..from + 1000).map(|n| format!(" key{n}")).collect();
        client
            .ask(&format!("get{keys}\r\n"), "END\r\n")
            .matches("VALUE ")
            .count()
    };
    let (oldest, youngest) = (hits(&mut client, 0), hits(&mut client, 199_000));
    assert!(oldest < 50 && youngest > 900, "{oldest} {youngest}");
    daemon.stop().unwrap();
}

#[test]
fn a_flush_to_come_still_comes() {
    let folder = Folder::new();
    let daemon = folder.start(&[]);
    let mut client = Client::new(&daemon);
    client.ask("set k 0 0 1\r\nx\r\nflush_all 1000\r\n", "OK\r\n");
    stop_gracefully(daemon, &folder.meta());
    let daemon = folder.start(&[]);
    let mut client = Client::new(&daemon);
    assert_eq!(
        client.ask("get k\r\n", "END\r\n"),
        "VALUE k 0 1\r\nx\r\nEND\r\n"
    );
    client.ask("debugtime 1001\r\n", "OK\r\n");
    assert_eq!(client.ask("get k\r\n", "END\r\n"), "END\r\n");
    daemon.stop().unwrap();
}

#[test]
fn the_shutdown_command_keeps_items_when_it_is_graceful() {
    let folder = Folder::new();
    for (command, kept) in [("shutdown graceful\r\n", 1), ("shutdown\r\n", 0)] {
        let mut daemon = folder.start(&["-A"]);
        let mut client = Client::new(&daemon);
        client.ask("set k 0 0 1\r\nx\r\n", "STORED\r\n");
        client.send(command.as_bytes());
        assert_eq!(daemon.wait_exit(PATIENCE).unwrap().code(), Some(0));
        let daemon = folder.start(&[]);
        assert_eq!(Client::new(&daemon).stat("curr_items"), kept);
        daemon.stop().unwrap();
    }
}

#[test]
fn a_killed_daemon_starts_clean() {
    let folder = Folder::new();
    let daemon = folder.start(&[]);
    Client::new(&daemon).ask("set k 0 0 1\r\nx\r\n", "STORED\r\n");
    stop_gracefully(daemon, &folder.meta());
    let mut daemon = folder.start(&[]);
    let mut client = Client::new(&daemon);
    assert_eq!(
        client.ask("get k\r\n", "END\r\n"),
        "VALUE k 0 1\r\nx\r\nEND\r\n"
    );
    client.ask("delete k\r\n", "DELETED\r\n");
    daemon.kill().unwrap();
    let daemon = folder.start(&[]);
    let mut client = Client::new(&daemon);
    assert_eq!(
        (
            client.stat("curr_items"),
            client.ask("get k\r\n", "END\r\n")
        ),
        (0, "END\r\n".to_owned())
    );
    daemon.stop().unwrap();
}

/// Each is told apart, refused as often as it is tried, and left as it is.
#[test]
fn torn_changed_and_foreign_files_are_refused() {
    let folder = Folder::new();
    let daemon = folder.start(&[]);
    fill(&mut Client::new(&daemon), 70);
    stop_gracefully(daemon, &folder.meta());
    let (items, meta) = (
        std::fs::read(&folder.file).unwrap(),
        std::fs::read(folder.meta()).unwrap(),
    );
    let put = |items: &[u8], meta: &[u8]| {
        std::fs::write(&folder.file, items).unwrap();
        std::fs::write(folder.meta(), meta).unwrap();
    };
    let changed = |bytes: &[u8], at: usize| {
        let mut changed = bytes.to_vec();
        changed[at] ^= 4;
        changed
    };
    put(&items, b"");
    assert!(folder.refused().contains("its description is empty"));
    put(&items, b"K12\nsomething else\n");
    assert!(folder.refused().contains("not written by this program"));
    put(&items, &changed(&meta, 30));
    assert!(folder.refused().contains("its description was changed"));
    put(&items[..items.len() - 1], &meta);
    assert!(folder.refused().contains("bytes, not the"));
    put(&changed(&items, 4), &meta);
    assert!(
        folder
            .refused()
            .contains("its blocks are not those that were written")
    );
    put(&changed(&items, items.len() / 2), &meta);
    for _ in 0..2 {
        let reason = folder.refused();
        assert!(reason.contains("was changed: the block at"), "{reason}");
        assert!(reason.contains("to start empty"), "{reason}");
    }
    std::fs::remove_file(folder.meta()).unwrap();
    let daemon = folder.start(&[]);
    assert_eq!(Client::new(&daemon).stat("curr_items"), 0);
    daemon.stop().unwrap();
    put(&items, &meta);
    let daemon = folder.start(&[]);
    check(&mut Client::new(&daemon), 70);
    daemon.stop().unwrap();
    let nowhere = Daemon::builder("ibex-memcached")
        .arg("-e")
        .arg("/does/not/exist/items");
    assert!(format!("{:?}", nowhere.start().err().unwrap()).contains("memory_file"));
}

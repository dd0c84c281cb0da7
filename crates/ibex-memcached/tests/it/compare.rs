//! The original beside ours: the same bytes in, the same bytes out. Skipped where it is not installed.

use crate::client::Client;
use ibex_testkit::{Daemon, skip, wait};
use std::process::{Child, Command, Stdio};

struct Original {
    child: Child,
    port: u16,
}

impl Drop for Original {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn original() -> Option<Original> {
    let program = skip::program("memcached")?;
    let dir = tempfile::tempdir().unwrap();
    let ports = dir.path().join("ports");
    let child = Command::new(program)
        .args(["-l", "127.0.0.1", "-p", "-1", "-U", "0", "-u", "root"])
        .env("MEMCACHED_PORT_FILENAME", &ports)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let port = wait::until(
        std::time::Duration::from_secs(10),
        "the original's port",
        || {
            let text = std::fs::read_to_string(&ports).unwrap_or_default();
            text.lines()
                .find_map(|line| line.strip_prefix("TCP INET: ")?.trim().parse().ok())
        },
    )
    .unwrap();
    Some(Original { child, port })
}

/// Requests whose answers do not depend on cas numbers, clocks or release. (With too few words 1.6.18 says `ERROR` and 1.6.45, as ours, `CLIENT_ERROR`.)
const REQUESTS: &[&str] = &[
    "set a 0 0 1\r\nx\r\n",
    "set a 4294967295 0 0\r\n\r\n",
    "get a b a\r\n",
    "  get   a  \r\n",
    "get a\n",
    "set s 0 0 4 \r\n 07 \r\n",
    "incr s 1\r\n",
    "set p 0 0 2\r\n+5\r\n",
    "set long 0 0 21\r\n000000000000000000001\r\n",
    "incr long 1\r\n",
    "set tail 0 0 5\r\n1 abc\r\n",
    "incr tail 1\r\n",
    "set neg 0 0 2\r\n-1\r\n",
    "incr neg 1\r\n",
    "set empty 0 0 0\r\n\r\n",
    "incr empty 1\r\n",
    "incr a x\r\n",
    "delete a 0\r\n",
    "delete a noreply\r\n",
    "set bad 0 0 3\r\nabcdeno such command\r\n",
    "flush_all -1\r\n",
    "mg none\r\n",
    "mg none v q\r\n",
    "ms m 3 F5 T0\r\nabc\r\n",
    "mg m v f s t k\r\n",
    "mg m s v Oq1 k f\r\n",
    "ms m 3 MA\r\ndef\r\n",
    "ms m 3 MP\r\nxyz\r\n",
    "mg m v\r\n",
    "ms m 2 ME\r\nno\r\n",
    "ms nothere 2 MR\r\nno\r\n",
    "ms m 2 M?\r\nno\r\n",
    "ma m\r\n",
    "ma cnt N0 J5 D2 v\r\n",
    "ma cnt MD D7 v t\r\n",
    "md m q\r\n",
    "md m\r\n",
    "md m k Ox\r\n",
    "ms i 1 T90\r\nx\r\n",
    "md i I T30\r\n",
    "mg i v t s\r\n",
    "mg i v\r\n",
    "ms i 1\r\ny\r\n",
    "mg i v\r\n",
    "mg viv v N30 t\r\n",
    "mg viv v t\r\n",
    "mg rec R30\r\n",
    "ms rec 1 T20\r\nx\r\n",
    "mg rec R30\r\n",
    "mg rec R30\r\n",
    "gat 0 rec absent\r\n",
    "verbosity\r\n",
    "verbosity 0\r\n",
    "lru mode flat\r\n",
    "lru tune 90 10 1 1\r\n",
    "slabs reassign 1 1\r\n",
    "stats detail what\r\n",
    "stats cachedump 1\r\n",
    "stats nonsense\r\n",
    "cache_memlimit 1\r\n",
    "unknown thing\r\n",
];

#[test]
fn the_same_requests_get_the_same_replies() {
    let Some(original) = original() else { return };
    let daemon = Daemon::builder("ibex-memcached").start().unwrap();
    let mut theirs = Client::to(([127, 0, 0, 1], original.port).into());
    let mut ours = Client::new(&daemon);
    let mut differences = Vec::new();
    for request in REQUESTS {
        let marked = format!("{request}mn\r\n");
        let (theirs, ours) = (theirs.ask(&marked, "MN\r\n"), ours.ask(&marked, "MN\r\n"));
        if ours != theirs {
            differences.push(format!("{request:?}: ours {ours:?}, theirs {theirs:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    daemon.stop().unwrap();
}

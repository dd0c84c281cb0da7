//! The Perl library and ours on one database at once, both directions: handles, arguments, every finish call.

use ibex_schwartz::schema::{Dialect, Style, statements};
use ibex_schwartz::{Backoff, Client, Finish, Grab, Job, Query, RetryPolicy, When};
use ibex_sql::params;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where the Perl side finds the same database.
struct Peer {
    dsn: String,
    user: &'static str,
}

pub(crate) fn is_missing(driver: &str) -> bool {
    let found = Command::new("perl")
        .args(["-MTheSchwartz", &format!("-MDBD::{driver}"), "-e", "1"])
        .stderr(Stdio::null())
        .status();
    if found.is_ok_and(|status| status.success()) {
        return false;
    }
    ibex_testkit::skip::skip(&format!(
        "Perl's TheSchwartz or DBD::{driver} is not installed (Debian: libtheschwartz-perl, libdbd-{}-perl)",
        driver.to_lowercase()
    ));
    true
}

impl Peer {
    fn run(&self, script: &str, last: &str, input: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/it/perl")
            .join(script);
        let mut child = Command::new("perl")
            .arg(path)
            .args([&self.dsn, self.user, last])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let done = child.wait_with_output().unwrap();
        assert!(
            done.status.success(),
            "{script}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        String::from_utf8(done.stdout).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn perl_and_rust_on_one_sqlite_file() {
    if is_missing("SQLite") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let url = crate::file_url(&dir, "both.db");
    let peer = Peer {
        dsn: format!("dbi:SQLite:dbname={}", dir.path().join("both.db").display()),
        user: "",
    };
    // The tables are made by the Perl side from our statements.
    peer.run(
        "tables.pl",
        "",
        &(statements(Dialect::Sqlite, Style::Bare, "").join("\n") + "\n"),
    );
    both(&Client::open([url]).await.unwrap(), &peer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn perl_and_rust_on_one_mariadb() {
    if is_missing("mysql") {
        return;
    }
    let Some(server) = ibex_testkit::mariadb::Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    let peer = Peer {
        dsn: format!(
            "dbi:mysql:database={};host={};port={}",
            database.name(),
            server.addr().ip(),
            server.addr().port()
        ),
        user: "root",
    };
    peer.run(
        "tables.pl",
        " ENGINE=INNODB",
        &(statements(Dialect::MySql, Style::Bare, "").join("\n") + "\n"),
    );
    both(&Client::open([database.url()]).await.unwrap(), &peer).await;
}

async fn both(client: &Client, peer: &Peer) {
    perl_inserts_rust_works(client, peer).await;
    rust_inserts_perl_works(client, peer).await;
    leases_are_respected(client, peer).await;
    extras_do_not_disturb(client, peer).await;
}

/// What a job says of its own runs is in tables Perl does not know: it works such jobs as any, and what was noted of them goes when they are over.
async fn extras_do_not_disturb(client: &Client, peer: &Peer) {
    let job = |end: &str| {
        Job::new("Extras", end.to_owned())
            .backoff(Backoff::fixed(7))
            .timeout(1)
            .keep_exit_status_for(9)
            .tag("perl")
            .meta("{}")
            .trace("t")
    };
    let mut handles = Vec::new();
    for end in ["complete", "permanent", "fail"] {
        let inserted = client.insert(job(end)).await.unwrap();
        handles.push(inserted.handle().cloned().unwrap());
    }
    // A run of ours with an end comes first; the lease Perl takes after it is not ours to end.
    let first = client
        .grab(&Grab::new(vec!["Extras".to_owned()]))
        .await
        .unwrap()
        .pop()
        .unwrap();
    first
        .finish(Finish::Decline(Some(When::Now)))
        .await
        .unwrap();
    let printed = peer.run("work.pl", "Extras", "");
    assert_eq!(
        printed.lines().count(),
        4,
        "a failure has a second run: {printed}"
    );
    for (handle, exit) in handles.iter().zip([0, 8, 7]) {
        let status = client.status(handle).await.unwrap();
        assert_eq!(status.exit_status, Some(exit), "Perl's own settings");
        assert!(status.pending.is_none());
    }
    let database = &client.databases()[0];
    assert!(database.overdue().await.unwrap().is_empty());
    for _ in 0..3 {
        database.keep_wide().await.unwrap();
    }
    let left = async |sql: &str| -> i64 {
        let rows = database.db().await.unwrap().query(sql, params![]).await;
        rows.unwrap()[0].get(0).unwrap()
    };
    while client.clean(database).await.unwrap() > 0 {}
    assert_eq!(left("SELECT COUNT(*) FROM note").await, 0);
    assert_eq!(left("SELECT COUNT(*) FROM sz_tag").await, 0);
    assert_eq!(left("SELECT COUNT(*) FROM sz_jobx").await, 0);
}

async fn perl_inserts_rust_works(client: &Client, peer: &Peer) {
    client
        .insert(Job::new("FromPerl", "ours").uniqkey("rust-1"))
        .await
        .unwrap();
    let printed = peer.run("insert.pl", "FromPerl", "");
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(
        &lines[3..],
        ["duplicate", "duplicate"],
        "keys count in both directions"
    );
    let want = Grab {
        max: 10,
        shuffle: false,
        ..Grab::new(vec!["FromPerl".to_owned()])
    };
    let jobs: BTreeMap<String, _> = client
        .grab(&want)
        .await
        .unwrap()
        .into_iter()
        .map(|job| (job.handle.to_string(), job))
        .collect();
    assert_eq!(jobs.len(), 4);
    assert_eq!(jobs[lines[0]].job.arg.as_ref(), b"plain text");
    let arg = &jobs[lines[1]].job.arg;
    assert!(ibex_schwartz::storable::is_frozen(arg));
    assert_eq!(
        ibex_schwartz::storable::decode(arg).unwrap(),
        json!({"to": "fred", "n": [1, -5, 128, "1.5", "abc", null], "u": "☺"})
    );
    let third = &jobs[lines[2]].job;
    assert_eq!(
        ibex_schwartz::storable::decode(&third.arg).unwrap(),
        json!([1, {"b": 2}])
    );
    assert_eq!(
        (third.coalesce.as_deref(), third.priority),
        (Some("group"), Some(9))
    );
    for job in jobs.values() {
        job.finish(Finish::Complete { status: 0, keep: 0 })
            .await
            .unwrap();
    }
}

async fn rust_inserts_perl_works(client: &Client, peer: &Peer) {
    let mut handles = BTreeMap::new();
    let unfrozen = [
        "complete",
        "fail",
        "permanent",
        "decline",
        "replace",
        "die",
        "nothing",
    ];
    for end in unfrozen {
        let handle = client
            .insert(Job::new("ToPerl", end))
            .await
            .unwrap()
            .handle()
            .cloned()
            .unwrap();
        handles.insert(end, handle);
    }
    let frozen = Job::with_storable(
        "ToPerl",
        &json!({"end": "complete", "list": [1, -200, 1.5, "☺", null, true, 5_000_000_000_i64]}),
    )
    .unwrap();
    let frozen = client
        .insert(frozen)
        .await
        .unwrap()
        .handle()
        .cloned()
        .unwrap();
    let printed = peer.run("work.pl", "ToPerl", "");
    let mut runs: BTreeMap<&str, u32> = BTreeMap::new();
    for line in printed.lines() {
        let mut parts = line.split('\t');
        let (end, handle, detail) = (
            parts.next().unwrap(),
            parts.next().unwrap(),
            parts.next().unwrap(),
        );
        if handle == frozen.to_string() {
            assert_eq!(detail, "1,-200,1.5,☺,undef,1,5000000000");
            continue;
        }
        assert_eq!(
            handle,
            handles[end].to_string(),
            "handles are equal as strings"
        );
        *runs.entry(end).or_default() += 1;
    }
    assert_eq!(
        runs.into_iter().collect::<Vec<_>>(),
        [
            ("complete", 1),
            ("decline", 1),
            ("die", 2),
            ("fail", 2),
            ("nothing", 2),
            ("permanent", 1),
            ("replace", 1)
        ]
    );
    recorded_ends(client, &handles).await;
    let replaced = client
        .grab(&Grab::new(vec!["FromPerl".to_owned()]))
        .await
        .unwrap()
        .pop()
        .unwrap();
    assert_eq!(
        ibex_schwartz::storable::decode(&replaced.job.arg).unwrap(),
        json!({"from": "perl"})
    );
    replaced
        .finish(Finish::Complete { status: 0, keep: 0 })
        .await
        .unwrap();
}

/// What Perl's finish calls left in the tables.
async fn recorded_ends(client: &Client, handles: &BTreeMap<&str, ibex_schwartz::Handle>) {
    let check = async |end: &str, exit: Option<u16>, log: &[&str]| {
        let status = client.status(&handles[end]).await.unwrap();
        assert_eq!(status.exit_status, exit, "{end}");
        assert_eq!(
            client.failure_log(&handles[end]).await.unwrap(),
            log,
            "{end}"
        );
        assert_eq!(status.pending.is_some(), end == "decline", "{end}");
    };
    check("complete", Some(0), &[]).await;
    check("fail", Some(7), &["perl failed", "perl failed"]).await;
    check("permanent", Some(8), &["perl gave up"]).await;
    check("replace", Some(0), &[]).await;
    check("die", Some(1), &["died in perl\n", "died in perl\n"]).await;
    check(
        "nothing",
        Some(1),
        &["Job did not explicitly complete, fail, or get replaced"; 2],
    )
    .await;
    check("decline", None, &[]).await;
}

/// A job one side holds is not seen by the other, and what one side gave back is.
async fn leases_are_respected(client: &Client, peer: &Peer) {
    let declined = client
        .list(&Query {
            funcs: vec!["ToPerl".to_owned()],
            ..Query::default()
        })
        .await
        .unwrap();
    assert_eq!(declined.len(), 1);
    let perls = client
        .grab(&Grab::new(vec!["ToPerl".to_owned()]))
        .await
        .unwrap();
    assert!(perls.is_empty(), "under a lease of Perl's");
    client.insert(Job::new("Shared", "complete")).await.unwrap();
    let ours = client
        .grab(&Grab::new(vec!["Shared".to_owned()]))
        .await
        .unwrap()
        .pop()
        .unwrap();
    assert_eq!(peer.run("work.pl", "Shared", ""), "");
    ours.finish(Finish::Fail {
        message: "ours failed".to_owned(),
        status: 1,
        retry: RetryPolicy::fixed(3, 0),
        keep: 0,
    })
    .await
    .unwrap();
    assert!(peer.run("work.pl", "Shared", "").starts_with("complete\t"));
    assert!(!client.is_pending(&ours.handle).await.unwrap());
}

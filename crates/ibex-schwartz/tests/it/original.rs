//! The faults of the original, shown on the original: each test lets the Perl library do it its own way on a database, names what goes wrong, and has ours do
//! the same on the same tables. The table of both sides is in `docs/schwartz/compatibility.md`.
//!
//! Apart from `faults`, whose tests hold without Perl. Skipped with a visible line where Perl's library is not installed.

use ibex_schwartz::{Client, Error, Finish, Finished, Grab, GrabbedJob, Job, Query, RetryPolicy};
use ibex_sql::params;
use ibex_testkit::mariadb::{Database, Server};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Databases as the Perl side spells them.
struct Original {
    user: &'static str,
    dsns: Vec<String>,
}

impl Original {
    fn files(dir: &tempfile::TempDir, names: &[&str]) -> Self {
        let dsns = names
            .iter()
            .map(|name| format!("dbi:SQLite:dbname={}", dir.path().join(name).display()))
            .collect();
        Self { user: "", dsns }
    }

    fn server(server: &Server, database: &Database<'_>) -> Self {
        let addr = server.addr();
        let dsn = format!(
            "dbi:mysql:database={};host={};port={}",
            database.name(),
            addr.ip(),
            addr.port()
        );
        Self {
            user: "root",
            dsns: vec![dsn],
        }
    }

    fn start(&self, case: &str) -> Child {
        Command::new("perl")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/perl/faults.pl"))
            .args([case, self.user])
            .args(&self.dsns)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// What the original's way of doing `case` came to, in words.
    fn shows(&self, case: &str) -> Vec<String> {
        let done = self.start(case).wait_with_output().unwrap();
        assert!(
            done.status.success(),
            "{case}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        words(&String::from_utf8(done.stdout).unwrap())
    }
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn want(func: &str) -> Grab {
    Grab::new(vec![func.to_owned()])
}

async fn grab(client: &Client, func: &str) -> GrabbedJob {
    client.grab(&want(func)).await.unwrap().pop().unwrap()
}

fn fail(message: &str, retry: RetryPolicy) -> Finish {
    Finish::Fail {
        message: message.to_owned(),
        status: 1,
        retry,
        keep: 0,
    }
}

const COMPLETE: Finish = Finish::Complete {
    status: 0,
    keep: 1000,
};

/// The rows on a MariaDB server, `None` after a visible line when something is missing.
macro_rules! on_a_server {
    ($start:ident, $server:ident, $database:ident, $client:ident, $original:ident) => {
        if crate::perl::is_missing("mysql") {
            return;
        }
        let Some($server) = Server::$start().unwrap() else {
            return;
        };
        let $database = $server.database().unwrap();
        let $client = crate::init_client(&$database.url()).await;
        let $original = Original::server(&$server, &$database);
    };
}

/// The same on a fresh file.
macro_rules! on_a_file {
    ($dir:ident, $client:ident, $original:ident) => {
        if crate::perl::is_missing("SQLite") {
            return;
        }
        let $dir = tempfile::tempdir().unwrap();
        let $client = crate::file_client(&$dir).await;
        let $original = Original::files(&$dir, &["jobs.db"]);
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_worker_dies_of_a_long_message_and_does_not_count_it() {
    on_a_server!(start, server, database, client, original);
    let shown = original.shows("long");
    assert_eq!(shown[..2], ["died", "0"]);
    let handle = shown[2].parse().unwrap();
    let db = client.databases()[0].db().await.unwrap();
    db.execute("UPDATE job SET grabbed_until = 0", params![])
        .await
        .unwrap();
    let job = grab(&client, "Long").await;
    job.finish(fail(&"x".repeat(300), RetryPolicy::fixed(3, 0)))
        .await
        .unwrap();
    assert_eq!(
        client.failure_log(&handle).await.unwrap(),
        ["x".repeat(255)]
    );
    assert_eq!(grab(&client, "Long").await.attempt, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_worker_dies_of_an_exit_status_left_by_a_crash() {
    on_a_file!(dir, client, original);
    let inserted = client.insert(Job::new("Keeps", "x")).await.unwrap();
    let handle = inserted.handle().unwrap();
    let db = client.databases()[0].db().await.unwrap();
    db.execute("INSERT INTO exitstatus (jobid, funcid, status, completion_time, delete_after) VALUES (?, 1, 0, 1, 4000000000)", params![handle.jobid()])
        .await
        .unwrap();
    for _ in 0..2 {
        assert_eq!(original.shows("complete"), ["died"], "each time again");
        assert!(client.is_pending(handle).await.unwrap());
        db.execute("UPDATE job SET grabbed_until = 0", params![])
            .await
            .unwrap();
    }
    grab(&client, "Keeps").await.finish(COMPLETE).await.unwrap();
    assert!(!client.is_pending(handle).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_late_worker_removes_what_another_runs() {
    on_a_file!(dir, client, original);
    assert_eq!(original.shows("late"), ["removed"]);
    client.insert(Job::new("Keeps", "x")).await.unwrap();
    let first = grab(&client, "Keeps").await;
    client.advance_clock(Duration::from_secs(4000));
    let second = grab(&client, "Keeps").await;
    assert!(matches!(
        first.finish(COMPLETE).await,
        Err(Error::LeaseLost(_))
    ));
    assert!(client.is_pending(&second.handle).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_key_is_taken_once_per_database() {
    if crate::perl::is_missing("SQLite") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let urls = ["a.db", "b.db"].map(|name| crate::file_url(&dir, name));
    let client = Client::open(urls).await.unwrap();
    assert_eq!(
        Original::files(&dir, &["a.db", "b.db"]).shows("key"),
        ["2"],
        "sixty inserts of one key"
    );
    let mut taken = 0;
    for _ in 0..60 {
        let inserted = client
            .insert(Job::new("F", "").uniqkey("ours"))
            .await
            .unwrap();
        taken += u32::from(!inserted.is_duplicate());
    }
    assert_eq!(taken, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_list_of_jobs_dies_half_the_time_when_one_of_two_databases_is_down() {
    if crate::perl::is_missing("mysql") || crate::perl::is_missing("SQLite") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dead = ibex_testkit::ports::free();
    let client = Client::builder()
        .db(crate::file_url(&dir, "jobs.db"))
        .db(format!(
            "mysql://u@{dead}/q?timeout=50ms&connect_timeout=50ms"
        ))
        .retry_after(Duration::ZERO)
        .build()
        .await
        .unwrap();
    let mut original = Original::files(&dir, &["jobs.db"]);
    original.dsns.push(format!(
        "dbi:mysql:database=q;host={};port={}",
        dead.ip(),
        dead.port()
    ));
    let died: u32 = original.shows("list_down")[0].parse().unwrap();
    assert!(
        (1..40).contains(&died),
        "{died} of 40; one in 10^12 by chance"
    );
    for _ in 0..40 {
        // Rested for no time, so every call may meet the dead one.
        client
            .insert_all(vec![Job::new("F", "a"), Job::new("F", "b")])
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_database_is_given_up_for_one_large_argument() {
    on_a_server!(start_own, server, database, client, original);
    server
        .sql("SET GLOBAL max_allowed_packet = 1048576")
        .unwrap();
    assert_eq!(original.shows("packet"), ["refused", "refused"]);
    let client = {
        client.close().await.unwrap();
        crate::init_client(&database.url()).await
    };
    let large = client.insert(Job::new("F", vec![b'x'; 2_000_000])).await;
    assert!(matches!(large, Err(Error::TooLarge { .. })), "{large:?}");
    client.insert(Job::new("F", "x")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_insert_says_nothing_when_every_database_is_down() {
    if crate::perl::is_missing("mysql") {
        return;
    }
    let dead = ibex_testkit::ports::free();
    let original = Original {
        user: "root",
        dsns: vec![format!(
            "dbi:mysql:database=q;host={};port={}",
            dead.ip(),
            dead.port()
        )],
    };
    assert_eq!(original.shows("down"), ["nothing", "no-reason"]);
    let client = Client::builder()
        .db(format!(
            "mysql://root@{dead}/q?timeout=50ms&connect_timeout=50ms"
        ))
        .build_lazy()
        .await
        .unwrap();
    let Err(Error::NoDatabase(causes)) = client.insert(Job::new("F", "x")).await else {
        panic!("no cause")
    };
    assert_eq!(causes.0.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_map_of_functions_is_read_once() {
    on_a_file!(dir, client, original);
    // Ours knows the database before the function is there, too.
    client.insert(Job::new("Ours", "x")).await.unwrap();
    let shown = original.shows("later");
    assert_eq!(shown[0], "lost");
    let job = client
        .lookup(&shown[1].parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(job.funcname, "Later");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_insert_fails_for_a_name_that_differs_by_case() {
    on_a_server!(start, server, database, client, original);
    assert_eq!(original.shows("case"), ["refused"]);
    client.insert(Job::new("FOO", "x")).await.unwrap();
    let jobs = client
        .grab(&Grab {
            max: 9,
            ..want("foo")
        })
        .await
        .unwrap();
    assert_eq!(jobs.len(), 2, "Perl's first and ours");
}

/// Starts the program that provokes a deadlock with whoever replaces the job.
fn rival(original: &Original, case: &str) -> (Child, BufReader<ChildStdout>) {
    let mut rival = original.start(case);
    let mut lines = BufReader::new(rival.stdout.take().unwrap());
    assert_eq!(line(&mut lines), "ready");
    (rival, lines)
}

fn line(from: &mut BufReader<impl std::io::Read>) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_worker_fails_a_job_for_a_deadlock() {
    on_a_server!(start, server, database, client, original);
    client.insert(Job::new("Next", "n")).await.unwrap();
    client.insert(Job::new("Replaces", "x")).await.unwrap();
    let mut worker = original.start("deadlock");
    let mut lines: BufReader<ChildStdout> = BufReader::new(worker.stdout.take().unwrap());
    assert_eq!(line(&mut lines), "grabbed");
    let (mut other, _lines) = rival(&original, "rival");
    writeln!(worker.stdin.as_mut().unwrap(), "go").unwrap();
    let shown = line(&mut lines);
    assert!(worker.wait().unwrap().success() && other.wait().unwrap().success());
    assert!(
        shown.starts_with("lived 1 ") && shown.contains("Deadlock"),
        "the job is over, unsuccessfully: {shown}"
    );

    let inserted = client.insert(Job::new("Replaces", "x")).await.unwrap();
    let handle = inserted.handle().unwrap();
    let job = grab(&client, "Replaces").await;
    let (mut other, mut said) = rival(&original, "rival_of_ours");
    let next = Job::new("Next", "n").uniqkey("contested");
    let finished = job
        .finish(Finish::Replace {
            jobs: vec![next],
            keep: 1000,
        })
        .await
        .unwrap();
    assert!(other.wait().unwrap().success());
    assert_eq!(
        line(&mut said),
        "won",
        "there was a deadlock, ours was rolled back"
    );
    assert!(
        matches!(&finished, Finished::Replaced(new) if new.len() == 1),
        "{finished:?}"
    );
    let status = client.status(handle).await.unwrap();
    assert_eq!((status.exit_status, status.failures.len()), (Some(0), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_list_of_jobs_ignores_the_coalescing_value() {
    on_a_file!(dir, client, original);
    assert_eq!(original.shows("coalesce"), ["2"], "of two, one was asked");
    let listed = client
        .list(&Query {
            funcs: vec!["F".to_owned()],
            coalesce: Some("a".to_owned()),
            ..Query::default()
        })
        .await
        .unwrap();
    assert_eq!(listed.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_worker_sleeps_through_an_insert() {
    on_a_file!(dir, client, original);
    assert_eq!(
        original.shows("poll"),
        ["5"],
        "the whole sleep, though the job came at its start"
    );
    // Ours: an idle worker that would poll once an hour takes the job all the same.
    let stop = tokio_util::sync::CancellationToken::new();
    let (done, mut worked) = tokio::sync::mpsc::unbounded_channel();
    let worker = ibex_schwartz::Worker::new(&client)
        .poll(Duration::from_secs(3600))
        .function("Ours", move |_| {
            let done = done.clone();
            async move {
                done.send(()).unwrap();
                ibex_schwartz::Outcome::Complete
            }
        });
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { worker.run(stop).await }
    });
    for _ in 0..3 {
        client.insert(Job::new("Ours", "x")).await.unwrap();
        let soon = tokio::time::timeout(Duration::from_secs(60), worked.recv()).await;
        soon.expect("within a minute of the hour").unwrap();
    }
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn its_search_walks_all_rows_in_front() {
    let dir = tempfile::tempdir().unwrap();
    let client = crate::file_client(&dir).await;
    client.insert(Job::new("F", "x")).await.unwrap();
    let db = client.databases()[0].db().await.unwrap();
    // The original's statement, with the indexes of the original's SQLite tables: the unique ones.
    let original = "EXPLAIN QUERY PLAN SELECT job.jobid, job.arg FROM job \
        WHERE (job.funcid IN (1)) AND (job.run_after <= 100) AND (job.grabbed_until <= 100) ORDER BY job.jobid LIMIT 50";
    for index in ["job_sz_ready", "job_func_run", "job_func_coalesce"] {
        db.execute(format!("DROP INDEX IF EXISTS {index}"), params![])
            .await
            .unwrap();
    }
    let indexes = db
        .query("SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'job' AND sql IS NOT NULL AND sql NOT LIKE 'CREATE UNIQUE%'", params![])
        .await
        .unwrap();
    assert!(indexes.is_empty(), "{indexes:?}");
    let plan = db.query(original, params![]).await.unwrap();
    let plan: Vec<String> = plan
        .iter()
        .map(|row| row.named("detail").unwrap())
        .collect();
    assert!(
        plan.iter()
            .all(|step| !step.contains("grabbed_until") && !step.contains("run_after")),
        "no part of the plan knows times, so every row in front is read: {plan:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_retries_never_end_when_a_week_lies_between() {
    on_a_file!(dir, client, original);
    assert_eq!(
        original.shows("week"),
        ["10", "pending"],
        "three runs were allowed"
    );
    let db = client.databases()[0].db().await.unwrap();
    let inserted = client.insert(Job::new("Ours", "x")).await.unwrap();
    for _ in 0..3 {
        grab(&client, "Ours")
            .await
            .finish(fail("no", RetryPolicy::fixed(2, 0)))
            .await
            .unwrap();
        db.execute("DELETE FROM error", params![]).await.unwrap();
    }
    assert!(!client.is_pending(inserted.handle().unwrap()).await.unwrap());
}

//! One suite for both engines: what was stored is there, what was forgotten is not, across closes.

use std::sync::Mutex;
use std::time::Duration;

use ibex_gearman_core::End;
use ibex_gearman_proto::Priority;
use ibex_kit::Kit;

use super::*;

#[derive(Debug, Default)]
struct Seen {
    stored: Mutex<Vec<u64>>,
    failed: Mutex<Vec<u64>>,
    is_lost: Mutex<bool>,
    fetched: Mutex<Vec<(JobId, Option<Bytes>)>>,
}

impl Outcomes for Arc<Seen> {
    fn stored(&self, jobs: Vec<JobId>) {
        self.stored.lock().unwrap().extend(jobs.iter().map(|j| j.0));
    }

    fn failed(&self, jobs: Vec<JobId>) {
        self.failed.lock().unwrap().extend(jobs.iter().map(|j| j.0));
    }

    fn lost(&self) {
        *self.is_lost.lock().unwrap() = true;
    }

    fn fetched(&self, workloads: Vec<(JobId, Option<Bytes>)>) {
        self.fetched.lock().unwrap().extend(workloads);
    }

    fn fetch_failed(&self, jobs: Vec<JobId>) {
        panic!("a healthy store answers: {jobs:?}");
    }
}

fn job(id: u64, workload: &'static [u8]) -> StoredJob {
    StoredJob {
        id: JobId(id),
        function: Bytes::from_static(b"f\xff\0n"),
        unique: Bytes::from_static(b"\x80u"),
        priority: Priority::Low,
        due_ms: 7,
        attempts: 0,
        reducer: Bytes::new(),
        headers: Bytes::from_static(b"x-h=1"),
        workload: Bytes::from_static(workload),
    }
}

fn claimant(server: &str, life: u32) -> Claimant {
    Claimant {
        server: server.to_owned(),
        life: life.to_string(),
        lease: Duration::from_secs(3),
    }
}

/// One life: opens, does `ops`, closes. Says what was left and what was stored.
async fn life(url: &str, ops: Vec<Op>) -> (Left, Vec<u64>) {
    let backlog = Arc::new(Backlog::default());
    let (store, left) = Store::open(
        url,
        &claimant("one", 1),
        None,
        u64::MAX,
        Arc::clone(&backlog),
    )
    .await
    .unwrap();
    let requests = store.requests();
    for op in ops {
        requests.push(op);
    }
    drop(requests);
    let seen = Arc::new(Seen::default());
    let check = Kit::for_test(crate::ABOUT).check("store");
    tokio::time::timeout(Duration::from_secs(60), store.run(Arc::clone(&seen), check))
        .await
        .unwrap();
    assert_eq!(backlog.requests.load(Ordering::Relaxed), 0);
    assert_eq!(backlog.bytes.load(Ordering::Relaxed), 0);
    assert!(seen.failed.lock().unwrap().is_empty());
    let stored = seen.stored.lock().unwrap().clone();
    (left, stored)
}

/// The jobs, whose workloads all came with them.
fn whole(left: &Left) -> Vec<StoredJob> {
    assert!(left.jobs.iter().all(|(_, away)| away.is_none()));
    left.jobs.iter().map(|(job, _)| job.clone()).collect()
}

async fn suite(url: &str) {
    let (left, stored) = life(
        url,
        vec![
            Op::Persist(job(1, b"a")),
            Op::Persist(job(2, b"")),
            Op::Persist(job(3, b"c\0\xff")),
        ],
    )
    .await;
    assert!(left.jobs.is_empty() && left.dead.is_empty());
    assert_eq!(left.first_job, 1);
    assert_eq!(stored, [1, 2, 3]);

    let second = vec![
        Op::Forget(JobId(2)),
        Op::Attempt {
            job: JobId(3),
            attempts: 4,
            due_ms: 9,
        },
        Op::Bury {
            job: JobId(1),
            attempts: 5,
            reason: Bytes::from_static(b"why"),
        },
        Op::Persist(job(10, b"x")),
        Op::Forget(JobId(10)),
    ];
    let (left, stored) = life(url, second).await;
    assert_eq!(
        whole(&left),
        [job(1, b"a"), job(2, b""), job(3, b"c\0\xff")]
    );
    assert_eq!(left.first_job, 1 + NUMBERS);
    assert_eq!(
        stored,
        [10],
        "a job that came and went in one batch was accepted"
    );

    let third = vec![
        Op::Revive(JobId(1)),
        Op::Bury {
            job: JobId(3),
            attempts: 6,
            reason: Bytes::new(),
        },
        Op::Revive(JobId(3)),
    ];
    let (left, stored) = life(url, third).await;
    assert_eq!(
        whole(&left),
        [StoredJob {
            attempts: 4,
            due_ms: 9,
            ..job(3, b"c\0\xff")
        }]
    );
    assert_eq!(
        left.dead,
        [(
            StoredJob {
                attempts: 5,
                ..job(1, b"a")
            },
            1,
            Bytes::from_static(b"why")
        )]
    );
    assert_eq!(stored, [1, 3]);

    let (left, _) = life(url, vec![Op::Forget(JobId(1)), Op::Forget(JobId(3))]).await;
    assert!(left.schedules.is_empty());
    let revived = |id, workload| StoredJob {
        due_ms: 0,
        ..job(id, workload)
    };
    assert_eq!(whole(&left), [revived(1, b"a"), revived(3, b"c\0\xff")]);
    assert!(left.dead.is_empty());
    let (left, _) = life(url, Vec::new()).await;
    assert!(left.jobs.is_empty());
    assert_eq!(left.first_job, 1 + 4 * NUMBERS);
}

fn schedule(id: u64, next_ms: u64) -> StoredSchedule {
    StoredSchedule {
        id: JobId(id),
        function: Bytes::from_static(b"f\xff\0n"),
        unique: Bytes::from_static(b"\x80u"),
        fields: ["*/5", "", "1", "*", "0-6"].map(|field| Bytes::from_static(field.as_bytes())),
        next_ms,
        workload: Bytes::from_static(b"\0"),
    }
}

/// Recurring jobs: one per name, moved, replaced, dropped.
async fn recurring(url: &str) {
    let (_, stored) = life(
        url,
        vec![
            Op::KeepSchedule(schedule(1, 5)),
            Op::KeepSchedule(schedule(2, 6)),
        ],
    )
    .await;
    assert_eq!(stored, [1, 2]);
    let (function, unique) = (schedule(2, 6).function, schedule(2, 6).unique);
    let moved = Op::MoveSchedule {
        function: function.clone(),
        unique: unique.clone(),
        next_ms: 60,
    };
    let (left, _) = life(url, vec![moved]).await;
    assert_eq!(left.schedules, [schedule(2, 6)]);
    let dropped = Op::DropSchedule { function, unique };
    let (left, _) = life(url, vec![dropped]).await;
    assert_eq!(left.schedules, [schedule(2, 60)]);
    assert!(left.first_job > 2);
    let (left, _) = life(url, Vec::new()).await;
    assert!(left.schedules.is_empty());
}

/// Large workloads, and smaller ones beyond the bound, stay in the store at a start and are read when they are asked for.
async fn away(url: &str) {
    const LARGE: &[u8] = &[b'l'; 5000];
    const SMALL: &[u8] = &[b's'; 300];
    let key = StoredJob {
        unique: Bytes::from_static(b"-"),
        ..job(102, LARGE)
    };
    let jobs = [job(100, LARGE), job(101, SMALL), key, job(103, b"t")];
    life(url, jobs.into_iter().map(Op::Persist).collect()).await;
    for (resident_max, expected) in [
        (u64::MAX, [Some(5000), None, None, None]),
        (0, [Some(5000), Some(300), None, None]),
    ] {
        let backlog = Arc::new(Backlog::default());
        let claimant = claimant("one", 1);
        let open = Store::open(url, &claimant, None, resident_max, backlog);
        let (store, left) = open.await.unwrap();
        let away: Vec<Option<u32>> = left.jobs.iter().map(|(_, away)| *away).collect();
        assert_eq!(away, expected);
        let resident = left
            .jobs
            .iter()
            .all(|(job, away)| away.is_none() || job.workload.is_empty());
        assert!(resident);
        let requests = store.requests();
        requests.fetch([101, 7, 100].map(JobId).to_vec());
        let seen = Arc::new(Seen::default());
        let check = Kit::for_test(crate::ABOUT).check("store");
        let running = tokio::spawn(store.run(Arc::clone(&seen), check));
        let is_answered = || seen.fetched.lock().unwrap().len() == 3;
        tokio::time::timeout(Duration::from_secs(60), async {
            while !is_answered() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
        let fetched = std::mem::take(&mut *seen.fetched.lock().unwrap());
        let [small, none, large] = fetched.try_into().unwrap();
        assert_eq!(small, (JobId(101), Some(Bytes::from_static(SMALL))));
        assert_eq!(none, (JobId(7), None));
        assert_eq!(large, (JobId(100), Some(Bytes::from_static(LARGE))));
        drop(requests);
        running.await.unwrap();
    }
    let forgotten = (100..104).map(|id| Op::Forget(JobId(id)));
    life(url, forgotten.collect()).await;
}

fn result(id: u64, end: End) -> StoredResult {
    StoredResult {
        id: JobId(id),
        function: Bytes::from_static(b"f\xff"),
        unique: Bytes::from_static(b"\x80"),
        workload: Bytes::from_static(b"\0w"),
        end,
        ended_ms: 5,
        until_ms: crate::driver::epoch_ms() + 3_600_000,
    }
}

/// Results are kept with the end of their job, replaced, forgotten, and gone when their time is over.
async fn kept_results(url: &str) {
    let complete = result(200, End::Complete(Bytes::from_static(b"\0r\xff")));
    let failed = result(201, End::Fail);
    let excepted = result(202, End::Exception(Bytes::from_static(b"x")));
    let over = StoredResult {
        until_ms: 10,
        ..result(203, End::Fail)
    };
    let passing = result(204, End::Fail);
    let kept = [&complete, &failed, &excepted, &over, &passing];
    let mut ops: Vec<Op> = kept.into_iter().cloned().map(Op::KeepResult).collect();
    ops.push(Op::ForgetResult(JobId(204)));
    life(url, ops).await;
    let again = result(201, End::Complete(Bytes::new()));
    let ops = vec![Op::KeepResult(again.clone()), Op::ForgetResult(JobId(202))];
    let (left, _) = life(url, ops).await;
    let sorted = |left: Left| {
        let mut results = left.results;
        results.sort_by_key(|result| result.id);
        results
    };
    assert_eq!(sorted(left), [complete.clone(), failed, excepted]);
    let (left, _) = life(url, Vec::new()).await;
    assert_eq!(sorted(left), [complete, again]);
}

#[tokio::test]
async fn sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("jobs.db").display());
    suite(&url).await;
    recurring(&url).await;
    away(&url).await;
    kept_results(&url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb() {
    let Some(server) = ibex_testkit::mariadb::Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    suite(&database.url()).await;
    recurring(&database.url()).await;
    away(&database.url()).await;
    kept_results(&database.url()).await;
}

/// A table as the original makes and fills it.
async fn imported(url: &str) {
    let db = Db::open(&ibex_sql::Config::new(url).unwrap())
        .await
        .unwrap();
    let table = db.engine().pick(
        "CREATE TABLE old_queue (unique_key TEXT, function_name TEXT, priority INTEGER, data BLOB, when_to_run INTEGER, PRIMARY KEY (unique_key, function_name))",
        "CREATE TABLE old_queue (unique_key VARCHAR(64), function_name VARCHAR(255), priority INT, data LONGBLOB, when_to_run INT, UNIQUE KEY (unique_key, function_name))",
    );
    db.execute(table, Vec::new()).await.unwrap();
    let insert = "INSERT INTO old_queue (unique_key, function_name, priority, data, when_to_run) VALUES (?, ?, ?, ?, ?)";
    let at = ibex_sql::params!["k2", "g", 0, ibex_sql::Value::Null, 77];
    for row in [
        ibex_sql::params!["k1", "f", 2, b"w\0rk".to_vec(), 0],
        at,
        ibex_sql::params!["", "f", 9, b"x".to_vec(), 0],
    ] {
        db.execute(insert, row).await.unwrap();
    }
    db.close().await.unwrap();
    for life in 1..=2 {
        let backlog = Arc::new(Backlog::default());
        let (store, mut left) = Store::open(
            url,
            &claimant("one", life),
            Some("old_queue"),
            u64::MAX,
            backlog,
        )
        .await
        .unwrap();
        // Both times: moved once, and kept.
        left.jobs
            .sort_by(|(a, _), (b, _)| (&a.function, &a.unique).cmp(&(&b.function, &b.unique)));
        let jobs: Vec<_> = left
            .jobs
            .iter()
            .map(|(job, _)| {
                (
                    &job.unique[..],
                    &job.function[..],
                    job.priority,
                    &job.workload[..],
                    job.due_ms,
                )
            })
            .collect();
        assert_eq!(
            jobs,
            [
                (&b""[..], &b"f"[..], Priority::Normal, &b"x"[..], 0),
                (b"k1", b"f", Priority::Low, b"w\0rk", 0),
                (b"k2", b"g", Priority::High, b"", 77_000),
            ]
        );
        assert!(left.jobs.iter().all(|(job, _)| job.id.0 < left.first_job));
        drop(store);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_originals_queue_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    imported(&format!("sqlite:{}", dir.path().join("q.db").display())).await;
    let Some(server) = ibex_testkit::mariadb::Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    imported(&database.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_has_one_server() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("jobs.db").display());
    let backlog = Arc::new(Backlog::default());
    let first = Store::open(
        &url,
        &claimant("one", 1),
        None,
        u64::MAX,
        Arc::clone(&backlog),
    )
    .await
    .unwrap();
    let refused = Store::open(
        &url,
        &claimant("two", 1),
        None,
        u64::MAX,
        Arc::clone(&backlog),
    )
    .await
    .unwrap_err();
    assert_eq!(refused.kind(), ibex_kit::Kind::Temporary, "{refused}");
    drop(first);
    Store::open(&url, &claimant("two", 1), None, u64::MAX, backlog)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_taken_for_dead_stores_nothing_more() {
    let Some(server) = ibex_testkit::mariadb::Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    let url = database.url();
    let backlog = Arc::new(Backlog::default());
    let (sleeper, _) = Store::open(
        &url,
        &claimant("one", 1),
        None,
        u64::MAX,
        Arc::clone(&backlog),
    )
    .await
    .unwrap();
    // It does not beat, as if it were stopped; another one waits for the lease.
    let (heir, _) = Store::open(
        &url,
        &claimant("two", 1),
        None,
        u64::MAX,
        Arc::clone(&backlog),
    )
    .await
    .unwrap();
    let requests = sleeper.requests();
    requests.push(Op::Persist(job(1, b"late")));
    let seen = Arc::new(Seen::default());
    let check = Kit::for_test(crate::ABOUT).check("store");
    tokio::time::timeout(
        Duration::from_secs(60),
        sleeper.run(Arc::clone(&seen), check),
    )
    .await
    .unwrap();
    assert!(*seen.is_lost.lock().unwrap());
    assert_eq!(*seen.failed.lock().unwrap(), [1]);
    drop(heir);
    // The heir's next life takes over at once; its earlier one is past, too.
    let (_, left) = Store::open(&url, &claimant("two", 2), None, u64::MAX, backlog)
        .await
        .unwrap();
    assert!(left.jobs.is_empty(), "{:?}", left.jobs);
}

#[tokio::test]
async fn a_row_that_makes_no_sense_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("jobs.db").display());
    life(
        &url,
        [b"a", b"b", b"c"]
            .into_iter()
            .zip(1..)
            .map(|(workload, id)| Op::Persist(job(id, workload)))
            .collect(),
    )
    .await;
    let db = Db::open(&ibex_sql::Config::new(&url).unwrap())
        .await
        .unwrap();
    for change in [
        "UPDATE gearman_jobs SET priority = 77 WHERE id = 1",
        "UPDATE gearman_jobs SET unique_key = zeroblob(300) WHERE id = 3",
    ] {
        db.execute(change, Vec::new()).await.unwrap();
    }
    db.close().await.unwrap();
    let (left, _) = life(&url, Vec::new()).await;
    assert_eq!((left.jobs.len(), left.quarantined), (1, 2));
    let (left, _) = life(&url, Vec::new()).await;
    assert_eq!((left.jobs.len(), left.quarantined), (1, 0));
}

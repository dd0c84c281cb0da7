//! The library's handlers against a daemon: the same trait, the same ends.

use crate::Case;
use ibex_schwartz::{
    Backoff, Concurrency, Error, Handler, Inserted, Job, JobContext, JobCtx, OnDeath, Outcome,
    Parent, Rate, Remote, Unique, UniqueBy, When, Worker,
};
use ibex_testkit::wait::until_true;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio_util::sync::CancellationToken;

/// Ends as its argument says.
#[derive(Default)]
struct Ends;

impl Handler for Ends {
    const FUNC: &'static str = "Ends";
    type Arg = String;

    fn grab_for(&self) -> u64 {
        60
    }

    fn max_retries(&self) -> u32 {
        1
    }

    fn retry_delay(&self, failures: u32) -> u64 {
        5000 * u64::from(failures)
    }

    async fn work(&self, job: &mut JobCtx<String>) -> Outcome {
        assert!(job.arg() != "panic", "a panic with text");
        assert!(job.database().is_none() && job.complete_sql().is_err());
        match job.arg().as_str() {
            "fail" => Outcome::fail("no luck"),
            "permanent" => Outcome::Permanent {
                message: "never".to_owned(),
                status: 9,
            },
            "decline" => Outcome::Decline(Some(When::In(5000))),
            "replace" => Outcome::Replace(vec![Job::new("Other", "").coalesce("c").delay(9)]),
            "with" => Outcome::CompleteWith(r#"{"answer":42}"#.into()),
            _ => Outcome::Complete,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_works_jobs_of_a_daemon_as_of_a_database() {
    let case = Case::start(&[]);
    let remote = Remote::new(&format!("http://{}", case.addr)).unwrap();
    let worker = Worker::new(&remote).register::<Ends>();
    let run = async |arg: &str| {
        let job = Job::new("Ends", arg.to_owned());
        let Inserted::New(handle) = remote.insert(&job).await.unwrap() else {
            panic!("new")
        };
        assert!(worker.work_once().await.unwrap(), "{arg}");
        (remote.status(&handle).await, handle)
    };
    // The function keeps no exit status, where the daemon's own default would.
    let (gone, handle) = run("complete").await;
    assert!(matches!(gone, Err(Error::NotFound(id)) if id == handle.jobid()));
    let (with, _) = run("with").await;
    assert_eq!(with.unwrap()["result"], json!({"answer": 42}));
    for (arg, message) in [("fail", "no luck"), ("panic", "a panic with text")] {
        let status = run(arg).await.0.unwrap();
        assert_eq!(status["failures"][0]["message"], message);
        let wait = status["run_after"].as_u64().unwrap() - status["insert_time"].as_u64().unwrap();
        assert_eq!((&status["state"], wait / 1000), (&json!("scheduled"), 5));
    }
    let (permanent, _) = run("permanent").await;
    assert_eq!(permanent.unwrap()["state"], "failed");
    assert_eq!(run("decline").await.0.unwrap()["state"], "scheduled");
    drop(run("replace").await);
    let other = case.ok("GET", "/v1/jobs?func=Other", &Value::Null);
    assert_eq!(other["jobs"][0]["coalesce"], "c");
    assert!(!worker.work_once().await.unwrap(), "nothing is ready");
    case.daemon.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_a_job_can_ask_for_travels() {
    let case = Case::start(&[]);
    let remote = Remote::new(&format!("http://{}", case.addr)).unwrap();
    let first = remote.insert(&Job::new("First", "")).await.unwrap();
    let parent = Parent::Job(first.handle().cloned().unwrap());
    let job = Job::new("All", vec![0, 0xff])
        .uniqkey("k")
        .priority(7)
        .run_after(4_000_000_000)
        .concurrency(Concurrency::new("c", 2))
        .rate(Rate {
            key: "r".to_owned(),
            jobs: 5,
            per: 60,
        })
        .unique(Unique::window(UniqueBy::Arg, 60))
        .depends_on(parent, OnDeath::Run)
        .expires_in(1000)
        .max_attempts(3)
        .backoff(Backoff::Doubling { first: 1, most: 8 })
        .timeout(30)
        .keep_exit_status_for(40)
        .tag("red")
        .tenant_cost("t", 3)
        .meta(r#"{"tenant":7}"#)
        .trace("00-1-2-01");
    let all = remote.insert_all(std::slice::from_ref(&job)).await.unwrap();
    let shown = remote.status(&all[0]).await.unwrap();
    for (field, value) in [
        ("arg_b64", json!("AP8=")),
        ("uniqkey", json!("k")),
        ("priority", json!(7)),
        ("run_after", json!(4_000_000_000_u64)),
        ("concurrency", json!("c")),
        ("rate", json!("r")),
        ("max_attempts", json!(3)),
        ("backoff", json!({"first": 1, "most": 8})),
        ("timeout_s", json!(30)),
        ("keep_exit_status_for", json!(40)),
        ("tags", json!(["red"])),
        ("tenant", json!({"key": "t", "cost": 3})),
        ("meta", json!({"tenant": 7})),
        ("trace", json!("00-1-2-01")),
        ("state", json!("blocked")),
    ] {
        assert_eq!(shown[field], value, "{field} of {shown}");
    }
    assert_eq!(shown["parents"][0]["state"], "pending");
    let again = remote.insert(&job).await.unwrap();
    assert_eq!(again, Inserted::Duplicate(Some(all[0].clone())));
    let refused = remote.insert_all(&[job]).await;
    assert!(matches!(refused, Err(Error::Duplicate)), "{refused:?}");
    case.daemon.stop().unwrap();
}

/// A run says how far it is, hears that it shall stop, and its lease is kept meanwhile; jobs inserted while the worker waits come at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_of_a_daemon_waits_is_pushed_and_hears_of_a_cancel() {
    let case = Case::start(&[]);
    let remote = Remote::new(&format!("http://{}", case.addr)).unwrap();
    let (started, done) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
    let (told, counted) = (started.clone(), Arc::clone(&done));
    let worker = Worker::new(&remote)
        .concurrency(2)
        .register_fn("Quick", move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Outcome::Complete }
        })
        .register_fn("Long", move |job: JobContext| {
            let started = told.clone();
            async move {
                job.progress("half").await.unwrap();
                started.cancel();
                while !job.cancelled().is_cancelled() {
                    job.heartbeat().await.unwrap();
                    tokio::task::yield_now().await;
                }
                Outcome::permanent("asked to stop")
            }
        });
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let running = tokio::spawn(async move { worker.run(stop).await });
    let handle = case.insert(&json!({"func": "Long"}));
    started.cancelled().await;
    let path = format!("/v1/jobs/{handle}");
    assert_eq!(case.ok("GET", &path, &Value::Null)["progress"], "half");
    for _ in 0..5 {
        case.insert(&json!({"func": "Quick"}));
    }
    until_true("the quick ones", || done.load(Ordering::SeqCst) == 5).unwrap();
    let cancelled = case.ok("DELETE", &path, &Value::Null);
    assert_eq!(cancelled["cancel_requested"], true);
    until_true("the run to end", || {
        case.ok("GET", &path, &Value::Null)["state"] == "failed"
    })
    .unwrap();
    shutdown.cancel();
    running.await.unwrap();
    case.daemon.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_shown_and_a_wrong_one_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "open sesame\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let case = Case::start(&[("token_file", file.to_str().unwrap())]);
    let url = format!("http://{}", case.addr);
    let job = Job::new("F", "");
    let right = Remote::with_token(&url, "open sesame").unwrap();
    assert!(!right.insert(&job).await.unwrap().is_duplicate());
    let wrong = Remote::with_token(&url, "barley").unwrap();
    let refused = wrong.insert(&job).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Daemon { code, .. } if code == "forbidden"),
        "{refused:?}"
    );
    assert!(!refused.is_retryable());
    case.daemon.stop().unwrap();
}

const KEYS: &str = "# one\n2026 HxwdHhsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=\n";

/// The daemon seals what lies in its rows; one without the key says that there is an argument, and no more.
#[test]
fn a_daemon_with_keys_seals_arguments_where_they_lie() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    std::fs::write(&file, KEYS).unwrap();
    let url = format!("sqlite:{}", dir.path().join("sealed.db").display());
    let start = |keys: &str| Case::start(&[("arg_keys_file", keys), ("store.url", &url)]);
    let case = start(file.to_str().unwrap());
    let handle = case.insert(&json!({"func": "S", "arg": "secret"}));
    case.insert(&json!({"func": "S", "args": {"n": 1}}));
    let path = format!("/v1/jobs/{handle}");
    assert_eq!(case.ok("GET", &path, &Value::Null)["arg"], "secret");
    assert_eq!(case.fetch("S", 60_000)[1]["args"], json!({"n": 1}));
    case.daemon.stop().unwrap();
    for name in ["sealed.db", "sealed.db-wal"] {
        let bytes = std::fs::read(dir.path().join(name)).unwrap_or_default();
        assert!(
            !bytes.windows(6).any(|window| window == b"secret"),
            "{name}"
        );
    }
    let case = start("");
    let shown = case.ok("GET", &path, &Value::Null);
    assert_eq!(shown["encrypted"], true);
    assert!(shown["arg"].is_null() && shown["arg_b64"].is_null());
    let taken = case.fetch("S", 60_000);
    assert_eq!((taken.len(), &taken[0]["encrypted"]), (2, &json!(true)));
    case.daemon.stop().unwrap();
}

/// Producers and workers with keys of their own need not trust the daemon with arguments.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_sealed_by_their_producer_pass_a_daemon_unread() {
    let case = Case::start(&[]);
    let url = format!("http://{}", case.addr);
    let keys = ibex_schwartz::Keys::parse(KEYS).unwrap();
    let remote = Remote::with_keys(&url, "", keys).unwrap();
    let inserted = remote.insert(&Job::new("Ends", "with")).await.unwrap();
    let handle = inserted.handle().cloned().unwrap();
    assert_eq!(remote.status(&handle).await.unwrap()["encrypted"], true);
    // One without keys fails, and the job is there for one that has them.
    let blind = Remote::new(&url).unwrap();
    let worker = Worker::new(&blind).register::<Ends>();
    assert!(worker.work_once().await.unwrap());
    let status = remote.status(&handle).await.unwrap();
    let message = status["failures"][0]["message"].as_str().unwrap();
    assert!(message.contains("encrypted"), "{message}");
    let path = format!("/v1/jobs/{handle}");
    case.ok("PATCH", &path, &json!({"run_after": 0}));
    let worker = Worker::new(&remote).register::<Ends>();
    assert!(worker.work_once().await.unwrap());
    let status = remote.status(&handle).await.unwrap();
    assert_eq!(status["result"], json!({"answer": 42}));
    case.daemon.stop().unwrap();
}

/// A run is asked to stop through any daemon; of what is not known to listen, nothing is asked.
#[test]
fn a_cancel_at_one_daemon_reaches_the_worker_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("both.db").display());
    let one = Case::start(&[("store.url", &url)]);
    let other = Case::start(&[("store.url", &url)]);
    let handle = one.insert(&json!({"func": "C"}));
    let taken = &one.fetch("C", 60_000)[0];
    let path = format!("/v1/jobs/{handle}");
    let extended = one.finish(taken, "extend", json!({"grab_for": 100}));
    assert_eq!((extended.0, &extended.1["cancel"]), (200, &json!(false)));
    let asked = other.ok("DELETE", &path, &Value::Null);
    assert_eq!(asked["cancel_requested"], true);
    for _ in 0..2 {
        let extended = one.finish(taken, "extend", json!({"grab_for": 100}));
        assert_eq!((extended.0, &extended.1["cancel"]), (200, &json!(true)));
    }
    one.finish(taken, "decline", json!({}));
    let again = &one.fetch("C", 60_000)[0];
    let extended = one.finish(again, "extend", json!({"grab_for": 100}));
    assert_eq!(extended.1["cancel"], false, "another run");
    one.finish(again, "complete", json!({}));
    let silent = Case::start(&[("store.url", &url), ("count_lost", "false")]);
    let handle = silent.insert(&json!({"func": "C"}));
    assert_eq!(silent.fetch("C", 60_000).len(), 1);
    let path = format!("/v1/jobs/{handle}");
    assert_eq!(other.call("DELETE", &path, &Value::Null).0, 409);
    for case in [one, other, silent] {
        case.daemon.stop().unwrap();
    }
}

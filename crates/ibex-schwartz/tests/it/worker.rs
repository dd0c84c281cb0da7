//! The worker runtime: ends, panics, time limits, leases kept alive, wake-ups.

use ibex_schwartz::{
    Client, FunctionOptions, Job, JobContext, Outcome, Query, RetryPolicy, When, Worker,
};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

async fn setup() -> (tempfile::TempDir, Client) {
    let dir = tempfile::tempdir().unwrap();
    let client = crate::file_client(&dir).await;
    (dir, client)
}

fn kept() -> FunctionOptions {
    FunctionOptions {
        keep_exit_status_for: 1000,
        ..FunctionOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_a_run_can_end() {
    let (_dir, client) = setup().await;
    let worker = Worker::new(&client)
        .function_with("Ok", kept(), |_| async { Outcome::Complete })
        .function_with("Err", kept(), |_| async { Err::<(), _>("bad luck") })
        .function_with("Panic", kept(), |job: JobContext| async move {
            assert!(job.arg().is_empty(), "a panic with text");
            Outcome::Complete
        })
        .function_with(
            "Perm",
            FunctionOptions {
                retry: RetryPolicy::fixed(9, 0),
                ..kept()
            },
            |_| async {
                Outcome::Permanent {
                    message: "never".to_owned(),
                    status: 9,
                }
            },
        )
        .function_with(
            "Late",
            FunctionOptions {
                timeout: Some(Duration::from_millis(20)),
                ..kept()
            },
            |_| async {
                std::future::pending::<()>().await;
                Outcome::Complete
            },
        )
        .function_with("Decline", kept(), |_| async {
            Outcome::Decline(Some(When::In(1000)))
        })
        .function_with("Split", kept(), |_| async {
            Outcome::Replace(vec![Job::new("Ok", ""), Job::new("Ok", "")])
        });
    let check = async |func: &str, exit: Option<u16>, log: &[&str]| {
        let handle = client
            .insert(Job::new(func, "x"))
            .await
            .unwrap()
            .handle()
            .cloned()
            .unwrap();
        assert!(worker.work_once().await.unwrap());
        let status = client.status(&handle).await.unwrap();
        assert_eq!(status.exit_status, exit, "{func}");
        assert_eq!(client.failure_log(&handle).await.unwrap(), log, "{func}");
    };
    check("Ok", Some(0), &[]).await;
    check("Err", Some(1), &["bad luck"]).await;
    check("Panic", Some(1), &["a panic with text"]).await;
    check("Perm", Some(9), &["never"]).await;
    check("Late", Some(1), &["timeout"]).await;
    check("Decline", None, &[]).await;
    check("Split", Some(0), &[]).await;
    assert_eq!(
        worker.work_until_done().await.unwrap(),
        2,
        "the two that replaced one"
    );
    let left = client.list(&Query::default()).await.unwrap();
    assert_eq!(left.len(), 1, "the declined one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_take_turns() {
    let (_dir, client) = setup().await;
    for n in 0..6 {
        client
            .insert(Job::new(if n < 4 { "A" } else { "B" }, ""))
            .await
            .unwrap();
    }
    let order = Arc::new(Mutex::new(String::new()));
    let note = |order: &Arc<Mutex<String>>| {
        let order = Arc::clone(order);
        move |job: JobContext| {
            order.lock().unwrap().push_str(job.funcname());
            async { Outcome::Complete }
        }
    };
    let worker = Worker::new(&client)
        .function("A", note(&order))
        .function("B", note(&order));
    assert_eq!(worker.work_until_done().await.unwrap(), 6);
    let order = order.lock().unwrap().clone();
    assert!(
        order.rfind('B').is_some_and(|last| last <= 3),
        "in each pair of runs both have their turn: {order}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_insert_of_this_process_wakes_the_worker_at_once() {
    let (_dir, client) = setup().await;
    let done = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&done);
    let shutdown = CancellationToken::new();
    let worker = Worker::new(&client)
        .poll(Duration::from_secs(3600))
        .concurrency(4)
        .function("Wake", move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Outcome::Complete }
        });
    let running = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { worker.run(shutdown).await }
    });
    for n in 1..=20 {
        client.insert(Job::new("Wake", "")).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while done.load(Ordering::SeqCst) < n {
            assert!(Instant::now() < deadline, "job {n} was not picked up");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    shutdown.cancel();
    running.await.unwrap();
    assert!(
        client.list(&Query::default()).await.unwrap().is_empty(),
        "running jobs are finished before the end"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_of_running_jobs_are_kept_alive() {
    let (_dir, client) = setup().await;
    client.insert(Job::new("Slow", "")).await.unwrap();
    let release = CancellationToken::new();
    let (started, is_started) = (CancellationToken::new(), CancellationToken::new());
    let gate = (release.clone(), started.clone());
    let worker = Worker::new(&client).function_with(
        "Slow",
        FunctionOptions {
            grab_for: 3,
            ..FunctionOptions::default()
        },
        move |_| {
            let (release, started) = gate.clone();
            async move {
                started.cancel();
                release.cancelled().await;
                Outcome::Complete
            }
        },
    );
    let working = tokio::spawn(async move { worker.work_once().await });
    started.cancelled().await;
    drop(is_started);
    let first = client.list(&Query::default()).await.unwrap()[0]
        .1
        .grabbed_until;
    let deadline = Instant::now() + Duration::from_secs(20);
    while client.list(&Query::default()).await.unwrap()[0]
        .1
        .grabbed_until
        == first
    {
        assert!(Instant::now() < deadline, "the lease was never extended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    release.cancel();
    assert!(working.await.unwrap().unwrap());
    assert!(
        client.list(&Query::default()).await.unwrap().is_empty(),
        "finished under the extended lease"
    );
}

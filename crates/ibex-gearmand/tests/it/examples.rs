//! The client's examples against the real daemon, and the client for threads that wait.

use std::time::Duration;

use ibex_gearman_client::{Config, Worker, blocking};
use ibex_testkit::Daemon;
use tokio_util::sync::CancellationToken;

#[path = "../../../ibex-gearman-client/examples/dmap.rs"]
mod dmap;
#[path = "../../../ibex-gearman-client/examples/event_loop.rs"]
mod event_loop;
#[path = "../../../ibex-gearman-client/examples/pool.rs"]
mod pool;
#[path = "../../../ibex-gearman-client/examples/scatter.rs"]
mod scatter;
#[path = "../../../ibex-gearman-client/examples/sql.rs"]
mod sql;

fn start() -> (Daemon, Vec<String>) {
    let daemon = Daemon::builder("ibex-gearmand").start().unwrap();
    let address = daemon.addr("gearman").unwrap().to_string();
    (daemon, vec![address])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_distributed_map() {
    let (daemon, servers) = start();
    let squares = dmap::run(servers).await.unwrap();
    assert_eq!(squares, (0..1000).map(|n| n * n).collect::<Vec<u64>>());
    daemon.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_answer_in_time_is_left_out() {
    let (daemon, servers) = start();
    let answered = scatter::run(servers, Duration::from_secs(5)).await.unwrap();
    assert!(!answered.is_empty());
    assert!(
        answered.iter().all(|n| n % 10 != 0),
        "these never answer: {answered:?}"
    );
    daemon.stop().unwrap();
}

#[tokio::test]
async fn an_event_loop_ticks_beside_slow_code() {
    let (daemon, servers) = start();
    let (ticks, _) = event_loop::run(servers).await.unwrap();
    assert!(ticks > 1, "the loop stood still");
    daemon.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_connections_serve_a_thousand_callers() {
    let (daemon, servers) = start();
    let dir = tempfile::tempdir().unwrap();
    let (right, busy) = pool::run(servers, &dir.path().join("users.db"))
        .await
        .unwrap();
    assert_eq!(right, 1000);
    assert!(busy <= 16, "{busy} connections were busy at once");
    daemon.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_travel_as_jobs() {
    let (daemon, servers) = start();
    let dir = tempfile::tempdir().unwrap();
    let right = sql::run(servers.clone(), &dir.path().join("shop.db")).await;
    assert_eq!(right.unwrap(), 1000);
    // What cannot be read is said by whoever cannot read it.
    let stop = CancellationToken::new();
    let worker = Worker::new(Config::new(servers.clone()))
        .json_function("half", |number: u64| async move { Ok(number / 2) });
    let working = tokio::spawn(worker.run(stop.clone()));
    let client = ibex_gearman_client::Client::connect(Config::new(servers))
        .await
        .unwrap();
    assert_eq!(client.call_json::<_, u64>("half", &8).await.unwrap(), 4);
    let thrown = client.call_json::<_, u64>("half", "eight").await;
    assert!(thrown.unwrap_err().to_string().contains("argument"));
    let unread = client.call_json::<_, String>("half", &8).await;
    assert!(
        matches!(unread, Err(ibex_gearman_client::Error::Undecodable { .. })),
        "{unread:?}"
    );
    stop.cancel();
    working.await.unwrap().unwrap();
    daemon.stop().unwrap();
}

#[test]
fn threads_wait_for_jobs() {
    let (daemon, servers) = start();
    let stop = CancellationToken::new();
    let worker = Worker::new(Config::new(servers.clone())).blocking_function("upper", |job| {
        Ok(job.workload().to_ascii_uppercase().into())
    });
    let stopped = stop.clone();
    let working = std::thread::spawn(move || blocking::work(worker, stopped));
    let client = blocking::Client::connect(Config::new(servers)).unwrap();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let client = client.clone();
            scope.spawn(move || {
                let result = client.call("upper", format!("thread {n}")).unwrap();
                assert_eq!(result, format!("THREAD {n}"));
            });
        }
    });
    let timed = client.run(|c| c.call("nobody", "x").timeout(Duration::from_millis(50)));
    assert!(matches!(
        timed,
        Err(ibex_gearman_client::Error::Deadline { .. })
    ));
    let handle = client.submit_background("later", "x").unwrap();
    assert!(client.status(&handle).unwrap().is_known);
    let mapped = client.map("upper", ["a", "b"], 2);
    assert_eq!(
        mapped.into_iter().map(Result::unwrap).collect::<Vec<_>>(),
        ["A", "B"]
    );
    assert!(client.ping().iter().all(|(_, answer)| answer.is_ok()));
    stop.cancel();
    working.join().unwrap().unwrap();
    drop(client);
    daemon.stop().unwrap();
}

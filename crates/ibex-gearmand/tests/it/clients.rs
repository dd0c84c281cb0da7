//! The library's client and worker against the real daemon.

use std::time::Duration;

use bytes::Bytes;
use ibex_gearman_client::{Client, Config, Error, Event, JobError, Priority, Worker};
use ibex_testkit::Daemon;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Crew {
    stop: CancellationToken,
    run: JoinHandle<Result<(), Error>>,
}

impl Crew {
    async fn dismiss(self) {
        self.stop.cancel();
        self.run.await.unwrap().unwrap();
    }
}

fn crew(servers: &[String]) -> Crew {
    let stop = CancellationToken::new();
    let worker = Worker::new(Config::new(servers.to_vec()))
        .id("crew")
        .concurrency(8)
        .function("reverse", |job| async move {
            let mut bytes = job.workload().to_vec();
            bytes.reverse();
            Ok(bytes.into())
        })
        .function("chatty", |job| async move {
            job.status(1, 2).await;
            job.data("part ").await;
            job.warning("careful").await;
            Ok(Bytes::from_static(b"rest"))
        })
        .function("fail", |_| async { Err(JobError::Fail) })
        .function("throw", |_| async { Err(JobError::exception("boom")) })
        .function("sleep", |job| async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(job.unique().clone())
        });
    let run = tokio::spawn(worker.run(stop.clone()));
    Crew { stop, run }
}

fn start() -> (Daemon, String) {
    let daemon = Daemon::builder("ibex-gearmand").start().unwrap();
    let address = daemon.addr("gearman").unwrap().to_string();
    (daemon, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_every_kind() {
    let (daemon, address) = start();
    let crew = crew(std::slice::from_ref(&address));
    let client = Client::connect(Config::new([address])).await.unwrap();
    assert_eq!(client.call("reverse", "abc").await.unwrap(), "cba");
    assert_eq!(
        client
            .call("reverse", "hi")
            .priority(Priority::High)
            .await
            .unwrap(),
        "ih"
    );
    let mut job = client.submit("chatty", "").await.unwrap();
    let mut events = Vec::new();
    while let Some(event) = job.next().await.unwrap() {
        events.push(event);
    }
    let expected = [
        Event::Status {
            numerator: 1,
            denominator: 2,
        },
        Event::Data("part ".into()),
        Event::Warning("careful".into()),
        Event::Complete("rest".into()),
    ];
    assert_eq!(events, expected);
    assert!(matches!(
        client.call("fail", "").await,
        Err(Error::JobFailed { .. })
    ));
    let thrown = client.call("throw", "").await.unwrap_err();
    assert!(
        matches!(&thrown, Error::JobException { data, .. } if data == "boom"),
        "{thrown}"
    );
    let large: Bytes = vec![7; 3 << 20].into();
    assert_eq!(client.call("reverse", large.clone()).await.unwrap(), large);
    let none = client
        .call("nobody", "x")
        .timeout(Duration::from_millis(50))
        .await;
    assert!(matches!(none, Err(Error::Deadline { .. })));
    crew.dismiss().await;
    daemon.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn background_jobs_and_their_state() {
    let (daemon, address) = start();
    let client = Client::connect(Config::new([address.clone()]))
        .await
        .unwrap();
    let handle = client
        .submit_background("reverse", "later")
        .unique("k")
        .await
        .unwrap();
    let same = client
        .submit_background("reverse", "other")
        .unique("k")
        .await
        .unwrap();
    assert_eq!(handle, same);
    let status = client.status(&handle).await.unwrap();
    assert!(status.is_known && !status.is_running);
    assert!(client.status_unique("reverse", "k").await.unwrap().is_known);
    let scheduled = client
        .submit_background("reverse", "soon")
        .after(Duration::from_secs(1))
        .await
        .unwrap();
    let crew = crew(std::slice::from_ref(&address));
    for handle in [handle, scheduled] {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while client.status(&handle).await.unwrap().is_known {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{handle} is still there"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    crew.dismiss().await;
    daemon.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_keys_meet_over_three_servers() {
    let (daemons, addresses): (Vec<_>, Vec<_>) = (0..3).map(|_| start()).unzip();
    let crew = crew(&addresses);
    let mut calls = Vec::new();
    for _ in 0..64 {
        // Each with its own connections and the same list.
        let client = Client::connect(Config::new(addresses.clone()))
            .await
            .unwrap();
        calls.push(tokio::spawn(async move {
            client.call("sleep", "w").unique("the same").await.unwrap()
        }));
    }
    for call in calls {
        assert_eq!(call.await.unwrap(), "the same");
    }
    let assigned: f64 = daemons
        .iter()
        .map(|d| d.metric("ibex_gearmand_jobs_assigned_total").unwrap())
        .sum();
    assert!(
        (assigned - 1.0).abs() < f64::EPSILON,
        "64 submissions ran {assigned} times"
    );
    crew.dismiss().await;
    for daemon in daemons {
        daemon.stop().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_keeps_its_order() {
    let (daemon, address) = start();
    let crew = crew(std::slice::from_ref(&address));
    let client = Client::connect(Config::new([address])).await.unwrap();
    let words: Vec<String> = (0..500).map(|n| format!("word{n}")).collect();
    let reversed = client.map("reverse", words.clone(), 64).await;
    for (word, result) in words.iter().zip(reversed) {
        let expected: String = word.chars().rev().collect();
        assert_eq!(result.unwrap(), expected);
    }
    crew.dismiss().await;
    daemon.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_and_a_client_outlive_their_server() {
    let (mut daemon, address) = start();
    let config = Config::new([address.clone()])
        .with_backoff(Duration::from_millis(10), Duration::from_millis(50));
    let crew = crew(std::slice::from_ref(&address));
    let client = Client::connect(config).await.unwrap();
    assert_eq!(client.call("reverse", "ab").await.unwrap(), "ba");
    daemon.kill().unwrap();
    let lost = client.call("reverse", "ab").await.unwrap_err();
    assert!(lost.is_retryable() || lost.is_outcome_unknown(), "{lost}");
    drop(daemon);
    crew.dismiss().await;
}

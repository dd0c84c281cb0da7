//! The wire extensions through the client library: what they do at our daemon, and what a client and a worker that ask for all of them get from
//! Debian's, which knows none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ibex_gearman_client::{
    Client, Config, Error, Event, Handle, JobError, Outcome, Worker, WorkerJob, blocking,
};
use ibex_testkit::{Daemon, wait};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::compat::Original;

/// Longest wait for what is to come.
const PATIENCE: Duration = Duration::from_secs(60);

struct Crew(CancellationToken, JoinHandle<Result<(), Error>>);

impl Crew {
    fn of(worker: Worker) -> Self {
        let stop = CancellationToken::new();
        Self(stop.clone(), tokio::spawn(worker.run(stop)))
    }

    async fn dismiss(self) {
        self.0.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.1).await;
        ended.expect("an orderly end").unwrap().unwrap();
    }
}

fn start() -> (Daemon, Config) {
    let daemon = Daemon::builder("ibex-gearmand").start().unwrap();
    let config = Config::new([daemon.addr("gearman").unwrap().to_string()]);
    (daemon, config)
}

async fn reversed(job: WorkerJob) -> Result<Bytes, JobError> {
    let mut bytes = job.workload().to_vec();
    bytes.reverse();
    Ok(bytes.into())
}

/// Waits until the daemon does not know the job any more.
async fn ended(client: &Client, handle: &Handle) -> Outcome {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let outcome = client.outcome(handle).await.unwrap();
        if !matches!(outcome, Outcome::Open(_)) {
            return outcome;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{handle}: {outcome:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_travel_and_steer() {
    let (daemon, config) = start();
    let client = Client::connect(config.clone()).await.unwrap();
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let worker = Worker::new(config)
        .headers(true)
        .function("who", |job| async move {
            let words = [
                job.traceparent(),
                job.header("x-tenant"),
                job.header("x-none"),
            ];
            Ok(format!("{words:?} {:?}", job.workload()).into())
        })
        .function("twice", move |_| {
            let tries = Arc::clone(&counted);
            async move {
                match tries.fetch_add(1, Ordering::SeqCst) {
                    0 => Err(JobError::exception("not yet")),
                    _ => Ok("done".into()),
                }
            }
        });
    // Nobody takes it in its time.
    let expired = client
        .call("who", "x")
        .ttl(Duration::from_secs(1))
        .await
        .unwrap_err();
    assert!(expired.is_job_failure(), "{expired}");
    let crew = Crew::of(worker);
    let said = client
        .call("who", "w\0w")
        .traceparent("00-1-2-01")
        .header("x-tenant", "a;b%")
        .await
        .unwrap();
    assert_eq!(said, r#"[Some(b"00-1-2-01"), Some(b"a;b%"), None] b"w\0w""#);
    let second = Duration::from_secs(1);
    let handle = client
        .submit_background("twice", "")
        .attempts(3)
        .backoff(second, second)
        .result_ttl(Duration::from_secs(600))
        .await
        .unwrap();
    assert_eq!(client.result(&handle).await.unwrap(), "done");
    assert_eq!(tries.load(Ordering::SeqCst), 2);
    assert_eq!(
        ended(&client, &handle).await,
        Outcome::Ended(Event::Complete("done".into()))
    );
    crew.dismiss().await;
    daemon.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn background_jobs_are_waited_for_before_and_after_their_end() {
    let (daemon, config) = start();
    let client = Client::connect(config.clone()).await.unwrap();
    let later = client
        .submit_background("reverse", "abc")
        .unique("k")
        .result_ttl(Duration::from_secs(600))
        .await
        .unwrap();
    let other = Client::connect(config.clone()).await.unwrap();
    let early = other.attach(&later).await.unwrap();
    assert!(matches!(
        other.outcome(&later).await.unwrap(),
        Outcome::Open(_)
    ));
    let crew = Crew::of(Worker::new(config).function("reverse", reversed));
    assert_eq!(early.complete().await.unwrap(), "cba");
    assert_eq!(other.result(&later).await.unwrap(), "cba");
    // An equal job is not run again, to whomever it is submitted how.
    let again = client
        .call("reverse", "xyz")
        .unique("k")
        .dedupe(Duration::from_secs(600));
    assert_eq!(again.await.unwrap(), "cba");
    let forgotten = client.submit_background("reverse", "abc").await.unwrap();
    assert_eq!(ended(&client, &forgotten).await, Outcome::Unknown);
    assert!(
        client
            .result(&forgotten)
            .await
            .unwrap_err()
            .is_unknown_job()
    );
    crew.dismiss().await;
    daemon.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_can_do_it_the_next_server_is_asked() {
    let (idle, idle_config) = start();
    let (busy, busy_config) = start();
    let lonely = Client::connect(idle_config.clone().with_no_workers_error(true))
        .await
        .unwrap();
    let refused = lonely.call("reverse", "ab").await.unwrap_err();
    assert!(refused.is_no_workers(), "{refused}");
    let crew = Crew::of(Worker::new(busy_config).function("reverse", reversed));
    let both = [&idle, &busy].map(|daemon| daemon.addr("gearman").unwrap().to_string());
    let client = Client::connect(Config::new(both).with_no_workers_error(true))
        .await
        .unwrap();
    wait::until_true("the worker to be there", || {
        busy.metric("ibex_gearmand_connections").unwrap() >= 1.0
    })
    .unwrap();
    for _ in 0..8 {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        // The worker may be connected and not registered yet.
        let result = loop {
            match client.call("reverse", "ab").await {
                Err(error) if error.is_no_workers() && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                result => break result.unwrap(),
            }
        };
        assert_eq!(result, "ba");
    }
    crew.dismiss().await;
    idle.stop().unwrap();
    busy.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_pushed_or_wait_do_everything_and_lose_nothing() {
    let (daemon, config) = start();
    let client = Client::connect(config.clone()).await.unwrap();
    let ran = Arc::new(AtomicUsize::new(0));
    let worker = |config: &Config| {
        let ran = Arc::clone(&ran);
        Worker::new(config.clone())
            .concurrency(4)
            .function("reverse", move |job| {
                ran.fetch_add(1, Ordering::SeqCst);
                reversed(job)
            })
    };
    let mut crew = Some(Crew::of(worker(&config).push(16)));
    let words: Vec<String> = (0..2000).map(|n| format!("word{n}")).collect();
    for (turn, part) in words.chunks(500).enumerate() {
        let results = client.map("reverse", part.to_vec(), 64);
        // Another crew comes amid the work and the first leaves: nothing is run twice, nothing stays.
        let next = match turn % 2 {
            0 => worker(&config).wait(true),
            _ => worker(&config).push(16).headers(true),
        };
        let change = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let next = Crew::of(next);
            crew.replace(next).unwrap().dismiss().await;
        };
        let (results, ()) = tokio::join!(results, change);
        for (word, result) in part.iter().zip(results) {
            let expected: String = word.chars().rev().collect();
            assert_eq!(result.unwrap(), expected);
        }
    }
    crew.unwrap().dismiss().await;
    assert_eq!(ran.load(Ordering::SeqCst), words.len());
    daemon.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_told_that_its_client_left() {
    let (daemon, config) = start();
    let (told, mut tellings) = tokio::sync::mpsc::unbounded_channel();
    let worker = Worker::new(config.clone()).function("endless", move |job| {
        let told = told.clone();
        async move {
            job.status(1, 2).await;
            job.cancelled().await;
            told.send(job.is_lost()).unwrap();
            Ok(Bytes::new())
        }
    });
    let crew = Crew::of(worker);
    let client = Client::connect(config).await.unwrap();
    let mut job = client.submit("endless", "").await.unwrap();
    assert!(matches!(
        job.next().await.unwrap(),
        Some(Event::Status { .. })
    ));
    drop((job, client));
    let told = tokio::time::timeout(PATIENCE, tellings.recv()).await;
    assert_eq!(told.unwrap(), Some(false));
    crew.dismiss().await;
    daemon.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_given_back_and_kept_by_a_touch() {
    let (daemon, config) = start();
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let worker = Worker::new(config.clone())
        .concurrency(2)
        .function("busy", move |job| {
            let tries = Arc::clone(&counted);
            async move {
                assert!(job.can_give_back());
                match tries.fetch_add(1, Ordering::SeqCst) {
                    0 => Err(JobError::back(Duration::from_secs(1), "busy")),
                    _ => Ok("done".into()),
                }
            }
        })
        .function("long", |job| async move {
            for _ in 0..3 {
                assert!(job.touch().await);
            }
            Ok("kept".into())
        });
    let crew = Crew::of(worker);
    let client = Client::connect(config).await.unwrap();
    let long = client
        .call("long", "")
        .job_timeout(Duration::from_secs(600))
        .into_future();
    let (busy, long) = tokio::join!(client.call("busy", "").into_future(), long);
    assert_eq!(busy.unwrap(), "done");
    assert_eq!(tries.load(Ordering::SeqCst), 2);
    assert_eq!(long.unwrap(), "kept");
    crew.dismiss().await;
    daemon.stop().unwrap();
}

#[test]
fn threads_wait_for_background_jobs() {
    let (daemon, config) = start();
    let stop = CancellationToken::new();
    let worker = Worker::new(config.clone()).blocking_function("upper", |job| {
        Ok(job.workload().to_ascii_uppercase().into())
    });
    let client = blocking::Client::connect(config).unwrap();
    let handle = client
        .run(|c| {
            c.submit_background("upper", "abc")
                .result_ttl(Duration::from_secs(600))
        })
        .unwrap();
    assert!(matches!(client.outcome(&handle).unwrap(), Outcome::Open(_)));
    let attached = client.attach(&handle).unwrap();
    let stopped = stop.clone();
    let working = std::thread::spawn(move || blocking::work(worker, stopped));
    assert_eq!(attached.complete_within(PATIENCE).unwrap(), "ABC");
    assert_eq!(client.result(&handle).unwrap(), "ABC");
    let mut job = client.submit("upper", "x").unwrap();
    assert_eq!(job.next().unwrap(), Some(Event::Complete("X".into())));
    assert_eq!(job.next().unwrap(), None);
    let job = client.run(|c| c.submit("upper", "y").unique("k")).unwrap();
    assert_eq!(client.adopt(job).complete().unwrap(), "Y");
    stop.cancel();
    working.join().unwrap().unwrap();
    daemon.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_original_is_served_without_them() {
    let Some(original) = Original::start() else {
        return;
    };
    let config = Config::new([original.addr().to_string()])
        .with_no_workers_error(true)
        .with_token("of no use");
    let worker = Worker::new(config.clone())
        .push(8)
        .wait(true)
        .headers(true)
        .heartbeat(true)
        .concurrency(2)
        .function("reverse", |job| async move {
            assert!(!job.touch().await && !job.can_give_back() && job.traceparent().is_none());
            reversed(job).await
        })
        .function("busy", |_| async {
            Err(JobError::back(Duration::ZERO, "busy"))
        });
    let client = Client::connect(config.clone()).await.unwrap();
    // Before anybody can do it: the original lets it wait.
    let early = client.submit("reverse", "ab").await.unwrap();
    let crew = Crew::of(worker);
    assert_eq!(early.complete().await.unwrap(), "ba");
    let steered = client
        .call("reverse", "ab")
        .ttl(Duration::from_secs(9))
        .await;
    assert!(
        matches!(
            steered,
            Err(Error::Unsupported {
                option: "headers",
                ..
            })
        ),
        "{steered:?}"
    );
    let anyhow = client
        .call("reverse", "ab")
        .ttl(Duration::from_secs(9))
        .best_effort();
    assert_eq!(anyhow.await.unwrap(), "ba");
    let traced = client
        .call("reverse", "cd")
        .traceparent("00-1-2-01")
        .header("x-a", "b");
    assert_eq!(traced.await.unwrap(), "dc");
    let given_back = client.call("busy", "").await.unwrap_err();
    assert!(
        matches!(&given_back, Error::JobException { data, .. } if data == "busy"),
        "{given_back}"
    );
    let handle = client.submit_background("nobody", "x").await.unwrap();
    assert!(matches!(
        client.outcome(&handle).await.unwrap(),
        Outcome::Open(_)
    ));
    let result = client.result(&handle).await;
    assert!(
        matches!(
            result,
            Err(Error::Unsupported {
                option: "results",
                ..
            })
        ),
        "{result:?}"
    );
    // A delay is told by the start time; the original knows those.
    let delayed = client
        .submit_background("nobody", "y")
        .delay(Duration::from_secs(3600));
    assert!(
        client
            .status(&delayed.await.unwrap())
            .await
            .unwrap()
            .is_known
    );
    crew.dismiss().await;
}

//! The worker: sleep and wake, failures, several jobs at once, an orderly stop, a lost server.

use std::time::Duration;

use bytes::Bytes;
use ibex_gearman_client::{Config, JobError, Worker};
use ibex_gearman_proto::Response;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::fake::{Fake, Peer};

fn assign<'a>(handle: &'a [u8], workload: &'a [u8]) -> Response<&'a [u8]> {
    Response::JobAssign {
        handle,
        function: b"f",
        workload,
    }
}

fn config(fake: &Fake) -> Config {
    Config::new([fake.address()]).with_backoff(Duration::from_millis(1), Duration::from_millis(5))
}

async fn registered(fake: &Fake) -> Peer {
    let mut peer = fake.accept().await;
    peer.expect("CanDo").await;
    peer.expect("GrabJob").await;
    peer
}

#[tokio::test]
async fn sleeps_wakes_works_and_stops_in_order() {
    let fake = Fake::start().await;
    let stop = CancellationToken::new();
    let worker = Worker::new(config(&fake))
        .id("w1")
        .function("f", |job| async move {
            job.status(1, 2).await;
            match &job.workload()[..] {
                b"fail" => Err(JobError::Fail),
                b"error" => Ok("x".parse::<u32>()?.to_string().into()),
                workload => Ok(Bytes::copy_from_slice(workload)),
            }
        });
    let run = tokio::spawn(worker.run(stop.clone()));
    let mut peer = fake.accept().await;
    peer.expect("SetClientId").await;
    peer.expect("CanDo").await;
    peer.expect("GrabJob").await;
    peer.send(Response::NoJob).await;
    assert_eq!(peer.request().await.unwrap(), "PreSleep ");
    peer.send(Response::Noop).await;
    for (workload, end) in [
        (&b"ok"[..], "WorkComplete"),
        (b"fail", "WorkFail"),
        (b"error", "WorkException"),
    ] {
        peer.expect("GrabJob").await;
        peer.send(assign(b"H:x:1", workload)).await;
        peer.expect("WorkStatus").await;
        peer.expect(end).await;
    }
    peer.expect("GrabJob").await;
    stop.cancel();
    peer.send(assign(b"H:x:2", b"last")).await;
    peer.expect("WorkComplete").await;
    peer.expect("ResetAbilities").await;
    assert_eq!(peer.request().await, None);
    run.await.unwrap().unwrap();
}

#[tokio::test]
async fn runs_as_many_jobs_as_allowed_and_no_more() {
    let fake = Fake::start().await;
    let stop = CancellationToken::new();
    let (started, mut starts) = mpsc::unbounded_channel();
    let gate = CancellationToken::new();
    let inner = gate.clone();
    let worker = Worker::new(config(&fake))
        .concurrency(2)
        .function("f", move |job| {
            let (started, gate) = (started.clone(), inner.clone());
            async move {
                started.send(job.handle().clone()).unwrap();
                gate.cancelled().await;
                Ok(Bytes::new())
            }
        });
    let run = tokio::spawn(worker.run(stop.clone()));
    let mut peer = registered(&fake).await;
    peer.send(assign(b"H:x:1", b"")).await;
    peer.expect("GrabJob").await;
    peer.send(assign(b"H:x:2", b"")).await;
    assert_eq!(starts.recv().await.unwrap(), "H:x:1");
    assert_eq!(starts.recv().await.unwrap(), "H:x:2");
    let third = tokio::time::timeout(Duration::from_millis(100), peer.request()).await;
    assert!(third.is_err(), "a third job was asked for: {third:?}");
    gate.cancel();
    peer.expect("WorkComplete").await;
    peer.expect("GrabJob").await;
    stop.cancel();
    peer.send(Response::NoJob).await;
    run.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lost_server_is_found_again_and_the_job_knows() {
    let fake = Fake::start().await;
    let stop = CancellationToken::new();
    let (lost, mut losses) = mpsc::unbounded_channel();
    let worker = Worker::new(config(&fake)).function("f", move |job| {
        let lost = lost.clone();
        async move {
            job.lost().await;
            lost.send(job.is_lost()).unwrap();
            Ok(Bytes::new())
        }
    });
    let run = tokio::spawn(worker.run(stop.clone()));
    let mut peer = registered(&fake).await;
    peer.send(assign(b"H:x:1", b"")).await;
    drop(peer);
    assert!(losses.recv().await.unwrap());
    let mut peer = registered(&fake).await;
    peer.send(Response::NoJob).await;
    peer.expect("PreSleep").await;
    stop.cancel();
    peer.expect("ResetAbilities").await;
    run.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_panic_is_an_exception() {
    let fake = Fake::start().await;
    let stop = CancellationToken::new();
    let worker = Worker::new(config(&fake)).function("f", |job| async move {
        assert!(job.workload().is_empty(), "not empty");
        Ok(Bytes::new())
    });
    let run = tokio::spawn(worker.run(stop.clone()));
    let mut peer = registered(&fake).await;
    peer.send(assign(b"H:x:1", b"x")).await;
    peer.expect("WorkException").await;
    peer.expect("GrabJob").await;
    stop.cancel();
    peer.send(Response::NoJob).await;
    run.await.unwrap().unwrap();
}

//! What only some servers know: asked for once, used where it is known, gone without or refused where it is not.

use std::time::Duration;

use bytes::Bytes;
use ibex_gearman_client::{Client, Config, Error, Event, JobError, Outcome, Worker};
use ibex_gearman_proto::Response;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::fake::{Fake, Peer};

fn config(fake: &Fake) -> Config {
    Config::new([fake.address()])
        .with_exceptions(false)
        .with_reply_deadline(Duration::from_secs(30))
        .with_backoff(Duration::from_millis(1), Duration::from_millis(5))
}

async fn accepts(peer: &mut Peer, option: &[u8]) {
    let asked = peer.expect("Option").await;
    assert!(
        asked.ends_with(&String::from_utf8_lossy(option)[..]),
        "{asked}"
    );
    peer.send(Response::Option { name: option }).await;
}

async fn refuses(peer: &mut Peer) {
    peer.send(Response::Error {
        code: b"UNKNOWN_OPTION",
        text: b"Server does not recognize given option",
    })
    .await;
}

fn created(handle: &[u8]) -> Response<&[u8]> {
    Response::JobCreated { handle }
}

#[tokio::test]
async fn headers_are_agreed_on_with_the_first_that_needs_them() {
    let fake = Fake::start().await;
    let client = Client::connect(config(&fake)).await.unwrap();
    let serve = async {
        let mut peer = fake.accept().await;
        assert_eq!(peer.request().await.unwrap(), r"Submit f\x00\x00plain");
        peer.send(created(b"H:x:1")).await;
        accepts(&mut peer, b"headers").await;
        assert_eq!(
            peer.request().await.unwrap(),
            r"Submit f\x00k\x00ttl=60;x-tenant=a\x00wished"
        );
        peer.send(created(b"H:x:2")).await;
        // From now on all of them have the argument.
        assert_eq!(peer.request().await.unwrap(), r"Submit f\x00\x00\x00plain");
        peer.send(created(b"H:x:3")).await;
        peer
    };
    let calls = async {
        client.submit_background("f", "plain").await.unwrap();
        client
            .submit_background("f", "wished")
            .unique("k")
            .ttl(Duration::from_secs(60))
            .header("x-tenant", "a")
            .await
            .unwrap();
        client.submit_background("f", "plain").await.unwrap();
    };
    tokio::join!(serve, calls);
}

#[tokio::test]
async fn submissions_wait_while_headers_are_agreed_on() {
    let fake = Fake::start().await;
    let client = Client::connect(config(&fake)).await.unwrap();
    let wished = tokio::spawn({
        let client = client.clone();
        async move {
            client
                .submit_background("f", "1")
                .ttl(Duration::from_secs(9))
                .await
        }
    });
    let mut peer = fake.accept().await;
    assert_eq!(peer.request().await.unwrap(), "Option headers");
    let plain = tokio::spawn({
        let client = client.clone();
        async move { client.submit_background("f", "2").await }
    });
    let early = tokio::time::timeout(Duration::from_millis(50), peer.request()).await;
    assert!(
        early.is_err(),
        "nobody knows yet how it is written: {early:?}"
    );
    peer.send(Response::Option { name: b"headers" }).await;
    assert_eq!(peer.request().await.unwrap(), r"Submit f\x00\x00ttl=9\x001");
    assert_eq!(peer.request().await.unwrap(), r"Submit f\x00\x00\x002");
    peer.send(created(b"H:x:1")).await;
    peer.send(created(b"H:x:2")).await;
    assert_eq!(wished.await.unwrap().unwrap().as_bytes(), b"H:x:1");
    assert_eq!(plain.await.unwrap().unwrap().as_bytes(), b"H:x:2");
}

#[tokio::test]
async fn a_server_without_headers_gets_what_can_be_said_otherwise() {
    let fake = Fake::start().await;
    let client = Client::connect(config(&fake)).await.unwrap();
    let serve = async {
        let mut peer = fake.accept().await;
        assert_eq!(peer.request().await.unwrap(), "Option headers");
        refuses(&mut peer).await;
        // The first was refused here. A delay is a start time; a trace is dropped; best effort is sent.
        let delayed = peer.request().await.unwrap();
        assert!(
            delayed.starts_with(r"Submit f\x00\x00") && delayed.ends_with(r"\x00later"),
            "{delayed}"
        );
        let epoch = delayed.split(r"\x00").nth(2).unwrap();
        assert!(epoch.parse::<u64>().unwrap() > 1_600_000_000, "{delayed}");
        peer.send(created(b"H:x:1")).await;
        for workload in ["traced", "anyhow"] {
            let text = peer.request().await.unwrap();
            assert_eq!(text, format!(r"Submit f\x00\x00{workload}"));
            peer.send(created(b"H:x:2")).await;
        }
        peer
    };
    let second = Duration::from_secs(1);
    let calls = async {
        let needed = client.submit_background("f", "x").attempts(3).await;
        assert!(
            matches!(
                needed,
                Err(Error::Unsupported {
                    option: "headers",
                    ..
                })
            ),
            "{needed:?}"
        );
        client
            .submit_background("f", "later")
            .delay(second)
            .await
            .unwrap();
        client
            .submit("f", "traced")
            .traceparent("00-1-2-01")
            .await
            .unwrap();
        let anyhow = client.submit("f", "anyhow").job_timeout(second);
        anyhow.best_effort().await.unwrap();
    };
    tokio::join!(serve, calls);
}

#[tokio::test]
async fn a_job_is_attached_to_and_its_end_looked_up() {
    let fake = Fake::start().await;
    let client = Client::connect(config(&fake)).await.unwrap();
    let serve = async {
        let mut peer = fake.accept().await;
        peer.expect("Submit").await;
        peer.send(created(b"H:x:1")).await;
        accepts(&mut peer, b"results").await;
        accepts(&mut peer, b"subscribe").await;
        assert_eq!(peer.request().await.unwrap(), "Attach H:x:1");
        peer.send(created(b"H:x:1")).await;
        peer.send(Response::WorkData {
            handle: b"H:x:1",
            data: b"re",
        })
        .await;
        peer.send(Response::WorkComplete {
            handle: b"H:x:1",
            data: b"sult",
        })
        .await;
        let status = |known| Response::Status {
            handle: &b"H:x:1"[..],
            known,
            running: known,
            numerator: 1,
            denominator: 2,
        };
        for (known, end) in [(true, None), (false, Some(b"kept")), (false, None)] {
            assert_eq!(peer.request().await.unwrap(), "GetStatus H:x:1");
            assert_eq!(peer.request().await.unwrap(), "Echo fence");
            peer.send(status(known)).await;
            // Another job's end is another job's.
            peer.send(Response::WorkFail { handle: b"H:x:9" }).await;
            if let Some(data) = end {
                peer.send(Response::WorkComplete {
                    handle: b"H:x:1",
                    data,
                })
                .await;
            }
            peer.send(Response::Echo { data: b"fence" }).await;
        }
        assert_eq!(peer.request().await.unwrap(), "Attach H:x:1");
        peer.send(Response::Error {
            code: b"JOB_NOT_FOUND",
            text: b"No such job",
        })
        .await;
        peer
    };
    let calls = async {
        let handle = client.submit_background("f", "x").await.unwrap();
        assert_eq!(client.result(&handle).await.unwrap(), "result");
        let open = client.outcome(&handle).await.unwrap();
        assert!(
            matches!(open, Outcome::Open(status) if status.is_running),
            "{open:?}"
        );
        let ended = client.outcome(&handle).await.unwrap();
        assert_eq!(ended, Outcome::Ended(Event::Complete("kept".into())));
        assert_eq!(client.outcome(&handle).await.unwrap(), Outcome::Unknown);
        let gone = client.result(&handle).await.unwrap_err();
        assert!(gone.is_unknown_job(), "{gone}");
    };
    tokio::join!(serve, calls);
}

#[tokio::test]
async fn a_parked_call_fails_with_its_connection() {
    let fake = Fake::start().await;
    let client = Client::connect(config(&fake)).await.unwrap();
    let call = tokio::spawn({
        let client = client.clone();
        async move {
            client
                .submit_background("f", "x")
                .ttl(Duration::from_secs(1))
                .await
        }
    });
    let mut peer = fake.accept().await;
    assert_eq!(peer.request().await.unwrap(), "Option headers");
    drop(peer);
    let lost = call.await.unwrap().unwrap_err();
    assert!(lost.is_retryable(), "nothing was sent: {lost}");
}

#[tokio::test]
async fn options_of_the_configuration_come_first() {
    let fake = Fake::start().await;
    let config = config(&fake)
        .with_token("s3cret")
        .with_exceptions(true)
        .with_no_workers_error(true);
    let client = Client::connect(config.clone()).await.unwrap();
    let serve = async {
        let mut peer = fake.accept().await;
        for option in ["auth=s3cret", "exceptions", "no-workers-fail"] {
            assert_eq!(peer.request().await.unwrap(), format!("Option {option}"));
            refuses(&mut peer).await;
        }
        peer.expect("Submit").await;
        peer.send(Response::Error {
            code: b"NO_WORKERS",
            text: b"No worker can do this function",
        })
        .await;
        peer
    };
    let (_peer, outcome) = tokio::join!(serve, client.call("f", "x").into_future());
    assert!(outcome.unwrap_err().is_no_workers());
    let long = Client::connect(config.with_token("t".repeat(59))).await;
    assert!(matches!(long, Err(Error::Config(_))));
}

fn assign<'a>(handle: &'a [u8], workload: &'a [u8]) -> Response<&'a [u8]> {
    Response::JobAssignUnique {
        handle,
        function: b"f",
        unique: b"",
        workload,
    }
}

/// Answers the options up to the registration, those named by accepting them.
async fn registered(fake: &Fake, known: &[&str]) -> Peer {
    let mut peer = fake.accept().await;
    loop {
        let request = peer.request().await.unwrap();
        match request.strip_prefix("Option ") {
            Some(option) if known.contains(&option) => {
                peer.send(Response::Option {
                    name: option.as_bytes(),
                })
                .await;
            }
            Some(_) => refuses(&mut peer).await,
            None => {
                assert!(request.starts_with("CanDo "), "{request}");
                return peer;
            }
        }
    }
}

#[tokio::test]
async fn pushed_jobs_wait_for_their_turn_and_the_end_is_orderly() {
    let fake = Fake::start().await;
    let stop = CancellationToken::new();
    let (started, mut starts) = mpsc::unbounded_channel();
    let (gate, opened) = tokio::sync::watch::channel(false);
    let worker = Worker::new(config(&fake))
        .push(3)
        .headers(true)
        .function("f", move |job| {
            let (started, mut opened) = (started.clone(), opened.clone());
            async move {
                started
                    .send((job.workload().clone(), job.header("x-a")))
                    .unwrap();
                opened.wait_for(|is_open| *is_open).await.unwrap();
                Ok(Bytes::new())
            }
        });
    let run = tokio::spawn(worker.run(stop.clone()));
    let mut peer = registered(&fake, &["push-all=3", "headers"]).await;
    peer.send(assign(b"H:x:1", b"x-a=%31\0one")).await;
    peer.send(assign(b"H:x:2", b"\0two")).await;
    assert_eq!(
        starts.recv().await.unwrap(),
        ("one".into(), Some("1".into()))
    );
    assert!(starts.try_recv().is_err(), "one at a time");
    stop.cancel();
    assert_eq!(peer.request().await.unwrap(), "Option push=0");
    assert_eq!(peer.request().await.unwrap(), "Echo no more");
    // One more was on its way.
    peer.send(assign(b"H:x:3", b"\0three")).await;
    peer.send(Response::Option { name: b"push=0" }).await;
    peer.send(Response::Echo { data: b"no more" }).await;
    gate.send(true).unwrap();
    for _ in 0..3 {
        peer.expect("WorkComplete").await;
    }
    peer.expect("ResetAbilities").await;
    run.await.unwrap().unwrap();
    assert_eq!(starts.recv().await.unwrap(), ("two".into(), None));
    assert_eq!(starts.recv().await.unwrap(), ("three".into(), None));
}

#[tokio::test]
async fn a_server_that_does_not_push_is_asked() {
    let fake = Fake::start().await;
    let stop = CancellationToken::new();
    let worker = Worker::new(config(&fake))
        .push(3)
        .headers(true)
        .function("f", |job| async move { Ok(job.workload().clone()) });
    let run = tokio::spawn(worker.run(stop.clone()));
    let mut peer = registered(&fake, &[]).await;
    peer.expect("GrabJob").await;
    peer.send(assign(b"H:x:1", b"a\0b")).await;
    assert_eq!(
        peer.request().await.unwrap(),
        r"WorkComplete H:x:1\x00a\x00b"
    );
    peer.expect("GrabJob").await;
    stop.cancel();
    peer.send(Response::NoJob).await;
    peer.expect("ResetAbilities").await;
    run.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_open_question_is_taken_back_at_the_end() {
    let fake = Fake::start().await;
    let stop = CancellationToken::new();
    let worker = Worker::new(config(&fake))
        .wait(true)
        .function("f", |_| async { Ok(Bytes::new()) });
    let run = tokio::spawn(worker.run(stop.clone()));
    let mut peer = registered(&fake, &["wait"]).await;
    peer.expect("GrabJob").await;
    stop.cancel();
    assert_eq!(peer.request().await.unwrap(), "PreSleep ");
    assert_eq!(peer.request().await.unwrap(), "Echo no more");
    peer.send(Response::Echo { data: b"no more" }).await;
    peer.expect("ResetAbilities").await;
    run.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_worker_hears_that_nobody_wants_its_job_and_gives_others_back() {
    for is_known in [true, false] {
        let fake = Fake::start().await;
        let stop = CancellationToken::new();
        let worker = Worker::new(config(&fake)).function("f", |job| async move {
            match &job.workload()[..] {
                b"cancelled" => {
                    job.cancelled().await;
                    assert!(!job.is_lost());
                    Ok(Bytes::from_static(b"anyway"))
                }
                b"back" => Err(JobError::back(Duration::from_millis(1500), "busy")),
                _ => Ok(job.touch().await.to_string().into()),
            }
        });
        let run = tokio::spawn(worker.run(stop.clone()));
        let known: &[&str] = if is_known {
            &["cancel", "nack", "touch"]
        } else {
            &[]
        };
        let mut peer = registered(&fake, known).await;
        peer.expect("GrabJob").await;
        peer.send(assign(b"H:x:1", b"back")).await;
        let back = peer.request().await.unwrap();
        let expected = if is_known {
            r"Nack H:x:1\x002\x00busy"
        } else {
            r"WorkException H:x:1\x00busy"
        };
        assert_eq!(back, expected);
        peer.expect("GrabJob").await;
        peer.send(assign(b"H:x:2", b"touch")).await;
        if is_known {
            assert_eq!(peer.request().await.unwrap(), "Touch H:x:2");
        }
        let end = peer.request().await.unwrap();
        assert_eq!(end, format!(r"WorkComplete H:x:2\x00{is_known}"));
        peer.expect("GrabJob").await;
        peer.send(assign(b"H:x:3", b"cancelled")).await;
        peer.send(Response::WorkFail { handle: b"H:x:3" }).await;
        peer.expect("WorkComplete").await;
        peer.expect("GrabJob").await;
        stop.cancel();
        peer.send(Response::NoJob).await;
        peer.expect("ResetAbilities").await;
        run.await.unwrap().unwrap();
    }
}

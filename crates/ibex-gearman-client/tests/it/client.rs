//! The client: dropped calls, deadlines, fail-over, merged submissions.

use std::time::Duration;

use ibex_gearman_client::{Client, Config, Error, Event, Retry};
use ibex_gearman_proto::Response;

use crate::fake::Fake;

fn config(servers: &[String]) -> Config {
    Config::new(servers.to_vec())
        .with_exceptions(false)
        .with_reply_deadline(Duration::from_secs(10))
}

fn created(handle: &[u8]) -> Response<&[u8]> {
    Response::JobCreated { handle }
}

#[tokio::test]
async fn a_dropped_call_leaves_the_stream_in_step() {
    let fake = Fake::start().await;
    let client = Client::connect(config(&[fake.address()])).await.unwrap();
    let (mut peer, abandoned) = tokio::join!(fake.accept(), async {
        let call = client.submit("slow", "a").into_future();
        tokio::time::timeout(Duration::from_millis(50), call).await
    });
    assert!(abandoned.is_err());
    let submit = tokio::spawn({
        let client = client.clone();
        async move { client.submit("fast", "b").await.unwrap().complete().await }
    });
    peer.expect("slow").await;
    peer.expect("fast").await;
    peer.send(created(b"H:x:1")).await;
    peer.send(Response::WorkComplete {
        handle: b"H:x:1",
        data: b"for nobody",
    })
    .await;
    peer.send(created(b"H:x:2")).await;
    peer.send(Response::WorkData {
        handle: b"H:x:2",
        data: b"ri",
    })
    .await;
    peer.send(Response::WorkComplete {
        handle: b"H:x:2",
        data: b"ght",
    })
    .await;
    assert_eq!(submit.await.unwrap().unwrap(), "right");
}

#[tokio::test]
async fn two_submissions_of_one_key_each_get_every_event() {
    let fake = Fake::start().await;
    let client = Client::connect(config(&[fake.address()])).await.unwrap();
    let serve = async {
        let mut peer = fake.accept().await;
        for _ in 0..2 {
            peer.expect("Submit").await;
            peer.send(created(b"H:x:1")).await;
        }
        for data in [&b"1"[..], b"2", b"3"] {
            for _ in 0..2 {
                peer.send(Response::WorkData {
                    handle: b"H:x:1",
                    data,
                })
                .await;
            }
        }
        for _ in 0..2 {
            peer.send(Response::WorkComplete {
                handle: b"H:x:1",
                data: b".",
            })
            .await;
        }
        peer
    };
    let call = || async {
        client
            .submit("f", "w")
            .unique("k")
            .await
            .unwrap()
            .complete()
            .await
            .unwrap()
    };
    let (_peer, first, second) = tokio::join!(serve, call(), call());
    assert_eq!((&first[..], &second[..]), (&b"123."[..], &b"123."[..]));
}

#[tokio::test]
async fn an_overdue_reply_is_an_unknown_outcome_and_costs_the_connection() {
    let fake = Fake::start().await;
    let client = Client::connect(config(&[fake.address()])).await.unwrap();
    let call = client
        .submit_background("f", "w")
        .reply_deadline(Duration::from_millis(50))
        .into_future();
    let (mut peer, outcome) = tokio::join!(fake.accept(), call);
    assert!(
        matches!(
            outcome,
            Err(Error::OutcomeUnknown {
                operation: "SUBMIT_JOB",
                ..
            })
        ),
        "{outcome:?}"
    );
    peer.expect("Submit").await;
    assert_eq!(peer.request().await, None, "the client hung up");
    let (mut peer, handle) = tokio::join!(
        async {
            let mut peer = fake.accept().await;
            peer.expect("Submit").await;
            peer.send(created(b"H:x:9")).await;
            peer
        },
        client.submit_background("f", "w").into_future(),
    );
    assert_eq!(handle.unwrap().to_string(), "H:x:9");
    drop(client);
    assert_eq!(
        peer.request().await,
        None,
        "nothing outlives the last clone"
    );
}

#[tokio::test]
async fn a_dead_server_is_passed_over_and_rests() {
    let (dead, live) = (Fake::start().await, Fake::start().await);
    let dead_address = dead.address();
    drop(dead);
    let config = config(&[dead_address, live.address()])
        .with_backoff(Duration::from_secs(60), Duration::from_secs(60));
    let client = Client::connect(config).await.unwrap();
    let serve = async {
        let mut peer = live.accept().await;
        for _ in 0..6 {
            peer.expect("Submit").await;
            peer.send(created(b"H:x:1")).await;
        }
    };
    let calls = async {
        for _ in 0..6 {
            client.submit_background("f", "w").await.unwrap();
        }
        let off = client
            .submit_background("f", "w")
            .retry(Retry::Off)
            .into_future();
        let off = [
            off.await,
            client
                .submit_background("f", "w")
                .retry(Retry::Off)
                .reply_deadline(Duration::from_millis(20))
                .await,
        ];
        assert!(
            off.iter()
                .any(|o| matches!(o, Err(Error::Unreachable { .. }))),
            "{off:?}"
        );
    };
    let ((), ()) = tokio::join!(serve, async {
        tokio::time::timeout(Duration::from_secs(20), calls)
            .await
            .unwrap();
    });
}

#[tokio::test]
async fn a_broken_connection_ends_waiting_jobs() {
    let fake = Fake::start().await;
    let client = Client::connect(config(&[fake.address()])).await.unwrap();
    let (peer, job) = tokio::join!(
        async {
            let mut peer = fake.accept().await;
            peer.expect("Submit").await;
            peer.send(created(b"H:x:1")).await;
            peer.send(Response::WorkStatus {
                handle: b"H:x:1",
                numerator: b"1",
                denominator: b"2",
            })
            .await;
            peer
        },
        client.submit("f", "w").into_future(),
    );
    let mut job = job.unwrap();
    assert_eq!(
        job.next().await.unwrap(),
        Some(Event::Status {
            numerator: 1,
            denominator: 2
        })
    );
    drop(peer);
    assert!(matches!(
        job.next().await,
        Err(Error::ConnectionLost { .. })
    ));
    assert_eq!(job.next().await.unwrap(), None);
}

#[tokio::test]
async fn refusals_and_failures_have_their_own_errors() {
    let fake = Fake::start().await;
    let client = Client::connect(config(&[fake.address()])).await.unwrap();
    let serve = async {
        let mut peer = fake.accept().await;
        peer.expect("Submit").await;
        peer.send(Response::Error {
            code: b"QUEUE_ERROR",
            text: b"Job queue is full",
        })
        .await;
        peer.expect("Submit").await;
        peer.send(created(b"H:x:1")).await;
        // The original ends the handle with a NUL when it turns an exception into a failure.
        peer.send(Response::WorkFail { handle: b"H:x:1\0" }).await;
        peer.expect("Submit").await;
        peer.send(created(b"H:x:2")).await;
        peer.send(Response::WorkException {
            handle: b"H:x:2",
            data: b"boom",
        })
        .await;
        peer
    };
    let calls = async {
        let refused = client.call("f", "w").await;
        assert!(
            matches!(&refused, Err(Error::Refused { code, .. }) if code == "QUEUE_ERROR"),
            "{refused:?}"
        );
        let failed = client.call("f", "w").await;
        assert!(matches!(failed, Err(Error::JobFailed { .. })), "{failed:?}");
        let thrown = client.call("f", "w").await.unwrap_err();
        assert!(thrown.is_job_failure());
        assert!(thrown.to_string().contains("boom"));
        let invalid = client.call("f", "w").unique("a\0b").await.unwrap_err();
        assert!(matches!(invalid, Error::InvalidArgument(_)));
    };
    tokio::join!(serve, calls);
}

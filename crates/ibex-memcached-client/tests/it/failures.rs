//! Dead servers, slow servers, dropped calls.

use crate::server::{Memcached, patient};
use ibex_memcached_client::{Client, Config, Error, Expiry, WhenDead};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_dead_server_costs_three_failures_and_then_nothing() {
    let Some(mut server) = Memcached::start() else {
        return;
    };
    let dead_for = |dead_for| patient([server.address()]).with_backoff(3, dead_for);
    let for_long = Client::connect(dead_for(Duration::from_secs(600)))
        .await
        .unwrap();
    let cache = Client::connect(dead_for(Duration::from_millis(50)))
        .await
        .unwrap();
    cache.set("k", "v", Expiry::Never).await.unwrap();
    let port = server.port;
    server.kill();
    for _ in 0..3 {
        assert!(for_long.get("k").await.unwrap_err().is_server_away());
        assert!(cache.get("k").await.unwrap_err().is_server_away());
    }
    assert!(matches!(for_long.get("k").await, Err(Error::Dead { .. })));
    let _again = Memcached::start_on(i32::from(port)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while cache.get("k").await.is_err() {
        assert!(
            Instant::now() < deadline,
            "the server is back and nobody noticed"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(cache.get("k").await.unwrap(), None);
}

#[tokio::test]
async fn reads_miss_and_deletes_fail_while_a_server_is_dead() {
    let config = Config::new(["127.0.0.1:1"]).with_when_dead(WhenDead::Miss);
    let cache = Client::connect(config).await.unwrap();
    for _ in 0..5 {
        assert_eq!(cache.get("k").await.unwrap(), None);
        cache.set("k", "v", Expiry::Never).await.unwrap();
        assert!(cache.get_multi(&["a", "b"]).await.unwrap().is_empty());
        assert!(cache.delete("k").await.is_err());
        assert!(cache.invalidate("k", Duration::from_secs(1)).await.is_err());
    }
}

#[tokio::test]
async fn keys_of_a_dead_server_move_with_eject() {
    let Some(server) = Memcached::start() else {
        return;
    };
    let config = patient(["127.0.0.1:1".to_owned(), server.address()])
        .with_when_dead(WhenDead::Eject)
        .with_backoff(1, Duration::from_secs(600));
    let cache = Client::connect(config).await.unwrap();
    let mut failures = 0;
    for n in 0..100 {
        failures += u32::from(
            cache
                .set(&format!("k{n}"), "v", Expiry::Never)
                .await
                .is_err(),
        );
    }
    assert_eq!(failures, 1);
}

/// A server that answers `VA` for another key late: the reply must never reach a later call.
#[tokio::test]
async fn a_dropped_call_does_not_leave_its_reply_to_the_next() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buf = vec![0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buf).await {
                    let slow = buf[..read].starts_with(b"mg slow");
                    if slow {
                        tokio::time::sleep(Duration::from_secs(120)).await;
                    }
                    let reply: &[u8] = if slow {
                        b"VA 4 f0 c1\r\nslow\r\n"
                    } else {
                        b"VA 4 f0 c1\r\nfast\r\n"
                    };
                    if stream.write_all(reply).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let cache = Client::connect(patient([address]).with_connections_max(1))
        .await
        .unwrap();
    assert_eq!(cache.get("fast").await.unwrap().unwrap().value, "fast");
    assert!(
        tokio::time::timeout(Duration::from_millis(50), cache.get("slow"))
            .await
            .is_err()
    );
    for _ in 0..5 {
        assert_eq!(cache.get("fast").await.unwrap().unwrap().value, "fast");
    }
}

#[tokio::test]
async fn a_write_without_answer_says_so() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            kept.push(listener.accept().await.unwrap());
        }
    });
    let config = patient([address]).with_operation_timeout(Duration::from_secs(1));
    let cache = Client::connect(config).await.unwrap();
    assert!(matches!(
        cache.set("k", "v", Expiry::Never).await,
        Err(Error::OutcomeUnknown { .. })
    ));
    assert!(matches!(cache.get("k").await, Err(Error::Lost { .. })));
}

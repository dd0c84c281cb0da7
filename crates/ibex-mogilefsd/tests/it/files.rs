//! Files through the client: store, read, list, rename, delete, on both databases.

use crate::cluster::{Cluster, Store, devices_of, eventually};
use bytes::Bytes;
use futures_util::stream;
use ibex_mogilefs_client::ErrorCode;
use ibex_testkit::mariadb;

async fn whole_life(cluster: Cluster) {
    let cluster = cluster.populated().await;
    let client = cluster.client();

    let stored = client.store("a/one", "two", "hello").await.unwrap();
    assert_eq!(stored.length, 5);
    assert_eq!(client.fetch("a/one").await.unwrap(), "hello");
    let devices = cluster.replicas("a/one", 2).await;
    assert_eq!(
        devices.len(),
        2,
        "on two devices of two hosts: each node has one"
    );
    let info = client.info("a/one").await.unwrap();
    assert_eq!(
        (
            info.fid,
            info.length,
            info.class.as_str(),
            info.checksum.clone()
        ),
        (stored.fid, 5, "two", Some(stored.checksum.clone()))
    );

    // A stream of unknown length, checked by its trailer; one of known length, checked by the tracker.
    let chunks =
        || stream::iter((0..40).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![7_u8; 100_000]))));
    client
        .store_stream("a/stream", "two", chunks(), None)
        .await
        .unwrap();
    client
        .store_stream("a/sized", "two", chunks(), Some(4_000_000))
        .await
        .unwrap();
    assert_eq!(client.fetch("a/stream").await.unwrap().len(), 4_000_000);
    assert_eq!(
        client.fetch("a/sized").await.unwrap(),
        client.fetch("a/stream").await.unwrap()
    );
    let short = client
        .store_stream("a/short", "two", chunks(), Some(4_000_001))
        .await;
    assert!(
        matches!(short, Err(ibex_mogilefs_client::Error::Source(_))),
        "{short:?}"
    );
    assert!(client.info("a/short").await.unwrap_err().is_unknown_key());

    // Keys are bytes; an empty file is a file.
    let odd: &[u8] = b"a/\xff\x00 &=%";
    client.store(odd, "one", Bytes::new()).await.unwrap();
    assert_eq!(client.fetch(odd).await.unwrap(), "");

    let keys = client.list_keys("a/", None, 100).await.unwrap();
    assert_eq!(keys, [&b"a/one"[..], b"a/sized", b"a/stream", odd]);
    assert_eq!(
        client.list_keys("a/", Some(b"a/sized"), 1).await.unwrap(),
        [&b"a/stream"[..]]
    );
    assert_eq!(
        client.list_keys("nothing", None, 10).await.unwrap().len(),
        0
    );

    client.rename("a/one", "b/one").await.unwrap();
    assert_eq!(
        client.rename("b/one", "a/sized").await.unwrap_err().code(),
        Some(ErrorCode::KeyExists)
    );
    assert_eq!(client.fetch("b/one").await.unwrap(), "hello");

    // Overwriting makes a new file and removes the old bytes everywhere.
    let newer = client.store("b/one", "one", "newer").await.unwrap();
    assert!(newer.fid > stored.fid);
    assert_eq!(client.fetch("b/one").await.unwrap(), "newer");
    let old_name = format!("{:010}.fid", stored.fid.0);
    eventually("the old bytes are gone", async || {
        cluster
            .nodes
            .iter()
            .all(|node| node.files().iter().all(|path| !path.ends_with(&old_name)))
    })
    .await;

    for key in [&b"b/one"[..], b"a/sized", b"a/stream", odd] {
        assert!(client.delete(key).await.unwrap());
        assert!(!client.delete(key).await.unwrap());
    }
    eventually("no bytes are left", async || {
        cluster.nodes.iter().all(|node| node.files().is_empty())
    })
    .await;
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_life_on_sqlite() {
    whole_life(Cluster::start(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_life_on_mariadb() {
    let Some(server) = mariadb::Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    whole_life(Cluster::start_on(3, Store::Url(database.url()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn class_changes_go_both_ways() {
    let cluster = Cluster::start(3).populated().await;
    let client = cluster.client();
    client.store("k", "one", "x").await.unwrap();
    cluster.replicas("k", 1).await;
    client.update_class("k", "three").await.unwrap();
    cluster.replicas("k", 3).await;
    client.update_class("k", "two").await.unwrap();
    cluster.replicas("k", 2).await;
    assert_eq!(client.fetch("k").await.unwrap(), "x");
    let on = devices_of(&client, "k").await;
    eventually("the surplus bytes are gone", async || {
        cluster
            .nodes
            .iter()
            .filter(|node| !node.files().is_empty())
            .count()
            == 2
    })
    .await;
    assert!(
        on.iter()
            .all(|device| !cluster.node(*device).files().is_empty())
    );
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_overwrites_leave_one_file() {
    const WRITERS: usize = 30;
    let cluster = Cluster::start(2).populated().await;
    let client = cluster.client();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let client = client.clone();
        writers.spawn(async move {
            client
                .store("same", "two", format!("content of {writer:02}"))
                .await
        });
    }
    let mut stored = Vec::new();
    while let Some(done) = writers.join_next().await {
        stored.push(done.unwrap().unwrap());
    }
    assert_eq!(stored.len(), WRITERS);
    let info = client.info("same").await.unwrap();
    assert!(stored.iter().any(|file| file.fid == info.fid));
    cluster.replicas("same", 2).await;
    let last = format!("{:010}.fid", info.fid.0);
    eventually("only the last one has bytes", async || {
        cluster
            .nodes
            .iter()
            .all(|node| matches!(node.files().as_slice(), [only] if only.ends_with(&last)))
    })
    .await;
    cluster.stop();
}

//! Processes that die, hang or run full, at bad moments.

use crate::cluster::{Cluster, Store, devices_of, eventually, tracker, until};
use ibex_testkit::mariadb;
use std::time::Duration;

async fn killed_node_and_tracker(mut cluster: Cluster) {
    cluster = cluster.populated().await;
    let client = cluster.client();
    for index in 0..10 {
        client
            .store(format!("k{index}"), "two", format!("content {index}"))
            .await
            .unwrap();
    }
    for index in 0..10 {
        cluster.replicas(&format!("k{index}"), 2).await;
    }
    // One node dies: everything is read from the others.
    let victim = devices_of(&client, "k0").await[0];
    cluster.node_mut(victim).daemon.kill().unwrap();
    for index in 0..10 {
        assert_eq!(
            client.fetch(format!("k{index}")).await.unwrap(),
            format!("content {index}")
        );
    }
    // The tracker dies right after it acknowledged: the file is there when it comes back.
    let acknowledged = client.store("last", "one", "words").await.unwrap();
    cluster.tracker.kill_and_restart().unwrap();
    let client = cluster.client();
    assert_eq!(client.info("last").await.unwrap().fid, acknowledged.fid);
    assert_eq!(client.fetch("last").await.unwrap(), "words");
    for index in 0..10 {
        assert_eq!(
            client.fetch(format!("k{index}")).await.unwrap(),
            format!("content {index}")
        );
    }
    // The node comes back with its files and takes new ones.
    cluster.node_mut(victim).daemon.restart().unwrap();
    cluster.all_writeable().await;
    client.store("after", "three", "all three").await.unwrap();
    cluster.replicas("after", 3).await;
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_node_and_tracker_on_sqlite() {
    killed_node_and_tracker(Cluster::start(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_node_and_tracker_on_mariadb() {
    let Some(server) = mariadb::Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    killed_node_and_tracker(Cluster::start_on(3, Store::Url(database.url()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tracker_killed_under_load_loses_nothing_acknowledged() {
    const KILLS: usize = 3;
    let mut cluster = Cluster::start(2).populated().await;
    let mut acknowledged = Vec::new();
    for round in 0..KILLS {
        let client = cluster.impatient_client();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..4 {
            let client = client.clone();
            writers.spawn(async move {
                let mut done = Vec::new();
                for file in 0..200 {
                    let key = format!("r{round}w{writer}f{file}");
                    match client.store(&key, "one", key.clone()).await {
                        Ok(stored) => done.push((key, stored.fid)),
                        Err(_) => return done,
                    }
                }
                done
            });
        }
        tokio::time::timeout(
            Duration::from_secs(10),
            eventually("some are stored", async || {
                client
                    .list_keys(format!("r{round}"), None, 50)
                    .await
                    .is_ok_and(|keys| keys.len() >= 20)
            }),
        )
        .await
        .unwrap();
        cluster.tracker.kill().unwrap();
        while let Some(done) = writers.join_next().await {
            acknowledged.extend(done.unwrap());
        }
        cluster.tracker.restart().unwrap();
    }
    cluster.all_writeable().await;
    let client = cluster.client();
    assert!(acknowledged.len() >= 20 * KILLS);
    for (key, fid) in acknowledged {
        assert_eq!(client.info(&key).await.unwrap().fid, fid);
        assert_eq!(client.fetch(&key).await.unwrap(), key);
    }
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_node_delays_paths_by_a_hedge_only() {
    let cluster = Cluster::start_patient(2).populated().await;
    let client = cluster.client();
    client.store("k", "two", "x").await.unwrap();
    cluster.replicas("k", 2).await;
    let hung = &cluster.nodes[0].daemon;
    hung.signal(rustix::process::Signal::STOP).unwrap();
    let mut raw = cluster.raw();
    // Each answer comes within the connection's patience, a fifteenth of the node's.
    for _ in 0..6 {
        let paths = raw.ask("get_paths domain=t&key=k");
        assert!(paths.contains("path1=http://127.0.0.3:"), "{paths}");
    }
    assert_eq!(client.fetch("k").await.unwrap(), "x");
    hung.signal(rustix::process::Signal::CONT).unwrap();
    cluster.all_writeable().await;
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_deleted_while_nodes_are_down_is_removed_when_they_return() {
    let mut cluster = Cluster::start(2).populated().await;
    let client = cluster.client();
    client.store("k", "two", "x").await.unwrap();
    cluster.replicas("k", 2).await;
    let device = cluster.nodes[0].device;
    cluster.nodes[0].daemon.kill().unwrap();
    let admin = client.admin();
    eventually("the tracker has noticed", async || {
        admin
            .devices()
            .await
            .unwrap()
            .iter()
            .any(|known| known.devid == device && known.observed_state == "unreachable")
    })
    .await;
    assert!(client.delete("k").await.unwrap());
    eventually("the other node has removed it", async || {
        cluster.nodes[1].files().is_empty()
    })
    .await;
    assert_eq!(cluster.nodes[0].files().len(), 1);
    cluster.nodes[0].daemon.restart().unwrap();
    eventually("the returned node has removed it", async || {
        cluster.nodes[0].files().is_empty()
    })
    .await;
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tracker_killed_while_copying_leaves_nothing_undone() {
    const FILES: usize = 30;
    let mut cluster = Cluster::start(2);
    let again = tracker(&cluster.store)
        .set("claim_lease", "10s")
        .start()
        .unwrap();
    std::mem::replace(&mut cluster.tracker, again)
        .stop()
        .unwrap();
    let mut cluster = cluster.populated().await;
    let client = cluster.client();
    let mut stores = tokio::task::JoinSet::new();
    for index in 0..FILES {
        let client = client.clone();
        stores.spawn(async move {
            let content = vec![b'x'; 1 << 20];
            client.store(format!("k{index}"), "two", content).await
        });
    }
    // Copies are under way by now: they begin with the first store.
    while let Some(stored) = stores.join_next().await {
        stored.unwrap().unwrap();
    }
    cluster.tracker.kill_and_restart().unwrap();
    for index in 0..FILES {
        cluster.replicas(&format!("k{index}"), 2).await;
    }
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_database_that_goes_away_and_comes_back() {
    let Some(mut server) = mariadb::Server::start_own().unwrap() else {
        return;
    };
    let url = {
        let database = server.database().unwrap();
        let url = database.url();
        // Lives as long as the server, which goes with the test.
        std::mem::forget(database);
        format!("{url}?timeout=500ms&connect_timeout=500ms")
    };
    let mut cluster = Cluster::start_on(2, Store::Url(url)).populated().await;
    for phrase in ["database", "worker step failed", "claimed work"] {
        cluster.tracker.announce(phrase);
    }
    let client = cluster.client();
    let kept = client.store("kept", "two", "before").await.unwrap();
    cluster.replicas("kept", 2).await;
    server.kill().unwrap();
    let mut raw = cluster.raw();
    let refused = raw.ask("create_open domain=t&class=two&key=new");
    assert!(refused.starts_with("ERR "), "{refused}");
    until("the tracker says that it is not ready", || {
        !cluster.tracker.is_ready()
    });
    assert_eq!(cluster.tracker.admin_get("/healthz").unwrap().status, 200);
    server.restart().unwrap();
    eventually("stores work again", async || {
        client.store("after", "two", "after").await.is_ok()
    })
    .await;
    assert_eq!(client.info("kept").await.unwrap().fid, kept.fid);
    assert_eq!(client.fetch("kept").await.unwrap(), "before");
    cluster.replicas("after", 2).await;
    until("the tracker is ready again", || cluster.tracker.is_ready());
    cluster.stop();
}

//! Background jobs seen from outside: dead devices, abandoned uploads, fsck, rebalance.

use crate::cluster::{Cluster, Store, devices_of, eventually, tracker};
use ibex_mogilefs_client::{Client, Config};
use std::fs;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_a_dead_device_move_to_others() {
    let cluster = Cluster::start(3).populated().await;
    let client = cluster.client();
    for index in 0..20 {
        client
            .store(format!("k{index}"), "two", format!("content {index}"))
            .await
            .unwrap();
    }
    // What a dead device alone had is lost; here every file has its second replica before.
    for index in 0..20 {
        cluster.replicas(&format!("k{index}"), 2).await;
    }
    let victim = cluster.replicas("k0", 2).await[0];
    client
        .admin()
        .set_state(&cluster.node(victim).name(), victim, "dead")
        .await
        .unwrap();
    for index in 0..20 {
        let key = format!("k{index}");
        eventually("two replicas elsewhere", async || {
            let on = devices_of(&client, &key).await;
            on.len() == 2 && !on.contains(&victim)
        })
        .await;
        assert_eq!(
            client.fetch(&key).await.unwrap(),
            format!("content {index}")
        );
    }
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_uploads_are_cleaned_up() {
    let store = Store::sqlite();
    let mut cluster = Cluster::start_on(1, store).populated().await;
    cluster.tracker.terminate().unwrap();
    cluster.tracker = tracker(&cluster.store)
        .env("T_TEMPFILE_TOO_OLD", "0")
        .start()
        .unwrap();
    cluster.all_writeable().await;
    let mut raw = cluster.raw();
    let open = raw.ask("create_open domain=t&key=k&class=one");
    let path = open.split("path=").nth(1).unwrap();
    let put = std::process::Command::new("curl")
        .args(["-sS", "-f", "-X", "PUT", "--data-binary", "abc", path])
        .status()
        .unwrap();
    assert!(put.success());
    assert_eq!(cluster.nodes[0].files().len(), 1);
    // The round runs at start and after that every half minute; ringing the bell makes it now.
    eventually("the bytes are gone", async || {
        raw.console("!to delete :wake_up");
        cluster.nodes[0].files().is_empty()
    })
    .await;
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fsck_finds_and_repairs() {
    let cluster = Cluster::start(3).populated().await;
    let client = cluster.client();
    for key in ["missing", "short", "damaged", "fine"] {
        client.store(key, "two", "0123456789").await.unwrap();
        cluster.replicas(key, 2).await;
    }
    for (key, damage) in [
        ("missing", None),
        ("short", Some(&b"01234"[..])),
        ("damaged", Some(b"012345678X")),
    ] {
        let fid = client.info(key).await.unwrap().fid;
        let device = devices_of(&client, key).await[0];
        let path = cluster
            .node(device)
            .files()
            .into_iter()
            .find(|path| path.ends_with(format!("{:010}.fid", fid.0)))
            .unwrap();
        match damage {
            None => fs::remove_file(path).unwrap(),
            Some(content) => fs::write(path, content).unwrap(),
        }
    }
    let mut raw = cluster.raw();
    assert_eq!(raw.ask("fsck_start"), "OK ");
    assert!(raw.ask("fsck_start").starts_with("ERR fsck_running"));
    let mut status = String::new();
    eventually("fsck is complete", async || {
        status = raw.ask("fsck_status");
        status.contains("running=0")
    })
    .await;
    for sum in ["num_MISS=1", "num_BLEN=1", "num_BSUM=1", "num_REPL=3"] {
        assert!(status.contains(sum), "{sum} in {status}");
    }
    let log = raw.ask("fsck_getlog");
    assert!(
        log.contains("evcode=MISS") && log.contains("evcode=BSUM"),
        "{log}"
    );
    for key in ["missing", "short", "damaged", "fine"] {
        cluster.replicas(key, 2).await;
        for path in client.open_paths(key).await.unwrap() {
            let body = std::process::Command::new("curl")
                .args(["-sS", "-f", &path])
                .output()
                .unwrap();
            assert_eq!(body.stdout, b"0123456789", "{key} at {path}");
        }
    }
    assert_eq!(raw.ask("fsck_clearlog"), "OK ");
    assert_eq!(raw.ask("fsck_getlog"), "OK row_count=0");
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rebalance_empties_a_device() {
    let cluster = Cluster::start(3).populated().await;
    let client = cluster.client();
    for index in 0..12 {
        client
            .store(format!("k{index}"), "two", format!("content {index}"))
            .await
            .unwrap();
    }
    for index in 0..12 {
        cluster.replicas(&format!("k{index}"), 2).await;
    }
    let mut raw = cluster.raw();
    assert_eq!(
        raw.ask("rebalance_set_policy policy=from_devices%3D1+leave_in_drain_mode%3D1"),
        "OK "
    );
    assert_eq!(raw.ask("rebalance_test"), "OK sdevs=1&ddevs=2,3");
    assert!(raw.ask("rebalance_start").starts_with("OK state="));
    assert!(raw.ask("fsck_start").starts_with("ERR rebal_running"));
    eventually("the run is over", async || {
        raw.ask("rebalance_status").contains("time_finished")
    })
    .await;
    assert!(
        cluster.nodes[0].files().is_empty(),
        "{:?}",
        cluster.nodes[0].files()
    );
    for index in 0..12 {
        let key = format!("k{index}");
        assert_eq!(
            cluster.replicas(&key, 2).await,
            [cluster.nodes[1].device, cluster.nodes[2].device]
        );
        assert_eq!(
            client.fetch(&key).await.unwrap(),
            format!("content {index}")
        );
    }
    let devices = raw.ask("get_devices devid=1");
    assert!(devices.contains("status=drain"), "{devices}");
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_trackers_share_one_database() {
    let cluster = Cluster::start(3).populated().await;
    let second = tracker(&cluster.store).start().unwrap();
    let addresses = [
        cluster.tracker_addr(),
        second.addr("tracker").unwrap().to_string(),
    ];
    let both = Client::new(Config::new(addresses.clone(), "t"));
    let mut stores = tokio::task::JoinSet::new();
    for index in 0..40 {
        let both = both.clone();
        stores.spawn(async move {
            both.store(format!("k{index}"), "two", format!("content {index}"))
                .await
        });
    }
    while let Some(stored) = stores.join_next().await {
        stored.unwrap().unwrap();
    }
    for index in 0..40 {
        cluster.replicas(&format!("k{index}"), 2).await;
    }
    let only_second = Client::new(Config::new([addresses[1].clone()], "t"));
    assert_eq!(
        only_second.list_keys("k", None, 1000).await.unwrap().len(),
        40
    );
    // Every copy was made once: no device holds more than it is recorded for.
    let on_disk: usize = cluster.nodes.iter().map(|node| node.files().len()).sum();
    assert_eq!(on_disk, 80);
    second.stop().unwrap();
    cluster.stop();
}

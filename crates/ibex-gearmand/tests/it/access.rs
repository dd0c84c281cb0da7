//! Whose jobs one may follow where there are access rules: handles can be guessed, results must not be had by that.

use ibex_gearman_client::{Client, Config};
use ibex_gearman_proto::{Grab, Request, Submit};
use ibex_testkit::Daemon;

use crate::packets::{Wire, is_error};

fn start(dir: &tempfile::TempDir) -> Daemon {
    let rules = dir.path().join("rules");
    let text = "token=alice submit a.*\ntoken=bob submit b.*\ntoken=root submit *\ntoken=ops status\n* work *\n";
    std::fs::write(&rules, text).unwrap();
    Daemon::builder("ibex-gearmand")
        .set("acl_file", &rules.display().to_string())
        .set("result_ttl", "600s")
        .start()
        .unwrap()
}

fn named(daemon: &Daemon, token: &str) -> Wire {
    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    let name = format!("auth={token}");
    wire.send(Request::Option {
        name: name.as_bytes(),
    });
    assert!(wire.next().unwrap().starts_with("OPTION_RES "));
    wire
}

#[test]
fn jobs_are_followed_by_those_who_may() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = start(&dir);
    let [mut alice, mut bob, mut root, mut ops] =
        ["alice", "bob", "root", "ops"].map(|token| named(&daemon, token));
    alice.send(Request::Submit(Submit::new(b"a.x", b"", b"w").background()));
    let handle = alice.handle();
    let attach = Request::Attach {
        handle: handle.as_bytes(),
    };
    for (wire, may) in [
        (&mut alice, true),
        (&mut bob, false),
        (&mut root, true),
        (&mut ops, true),
    ] {
        wire.send(attach);
        let said = wire.next().unwrap();
        assert_eq!(said.starts_with("JOB_CREATED "), may, "{said}");
        assert!(may || is_error(&said, "UNAUTHORIZED"), "{said}");
        // How far it is anybody may ask who knows the handle.
        wire.send(Request::GetStatus {
            handle: handle.as_bytes(),
        });
        assert!(wire.next().unwrap().starts_with("STATUS_RES "));
    }
    let mut worker = Wire::connect(daemon.addr("gearman").unwrap());
    worker.send(Request::CanDo { function: b"a.x" });
    worker.send(Request::GrabJob(Grab::Plain));
    assert!(worker.next().unwrap().starts_with("JOB_ASSIGN "));
    worker.send(Request::WorkComplete {
        handle: handle.as_bytes(),
        data: b"secret",
    });
    for wire in [&mut alice, &mut root, &mut ops] {
        assert!(wire.next().unwrap().ends_with(" secret"));
    }
    // Once it has ended, nobody knows any more whose it was.
    for (wire, may) in [
        (&mut alice, false),
        (&mut bob, false),
        (&mut root, true),
        (&mut ops, true),
    ] {
        wire.send(Request::Option { name: b"Results" });
        let said = wire.next().unwrap();
        assert_eq!(said.starts_with("OPTION_RES "), may, "{said}");
        wire.send(attach);
        let said = wire.said().concat();
        assert_eq!(said.ends_with(" secret"), may, "{said}");
    }
    daemon.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_library_waits_for_its_own_without_the_right_to_kept_results() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = start(&dir);
    let address = daemon.addr("gearman").unwrap().to_string();
    let config = Config::new([address]);
    let alice = Client::connect(config.clone().with_token("alice"))
        .await
        .unwrap();
    let bob = Client::connect(config.clone().with_token("bob"))
        .await
        .unwrap();
    let handle = alice.submit_background("a.x", "abc").await.unwrap();
    let job = alice.attach(&handle).await.unwrap();
    let refused = bob.attach(&handle).await.unwrap_err();
    assert!(
        matches!(&refused, ibex_gearman_client::Error::Refused { code, .. } if code == "UNAUTHORIZED"),
        "{refused}"
    );
    let stop = tokio_util::sync::CancellationToken::new();
    let worker = ibex_gearman_client::Worker::new(config)
        .function("a.x", |job| async move { Ok(job.workload().clone()) });
    let working = tokio::spawn(worker.run(stop.clone()));
    assert_eq!(job.complete().await.unwrap(), "abc");
    stop.cancel();
    working.await.unwrap().unwrap();
    daemon.stop().unwrap();
}

//! The durable queue: what was answered with JOB_CREATED is there after any death, on both engines; what cannot be stored is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ibex_gearman_client::{Client, Config};
use ibex_gearman_proto::{Grab, Request, Submit};
use ibex_testkit::daemon::Builder;
use ibex_testkit::disk::Small;
use ibex_testkit::{Daemon, mariadb, ports, wait};

use crate::packets::{Wire, is_error};

/// Deaths of one run; more with `IBEX_KILLS`.
fn kills() -> usize {
    std::env::var("IBEX_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(6)
}

fn builder() -> Builder {
    Daemon::builder("ibex-gearmand")
}

fn submit(wire: &mut Wire, function: &str, workload: &str) -> String {
    wire.send(Request::Submit(
        Submit::new(function.as_bytes(), b"", workload.as_bytes()).background(),
    ));
    wire.handle()
}

#[test]
fn a_restart_keeps_jobs_handles_keys_and_order() {
    let mut daemon = builder().start().unwrap();
    let addr = daemon.addr("gearman").unwrap();
    let mut wire = Wire::connect(addr);
    let handles: Vec<String> = (0..5)
        .map(|n| submit(&mut wire, "f", &format!("w{n}")))
        .collect();
    wire.send(Request::Submit(
        Submit::new(b"f", b"key", b"keyed").background(),
    ));
    let keyed = wire.handle();
    wire.send(Request::Submit(Submit::new(b"f", b"", b"foreground")));
    wire.handle();
    daemon.terminate().unwrap();
    daemon.restart().unwrap();

    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    wire.send(Request::Submit(
        Submit::new(b"f", b"key", b"again").background(),
    ));
    assert_eq!(wire.handle(), keyed, "the key is still taken");
    assert!(!handles.contains(&submit(&mut wire, "f", "new")));
    wire.send(Request::CanDo { function: b"f" });
    for (handle, n) in handles.iter().zip(0..) {
        wire.send(Request::GrabJob(Grab::Plain));
        assert_eq!(wire.next().unwrap(), format!("JOB_ASSIGN {handle} f w{n}"));
        wire.send(Request::WorkComplete {
            handle: handle.as_bytes(),
            data: b"",
        });
    }
    daemon.stop().unwrap();
}

#[test]
fn attempts_survive_so_that_a_killer_job_ends_among_the_dead() {
    let mut daemon = builder().set("job_retries", "2").start().unwrap();
    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    let handle = submit(&mut wire, "f", "killer");
    for _ in 0..2 {
        let mut worker = Wire::connect(daemon.addr("gearman").unwrap());
        worker.send(Request::CanDo { function: b"f" });
        worker.send(Request::GrabJob(Grab::Plain));
        assert!(worker.next().unwrap().contains("killer"));
        drop(worker);
        let mut operator = Wire::connect(daemon.addr("gearman").unwrap());
        wait::until_true("the loss is noticed", || {
            operator
                .list("status")
                .first()
                .is_none_or(|line| !line.contains("\\t1\\t1\\t"))
        })
        .unwrap();
        drop(operator);
        daemon.terminate().unwrap();
        daemon.restart().unwrap();
    }
    let mut operator = Wire::connect(daemon.addr("gearman").unwrap());
    assert_eq!(
        operator.list("show dead"),
        [format!("{handle}\\tf\\t\\t2\\tworker lost")]
    );
    assert_eq!(
        operator.line(&format!("retry dead {handle}")),
        "text OK 1\\r\\n"
    );
    let mut worker = Wire::connect(daemon.addr("gearman").unwrap());
    worker.send(Request::CanDo { function: b"f" });
    wait::until_true("it lives again", || {
        worker.send(Request::GrabJob(Grab::Plain));
        worker.next().unwrap().contains("killer")
    })
    .unwrap();
    daemon.stop().unwrap();
}

#[test]
fn a_recurring_job_survives_kill_nine_until_it_is_dropped() {
    let mut daemon = builder().start().unwrap();
    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    let every = |minute: &'static [u8]| Submit {
        schedule: Some([minute, b"", b"*", b"*", b""]),
        ..Submit::new(b"f", b"nightly", b"w").background()
    };
    wire.send(Request::Submit(every(b"99")));
    assert!(is_error(&wire.next().unwrap(), "INVALID_ARGUMENT"));
    wire.send(Request::Submit(every(b"*/1")));
    let handle = wire.handle();
    daemon.kill_and_restart().unwrap();
    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    let listed = wire.list("show schedules");
    assert_eq!(listed.len(), 1, "{listed:?}");
    let expected = format!("{handle}\\tf\\tnightly\\t*/1 * * * *\\t");
    assert!(listed[0].starts_with(&expected), "{listed:?}");
    assert_eq!(wire.line("drop schedule f nightly"), "text OK 1\\r\\n");
    assert_eq!(wire.line("drop schedule f nightly"), "text OK 0\\r\\n");
    daemon.terminate().unwrap();
    daemon.restart().unwrap();
    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    assert!(wire.list("show schedules").is_empty());
    daemon.stop().unwrap();
}

/// What the outside knows of each job: submitters and workers note here.
#[derive(Default)]
struct Ledger {
    acknowledged: Mutex<BTreeSet<String>>,
    runs: Mutex<Runs>,
}

/// What workers saw.
#[derive(Default)]
struct Runs {
    /// The lives of the server, by process id, in which each job was handed out.
    lives: BTreeMap<String, Vec<String>>,
    /// Jobs whose end is known to be in the store.
    settled: BTreeSet<String>,
    /// What must never happen.
    wrong: Vec<String>,
}

impl Runs {
    fn began(&mut self, life: &str, job: &str) {
        if self.settled.contains(job) {
            self.wrong
                .push(format!("{job} came again after its end was stored"));
        }
        let lives = self.lives.entry(job.to_owned()).or_default();
        if lives.iter().any(|other| other == life) {
            self.wrong
                .push(format!("{job} was handed out twice in one life"));
        }
        lives.push(life.to_owned());
    }
}

/// Workers.
const WORKERS: usize = 4;
/// Jobs a worker has in hand at once.
const HAND: usize = 16;

/// One connection of a worker, from connecting to the server's death. Requests to the store are carried out in order, so a background submission that is
/// acknowledged behind a completion on the same connection is the receipt for that completion.
fn work_one_life(wire: &mut Wire, runs: &Mutex<Runs>, stop: &AtomicBool) -> Option<()> {
    wire.send_bytes(b"getpid\n");
    let life = wire.next()?;
    wire.send(Request::CanDo { function: b"f" });
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..HAND {
            wire.send(Request::GrabJob(Grab::Plain));
        }
        let mut ended = Vec::new();
        for _ in 0..HAND {
            let packet = wire.next()?;
            let Some(assigned) = packet.strip_prefix("JOB_ASSIGN ") else {
                continue;
            };
            let words: Vec<&str> = assigned.split(' ').collect();
            runs.lock().unwrap().began(&life, words[2]);
            wire.send(Request::WorkComplete {
                handle: words[0].as_bytes(),
                data: b"",
            });
            ended.push(words[2].to_owned());
        }
        if ended.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        wire.send(Request::Submit(
            Submit::new(b"receipts", b"", b"").background(),
        ));
        if wire.next()?.starts_with("JOB_CREATED ") {
            runs.lock().unwrap().settled.extend(ended);
        }
    }
    Some(())
}

fn work_until(stop: &AtomicBool, addr: SocketAddr, ledger: &Ledger) {
    while !stop.load(Ordering::Relaxed) {
        if let Some(mut wire) = Wire::try_connect(addr) {
            // `None` is a server that died; the next one is looked for.
            let _died = work_one_life(&mut wire, &ledger.runs, stop);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

async fn submit_until(stop: Arc<AtomicBool>, addr: SocketAddr, ledger: Arc<Ledger>, name: usize) {
    let config = Config::new([addr.to_string()])
        .with_backoff(Duration::from_millis(5), Duration::from_millis(50));
    let client = Client::connect(config).await.unwrap();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..16 {
            number += 1;
            let (client, workload) = (client.clone(), format!("{name}-{number}"));
            calls.spawn(async move {
                let call = client
                    .submit_background("f", workload.clone())
                    .reply_deadline(Duration::from_secs(20));
                call.await.ok().map(|_| workload)
            });
        }
        let acknowledged: Vec<String> = calls.join_all().await.into_iter().flatten().collect();
        if acknowledged.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        ledger.acknowledged.lock().unwrap().extend(acknowledged);
    }
}

/// Workers and submitters at full speed while the server dies again and again; then every acknowledged job has run.
async fn killed_under_load(mut daemon: Daemon) {
    let addr = daemon.addr("gearman").unwrap();
    let ledger = Arc::new(Ledger::default());
    let stop_submitting = Arc::new(AtomicBool::new(false));
    let submitters: Vec<_> = (0..4)
        .map(|name| {
            tokio::spawn(submit_until(
                Arc::clone(&stop_submitting),
                addr,
                Arc::clone(&ledger),
                name,
            ))
        })
        .collect();
    let stop_working = Arc::new(AtomicBool::new(false));
    let working: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (stop, ledger) = (Arc::clone(&stop_working), Arc::clone(&ledger));
            std::thread::spawn(move || work_until(&stop, addr, &ledger))
        })
        .collect();
    for death in 0..kills() {
        let before = ledger.acknowledged.lock().unwrap().len();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while ledger.acknowledged.lock().unwrap().len() < before + 50 {
            assert!(
                tokio::time::Instant::now() < deadline,
                "no progress before death {death}"
            );
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        tokio::task::block_in_place(|| daemon.kill_and_restart()).unwrap();
    }
    stop_submitting.store(true, Ordering::Relaxed);
    for submitter in submitters {
        submitter.await.unwrap();
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let missing: Vec<String> = {
            let (acknowledged, runs) = (
                ledger.acknowledged.lock().unwrap(),
                ledger.runs.lock().unwrap(),
            );
            acknowledged
                .iter()
                .filter(|name| !runs.lives.contains_key(*name))
                .cloned()
                .collect()
        };
        if missing.is_empty() {
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{} acknowledged jobs never ran, such as {}",
            missing.len(),
            missing[0]
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop_working.store(true, Ordering::Relaxed);
    tokio::task::block_in_place(|| {
        for worker in working {
            worker.join().unwrap();
        }
    });
    let acknowledged = ledger.acknowledged.lock().unwrap().len();
    let runs = ledger.runs.lock().unwrap();
    let again: usize = runs.lives.values().map(|lives| lives.len() - 1).sum();
    eprintln!(
        "{} deaths, {acknowledged} acknowledged jobs, all ran; {} of {} ended with a receipt and never ran after it; {again} runs were cut by a death",
        kills(),
        runs.settled.len(),
        runs.lives.len(),
    );
    assert!(!runs.settled.is_empty());
    // Only what a worker had in hand without a receipt when the server died.
    assert!(again <= kills() * WORKERS * HAND, "{again}");
    assert_eq!(runs.wrong, Vec::<String>::new());
    drop(runs);
    daemon.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_under_load_on_sqlite() {
    // A fixed port, so that clients find the server again.
    let port = ports::free().port();
    let daemon = builder()
        .set("listen", &format!("[\"127.0.0.1:{port}\"]"))
        .start()
        .unwrap();
    killed_under_load(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_under_load_on_mariadb() {
    let Some(server) = mariadb::Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    let port = ports::free().port();
    let daemon = builder()
        .set("queue", "mysql")
        .set("store.url", &database.url())
        .set("listen", &format!("[\"127.0.0.1:{port}\"]"))
        .start()
        .unwrap();
    killed_under_load(daemon).await;
}

#[test]
fn a_failed_job_comes_again_and_dies_with_its_error() {
    let daemon = builder().set("retry", "[\"f 2 1s\"]").start().unwrap();
    let addr = daemon.addr("gearman").unwrap();
    let mut wire = Wire::connect(addr);
    let handle = submit(&mut wire, "f", "w");
    let mut worker = Wire::connect(addr);
    worker.send(Request::CanDo { function: b"f" });
    worker.send(Request::GrabJob(Grab::Plain));
    worker.next().unwrap();
    worker.send(Request::WorkFail {
        handle: handle.as_bytes(),
    });
    // It is woken when the pause is over.
    worker.send(Request::PreSleep);
    assert_eq!(worker.next().unwrap().trim(), "NOOP");
    worker.send(Request::GrabJob(Grab::Plain));
    assert!(worker.next().unwrap().starts_with("JOB_ASSIGN "));
    worker.send(Request::WorkException {
        handle: handle.as_bytes(),
        data: b"no space left",
    });
    wait::until_true("the job to be given up", || {
        let dead = daemon.admin_get("/-/dead").unwrap().text();
        dead.contains("no space left")
    })
    .unwrap();
    daemon.stop().unwrap();
}

#[test]
fn headers_survive_and_results_are_kept() {
    let mut daemon = builder().set("result_ttl", "1h").start().unwrap();
    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    wire.send(Request::Option { name: b"headers" });
    wire.next().unwrap();
    let handle = submit(&mut wire, "f", "x-trace=7;attempts=1\0work");
    daemon.kill_and_restart().unwrap();
    let addr = daemon.addr("gearman").unwrap();
    let mut worker = Wire::connect(addr);
    worker.send(Request::Option { name: b"headers" });
    worker.next().unwrap();
    worker.send(Request::CanDo { function: b"f" });
    worker.send(Request::GrabJob(Grab::Unique));
    let expected = format!("JOB_ASSIGN_UNIQ {handle} f  x-trace=7;attempts=1 work");
    assert_eq!(worker.next().unwrap(), expected);
    worker.send(Request::WorkComplete {
        handle: handle.as_bytes(),
        data: b"result",
    });
    worker.said();
    let mut client = Wire::connect(addr);
    client.send(Request::Option { name: b"results" });
    client.next().unwrap();
    client.send(Request::GetStatus {
        handle: handle.as_bytes(),
    });
    assert_eq!(
        client.next().unwrap(),
        format!("STATUS_RES {handle} 0 0 0 0")
    );
    assert_eq!(
        client.next().unwrap(),
        format!("WORK_COMPLETE {handle} result")
    );
    assert!(daemon.metric("ibex_gearmand_results").unwrap() >= 1.0);
    daemon.stop().unwrap();
}

#[test]
fn a_queue_in_memory_is_written_at_a_clean_stop() {
    let mut daemon = builder()
        .arg("-q")
        .arg("sqlite")
        .arg("--store-queue-on-shutdown")
        .set("job_retries", "1")
        .start()
        .unwrap();
    let addr = daemon.addr("gearman").unwrap();
    let mut wire = Wire::connect(addr);
    let waiting = submit(&mut wire, "f", "waiting");
    let running = submit(&mut wire, "g", "running");
    let dead = submit(&mut wire, "h", "dead");
    let mut worker = Wire::connect(addr);
    for function in [&b"g"[..], b"h"] {
        worker.send(Request::CanDo { function });
        worker.send(Request::GrabJob(Grab::Plain));
        assert!(worker.next().unwrap().starts_with("JOB_ASSIGN "));
    }
    // Taken back from a worker that may not try again.
    worker.send(Request::CantDo { function: b"h" });
    worker.said();
    daemon.terminate().unwrap();
    drop(worker);
    daemon.restart().unwrap();
    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    let lists = [wire.list("show dead"), wire.list("show jobs")];
    assert!(lists[0][0].starts_with(&format!("{dead}\\th")), "{lists:?}");
    for function in [&b"f"[..], b"g"] {
        wire.send(Request::CanDo { function });
    }
    let mut found = BTreeSet::new();
    for _ in 0..2 {
        wire.send(Request::GrabJob(Grab::Plain));
        let packet = wire.next().unwrap();
        found.extend(packet.split(' ').nth(1).map(str::to_owned));
    }
    assert_eq!(found, [waiting, running.clone()].into());
    // What has ended does not come back; what came since is lost with the process.
    wire.send(Request::WorkComplete {
        handle: running.as_bytes(),
        data: b"",
    });
    submit(&mut wire, "f", "lost");
    wire.said();
    daemon.kill_and_restart().unwrap();
    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    let kept = wire.list("show jobs");
    assert!(
        kept.iter().all(|line| !line.contains("lost")) && kept.len() <= 2,
        "{kept:?}"
    );
    daemon.stop().unwrap();
}

#[test]
fn the_file_of_debians_server_is_taken_over() {
    let Some(program) = ibex_testkit::skip::program("gearmand") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("queue.db");
    let addr = ports::free();
    let mut original = std::process::Command::new(program)
        .args(["-L", "127.0.0.1", "-q", "libsqlite3", "-l", "none", "-p"])
        .arg(addr.port().to_string())
        .arg("-P")
        .arg(dir.path().join("pid"))
        .arg(format!("--libsqlite3-db={}", file.display()))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait::until_true("the original to listen", || {
        std::net::TcpStream::connect(addr).is_ok()
    })
    .unwrap();
    let mut wire = Wire::connect(addr);
    for n in 0..3 {
        let key = format!("key{n}");
        wire.send(Request::Submit(
            Submit::new(b"f", key.as_bytes(), format!("w{n}").as_bytes()).background(),
        ));
        wire.handle();
    }
    original.kill().unwrap();
    original.wait().unwrap();

    let daemon = builder()
        .arg("-q")
        .arg("libsqlite3")
        .arg(format!("--libsqlite3-db={}", file.display()))
        .start()
        .unwrap();
    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    wire.send(Request::CanDo { function: b"f" });
    let mut found = BTreeSet::new();
    for _ in 0..3 {
        wire.send(Request::GrabJob(Grab::Unique));
        let packet = wire.next().unwrap();
        found.extend(packet.split(' ').skip(2).map(str::to_owned));
    }
    let expected = ["f", "key0", "key1", "key2", "w0", "w1", "w2"];
    assert_eq!(found, expected.map(str::to_owned).into());
    daemon.stop().unwrap();
}

#[test]
fn a_full_disk_is_answered_and_survived() {
    let Some(small) = Small::mount(8) else { return };
    let ballast = small.path().join("ballast");
    std::fs::write(&ballast, vec![1; 4 << 20]).unwrap();
    let state = small.path().join("state");
    let mut daemon = builder()
        .set("state_dir", &state.display().to_string())
        .announce("jobs could not be stored")
        .start()
        .unwrap();
    let addr = daemon.addr("gearman").unwrap();
    let mut wire = Wire::connect(addr);
    let workload = "w".repeat(50_000);
    let mut acknowledged = BTreeSet::new();
    let try_one = |wire: &mut Wire, acknowledged: &mut BTreeSet<String>| {
        wire.send(Request::Submit(
            Submit::new(b"f", b"", workload.as_bytes()).background(),
        ));
        let packet = wire.next().unwrap();
        match packet.strip_prefix("JOB_CREATED ") {
            Some(handle) => acknowledged.insert(handle.to_owned()),
            None => {
                assert!(is_error(&packet, "QUEUE_ERROR"), "{packet}");
                false
            }
        }
    };
    while try_one(&mut wire, &mut acknowledged) {
        assert!(acknowledged.len() < 1000, "eight megabytes hold all that");
    }
    // Others go on: foreground jobs need no disk.
    let mut worker = Wire::connect(addr);
    worker.send(Request::CanDo { function: b"now" });
    wire.send(Request::Submit(Submit::new(b"now", b"", b"foreground")));
    wire.handle();
    worker.send(Request::GrabJob(Grab::Plain));
    assert!(worker.next().unwrap().ends_with("foreground"));
    // Room again: without a restart submissions are taken again.
    std::fs::remove_file(&ballast).unwrap();
    wait::until_true("jobs to be stored again", || {
        try_one(&mut wire, &mut acknowledged)
    })
    .unwrap();
    daemon.kill_and_restart().unwrap();
    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    wire.send(Request::CanDo { function: b"f" });
    let mut found = BTreeSet::new();
    loop {
        wire.send(Request::GrabJob(Grab::Plain));
        let packet = wire.next().unwrap();
        let Some(assigned) = packet.strip_prefix("JOB_ASSIGN ") else {
            break;
        };
        found.extend(assigned.split(' ').next().map(str::to_owned));
    }
    assert_eq!(found, acknowledged);
    daemon.stop().unwrap();
}

#[test]
fn two_servers_on_one_database_take_turns() {
    let Some(server) = mariadb::Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    // The owner beats by its own lease, a challenger judges silence by its: the one that must be refused is patient, the one that must take over is not.
    let with = |patience: &str, lease: &str| {
        builder()
            .set("queue", "mysql")
            .set("queue_lease", lease)
            .set("store.url", &database.url())
            .set("store.startup_timeout", patience)
    };
    let mut first = with("60s", "3s").start().unwrap();
    let mut wire = Wire::connect(first.addr("gearman").unwrap());
    submit(&mut wire, "f", "kept");
    let refused = format!("{:#}", with("1s", "10m").start().unwrap_err());
    assert!(
        refused.contains("belongs to the running server"),
        "{refused}"
    );
    // The first one serves on, and its own next life does not wait for the lease of the one before.
    submit(&mut wire, "f", "kept too");
    first.kill_and_restart().unwrap();
    // When it is dead the second one takes over, with everything.
    first.kill().unwrap();
    let second = with("120s", "3s")
        .announce("job store, will retry")
        .start()
        .unwrap();
    let mut wire = Wire::connect(second.addr("gearman").unwrap());
    wire.send(Request::CanDo { function: b"f" });
    for workload in ["kept", "kept too"] {
        wire.send(Request::GrabJob(Grab::Plain));
        let packet = wire.next().unwrap();
        assert!(packet.ends_with(workload), "{packet}");
    }
    second.stop().unwrap();
}

#[test]
fn a_database_that_is_gone_refuses_background_jobs_and_only_those() {
    let Some(mut server) = mariadb::Server::start_own().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    let url = database.url();
    // It must live as long as the server, which this test ends and starts again.
    std::mem::forget(database);
    let mut daemon = builder()
        .set("queue", "mysql")
        .set("store.url", &format!("{url}?timeout=2s&connect_timeout=1s"))
        .announce("jobs could not be stored")
        .start()
        .unwrap();
    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    submit(&mut wire, "f", "before");
    server.kill().unwrap();
    wire.send(Request::Submit(
        Submit::new(b"f", b"", b"lost").background(),
    ));
    assert!(is_error(&wire.next().unwrap(), "QUEUE_ERROR"));
    wire.send(Request::Submit(Submit::new(b"g", b"", b"foreground")));
    assert!(wire.next().unwrap().starts_with("JOB_CREATED "));
    server.restart().unwrap();
    wait::until_true("the database is used again", || {
        wire.send(Request::Submit(
            Submit::new(b"f", b"", b"after").background(),
        ));
        wire.next().unwrap().starts_with("JOB_CREATED ")
    })
    .unwrap();
    daemon.terminate().unwrap();
    daemon.restart().unwrap();
    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    wire.send(Request::CanDo { function: b"f" });
    for expected in ["before", "after"] {
        wire.send(Request::GrabJob(Grab::Plain));
        let packet = wire.next().unwrap();
        assert!(packet.ends_with(expected), "{packet}");
    }
    daemon.stop().unwrap();
}

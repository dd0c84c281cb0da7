//! What does not stay in memory: workloads beyond `memory_max`, which wait in the store, and results, which outlive the server there.

use ibex_gearman_proto::{Grab, Request, Submit};
use ibex_testkit::daemon::Builder;
use ibex_testkit::{Daemon, mariadb, wait};

use crate::packets::{Wire, is_error};

const JOBS: usize = 300;
const BYTES: usize = 20_000;
/// A third of all workloads.
const MEMORY: &str = "2M";

fn builder() -> Builder {
    Daemon::builder("ibex-gearmand").set("memory_max", MEMORY)
}

/// Differs from job to job, in all its length.
fn workload(number: usize) -> String {
    format!("{number:05}").repeat(BYTES / 5)
}

fn submit_all(wire: &mut Wire) {
    // Few enough on their way at once that none is refused.
    for first in (0..JOBS).step_by(10) {
        for number in first..first + 10 {
            let workload = workload(number);
            let submit = Submit::new(b"f", b"", workload.as_bytes()).background();
            wire.send(Request::Submit(submit));
        }
        for _ in 0..10 {
            wire.handle();
        }
    }
}

fn away(daemon: &Daemon) -> f64 {
    daemon.metric("ibex_gearmand_workloads_away").unwrap()
}

fn is_settled(daemon: &Daemon) -> bool {
    daemon.metric("ibex_gearmand_store_backlog").unwrap() < 1.0
}

/// Takes jobs and does them until the last has come, or `count`; says which came, in order.
fn work(wire: &mut Wire, count: usize) -> Vec<usize> {
    let mut numbers = Vec::new();
    while numbers.len() < count && numbers.last() != Some(&(JOBS - 1)) {
        wire.send(Request::GrabJob(Grab::Plain));
        let packet = wire.next().unwrap();
        let assigned = packet.strip_prefix("JOB_ASSIGN ");
        let assigned = assigned.unwrap_or_else(|| panic!("{packet:.100}"));
        let (handle, data) = assigned.split_once(" f ").unwrap();
        let number = data[..5].parse().unwrap();
        assert!(
            data == workload(number),
            "the workload of {number} is another"
        );
        let handle = handle.as_bytes();
        wire.send(Request::WorkComplete { handle, data: b"" });
        numbers.push(number);
    }
    numbers
}

/// Memory is bounded, order and content are kept, over kill -9 too.
fn most_wait_in_the_store(mut daemon: Daemon) {
    let mut client = Wire::connect(daemon.addr("gearman").unwrap());
    submit_all(&mut client);
    assert!(away(&daemon) > 200.0, "{}", away(&daemon));
    let resident = daemon.metric("ibex_gearmand_workload_bytes").unwrap();
    assert!(resident < f64::from(2 << 20), "{resident}");
    // Half of the memory is for what cannot wait there.
    client.send(Request::Submit(Submit::new(b"g", b"", b"foreground")));
    client.handle();

    let mut worker = Wire::connect(daemon.addr("gearman").unwrap());
    worker.send(Request::CanDo { function: b"f" });
    assert_eq!(work(&mut worker, 100), (0..100).collect::<Vec<_>>());
    daemon.kill_and_restart().unwrap();
    let resident = daemon.metric("ibex_gearmand_workload_bytes").unwrap();
    assert!(resident < f64::from(2 << 20), "{resident}");
    let mut worker = Wire::connect(daemon.addr("gearman").unwrap());
    worker.send(Request::CanDo { function: b"f" });
    let numbers = work(&mut worker, usize::MAX);
    // Ends that had not reached the disk come again; nothing is missing, nothing overtakes.
    assert!(numbers[0] <= 100);
    assert_eq!(numbers, (numbers[0]..JOBS).collect::<Vec<_>>());
    worker.said();
    wait::until_true("nothing is away", || away(&daemon) < 1.0).unwrap();
    wait::until_true("everything is written", || is_settled(&daemon)).unwrap();
    daemon.stop().unwrap();
}

#[test]
fn most_wait_in_sqlite() {
    most_wait_in_the_store(builder().start().unwrap());
}

#[test]
fn most_wait_in_mariadb() {
    let Some(server) = mariadb::Server::start().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    let builder = builder().set("queue", "mysql");
    most_wait_in_the_store(builder.set("store.url", &database.url()).start().unwrap());
}

#[test]
fn without_a_store_what_is_beyond_is_refused() {
    let daemon = builder().set("queue", "memory").start().unwrap();
    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    let accepted = (0..JOBS).take_while(|number| {
        let workload = workload(*number);
        let submit = Submit::new(b"f", b"", workload.as_bytes()).background();
        wire.send(Request::Submit(submit));
        let packet = wire.next().unwrap();
        let is_refused = is_error(&packet, "QUEUE_ERROR");
        assert!(is_refused || packet.starts_with("JOB_CREATED "), "{packet}");
        !is_refused
    });
    let accepted = accepted.count();
    assert!((90..=104).contains(&accepted), "{accepted}");
    daemon.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_deleted_is_a_dead_job() {
    let daemon = builder().start().unwrap();
    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    submit_all(&mut wire);
    let url = format!("sqlite:{}", daemon.dir().join("state/jobs.db").display());
    let db = ibex_sql::Db::open(&ibex_sql::Config::new(&url).unwrap())
        .await
        .unwrap();
    let sql = "DELETE FROM gearman_jobs WHERE id = (SELECT MAX(id) - 2 FROM gearman_jobs)";
    db.execute(sql, Vec::new()).await.unwrap();
    db.close().await.unwrap();
    wire.send(Request::CanDo { function: b"f" });
    let numbers = work(&mut wire, usize::MAX);
    let expected: Vec<usize> = (0..JOBS).filter(|n| *n != JOBS - 3).collect();
    assert_eq!(numbers, expected);
    let dead = daemon.admin_get("/-/dead").unwrap().text();
    assert!(dead.contains("its workload is not in the store"), "{dead}");
    let lost = daemon.metric("ibex_gearmand_workloads_lost_total").unwrap();
    assert!((0.9..1.1).contains(&lost), "{lost}");
    daemon.stop().unwrap();
}

#[test]
fn a_store_that_is_gone_holds_up_only_what_is_in_it() {
    let Some(mut server) = mariadb::Server::start_own().unwrap() else {
        return;
    };
    let database = server.database().unwrap();
    let url = database.url();
    // It must live as long as the server, which this test ends and starts again.
    std::mem::forget(database);
    let daemon = builder()
        .set("queue", "mysql")
        .set("store.url", &format!("{url}?timeout=2s&connect_timeout=1s"))
        .announce("workloads could not be read")
        .announce("jobs could not be stored")
        .start()
        .unwrap();
    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    submit_all(&mut wire);
    server.kill().unwrap();
    let mut worker = Wire::connect(daemon.addr("gearman").unwrap());
    worker.send(Request::CanDo { function: b"f" });
    let failed = || daemon.metric("ibex_gearmand_workload_fetches_failed_total");
    wait::until_true("a question without an answer", || failed().unwrap() > 0.0).unwrap();
    // What is here goes on, and what comes is not held up by what is there.
    let mut numbers = Vec::new();
    wire.send(Request::Submit(Submit::new(b"f", b"", b"foreground")));
    wire.handle();
    loop {
        worker.send(Request::GrabJob(Grab::Plain));
        let packet = worker.next().unwrap();
        if packet.ends_with(" f foreground") {
            break;
        }
        if packet.starts_with("JOB_ASSIGN ") {
            let (handle, data) = packet.split_once(" f ").unwrap();
            numbers.push(data[..5].parse::<usize>().unwrap());
            let handle = &handle.as_bytes()["JOB_ASSIGN ".len()..];
            worker.send(Request::WorkComplete { handle, data: b"" });
        }
    }
    server.restart().unwrap();
    wait::until_true("the store answers again", || {
        worker.send(Request::GrabJob(Grab::Plain));
        let packet = worker.next().unwrap();
        let Some((handle, data)) = packet.split_once(" f ") else {
            return false;
        };
        numbers.push(data[..5].parse().unwrap());
        let handle = &handle.as_bytes()["JOB_ASSIGN ".len()..];
        worker.send(Request::WorkComplete { handle, data: b"" });
        true
    })
    .unwrap();
    numbers.extend(work(&mut worker, usize::MAX));
    assert_eq!(numbers, (0..JOBS).collect::<Vec<_>>());
    worker.said();
    wait::until_true("everything is written", || is_settled(&daemon)).unwrap();
    daemon.stop().unwrap();
}

#[test]
fn results_of_durable_jobs_outlive_the_server() {
    let builder = Daemon::builder("ibex-gearmand").set("result_ttl", "1h");
    let mut daemon = builder.start().unwrap();
    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    let submit = Submit::new(b"f", b"key", b"work").background();
    wire.send(Request::Submit(submit));
    let handle = wire.handle();
    wire.send(Request::CanDo { function: b"f" });
    wire.send(Request::GrabJob(Grab::Plain));
    wire.next().unwrap();
    wire.send(Request::WorkComplete {
        handle: handle.as_bytes(),
        data: b"result",
    });
    wire.said();
    wait::until_true("it is written", || is_settled(&daemon)).unwrap();
    daemon.kill_and_restart().unwrap();
    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    wire.send(Request::Option { name: b"results" });
    wire.next().unwrap();
    wire.send(Request::GetStatusUnique { unique: b"key" });
    assert_eq!(wire.next().unwrap(), "STATUS_RES_UNIQUE key 0 0 0 0 0");
    let complete = format!("WORK_COMPLETE {handle} result");
    assert_eq!(wire.next().unwrap(), complete);
    // An equal job within the window is answered by it.
    wire.send(Request::Option { name: b"headers" });
    wire.next().unwrap();
    wire.send(Request::Submit(Submit::new(
        b"f",
        b"key",
        b"dedupe=3600\0work",
    )));
    assert_eq!(wire.handle(), handle);
    assert_eq!(wire.next().unwrap(), complete);
    daemon.stop().unwrap();
}

#[test]
fn deaths_between_reads_and_ends_lose_no_workload() {
    // More with `IBEX_KILLS`.
    let deaths = std::env::var("IBEX_KILLS").ok();
    let deaths = deaths.and_then(|n| n.parse().ok()).unwrap_or(3);
    let mut daemon = builder().start().unwrap();
    submit_all(&mut Wire::connect(daemon.addr("gearman").unwrap()));
    let mut seen = vec![false; JOBS];
    for _ in 0..deaths {
        let mut worker = Wire::connect(daemon.addr("gearman").unwrap());
        worker.send(Request::CanDo { function: b"f" });
        for number in work(&mut worker, 3) {
            seen[number] = true;
        }
        daemon.kill_and_restart().unwrap();
    }
    let mut worker = Wire::connect(daemon.addr("gearman").unwrap());
    worker.send(Request::CanDo { function: b"f" });
    for number in work(&mut worker, usize::MAX) {
        seen[number] = true;
    }
    assert!(seen.iter().all(|seen| *seen));
    daemon.stop().unwrap();
}

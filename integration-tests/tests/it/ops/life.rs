//! From start to stop: readiness, reload, drain, SIGKILL.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ibex_testkit::{Daemon, http, wait};
use integration_tests::ping;
use rustix::process::Signal;

use super::Case;

/// An idle daemon is gone within this time (on a machine that does other things too).
const IDLE_STOP_MAX: Duration = Duration::from_millis(500);

fn ping_of(case: &Case, daemon: &Daemon) -> (ping::Ping, std::net::SocketAddr) {
    (
        ping::of(case.member.short).unwrap(),
        daemon.addr(case.member.listener).unwrap(),
    )
}

pub(super) fn ready_means_served(short: &str) {
    let case = Case::new(short);
    let path = case.dir.path().join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let daemon = case
        .builder()
        .env("NOTIFY_SOCKET", &path)
        .unready()
        .start()
        .unwrap();
    wait_message(&socket, "READY=1");
    let answer = daemon.admin_get("/readyz").unwrap();
    assert_eq!(
        answer.status,
        200,
        "ready to systemd and to HTTP at the same moment: {}",
        answer.text()
    );
    let (ping, addr) = ping_of(&case, &daemon);
    ping.fresh(addr).unwrap();
    assert_eq!(daemon.admin_get("/startupz").unwrap().status, 200);
    assert_eq!(daemon.admin_get("/healthz").unwrap().text(), "ok\n");
    daemon.stop().unwrap();
    wait_message(&socket, "STOPPING=1");
}

/// Reads datagrams until one has the line `wanted`; answers how many others came before it.
fn wait_message(socket: &UnixDatagram, wanted: &str) -> usize {
    let mut buffer = [0; 4096];
    for before in 0.. {
        let read = socket
            .recv(&mut buffer)
            .unwrap_or_else(|error| panic!("no {wanted} came: {error}"));
        let text = String::from_utf8_lossy(&buffer[..read]);
        if text.lines().any(|line| line == wanted) {
            return before;
        }
    }
    unreachable!("the counter has no end")
}

pub(super) fn reloads(short: &str) {
    const RELOADS: usize = 100;
    let case = Case::new(short);
    let path = case.dir.path().join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let daemon = case.builder().env("NOTIFY_SOCKET", &path).start().unwrap();
    wait_message(&socket, "READY=1");
    let (ping, addr) = ping_of(&case, &daemon);
    let load = Load::start(ping, addr);
    for _ in 0..RELOADS {
        daemon.signal(Signal::HUP).unwrap();
        wait_message(&socket, "RELOADING=1");
        wait_message(&socket, "READY=1");
    }
    let asked = load.stop();
    assert!(asked > 0, "the load asked nothing");
    assert!((daemon.metric("ibex_config_reload_success").unwrap() - 1.0).abs() < f64::EPSILON);
    daemon.stop().unwrap();
}

/// Two clients that ask all the time: one with a fresh connection for each question, one with a connection it keeps (where the protocol allows it).
struct Load {
    is_over: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(ping: ping::Ping, addr: std::net::SocketAddr) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicU32::new(0));
        let client = |keeps: bool| {
            let (is_over, asked) = (Arc::clone(&is_over), Arc::clone(&asked));
            std::thread::spawn(move || {
                let mut kept = keeps.then(|| ping::connect(addr).unwrap());
                while !is_over.load(Ordering::SeqCst) {
                    match kept.as_mut() {
                        Some(stream) => ping.ask(stream).unwrap(),
                        None => ping.fresh(addr).unwrap(),
                    }
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let mut threads = vec![client(false)];
        if ping.keeps() {
            threads.push(client(true));
        }
        Self {
            is_over,
            asked,
            threads,
        }
    }

    fn stop(self) -> u32 {
        self.is_over.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("a request failed under load");
        }
        self.asked.load(Ordering::SeqCst)
    }
}

pub(super) fn broken_reload(short: &str) {
    let case = Case::new(short);
    let file = case.file("[log]\nlevel = \"info\"\n");
    let mut daemon = case.builder().arg("--config").arg(&file).start().unwrap();
    let (ping, addr) = ping_of(&case, &daemon);
    std::fs::write(&file, "[log\nlevel = \"info\"\n").unwrap();
    daemon.announce("reload");
    daemon.signal(Signal::HUP).unwrap();
    wait::until_true("the metric to say that the reload failed", || {
        daemon
            .metric("ibex_config_reload_success")
            .is_ok_and(|value| value == 0.0)
    })
    .unwrap();
    ping.fresh(addr).unwrap();
    std::fs::write(&file, "[log]\nlevel = \"debug\"\n").unwrap();
    daemon.signal(Signal::HUP).unwrap();
    wait::until_true("the metric to say that the reload worked", || {
        daemon
            .metric("ibex_config_reload_success")
            .is_ok_and(|value| value == 1.0)
    })
    .unwrap();
    ping.fresh(addr).unwrap();
    daemon.stop().unwrap();
}

pub(super) fn idle_stop(short: &str) {
    let case = Case::new(short);
    // The best of three: the other tests of the run take the processor when they like.
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let daemon = case.builder().start().unwrap();
        let (ping, addr) = ping_of(&case, &daemon);
        ping.fresh(addr).unwrap();
        best = best.min(daemon.stop().unwrap());
        if best < IDLE_STOP_MAX {
            return;
        }
    }
    panic!("the stop takes {best:?}");
}

pub(super) fn lame_duck(short: &str) {
    let case = Case::new(short);
    let mut daemon = case.builder().set("shutdown.delay", "2s").start().unwrap();
    let (ping, addr) = ping_of(&case, &daemon);
    let admin = daemon.admin().unwrap();
    daemon.signal(Signal::TERM).unwrap();
    wait::until_true("/readyz to say no", || {
        http::get(admin, "/readyz").is_ok_and(|answer| answer.status == 503)
    })
    .unwrap();
    ping.fresh(addr)
        .expect("the listener is open while the balancer looks away");
    let status = daemon.wait_exit(Duration::from_secs(20)).unwrap();
    assert_eq!(status.code(), Some(0));
    daemon.judge_log().unwrap();
}

pub(super) fn stuck_client(short: &str) {
    let case = Case::new(short);
    let mut daemon = case.builder().set("shutdown.grace", "1s").start().unwrap();
    let (ping, addr) = ping_of(&case, &daemon);
    let mut stuck = ping::connect(addr).unwrap();
    stuck.write_all(&ping.ask[..ping.ask.len() - 1]).unwrap();
    ping.fresh(addr)
        .expect("one that was let in after the stuck one is answered, so both are in");
    let start = Instant::now();
    daemon.announce("drain");
    daemon.terminate().unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "grace is 1 s, the stop took {:?}",
        start.elapsed()
    );
    daemon.judge_log().unwrap();
}

pub(super) fn kill_nine(short: &str) {
    let case = Case::new(short);
    let mut daemon = case.builder().start().unwrap();
    for _ in 0..3 {
        let (ping, addr) = ping_of(&case, &daemon);
        ping.fresh(addr).unwrap();
        daemon
            .kill_and_restart()
            .expect("no lock to delete, no port to wait for, nothing to repair");
    }
    let (ping, addr) = ping_of(&case, &daemon);
    ping.fresh(addr).unwrap();
    daemon.stop().unwrap();
}

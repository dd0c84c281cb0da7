//! Requests through to backends: persistence, queue, failures, forwarding, limits.
#![allow(
    clippy::unwrap_used,
    reason = "tests and their helpers stop at the first surprise"
)]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ibex_testkit::wait::until_true;

use crate::support::{Backend, Manage, Raw, balancer, get, last_words, proxy_commands, respond};

const KEEP: &str = "persist_client = on\npersist_backend = on";

#[test]
fn connections_are_kept_on_both_sides() {
    let backend = Backend::text("hello");
    let daemon = balancer(&proxy_commands(&[backend.addr], KEEP));
    let mut client = Raw::connect(daemon.addr("web").unwrap());
    for n in 0..20 {
        let answer = client
            .send(&format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .answer();
        assert_eq!(
            (
                answer.status,
                answer.text().as_str(),
                answer.header("Connection")
            ),
            (200, "hello", Some("keep-alive"))
        );
    }
    assert_eq!(
        backend.connections(),
        1,
        "one backend connection serves all"
    );
    assert_eq!(backend.seen().len(), 20);
    daemon.stop().unwrap();
}

#[test]
fn without_persistence_every_request_connects() {
    let backend = Backend::text("x");
    let daemon = balancer(&proxy_commands(&[backend.addr], ""));
    let addr = daemon.addr("web").unwrap();
    for _ in 0..3 {
        let answer = Raw::connect(addr)
            .send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .answer();
        assert_eq!(answer.header("Connection"), Some("close"));
    }
    assert_eq!(backend.connections(), 3);
    assert!(
        backend
            .seen()
            .iter()
            .all(|s| s.header("Connection") == Some("close"))
    );
    daemon.stop().unwrap();
}

#[test]
fn forwarded_request() {
    let backend = Backend::text("x");
    let daemon = balancer(&proxy_commands(&[backend.addr], KEEP));
    Raw::connect(daemon.addr("web").unwrap()).send("GET /p?q=1 HTTP/1.1\r\nHost: site.example:80\r\nConnection: close, X-Drop\r\nX-Drop: 1\r\nX-Forwarded-For: 6.6.6.6\r\nX-Keep: yes\r\nKeep-Alive: 3\r\n\r\n").answer();
    let seen = &backend.seen()[0];
    assert_eq!(seen.line(), "GET /p?q=1 HTTP/1.1");
    for (name, value) in [
        ("Host", Some("site.example:80")),
        ("X-Drop", None),
        ("X-Forwarded-For", Some("127.0.0.1")),
        ("X-Keep", Some("yes")),
        ("Keep-Alive", None),
        ("Connection", Some("keep-alive")),
        ("X-Proxy-Capabilities", None),
    ] {
        assert_eq!(seen.header(name), value, "{name}");
    }
    daemon.stop().unwrap();
}

#[test]
fn trusted_peers_keep_their_chain() {
    let backend = Backend::text("x");
    let daemon = balancer(&proxy_commands(
        &[backend.addr],
        "trusted_upstream_proxies = 10.0.0.0/8, 127.0.0.1\nenable_reproxy = on",
    ));
    Raw::connect(daemon.addr("web").unwrap())
        .send(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: h\r\n\r\n",
        )
        .answer();
    let seen = &backend.seen()[0];
    assert_eq!(seen.header("X-Forwarded-For"), Some("6.6.6.6, 127.0.0.1"));
    assert_eq!(seen.header("X-Forwarded-Host"), Some("h"));
    assert_eq!(seen.header("X-Proxy-Capabilities"), Some("reproxy-file"));
    daemon.stop().unwrap();
}

#[test]
fn dead_backends_are_passed_over() {
    let dead = ibex_testkit::ports::free();
    let backend = Backend::text("alive");
    let daemon = balancer(&proxy_commands(&[dead, backend.addr], ""));
    let addr = daemon.addr("web").unwrap();
    for _ in 0..10 {
        let begun = Instant::now();
        assert_eq!(get(addr, "/").text(), "alive");
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "no request waits for the dead one"
        );
    }
    daemon.stop().unwrap();
}

#[test]
fn nobody_there_is_503_after_the_queue_timeout() {
    let dead = ibex_testkit::ports::free();
    let daemon = balancer(&proxy_commands(
        &[dead],
        "queue_timeout = 300ms\npersist_client = on",
    ));
    let answer = Raw::connect(daemon.addr("web").unwrap())
        .send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .answer();
    assert_eq!(
        (
            answer.status,
            answer.text().as_str(),
            answer.header("Retry-After")
        ),
        (503, "<h1>503 - Service Unavailable</h1>\n", Some("1"))
    );
    assert_eq!(
        answer.header("Connection"),
        Some("keep-alive"),
        "the client did nothing wrong"
    );
    daemon.stop().unwrap();
}

#[test]
fn a_slow_backend_is_504_and_a_broken_one_502() {
    let backend = Backend::start(|seen, stream| match seen.line() {
        "GET /slow HTTP/1.1" => {
            // Until the balancer gives up and closes.
            drop(stream.read(&mut [0; 1]));
            false
        }
        "GET /close HTTP/1.1" => false,
        "GET /garbage HTTP/1.1" => last_words(stream, b"I am no web server\r\n\r\n"),
        "GET /lengths HTTP/1.1" => last_words(
            stream,
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        ),
        "GET /switch HTTP/1.1" => last_words(stream, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        _ => respond(stream, "200 OK", "", b"fine"),
    });
    let daemon = balancer(&proxy_commands(
        &[backend.addr],
        "backend_timeout = 200ms\npersist_client = on\npersist_backend = on",
    ));
    let mut client = Raw::connect(daemon.addr("web").unwrap());
    for (target, status) in [
        ("/slow", 504),
        ("/close", 502),
        ("/garbage", 502),
        ("/lengths", 502),
        ("/switch", 502),
        ("/", 200),
    ] {
        let answer = client
            .send(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .answer();
        assert_eq!(answer.status, status, "{target}");
    }
    daemon.stop().unwrap();
}

#[test]
fn a_kept_connection_that_closed_costs_nothing() {
    // The backend answers one request per connection and closes without saying so.
    let backend = Backend::start(|_, stream| {
        last_words(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nonce")
    });
    let daemon = balancer(&proxy_commands(&[backend.addr], KEEP));
    let mut client = Raw::connect(daemon.addr("web").unwrap());
    for _ in 0..20 {
        assert_eq!(
            client
                .send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .answer()
                .text(),
            "once"
        );
    }
    daemon.stop().unwrap();
}

#[test]
fn a_truncated_response_is_visible() {
    let backend = Backend::start(|seen, stream| {
        let text: &[u8] = if seen.line().contains("chunked") {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
        } else {
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"
        };
        last_words(stream, text)
    });
    let daemon = balancer(&proxy_commands(&[backend.addr], "persist_client = on"));
    let addr = daemon.addr("web").unwrap();
    let plain = Raw::connect(addr)
        .send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .rest();
    assert!(
        plain.ends_with(b"\r\n\r\nhello"),
        "{}",
        String::from_utf8_lossy(&plain)
    );
    let chunked = Raw::connect(addr)
        .send("GET /chunked HTTP/1.1\r\nHost: a\r\n\r\n")
        .rest();
    assert!(
        !chunked.ends_with(b"0\r\n\r\n"),
        "{}",
        String::from_utf8_lossy(&chunked)
    );
    daemon.stop().unwrap();
}

#[test]
fn bodies_of_every_framing_arrive() {
    let backend = Backend::start(|seen, stream| {
        match seen.line() {
        "GET /chunked HTTP/1.1" => stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: t\r\n\r\n").is_ok(),
        "GET /close HTTP/1.1" => last_words(stream, b"HTTP/1.0 200 OK\r\n\r\nabcde"),
        "HEAD /length HTTP/1.1" => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").is_ok(),
        "GET /none HTTP/1.1" => stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").is_ok(),
        _ => respond(stream, "200 OK", "", b"abcde"),
    }
    });
    let daemon = balancer(&proxy_commands(&[backend.addr], KEEP));
    let addr = daemon.addr("web").unwrap();
    let mut client = Raw::connect(addr);
    for target in ["/chunked", "/close", "/length"] {
        let answer = client
            .send(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .answer();
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "abcde"),
            "{target}"
        );
    }
    assert_eq!(
        client
            .send("GET /none HTTP/1.1\r\nHost: a\r\n\r\n")
            .answer()
            .status,
        204
    );
    client.send("HEAD /length HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        client.try_answer(true).unwrap().header("Content-Length"),
        Some("5")
    );
    let old = Raw::connect(addr)
        .send("GET /chunked HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
        .answer();
    assert_eq!(
        (
            old.text().as_str(),
            old.header("Connection"),
            old.header("Transfer-Encoding")
        ),
        ("abcde", Some("close"), None)
    );
    assert!(old.head.starts_with("HTTP/1.0 200"));
    let kept = Raw::connect(addr)
        .send("GET /length HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
        .answer();
    assert_eq!(
        (kept.header("Connection"), kept.header("Keep-Alive")),
        (Some("keep-alive"), Some("timeout=30"))
    );
    daemon.stop().unwrap();
}

/// A backend that serves one request at a time and only when told, noting the order.
fn stepwise() -> (
    Backend,
    std::sync::mpsc::Sender<()>,
    Arc<Mutex<Vec<String>>>,
) {
    let (go, gate) = channel();
    let gate = Mutex::new(gate);
    let order: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&order);
    let backend = Backend::start(move |seen, stream| {
        log.lock()
            .unwrap()
            .push(seen.line().split(' ').nth(1).unwrap().to_owned());
        gate.lock()
            .unwrap()
            .recv_timeout(Duration::from_secs(20))
            .is_ok()
            && respond(stream, "200 OK", "", b"x")
    });
    (backend, go, order)
}

#[test]
fn high_priority_goes_first_and_low_last() {
    let (backend, go, order) = stepwise();
    let settings =
        "persist_backend = on\nhigh_priority_cookie = paid\nhigh_priority_cookie_contents = yes";
    let mut commands = proxy_commands(&[], settings).replace(
        "CREATE POOL apps\n",
        &format!(
            "CREATE POOL apps\nPOOL apps ADD {} max=1\nLOAD AccessControl\n",
            backend.addr
        ),
    );
    commands.push_str("USE web\nSET plugins = accesscontrol\nSET accesscontrol.use_observed_ip = 1\nSET web.trusted_upstream_proxies = 127.0.0.1\nACCESS QUEUE_LOW IP 9.9.9.9\n");
    let daemon = balancer(&commands);
    let addr = daemon.addr("web").unwrap();
    let mut manage = Manage::connect(&daemon);
    let mut clients = Vec::new();
    for (n, (target, fields)) in [
        ("/first", ""),
        ("/low", "X-Forwarded-For: 9.9.9.9\r\n"),
        ("/normal", ""),
        ("/high", "Cookie: a=b; paid=%79es\r\n"),
        ("/normal2", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = Raw::connect(addr);
        client.send(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        clients.push(client);
        // Each is in the queue before the next comes.
        until_true("the request waits", || {
            let waiting: usize = manage
                .list("queues")
                .iter()
                .filter(|l| l.contains(".count"))
                .map(|l| l.rsplit(' ').next().unwrap().parse::<usize>().unwrap())
                .sum();
            waiting + order.lock().unwrap().len() == n + 1
        })
        .unwrap();
    }
    let queues = manage.list("queues");
    for line in [
        "web-normal.count 2",
        "web-highpri.count 1",
        "web-lowpri.count 1",
    ] {
        assert!(queues.iter().any(|l| l == line), "{line} in {queues:?}");
    }
    for _ in 0..5 {
        go.send(()).unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    assert_eq!(
        *order.lock().unwrap(),
        ["/first", "/high", "/normal", "/normal2", "/low"]
    );
    daemon.stop().unwrap();
}

#[test]
fn a_client_that_leaves_gives_its_place_up() {
    let (backend, go, order) = stepwise();
    let daemon = balancer(&proxy_commands(&[], "persist_backend = on").replace(
        "CREATE POOL apps\n",
        &format!("CREATE POOL apps\nPOOL apps ADD {} max=1\n", backend.addr),
    ));
    let addr = daemon.addr("web").unwrap();
    let mut manage = Manage::connect(&daemon);
    let mut first = Raw::connect(addr);
    first.send("GET /first HTTP/1.1\r\nHost: a\r\n\r\n");
    until_true("the first is served", || order.lock().unwrap().len() == 1).unwrap();
    let mut second = Raw::connect(addr);
    second.send("GET /second HTTP/1.1\r\nHost: a\r\n\r\n");
    until_true("the second waits", || {
        manage
            .list("queues")
            .iter()
            .any(|l| l == "web-normal.count 1")
    })
    .unwrap();
    drop(second);
    until_true("nobody waits", || {
        manage
            .list("queues")
            .iter()
            .any(|l| l == "web-normal.count 0")
    })
    .unwrap();
    go.send(()).unwrap();
    assert_eq!(first.answer().status, 200);
    assert_eq!(*order.lock().unwrap(), ["/first"]);
    daemon.stop().unwrap();
}

#[test]
fn half_close_is_a_goodbye_unless_told_otherwise() {
    let (go, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let backend = Backend::start(move |_, stream| {
        gate.lock().unwrap().recv().is_ok() && respond(stream, "200 OK", "", b"late")
    });
    let daemon = balancer(&proxy_commands(&[backend.addr], "client_abort = finish"));
    let mut client = Raw::connect(daemon.addr("web").unwrap());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.stream().shutdown(Shutdown::Write).unwrap();
    until_true("the backend has it", || !backend.seen().is_empty()).unwrap();
    go.send(()).unwrap();
    assert_eq!(client.answer().text(), "late");

    assert_eq!(
        Manage::connect(&daemon).run("SET web.client_abort = close"),
        "OK"
    );
    let mut client = Raw::connect(daemon.addr("web").unwrap());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    until_true("the backend has it", || backend.seen().len() == 2).unwrap();
    client.stream().shutdown(Shutdown::Write).unwrap();
    assert!(client.rest().is_empty(), "the request was given up");
    go.send(()).unwrap();
    daemon.stop().unwrap();
}

#[test]
fn one_byte_at_a_time() {
    let backend = Backend::start(|seen, stream| {
        let text = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}",
            seen.body.len(),
            String::from_utf8_lossy(&seen.body)
        );
        text.bytes().all(|b| stream.write_all(&[b]).is_ok())
    });
    let daemon = balancer(&proxy_commands(&[backend.addr], KEEP));
    let mut client = Raw::connect(daemon.addr("web").unwrap());
    for body in [
        "Content-Length: 5\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        for byte in format!("POST / HTTP/1.1\r\nHost: a\r\n{body}").chars() {
            client.send(&byte.to_string());
        }
        assert_eq!(client.answer().text(), "hello");
    }
    daemon.stop().unwrap();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::start(|seen, stream| {
        respond(
            stream,
            "200 OK",
            "",
            seen.line().split(' ').nth(1).unwrap().as_bytes(),
        )
    });
    let daemon = balancer(&proxy_commands(&[backend.addr], KEEP));
    let mut client = Raw::connect(daemon.addr("web").unwrap());
    let all: String = (0..50)
        .map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .collect();
    client.send(&all);
    for n in 0..50 {
        assert_eq!(client.answer().text(), format!("/{n}"));
    }
    daemon.stop().unwrap();
}

#[test]
fn error_retries_hide_passing_failures() {
    let tries = AtomicUsize::new(0);
    let backend = Backend::start(move |seen, stream| {
        let n = tries.fetch_add(1, Ordering::SeqCst);
        if n % 3 == 2 && seen.line().starts_with("GET /heals") {
            respond(stream, "200 OK", "", b"fine")
        } else {
            respond(stream, "500 Internal Server Error", "", b"broken")
        }
    });
    let daemon = balancer(&proxy_commands(
        &[backend.addr],
        "enable_error_retries = on\nerror_retry_schedule = 0,.01",
    ));
    let addr = daemon.addr("web").unwrap();
    assert_eq!(get(addr, "/heals").text(), "fine");
    assert_eq!(
        get(addr, "/never").status,
        500,
        "the schedule ends and the error is shown"
    );
    assert_eq!(backend.seen().len(), 6);
    let posted = Raw::connect(addr)
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        .answer();
    assert_eq!(
        (posted.status, backend.seen().len()),
        (500, 7),
        "a POST is not repeated"
    );
    daemon.stop().unwrap();
}

#[test]
fn verification_proves_that_somebody_is_there() {
    let backend = Backend::start(|seen, stream| {
        if seen.line().starts_with("OPTIONS") {
            stream
                .write_all(
                    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
                )
                .is_ok()
        } else {
            respond(stream, "200 OK", "", b"served")
        }
    });
    // Accepts nothing: connections stay in the backlog of the kernel, as with a busy prefork server.
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let daemon = balancer(&proxy_commands(
        &[busy.local_addr().unwrap(), backend.addr],
        "verify_backend = on\npersist_backend = on\nverify_backend_path = /alive",
    ));
    let addr = daemon.addr("web").unwrap();
    for _ in 0..6 {
        let begun = Instant::now();
        assert_eq!(get(addr, "/").text(), "served");
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "the busy node is not waited for"
        );
    }
    assert_eq!(backend.seen()[0].line(), "OPTIONS /alive HTTP/1.0");
    daemon.stop().unwrap();
}

#[test]
fn a_slow_client_does_not_hold_the_backend() {
    const SIZE: usize = 200_000;
    let backend = Backend::start(|_, stream| respond(stream, "200 OK", "", &vec![b'x'; SIZE]));
    let daemon = balancer(&proxy_commands(
        &[backend.addr],
        "persist_client = on\npersist_backend = on\nclient_sndbuf_size = 4k",
    ));
    let addr = daemon.addr("web").unwrap();
    let mut slow = Raw::connect(addr);
    slow.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
    until_true("the backend has answered", || backend.seen().len() == 1).unwrap();
    let mut manage = Manage::connect(&daemon);
    // The client has read nothing, and the backend connection is idle again.
    until_true("the backend is free", || {
        manage
            .list("show service web")
            .iter()
            .any(|l| l == " connect-ahead: 1/0")
    })
    .unwrap();
    assert_eq!(slow.answer().body.len(), SIZE);
    daemon.stop().unwrap();
}

#[test]
fn many_small_requests_leave_nothing_behind() {
    let backend = Backend::text("tiny");
    let daemon = balancer(&proxy_commands(
        &[backend.addr],
        "persist_client = on\npersist_backend = on\nbackend_persist_cache = 8",
    ));
    let addr = daemon.addr("web").unwrap();
    let pid = daemon.pid().unwrap();
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:"))
            .unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse::<u64>()
            .unwrap()
    };
    let files = || {
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count()
    };
    let round = |requests: usize| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut client = Raw::connect(addr);
                    for _ in 0..requests / 4 {
                        assert_eq!(
                            client
                                .send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                                .answer()
                                .status,
                            200
                        );
                    }
                });
            }
        });
    };
    round(2_000);
    let (memory, open) = (resident(), files());
    round(8_000);
    until_true("the sockets of the clients are closed", || {
        files() <= open + 8
    })
    .unwrap();
    let grown = resident().saturating_sub(memory);
    assert!(
        grown < 8 * 1024,
        "{grown} KiB more after 8000 further requests"
    );
    daemon.stop().unwrap();
}

#[test]
fn limits_answer_and_close() {
    let backend = Backend::text("x");
    let settings = "persist_client = on\nmax_body_size = 10\nmax_uri_size = 100\nmax_headers = 5\nmax_header_size = 1k\nmax_requests_per_client = 3\nheader_timeout = 300ms\nmax_connections_per_ip = 3";
    let daemon = balancer(&proxy_commands(&[backend.addr], settings));
    let addr = daemon.addr("web").unwrap();
    let one = |text: &str| Raw::connect(addr).send(text).answer();
    assert_eq!(
        one("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789").status,
        200
    );
    assert_eq!(
        one("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n0123456789a").status,
        413
    );
    assert_eq!(
        one(&format!(
            "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
            "x".repeat(100)
        ))
        .status,
        414
    );
    assert_eq!(
        one("GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\nE: 5\r\n\r\n").status,
        431
    );
    assert_eq!(
        one(&format!(
            "GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n",
            "x".repeat(1024)
        ))
        .status,
        431
    );
    assert_eq!(one("GET / HTTP/1.1\r\nHost: a\r\nA: ").status, 408);
    let mut client = Raw::connect(addr);
    let kept: Vec<bool> = (0..3)
        .map(|_| {
            client
                .send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .answer()
                .header("Connection")
                == Some("keep-alive")
        })
        .collect();
    assert_eq!(kept, [true, true, false]);
    drop(client);
    let mut manage = Manage::connect(&daemon);
    until_true("all clients are gone", || {
        !manage
            .list("states")
            .iter()
            .any(|l| l.contains("ClientProxy"))
    })
    .unwrap();
    let held: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(addr).unwrap()).collect();
    until_true("they are there", || {
        manage
            .list("states")
            .iter()
            .any(|l| l == "Perlbal::ClientProxy reading_headers 3")
    })
    .unwrap();
    assert_eq!(Raw::connect(addr).answer().status, 429);
    drop(held);
    daemon.stop().unwrap();
}

#[test]
fn websockets_are_tunnelled_after_the_backends_101_only() {
    let backend = Backend::start(|seen, stream| {
        if seen.line().starts_with("GET /no") {
            return respond(stream, "403 Forbidden", "", b"no");
        }
        assert_eq!(
            (seen.header("Upgrade"), seen.header("Connection")),
            (Some("websocket"), Some("Upgrade"))
        );
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nfirst").unwrap();
        let mut bytes = [0; 64];
        while let Ok(n @ 1..) = stream.read(&mut bytes) {
            stream.write_all(&bytes[..n]).unwrap();
        }
        false
    });
    let daemon = balancer(&proxy_commands(&[backend.addr], KEEP));
    let addr = daemon.addr("web").unwrap();
    let ask =
        "HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut client = Raw::connect(addr);
    let answer = client.send(&format!("GET /ws {ask}")).answer();
    assert_eq!(
        (
            answer.status,
            answer.header("Upgrade"),
            answer.header("Sec-WebSocket-Accept")
        ),
        (101, Some("websocket"), Some("x"))
    );
    client.send("ping");
    client.stream().shutdown(Shutdown::Write).unwrap();
    let rest = client.rest();
    assert!(rest.starts_with(b"first"), "{rest:?}");
    let mut refused = Raw::connect(addr);
    // Without a 101 what follows is read as HTTP.
    refused
        .send(&format!("GET /no {ask}"))
        .send("GET /no2 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        (refused.answer().status, refused.answer().status),
        (403, 403)
    );
    daemon.stop().unwrap();
}

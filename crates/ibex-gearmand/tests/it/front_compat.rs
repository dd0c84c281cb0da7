//! The HTTP front beside the original's, request by request: the same bytes to both, the same worker behind both. Where they differ, the difference is one
//! of the list below, and it really is one.
//!
//! Compared are the status, the front's own headers, the length and the body. What differs in every answer, the version of HTTP and the closing, has a
//! test of its own.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use ibex_gearman_proto::{Grab, Request};
use ibex_testkit::{Daemon, wait};

use crate::compat::Original;
use crate::packets::Wire;

/// What the worker does with the job; nothing: no job is expected.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    Complete(&'static [u8]),
    Fail,
    Throw,
    Warn,
    Part(&'static [u8]),
}

pub(crate) struct Scene {
    name: &'static str,
    /// The row of `docs/gearman/compatibility.md` that says how ours differs; `None`: it must not.
    pub(crate) difference: Option<&'static str>,
    /// Method and target, then headers and body; the function is `f` and the number of the scene.
    request: &'static str,
    acts: &'static [Act],
}

const fn same(name: &'static str, request: &'static str, acts: &'static [Act]) -> Scene {
    Scene {
        name,
        difference: None,
        request,
        acts,
    }
}

const fn differs(
    name: &'static str,
    difference: &'static str,
    request: &'static str,
    acts: &'static [Act],
) -> Scene {
    Scene {
        name,
        difference: Some(difference),
        request,
        acts,
    }
}

const DONE: &[Act] = &[Act::Complete(b"cba")];

pub(crate) const SCENES: &[Scene] = &[
    same(
        "POST",
        "POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
        DONE,
    ),
    same(
        "POST in 1.0",
        "POST /f HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc",
        DONE,
    ),
    same(
        "PUT",
        "PUT /f HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
        DONE,
    ),
    same("GET", "GET /f HTTP/1.1\r\nHost: h\r\n\r\n", DONE),
    same(
        "unique key and high priority",
        "POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nX-Gearman-Unique: u1\r\nX-Gearman-Priority: high\r\n\r\nabc",
        DONE,
    ),
    same(
        "low priority",
        "POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nX-Gearman-Priority: low\r\n\r\nabc",
        DONE,
    ),
    same(
        "background",
        "POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nX-Gearman-Background: true\r\n\r\nabc",
        DONE,
    ),
    same(
        "an empty result",
        "GET /f HTTP/1.1\r\nHost: h\r\n\r\n",
        &[Act::Complete(b"")],
    ),
    same("no function", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", &[]),
    same(
        "POST without a function",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
        &[],
    ),
    differs(
        "HEAD /",
        "HTTP front: `HEAD /`",
        "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
        &[],
    ),
    differs(
        "a failed job",
        "HTTP front: a job that failed, an exception",
        "GET /f HTTP/1.1\r\nHost: h\r\n\r\n",
        &[Act::Fail],
    ),
    differs(
        "an exception",
        "HTTP front: a job that failed, an exception",
        "GET /f HTTP/1.1\r\nHost: h\r\n\r\n",
        &[Act::Throw],
    ),
    differs(
        "a warning before the result",
        "HTTP front: warnings",
        "GET /f HTTP/1.1\r\nHost: h\r\n\r\n",
        &[Act::Warn, Act::Complete(b"cba")],
    ),
    differs(
        "a part before the result",
        "HTTP front: parts (WORK_DATA)",
        "GET /f HTTP/1.1\r\nHost: h\r\n\r\n",
        &[Act::Part(b"one"), Act::Complete(b"two")],
    ),
    differs(
        "another method",
        "HTTP front: HEAD of a function, other methods",
        "DELETE /f HTTP/1.1\r\nHost: h\r\n\r\n",
        &[],
    ),
    differs(
        "what is no HTTP",
        "HTTP front: what is no HTTP",
        "GARBAGE\r\n\r\n",
        &[],
    ),
    differs(
        "a unique key that is too long",
        "HTTP front: a submission that is refused",
        "POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nX-Gearman-Unique: uuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu\r\n\r\nx",
        &[],
    ),
];

/// What was heard, as text; handles by the letter h.
fn play(http: SocketAddr, data: SocketAddr, function: &str, scene: &Scene) -> String {
    let mut stream = TcpStream::connect(http).unwrap();
    stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let request = scene.request.replacen("/f", &format!("/{function}"), 1);
    stream.write_all(request.as_bytes()).unwrap();
    let mut heard = String::new();
    if !scene.acts.is_empty() {
        let mut worker = Wire::connect(data);
        worker.send(Request::CanDo {
            function: function.as_bytes(),
        });
        let mut assigned = String::new();
        wait::until_true("the job to come", || {
            worker.send(Request::GrabJob(Grab::Unique));
            assigned = worker.next().unwrap();
            assigned != "NO_JOB"
        })
        .unwrap();
        let handle = assigned.split(' ').nth(1).unwrap().to_owned();
        heard = assigned.replace(&handle, "h").replace(function, "f") + "\n";
        for act in scene.acts {
            perform(&mut worker, handle.as_bytes(), *act);
        }
    }
    heard + &answer(&mut stream, request.starts_with("HEAD "))
}

fn perform(worker: &mut Wire, handle: &[u8], act: Act) {
    worker.send(match act {
        Act::Complete(data) => Request::WorkComplete { handle, data },
        Act::Fail => Request::WorkFail { handle },
        Act::Throw => Request::WorkException {
            handle,
            data: b"boom",
        },
        Act::Warn => Request::WorkWarning {
            handle,
            data: b"careful",
        },
        Act::Part(data) => Request::WorkData { handle, data },
    });
    worker.said();
}

/// Reads a whole answer: status, the headers that are compared, the body.
fn answer(stream: &mut TcpStream, is_head: bool) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = header(head, "content-length").and_then(|l| l.parse::<usize>().ok());
            let is_whole = match length {
                _ if is_head => true,
                Some(length) => body.len() >= length,
                None => body.ends_with("0\r\n\r\n"),
            };
            if is_whole {
                return shown(head, body);
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) => return format!("closed after {text:?}"),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                return format!("closed after {text:?}");
            }
            Err(error) => panic!("{error} after {text:?}"),
        }
    }
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

fn shown(head: &str, body: &str) -> String {
    let status = head.split(' ').nth(1).unwrap_or("none");
    let handle = header(head, "x-gearman-job-handle").map(|handle| match handle.rsplit_once(':') {
        Some((_, number)) if number.parse::<u64>().is_ok() => "h".to_owned(),
        _ => handle.to_owned(),
    });
    let command = header(head, "x-gearman-command");
    let length = header(head, "content-length");
    let server = header(head, "server").map(|server| server.split('/').next());
    format!("{status} {handle:?} {command:?} {length:?} {server:?} {body:?}")
}

fn both() -> Option<(Daemon, Original, SocketAddr)> {
    let http = ibex_testkit::ports::free();
    let original = Original::start_with(&[
        "--protocol=http".to_owned(),
        format!("--http-port={}", http.port()),
    ])?;
    wait::until_true("the original's front to listen", || {
        TcpStream::connect(http).is_ok()
    })
    .unwrap();
    let daemon = Daemon::builder("ibex-gearmand")
        .set("http_listen", "[\"127.0.0.1:0\"]")
        .set("queue", "memory")
        .start()
        .unwrap();
    Some((daemon, original, http))
}

#[test]
fn the_same_requests_to_both() {
    let Some((daemon, original, http)) = both() else {
        return;
    };
    let mut wrong = Vec::new();
    for (number, scene) in SCENES.iter().enumerate() {
        let function = format!("scene{number}");
        let addr = |name| daemon.addr(name).unwrap();
        let ours = play(addr("gearman_http"), addr("gearman"), &function, scene);
        let theirs = play(http, original.addr(), &function, scene);
        match scene.difference {
            None if ours != theirs => wrong.push(format!(
                "{}\n  ours   {ours}\n  theirs {theirs}",
                scene.name
            )),
            Some(reason) if ours == theirs => wrong.push(format!(
                "{}: no difference any more ({reason}): {ours}",
                scene.name
            )),
            _ => {}
        }
    }
    daemon.stop().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn versions_connections_paths_and_bodies_differ() {
    let Some((daemon, original, http)) = both() else {
        return;
    };
    let ours = daemon.addr("gearman_http").unwrap();
    // The version, and whether a second request is answered on the connection.
    let twice = |addr: SocketAddr| {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut text = Vec::new();
        drop(stream.read_to_end(&mut text));
        let text = String::from_utf8_lossy(&text).into_owned();
        (text.starts_with("HTTP/1.0 "), text.matches(" 404 ").count())
    };
    assert_eq!((twice(ours), twice(http)), ((false, 2), (true, 1)));
    // The function in a path with a query and an escape, and a body of unknown length.
    let function = |http: SocketAddr, data: SocketAddr, request: &str, names: &[&str]| {
        let mut stream = TcpStream::connect(http).unwrap();
        stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut worker = Wire::connect(data);
        for name in names {
            worker.send(Request::CanDo {
                function: name.as_bytes(),
            });
        }
        let mut assigned = String::new();
        wait::until_true("the job to come", || {
            worker.send(Request::GrabJob(Grab::Plain));
            assigned = worker.next().unwrap();
            assigned != "NO_JOB"
        })
        .unwrap();
        assigned
            .split_once(' ')
            .unwrap()
            .1
            .split_once(' ')
            .unwrap()
            .1
            .to_owned()
    };
    let asked = "POST /q%2Ex?y=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nw";
    let names = ["q.x", "q%2Ex?y=1"];
    let at = daemon.addr("gearman").unwrap();
    assert_eq!(function(ours, at, asked, &names), "q.x w");
    assert_eq!(
        function(http, original.addr(), asked, &names),
        "q%2Ex?y=1 w"
    );
    let chunked =
        "POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nw\r\n0\r\n\r\n";
    assert_eq!(function(ours, at, chunked, &["c"]), "c w");
    let mut stream = TcpStream::connect(http).unwrap();
    stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    stream.write_all(chunked.as_bytes()).unwrap();
    let mut text = Vec::new();
    drop(stream.read_to_end(&mut text));
    assert!(text.is_empty(), "{}", text.escape_ascii());
    daemon.stop().unwrap();
}

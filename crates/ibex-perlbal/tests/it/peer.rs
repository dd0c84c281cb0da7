//! The same bytes to ours and to Debian's perlbal, the answers compared where users depend on them.
#![allow(
    clippy::unwrap_used,
    reason = "tests and their helpers stop at the first surprise"
)]

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ibex_testkit::ports;
use ibex_testkit::skip::program;
use ibex_testkit::wait::until_true;

use crate::support::{Backend, Raw, balancer, respond};

/// The original as a child; killed when dropped.
struct Original {
    child: Child,
    web: SocketAddr,
    files: SocketAddr,
    manage: SocketAddr,
}

impl Drop for Original {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn config(backend: SocketAddr, docroot: &Path, listen: [&str; 3]) -> String {
    let [web, files, manage] = listen;
    format!(
        "CREATE POOL apps\nPOOL apps ADD {backend}\nCREATE SERVICE web\nSET role = reverse_proxy\nSET pool = apps\nSET persist_client = on\nSET persist_backend = on\nSET enable_reproxy = on\nSET listen = {web}\nENABLE web\nCREATE SERVICE files\nSET role = web_server\nSET docroot = {}\nSET dirindexing = off\nSET enable_put = on\nSET enable_delete = on\nSET persist_client = on\nSET listen = {files}\nENABLE files\nCREATE SERVICE mgmt\nSET role = management\nSET listen = {manage}\nENABLE mgmt\n",
        docroot.display()
    )
}

fn original(perlbal: &Path, backend: SocketAddr, docroot: &Path) -> Original {
    let (web, files, manage) = (ports::free(), ports::free(), ports::free());
    let file = docroot.join("../perlbal.conf");
    std::fs::write(
        &file,
        config(
            backend,
            docroot,
            [&web.to_string(), &files.to_string(), &manage.to_string()],
        ),
    )
    .unwrap();
    let child = Command::new(perlbal)
        .arg(format!("--config={}", file.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let original = Original {
        child,
        web,
        files,
        manage,
    };
    until_true("the original listens", || {
        TcpStream::connect(original.manage).is_ok()
    })
    .unwrap();
    original
}

/// Status and body: what both must agree on; versions and dates differ.
fn outcome(addr: SocketAddr, request: &str) -> (u16, String) {
    let to_head = request.starts_with("HEAD");
    let answer = Raw::connect(addr).send(request).try_answer(to_head);
    answer.map_or((0, String::new()), |a| (a.status, a.text()))
}

#[test]
fn files_and_proxied_requests_agree() {
    let Some(perlbal) = program("perlbal") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let docroot = directory.path().join("www");
    std::fs::create_dir_all(docroot.join("dir")).unwrap();
    std::fs::write(docroot.join("a.txt"), "0123456789").unwrap();
    std::fs::write(docroot.join("reproxied"), "from disk").unwrap();
    let path = docroot.join("reproxied");
    let backend =
        Backend::start(
            move |seen, stream| match seen.line().split(' ').nth(1).unwrap() {
                "/reproxy" => respond(
                    stream,
                    "200 OK",
                    &format!("X-REPROXY-FILE: {}\r\n", path.display()),
                    b"",
                ),
                "/gone" => respond(stream, "200 OK", "X-REPROXY-FILE: /does/not/exist\r\n", b""),
                "/teapot" => respond(stream, "418 Teapot", "", b"short and stout"),
                _ => respond(stream, "200 OK", "", &seen.body),
            },
        );
    let theirs = original(&perlbal, backend.addr, &docroot);
    let daemon = balancer(&config(backend.addr, &docroot, ["127.0.0.1:0"; 3]));
    let (web, files) = (daemon.addr("web").unwrap(), daemon.addr("files").unwrap());
    for request in [
        "GET /a.txt HTTP/1.0\r\n\r\n",
        "HEAD /a.txt HTTP/1.0\r\n\r\n",
        "GET /a.txt HTTP/1.0\r\nRange: bytes=2-4\r\n\r\n",
        "GET /a.txt HTTP/1.0\r\nRange: bytes=7-\r\n\r\n",
        "GET /missing HTTP/1.0\r\n\r\n",
        "GET /../x HTTP/1.0\r\n\r\n",
        "GET /dir/ HTTP/1.0\r\n\r\n",
        "FROB /a.txt HTTP/1.0\r\n\r\n",
        "PUT /new/file HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc",
        "GET /new/file HTTP/1.0\r\n\r\n",
        "DELETE /new/file HTTP/1.0\r\n\r\n",
        "DELETE /new/file HTTP/1.0\r\n\r\n",
        "PUT /new/b..d HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc",
        "GET /??a.txt,b HTTP/1.0\r\n\r\n",
    ] {
        // What one side wrote the other must not find: both work in the same folder.
        if request.starts_with("DELETE") {
            std::fs::create_dir_all(docroot.join("new")).unwrap();
            std::fs::write(docroot.join("new/file"), "abc").unwrap();
        }
        let expected = outcome(theirs.files, request);
        if request.starts_with("DELETE") {
            std::fs::write(docroot.join("new/file"), "abc").unwrap();
        }
        assert_eq!(outcome(files, request), expected, "{request:?}");
    }
    for request in [
        "GET /x HTTP/1.0\r\n\r\n",
        "POST /x HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello",
        "GET /reproxy HTTP/1.0\r\n\r\n",
        "GET /gone HTTP/1.0\r\n\r\n",
        "GET /teapot HTTP/1.0\r\n\r\n",
    ] {
        assert_eq!(
            outcome(web, request),
            outcome(theirs.web, request),
            "{request:?}"
        );
    }
    daemon.stop().unwrap();
}

/// Lines up to the next empty silence of the peer: every command here ends with one known line.
fn talk(addr: SocketAddr, command: &str) -> Vec<String> {
    let mut session = Raw::connect(addr);
    let text = session.send(&format!("{command}\r\nquit\r\n")).rest();
    String::from_utf8_lossy(&text)
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn management_texts_agree() {
    let Some(perlbal) = program("perlbal") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let docroot = directory.path().join("www");
    std::fs::create_dir_all(&docroot).unwrap();
    let backend = Backend::text("x");
    let theirs = original(&perlbal, backend.addr, &docroot);
    let daemon = balancer(&config(backend.addr, &docroot, ["127.0.0.1:0"; 3]));
    let ours = daemon.addr("mgmt").unwrap();
    let mut differences = Vec::new();
    for command in [
        "frobnicate",
        "=",
        "create thing x",
        "create service web",
        "create pool web",
        "create pool apps",
        "use nothing",
        "set web.persist_client = perhaps",
        "set web.connect_ahead = many",
        "set web.buffer_size = big",
        "set web.nothing = 1",
        "set nothing.role = selector",
        "set role = selector",
        "set web.docroot = /tmp",
        "set web.pool = other",
        "set web.role = nonsense",
        "set web.listen = nonsense",
        "set web.queue_relief_chance = 101",
        "set web.persist_client = off",
        "set web.persist_client=on",
        "SET web persist_client = on",
        "enable web",
        "enable nothing",
        "disable mgmt",
        "pool nothing add 1.2.3.4:80",
        "pool apps frob 1.2.3.4:80",
        "pool apps add 1.2.3.4:80",
        "pool apps remove 1.2.3.4:80",
        "show pool",
        "show pool nothing",
        "show service nothing",
        "queues now",
        "verbose maybe",
        "verbose off",
        "server nothing = 1",
        "server max_connections = x",
        "default x",
        "header web insert",
        "header web insert X-A",
        "header web insert X-A: b",
        "states nothing",
        "mime set foo a/b",
        "mime remove foo",
        "mime remove bar",
        "set apps.balance_method = magic",
        "set apps.nodefile = /does/not/exist",
    ] {
        let (ours, theirs) = (talk(ours, command), talk(theirs.manage, command));
        if ours != theirs {
            differences.push(format!(
                "{command}
  ours:   {ours:?}
  theirs: {theirs:?}"
            ));
        }
    }
    assert!(
        differences.is_empty(),
        "{}",
        differences.join(
            "
"
        )
    );
    daemon.stop().unwrap();
}

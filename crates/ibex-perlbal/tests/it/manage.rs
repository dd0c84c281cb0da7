//! The management port, the command language at work, selectors and plugins.
#![allow(
    clippy::unwrap_used,
    reason = "tests and their helpers stop at the first surprise"
)]

use crate::support::{Backend, Manage, Raw, balancer, builder, get, proxy_commands, respond};

#[test]
fn listings() {
    let backend = Backend::text("x");
    let daemon = balancer(&proxy_commands(
        &[backend.addr],
        "persist_client = on\npersist_backend = on",
    ));
    let addr = daemon.addr("web").unwrap();
    let mut client = Raw::connect(addr);
    client
        .send("GET /page HTTP/1.1\r\nHost: site\r\n\r\n")
        .answer();
    let mut manage = Manage::connect(&daemon);
    assert_eq!(
        manage.list("show service"),
        ["mgmt 127.0.0.1:0 ENABLED", "web 127.0.0.1:0 ENABLED"]
    );
    let node = format!("{:16}{:<21} {:7}", "", backend.addr.to_string(), 1);
    assert_eq!(
        manage.list("SHOW SERVICE web"),
        [
            "SERVICE web",
            "     listening: 127.0.0.1:0",
            "          role: reverse_proxy",
            "  pend clients: 0",
            "  pend backend: 0",
            " connect-ahead: 1/0",
            "          pool: apps",
            "         nodes:",
            &node
        ]
    );
    assert_eq!(
        manage.list("show pool"),
        ["apps nodes 1", "apps services 1"]
    );
    assert_eq!(
        manage.list("show pool apps"),
        [format!("{} 1", backend.addr)]
    );
    let nodes = manage.list("nodes");
    for line in [
        "responsecodes 200 1",
        "requests 1",
        "connects 1",
        "attempts 1",
    ] {
        assert!(
            nodes.contains(&format!("{} {line}", backend.addr)),
            "{line} in {nodes:?}"
        );
    }
    assert_eq!(manage.list(&format!("node {}", backend.addr)), nodes);
    assert!(manage.list("node 1.2.3.4").is_empty());
    assert_eq!(
        manage.list("states web"),
        [
            "Perlbal::BackendHTTP bored 1",
            "Perlbal::ClientProxy persist_wait 1"
        ]
    );
    assert_eq!(manage.list("states nowhere"), ["ERROR: Service not found."]);
    let socks = manage.list("socks");
    assert_eq!(socks[0], "   fd    age");
    assert!(
        socks.iter().any(
            |l| l.contains("Perlbal::ClientProxy(R): open to 127.0.0.1:")
                && l.contains("reqs=1; persist_wait; http://site/page")
        ),
        "{socks:?}"
    );
    assert_eq!(
        manage.list("queues")[..2],
        ["web-normal.age 0", "web-normal.count 0"]
    );
    assert_eq!(manage.list("backends"), [format!("{} 1", backend.addr)]);
    let uptime = manage.list("uptime");
    assert!(
        uptime[0].starts_with("starttime ")
            && uptime[1].starts_with("uptime ")
            && uptime[2].starts_with("version "),
        "{uptime:?}"
    );
    assert!(manage.list("proc")[1].starts_with("pid: "));
    assert!(manage.list("fd")[0].starts_with("max "));
    assert!(manage.list("help").contains(&"vhost".to_owned()));
    assert!(manage.list("mime").contains(&"css text/css".to_owned()));
    for quiet in ["leaks", "obj", "noverify", "pending", "plugins"] {
        assert!(manage.list(quiet).is_empty(), "{quiet}");
    }
    assert_eq!(
        manage.list("reproxy_state"),
        ["SERVER max_reproxy_connections = 0"]
    );
    daemon.stop().unwrap();
}

#[test]
fn errors_change_nothing_and_are_one_line() {
    let backend = Backend::text("x");
    let daemon = balancer(&proxy_commands(&[backend.addr], ""));
    let mut manage = Manage::connect(&daemon);
    let before = manage.until_ok("dumpconfig");
    for (command, text) in [
        ("frobnicate", "ERROR: unknown command: frobnicate"),
        ("CREATE SERVICE web", "ERROR: service 'web' already exists"),
        (
            "SET web.persist_client = perhaps",
            "ERROR: Expecting boolean value for parameter 'persist_client'",
        ),
        (
            "SET web.docroot = /tmp",
            "ERROR: The 'docroot' option can only be set on a 'web_server' service",
        ),
        ("SET web.pool = other", "ERROR: Pool 'other' not found"),
        ("ENABLE web", "ERROR: service web is already enabled"),
        ("DISABLE mgmt", "ERROR: can't disable management service"),
        ("POOL nope ADD 1.2.3.4:80", "ERROR: Pool 'nope' not found"),
        (
            "queues now",
            "ERROR: The 'queues' command takes no arguments",
        ),
        (
            "SET web.listen = 192.0.2.1:80",
            "ERROR: Can't start service 'web' on 192.0.2.1:80",
        ),
    ] {
        let answer = manage.run(command);
        assert!(answer.starts_with(text), "{command}: {answer}");
    }
    assert_eq!(manage.until_ok("dumpconfig"), before);
    assert_eq!(get(daemon.addr("web").unwrap(), "/").status, 200);
    daemon.stop().unwrap();
}

#[test]
fn pools_change_live() {
    let (first, second) = (Backend::text("first"), Backend::text("second"));
    let daemon = balancer(&proxy_commands(
        &[first.addr],
        "persist_client = on\npersist_backend = on",
    ));
    let mut client = Raw::connect(daemon.addr("web").unwrap());
    let mut ask = || {
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .answer()
            .text()
    };
    let mut manage = Manage::connect(&daemon);
    assert_eq!(ask(), "first");
    assert_eq!(
        manage.run(&format!("POOL apps REMOVE {}", first.addr)),
        "OK"
    );
    assert_eq!(manage.run(&format!("POOL apps ADD {}", second.addr)), "OK");
    assert_eq!(
        ask(),
        "second",
        "a node that left gets no new request, also over idle connections"
    );
    assert_eq!(manage.run("CREATE POOL other"), "OK");
    assert_eq!(
        manage.run(&format!("POOL ADD {} weight=2 max=7", first.addr)),
        "OK"
    );
    assert_eq!(manage.run("SET web.pool = other"), "OK");
    assert_eq!(ask(), "first");
    assert_eq!(manage.run(&format!("DRAIN other {}", first.addr)), "OK");
    assert_eq!(manage.run(&format!("POOL other ADD {}", second.addr)), "OK");
    assert_eq!(ask(), "second");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("nodes");
    std::fs::write(&file, format!("# nodes\n{}\n", first.addr)).unwrap();
    assert_eq!(
        manage.run(&format!("SET other.nodefile = {}", file.display())),
        "OK"
    );
    assert_eq!(ask(), "first");
    std::fs::write(&file, format!("{}\n# the other one\n", second.addr)).unwrap();
    ibex_testkit::wait::until_true("the changed file is noticed", || {
        manage.list("show pool other")[0].starts_with(&second.addr.to_string())
    })
    .unwrap();
    assert_eq!(ask(), "second");
    daemon.stop().unwrap();
}

#[test]
fn services_come_and_go_live() {
    let backend = Backend::text("x");
    let daemon = balancer(&proxy_commands(&[backend.addr], "persist_client = on"));
    let addr = daemon.addr("web").unwrap();
    let mut manage = Manage::connect(&daemon);
    let mut kept = Raw::connect(addr);
    kept.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer();
    assert_eq!(manage.run("DISABLE web"), "OK");
    assert!(
        std::net::TcpStream::connect(addr).is_err(),
        "nobody listens"
    );
    assert_eq!(
        kept.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .answer()
            .status,
        200,
        "existing connections go on"
    );
    assert_eq!(manage.run(&format!("SET web.listen = {addr}")), "OK");
    assert_eq!(manage.run("ENABLE web"), "OK");
    assert_eq!(get(addr, "/").status, 200);
    assert_eq!(manage.run("HEADER web INSERT X-Added: by hand"), "OK");
    assert_eq!(manage.run("HEADER web REMOVE User-Agent"), "OK");
    Raw::connect(addr)
        .send("GET /h HTTP/1.1\r\nHost: a\r\nUser-Agent: u\r\nX-Added: theirs\r\n\r\n")
        .answer();
    let seen = backend.seen();
    let last = seen.last().unwrap();
    assert_eq!(
        (last.header("X-Added"), last.header("User-Agent")),
        (Some("by hand"), None)
    );
    daemon.stop().unwrap();
}

#[test]
fn selectors_choose_by_host_and_path() {
    let (one, two) = (
        Backend::start(|seen, stream| {
            respond(
                stream,
                "200 OK",
                "",
                format!("one {}", seen.header("Host").unwrap()).as_bytes(),
            )
        }),
        Backend::text("two"),
    );
    let commands = format!(
        "LOAD vhosts\nLOAD vpaths\nCREATE POOL p1\nPOOL ADD {}\nCREATE POOL p2\nPOOL ADD {}\nCREATE SERVICE s1\nSET role = reverse_proxy\nSET pool = p1\nCREATE SERVICE s2\nSET role = reverse_proxy\nSET pool = p2\nCREATE SERVICE sel\nSET role = selector\nSET persist_client = on\nSET listen = 127.0.0.1:0\nSET plugins = vpaths vhosts\nVHOST www.one.example = s1\nVHOST *.two.example = s2\nVHOST www.one.example;using:alt = s1\nVPATH ^/two/ = s2\nENABLE sel\nCREATE SERVICE mgmt\nSET role = management\nSET listen = 127.0.0.1:0\nENABLE mgmt",
        one.addr, two.addr
    );
    let daemon = balancer(&commands);
    let mut client = Raw::connect(daemon.addr("sel").unwrap());
    let mut ask = |host: &str, target: &str| {
        let answer = client
            .send(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .answer();
        assert_eq!(
            answer.header("Connection"),
            Some("keep-alive"),
            "the selector's persistence counts"
        );
        (answer.status, answer.text())
    };
    assert_eq!(
        ask("WWW.one.example:80", "/"),
        (200, "one WWW.one.example:80".into())
    );
    assert_eq!(ask("a.b.two.example", "/").1, "two");
    assert_eq!(ask("two.example.", "/").1, "two");
    assert_eq!(ask("www.one.example", "/two/x").1, "two");
    assert_eq!(ask("www.one.example", "/__using/alt/x").1, "one alt");
    assert_eq!(
        ask("nobody.example", "/"),
        (
            404,
            "<h1>404 - Not Found</h1>\nNot Found (no configured vhost)".into()
        )
    );
    let mut manage = Manage::connect(&daemon);
    assert_eq!(
        manage.list("EXPLAIN a.two.example GET /"),
        ["sel -> s2 pool p2"]
    );
    assert_eq!(manage.run("VHOST sel * = s1"), "OK");
    assert_eq!(ask("nobody.example", "/").1, "one nobody.example");
    assert_eq!(manage.run("VHOST REMOVE sel *"), "OK");
    assert_eq!(ask("nobody.example", "/").0, 404);
    assert_eq!(manage.run("SET sel.default_service = s2"), "OK");
    assert_eq!(ask("nobody.example", "/").1, "two");
    assert_eq!(manage.list("plugins"), ["sel Vpaths Vhosts"]);
    daemon.stop().unwrap();
}

#[test]
fn plugins() {
    let backend = Backend::text("x");
    let mut commands = proxy_commands(&[backend.addr], "persist_client = on");
    commands = commands.replace("CREATE POOL", "LOAD queues\nLOAD stats\nLOAD maxcontentlength\nLOAD notmodified\nLOAD xffextras\nLOAD redirect\nLOAD highpri\nLOAD accesscontrol\nCREATE POOL");
    commands.push_str("USE web\nSET plugins = queues stats maxcontentlength notmodified xffextras redirect highpri accesscontrol\nSET max_content_length = 5\nSET web.notmodified.host_pattern = ^static\nSET send_backend_port = on\nSET send_backend_proto = on\nREDIRECT HOST old.example new.example\nACCESS DENY IP 9.9.9.9\nSET accesscontrol.use_observed_ip = 1\nSET always_trusted = on\n");
    let daemon = balancer(&commands);
    let addr = daemon.addr("web").unwrap();
    let ask = |text: &str| Raw::connect(addr).send(text).answer();
    assert_eq!(
        ask("GET /login.bml HTTP/1.1\r\nHost: a\r\n\r\n").status,
        200
    );
    let seen = &backend.seen()[0];
    assert_eq!(
        (
            seen.header("X-Queue-Count"),
            seen.header("X-HP-Queue-Age"),
            seen.header("X-Forwarded-Proto")
        ),
        (Some("0"), Some("0"), Some("http"))
    );
    assert_eq!(
        seen.header("X-Forwarded-Port"),
        Some(addr.port().to_string().as_str())
    );
    let long = ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabcdef");
    assert_eq!(
        (long.status, long.text().ends_with("Content too long.")),
        (413, true)
    );
    assert_eq!(
        ask("GET / HTTP/1.1\r\nHost: static.x\r\nIf-Modified-Since: whenever\r\n\r\n").status,
        304
    );
    let moved = ask("GET /p?q HTTP/1.1\r\nHost: old.example\r\n\r\n");
    assert_eq!(
        (moved.status, moved.header("Location")),
        (301, Some("http://new.example/p?q"))
    );
    let denied = ask("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n");
    assert_eq!(
        (denied.status, denied.text().ends_with("Access denied.")),
        (403, true)
    );
    let mut manage = Manage::connect(&daemon);
    let stats = manage.list("stats");
    assert!(
        stats.contains(&format!(
            "{:<15} {:<25} {:>12}",
            "web", "proxy_requests_highpri", 1
        )),
        "{stats:?}"
    );
    assert!(
        stats.contains(&format!(
            "{:<15} {:<25} {:>12}",
            "total", "proxy_requests", 1
        )),
        "{stats:?}"
    );
    assert!(manage.list("recent")[0].ends_with("http://a/login.bml"));
    assert_eq!(manage.list("patterns")[0], "High priority pattern buffer:");
    daemon.stop().unwrap();
}

#[test]
fn a_dump_starts_the_same_balancer() {
    let backend = Backend::text("x");
    let mut commands = proxy_commands(&[backend.addr], "persist_client = on");
    commands.push_str("HEADER web INSERT X-A: B c\n");
    let daemon = balancer(&commands);
    let dump = Manage::connect(&daemon).until_ok("dumpconfig");
    daemon.stop().unwrap();
    let again = balancer(&dump.join("\n"));
    assert_eq!(Manage::connect(&again).until_ok("dumpconfig"), dump);
    assert_eq!(get(again.addr("web").unwrap(), "/").status, 200);
    again.stop().unwrap();
}

#[test]
fn pages_for_browsers_and_no_commands_for_them() {
    let backend = Backend::text("x");
    let daemon = balancer(&proxy_commands(&[backend.addr], ""));
    let addr = daemon.addr("mgmt").unwrap();
    let index = Raw::connect(addr)
        .send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .answer();
    assert!(index.status == 200 && index.text().contains("/service?web"));
    assert!(
        Raw::connect(addr)
            .send("GET /service?web HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            .answer()
            .text()
            .contains("SERVICE web")
    );
    let rebound = Raw::connect(addr)
        .send("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        .answer();
    assert_eq!(rebound.status, 403);
    let posted = Raw::connect(addr)
        .send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\nshutdown")
        .answer();
    assert_eq!(posted.status, 405);
    let mut middle = Raw::connect(addr);
    let text = middle
        .send("verbose on\nHost: evil.example\nshutdown\n")
        .rest();
    assert!(
        text.starts_with(b"OK\r\nERROR: "),
        "{}",
        String::from_utf8_lossy(&text)
    );
    assert_eq!(
        get(daemon.addr("web").unwrap(), "/").status,
        200,
        "the shutdown was not obeyed"
    );
    daemon.stop().unwrap();
}

#[test]
fn wrong_configurations_do_not_start() {
    for (commands, text) in [
        (
            "CREATE SERVICE a\nSET role = nonsense",
            "command 2: ERROR: Role not valid for service a",
        ),
        (
            "CREATE POOL a",
            "No services or management port configured.  Nothing to do.  Stopping.",
        ),
    ] {
        let error = builder(commands).start().unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

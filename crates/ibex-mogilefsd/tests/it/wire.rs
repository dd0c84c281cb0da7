//! The line protocol, byte by byte.

use crate::cluster::{Cluster, Raw, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_replies() {
    let cluster = Cluster::start(1).populated().await;
    let mut raw = cluster.raw();
    for (request, reply) in [
        ("noop", "OK "),
        ("NOOP", "OK "),
        ("noop callid=7", "OK callid=7"),
        (
            "bogus callid=7",
            "ERR unknown_command Unknown+server+command 7",
        ),
        ("%%%", "ERR unknown_command Unknown+server+command"),
        ("stats", "ERR unknown_command Unknown+server+command"),
        ("list_keys domain=", "ERR no_domain No+domain+provided"),
        (
            "list_keys domain=nope",
            "ERR unreg_domain Domain+name+invalid/not+found",
        ),
        (
            "list_keys domain=t&prefix=a&after=b",
            "ERR after_mismatch Pattern+does+not+match+the+after-value%3F",
        ),
        (
            "list_keys domain=t",
            "ERR none_match No+keys+match+that+pattern+and+after-value+%28if+any%29.",
        ),
        ("get_paths domain=t", "ERR no_key no_key"),
        ("get_paths domain=t&key=0", "ERR unknown_key unknown_key"),
        ("delete domain=t&key=0", "ERR unknown_key unknown_key"),
        ("rename domain=t&from_key=a", "ERR no_key no_key"),
        (
            "create_open domain=t&key=a&class=nope",
            "ERR unreg_class unreg_class",
        ),
        (
            "create_open domain=t&key=a&fid=-1",
            "ERR bad_params Invalid+parameters+to+command%3B+please+see+documentation",
        ),
        (
            "create_open domain=t&key=a&fid=18446744073709551615",
            "ERR bad_params Invalid+parameters+to+command%3B+please+see+documentation",
        ),
        (
            "create_open domain=t&key=a&fid=18446744073709551616",
            "ERR bad_params Invalid+parameters+to+command%3B+please+see+documentation",
        ),
        ("create_close domain=t", "ERR no_fid no_fid"),
        ("create_close domain=t&fid=1", "ERR no_devid no_devid"),
        ("create_close domain=t&fid=1&devid=1", "ERR no_path no_path"),
        (
            "create_close domain=t&fid=1&devid=1&path=x&checksum=MD5:0",
            "ERR invalid_checksum_format invalid_checksum_format",
        ),
        (
            "create_close domain=t&fid=1&devid=1&path=x",
            "ERR bogus_args bogus_args",
        ),
        (
            "updateclass domain=t&key=a",
            "ERR no_class No+class+provided",
        ),
        (
            "updateclass domain=t&key=a&class=nope",
            "ERR class_not_found Class+not+found",
        ),
        (
            "updateclass domain=t&key=a&class=one",
            "ERR invalid_key invalid_key",
        ),
        ("file_debug fid=4711", "OK checksum=NONE"),
        (
            "edit_file domain=t&key=a",
            "ERR unsupported Command+not+supported+by+this+tracker",
        ),
        ("test crash=1", "ERR failure Operation+failed"),
        ("sleep duration=0", "OK "),
        ("  noop   ", "OK "),
    ] {
        assert_eq!(raw.ask(request), reply, "{request}");
    }
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_by_hand() {
    let cluster = Cluster::start(2).populated().await;
    let mut raw = cluster.raw();
    let open = raw.ask("create_open domain=t&key=k&class=one&multi_dest=1&fid=0&debug_profile=1");
    assert!(open.starts_with("OK dev_count=2&fid="), "{open}");
    assert!(
        open.contains("&path_1=http://127.0.0."),
        "addresses stay readable: {open}"
    );
    assert!(
        open.contains("&profpoints=3&prof_1_name=find_devices&prof_1_time=0."),
        "{open}"
    );
    let field = |name: &str| {
        open.split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
            .unwrap()
            .to_owned()
    };
    let (fid, device, path) = (
        open.split("fid=")
            .nth(1)
            .unwrap()
            .split('&')
            .next()
            .unwrap()
            .to_owned(),
        field("devid_1"),
        field("path_1"),
    );
    let close = |extra: &str| {
        format!("create_close domain=t&key=k&fid={fid}&devid={device}&path={path}{extra}")
    };

    // Nothing there yet: the upload is given up.
    let missing = raw.ask(&close("&size=3"));
    assert!(
        missing.starts_with(
            "ERR size_verify_error Expected:+3%3B+actual:+0+%28missing%29%3B+path:+http://127.0.0."
        ),
        "{missing}"
    );
    assert_eq!(
        raw.ask(&close("&size=3")),
        "ERR no_temp_file No+tempfile+or+file+already+closed"
    );

    // A second one, with the wrong size, the wrong device, then right; curl does the PUT.
    for (extra, reply) in [
        ("&size=4", "ERR size_mismatch Expected:+4%3B+actual:+3%3B"),
        (
            "&size=3&checksum=MD5:00000000000000000000000000000000&checksumverify=1",
            "ERR checksum_mismatch Expected:+Checksum%5Bf%3D",
        ),
        (
            "&size=3&checksum=MD5:900150983cd24fb0d6963f7d28e17f72&checksumverify=1",
            "OK ",
        ),
    ] {
        let open = raw.ask("create_open domain=t&key=k&class=one");
        let field = |name: &str| {
            open.trim_start_matches("OK ")
                .split('&')
                .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
                .unwrap()
        };
        let (fid, device, path) = (field("fid"), field("devid"), field("path"));
        curl(&["-sS", "-f", "-X", "PUT", "--data-binary", "abc", path]);
        let close = raw.ask(&format!(
            "create_close domain=t&key=k&fid={fid}&devid={device}&path={path}{extra}"
        ));
        assert!(close.starts_with(reply), "{extra}: {close}");
    }
    let paths = raw.ask("get_paths domain=t&key=k");
    let path = paths.strip_prefix("OK paths=1&path1=").unwrap();
    assert_eq!(curl(&["-sS", "-f", path]), "abc");
    assert_eq!(curl(&["-sS", "-f", "-r", "1-", path]), "bc");
    cluster.stop();
}

fn curl(args: &[&str]) -> String {
    let output = std::process::Command::new("curl")
        .args(args)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "curl {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_and_split_requests() {
    let cluster = Cluster::start(1);
    let mut raw = cluster.raw();
    raw.send(b"noop callid=1\nnoop callid=2\r\n\r\n\nnoop callid=3\n");
    for id in 1..=3 {
        assert_eq!(raw.line(), format!("OK callid={id}\r\n"));
    }
    for byte in b"noop callid=x\r\n" {
        raw.send(&[*byte]);
    }
    assert_eq!(raw.line(), "OK callid=x\r\n");
    raw.send(b"noop a=%00%ff&=&==&%zz&\x00\xff\n");
    assert_eq!(raw.line(), "OK \r\n");
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_end_is_refused() {
    let cluster = Cluster::start(1);
    let mut raw = cluster.raw();
    raw.send(&vec![b'a'; (1 << 20) + 1]);
    assert_eq!(raw.line(), "ERR bad_request request+too+long\r\n");
    assert_eq!(raw.line(), "", "and the connection is closed");
    // A long but allowed one is answered.
    let mut raw = cluster.raw();
    raw.send(format!("noop key={}\n", "k".repeat(70_000)).as_bytes());
    assert_eq!(raw.line(), "OK \r\n");
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_console() {
    let cluster = Cluster::start(1).populated().await;
    let mut raw = cluster.raw();
    let version = raw.console("!version");
    assert!(version[0].starts_with("2.73"), "{version:?}");
    let stats = raw.console("!stats");
    assert!(
        stats[0].starts_with("uptime ") && stats.iter().any(|line| line.starts_with("queries ")),
        "{stats:?}"
    );
    assert_eq!(
        raw.console("!want 0 replicate"),
        ["Now desiring 0 children doing 'replicate'."]
    );
    let jobs = raw.console("!jobs");
    assert!(
        jobs.contains(&"replicate count 0".to_owned())
            && jobs.contains(&"delete desired 4".to_owned()),
        "{jobs:?}"
    );
    assert!(
        raw.console("!want 1 nonsense")[0]
            .starts_with("ERROR: Invalid class 'nonsense'.  Valid classes: delete, fsck,")
    );
    assert_eq!(
        raw.console("!to delete :wake_up"),
        ["Message sent to 4 children."]
    );
    assert_eq!(
        raw.console("!to"),
        ["ERROR: usage: !to <jobclass> <message>"]
    );
    assert!(raw.console("!help")[0].starts_with("Mogilefsd admin commands:"));
    assert_eq!(raw.ask("noop"), "OK ");
    assert!(
        raw.console("!recent")
            .iter()
            .any(|line| line.starts_with("127.0.0.1 noop "))
    );

    // With the job switched off nothing is replicated; switched on it is.
    let watch = &mut cluster.raw();
    assert_eq!(watch.console("!watch"), ["Added you to watcher list."]);
    assert_eq!(watch.console("!watch"), ["Removed you from watcher list."]);
    raw.console("!want 2 replicate");
    assert_eq!(raw.console("!shutdown"), Vec::<String>::new());
    let mut tracker = cluster.tracker;
    let status = tracker
        .wait_exit(std::time::Duration::from_secs(10))
        .unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_silent_clients_harm_nobody() {
    let cluster = Cluster::start(1).populated().await;
    let idle: Vec<Raw> = (0..200).map(|_| cluster.raw()).collect();
    let mut half = cluster.raw();
    half.send(b"create_open domain=t&key=");
    let mut sleeper = cluster.raw();
    sleeper.send(b"sleep duration=2\n");
    let mut raw = cluster.raw();
    assert_eq!(raw.ask("noop"), "OK ");
    drop(idle);
    drop(half);
    until("closed connections are forgotten", || {
        cluster
            .tracker
            .admin_get("/-/connections")
            .is_ok_and(|page| page.text().matches("\"listener\"").count() <= 3)
    });
    cluster.stop();
}

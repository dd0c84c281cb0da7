//! The original's command line: what is taken and what comes of it, what must be refused.

use crate::client::Client;
use ibex_memcached_proto::binary::{HEADER_BYTES, Header};
use ibex_testkit::{Daemon, daemon::binary};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

fn daemon(args: &[&str]) -> ibex_testkit::Result<Daemon> {
    let builder = Daemon::builder("ibex-memcached").announce("ignored for compatibility");
    args.iter()
        .fold(builder, |builder, arg| builder.arg(*arg))
        .start()
}

#[test]
fn the_originals_mistakes_are_refused() {
    for args in [
        &["-c", "0"][..],
        &["-t", "0"],
        &["-n", "0"],
        &["-f", "1"],
        &["-R", "0"],
        &["-I", "10"],
        &["-I", "2g"],
        &["-m", "64", "-I", "33m"],
        &["-a", "9"],
        &["-B", "http"],
        &["-Y", "/does/not/exist"],
        &["-e", "/does/not/exist"],
        &["-l", "host.invalid"],
        &["-l", "proto[http]:127.0.0.1"],
        &["-l", "tag[too_long_a_tag]:127.0.0.1"],
        &["-l", "notls:127.0.0.1"],
        &["-l", "btls:127.0.0.1"],
        &["-l", "mtls:127.0.0.1"],
        &["-Z"],
        &["-S", "-Y", "/dev/null"],
        &["-S", "-B", "auto", "-Y", "/etc/hostname"],
        &["-S", "-B", "ascii", "-Y", "/etc/hostname"],
        &["-U", "0", "-p", "x"],
        &["-o", "nonsense"],
        &["-o", "ext_path=/tmp/x:1m"],
        &["-o", "proxy_config=/tmp/x"],
        &["-o", "hashpower"],
        &["-o", "hashpower=11"],
        &["-o", "slab_automove=3"],
        &["-o", "slab_automove_ratio"],
        &["-o", "slab_automove_window=2"],
        &["-o", "slab_chunk_max=1025"],
        &["-o", "tail_repair_time=9"],
        &["-o", "hash_algorithm=md5"],
        &["-o", "lru_crawler_sleep=1000001"],
        &["-o", "lru_crawler_tocrawl=x"],
        &["-o", "hot_lru_pct=50,warm_lru_pct=40"],
        &["-o", "hot_max_factor=0"],
        &["-o", "temporary_ttl"],
        &["-o", "idle_timeout"],
        &["-o", "watcher_logbuf_size"],
        &["-o", "read_buf_mem_limit"],
        &["-o", "ssl_ciphers=HIGH:!aNULL"],
        &["-o", "ssl_keyformat=3"],
        &["-o", "ssl_verify_mode=4"],
        &["-o", "ssl_min_version=4"],
        &["-o", "ssl_wbuf_size"],
    ] {
        assert!(daemon(args).is_err(), "{args:?} was accepted");
    }
}

/// Words that tune what is not here are checked, and read back where programs look for them.
#[test]
fn words_without_effect_are_shown_as_they_were_set() {
    let words = "no_hashexpand,slab_sizes=100-200,inline_ascii_resp,no_inline_ascii_resp,modern,no_drop_privileges,\
        drop_privileges,resp_obj_mem_limit=1,relaxed_privileges,ssl_kernel_tls,no_slab_reassign,slab_automove=2,\
        slab_automove_ratio=0.5,slab_automove_window=60,slab_chunk_max=16,lru_crawler_sleep=200,lru_crawler_tocrawl=7,\
        tail_repair_time=20,hash_algorithm=murmur3,hot_lru_pct=10,warm_lru_pct=30,hot_max_factor=0.3,warm_max_factor=3,\
        temporary_ttl=99,hashpower=20,maxconns_fast,lru_crawler,lru_maintainer";
    let daemon = daemon(&["-o", words, "-k", "-r", "-L", "-N", "4"]);
    let mut daemon = daemon.unwrap();
    daemon.announce("memory is not locked");
    let mut client = Client::new(&daemon);
    let settings = client.ask("stats settings\r\n", "END\r\n");
    for line in [
        "slab_reassign no",
        "slab_automove 2",
        "slab_automove_ratio 0.50",
        "slab_automove_window 60",
        "slab_chunk_max 16384",
        "lru_crawler_sleep 200",
        "lru_crawler_tocrawl 7",
        "tail_repair_time 20",
        "hash_algorithm murmur3",
        "hot_lru_pct 10",
        "warm_lru_pct 30",
        "hot_max_factor 0.30",
        "warm_max_factor 3.00",
        "temp_lru yes",
        "temporary_ttl 99",
        "hashpower_init 20",
    ] {
        assert!(
            settings.contains(&format!("STAT {line}\r\n")),
            "{line}: {settings}"
        );
    }
    // Commands change them.
    for (command, line) in [
        ("slabs automove 1", "slab_automove 1"),
        ("slabs automove ratio 0.25", "slab_automove_ratio 0.25"),
        ("slabs automove window 5", "slab_automove_window 5"),
        ("lru tune 11 22 0.4 4", "hot_lru_pct 11"),
        ("lru tune 11 22 0.4 4", "warm_max_factor 4.00"),
        ("lru mode flat", "lru_segmented no"),
        ("lru temp_ttl -1", "temp_lru no"),
        ("lru temp_ttl 30", "temporary_ttl 30"),
        ("lru_crawler sleep 9", "lru_crawler_sleep 9"),
        ("lru_crawler tocrawl 8", "lru_crawler_tocrawl 8"),
    ] {
        assert_eq!(
            client.ask(&format!("{command}\r\n"), "\r\n"),
            "OK\r\n",
            "{command}"
        );
        let settings = client.ask("stats settings\r\n", "END\r\n");
        assert!(
            settings.contains(&format!("STAT {line}\r\n")),
            "{command}: {settings}"
        );
    }
    daemon.stop().unwrap();
}

/// Asks for the version, in a packet. (A noop has a line feed for an opcode.)
fn ask_version() -> Vec<u8> {
    let mut packet = Vec::new();
    let header = Header {
        opcode: 0x0b,
        key_bytes: 0,
        extras_bytes: 0,
        body_bytes: 0,
        opaque: 7,
        cas: 0,
    };
    header.write(&mut packet);
    packet
}

/// What comes back for `request`, until `bytes` have come or the daemon closes.
fn answer(address: SocketAddr, request: &[u8], bytes: usize) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream.write_all(request).unwrap();
    let mut reply = Vec::new();
    // Closed without a word is an answer too, also with bytes of ours unread.
    drop(stream.take(bytes as u64).read_to_end(&mut reply));
    reply
}

#[test]
fn listeners_speak_what_their_item_says() {
    let list = "proto[ascii]:127.0.0.1:0,proto[binary]:tag[b]:127.0.0.1:0;proto[negotiating]:tag_n_:127.0.0.1:0";
    let daemon = daemon(&["-B", "binary", "-l", list]).unwrap();
    let at = |name: &str| daemon.addr(name).unwrap();
    let is_packet = |reply: &[u8]| reply.len() == HEADER_BYTES && reply.starts_with(&[0x81, 0x0b]);
    for name in ["memcached_binary", "memcached_negotiating"] {
        assert!(
            is_packet(&answer(at(name), &ask_version(), HEADER_BYTES)),
            "{name}"
        );
    }
    for name in ["memcached_ascii", "memcached_negotiating"] {
        assert_eq!(answer(at(name), b"mn\r\n", 4), b"MN\r\n", "{name}");
    }
    assert_eq!(answer(at("memcached_binary"), b"mn\r\n", 4), b"");
    let request = [ask_version(), b"\r\nmn\r\n".to_vec()].concat();
    let reply = answer(at("memcached_ascii"), &request, "ERROR\r\nMN\r\n".len());
    assert_eq!(reply.escape_ascii().to_string(), "ERROR\\r\\nMN\\r\\n");
    daemon.stop().unwrap();
}

/// With a text login packets are not understood, whatever is asked for.
#[test]
fn packets_are_no_way_around_a_text_login() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    std::fs::write(&users, "foo:bar").unwrap();
    let users = users.to_str().unwrap();
    assert!(
        daemon(&["-Y", users, "-U", "11222"]).is_err(),
        "datagrams have no login"
    );
    let with_binary = ["-Y", users, "-l", "proto[binary]:127.0.0.1:0"];
    assert!(daemon(&with_binary).is_err());
    let daemon = daemon(&["-Y", users, "-l", "proto[negotiating]:127.0.0.1:0"]).unwrap();
    let address = daemon.addr("memcached_negotiating").unwrap();
    let request = [ask_version(), b"\r\n".to_vec()].concat();
    let expected = b"CLIENT_ERROR unauthenticated\r\n";
    assert_eq!(answer(address, &request, expected.len()), expected);
    daemon.stop().unwrap();
}

#[test]
fn a_unix_socket_is_open_to_whom_the_mask_says() {
    let dir = tempfile::tempdir().unwrap();
    for (args, mode) in [
        (&[][..], 0o700),
        (&["-a", "777"], 0o777),
        (&["-a", "0660"], 0o660),
    ] {
        let path = dir.path().join(format!("{mode:o}.sock"));
        let with_path = [&["-s", path.to_str().unwrap()], args].concat();
        let daemon = daemon(&with_path).unwrap();
        let found = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{args:?}");
        daemon.stop().unwrap();
    }
}

/// `-p 0` alone listens nowhere, as the original; the port file is there all the same.
#[test]
fn without_any_address_it_waits_for_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let ports = dir.path().join("ports");
    let daemon = Daemon::builder("ibex-memcached")
        .announce("there is no address to listen on")
        .env("MEMCACHED_PORT_FILENAME", ports.as_os_str())
        .arg("-p")
        .arg("0")
        .start()
        .unwrap();
    assert_eq!(std::fs::read_to_string(&ports).unwrap(), "");
    daemon.stop().unwrap();
}

#[test]
fn metrics_are_where_they_are_wanted() {
    let address = ibex_testkit::ports::free();
    let word = format!("metrics={address}");
    let daemon = daemon(&["-o", &word]).unwrap();
    assert_eq!(daemon.admin().unwrap(), address);
    let items = daemon.metric("ibex_memcached_items").unwrap();
    assert!(items.abs() < 0.5);
    daemon.stop().unwrap();
}

#[test]
fn a_file_of_flags_is_read_by_its_form() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("memcached.conf");
    std::fs::write(&path, "# as Debian's\n-m 16\n-l 127.0.0.1:0\n\n# -v\n-A\n").unwrap();
    let daemon = daemon(&["--config", path.to_str().unwrap(), "-c", "7"]).unwrap();
    let mut client = Client::new(&daemon);
    let settings = client.ask("stats settings\r\n", "END\r\n");
    for line in ["maxbytes 16777216", "maxconns 7", "shutdown_command yes"] {
        assert!(settings.contains(&format!("STAT {line}\r\n")), "{settings}");
    }
    daemon.stop().unwrap();
}

#[test]
fn what_ends_at_once() {
    let run = |flag: &str| {
        let output = Command::new(binary("ibex-memcached").unwrap())
            .arg(flag)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text)
    };
    let (code, version) = run("-V");
    assert_eq!(code, Some(0));
    let mut lines = version.lines();
    assert_eq!(lines.next(), Some("memcached 1.6.45"));
    assert!(
        lines.next().unwrap().starts_with("ibex-memcached "),
        "{version}"
    );
    assert!(run("--version").1.starts_with("ibex-memcached "));
    assert!(run("-i").1.contains("licence"));
    assert_eq!(run("--no-such-flag").0, Some(64));
    // What the original's tests look for to know what there is.
    let help = run("-h").1;
    for word in ["ext_path", "proxy_config", "no_drop_privileges"] {
        assert!(!help.contains(word), "{word}");
    }
}

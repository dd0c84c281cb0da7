//! Listeners that come and go with reloads.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use crate::daemon::{Daemon, PATIENCE, command, wait_for};

/// The echo daemon with the addresses in a file.
struct Reloaded {
    daemon: Daemon,
    file: PathBuf,
}

impl Reloaded {
    fn start(listen: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("echo.toml");
        std::fs::write(&file, configuration(listen, "hello")).unwrap();
        let mut command = command();
        command
            .args(["--admin", "127.0.0.1:0", "--config"])
            .arg(&file);
        let daemon = Daemon::run(command, dir);
        Self { daemon, file }
    }

    /// Reloads with these addresses: status and answer.
    fn reload(&self, listen: &[&str], greeting: &str) -> (u16, String) {
        std::fs::write(&self.file, configuration(listen, greeting)).unwrap();
        let (status, _, body) = self.daemon.ask("POST", "/-/reload", "", "");
        (status, body)
    }

    fn addresses(&self) -> Vec<String> {
        let published = self.daemon.published().into_iter();
        published.map(|(_, address)| address).collect()
    }
}

fn configuration(listen: &[&str], greeting: &str) -> String {
    format!("listen = {listen:?}\ngreeting = {greeting:?}\n")
}

/// A connection that was greeted.
fn greeted(address: &str) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert_eq!(line, "hello\n");
    stream
}

fn is_echoed(stream: &mut BufReader<TcpStream>, text: &str) {
    writeln!(stream.get_mut(), "{text}").unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), text);
}

#[test]
fn a_reload_opens_what_is_added_closes_what_is_removed_and_leaves_the_rest_alone() {
    let ran = Reloaded::start(&["127.0.0.1:0", "[::1]:0"]);
    let first = ran.addresses();
    let [kept, removed] = first.as_slice() else {
        panic!("{first:?}")
    };
    let mut on_kept = greeted(kept);
    let mut on_removed = greeted(removed);
    let path = ran.file.with_file_name("s");
    let unix = format!("unix:{}", path.display());

    let (status, body) = ran.reload(&[&unix, "127.0.0.1:0"], "hello");
    let report: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, report),
        (
            200,
            serde_json::json!({"changed": ["listen"], "needs_restart": []})
        )
    );
    assert_eq!(ran.addresses(), [unix.clone(), kept.clone()]);
    is_echoed(&mut on_kept, "still here");
    is_echoed(&mut on_removed, "still here, too");
    drop(greeted(kept));
    let mut line = String::new();
    let mut on_unix = BufReader::new(UnixStream::connect(&path).unwrap());
    on_unix.read_line(&mut line).unwrap();
    assert_eq!(line, "hello\n");
    wait_for("the end of the removed listener", || {
        TcpStream::connect(removed).is_err().then_some(())
    });
    let (_, metrics) = ran.daemon.get("/metrics");
    for line in [
        "ibex_echo_connections{listener=\"echo\"} 3",
        "ibex_echo_connections_accepted_total{listener=\"echo\"} 4",
    ] {
        wait_for(line, || {
            ran.daemon.get("/metrics").1.contains(line).then_some(())
        });
    }
    assert!(!metrics.contains("rejected_total{"), "{metrics}");

    let (status, _) = ran.reload(&["127.0.0.1:0"], "hello");
    assert_eq!(status, 200);
    assert!(!path.exists(), "the removed unix socket stays");
    assert_eq!(ran.addresses(), std::slice::from_ref(kept));
    is_echoed(&mut on_kept, "and still");
    ran.daemon.stop();
}

#[test]
fn an_address_that_cannot_be_bound_refuses_the_whole_reload() {
    let ran = Reloaded::start(&["127.0.0.1:0"]);
    let before = ran.addresses();
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = elsewhere.local_addr().unwrap().to_string();

    let (status, body) = ran.reload(&["[::1]:0", &busy], "changed");
    assert_eq!(status, 422);
    assert!(
        body.contains(&busy) && body.contains("address in use"),
        "{body}"
    );
    assert_eq!(ran.addresses(), before);
    drop(greeted(before.first().unwrap()));

    let (status, body) = ran.reload(&["127.0.0.1:0", "fd:late"], "changed");
    assert_eq!(status, 422);
    assert!(body.contains("passed at the start only"), "{body}");
    drop(greeted(before.first().unwrap()));

    drop(elsewhere);
    let (status, _) = ran.reload(&["127.0.0.1:0", &busy], "hello");
    assert_eq!(status, 200);
    drop(greeted(&busy));
    ran.daemon.stop();
}

#[test]
fn connections_over_the_limit_are_closed_and_counted() {
    let daemon = Daemon::start(&["--set", "limits.connections=1"]);
    let address = daemon.address("echo");
    let first = greeted(&address);
    let mut second = BufReader::new(TcpStream::connect(&address).unwrap());
    second.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    assert!(
        matches!(second.read_line(&mut line), Ok(0) | Err(_)),
        "{line}"
    );
    let counted = "ibex_echo_connections_rejected_total{listener=\"echo\",reason=\"limit\"} 1";
    let (_, metrics) = daemon.get("/metrics");
    assert!(metrics.contains(counted), "{metrics}");
    drop(first);
    wait_for("a free place", || {
        let mut third = BufReader::new(TcpStream::connect(&address).unwrap());
        third.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        let mut line = String::new();
        matches!(third.read_line(&mut line), Ok(6)).then_some(())
    });
    daemon.stop();
}

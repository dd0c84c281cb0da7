//! `ibex gear` beside `gearman` and `gearadmin`: the same command lines at our server and at Debian's, and the same output. Where the output differs, it is
//! one of the differences named here. Then what only `ibex gear` has.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

use ibex_testkit::daemon::binary;
use ibex_testkit::{skip, wait};
use integration_tests::peers;

use crate::gearman::{Guard, Whose, against_both, start, tool};

/// A packet towards the server.
fn packet(kind: u32, arguments: &[&[u8]]) -> Vec<u8> {
    let payload = arguments.join(&0);
    let length = u32::try_from(payload.len()).unwrap();
    [
        b"\0REQ",
        &kind.to_be_bytes()[..],
        &length.to_be_bytes(),
        &payload,
    ]
    .concat()
}

fn read_packet(stream: &mut TcpStream) -> std::io::Result<(u32, Vec<u8>)> {
    let mut header = [0; 12];
    stream.read_exact(&mut header)?;
    let [_, _, _, _, a, b, c, d, e, f, g, h] = header;
    let mut payload = vec![0; u32::from_be_bytes([e, f, g, h]) as usize];
    stream.read_exact(&mut payload)?;
    Ok((u32::from_be_bytes([a, b, c, d]), payload))
}

/// A worker of few words: `talk` says something of every kind, `echo` gives the workload back, `fail` fails. It ends with its server.
fn work(addr: SocketAddr) -> JoinHandle<()> {
    let mut stream = TcpStream::connect(addr).unwrap();
    for function in [&b"talk"[..], b"echo", b"fail"] {
        stream.write_all(&packet(1, &[function])).unwrap();
    }
    stream.write_all(&packet(9, &[])).unwrap();
    std::thread::spawn(move || {
        while let Ok((kind, payload)) = read_packet(&mut stream) {
            let answer = match kind {
                6 => packet(9, &[]),
                10 => packet(4, &[]),
                11 => [answers(&payload), packet(9, &[])].concat(),
                _ => continue,
            };
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    })
}

fn answers(assigned: &[u8]) -> Vec<u8> {
    let mut parts = assigned.splitn(3, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (handle, function, workload) = (part(), part(), part());
    match function {
        b"talk" => [
            packet(12, &[handle, b"1", b"2"]),
            packet(29, &[handle, b"careful\n"]),
            packet(28, &[handle, b"part\n"]),
            packet(13, &[handle, b"last\n"]),
        ]
        .concat(),
        b"echo" => packet(13, &[handle, workload]),
        _ => packet(14, &[handle]),
    }
}

fn ours(words: &[&str], addr: SocketAddr) -> Command {
    let mut command = tool(&binary("ibex").unwrap(), addr);
    // The tool's name comes first, then the host.
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    command = Command::new(binary("ibex").unwrap());
    command.arg("gear").args(words).args(arguments);
    command
}

/// Exit code, both outputs as sorted bytes: the original writes results past its buffer and the rest when it ends, so only the order differs. Handles are
/// an H.
fn said(output: &Output) -> (Option<i32>, String, String) {
    let sorted = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let mut words: Vec<_> = text
            .split_inclusive([' ', '\n'])
            .map(|word| match word.strip_prefix("H:") {
                Some(handle) => format!(
                    "H{}",
                    handle.trim_start_matches(|c: char| !c.is_whitespace())
                ),
                None => word.to_owned(),
            })
            .collect();
        words.sort();
        words.concat()
    };
    let (out, err) = (sorted(&output.stdout), sorted(&output.stderr));
    (output.status.code(), out, err)
}

const CLIENT_CASES: &[(&[&str], &[u8])] = &[
    (&["-f", "echo", "x\n"], b""),
    (&["-f", "echo"], b"in\n"),
    (&["-f", "echo", "x\n", "y\n"], b""),
    (&["-f", "talk", "x"], b""),
    (&["-f", "talk", "-f", "echo", "x\n"], b""),
    (&["-f", "talk", "-P", "x"], b""),
    (&["-f", "echo", "-n"], b"a\nb\n"),
    (&["-f", "echo", "-N"], b"a\nb\n"),
    (&["-f", "echo", "-s"], b"not read"),
    (&["-f", "echo", "-v", "x\n"], b""),
    (&["-f", "echo", "-b", "x"], b""),
    (&["-f", "echo", "-b", "-v", "x"], b""),
    (&["-f", "echo", "-u", "key", "x\n"], b""),
    (&["-f", "echo", "-I", "x\n"], b""),
    (&["-f", "echo", "-L", "x\n"], b""),
    (&["-f", "fail", "x"], b""),
    (&["-f", "fail", "-f", "echo", "x\n"], b""),
    (&["-f", "echo", "-t", "30000", "x\n"], b""),
];

#[test]
fn clients_print_the_same() {
    let Some(gearman) = skip::program("gearman") else {
        return;
    };
    let mut wrong = Vec::new();
    against_both(|addr, whose| {
        drop(work(addr));
        for (args, input) in CLIENT_CASES {
            let theirs = peers::run(tool(&gearman, addr).args(*args), input).unwrap();
            let ours = peers::run(ours(&["client"], addr).args(*args), input).unwrap();
            if said(&ours) != said(&theirs) {
                wrong.push((whose, *args, said(&ours), said(&theirs)));
            }
        }
    });
    assert!(wrong.is_empty(), "ours, then theirs: {wrong:#?}");
}

#[test]
fn admins_print_the_same() {
    let Some(gearadmin) = skip::program("gearadmin") else {
        return;
    };
    let mut wrong = Vec::new();
    against_both(|addr, whose| {
        let mut client = TcpStream::connect(addr).unwrap();
        client
            .write_all(&packet(18, &[b"waits", b"key", b"w"]))
            .unwrap();
        let (_, handle) = read_packet(&mut client).unwrap();
        let handle = String::from_utf8(handle).unwrap();
        let cases: &[&[&str]] = &[
            &["--server-version"],
            &["--getpid"],
            &["--create-function=made"],
            &["--status"],
            &["--priority-status"],
            &["--show-jobs"],
            &["--show-unique-jobs"],
            &[
                "--status",
                "--priority-status",
                "--show-jobs",
                "--show-unique-jobs",
                "--server-version",
                "--getpid",
            ],
            &["--drop-function=made"],
            &["--drop-function=made"],
            &["--cancel-job=H:none:1"],
            &["--cancel-job", &handle],
        ];
        for args in cases {
            let create_again = args.contains(&"--drop-function=made");
            let theirs = peers::run(tool(&gearadmin, addr).args(*args), b"").unwrap();
            if create_again && theirs.stderr.is_empty() {
                let made = ours(&["admin"], addr)
                    .arg("--create-function=made")
                    .output();
                assert!(made.unwrap().status.success());
            }
            if args.contains(&"--cancel-job") {
                // It can be cancelled once.
                assert_eq!(String::from_utf8_lossy(&theirs.stdout).trim_end(), "OK");
                continue;
            }
            let ours = peers::run(ours(&["admin"], addr).args(*args), b"").unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
            let both = [&ours, &theirs].map(|output| {
                (
                    text(&output.stdout),
                    text(&output.stderr),
                    output.status.code(),
                )
            });
            let [mut ours, theirs] = both.clone();
            if !theirs.1.is_empty() {
                // DIFFERS(gearman): a refusal is exit code 1; the original ends with 0.
                assert_eq!((ours.2, theirs.2), (Some(1), Some(0)), "{both:?}");
                ours.2 = theirs.2;
            }
            if ours != theirs {
                wrong.push((whose, args.join(" "), both));
            }
        }
    });
    assert!(wrong.is_empty(), "ours, then theirs: {wrong:#?}");
}

#[test]
fn a_server_that_is_not_there_is_an_error() {
    let addr = ibex_testkit::ports::free();
    let output = peers::run(ours(&["client"], addr).args(["-f", "f", "x"]), b"").unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let output = peers::run(ours(&["admin"], addr).arg("--status"), b"").unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!output.stderr.is_empty());
}

#[test]
fn jobs_are_mapped_timed_waited_for_and_told_as_json() {
    against_both(|addr, whose| {
        drop(work(addr));
        let run = |args: &[&str], input: &[u8]| {
            let output = peers::run(ours(&["client"], addr).args(args), input).unwrap();
            let out = String::from_utf8(output.stdout).unwrap();
            (
                output.status.code(),
                out,
                String::from_utf8(output.stderr).unwrap(),
            )
        };
        let lines: String = (0..300).map(|n| format!("line {n}\n")).collect();
        let (code, out, _) = run(&["-f", "echo", "--map", "-j", "16"], lines.as_bytes());
        assert_eq!((code, out), (Some(0), lines));
        let (code, out, err) = run(&["-f", "fail", "--map"], b"a\nb\n");
        assert_eq!((code, &out[..]), (Some(1), "\n\n"));
        assert_eq!(err.lines().count(), 2, "{err}");
        let (_, out, _) = run(&["-f", "talk", "--json", "x"], b"");
        let line: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (
                &line["function"],
                &line["status"],
                &line["data"],
                &line["warnings"][0]
            ),
            (
                &"talk".into(),
                &"complete".into(),
                &"part\nlast\n".into(),
                &"careful\n".into()
            )
        );
        // In an hour: it is there, and waits.
        let (code, out, _) = run(&["-f", "echo", "--at", "+3600", "--json", "later"], b"");
        assert_eq!(code, Some(0));
        let line: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(line["status"], "created");
        let admin = peers::ok(ours(&["admin"], addr).args(["--status", "--json"]), b"").unwrap();
        let status: serde_json::Value = serde_json::from_str(&admin).unwrap();
        let rows = status["rows"].as_array().unwrap();
        let echo = rows.iter().find(|row| row["function"] == "echo").unwrap();
        assert_eq!(
            (&echo["total"], &echo["workers"]),
            (&1.into(), &1.into()),
            "{admin}"
        );
        let handle = line["handle"].as_str().unwrap();
        if whose == Whose::Theirs {
            let (code, _, err) = run(&["--wait", handle], b"");
            assert_eq!(code, Some(1));
            assert!(err.contains("does not know"), "{err}");
            return;
        }
        // One that ends, and one that has ended.
        let (_, out, _) = run(
            &["-f", "echo", "-b", "--json", "--result-ttl", "600", "kept"],
            b"",
        );
        let line: serde_json::Value = serde_json::from_str(&out).unwrap();
        let kept = line["handle"].as_str().unwrap();
        for _ in 0..2 {
            let (code, out, err) = run(&["--wait", kept], b"");
            assert_eq!((code, &out[..]), (Some(0), "kept"), "{err}");
        }
        assert_eq!(run(&["--wait", "H:none:1"], b"").0, Some(1));
        let (code, _, err) = run(&["-f", "nobody", "--no-wait-for-workers", "x"], b"");
        assert_eq!(code, Some(1), "{err}");
        // A job that nobody does, and no patience.
        let (code, _, err) = run(&["-f", "nobody", "-t", "50", "x"], b"");
        assert_eq!(code, Some(2), "{err}");
    });
}

/// Runs our worker until the test ends.
fn serve(addr: SocketAddr, args: &[&str]) -> Guard {
    let mut command = ours(&["worker"], addr);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Guard(command.spawn().unwrap())
}

#[test]
fn workers_run_commands_line_by_line_and_leave_in_order() {
    let dir = tempfile::tempdir().unwrap();
    against_both(|addr, _| {
        let run = |function: &str, input: &[u8]| {
            let output = peers::run(ours(&["client"], addr).args(["-f", function]), input);
            let output = output.unwrap();
            (
                output.status.code(),
                String::from_utf8(output.stdout).unwrap(),
            )
        };
        let whole = serve(addr, &["-f", "whole", "-n", "--", "sed", "s/^/> /"]);
        let bare = serve(addr, &["-f", "bare", "-N", "--", "cat"]);
        let failing = serve(
            addr,
            &["-f", "failing", "--", "sh", "-c", "echo said; exit 3"],
        );
        assert_eq!(run("whole", b"a\nb\n"), (Some(0), "> a\n> b\n".to_owned()));
        assert_eq!(run("bare", b"a\nb\n"), (Some(0), "ab".to_owned()));
        assert_eq!(run("failing", b"x"), (Some(1), "said\n".to_owned()));
        drop((whole, bare, failing));
        // One job, and a file with its number meanwhile.
        let pid_file: PathBuf = dir.path().join("pid");
        let path = pid_file.display().to_string();
        let mut once = serve(addr, &["-f", "once", "-c", "1", "-i", &path, "--", "cat"]);
        wait::until_true("the file to be written", || {
            std::fs::read_to_string(&pid_file)
                .is_ok_and(|text| text.trim() == once.0.id().to_string())
        })
        .unwrap();
        assert_eq!(run("once", b"x"), (Some(0), "x".to_owned()));
        wait::until_true("the worker to leave", || {
            once.0
                .try_wait()
                .unwrap()
                .is_some_and(|status| status.success())
        })
        .unwrap();
        assert!(!pid_file.exists());
        // Nothing to do.
        let output = peers::run(
            ours(&["worker"], addr).args(["-f", "idle", "-t", "50"]),
            b"",
        );
        assert_eq!(output.unwrap().status.code(), Some(2));
        // Told to stop amid a job, it finishes it.
        let started = dir.path().join("started");
        let script = format!(
            "echo x > {0}; while [ -e {0} ]; do sleep 0.01; done; echo done",
            started.display()
        );
        let mut last = serve(addr, &["-f", "last", "--", "sh", "-c", &script]);
        let asking = {
            let mut command = ours(&["client"], addr);
            command.args(["-f", "last", "x"]);
            std::thread::spawn(move || peers::ok(&mut command, b"").unwrap())
        };
        wait::until_true("the job to begin", || Path::new(&started).exists()).unwrap();
        let pid = rustix::process::Pid::from_child(&last.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        std::fs::remove_file(&started).unwrap();
        assert_eq!(asking.join().unwrap(), "done\n");
        wait::until_true("the worker to leave", || {
            last.0
                .try_wait()
                .unwrap()
                .is_some_and(|status| status.success())
        })
        .unwrap();
    });
}

#[test]
fn an_admin_watches_and_reloads() {
    let (daemon, addr) = start();
    let reloaded = peers::ok(ours(&["admin"], addr).arg("--reload"), b"").unwrap();
    assert_eq!(reloaded.trim_end(), "OK");
    let refused = peers::run(
        ours(&["admin"], addr).args(["--watch", "1", "--drain", "on"]),
        b"",
    )
    .unwrap();
    assert!(!refused.status.success());
    let mut watching = ours(&["admin"], addr)
        .args(["--watch", "1", "--server-version", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(watching.stdout.take().unwrap());
    let watching = Guard(watching);
    for _ in 0..2 {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
        assert!(line.starts_with("{\"command\":\"version\""), "{line}");
    }
    drop(watching);
    daemon.stop().unwrap();
}

//! Every command of `ibex schwartz`, once straight on the tables and once through a daemon: the same output, the same exit codes.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use ibex_testkit::{Daemon, daemon, wait};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The tool and where it goes.
struct Tool {
    place: [String; 2],
    is_daemon: bool,
    dir: TempDir,
    daemon: Option<Daemon>,
}

impl Tool {
    fn tables() -> Self {
        let dir = TempDir::new().unwrap();
        let url = format!("sqlite:{}", dir.path().join("jobs.db").display());
        Self {
            place: ["--db".to_owned(), url],
            is_daemon: false,
            dir,
            daemon: None,
        }
    }

    fn through_daemon() -> Self {
        let dir = TempDir::new().unwrap();
        let url = format!("sqlite:{}", dir.path().join("jobs.db").display());
        let daemon = Daemon::builder("ibex-schwartzd")
            .set("store.url", &url)
            .set("shutdown.grace", "2s")
            .start()
            .unwrap();
        let addr = daemon.addr("schwartz").unwrap();
        Self {
            place: ["--server".to_owned(), format!("http://{addr}")],
            is_daemon: true,
            dir,
            daemon: Some(daemon),
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(daemon::binary("ibex").unwrap());
        command
            .arg("schwartz")
            .args(&self.place)
            .args(args)
            .env_remove("SCHWARTZ_DB")
            .env_remove("SCHWARTZ_SERVER")
            .env("TZ", "UTC")
            .current_dir(self.dir.path());
        command
    }

    /// Exit code and standard output.
    fn run(&self, args: &[&str]) -> (i32, String) {
        let output = self.command(args).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code().unwrap(), text)
    }

    /// Output of a call that must succeed.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {errors}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    fn work(&self, func: &str, exec: &str, more: &[&str]) -> i32 {
        let args = [&["work", "--func", func, "--exec", exec], more].concat();
        self.run(&args).0
    }

    fn end(self) {
        if let Some(daemon) = self.daemon {
            daemon.stop().unwrap();
        }
    }
}

/// Both ways.
fn each(test: impl Fn(&Tool)) {
    for tool in [Tool::tables(), Tool::through_daemon()] {
        test(&tool);
        tool.end();
    }
}

#[test]
fn jobs_go_in_with_every_option_and_are_listed() {
    each(|tool| {
        let plain = tool.ok(&["insert", "Mail", "--arg", "to=fred"]);
        let args = [
            "insert",
            "Mail",
            "--uniqkey",
            "k",
            "--coalesce",
            "host.a",
            "--priority",
            "7",
        ];
        let keyed = tool.ok(&args);
        assert_eq!(tool.run(&args), (3, "duplicate\n".to_owned()));
        let later = tool.ok(&["insert", "Later", "--run-after", "+3600"]);
        let far = tool.ok(&[
            "insert",
            "Later",
            "--run-after",
            "4000000000",
            "--coalesce",
            "host_b",
        ]);
        std::fs::write(tool.dir.path().join("arg"), b"\xff\x00").unwrap();
        tool.ok(&["insert", "Bytes", "--arg-file", "arg"]);
        let frozen = r#"{"to":["a","b"]}"#;
        tool.ok(&["insert", "Frozen", "--arg-json", frozen, "--storable"]);
        tool.ok(&["insert", "Json", "--arg-json", frozen]);

        let listed = |args: &[&str]| -> Vec<Value> {
            let text = tool.ok(&[&["list"], args].concat());
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        };
        let handles = |args: &[&str]| -> Vec<String> {
            let jobs = listed(args);
            let handles = jobs
                .iter()
                .map(|job| job["handle"].as_str().unwrap().to_owned());
            handles.collect()
        };
        assert_eq!(handles(&["--func", "Mail"]), [plain.clone(), keyed.clone()]);
        assert_eq!(
            handles(&["--func", "Mail", "--limit", "1"]),
            [plain.as_str()]
        );
        assert_eq!(handles(&["--func", "Mail", "--func", "Later"]).len(), 4);
        assert_eq!(
            handles(&["--state", "scheduled"]),
            [later.clone(), far.clone()]
        );
        assert_eq!(handles(&["--coalesce", "host.a"]), [keyed.as_str()]);
        assert_eq!(handles(&["--coalesce-prefix", "host_"]), [far]);
        let job = &listed(&["--func", "Mail", "--coalesce", "host.a"])[0];
        assert_eq!(
            (
                &job["uniqkey"],
                &job["coalesce"],
                &job["priority"],
                &job["funcname"],
                &job["state"]
            ),
            (
                &json!("k"),
                &json!("host.a"),
                &json!(7),
                &json!("Mail"),
                &json!("ready")
            )
        );
        assert_eq!(listed(&["--func", "Bytes"])[0]["arg"], "\\xff\\x00");
        assert_eq!(
            listed(&["--func", "Frozen"])[0]["arg"],
            json!({"to": ["a", "b"]})
        );
        assert_eq!(listed(&["--func", "Json"])[0]["arg"], frozen);

        let status = tool.json(&["status", &later]);
        assert_eq!(
            (&status["pending"], &status["state"]),
            (&json!(true), &json!("scheduled"))
        );
        assert_eq!(
            (&status["exit_status"], &status["failures"]),
            (&Value::Null, &json!([]))
        );
        tool.ok(&["cancel", &later]);
        let status = tool.json(&["status", &later]);
        assert_eq!(
            (&status["pending"], &status["ended"]),
            (&json!(false), &json!("cancelled"))
        );
        assert_eq!(tool.run(&["cancel", &later]).0, 1, "it is gone");
        tool.ok(&["retry", &later]);
        assert_eq!(tool.json(&["status", &later])["state"], "ready");
    });
}

#[test]
fn commands_are_run_for_jobs_and_their_ends_are_the_jobs() {
    each(|tool| {
        assert_eq!(tool.work("Mail", "true", &["--once"]), 2, "nothing to do");
        let keep = ["--keep-exit-status-for", "1000", "--once"];
        let job = tool.ok(&[
            "insert",
            "Mail",
            "--arg",
            "to=fred",
            "--uniqkey",
            "k",
            "--coalesce",
            "c",
        ]);
        let show = "cat > arg; echo \"$SCHWARTZ_JOBID $SCHWARTZ_HANDLE $SCHWARTZ_FUNCNAME $SCHWARTZ_UNIQKEY $SCHWARTZ_COALESCE $SCHWARTZ_ATTEMPT\" > env";
        assert_eq!(tool.work("Mail", show, &keep), 0);
        let read = |name: &str| std::fs::read_to_string(tool.dir.path().join(name)).unwrap();
        assert_eq!(read("arg"), "to=fred");
        let jobid = job.rsplit_once('-').unwrap().1;
        assert_eq!(read("env"), format!("{jobid} {job} Mail k c 1\n"));
        assert_eq!(tool.json(&["status", &job])["exit_status"], 0);

        // Declined: nothing is counted, and it does not come back before its lease would have ended.
        let job = tool.ok(&["insert", "Mail", "--arg", "x"]);
        assert_eq!(tool.work("Mail", "exit 75", &keep), 0);
        let status = tool.json(&["status", &job]);
        assert_eq!(
            (&status["pending"], &status["failures"]),
            (&json!(true), &json!([]))
        );
        assert_eq!(tool.work("Mail", "true", &["--once"]), 2);

        // Failed for good, whatever retries there are.
        let job = tool.ok(&["insert", "Bad", "--arg", "x"]);
        let exec = "echo one >&2; echo the last >&2; exit 100";
        assert_eq!(
            tool.work("Bad", exec, &[&["--max-retries", "5"], &keep[..]].concat()),
            0
        );
        let status = tool.json(&["status", &job]);
        assert_eq!(
            (&status["exit_status"], &status["ended"]),
            (&json!(100), &json!("failed"))
        );
        assert_eq!(status["failures"], json!(["the last"]));

        // Any other: once more, and then it is over with that status.
        let job = tool.ok(&["insert", "Retried", "--arg", "x"]);
        let exec = "echo $SCHWARTZ_ATTEMPT >&2; exit 7";
        let more = [&["--max-retries", "1"], &keep[..]].concat();
        assert_eq!(tool.work("Retried", exec, &more), 0);
        assert_eq!(tool.json(&["status", &job])["state"], "ready");
        assert_eq!(tool.work("Retried", exec, &more), 0);
        let status = tool.json(&["status", &job]);
        assert_eq!(
            (&status["exit_status"], &status["failures"]),
            (&json!(7), &json!(["1", "2"]))
        );

        // The job's own bound goes before the worker's.
        let job = tool.ok(&["insert", "Bound", "--max-attempts", "1"]);
        assert_eq!(
            tool.work("Bound", "exit 7", &["--max-retries", "5", "--once"]),
            0
        );
        assert_eq!(tool.json(&["status", &job])["ended"], "failed");

        let job = tool.ok(&["insert", "Slow", "--arg", "x"]);
        assert_eq!(
            tool.work(
                "Slow",
                "exit 1",
                &["--max-retries", "1", "--retry-delay", "600", "--once"]
            ),
            0
        );
        assert_eq!(tool.json(&["status", &job])["state"], "scheduled");
    });
}

#[test]
fn arguments_that_perl_froze_are_json_unless_raw_and_the_most_urgent_go_first() {
    each(|tool| {
        let frozen = r#"{"to":"fred"}"#;
        for _ in 0..2 {
            tool.ok(&["insert", "Frozen", "--arg-json", frozen, "--storable"]);
        }
        tool.work("Frozen", "cat > json", &["--once"]);
        tool.work("Frozen", "cat > raw", &["--once", "--raw"]);
        let read = |name: &str| std::fs::read(tool.dir.path().join(name)).unwrap();
        assert_eq!(read("json"), frozen.as_bytes());
        assert_eq!(read("raw")[0], 5, "network order");

        for priority in ["1", "9", "5"] {
            tool.ok(&[
                "insert",
                "Urgent",
                "--arg",
                priority,
                "--priority",
                priority,
            ]);
        }
        let exec = "cat >> order";
        let more = [
            "--until-done",
            "--prioritize",
            "--floor",
            "2",
            "--batch-size",
            "10",
        ];
        assert_eq!(tool.work("Urgent", exec, &more), 0);
        assert_eq!(read("order"), b"95", "the floor leaves one");
        for _ in 0..6 {
            tool.ok(&["insert", "Many", "--arg", "x"]);
        }
        assert_eq!(
            tool.work("Many", "cat >> many", &["--until-done", "--jobs", "3"]),
            0
        );
        assert_eq!(read("many"), b"xxxxxx");
    });
}

fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).spawn().unwrap()
}

fn terminate(child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
}

#[test]
fn a_worker_that_is_told_to_stop_finishes_what_it_has() {
    each(|tool| {
        let job = tool.ok(&["insert", "Long", "--arg", "x"]);
        let exec = "touch begun; while ! test -e go; do sleep 0.05; done";
        let mut child = spawn(&mut tool.command(&[
            "work",
            "--func",
            "Long",
            "--exec",
            exec,
            "--grab-for",
            "3",
            "--keep-exit-status-for",
            "1000",
        ]));
        let begun = tool.dir.path().join("begun");
        wait::until_true("the command to begin", || begun.exists()).unwrap();
        let until = |job: &str| {
            let line = tool.json(&["list", "--func", "Long"]);
            assert_eq!(line["handle"], job);
            line["grabbed_until"].as_u64().unwrap()
        };
        let first = until(&job);
        wait::until_true("the lease to be made longer", || until(&job) > first).unwrap();
        terminate(&child);
        std::fs::write(tool.dir.path().join("go"), "").unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert_eq!(tool.json(&["status", &job])["exit_status"], 0);
    });
}

#[test]
fn a_worker_told_twice_gives_back_what_it_has() {
    each(|tool| {
        let job = tool.ok(&["insert", "Long", "--arg", "x"]);
        let exec = "touch begun; while true; do sleep 0.05; done";
        let mut child = spawn(&mut tool.command(&["work", "--func", "Long", "--exec", exec]));
        let begun = tool.dir.path().join("begun");
        wait::until_true("the command to begin", || begun.exists()).unwrap();
        wait::until_true("the worker to end", || {
            terminate(&child);
            child.try_wait().unwrap().is_some()
        })
        .unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let status = tool.json(&["status", &job]);
        assert_eq!(
            (&status["state"], &status["failures"]),
            (&json!("ready"), &json!([]))
        );
    });
}

#[test]
fn functions_are_paused_leases_extended_and_jobs_brought_back() {
    each(|tool| {
        let job = tool.ok(&["insert", "Mail", "--arg", "x"]);
        tool.ok(&["pause", "Mail"]);
        assert_eq!(tool.json(&["list", "--state", "blocked"])["handle"], job);
        assert_eq!(tool.work("Mail", "true", &["--once"]), 2);
        tool.ok(&["resume", "Mail"]);
        assert_eq!(tool.run(&["resume", "Mail"]).0, 2, "it was not paused");
        tool.ok(&["pause", "Mail", "--for", "3600"]);
        tool.ok(&["resume", "Mail"]);

        assert_eq!(tool.work("Mail", "exit 100", &["--once"]), 0);
        assert_eq!(tool.run(&["retry", "--all", "--func", "Other"]).0, 2);
        assert_eq!(tool.json(&["retry", "--all"])["retried"], 1);
        assert_eq!(tool.run(&["retry", &job]).0, 1, "it is pending");

        if tool.is_daemon {
            assert_eq!(tool.run(&["extend", &job, "60"]).0, 64, "whose lease?");
            assert_eq!(tool.run(&["extend", &job, "60", "--lease", "x"]).0, 1);
        } else {
            assert_eq!(tool.run(&["extend", &job, "60"]).0, 2, "nobody has it");
            // A declined job keeps its lease.
            tool.work("Mail", "exit 75", &["--once", "--grab-for", "100"]);
            let before = tool.json(&["list"])["grabbed_until"].as_u64().unwrap();
            let until: u64 = tool.ok(&["extend", &job, "1000"]).parse().unwrap();
            assert!(until >= before + 890, "{before} {until}");
            assert_eq!(tool.json(&["list"])["grabbed_until"], until);
        }

        let entry = tool.json(&["cron", "set", "n", "@daily", r#"{"func":"Report"}"#]);
        assert_eq!(entry["spec"], "@daily");
        assert_eq!(tool.json(&["cron", "list"])["name"], "n");
        assert_eq!(tool.run(&["cron", "set", "n", "@daily", "{}"]).0, 1);
        tool.ok(&["cron", "delete", "n"]);
        assert_eq!(tool.run(&["cron", "delete", "n"]).0, 2);
    });
}

#[test]
fn queues_and_errors_are_shown_as_schwartzmon_shows_them() {
    each(|tool| {
        assert_eq!(tool.run(&["queues"]), (0, String::new()));
        for _ in 0..3 {
            tool.ok(&["insert", "Behind", "--run-after", "1000000000"]);
        }
        tool.ok(&["insert", "Other"]);
        let (code, text) = tool.run(&["queues", "--job", "Behind"]);
        assert_eq!(code, 1);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["Behind", "  outstanding: 3"]);
        let seconds = lines[2].strip_prefix("  behind_secs: ").unwrap();
        assert!(seconds.parse::<u64>().unwrap() > 500_000_000);
        let limits = ["queues", "--maxage", "9000000000", "--maxcount", "3"];
        assert_eq!(tool.run(&limits), (0, String::new()));
        assert_eq!(
            tool.run(&["queues", "--maxcount", "3", "--job", "Behind"])
                .0,
            1,
            "its age is over"
        );
        assert_eq!(
            tool.run(&["queues", "--maxage", "9000000000", "--job", "Behind"])
                .0,
            1,
            "its count is over"
        );

        assert_eq!(tool.run(&["queues", "--stuck"]), (0, String::new()));
        if !tool.is_daemon {
            let long = ["--once", "--grab-for", "5000000"];
            tool.work("Other", "exit 75", &long);
            let (code, text) = tool.run(&["queues", "--stuck"]);
            assert!(code == 1 && text.starts_with("Other "), "{code} {text}");
        }

        tool.work("Behind", "echo no >&2; exit 3", &["--until-done"]);
        let text = tool.ok(&["errors", "--func", "Behind", "--last", "2"]);
        assert_eq!(text.lines().count(), 2, "{text}");
        let line = text.lines().next().unwrap();
        // `Sat Nov 21 22:00:00 2026 [jobid]: message`.
        let (time, rest) = line.split_once(" [").unwrap();
        assert_eq!(time.len(), "Sat Nov 21 22:00:00 2026".len(), "{line}");
        assert!(rest.ends_with("]: no"), "{line}");
        assert_eq!(tool.ok(&["errors", "--inlast", "3600"]).lines().count(), 3);
        assert_eq!(tool.ok(&["errors", "--func", "Other"]), "");

        let mut child = spawn(&mut tool.command(&["errors", "-f"]));
        let (told, lines) = std::sync::mpsc::channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        let reading = std::thread::spawn(move || {
            for line in out.lines() {
                told.send(line.unwrap()).unwrap();
            }
        });
        let mut seen = None;
        wait::until_true("a failure to be told of", || {
            tool.ok(&["insert", "Followed"]);
            tool.work("Followed", "echo later >&2; exit 3", &["--once"]);
            seen = lines.try_recv().ok();
            seen.is_some()
        })
        .unwrap();
        assert!(seen.unwrap().ends_with("]: later"));
        terminate(&child);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        drop(lines);
        drop(reading.join());
    });
}

#[test]
fn the_live_view_and_the_load_maker_say_what_they_see() {
    each(|tool| {
        tool.ok(&["insert", "Seen", "--arg", "x"]);
        let board = tool.dir.path().join("theschwartz");
        std::fs::create_dir(&board).unwrap();
        let text = "pid=4711\nfuncname=Perl\nstarted=100\narg=a\ndone=101\n";
        std::fs::write(board.join("scoreboard.4711"), text).unwrap();
        let shown = tool.ok(&["top", "--count", "1", "--scoreboard", "."]);
        assert!(shown.contains("Seen") && shown.contains("4711"), "{shown}");

        let text = tool.ok(&["bench", "--secs", "1", "--conns", "2", "--batch", "5"]);
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let kinds: Vec<&Value> = lines.iter().map(|line| &line["what"]).collect();
        assert_eq!(kinds, ["insert", "work"]);
        for line in &lines {
            assert!(line["jobs"].as_u64().unwrap() > 0, "{line}");
            assert!(line["p99_ms"].as_f64().unwrap() >= line["p50_ms"].as_f64().unwrap());
        }
        let text = tool.ok(&[
            "bench", "--mode", "insert", "--secs", "1", "--conns", "1", "--func", "Own",
        ]);
        assert_eq!(text.lines().count(), 1);
        let (_, queues) = tool.run(&["queues", "--job", "Own"]);
        assert!(queues.starts_with("Own\n  outstanding: "), "{queues}");
    });
}

#[test]
fn tables_are_made_printed_and_fed_from_an_outbox() {
    let tool = Tool::tables();
    tool.ok(&["init"]);
    let ddl = tool.ok(&["schema", "--dialect", "postgres", "--bare"]);
    assert!(ddl.starts_with("CREATE TABLE funcmap ("), "{ddl}");
    let prefixed = tool.ok(&["--prefix", "sch_", "schema", "--dialect", "mysql"]);
    assert!(prefixed.contains("IF NOT EXISTS sch_job") && prefixed.contains("ENGINE=InnoDB"));
    tool.ok(&["--prefix", "sch_", "init"]);
    tool.ok(&["--prefix", "sch_", "insert", "Prefixed"]);
    assert_eq!(tool.ok(&["list"]), "", "other tables");

    // The outbox is in another file; any program writes it, here the tool itself after it made it.
    let from = format!("sqlite:{}", tool.dir.path().join("app.db").display());
    let relay = [
        "relay", "--from", &from, "--table", "outbox", "--source", "app",
    ];
    assert_eq!(tool.run(&relay).0, 1, "no such table");
    assert_eq!(
        tool.run(&[&relay[..], &["--create"]].concat()),
        (2, String::new())
    );
    let Some(sqlite) = ibex_testkit::skip::program(ibex_testkit::skip::python()) else {
        return;
    };
    let script = "import sqlite3; d = sqlite3.connect('app.db'); d.executemany('INSERT INTO outbox (func, arg, uniqkey) VALUES (?, ?, ?)', [('Mail', b'1', None), ('Mail', b'2', 'k'), ('Mail', b'3', 'k'), ('', b'4', None)]); d.commit()";
    let wrote = Command::new(sqlite)
        .args(["-c", script])
        .current_dir(tool.dir.path())
        .status()
        .unwrap();
    assert!(wrote.success());
    assert_eq!(
        tool.json(&relay),
        json!({"jobs": 2, "duplicates": 1, "refused": 1})
    );
    assert_eq!(tool.ok(&["list", "--func", "Mail"]).lines().count(), 2);

    let through = Tool::through_daemon();
    assert_eq!(through.run(&["init"]).0, 64, "tables are made in databases");
    assert_eq!(through.run(&relay).0, 64);
    through.end();
}

#[test]
fn exit_codes_tell_usage_from_databases_that_are_away() {
    let tool = Tool::tables();
    let run = |args: &[&str]| {
        let mut command = Command::new(daemon::binary("ibex").unwrap());
        command
            .arg("schwartz")
            .args(args)
            .env_remove("SCHWARTZ_DB")
            .env_remove("SCHWARTZ_SERVER");
        command.output().unwrap().status.code().unwrap()
    };
    let nowhere = ibex_testkit::ports::free();
    let mysql = format!("mysql://root@{nowhere}/x?timeout=200ms&connect_timeout=200ms");
    assert_eq!(run(&["--db", &mysql, "insert", "Mail"]), 4);
    assert_eq!(
        run(&["--server", &format!("http://{nowhere}"), "insert", "Mail"]),
        4
    );
    assert_eq!(run(&["insert", "Mail"]), 64, "where?");
    assert_eq!(run(&["--db", "a", "--server", "b", "insert", "Mail"]), 64);
    assert_eq!(run(&["--server", "https://queue", "insert", "Mail"]), 64);
    assert_eq!(run(&["no-such-command"]), 64);
    assert_eq!(tool.run(&["insert", "Mail", "--run-after", "soon"]).0, 64);
    assert_eq!(tool.run(&["insert", "Mail", "--priority", "65536"]).0, 64);
    assert_eq!(tool.run(&["insert", "Mail", "--arg-json", "{"]).0, 64);
    assert_eq!(
        tool.run(&["insert", "Mail", "--arg", "a", "--arg-json", "1"])
            .0,
        64
    );
    assert_eq!(tool.run(&["insert", ""]).0, 1, "a function has a name");
    assert_eq!(tool.run(&["status", "nonsense"]).0, 1);
}

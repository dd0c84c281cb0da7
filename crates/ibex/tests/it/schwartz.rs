//! `ibex schwartz` on a file: what an operator does, and the exit codes that scripts rely on.

use std::process::Command;

struct Tool {
    dir: tempfile::TempDir,
}

impl Tool {
    /// Exit code and standard output.
    fn run(&self, args: &[&str]) -> (i32, String) {
        let url = format!("sqlite:{}", self.dir.path().join("jobs.db").display());
        let output = Command::new(env!("CARGO_BIN_EXE_ibex"))
            .args(["schwartz", "--db", &url])
            .args(args)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code().unwrap(), text)
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        let (code, text) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {text}");
        serde_json::from_str(&text).unwrap()
    }
}

#[test]
fn an_operator_pauses_retries_and_schedules() {
    let tool = Tool {
        dir: tempfile::tempdir().unwrap(),
    };
    let (code, handle) = tool.run(&["insert", "Mail", "--arg", "x", "--uniqkey", "k"]);
    assert_eq!(code, 0);
    let handle = handle.trim();
    assert_eq!(tool.run(&["insert", "Mail", "--uniqkey", "k"]).0, 3);

    let work = ["work", "--func", "Mail", "--once", "--exec", "exit 100"];
    assert_eq!(tool.run(&["pause", "Mail"]).0, 0);
    assert_eq!(tool.json(&["list", "--state", "blocked"])["handle"], handle);
    assert_eq!(tool.run(&work).0, 2, "nothing to do");
    assert_eq!(tool.run(&["resume", "Mail"]).0, 0);
    assert_eq!(tool.run(&["resume", "Mail"]).0, 2, "it is not paused");

    assert_eq!(tool.run(&work).0, 0);
    assert_eq!(tool.json(&["status", handle])["ended"], "failed");
    assert_eq!(tool.run(&["retry", "--all", "--func", "Other"]).0, 2);
    assert_eq!(tool.json(&["retry", "--all"])["retried"], 1);
    assert_eq!(tool.json(&["status", handle])["state"], "ready");
    assert_eq!(tool.run(&["retry", handle]).0, 1, "it is pending");

    let set = ["cron", "set", "n", "@daily", r#"{"func":"Report"}"#];
    let entry = tool.json(&set);
    assert_eq!(tool.json(&["cron", "list"]), entry);
    assert_eq!(tool.run(&["cron", "set", "n", "@daily", "{}"]).0, 1);
    assert_eq!(tool.run(&["cron", "delete", "n"]).0, 0);
    assert_eq!(tool.run(&["cron", "delete", "n"]).0, 2);
}

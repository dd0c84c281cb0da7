//! What a running daemon writes to its log.

use crate::daemon::{Daemon, command, wait_for};

#[test]
fn json_lines_all_parse_and_carry_the_shared_keys() {
    let daemon = Daemon::start(&["--log-format", "json", "--set", "node_name=n1", "-x"]);
    daemon.echo("x");
    let log = daemon.stop();
    for line in log.lines() {
        let object: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for key in ["ts", "level", "target", "msg"] {
            assert!(
                object.get(key).is_some_and(serde_json::Value::is_string),
                "{key} missing in {line}"
            );
        }
        assert_eq!(
            object.get("node").and_then(serde_json::Value::as_str),
            Some("n1")
        );
    }
    assert!(
        log.contains("ignored for compatibility") && log.contains("\"flag\":\"-x\""),
        "{log}"
    );
}

#[test]
fn strangers_cannot_flood_the_log() {
    let daemon = Daemon::start(&[]);
    daemon.echo("strange");
    let log = wait_for("the summary", || {
        Some(daemon.log()).filter(|log| log.contains("messages suppressed"))
    });
    let told = log
        .lines()
        .filter(|line| line.contains("strange input"))
        .count();
    assert!((1..=30).contains(&told), "{told}");
    let suppressed: usize = log
        .lines()
        .filter_map(|line| line.split("suppressed=").nth(1))
        .filter_map(|rest| rest.split(' ').next()?.parse::<usize>().ok())
        .sum();
    assert_eq!(told + suppressed, 1000, "{log}");
    assert!(
        daemon
            .get("/metrics")
            .1
            .contains("ibex_log_messages_total{level=\"warn\"} 100")
    );
}

#[test]
fn no_secret_in_any_output_at_debug_level() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("pw");
    std::fs::write(&secret, "canary-4711").unwrap();
    let file = dir.path().join("echo.toml");
    std::fs::write(
        &file,
        format!(
            "[auth]\nurl = \"mysql://u:canary-4711@h/db\"\npassword_file = \"{}\"\n",
            secret.display()
        ),
    )
    .unwrap();
    let daemon = Daemon::start(&["--config", file.to_str().unwrap(), "--log-level", "debug"]);
    let pages = [
        "/",
        "/metrics",
        "/-/config",
        "/-/status",
        "/-/build",
        "/-/debug/tasks",
        "/-/log",
    ];
    let seen: String = pages.iter().map(|path| daemon.get(path).1).collect();
    assert!(seen.contains("mysql://u:***@h/db"));
    std::fs::write(&file, "[auth]\npassword = \"canary-4711\"\nbroken\n").unwrap();
    let (_, _, refused) = daemon.ask("POST", "/-/reload", "", "");
    assert!(refused.contains("echo.toml:3"), "{refused}");
    let log = daemon.stop();
    for text in [seen, refused, log] {
        assert!(!text.contains("canary-4711"), "{text}");
    }
}

#[test]
fn refused_secrets_do_not_show_either() {
    let output = command()
        .args([
            "--check-config",
            "--set",
            "auth.password=canary-4711",
            "--set",
            "auth.password_file=/dev/null",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(
        !crate::daemon::text(&output.stderr).contains("canary-4711"),
        "{}",
        crate::daemon::text(&output.stderr)
    );
}

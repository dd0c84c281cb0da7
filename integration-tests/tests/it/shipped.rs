//! What is shipped beside the binaries: units that systemd accepts and finds tight, a compose file that every engine reads, configurations that pass
//! their own check.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ibex_testkit::daemon::binary;
use ibex_testkit::family::DAEMONS;
use ibex_testkit::skip;
use tempfile::TempDir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn files(dir: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join(dir))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted))
    });
    files.sort();
    assert!(!files.is_empty(), "{dir} is empty");
    files
}

/// The units with the path of a program that exists, since `verify` wants to see it; a template gets one instance.
fn units_for_verify(dir: &Path) -> Vec<PathBuf> {
    let mut copies = Vec::new();
    for path in files("deploy/systemd", &["service", "socket", "target", "slice"]) {
        let text = fs::read_to_string(&path).unwrap();
        let mut copy = String::new();
        for line in text.lines() {
            let line = match line.strip_prefix("ExecStart=/usr/bin/") {
                Some(rest) => format!(
                    "ExecStart={}",
                    rest.replacen(rest.split(' ').next().unwrap(), "/bin/true", 1)
                ),
                None => line.to_owned(),
            };
            copy.push_str(&line);
            copy.push('\n');
        }
        let name = path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .replace("@.", "@1.");
        fs::write(dir.join(&name), copy).unwrap();
        copies.push(dir.join(name));
    }
    copies
}

#[test]
fn units_are_silent_under_verify() {
    let Some(analyze) = skip::program("systemd-analyze") else {
        return;
    };
    let dir = TempDir::new().unwrap();
    let units = units_for_verify(dir.path());
    let output = Command::new(analyze)
        .args(["verify", "--man=no"])
        .args(&units)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.trim().is_empty(), "{text}");
}

#[test]
fn units_are_tight() {
    let Some(analyze) = skip::program("systemd-analyze") else {
        return;
    };
    let dir = TempDir::new().unwrap();
    for unit in units_for_verify(dir.path()).iter().filter(|path| {
        path.extension()
            .is_some_and(|extension| extension == "service")
    }) {
        let output = Command::new(&analyze)
            .args(["security", "--offline=true", "--threshold=15", "--no-pager"])
            .arg(unit)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}: {}",
            unit.display(),
            text.lines().last().unwrap_or_default()
        );
    }
}

/// systemd must not lose patience before the daemon does.
#[test]
fn units_wait_longer_than_the_drain() {
    for member in DAEMONS {
        let unit =
            fs::read_to_string(root().join(format!("deploy/systemd/{}.service", member.binary)))
                .unwrap();
        let stop = unit
            .lines()
            .find_map(|line| line.strip_prefix("TimeoutStopSec="))
            .unwrap()
            .parse::<u64>()
            .unwrap();
        let text =
            fs::read_to_string(root().join(format!("deploy/examples/{}.toml", member.short)))
                .unwrap();
        let example: toml::Table = text.parse().unwrap();
        let seconds = |key: &str| {
            let value = example
                .get("shutdown")
                .and_then(|shutdown| shutdown.get(key))
                .and_then(toml::Value::as_str)
                .unwrap_or("0s");
            value.strip_suffix('s').unwrap().parse::<u64>().unwrap()
        };
        assert!(
            stop >= seconds("delay") + seconds("grace") + 10,
            "{}: TimeoutStopSec={stop}",
            member.binary
        );
    }
}

#[test]
fn examples_pass_their_own_check() {
    for member in DAEMONS {
        let file = root().join(format!("deploy/examples/{}.toml", member.short));
        let dir = TempDir::new().unwrap();
        let mut command = Command::new(binary(member.binary).unwrap());
        command
            .args(member.args.iter().filter(|arg| !arg.starts_with('-')))
            .arg("--check-config")
            .arg("--config")
            .arg(&file);
        let output = command
            .env_clear()
            .env("HOME", dir.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}: {}",
            file.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn compose_file_is_valid_for_the_old_tool() {
    let Some(compose) = skip::program("docker-compose") else {
        return;
    };
    let output = Command::new(compose)
        .args(["-f", "docker-compose.yml", "config"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What the two tools disagree about is not in the file, only the balancer (and the observer) is published, and everything has a health check or runs once.
#[test]
fn compose_file_keeps_to_the_common_subset() {
    let text = fs::read_to_string(root().join("docker-compose.yml")).unwrap();
    for banned in [
        "\nname:",
        "\nversion:",
        "\ninclude:",
        "develop:",
        "start_interval:",
        "content:",
    ] {
        assert!(
            !text.contains(banned),
            "{banned:?} is not understood by both"
        );
    }
    let published: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("- \"") && line.contains(':') && line.ends_with('"'))
        .collect();
    assert!(!published.is_empty());
    for port in published {
        assert!(
            port.starts_with("- \"127.0.0.1:"),
            "{port} is open to the network"
        );
    }
    let services = text
        .split("\nservices:\n")
        .nth(1)
        .unwrap()
        .split("\nnetworks:\n")
        .next()
        .unwrap();
    let names: Vec<&str> = services
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   ") && line.ends_with(':'))
        .collect();
    for name in &names {
        let block: String = services
            .split(&format!("{name}\n"))
            .nth(1)
            .unwrap()
            .lines()
            .take_while(|line| line.is_empty() || line.starts_with("    "))
            .collect();
        assert!(
            block.contains("healthcheck:"),
            "{name} has neither a health check nor says that it needs none"
        );
    }
}

#[test]
fn prometheus_configuration_and_alerts_are_right() {
    let Some(promtool) = skip::program("promtool") else {
        return;
    };
    for args in [
        &["check", "config", "prometheus.yml"][..],
        &["check", "rules", "alerts.yml"],
        &["test", "rules", "alerts_test.yml"],
    ] {
        let output = Command::new(&promtool)
            .args(args)
            .current_dir(root().join("deploy/prometheus"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {text}");
    }
}

/// Each alert's runbook is a page that exists.
#[test]
fn every_alert_leads_to_a_page() {
    let text = fs::read_to_string(root().join("deploy/prometheus/alerts.yml")).unwrap();
    let pages: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("runbook: "))
        .collect();
    assert_eq!(pages.len(), text.matches("- alert:").count());
    for page in pages {
        assert!(root().join(page).is_file(), "{page} is not there");
    }
}

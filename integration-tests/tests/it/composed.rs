//! docker-compose.yml on a container engine of the test's own: images made without a registry, everything up and healthy, the site, one of each pair
//! killed, the site again, a clean stop. The work is done by `scripts/compose`.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ibex_testkit::daemon::binary;
use ibex_testkit::skip;

/// What `run.sh` looks at, in this order.
const CHECKS: [&str; 13] = [
    "up",
    "setup",
    "healthy",
    "front",
    "entry",
    "picture",
    "killed",
    "front-after",
    "entry-after",
    "picture-after",
    "stop",
    "exits",
    "down",
];
/// The scripts say by this that the machine has no engine.
const CANNOT: i32 = 77;

/// Runs a script beside an engine in namespaces of its own, which end with it. `flags` are the engine's.
fn beside_an_engine(folder: &Path, is_alone: bool, flags: &str, script: &[PathBuf]) -> Output {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--mount"]);
    if is_alone {
        command.arg("--net");
    }
    command
        .arg("bash")
        .arg(scripts().join("engine.sh"))
        .arg(folder)
        .arg(flags)
        .arg("bash")
        .args(script)
        .stdin(Stdio::null());
    command.output().unwrap()
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/scripts/compose")
}

/// Whether the script could not do its work here; said then.
fn is_skipped(output: &Output) -> bool {
    let cannot = output.status.code() == Some(CANNOT);
    if cannot {
        let reason = String::from_utf8_lossy(&output.stderr);
        skip::skip(&format!(
            "no container engine here: {}",
            reason.trim().lines().last().unwrap_or_default()
        ));
    }
    cannot
}

#[test]
fn heavy_the_whole_family_runs_in_containers() {
    if !rustix::process::geteuid().is_root() {
        skip::skip("needs root to run a container engine");
        return;
    }
    for program in [
        "dockerd",
        "docker-compose",
        "mmdebstrap",
        "iptables",
        "unshare",
        "strip",
        "curl",
    ] {
        if skip::program(program).is_none() {
            return;
        }
    }
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let programs = binary("ibex").unwrap().parent().unwrap().to_owned();
    // Beside the programs: the system's temporary folder may be memory.
    let folder = tempfile::TempDir::with_prefix_in("compose-", &programs).unwrap();
    let build = [
        scripts().join("build.sh"),
        folder.path().to_owned(),
        programs,
        project.to_owned(),
    ];
    let built = beside_an_engine(
        folder.path(),
        false,
        "--bridge=none --iptables=false",
        &build,
    );
    if is_skipped(&built) {
        return;
    }
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let run = [scripts().join("run.sh"), project.to_owned()];
    let ran = beside_an_engine(folder.path(), true, "", &run);
    if is_skipped(&ran) {
        return;
    }
    let answer = String::from_utf8_lossy(&ran.stdout);
    let reason = String::from_utf8_lossy(&ran.stderr);
    let wanted: Vec<String> = CHECKS.iter().map(|what| format!("ok {what}")).collect();
    let said: Vec<&str> = answer
        .lines()
        .filter(|line| line.starts_with("ok "))
        .collect();
    assert_eq!(said, wanted, "{answer}{reason}");
    assert_eq!(answer.lines().last(), Some("end"), "{answer}{reason}");
}

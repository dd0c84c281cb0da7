//! `--help`, `--version`, `--check-config`, `--print-config`: what they print, how fast, and that they touch nothing.

use std::process::Command;
use std::time::{Duration, Instant};

use ibex_testkit::daemon::binary;
use ibex_testkit::skip;

use super::{Case, err, out};

/// Asking must feel instant; the best of a few tries counts, because other tests run beside this one.
const ASK_TIME_MAX: Duration = Duration::from_millis(50);
const TRIES: usize = 10;

fn best_time(case: &Case, args: &[&str]) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..TRIES {
        let start = Instant::now();
        let output = case.run(args);
        best = best.min(start.elapsed());
        assert!(output.status.success(), "{args:?}: {}", err(&output));
        if best < ASK_TIME_MAX {
            break;
        }
    }
    best
}

pub(super) fn help_and_version(short: &str) {
    let case = Case::new(short);
    for flag in ["--help", "-h"] {
        let output = case.run(&[flag]);
        // A letter the original gave another meaning keeps that meaning; the long flag is ours everywhere.
        if flag == "-h" && output.status.code() != Some(0) {
            continue;
        }
        assert_eq!(output.status.code(), Some(0), "{flag}: {}", err(&output));
        assert!(
            out(&output).contains("--config"),
            "{flag} lists the flags on standard output"
        );
        assert_eq!(err(&output), "", "{flag} says nothing on standard error");
    }
    let long = out(&case.run(&["--help"]));
    for wanted in [
        format!("/etc/ibex/{short}.toml"),
        case.member.admin_port.to_string(),
        "SIGHUP".to_owned(),
    ] {
        assert!(long.contains(&wanted), "--help does not name {wanted}");
    }
    let output = Command::new(binary(case.member.binary).unwrap())
        .arg("--version")
        .env_clear()
        .output()
        .unwrap();
    let text = out(&output);
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(text.lines().count(), 1, "{text:?}");
    assert_eq!(words[0], case.member.binary);
    assert!(
        words[1].split('.').count() == 3
            && words[1].starts_with(|letter: char| letter.is_ascii_digit()),
        "{text:?}"
    );
    for args in [&["--help"][..], &["--check-config"]] {
        let time = best_time(&case, args);
        assert!(time < ASK_TIME_MAX, "{args:?} takes {time:?}");
    }
}

pub(super) fn check_and_print(short: &str) {
    let case = Case::new(short);
    let output = case.run(&["--check-config"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(out(&output).contains("ok"), "{}", out(&output));

    let printed = out(&case.run(&["--print-config", "--set", "log.level=debug"]));
    assert!(
        printed.contains("# flag") && printed.contains("# default"),
        "each value says where it came from:\n{printed}"
    );
    toml::from_str::<toml::Table>(&printed).expect("what is printed is a configuration file");
    let file = case.file(&printed);
    let again = out(&case.run(&["--print-config", "--config", &file]));
    assert_eq!(
        values(&again),
        values(&printed),
        "fed back, it says the same"
    );
}

/// The settings without the comments that tell where they came from.
fn values(printed: &str) -> toml::Table {
    toml::from_str(printed).expect("a configuration file")
}

pub(super) fn no_side_effects(short: &str) {
    let case = Case::new(short);
    let Some(strace) = skip::program("strace") else {
        return;
    };
    for flag in ["--help", "--version", "--check-config", "--print-config"] {
        let trace = case.dir.path().join("trace");
        let mut command = Command::new(&strace);
        command.args(["-f", "-qq", "-e", "trace=bind,listen,connect,openat,open,creat,mkdir,mkdirat,unlink,unlinkat,rename,renameat2", "-o"]);
        command.arg(&trace).arg(binary(case.member.binary).unwrap());
        command
            .args(case.member.args.iter().filter(|arg| !arg.starts_with('-')))
            .arg(flag);
        let output = command
            .env_clear()
            .env("HOME", case.dir.path())
            .output()
            .unwrap();
        if !trace.exists() || err(&output).contains("ptrace") {
            skip::skip("strace may not trace here");
            return;
        }
        assert!(output.status.success(), "{flag}: {}", err(&output));
        let calls = std::fs::read_to_string(&trace).unwrap();
        let bad: Vec<&str> = calls
            .lines()
            .filter(|call| changes_something(call))
            .collect();
        assert!(
            bad.is_empty(),
            "{flag} touches the world:\n{}",
            bad.join("\n")
        );
    }
}

fn changes_something(call: &str) -> bool {
    if call.contains("/dev/") || call.contains("/proc/") || call.contains("nscd") {
        return false;
    }
    let writes = ["O_WRONLY", "O_RDWR", "O_CREAT"]
        .iter()
        .any(|flag| call.contains(flag));
    let acts = [
        "bind(", "listen(", "connect(", "creat(", "mkdir", "unlink", "rename",
    ]
    .iter()
    .any(|name| call.contains(name));
    writes || acts
}

pub(super) fn unknown_flag(short: &str) {
    let case = Case::new(short);
    let output = case.run(&["--print-confg"]);
    assert_eq!(output.status.code(), Some(64), "{}", err(&output));
    assert!(
        err(&output).contains("--print-config"),
        "the nearest known flag is named: {}",
        err(&output)
    );
    assert_eq!(out(&output), "");
}

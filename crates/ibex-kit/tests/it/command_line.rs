//! Flags, layers and messages: everything that ends before a port is bound.

use crate::daemon::{command, output, text};
use std::time::{Duration, Instant};

/// The spec's 50 ms, with room for a busy machine: the best of a few runs counts.
const QUICK: Duration = Duration::from_millis(50);

#[test]
fn help_and_version_go_to_stdout_and_are_quick() {
    for (flag, wanted) in [
        ("--help", "--print-config"),
        ("-h", "Usage:"),
        ("--version", "ibex-echo 0.0.0 ("),
        ("-V", "rustc "),
        ("--check-config", "ok\n"),
    ] {
        let best = (0..5)
            .map(|_| {
                let began = Instant::now();
                let output = output(&[flag]);
                assert_eq!(output.status.code(), Some(0));
                assert!(
                    text(&output.stdout).contains(wanted),
                    "{flag}: {}",
                    text(&output.stdout)
                );
                assert!(output.stderr.is_empty(), "{flag}: {}", text(&output.stderr));
                began.elapsed()
            })
            .min()
            .unwrap();
        assert!(best < QUICK, "{flag} took {best:?}");
    }
    let help = text(&output(&["--help"]).stdout);
    for wanted in [
        "/etc/ibex/echo.toml",
        "Default ports: [\"127.0.0.1:7007\"]",
        "127.0.0.1:9899",
        "SIGHUP",
        "/metrics",
        "man 8 ibex-echo",
    ] {
        assert!(help.contains(wanted), "{wanted} missing in {help}");
    }
}

#[test]
fn an_unknown_flag_is_usage_with_the_nearest_one() {
    let output = output(&["--lisen", "x"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(
        text(&output.stderr).contains("--listen") && output.stdout.is_empty(),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn check_config_binds_nothing() {
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = busy.local_addr().unwrap().to_string();
    let output = output(&["--check-config", "--listen", &addr, "--admin", &addr]);
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str()),
        (Some(0), "ok\n")
    );
}

#[test]
fn print_config_feeds_back_to_itself() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("pw");
    std::fs::write(&secret, "canary-4711\n").unwrap();
    let file = dir.path().join("echo.toml");
    let source = format!(
        "greeting = \"from file\"\nlisten = [\"127.0.0.1:1\", \"unix:/tmp/x y\"]\n\
         [auth]\nurl = \"mysql://u:canary-4711@h/db\"\npassword_file = \"{}\"\n[shutdown]\ngrace = \"90s\"\n",
        secret.display()
    );
    std::fs::write(&file, source).unwrap();
    let print = |path: &std::path::Path| {
        let output = command()
            .args(["--print-config", "--log-level", "debug", "--config"])
            .arg(path)
            .env("IBEX_SHUTDOWN__DELAY", "3s")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let first = print(&file);
    assert!(!first.contains("canary-4711"), "{first}");
    for wanted in [
        format!("greeting = \"from file\"  # {}:1", file.display()),
        "delay = \"3s\"  # env IBEX_SHUTDOWN__DELAY".to_owned(),
        "level = \"debug\"  # flag --log-level".to_owned(),
        "node_name = \"\"  # default".to_owned(),
        "url = \"mysql://u:***@h/db\"".to_owned(),
    ] {
        assert!(first.contains(&wanted), "{wanted} missing in\n{first}");
    }
    let again = dir.path().join("again.toml");
    std::fs::write(&again, &first).unwrap();
    let second = print(&again);
    let values = |text: &str| text.parse::<toml::Table>().unwrap();
    assert_eq!(values(&first), values(&second));
}

#[test]
fn the_reference_file_is_a_valid_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("echo.toml");
    let reference = output(&["--print-config=defaults"]);
    std::fs::write(&file, &reference.stdout).unwrap();
    let reference = text(&reference.stdout);
    assert!(
        reference.contains(
            "# What is said first; at most 80 bytes.\n# Changes on reload.\ngreeting = \"hello\"\n"
        ),
        "{reference}"
    );
    let output = command()
        .args(["--check-config", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn fragments_and_layers_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("echo.toml");
    std::fs::write(&file, "greeting = \"file\"\n").unwrap();
    let print = |env: Option<&str>, flags: &[&str]| {
        let mut command = command();
        command
            .args(["--print-config", "--config"])
            .arg(&file)
            .args(flags);
        if let Some(env) = env {
            command.env("IBEX_GREETING", env);
        }
        let printed = text(&command.output().unwrap().stdout);
        printed
            .parse::<toml::Table>()
            .unwrap()
            .get("greeting")
            .unwrap()
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(print(None, &[]), "file");
    std::fs::create_dir(dir.path().join("echo.d")).unwrap();
    std::fs::write(dir.path().join("echo.d/20.toml"), "greeting = \"twenty\"\n").unwrap();
    std::fs::write(dir.path().join("echo.d/10.toml"), "greeting = \"ten\"\n").unwrap();
    std::fs::write(dir.path().join("echo.d/30.txt"), "not read").unwrap();
    assert_eq!(print(None, &[]), "twenty");
    assert_eq!(print(Some("env"), &[]), "env");
    assert_eq!(print(Some("env"), &["--set", "greeting=set"]), "set");
    assert_eq!(
        print(Some("env"), &["--set", "greeting=set", "-g", "letter"]),
        "letter"
    );
}

/// Runs `--check-config` on a file; it must be refused, with these words.
fn refused(source: &str, wanted: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("echo.toml");
    std::fs::write(&file, source).unwrap();
    let output = command()
        .args(["--check-config", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{source}: {said}");
    assert!(
        said.lines()
            .last()
            .unwrap()
            .starts_with("ibex-echo: configuration: "),
        "{said}"
    );
    for wanted in wanted {
        assert!(said.contains(wanted), "{wanted:?} missing in\n{said}");
    }
}

#[test]
fn wrong_files_are_refused_with_their_place() {
    refused("greeting = \n", &["echo.toml:1:12"]);
    refused(
        "\ngretting = \"x\"\n",
        &[
            "echo.toml:2:1: gretting: unknown key, did you mean \"greeting\"?",
            "  2 | gretting = \"x\"",
        ],
    );
    refused(
        "[shutdown]\ngrace = \"5\"\n",
        &[
            "echo.toml:2:9: shutdown.grace:",
            "has no unit",
            "  2 | grace = \"5\"",
        ],
    );
    refused(
        "[shutdown]\ngrace = 5\n",
        &["echo.toml:2:9", "a duration with its unit"],
    );
    refused(
        "[shutdown]\ngrace = \"2h\"\n",
        &["echo.toml:2:9: shutdown.grace: must be at most 1h (got \"2h\")"],
    );
    refused(
        "admin = 3\n",
        &["echo.toml:1:1: admin: is a table: write [admin]"],
    );
    refused(
        "[admin]\nlisten = \"0.0.0.0:9\"\n",
        &["echo.toml:2:10: admin.listen: is not loopback: set admin.token_file"],
    );
    refused(
        "[auth]\npassword_file = \"/no/such/file\"\n",
        &["echo.toml:2:1: auth.password_file:", "/no/such/file"],
    );
    refused(
        "[auth]\npassword = \"canary\"\npassword_file = \"/dev/null\"\n",
        &["both auth.password and auth.password_file are set"],
    );
    refused("[log]\nlevel = \"loud\"\n", &["echo.toml:2:9: log.level"]);
    refused(
        "[nonsense]\nx = 1\n",
        &["echo.toml:1:2: nonsense: unknown key"],
    );
    refused(
        "keep_state = \"yes\"\nlisten = \"127.0.0.1:1\"\n",
        &[
            "echo.toml:1:14: keep_state",
            "echo.toml:2:10: listen",
            "and 1 more",
        ],
    );
}

#[test]
fn wrong_variables_and_flags_are_refused() {
    for (variable, value, wanted) in [
        (
            "IBEX_GRETTING",
            "x",
            "IBEX_GRETTING: names no configuration key, did you mean IBEX_GREETING?",
        ),
        ("IBEX_SHUTDOWN__GRACE", "soon", "IBEX_SHUTDOWN__GRACE"),
        ("IBEX_KEEP_STATE", "perhaps", "keep_state"),
    ] {
        let output = command()
            .arg("--check-config")
            .env(variable, value)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(78));
        assert!(
            text(&output.stderr).contains(wanted),
            "{}",
            text(&output.stderr)
        );
    }
    for (set, wanted, code) in [
        ("shutdown.gracy=5s", "did you mean \"grace\"", 78),
        ("greeting", "write KEY=VALUE", 64),
        ("shutdown=5s", "is a table", 78),
    ] {
        let output = output(&["--check-config", "--set", set]);
        assert_eq!(output.status.code(), Some(code));
        assert!(
            text(&output.stderr).contains(wanted),
            "{}",
            text(&output.stderr)
        );
    }
    for reserved in ["IBEX_PORT_FILE", "IBEX_SIM_SEED", "IBEX_TEST_X"] {
        assert_eq!(
            command()
                .arg("--check-config")
                .env(reserved, "1")
                .output()
                .unwrap()
                .status
                .code(),
            Some(0),
            "{reserved}"
        );
    }
    assert_eq!(
        output(&["--check-config", "--config", "/no/such/file.toml"])
            .status
            .code(),
        Some(78)
    );
}

#[test]
fn variables_take_their_fields_type() {
    let output = command()
        .arg("--print-config")
        .env("IBEX_LISTEN", "127.0.0.1:1,[::1]:2")
        .env("IBEX_KEEP_STATE", "true")
        .env("IBEX_GREETING", "5")
        .env("IBEX_ADMIN__CONNECTIONS", "7")
        .env("IBEX_LOG", "warn")
        .env("RUST_LOG", "trace")
        .output()
        .unwrap();
    let printed = text(&output.stdout);
    for wanted in [
        "listen = [\"127.0.0.1:1\", \"[::1]:2\"]",
        "keep_state = true",
        "greeting = \"5\"",
        "connections = 7",
        "level = \"warn\"  # env IBEX_LOG",
    ] {
        assert!(printed.contains(wanted), "{wanted} missing in\n{printed}");
    }
}

#[test]
fn man_page_and_completions_know_every_key_and_flag() {
    let man = text(&output(&["--generate-man"]).stdout);
    for wanted in [
        ".TH IBEX-ECHO 8",
        "\\-\\-check\\-config",
        ".SH CONFIGURATION",
        "shutdown.grace",
        "auth.password",
        ".SH SIGNALS",
        ".SH \"EXIT STATUS\"",
        ".SH FILES",
        ".SH ENVIRONMENT",
    ] {
        assert!(man.contains(wanted), "{wanted} missing in\n{man}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&output(&["--generate-completions", shell]).stdout);
        assert!(
            script.contains("check-config") && script.contains("ibex-echo"),
            "{shell}"
        );
    }
}

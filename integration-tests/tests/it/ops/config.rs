//! Configurations that must be refused: exit 78, the place, the key — before a port is bound.

use super::{Case, err, out};

fn check(case: &Case, text: &str, wanted: &[&str]) {
    let file = case.file(text);
    let output = case.run(&["--check-config", "--config", &file]);
    let message = err(&output);
    assert_eq!(
        output.status.code(),
        Some(78),
        "{text:?} is refused: {message}{}",
        out(&output)
    );
    for part in wanted {
        assert!(
            message.contains(part),
            "{text:?}: {part:?} is not in the message: {message}"
        );
    }
}

pub(super) fn refused(short: &str) {
    let case = Case::new(short);
    check(&case, "node_name = \"a\"\n[admin\n", &["test.toml:2"]);
    check(
        &case,
        "\n\n[log]\nlevle = \"info\"\n",
        &["test.toml:4", "levle", "level"],
    );
    check(
        &case,
        "[shutdown]\ngrace = \"5 parsecs\"\n",
        &["test.toml:2", "grace"],
    );
    check(&case, "[shutdown]\ngrace = 5\n", &["test.toml:2", "grace"]);
    check(
        &case,
        "[admin]\ntoken_file = \"/nonexistent/token\"\n",
        &["token"],
    );
    check(
        &case,
        "[admin]\ntoken = \"a\"\ntoken_file = \"/nonexistent/token\"\n",
        &["token", "token_file"],
    );
    check(&case, "[admin]\nlisten = \"0.0.0.0:1\"\n", &["admin"]);
    let output = case.run(&["--check-config", "--config", "/nonexistent/named.toml"]);
    assert_eq!(
        output.status.code(),
        Some(78),
        "a file that is named must be there: {}",
        err(&output)
    );
}

pub(super) fn unknown_variable(short: &str) {
    let case = Case::new(short);
    let output = case
        .bare(&["--check-config"])
        .env("IBEX_LOG__LEVLE", "info")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", err(&output));
    assert!(err(&output).contains("IBEX_LOG__LEVLE"), "{}", err(&output));
}

//! Tells the crate which compiler built it; the commit comes from the environment of a release build.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=IBEX_REVISION");
    println!("cargo::rerun-if-env-changed=IBEX_REVISION_DATE");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc)
        .arg("--version")
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok());
    let number = version
        .as_deref()
        .and_then(|line| line.split_whitespace().nth(1))
        .unwrap_or("unknown");
    println!("cargo::rustc-env=IBEX_RUSTC={number}");
}

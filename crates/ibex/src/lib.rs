//! The operator's tool as a library: `main.rs` is only its entry.
//!
//! Each module owns one family of commands: it declares its arguments (clap), talks to the daemons through the public clients or their admin ports,
//! and hands rows to
//! [`output`], which prints them as a table, JSON, JSON lines or TSV. Nothing here keeps state between runs.
//!
//! Exit codes: 0 done, 1 the answer is "no" or a daemon is not well, 64 usage, 69 a daemon could not be reached.
#![forbid(unsafe_code)]

pub mod admin;
pub mod args;
pub mod balance;
pub mod cache;
pub mod control;
pub mod family;
pub mod gear;
pub mod generate;
pub mod mog;
pub mod output;
pub mod schwartz;
pub mod status;

use std::process::ExitCode;

/// Runs one invocation to its exit code; errors are printed to standard error as one line.
#[must_use]
pub fn run(args: args::Args) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("ibex: start runtime: {error}");
            return ExitCode::from(70);
        }
    };
    match runtime.block_on(args.run()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ibex: {error:#}");
            ExitCode::from(69)
        }
    }
}

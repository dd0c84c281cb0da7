//! The man page and the completions, made from the flag definitions for `cargo xtask dist`: `--generate-man`, `--generate-completions SHELL`.
//!
//! Apart from the flags themselves because no operator types these two; they stand alone, before any command.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, ValueEnum as _};

use crate::args::Args;

/// Writes what the first argument asks for; `None` when it asks for nothing of this kind.
#[must_use]
pub fn asked(arguments: &[String]) -> Option<ExitCode> {
    let written = match arguments {
        [flag] if flag == "--generate-man" => man(),
        [flag, shell] if flag == "--generate-completions" => completions(shell),
        _ => return None,
    };
    Some(match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ibex: {error:#}");
            ExitCode::from(64)
        }
    })
}

fn man() -> anyhow::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Args::command().name("ibex"))
        .section("1")
        .render(&mut page)?;
    Ok(std::io::stdout().write_all(&page)?)
}

fn completions(shell: &str) -> anyhow::Result<()> {
    let shell = clap_complete::Shell::from_str(shell, true)
        .map_err(|error| anyhow::anyhow!("completions: {error}"))?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "ibex", &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}

//! `ibex`, the operator's tool: one program for looking at and steering every daemon of the family.
//!
//! Only the command line is parsed here; each family of commands has a module with its arguments and its work.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ibex::generate::asked(&arguments).unwrap_or_else(|| ibex::run(ibex::args::Args::parse()))
}

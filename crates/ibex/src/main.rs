//! `ibex`, the operator's tool: one program for looking at and steering every daemon of the family.
//!
//! Only the command line is parsed here; each family of commands has a module with its arguments and its work.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    ibex::run(ibex::args::Args::parse())
}

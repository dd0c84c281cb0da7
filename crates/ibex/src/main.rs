//! `ibex`, the operator's tool: one program for looking at and steering every daemon of the family.
//!
//! Only the command line is parsed here; each family of commands has a module with its arguments and its work.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ibex::generate::asked(&arguments).unwrap_or_else(|| match ibex::args::Args::try_parse() {
        Ok(args) => ibex::run(args),
        Err(error) => {
            let code = if error.use_stderr() { 64 } else { 0 };
            // A reader that went away has seen enough.
            drop(error.print());
            ExitCode::from(code)
        }
    })
}

//! Entry point of the job queue's network face: flags to the kit, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    ibex_kit::main::<ibex_schwartzd::Args, ibex_schwartzd::Config, _>(
        ibex_schwartzd::ABOUT,
        ibex_schwartzd::run,
    )
}

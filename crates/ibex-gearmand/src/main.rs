//! The job server's process: hands over to the kit. No logic.

use std::process::ExitCode;

fn main() -> ExitCode {
    ibex_kit::main::<ibex_gearmand::Args, ibex_gearmand::Config, _>(
        ibex_gearmand::ABOUT,
        ibex_gearmand::run,
    )
}

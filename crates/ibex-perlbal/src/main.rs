//! The `ibex-perlbal` binary: flags and configuration in, [`ibex_perlbal::run`] on.

use std::process::ExitCode;

fn main() -> ExitCode {
    ibex_kit::main::<ibex_perlbal::Args, ibex_perlbal::Config, _>(
        ibex_perlbal::ABOUT,
        ibex_perlbal::run,
    )
}

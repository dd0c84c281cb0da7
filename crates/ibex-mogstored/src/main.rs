//! Entry point of the storage node: flags to the kit, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    ibex_kit::main::<ibex_mogstored::Args, ibex_mogstored::Config, _>(
        ibex_mogstored::ABOUT,
        ibex_mogstored::run,
    )
}

//! Entry point of the tracker: flags to the kit, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    ibex_kit::main::<ibex_mogilefsd::Args, ibex_mogilefsd::Config, _>(
        ibex_mogilefsd::ABOUT,
        ibex_mogilefsd::run,
    )
}

//! The `ibex-memcached` program: hands everything to the library.

fn main() -> std::process::ExitCode {
    ibex_kit::main::<ibex_memcached::Args, ibex_memcached::Config, _>(
        ibex_memcached::ABOUT,
        ibex_memcached::run,
    )
}

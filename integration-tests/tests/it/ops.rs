//! What every daemon of the family promises its operator, judged alike for all of them: flags, configuration errors, readiness, reload, stop, busy ports,
//! passed sockets, metrics. A new daemon is judged by adding its name to the list at the end.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod clock;
mod config;
mod flags;
mod life;
mod metrics;
mod sockets;

use std::process::{Command, Output};

use ibex_testkit::daemon::binary;
use ibex_testkit::family::Member;
use integration_tests::start;
use tempfile::TempDir;

/// A daemon under judgement and a folder for its files.
struct Case {
    member: &'static Member,
    dir: TempDir,
}

impl Case {
    fn new(short: &str) -> Self {
        Self {
            member: start::member(short).unwrap(),
            dir: TempDir::new().unwrap(),
        }
    }

    fn builder(&self) -> ibex_testkit::Builder {
        start::builder(self.member, self.dir.path()).unwrap()
    }

    /// The binary with nothing but its arguments: no configuration of this machine, no environment.
    fn bare(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary(self.member.binary).unwrap());
        command
            .env_clear()
            .env("HOME", self.dir.path())
            .env("PATH", "/usr/bin:/bin")
            .current_dir(self.dir.path());
        command.args(self.member.args.iter().filter(|arg| !arg.starts_with('-')));
        command.args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.bare(args).output().unwrap()
    }

    /// Writes a configuration file and answers its path.
    fn file(&self, text: &str) -> String {
        let path = self.dir.path().join("test.toml");
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    }
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Makes one test of each promise for each daemon.
macro_rules! judge {
    ($($daemon:ident),+ $(,)?) => {
        const JUDGED: &[&str] = &[$(stringify!($daemon)),+];
        $(mod $daemon {
            const SHORT: &str = stringify!($daemon);

            #[test]
            fn help_and_version_go_to_standard_output() { super::flags::help_and_version(SHORT); }
            #[test]
            fn configuration_is_checked_and_printed() { super::flags::check_and_print(SHORT); }
            #[test]
            fn asking_changes_nothing() { super::flags::no_side_effects(SHORT); }
            #[test]
            fn an_unknown_flag_is_exit_64() { super::flags::unknown_flag(SHORT); }
            #[test]
            fn a_wrong_configuration_is_exit_78_with_its_line() { super::config::refused(SHORT); }
            #[test]
            fn a_mistyped_variable_is_refused() { super::config::unknown_variable(SHORT); }
            #[test]
            fn ready_means_served() { super::life::ready_means_served(SHORT); }
            #[test]
            fn a_hundred_reloads_lose_nothing() { super::life::reloads(SHORT); }
            #[test]
            fn a_broken_reload_keeps_the_old_configuration() { super::life::broken_reload(SHORT); }
            #[test]
            fn an_idle_daemon_stops_at_once() { super::life::idle_stop(SHORT); }
            #[test]
            fn the_delay_says_not_ready_and_still_serves() { super::life::lame_duck(SHORT); }
            #[test]
            fn a_stuck_client_does_not_hold_the_stop() { super::life::stuck_client(SHORT); }
            #[test]
            fn killed_and_started_again_it_serves() { super::life::kill_nine(SHORT); }
            #[test]
            fn a_clock_that_steps_by_an_hour_stops_nothing() { super::clock::steps(SHORT); }
            #[test]
            fn a_busy_port_is_exit_69() { super::sockets::busy_port(SHORT); }
            #[test]
            fn a_second_instance_on_the_same_state_is_refused() { super::sockets::second_instance(SHORT); }
            #[test]
            fn passed_sockets_are_taken_by_name() { super::sockets::passed_socket(SHORT); }
            #[test]
            fn sockets_for_another_process_are_ignored() { super::sockets::foreign_socket(SHORT); }
            #[test]
            fn metrics_are_clean_and_few() { super::metrics::clean(SHORT); }
        })+
    };
}

judge!(
    memcached, gearmand, mogstored, mogilefsd, schwartzd, journal, perlbal
);

#[test]
fn every_daemon_of_the_family_is_judged() {
    let family: Vec<&str> = ibex_testkit::family::DAEMONS
        .iter()
        .map(|member| member.short)
        .collect();
    assert_eq!(JUDGED, family);
}

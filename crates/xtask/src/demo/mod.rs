//! `cargo xtask demo`: the whole family as real processes on the loopback, filled with people and entries, until Ctrl-C; and `--check`, which walks the tour
//! without a person and judges what it sees.
//!
//! State lies in one folder (`--state`, default `.ibex-demo` in the workspace); started again, the demo goes on with it. Databases are SQLite files
//! there, or on
//! the MySQL server named by `--db`.

mod browser;
mod check;
mod clients;
mod layout;
mod picture;
mod ports;
mod process;
mod stack;
mod tour;

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use signal_hook::consts::{SIGINT, SIGTERM};

use self::layout::{Db, Layout};
use self::stack::Stack;
use crate::sh;

/// How often the running demo looks at its processes and their logs.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// More people than this are a big town.
const TOWN_PEOPLE: u32 = 500;
/// The family of the demo's people, the same everywhere.
const SEED: &str = "7";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Walks the tour without a person, kills one daemon of each kind on the way, and judges.
    #[arg(long)]
    check: bool,
    /// Folder of the demo's state; made when missing, gone on with when not.
    #[arg(long, value_name = "DIR", default_value = ".ibex-demo")]
    state: PathBuf,
    /// How many people live on the site.
    #[arg(long, default_value_t = 200)]
    users: u32,
    /// Databases on this server instead of SQLite: mysql://USER:PASSWORD@HOST:PORT/PREFIX.
    #[arg(long, value_name = "URL")]
    db: Option<String>,
    /// Builds and runs with the release profile.
    #[arg(long)]
    release: bool,
    /// Uses the binaries as they are.
    #[arg(long)]
    no_build: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let db = args.db.as_deref().map(Db::parse).transpose()?;
    if !args.no_build {
        build(args.release)?;
    }
    let bin_dir = sh::target_dir()?.join(if args.release { "release" } else { "debug" });
    let dir = state_dir(&args.state)?;
    let stop = stop_flag()?;
    let start = Instant::now();
    eprintln!("state in {}", dir.display());
    let mut stack = Stack::start_ground(Layout::new(&dir, bin_dir, db)?)?;
    let outcome = serve(args, &mut stack, &stop, start);
    eprintln!("stopping");
    let complaints = stack.stop();
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    outcome?;
    ensure!(
        complaints.is_empty(),
        "{} processes did not stop cleanly",
        complaints.len()
    );
    if args.check {
        crate::suite::println("demo --check: everything holds");
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(args: &Args, stack: &mut Stack, stop: &Arc<AtomicBool>, start: Instant) -> Result<()> {
    sh::run(&mut stack.layout.journal(&["migrate"]))?;
    stack.start_workers()?;
    seed(stack, args.users)?;
    stack.start_site()?;
    eprintln!(
        "everything is ready after {:.1} s",
        start.elapsed().as_secs_f64()
    );
    if args.check {
        return check::run(stack, stop);
    }
    tour::print(stack)?;
    watch(stack, stop)
}

/// Builds the binaries the demo runs (and the operator's tool), with cargo's own progress bar.
fn build(release: bool) -> Result<()> {
    eprintln!("building the family (the first time takes some minutes)");
    let mut command = sh::build_family(release);
    sh::run(&mut command)
}

fn state_dir(wanted: &Path) -> Result<PathBuf> {
    let dir = if wanted.is_absolute() {
        wanted.to_owned()
    } else {
        sh::root().join(wanted)
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    dir.canonicalize().context("find the state folder")
}

/// Becomes true at the first Ctrl-C or SIGTERM; the second one ends the demo at once.
fn stop_flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&flag))
            .context("watch for Ctrl-C")?;
        signal_hook::flag::register(signal, Arc::clone(&flag)).context("watch for Ctrl-C")?;
    }
    Ok(flag)
}

/// Fills the site, once: the seeder leaves a site alone that it has filled.
fn seed(stack: &Stack, users: u32) -> Result<()> {
    eprintln!("people and entries:");
    // Fifteen entries for each person; ten in a big town, where more of them only read.
    let entries = users.saturating_mul(if users > TOWN_PEOPLE { 10 } else { 15 });
    let (users, entries) = (users.to_string(), entries.to_string());
    let args = [
        "seed-demo",
        "--users",
        &users,
        "--entries",
        &entries,
        "--seed",
        SEED,
        "--password",
        tour::PASSWORD,
    ];
    let mut command = stack.layout.journal(&args);
    // Its progress bar goes to the screen; what it says at the end is ours to read.
    let done = command
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("start the seeder")?
        .wait_with_output()?;
    let words = String::from_utf8_lossy(&done.stdout);
    eprint!("{words}");
    ensure!(
        done.status.success(),
        "{} ended with {}",
        sh::shown(&command),
        done.status
    );
    tour::keep_resident(stack, &words)
}

/// Shows warnings, starts again what dies, until told to stop.
fn watch(stack: &mut Stack, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::SeqCst) {
        for process in stack.all_mut() {
            for line in process
                .new_alarms()
                .into_iter()
                .filter(|line| line.level != "RAW" || line.msg.contains("panicked"))
            {
                eprintln!("{} {}", process.spec.name, line.raw);
            }
            if let Some(status) = process.exited()? {
                eprintln!(
                    "{} ended with {status}; starting it again",
                    process.spec.name
                );
                process.restart()?;
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

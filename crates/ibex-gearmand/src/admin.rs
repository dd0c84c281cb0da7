//! The admin text protocol: what each command answers, to the byte where the original has it.
//!
//! Runs under the job server's lock and only makes text; the lists are the job server's views in the original's columns.

use std::time::Instant;

use bytes::Bytes;
use ibex_gearman_core::{CancelOutcome, ConnId, DropOutcome, JobState};
use ibex_gearman_proto::text::admin_text;
use ibex_gearman_proto::{AdminCommand, DeadTarget};

use crate::COMPATIBLE_VERSION;
use crate::driver::{Hub, Shared};
use crate::lists::{Lines, Listing};
use crate::peers::Peer;

/// What the peer may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rights {
    /// It is on this machine: our own state-changing commands are allowed.
    pub(crate) is_local: bool,
    /// It came over the operators' socket: shutdown is allowed.
    pub(crate) is_admin: bool,
}

/// Runs one command; the answer with its line ends.
pub(crate) fn run(
    hub: &mut Hub,
    shared: &Shared,
    now: Instant,
    command: AdminCommand<'_>,
    rights: Rights,
) -> Bytes {
    match command {
        AdminCommand::Version => format!("OK {COMPATIBLE_VERSION}\n").into(),
        AdminCommand::GetPid => format!("OK {}\n", std::process::id()).into(),
        AdminCommand::Verbose => {
            format!("OK {}\n", verbosity(&shared.kit.common().log.level)).into()
        }
        AdminCommand::Status
        | AdminCommand::PriorityStatus
        | AdminCommand::ShowJobs
        | AdminCommand::ShowUniqueJobs
        | AdminCommand::ShowFunctions
        | AdminCommand::PerlJobs => {
            Listing::of(hub, &command).map_or_else(Bytes::new, |list| list.whole(hub, now))
        }
        AdminCommand::Workers => workers(hub),
        AdminCommand::ShowJob(handle) => show_job(hub, now, handle),
        AdminCommand::ShowDead(function) => show_dead(hub, function),
        AdminCommand::ShowSchedules => show_schedules(hub),
        AdminCommand::ShowUnknown => admin_text::UNKNOWN_SHOW.into(),
        AdminCommand::PerlClients => perl_clients(hub, now),
        AdminCommand::Metrics => metrics(shared, hub),
        AdminCommand::Incomplete(command) => admin_text::incomplete(command).into(),
        AdminCommand::Unknown(word) => admin_text::unknown_command(word).into(),
        AdminCommand::Shutdown { word, .. } if !rights.is_admin => {
            admin_text::unknown_command(word).into()
        }
        AdminCommand::Shutdown { graceful, .. } => shut_down(shared, graceful),
        AdminCommand::CancelJob(handle) => match hub.server.cancel_job(now, handle) {
            CancelOutcome::Cancelled => admin_text::OK.into(),
            CancelOutcome::Unknown => admin_text::UNKNOWN_JOB.into(),
        },
        AdminCommand::CreateFunction(name) => {
            if hub.server.create_function(name) {
                admin_text::OK.into()
            } else {
                admin_text::TOO_MANY_FUNCTIONS.into()
            }
        }
        AdminCommand::DropFunction(name) => match hub.server.drop_function(name) {
            DropOutcome::Dropped => admin_text::OK.into(),
            DropOutcome::Unknown => admin_text::FUNCTION_NOT_FOUND.into(),
            DropOutcome::InUse => admin_text::FUNCTION_IN_USE.into(),
        },
        AdminCommand::MaxQueue { function, limits } => {
            hub.server.limit_queue(function, limits);
            admin_text::OK.into()
        }
        AdminCommand::LimitRunning { .. }
        | AdminCommand::LimitRate { .. }
        | AdminCommand::Pause(_)
        | AdminCommand::Resume(_)
        | AdminCommand::Purge { .. }
        | AdminCommand::Drain(_)
        | AdminCommand::RetryDead(_)
        | AdminCommand::DropDead(_)
        | AdminCommand::DropSchedule { .. }
        | AdminCommand::Reload
            if !rights.is_local =>
        {
            admin_text::UNAUTHORIZED.into()
        }
        AdminCommand::LimitRunning { .. }
        | AdminCommand::LimitRate { .. }
        | AdminCommand::Pause(_)
        | AdminCommand::Resume(_)
        | AdminCommand::Purge { .. }
        | AdminCommand::Drain(_)
        | AdminCommand::RetryDead(_)
        | AdminCommand::DropDead(_)
        | AdminCommand::DropSchedule { .. }
        | AdminCommand::Reload => operate(hub, now, command),
    }
}

/// Our own state-changing commands.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the caller has answered everything else"
)]
fn operate(hub: &mut Hub, now: Instant, command: AdminCommand<'_>) -> Bytes {
    let server = &mut hub.server;
    match command {
        AdminCommand::LimitRunning {
            function,
            running_max,
        } => server.limit_running(now, function, running_max),
        AdminCommand::LimitRate {
            function,
            per_second,
            burst,
        } => server.limit_rate(now, function, per_second, burst),
        AdminCommand::Pause(function) => server.pause(now, function, true),
        AdminCommand::Resume(function) => server.pause(now, function, false),
        AdminCommand::Drain(is_on) => server.drain(is_on),
        AdminCommand::Purge { function, priority } => {
            return counted(server.purge(now, function, priority));
        }
        AdminCommand::RetryDead(target) => return counted(server.retry_dead(now, named(target))),
        AdminCommand::DropDead(target) => return counted(server.drop_dead(named(target))),
        AdminCommand::DropSchedule { function, unique } => {
            return counted(usize::from(server.drop_schedule(function, unique)));
        }
        AdminCommand::Reload => {
            let reloads = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::HUP,
            );
            if reloads.is_err() {
                return "ERR RELOAD\r\n".into();
            }
        }
        _ => return admin_text::unknown_command(b"").into(),
    }
    admin_text::OK.into()
}

fn named(target: DeadTarget<'_>) -> Option<&[u8]> {
    match target {
        DeadTarget::Named(name) => Some(name),
        DeadTarget::All => None,
    }
}

fn counted(count: usize) -> Bytes {
    format!("OK {count}\r\n").into()
}

fn shut_down(shared: &Shared, graceful: bool) -> Bytes {
    if graceful {
        crate::server::close_gracefully(shared);
    } else {
        shared.kit.stop("shutdown command");
    }
    admin_text::OK.into()
}

/// The original's name of our log level.
fn verbosity(filter: &str) -> &'static str {
    let level = filter
        .split(',')
        .find(|part| !part.contains('='))
        .unwrap_or("info");
    match level.trim() {
        "off" => "FATAL",
        "error" => "ERROR",
        "warn" => "WARNING",
        "debug" | "trace" => "DEBUG",
        _ => "INFO",
    }
}

fn workers(hub: &Hub) -> Bytes {
    let mut lines = Lines::default();
    for c in hub.server.conns() {
        let (fd, ip) = hub
            .peers
            .get(&c.conn)
            .map_or((-1, "-".to_owned()), |peer| (peer.fd, peer.ip()));
        lines.put(format_args!("{fd} {ip} "));
        lines.safe(if c.id.is_empty() { b"-" } else { &c.id });
        lines.put(format_args!(" :"));
        for function in &c.functions {
            lines.put(format_args!(" "));
            lines.safe(function);
        }
        lines.put(format_args!("\n"));
    }
    lines.end()
}

fn state_name(state: JobState) -> &'static str {
    match state {
        JobState::Committing => "committing",
        JobState::Scheduled => "scheduled",
        JobState::Waiting => "waiting",
        JobState::Running(_) => "running",
    }
}

fn show_job(hub: &Hub, now: Instant, handle: &[u8]) -> Bytes {
    let Some(job) = hub.server.job(now, handle) else {
        return admin_text::UNKNOWN_JOB.into();
    };
    let mut lines = Lines::default();
    lines.put(format_args!("handle: {:?}\nfunction: ", job.handle));
    lines.safe(&job.function);
    lines.put(format_args!("\nunique: "));
    lines.safe(&job.unique);
    lines.put(format_args!(
        "\npriority: {}\nstate: {}\n",
        job.priority.name(),
        state_name(job.state)
    ));
    if let JobState::Running(worker) = job.state {
        lines.put(format_args!("worker: {}\n", address(hub, worker)));
    }
    lines.put(format_args!(
        "background: {}\nstored: {}\nattempts: {}\nclients: {}\nprogress: {}/{}\n",
        job.is_background, job.is_stored, job.attempts, job.clients, job.numerator, job.denominator
    ));
    let seconds = std::time::Duration::from_micros(job.age_us).as_secs_f64();
    lines.put(format_args!(
        "due_ms: {}\nworkload_bytes: {}\nage_seconds: {seconds:.3}\n",
        job.due_ms, job.workload_bytes
    ));
    lines.end()
}

fn show_dead(hub: &Hub, function: Option<&[u8]>) -> Bytes {
    let mut lines = Lines::default();
    for dead in hub
        .server
        .dead()
        .filter(|d| function.is_none_or(|f| d.function == f))
    {
        lines.put(format_args!("{:?}\t", dead.handle));
        lines.safe(&dead.function);
        lines.put(format_args!("\t"));
        lines.safe(&dead.unique);
        lines.put(format_args!("\t{}\t", dead.attempts));
        lines.safe(&dead.reason);
        lines.put(format_args!("\n"));
    }
    lines.end()
}

/// `handle TAB function TAB unique TAB minute hour day month weekday TAB next`, `*` for an empty field, the next occurrence in seconds since 1970.
fn show_schedules(hub: &Hub) -> Bytes {
    let mut lines = Lines::default();
    for s in hub.server.schedules() {
        lines.put(format_args!("{:?}\t", s.handle));
        lines.safe(&s.function);
        lines.put(format_args!("\t"));
        lines.safe(&s.unique);
        lines.put(format_args!("\t"));
        lines.safe(&schedule_text(&s.fields));
        lines.put(format_args!("\t{}\n", s.next_ms / 1000));
    }
    lines.end()
}

/// The fields of a recurring job as cron writes them.
pub(crate) fn schedule_text(fields: &[Bytes; 5]) -> Vec<u8> {
    let shown = fields.each_ref().map(|field| match &field[..] {
        b"" => &b"*"[..],
        field => field,
    });
    shown.join(&b' ')
}

pub(crate) fn address(hub: &Hub, conn: ConnId) -> String {
    hub.peers
        .get(&conn)
        .map_or_else(|| "-".to_owned(), Peer::address)
}

/// `clients` of the Perl server: an address per connection, then the jobs it waits for.
fn perl_clients(hub: &Hub, now: Instant) -> Bytes {
    let mut lines = Lines::default();
    for c in hub.server.conns() {
        lines.put(format_args!("{}\n", address(hub, c.conn)));
        for job in hub.server.jobs_of_client(now, c.conn) {
            let worker = match job.state {
                JobState::Running(worker) => address(hub, worker),
                JobState::Committing | JobState::Scheduled | JobState::Waiting => "-".to_owned(),
            };
            lines.put(format_args!("\t"));
            lines.safe(&job.function);
            lines.put(format_args!("\t"));
            lines.safe(&job.unique);
            lines.put(format_args!("\t{worker}\n"));
        }
    }
    lines.end()
}

fn metrics(shared: &Shared, hub: &Hub) -> Bytes {
    let mut text = crate::metrics::text(shared, hub);
    text.push_str(admin_text::END);
    text.into()
}

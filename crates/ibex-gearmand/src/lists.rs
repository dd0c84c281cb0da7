//! The lists of the admin protocol that can have a line for every job or function, made piece by piece.
//!
//! Apart because they are the answers that grow with what is queued: a piece is made under the job server's lock in a fraction of a millisecond, and the
//! next one when the peer has read. Columns are the original's where it has the list.

use std::fmt::Write as _;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use ibex_gearman_core::{FunctionView, JobId, JobState, JobView};
use ibex_gearman_proto::AdminCommand;
use ibex_gearman_proto::text::{admin_text, printable};

use crate::admin::address;
use crate::driver::Hub;

/// Lines of one piece: a tenth of a millisecond's work.
const PIECE_LINES: usize = 500;

/// Text with bytes from strangers in it.
#[derive(Default)]
pub(crate) struct Lines(BytesMut);

impl Lines {
    pub(crate) fn safe(&mut self, bytes: &[u8]) {
        self.0.extend(bytes.iter().map(|b| printable(*b)));
    }

    pub(crate) fn put(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.0
            .write_fmt(arguments)
            .expect("writing into memory does not fail");
    }

    pub(crate) fn end(mut self) -> Bytes {
        self.0.extend_from_slice(admin_text::END.as_bytes());
        self.0.freeze()
    }
}

/// What has a line each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Columns {
    Status,
    PriorityStatus,
    Functions,
    Jobs,
    UniqueJobs,
    PerlJobs,
}

/// A list on its way to a peer: what comes next, and where it ends. What is added meanwhile is not in it, so that it does end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listing {
    columns: Columns,
    next: u64,
    /// Behind the last one.
    end: u64,
}

impl Listing {
    /// The list a command asks for, if it is one of these.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other command is answered at once"
    )]
    pub(crate) fn of(hub: &Hub, command: &AdminCommand<'_>) -> Option<Self> {
        let columns = match command {
            AdminCommand::Status => Columns::Status,
            AdminCommand::PriorityStatus => Columns::PriorityStatus,
            AdminCommand::ShowFunctions => Columns::Functions,
            AdminCommand::ShowJobs => Columns::Jobs,
            AdminCommand::ShowUniqueJobs => Columns::UniqueJobs,
            AdminCommand::PerlJobs => Columns::PerlJobs,
            _ => return None,
        };
        let end = match columns {
            Columns::Status | Columns::PriorityStatus | Columns::Functions => {
                hub.server.function_places() as u64
            }
            Columns::Jobs | Columns::UniqueJobs | Columns::PerlJobs => hub
                .server
                .last_job()
                .map_or(0, |JobId(number)| number.saturating_add(1)),
        };
        Some(Self {
            columns,
            next: 0,
            end,
        })
    }

    /// All of it at once.
    pub(crate) fn whole(self, hub: &Hub, now: Instant) -> Bytes {
        let mut lines = Lines::default();
        self.put(hub, now, usize::MAX, &mut lines);
        lines.end()
    }

    /// The next piece, and the list if that was not the last.
    pub(crate) fn piece(self, hub: &Hub, now: Instant) -> (Bytes, Option<Self>) {
        let mut lines = Lines::default();
        match self.put(hub, now, PIECE_LINES, &mut lines) {
            Some(next) => (lines.0.freeze(), Some(Self { next, ..self })),
            None => (lines.end(), None),
        }
    }

    /// At most `most` lines, and where it goes on.
    fn put(self, hub: &Hub, now: Instant, most: usize, lines: &mut Lines) -> Option<u64> {
        if self.columns == Columns::Functions && self.next == 0 {
            let columns = "function\ttotal\thigh\tnormal\tlow\tscheduled\trunning\tworkers\tsleeping\toldest_seconds\tmaxqueue\trunning_max\trate\tpaused\tsubmitted\tfinished\n";
            lines.put(format_args!("{columns}"));
        }
        match self.columns {
            Columns::Status | Columns::PriorityStatus | Columns::Functions => {
                let from = usize::try_from(self.next).unwrap_or(usize::MAX);
                let functions = hub.server.functions_from(now, from);
                let mut functions = functions
                    .map(|(place, function)| (place as u64, function))
                    .take_while(|(place, _)| *place < self.end);
                for (_, function) in functions.by_ref().take(most) {
                    self.function(&function, lines);
                }
                functions.next().map(|(place, _)| place)
            }
            Columns::Jobs | Columns::UniqueJobs | Columns::PerlJobs => {
                let jobs = hub.server.jobs_from(now, JobId(self.next));
                let mut jobs = jobs.take_while(|job| job.id.0 < self.end);
                for job in jobs.by_ref().take(most) {
                    self.job(hub, &job, lines);
                }
                jobs.next().map(|job| job.id.0)
            }
        }
    }

    fn function(self, f: &FunctionView, lines: &mut Lines) {
        lines.safe(&f.name);
        let [high, normal, low] = f.waiting;
        match self.columns {
            Columns::PriorityStatus => {
                lines.put(format_args!("\t{high}\t{normal}\t{low}\t{}\n", f.workers));
            }
            Columns::Functions => function_facts(f, lines),
            Columns::Status | Columns::Jobs | Columns::UniqueJobs | Columns::PerlJobs => {
                lines.put(format_args!(
                    "\t{}\t{}\t{}\n",
                    f.total(),
                    f.running,
                    f.workers
                ));
            }
        }
    }

    fn job(self, hub: &Hub, job: &JobView, lines: &mut Lines) {
        match self.columns {
            Columns::UniqueJobs => {
                lines.safe(&job.unique);
                lines.put(format_args!("\n"));
            }
            // COMPAT(gearman-perl): `func TAB unique TAB worker-addr|- TAB listeners`.
            Columns::PerlJobs => {
                let worker = match job.state {
                    JobState::Running(worker) => address(hub, worker),
                    JobState::Committing | JobState::Scheduled | JobState::Waiting => {
                        "-".to_owned()
                    }
                };
                lines.safe(&job.function);
                lines.put(format_args!("\t"));
                lines.safe(&job.unique);
                lines.put(format_args!("\t{worker}\t{}\n", job.clients));
            }
            Columns::Jobs | Columns::Status | Columns::PriorityStatus | Columns::Functions => {
                lines.safe(job.handle.as_ref());
                lines.put(format_args!(
                    "\t{}\t{}\t{}\n",
                    job.attempts,
                    u8::from(job.is_ignored),
                    u8::from(job.is_background)
                ));
            }
        }
    }
}

/// The columns of `show functions` behind the name.
fn function_facts(f: &FunctionView, lines: &mut Lines) {
    let [high, normal, low] = f.waiting;
    let [high_max, normal_max, low_max] = f.limits.0;
    let oldest = std::time::Duration::from_micros(f.oldest_us).as_secs_f64();
    lines.put(format_args!(
        "\t{}\t{high}\t{normal}\t{low}\t{}\t{}\t{}\t{}",
        f.total(),
        f.scheduled,
        f.running,
        f.workers,
        f.sleeping
    ));
    lines.put(format_args!(
        "\t{oldest:.3}\t{high_max},{normal_max},{low_max}\t{}\t{}\t{}",
        f.running_max,
        f.rate,
        u8::from(f.is_paused)
    ));
    lines.put(format_args!("\t{}\t{}\n", f.submitted, f.finished));
}

//! The admin console: lines starting with `!`.
//!
//! Owns the grammar of console commands, the names of the job kinds and the fixed answers scripts match on. The tracker fills in the numbers.

use ibex_base::ascii::parse_u64;

/// Ends every console answer, on a line of its own.
pub const END: &str = ".\r\n";

/// Most tasks `!want` may ask for; the original's cap.
pub const WANT_MAX: u64 = 500;

/// The kinds of work a tracker does, as the console calls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobKind {
    /// Removes the bytes of deleted files.
    Delete,
    /// Checks files against the metadata.
    Fsck,
    /// Claims queue rows for the other jobs.
    JobMaster,
    /// Watches devices.
    Monitor,
    /// Answers client requests.
    QueryWorker,
    /// Re-replicates the files of dead devices.
    Reaper,
    /// Makes copies.
    Replicate,
}

impl JobKind {
    /// All kinds, sorted by name.
    pub const ALL: [Self; 7] = [
        Self::Delete,
        Self::Fsck,
        Self::JobMaster,
        Self::Monitor,
        Self::QueryWorker,
        Self::Reaper,
        Self::Replicate,
    ];

    /// The console's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Fsck => "fsck",
            Self::JobMaster => "job_master",
            Self::Monitor => "monitor",
            Self::QueryWorker => "queryworker",
            Self::Reaper => "reaper",
            Self::Replicate => "replicate",
        }
    }

    /// The kind called `name`.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name().as_bytes() == name)
    }
}

/// One console command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Console {
    /// `!version`
    Version,
    /// `!stats`
    Stats,
    /// `!jobs`
    Jobs,
    /// `!queue`
    Queue,
    /// `!recent`
    Recent,
    /// `!watch`
    Watch,
    /// `!shutdown`
    Shutdown,
    /// `!want N JOB`
    Want {
        /// Parallelism asked for, at most [`WANT_MAX`].
        count: u64,
        /// Of which job.
        job: JobKind,
    },
    /// `!to JOB MESSAGE`
    To {
        /// Whose tasks.
        job: JobKind,
        /// The message, such as `:wake_up`.
        message: Vec<u8>,
    },
    /// `!help` and everything unknown.
    Help,
    /// A command with wrong arguments and the complete answer line for it.
    Refused(String),
}

impl Console {
    /// Sorts a console line, split as [`crate::Line::Console`] has it.
    #[must_use]
    pub fn parse(name: &[u8], args: &[u8]) -> Self {
        match name.to_ascii_lowercase().as_slice() {
            b"version" => Self::Version,
            b"stats" => Self::Stats,
            b"jobs" => Self::Jobs,
            b"queue" => Self::Queue,
            b"recent" => Self::Recent,
            b"watch" => Self::Watch,
            b"shutdown" => Self::Shutdown,
            b"want" => Self::want(args),
            b"to" => Self::to(args),
            _ => Self::Help,
        }
    }

    fn want(args: &[u8]) -> Self {
        let mut words = args
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        let (Some(count), Some(job), None) =
            (words.next().and_then(parse_u64), words.next(), words.next())
        else {
            return Self::Refused("ERROR: usage: !want <count> <jobclass>".into());
        };
        match JobKind::from_name(job) {
            Some(job) => Self::Want {
                count: count.min(WANT_MAX),
                job,
            },
            None => Self::unknown_job(job),
        }
    }

    fn to(args: &[u8]) -> Self {
        let (job, message) = match args.iter().position(u8::is_ascii_whitespace) {
            Some(at) => (&args[..at], args[at..].trim_ascii()),
            None => (args, &[][..]),
        };
        if job.is_empty() || message.is_empty() {
            return Self::Refused("ERROR: usage: !to <jobclass> <message>".into());
        }
        match JobKind::from_name(job) {
            Some(job) => Self::To {
                job,
                message: message.to_vec(),
            },
            None => Self::unknown_job(job),
        }
    }

    fn unknown_job(job: &[u8]) -> Self {
        let known: Vec<&str> = JobKind::ALL.iter().map(|kind| kind.name()).collect();
        Self::Refused(format!(
            "ERROR: Invalid class '{}'.  Valid classes: {}",
            ibex_base::escape::Escaped(job),
            known.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_checks_its_arguments() {
        assert_eq!(
            Console::parse(b"want", b"2 delete"),
            Console::Want {
                count: 2,
                job: JobKind::Delete
            }
        );
        assert_eq!(
            Console::parse(b"WANT", b"9999 fsck"),
            Console::Want {
                count: 500,
                job: JobKind::Fsck
            }
        );
        assert_eq!(
            Console::parse(b"want", b"delete"),
            Console::Refused("ERROR: usage: !want <count> <jobclass>".into())
        );
        assert_eq!(
            Console::parse(b"want", b"1 x"),
            Console::Refused("ERROR: Invalid class 'x'.  Valid classes: delete, fsck, job_master, monitor, queryworker, reaper, replicate".into())
        );
    }

    #[test]
    fn to_takes_the_rest_of_the_line() {
        assert_eq!(
            Console::parse(b"to", b"replicate :wake_up now"),
            Console::To {
                job: JobKind::Replicate,
                message: b":wake_up now".to_vec()
            }
        );
        assert_eq!(
            Console::parse(b"to", b"replicate"),
            Console::Refused("ERROR: usage: !to <jobclass> <message>".into())
        );
    }

    #[test]
    fn everything_else_is_help() {
        assert_eq!(Console::parse(b"", b""), Console::Help);
        assert_eq!(Console::parse(b"\xff", b"x"), Console::Help);
    }
}

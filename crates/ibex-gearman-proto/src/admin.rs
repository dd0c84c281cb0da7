//! Lines of the admin text protocol to commands.
//!
//! Words are separated by blanks (not by TAB, which Perl clients put into function names), command words and keywords are matched without regard to
//! case, arguments are taken whole with either line end. What a command
//! answers is assembled by the daemon from the texts in [`crate::text::admin_text`].

use ibex_base::ascii;

use crate::limits::LINE_WORDS_MAX;
use crate::request::Priority;

/// The three bounds of `maxqueue`, by [`Priority::index`]; 0 is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueLimits(pub [u32; 3]);

/// What `retry dead` and `drop dead` name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadTarget<'a> {
    /// A handle or a function name: the server knows which.
    Named(&'a [u8]),
    /// Everything.
    All,
}

/// One line of the admin protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminCommand<'a> {
    /// `version`
    Version,
    /// `getpid`
    GetPid,
    /// `verbose`
    Verbose,
    /// `status`
    Status,
    /// `prioritystatus`
    PriorityStatus,
    /// `workers`
    Workers,
    /// `show jobs`
    ShowJobs,
    /// `show unique jobs`
    ShowUniqueJobs,
    /// `show job H` (ours)
    ShowJob(&'a [u8]),
    /// `show functions` (ours)
    ShowFunctions,
    /// `show dead [F]` (ours)
    ShowDead(Option<&'a [u8]>),
    /// `show schedules` (ours)
    ShowSchedules,
    /// `show` of something else.
    ShowUnknown,
    /// `cancel job H`
    CancelJob(&'a [u8]),
    /// `create function F`
    CreateFunction(&'a [u8]),
    /// `drop function F`
    DropFunction(&'a [u8]),
    /// `drop dead H|F` (ours)
    DropDead(DeadTarget<'a>),
    /// `drop schedule F U` (ours)
    DropSchedule {
        /// Function name.
        function: &'a [u8],
        /// Unique key.
        unique: &'a [u8],
    },
    /// `retry dead H|F` (ours)
    RetryDead(DeadTarget<'a>),
    /// `maxqueue F [n | high normal low]`
    MaxQueue {
        /// Function name.
        function: &'a [u8],
        /// New bounds.
        limits: QueueLimits,
    },
    /// `limit F running N` (ours); 0 is no bound.
    LimitRunning {
        /// Function name.
        function: &'a [u8],
        /// Jobs that may run at once.
        running_max: u32,
    },
    /// `limit F rate N/s [burst B]` (ours); 0 is no bound.
    LimitRate {
        /// Function name.
        function: &'a [u8],
        /// Assignments per second.
        per_second: u32,
        /// Assignments that may come at once.
        burst: u32,
    },
    /// `pause F` (ours)
    Pause(&'a [u8]),
    /// `resume F` (ours)
    Resume(&'a [u8]),
    /// `purge F [high|normal|low]` (ours)
    Purge {
        /// Function name.
        function: &'a [u8],
        /// Only this queue.
        priority: Option<Priority>,
    },
    /// `drain on|off` (ours)
    Drain(bool),
    /// `metrics` (ours)
    Metrics,
    /// `reload` (ours)
    Reload,
    /// `jobs` of the Perl server.
    PerlJobs,
    /// `clients` of the Perl server.
    PerlClients,
    /// `shutdown [graceful]`: served on the admin socket only.
    Shutdown {
        /// Let running jobs end first.
        graceful: bool,
        /// The word as it was sent, for the answer of other sockets.
        word: &'a [u8],
    },
    /// Words are missing; which command it was, in lower case.
    Incomplete(&'static str),
    /// Anything else; the first word as it was sent.
    Unknown(&'a [u8]),
}

impl<'a> AdminCommand<'a> {
    /// The command in a line without its line end. Never fails: what is not understood becomes [`Incomplete`](Self::Incomplete) or [`Unknown`](Self::Unknown).
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Self {
        let mut words = [&line[..0]; LINE_WORDS_MAX];
        let mut count = 0;
        for (slot, word) in words
            .iter_mut()
            .zip(line.split(|b| *b == b' ').filter(|w| !w.is_empty()))
        {
            *slot = word;
            count += 1;
        }
        let words = words.get(..count).unwrap_or_default();
        let Some((&command, arguments)) = words.split_first() else {
            return Self::Unknown(b"");
        };
        let mut lower = [0; 16];
        match lowered(command, &mut lower) {
            b"version" => Self::Version,
            b"getpid" => Self::GetPid,
            b"verbose" => Self::Verbose,
            b"status" => Self::Status,
            b"prioritystatus" => Self::PriorityStatus,
            b"workers" => Self::Workers,
            b"jobs" => Self::PerlJobs,
            b"clients" => Self::PerlClients,
            // COMPAT(gearmand): without a word behind it, it does not know `show`; `cancel` neither but with a job.
            b"show" if !arguments.is_empty() => parse_show(arguments),
            b"cancel" => match arguments {
                [job, handle, ..] if is(job, b"job") => Self::CancelJob(handle),
                // DIFFERS(gearmand): of another word than `job` the original says ERR UNKNOWN_ERROR.
                _ => Self::Unknown(command),
            },
            b"create" => parse_create(arguments),
            b"drop" => parse_drop(arguments),
            b"retry" => match arguments {
                [dead, target, ..] if is(dead, b"dead") => Self::RetryDead(dead_target(target)),
                _ => Self::Incomplete("retry"),
            },
            b"maxqueue" => parse_maxqueue(arguments),
            b"limit" => parse_limit(arguments),
            b"pause" => arguments
                .first()
                .map_or(Self::Incomplete("pause"), |f| Self::Pause(f)),
            b"resume" => arguments
                .first()
                .map_or(Self::Incomplete("resume"), |f| Self::Resume(f)),
            b"purge" => parse_purge(arguments),
            b"drain" => match arguments {
                [word, ..] if is(word, b"on") => Self::Drain(true),
                [word, ..] if is(word, b"off") => Self::Drain(false),
                _ => Self::Incomplete("drain"),
            },
            b"metrics" => Self::Metrics,
            b"reload" => Self::Reload,
            b"shutdown" => Self::Shutdown {
                graceful: arguments.first().is_some_and(|w| is(w, b"graceful")),
                word: command,
            },
            _ => Self::Unknown(command),
        }
    }
}

/// `word` in lower case, cut at the length of the longest command plus one.
fn lowered<'b>(word: &[u8], out: &'b mut [u8; 16]) -> &'b [u8] {
    let mut count = 0;
    for (slot, byte) in out.iter_mut().zip(word) {
        *slot = byte.to_ascii_lowercase();
        count += 1;
    }
    out.get(..count).unwrap_or_default()
}

fn is(word: &[u8], keyword: &[u8]) -> bool {
    word.eq_ignore_ascii_case(keyword)
}

fn parse_show<'a>(arguments: &[&'a [u8]]) -> AdminCommand<'a> {
    match arguments {
        [unique, jobs] if is(unique, b"unique") && is(jobs, b"jobs") => {
            AdminCommand::ShowUniqueJobs
        }
        [jobs] if is(jobs, b"jobs") => AdminCommand::ShowJobs,
        [job, handle, ..] if is(job, b"job") => AdminCommand::ShowJob(handle),
        [functions, ..] if is(functions, b"functions") => AdminCommand::ShowFunctions,
        [schedules, ..] if is(schedules, b"schedules") => AdminCommand::ShowSchedules,
        [dead, rest @ ..] if is(dead, b"dead") => AdminCommand::ShowDead(rest.first().copied()),
        _ => AdminCommand::ShowUnknown,
    }
}

fn parse_create<'a>(arguments: &[&'a [u8]]) -> AdminCommand<'a> {
    match arguments {
        [function, name, ..] if is(function, b"function") => AdminCommand::CreateFunction(name),
        _ => AdminCommand::Incomplete("create"),
    }
}

fn parse_drop<'a>(arguments: &[&'a [u8]]) -> AdminCommand<'a> {
    match arguments {
        [function, name, ..] if is(function, b"function") => AdminCommand::DropFunction(name),
        [dead, target, ..] if is(dead, b"dead") => AdminCommand::DropDead(dead_target(target)),
        [schedule, function, unique, ..] if is(schedule, b"schedule") => {
            AdminCommand::DropSchedule { function, unique }
        }
        _ => AdminCommand::Incomplete("drop"),
    }
}

fn dead_target(word: &[u8]) -> DeadTarget<'_> {
    if word == b"*" {
        DeadTarget::All
    } else {
        DeadTarget::Named(word)
    }
}

/// A missing or unreadable number, zero and negative ones: no bound.
fn bound(word: Option<&&[u8]>) -> u32 {
    let value = word.and_then(|w| ascii::parse_u64(w)).unwrap_or(0);
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn parse_maxqueue<'a>(arguments: &[&'a [u8]]) -> AdminCommand<'a> {
    let Some((function, numbers)) = arguments.split_first() else {
        return AdminCommand::Incomplete("maxqueue");
    };
    let limits = match numbers {
        [high, normal, low, ..] => [bound(Some(high)), bound(Some(normal)), bound(Some(low))],
        _ => [bound(numbers.first()); 3],
    };
    AdminCommand::MaxQueue {
        function,
        limits: QueueLimits(limits),
    }
}

fn parse_limit<'a>(arguments: &[&'a [u8]]) -> AdminCommand<'a> {
    limit(arguments).unwrap_or(AdminCommand::Incomplete("limit"))
}

/// `None` also for what is no number: a slip of the hand must not lift a bound.
fn limit<'a>(arguments: &[&'a [u8]]) -> Option<AdminCommand<'a>> {
    let number = |word: &[u8]| Some(u32::try_from(ascii::parse_u64(word)?).unwrap_or(u32::MAX));
    match arguments {
        [function, what, bound] if is(what, b"running") => Some(AdminCommand::LimitRunning {
            function,
            running_max: number(bound)?,
        }),
        [function, what, rate, rest @ ..] if is(what, b"rate") => {
            let per_second = number(rate.strip_suffix(b"/s").unwrap_or(rate))?;
            let burst = match rest {
                [] => per_second.max(1),
                [word, burst] if is(word, b"burst") => number(burst)?.max(1),
                _ => return None,
            };
            Some(AdminCommand::LimitRate {
                function,
                per_second,
                burst,
            })
        }
        _ => None,
    }
}

fn parse_purge<'a>(arguments: &[&'a [u8]]) -> AdminCommand<'a> {
    let Some((function, rest)) = arguments.split_first() else {
        return AdminCommand::Incomplete("purge");
    };
    let priority = match rest.first() {
        None => None,
        Some(word) => match Priority::ALL
            .into_iter()
            .find(|p| is(word, p.name().as_bytes()))
        {
            Some(priority) => Some(priority),
            None => return AdminCommand::Incomplete("purge"),
        },
    };
    AdminCommand::Purge { function, priority }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: AdminCommand<'_>) {
        assert_eq!(AdminCommand::parse(line.as_bytes()), expected, "{line:?}");
    }

    #[test]
    fn words_case_and_blanks() {
        check("status", AdminCommand::Status);
        check("  STATUS  ", AdminCommand::Status);
        check("Show  Unique  Jobs", AdminCommand::ShowUniqueJobs);
        check("show jobs", AdminCommand::ShowJobs);
        check("show", AdminCommand::Unknown(b"show"));
        check("show jobs of", AdminCommand::ShowUnknown);
        check("cancel job", AdminCommand::Unknown(b"cancel"));
        check("show x", AdminCommand::ShowUnknown);
        check(
            "create function Thumb",
            AdminCommand::CreateFunction(b"Thumb"),
        );
        check("create function", AdminCommand::Incomplete("create"));
        check("create", AdminCommand::Incomplete("create"));
        check("drop function x", AdminCommand::DropFunction(b"x"));
        check("cancel job H:a:1", AdminCommand::CancelJob(b"H:a:1"));
        check("nonsense x", AdminCommand::Unknown(b"nonsense"));
        check(
            "prioritystatusandmore",
            AdminCommand::Unknown(b"prioritystatusandmore"),
        );
        check("", AdminCommand::Unknown(b""));
    }

    #[test]
    fn bounds() {
        let maxqueue = |limits| AdminCommand::MaxQueue {
            function: b"f",
            limits: QueueLimits(limits),
        };
        check("maxqueue f", maxqueue([0, 0, 0]));
        check("maxqueue f 7", maxqueue([7, 7, 7]));
        check("maxqueue f -7", maxqueue([0, 0, 0]));
        check("maxqueue f 1 2 3", maxqueue([1, 2, 3]));
        check("maxqueue f 1 2", maxqueue([1, 1, 1]));
        check("maxqueue", AdminCommand::Incomplete("maxqueue"));
        check(
            "limit f rate 10/s burst 5",
            AdminCommand::LimitRate {
                function: b"f",
                per_second: 10,
                burst: 5,
            },
        );
        for line in [
            "f",
            "f running",
            "f running x",
            "f running -1",
            "f rate 1 burst",
            "f rate 1/m",
        ] {
            check(&format!("limit {line}"), AdminCommand::Incomplete("limit"));
        }
    }
}

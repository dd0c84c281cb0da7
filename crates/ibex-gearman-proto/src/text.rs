//! Every text that real clients match on, in one place.
//!
//! Error codes and texts are those of the C server 1.1.20 (`libgearman-server/server.cc`, `error.h`) without the prefix `GEARMAN_`; answers of the
//! admin protocol are
//! in `admin_text`, taken from talking to that server. Not here: how answers are assembled, which belongs to the daemon.

/// Codes of ERROR packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorCode {
    /// A packet towards the server carried the server's magic.
    InvalidMagic,
    /// A packet type that does not exist or is not for the server.
    InvalidCommand,
    /// Arguments are missing.
    InvalidPacket,
    /// OPTION_REQ named an option this server has not.
    UnknownOption,
    /// No such job, or not held by this worker.
    JobNotFound,
    /// A handle, unique key or reducer beyond its limit.
    ArgumentTooLarge,
    /// A payload beyond the packet bound.
    DataTooLarge,
    /// The job was not accepted: limits, store, drain.
    QueueError,
    /// A function name beyond its limit.
    InvalidFunctionName,
    /// A number that is none.
    InvalidArgument,
    /// Ours: the peer may not do this.
    Unauthorized,
    /// Ours: nobody can do this function (option `no-workers-fail`).
    NoWorkers,
    /// Ours: a rate limit.
    RateLimited,
}

impl ErrorCode {
    /// All codes.
    pub const ALL: [Self; 13] = [
        Self::InvalidMagic,
        Self::InvalidCommand,
        Self::InvalidPacket,
        Self::UnknownOption,
        Self::JobNotFound,
        Self::ArgumentTooLarge,
        Self::DataTooLarge,
        Self::QueueError,
        Self::InvalidFunctionName,
        Self::InvalidArgument,
        Self::Unauthorized,
        Self::NoWorkers,
        Self::RateLimited,
    ];

    /// The code as it stands in the packet.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidMagic => "INVALID_MAGIC",
            Self::InvalidCommand => "INVALID_COMMAND",
            Self::InvalidPacket => "INVALID_PACKET",
            Self::UnknownOption => "UNKNOWN_OPTION",
            Self::JobNotFound => "JOB_NOT_FOUND",
            Self::ArgumentTooLarge => "ARGUMENT_TOO_LARGE",
            Self::DataTooLarge => "DATA_TOO_LARGE",
            Self::QueueError => "QUEUE_ERROR",
            Self::InvalidFunctionName => "INVALID_FUNCTION_NAME",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::NoWorkers => "NO_WORKERS",
            Self::RateLimited => "RATE_LIMITED",
        }
    }
}

/// Texts of ERROR packets.
pub mod error_text {
    /// With `INVALID_MAGIC`.
    pub const REQUEST_MAGIC: &str = "Request magic expected";
    /// With `INVALID_COMMAND`, a type that does not exist.
    pub const UNKNOWN_TYPE: &str = "Unknown packet type";
    /// With `INVALID_COMMAND`, a type that is not for the server.
    pub const NOT_EXPECTED: &str = "Command not expected";
    /// With `INVALID_PACKET`.
    pub const MISSING_ARGUMENTS: &str = "Not enough arguments in packet";
    /// With `DATA_TOO_LARGE`.
    pub const TOO_LARGE: &str = "Packet exceeds the size limit";
    /// With `UNAUTHORIZED`.
    pub const UNAUTHORIZED: &str = "The access rules do not allow this";
    /// With `UNKNOWN_OPTION`.
    pub const UNKNOWN_OPTION: &str = "Server does not recognize given option";
    /// With `ARGUMENT_TOO_LARGE`, unique keys and reducers.
    pub const UNIQUE_TOO_LARGE: &str = "Unique value too large";
    /// With `ARGUMENT_TOO_LARGE`, handles.
    pub const HANDLE_TOO_LARGE: &str = "Job handle too large";
    /// With `INVALID_FUNCTION_NAME`.
    pub const FUNCTION_TOO_LARGE: &str = "Function name too large";
    /// With `QUEUE_ERROR`, a queue limit was reached.
    pub const QUEUE_FULL: &str = "Job queue is full";
    /// With `QUEUE_ERROR`, a bound on functions was reached.
    pub const TOO_MANY_FUNCTIONS: &str = "Too many functions";
    /// With `QUEUE_ERROR`, the store said no.
    pub const STORE_FAILED: &str = "Job could not be stored";
    /// With `QUEUE_ERROR`, the server takes no new jobs.
    pub const DRAINING: &str = "Server is draining";
    /// With `INVALID_ARGUMENT`, SUBMIT_JOB_EPOCH.
    pub const BAD_EPOCH: &str = "Epoch is not a number of seconds";
    /// With `INVALID_ARGUMENT`, SUBMIT_JOB_SCHED.
    pub const BAD_SCHEDULE: &str = "Schedule field is out of range";
    /// With `INVALID_ARGUMENT`, NACK.
    pub const BAD_DELAY: &str = "Delay is not a number of seconds";
    /// With `INVALID_ARGUMENT`, headers.
    pub const BAD_HEADERS: &str = "Headers cannot be read";
    /// With `NO_WORKERS`.
    pub const NO_WORKERS: &str = "No worker can do this function";
    /// With `JOB_NOT_FOUND`, WORK_DATA and WORK_WARNING.
    pub const NO_JOB_FOR_DATA: &str = "Job does not exist on server";
    /// With `JOB_NOT_FOUND`, WORK_STATUS, WORK_COMPLETE and WORK_FAIL.
    pub const NO_JOB_FOR_RESULT: &str = "Job given in work result not found";
    /// With `JOB_NOT_FOUND`, WORK_EXCEPTION.
    pub const NO_JOB_FOR_EXCEPTION: &str =
        "An exception was received for a job that does not exist";
    /// With `JOB_NOT_FOUND`, our own requests.
    pub const NO_JOB: &str = "No such job";
}

/// Answers of the admin text protocol, with their line ends.
pub mod admin_text {
    /// Done.
    pub const OK: &str = "OK\r\n";
    /// `cancel job` of a handle nobody knows.
    pub const UNKNOWN_JOB: &str = "ERR UNKNOWN_JOB\r\n";
    /// `drop function` of a function nobody knows.
    pub const FUNCTION_NOT_FOUND: &str = "ERR function not found\r\n";
    /// `drop function` of a function in use.
    pub const FUNCTION_IN_USE: &str =
        "ERR there are still connected workers or executing clients\r\n";
    /// `show` of something else.
    pub const UNKNOWN_SHOW: &str = "ERR UNKNOWN_SHOW_ARGUMENTS\r\n";
    /// `create function` beyond the bound on functions.
    pub const TOO_MANY_FUNCTIONS: &str = "ERR TOO_MANY_FUNCTIONS\r\n";
    /// A line beyond the limit.
    pub const LINE_TOO_LONG: &str = "ERR LINE_TOO_LONG The+line+exceeds+8191+bytes\r\n";
    /// A state-changing command from a peer without admin rights.
    pub const UNAUTHORIZED: &str = "ERR UNAUTHORIZED\r\n";
    /// End of a list.
    pub const END: &str = ".\n";

    /// A command whose words are missing.
    #[must_use]
    pub fn incomplete(command: &str) -> String {
        format!(
            "ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+{command}\r\n"
        )
    }

    /// A command nobody knows. COMPAT(gearmand): no separator before the word.
    #[must_use]
    pub fn unknown_command(word: &[u8]) -> Vec<u8> {
        let mut out = b"ERR UNKNOWN_COMMAND Unknown+server+command".to_vec();
        out.extend(word.iter().map(|&b| super::printable(b)));
        out.extend_from_slice(b"\r\n");
        out
    }
}

/// `byte` as lists print it: control bytes but TAB become `?`, so that no peer can forge a line.
///
/// DIFFERS(gearmand): the original prints client ids and function names raw.
#[must_use]
pub const fn printable(byte: u8) -> u8 {
    match byte {
        b'\t' => byte,
        0..=31 | 127 => b'?',
        _ => byte,
    }
}

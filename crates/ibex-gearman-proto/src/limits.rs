//! Sizes the protocol bounds, each with the reason for its value and what happens beyond it.
//!
//! Apart, because the decoder, the job server and the clients must agree on them. Values that an operator may change are defaults here and fields elsewhere.

/// Bytes of a job handle. The original's buffer holds 63 and a NUL. Longer in a request: ERROR `ARGUMENT_TOO_LARGE`.
pub const HANDLE_BYTES_MAX: usize = 63;

/// Bytes of a unique key. Longer: ERROR `ARGUMENT_TOO_LARGE`, `Unique value too large`.
///
/// DIFFERS(gearmand): the original accepts 64, loses the last byte and mis-frames the JOB_ASSIGN_UNIQ that carries it; here 64 bytes are kept whole.
pub const UNIQUE_BYTES_MAX: usize = 64;

/// Bytes of a reducer's name. Longer: ERROR `ARGUMENT_TOO_LARGE`, the text of [`UNIQUE_BYTES_MAX`].
pub const REDUCER_BYTES_MAX: usize = 64;

/// Bytes of a function name. Longer: ERROR `INVALID_FUNCTION_NAME`. The original has no check; 512 fits every index of the durable stores.
pub const FUNCTION_BYTES_MAX: usize = 512;

/// Bytes of a client id that are kept; the rest is cut off, as in the original.
pub const CLIENT_ID_BYTES_MAX: usize = 127;

/// Bytes of an option's name. Longer: ERROR `UNKNOWN_OPTION`.
pub const OPTION_BYTES_MAX: usize = 63;

/// Bytes of all headers of one job (option `headers`). Longer: ERROR `INVALID_ARGUMENT`. Room for a trace and a few dozen words; they wait with the job.
pub const HEADERS_BYTES_MAX: usize = 4096;

/// Bytes of an admin line without its LF. Longer: an ERR line, then the connection is closed. The original's buffer is 8192 bytes.
pub const LINE_BYTES_MAX: usize = 8191;

/// Words of an admin line that are looked at; further words are ignored.
pub const LINE_WORDS_MAX: usize = 16;

/// Default payload bound of one packet, in bytes. Larger: ERROR `DATA_TOO_LARGE`, then the connection is closed. Safe range 1 KiB ..= 4 GiB − 1.
pub const PACKET_BYTES_MAX_DEFAULT: usize = 128 << 20;

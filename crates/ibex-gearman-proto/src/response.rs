//! Packets from the server: one variant per type, parse and encode side by side.
//!
//! Generic over the bytes it holds: a client parses into `Response<&[u8]>` and keeps what it wants with [`Response::map`]; a server builds
//! `Response<Bytes, H>`, where
//! `H` is however it stores handles.

use bytes::BufMut;
use ibex_base::ascii;

use crate::frame::{self, RES, arguments};
use crate::kind;

/// A packet from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response<B, H = B> {
    /// There may be a job.
    Noop,
    /// A submission was accepted.
    JobCreated {
        /// Its handle.
        handle: H,
    },
    /// There is no job.
    NoJob,
    /// A job for a worker that sent GRAB_JOB.
    JobAssign {
        /// Handle.
        handle: H,
        /// Function name.
        function: B,
        /// Argument.
        workload: B,
    },
    /// A job for a worker that sent GRAB_JOB_UNIQ, or GRAB_JOB_ALL when there is no reducer.
    JobAssignUnique {
        /// Handle.
        handle: H,
        /// Function name.
        function: B,
        /// Unique key as submitted.
        unique: B,
        /// Argument.
        workload: B,
    },
    /// A job with a reducer for a worker that sent GRAB_JOB_ALL.
    JobAssignAll {
        /// Handle.
        handle: H,
        /// Function name.
        function: B,
        /// Unique key as submitted.
        unique: B,
        /// Reducer's name.
        reducer: B,
        /// Argument.
        workload: B,
    },
    /// Progress, relayed.
    WorkStatus {
        /// Handle.
        handle: H,
        /// Decimal text as the worker sent it.
        numerator: B,
        /// Decimal text as the worker sent it.
        denominator: B,
    },
    /// The result.
    WorkComplete {
        /// Handle.
        handle: H,
        /// Result.
        data: B,
    },
    /// Failure.
    WorkFail {
        /// Handle.
        handle: H,
    },
    /// Failure with a reason.
    WorkException {
        /// Handle.
        handle: H,
        /// Reason.
        data: B,
    },
    /// A part of the result.
    WorkData {
        /// Handle.
        handle: H,
        /// Part.
        data: B,
    },
    /// A warning.
    WorkWarning {
        /// Handle.
        handle: H,
        /// Warning.
        data: B,
    },
    /// Answer to ECHO_REQ.
    Echo {
        /// The same bytes.
        data: B,
    },
    /// Something was refused.
    Error {
        /// Code.
        code: B,
        /// Text for people.
        text: B,
    },
    /// Answer to GET_STATUS.
    Status {
        /// The handle asked for.
        handle: B,
        /// The server knows the job.
        known: bool,
        /// A worker holds it.
        running: bool,
        /// Last progress.
        numerator: u32,
        /// Last progress.
        denominator: u32,
    },
    /// Answer to GET_STATUS_UNIQUE.
    StatusUnique {
        /// The key asked for.
        unique: B,
        /// The server knows such a job.
        known: bool,
        /// A worker holds it.
        running: bool,
        /// Last progress.
        numerator: u32,
        /// Last progress.
        denominator: u32,
        /// Foreground submissions waiting for it.
        clients: u32,
    },
    /// Answer to OPTION_REQ.
    Option {
        /// The name as it was sent.
        name: B,
    },
}

/// Why bytes from a server are not a packet. Each means: give the connection up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// The first bytes are not `\0RES`.
    #[error("magic of a server's packet expected")]
    BadMagic,
    /// The announced payload is beyond the caller's bound.
    #[error("packet of {payload_bytes} bytes exceeds the limit of {limit_bytes}")]
    TooLarge {
        /// Announced.
        payload_bytes: u32,
        /// Allowed.
        limit_bytes: usize,
    },
    /// A type servers do not send, or one that does not exist.
    #[error("unexpected packet type {0}")]
    UnexpectedType(u32),
    /// Fewer arguments than the type needs.
    #[error("packet type {0} lacks arguments")]
    MissingArguments(u32),
}

impl<'a> Response<&'a [u8]> {
    /// The response in a packet of type `packet`.
    ///
    /// # Errors
    /// [`ResponseError::UnexpectedType`] and [`ResponseError::MissingArguments`].
    pub fn parse(packet: u32, payload: &'a [u8]) -> Result<Self, ResponseError> {
        let response = match packet {
            kind::NOOP => Some(Self::Noop),
            kind::JOB_CREATED => Some(Self::JobCreated { handle: payload }),
            kind::NO_JOB => Some(Self::NoJob),
            kind::JOB_ASSIGN => {
                arguments(payload).map(|[handle, function, workload]| Self::JobAssign {
                    handle,
                    function,
                    workload,
                })
            }
            kind::JOB_ASSIGN_UNIQ => {
                arguments(payload).map(|[handle, function, unique, workload]| {
                    Self::JobAssignUnique {
                        handle,
                        function,
                        unique,
                        workload,
                    }
                })
            }
            kind::JOB_ASSIGN_ALL => {
                arguments(payload).map(|[handle, function, unique, reducer, workload]| {
                    Self::JobAssignAll {
                        handle,
                        function,
                        unique,
                        reducer,
                        workload,
                    }
                })
            }
            kind::WORK_STATUS => {
                arguments(payload).map(|[handle, numerator, denominator]| Self::WorkStatus {
                    handle,
                    numerator,
                    denominator,
                })
            }
            kind::WORK_COMPLETE => {
                arguments(payload).map(|[handle, data]| Self::WorkComplete { handle, data })
            }
            kind::WORK_FAIL => Some(Self::WorkFail { handle: payload }),
            kind::WORK_EXCEPTION => {
                arguments(payload).map(|[handle, data]| Self::WorkException { handle, data })
            }
            kind::WORK_DATA => {
                arguments(payload).map(|[handle, data]| Self::WorkData { handle, data })
            }
            kind::WORK_WARNING => {
                arguments(payload).map(|[handle, data]| Self::WorkWarning { handle, data })
            }
            kind::ECHO_RES => Some(Self::Echo { data: payload }),
            kind::ERROR => arguments(payload).map(|[code, text]| Self::Error { code, text }),
            kind::STATUS_RES => {
                arguments(payload).map(|[handle, known, running, numerator, denominator]| {
                    Self::Status {
                        handle,
                        known: is_true(known),
                        running: is_true(running),
                        numerator: number(numerator),
                        denominator: number(denominator),
                    }
                })
            }
            kind::STATUS_RES_UNIQUE => arguments(payload).map(
                |[unique, known, running, numerator, denominator, clients]| Self::StatusUnique {
                    unique,
                    known: is_true(known),
                    running: is_true(running),
                    numerator: number(numerator),
                    denominator: number(denominator),
                    clients: number(clients),
                },
            ),
            kind::OPTION_RES => Some(Self::Option { name: payload }),
            _ => return Err(ResponseError::UnexpectedType(packet)),
        };
        response.ok_or(ResponseError::MissingArguments(packet))
    }
}

/// COMPAT(gearmand): any text but `0` and the empty one is true.
fn is_true(text: &[u8]) -> bool {
    !matches!(text, b"" | b"0")
}

/// Leading digits, saturating; anything else is 0 (§2.4: progress numbers).
fn number(text: &[u8]) -> u32 {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    match (digits, text.get(..digits).and_then(ascii::parse_u64)) {
        (0, _) => 0,
        (_, Some(value)) => u32::try_from(value).unwrap_or(u32::MAX),
        (_, None) => u32::MAX,
    }
}

impl<B> Response<B> {
    #[expect(
        clippy::too_many_lines,
        reason = "one arm per packet type, nothing else"
    )]
    /// The same packet over other bytes, for instance `response.map(|part| frame.slice_ref(part))`.
    pub fn map<C>(self, mut keep: impl FnMut(B) -> C) -> Response<C> {
        match self {
            Self::Noop => Response::Noop,
            Self::JobCreated { handle } => Response::JobCreated {
                handle: keep(handle),
            },
            Self::NoJob => Response::NoJob,
            Self::JobAssign {
                handle,
                function,
                workload,
            } => Response::JobAssign {
                handle: keep(handle),
                function: keep(function),
                workload: keep(workload),
            },
            Self::JobAssignUnique {
                handle,
                function,
                unique,
                workload,
            } => Response::JobAssignUnique {
                handle: keep(handle),
                function: keep(function),
                unique: keep(unique),
                workload: keep(workload),
            },
            Self::JobAssignAll {
                handle,
                function,
                unique,
                reducer,
                workload,
            } => Response::JobAssignAll {
                handle: keep(handle),
                function: keep(function),
                unique: keep(unique),
                reducer: keep(reducer),
                workload: keep(workload),
            },
            Self::WorkStatus {
                handle,
                numerator,
                denominator,
            } => Response::WorkStatus {
                handle: keep(handle),
                numerator: keep(numerator),
                denominator: keep(denominator),
            },
            Self::WorkComplete { handle, data } => Response::WorkComplete {
                handle: keep(handle),
                data: keep(data),
            },
            Self::WorkFail { handle } => Response::WorkFail {
                handle: keep(handle),
            },
            Self::WorkException { handle, data } => Response::WorkException {
                handle: keep(handle),
                data: keep(data),
            },
            Self::WorkData { handle, data } => Response::WorkData {
                handle: keep(handle),
                data: keep(data),
            },
            Self::WorkWarning { handle, data } => Response::WorkWarning {
                handle: keep(handle),
                data: keep(data),
            },
            Self::Echo { data } => Response::Echo { data: keep(data) },
            Self::Error { code, text } => Response::Error {
                code: keep(code),
                text: keep(text),
            },
            Self::Status {
                handle,
                known,
                running,
                numerator,
                denominator,
            } => Response::Status {
                handle: keep(handle),
                known,
                running,
                numerator,
                denominator,
            },
            Self::StatusUnique {
                unique,
                known,
                running,
                numerator,
                denominator,
                clients,
            } => Response::StatusUnique {
                unique: keep(unique),
                known,
                running,
                numerator,
                denominator,
                clients,
            },
            Self::Option { name } => Response::Option { name: keep(name) },
        }
    }
}

impl<B: AsRef<[u8]>, H: AsRef<[u8]>> Response<B, H> {
    /// The packet type that says this.
    #[must_use]
    pub fn kind(&self) -> u32 {
        match self {
            Self::Noop => kind::NOOP,
            Self::JobCreated { .. } => kind::JOB_CREATED,
            Self::NoJob => kind::NO_JOB,
            Self::JobAssign { .. } => kind::JOB_ASSIGN,
            Self::JobAssignUnique { .. } => kind::JOB_ASSIGN_UNIQ,
            Self::JobAssignAll { .. } => kind::JOB_ASSIGN_ALL,
            Self::WorkStatus { .. } => kind::WORK_STATUS,
            Self::WorkComplete { .. } => kind::WORK_COMPLETE,
            Self::WorkFail { .. } => kind::WORK_FAIL,
            Self::WorkException { .. } => kind::WORK_EXCEPTION,
            Self::WorkData { .. } => kind::WORK_DATA,
            Self::WorkWarning { .. } => kind::WORK_WARNING,
            Self::Echo { .. } => kind::ECHO_RES,
            Self::Error { .. } => kind::ERROR,
            Self::Status { .. } => kind::STATUS_RES,
            Self::StatusUnique { .. } => kind::STATUS_RES_UNIQUE,
            Self::Option { .. } => kind::OPTION_RES,
        }
    }

    /// Appends the packet.
    ///
    /// # Panics
    /// When the payload exceeds 4 GiB, which no packet can say.
    pub fn encode(&self, out: &mut impl BufMut) {
        if let Some(data) = self.encode_head(out) {
            out.put_slice(data.as_ref());
        }
    }

    /// Appends the packet but for its data argument, which the caller must append next; `None` when there is none. For writers that do not copy large data.
    ///
    /// # Panics
    /// When the payload exceeds 4 GiB, which no packet can say.
    pub fn encode_head(&self, out: &mut impl BufMut) -> Option<&B> {
        let kind = self.kind();
        let mut with_data = |arguments: &[&[u8]], data: &B| {
            frame::put(out, RES, kind, arguments, Some(data.as_ref().len()))
        };
        match self {
            Self::JobAssign {
                handle,
                function,
                workload,
            } => {
                with_data(&[handle.as_ref(), function.as_ref()], workload);
                Some(workload)
            }
            Self::JobAssignUnique {
                handle,
                function,
                unique,
                workload,
            } => {
                with_data(
                    &[handle.as_ref(), function.as_ref(), unique.as_ref()],
                    workload,
                );
                Some(workload)
            }
            Self::JobAssignAll {
                handle,
                function,
                unique,
                reducer,
                workload,
            } => {
                with_data(
                    &[
                        handle.as_ref(),
                        function.as_ref(),
                        unique.as_ref(),
                        reducer.as_ref(),
                    ],
                    workload,
                );
                Some(workload)
            }
            Self::WorkComplete { handle, data }
            | Self::WorkException { handle, data }
            | Self::WorkData { handle, data }
            | Self::WorkWarning { handle, data } => {
                with_data(&[handle.as_ref()], data);
                Some(data)
            }
            Self::Echo { data } => {
                with_data(&[], data);
                Some(data)
            }
            Self::Noop
            | Self::NoJob
            | Self::JobCreated { .. }
            | Self::WorkStatus { .. }
            | Self::WorkFail { .. }
            | Self::Error { .. }
            | Self::Status { .. }
            | Self::StatusUnique { .. }
            | Self::Option { .. } => {
                self.encode_small(out);
                None
            }
        }
    }

    /// Packets without a data argument.
    fn encode_small(&self, out: &mut impl BufMut) {
        let kind = self.kind();
        match self {
            Self::JobCreated { handle } | Self::WorkFail { handle } => {
                frame::put(out, RES, kind, &[handle.as_ref()], None)
            }
            Self::WorkStatus {
                handle,
                numerator,
                denominator,
            } => frame::put(
                out,
                RES,
                kind,
                &[handle.as_ref(), numerator.as_ref(), denominator.as_ref()],
                None,
            ),
            Self::Error { code, text } => {
                frame::put(out, RES, kind, &[code.as_ref(), text.as_ref()], None)
            }
            Self::Status {
                handle,
                known,
                running,
                numerator,
                denominator,
            } => {
                let (mut n, mut d) = ([0; ascii::U64_DIGITS_MAX], [0; ascii::U64_DIGITS_MAX]);
                let numbers = [
                    ascii::format_u64((*numerator).into(), &mut n),
                    ascii::format_u64((*denominator).into(), &mut d),
                ];
                frame::put(
                    out,
                    RES,
                    kind,
                    &[
                        handle.as_ref(),
                        flag(*known),
                        flag(*running),
                        numbers[0],
                        numbers[1],
                    ],
                    None,
                );
            }
            Self::StatusUnique {
                unique,
                known,
                running,
                numerator,
                denominator,
                clients,
            } => {
                let (mut n, mut d, mut c) = (
                    [0; ascii::U64_DIGITS_MAX],
                    [0; ascii::U64_DIGITS_MAX],
                    [0; ascii::U64_DIGITS_MAX],
                );
                let numbers = [
                    ascii::format_u64((*numerator).into(), &mut n),
                    ascii::format_u64((*denominator).into(), &mut d),
                    ascii::format_u64((*clients).into(), &mut c),
                ];
                let arguments = [
                    unique.as_ref(),
                    flag(*known),
                    flag(*running),
                    numbers[0],
                    numbers[1],
                    numbers[2],
                ];
                frame::put(out, RES, kind, &arguments, None);
            }
            Self::Option { name } => frame::put(out, RES, kind, &[name.as_ref()], None),
            Self::Noop
            | Self::NoJob
            | Self::JobAssign { .. }
            | Self::JobAssignUnique { .. }
            | Self::JobAssignAll { .. }
            | Self::WorkComplete { .. }
            | Self::WorkException { .. }
            | Self::WorkData { .. }
            | Self::WorkWarning { .. }
            | Self::Echo { .. } => frame::put(out, RES, kind, &[], None),
        }
    }
}

const fn flag(value: bool) -> &'static [u8] {
    if value { b"1" } else { b"0" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_numbers_saturate_and_forgive() {
        for (text, expected) in [
            (&b"42"[..], 42),
            (b"42x", 42),
            (b"", 0),
            (b"x", 0),
            (b"-1", 0),
            (b"4294967295", u32::MAX),
            (b"4294967296", u32::MAX),
            (b"99999999999999999999999", u32::MAX),
        ] {
            assert_eq!(number(text), expected, "{text:?}");
        }
    }
}

//! Packets towards the server: one variant per meaning, parse and encode side by side.
//!
//! The eleven submission types become one [`Submit`], the three grabs one [`Grab`]; everything else keeps its own variant. Arguments are the bytes as
//! sent: what a
//! number or an unknown option means is the job server's business.

use bytes::BufMut;

use crate::frame::{self, REQ, arguments};
use crate::kind;

/// The three queues of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// Before all others.
    High,
    /// The usual one.
    #[default]
    Normal,
    /// After all others.
    Low,
}

impl Priority {
    /// Highest first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// 0 for high, 1 for normal, 2 for low: the original's numbers in its store.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::High => 0,
            Self::Normal => 1,
            Self::Low => 2,
        }
    }

    /// The priority with that [`index`](Self::index).
    #[must_use]
    pub const fn from_index(index: usize) -> Option<Self> {
        match index {
            0 => Some(Self::High),
            1 => Some(Self::Normal),
            2 => Some(Self::Low),
            _ => None,
        }
    }

    /// Lower-case name, as admin commands and metrics write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

/// Whether somebody waits for the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// The submitter's connection gets the job's packets; the job dies with its last client.
    #[default]
    Foreground,
    /// Nobody waits; the job must run.
    Background,
}

/// A submission of any type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Submit<'a> {
    /// Function name.
    pub function: &'a [u8],
    /// Key under which equal submissions meet; empty: never, `-`: the workload is the key.
    pub unique: &'a [u8],
    /// Opaque argument of the job.
    pub workload: &'a [u8],
    /// Queue.
    pub priority: Priority,
    /// Foreground or background.
    pub mode: Mode,
    /// SUBMIT_JOB_EPOCH: decimal seconds since 1970 before which the job is not handed out. Implies background.
    pub epoch: Option<&'a [u8]>,
    /// SUBMIT_JOB_SCHED: minute, hour, day of month, month, day of week. Implies background.
    pub schedule: Option<[&'a [u8]; 5]>,
    /// SUBMIT_REDUCE_JOB: reducer's name and the argument nobody uses.
    pub reducer: Option<[&'a [u8]; 2]>,
}

impl<'a> Submit<'a> {
    /// A foreground submission of normal priority.
    #[must_use]
    pub fn new(function: &'a [u8], unique: &'a [u8], workload: &'a [u8]) -> Self {
        Self {
            function,
            unique,
            workload,
            ..Self::default()
        }
    }

    /// The same in the background.
    #[must_use]
    pub fn background(self) -> Self {
        Self {
            mode: Mode::Background,
            ..self
        }
    }

    /// The same with another priority.
    #[must_use]
    pub fn priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// The packet type that says this. Epoch, schedule and reducer submissions have no priorities on the wire.
    #[must_use]
    pub fn kind(&self) -> u32 {
        match (
            self.epoch,
            self.schedule,
            self.reducer,
            self.mode,
            self.priority,
        ) {
            (Some(_), ..) => kind::SUBMIT_JOB_EPOCH,
            (None, Some(_), ..) => kind::SUBMIT_JOB_SCHED,
            (None, None, Some(_), Mode::Foreground, _) => kind::SUBMIT_REDUCE_JOB,
            (None, None, Some(_), Mode::Background, _) => kind::SUBMIT_REDUCE_JOB_BACKGROUND,
            (None, None, None, Mode::Foreground, Priority::High) => kind::SUBMIT_JOB_HIGH,
            (None, None, None, Mode::Foreground, Priority::Normal) => kind::SUBMIT_JOB,
            (None, None, None, Mode::Foreground, Priority::Low) => kind::SUBMIT_JOB_LOW,
            (None, None, None, Mode::Background, Priority::High) => kind::SUBMIT_JOB_HIGH_BG,
            (None, None, None, Mode::Background, Priority::Normal) => kind::SUBMIT_JOB_BG,
            (None, None, None, Mode::Background, Priority::Low) => kind::SUBMIT_JOB_LOW_BG,
        }
    }
}

/// Which form of JOB_ASSIGN a worker asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grab {
    /// GRAB_JOB: handle, function, workload.
    Plain,
    /// GRAB_JOB_UNIQ: with the unique key.
    Unique,
    /// GRAB_JOB_ALL: with unique key and, where there is one, reducer.
    All,
}

/// A packet from a client or worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "lives on the stack for one call; boxing would allocate per submission"
)]
pub enum Request<'a> {
    /// Registers a function.
    CanDo {
        /// Function name.
        function: &'a [u8],
    },
    /// Registers a function with a bound on its running time.
    CanDoTimeout {
        /// Function name.
        function: &'a [u8],
        /// Decimal text; its unit is the server's policy.
        timeout: &'a [u8],
    },
    /// Takes a registration back.
    CantDo {
        /// Function name.
        function: &'a [u8],
    },
    /// Takes all registrations back.
    ResetAbilities,
    /// The worker sleeps until a NOOP.
    PreSleep,
    /// A submission.
    Submit(Submit<'a>),
    /// Asks for a job.
    GrabJob(Grab),
    /// Progress.
    WorkStatus {
        /// Job handle.
        handle: &'a [u8],
        /// Decimal text.
        numerator: &'a [u8],
        /// Decimal text.
        denominator: &'a [u8],
    },
    /// The result; ends the job.
    WorkComplete {
        /// Job handle.
        handle: &'a [u8],
        /// Result.
        data: &'a [u8],
    },
    /// Failure; ends the job.
    WorkFail {
        /// Job handle.
        handle: &'a [u8],
    },
    /// Failure with a reason; ends the job.
    WorkException {
        /// Job handle.
        handle: &'a [u8],
        /// Reason.
        data: &'a [u8],
    },
    /// A part of the result.
    WorkData {
        /// Job handle.
        handle: &'a [u8],
        /// Part.
        data: &'a [u8],
    },
    /// A warning for the client.
    WorkWarning {
        /// Job handle.
        handle: &'a [u8],
        /// Warning.
        data: &'a [u8],
    },
    /// Asks for a job's state.
    GetStatus {
        /// Job handle.
        handle: &'a [u8],
    },
    /// Asks for the state of the job with that unique key.
    GetStatusUnique {
        /// Unique key.
        unique: &'a [u8],
    },
    /// Asks for the same bytes.
    Echo {
        /// Anything.
        data: &'a [u8],
    },
    /// Names the connection in admin lists.
    SetClientId {
        /// Name.
        id: &'a [u8],
    },
    /// The worker talks to this server only.
    AllYours,
    /// Sets an option of the connection.
    Option {
        /// Its name.
        name: &'a [u8],
    },
    /// Ours: joins the clients waiting for a job.
    Attach {
        /// Job handle.
        handle: &'a [u8],
    },
    /// Ours: gives a job back.
    Nack {
        /// Job handle.
        handle: &'a [u8],
        /// Decimal seconds before it is handed out again.
        delay: &'a [u8],
        /// Reason.
        data: &'a [u8],
    },
    /// Ours: restarts a job's timer.
    Touch {
        /// Job handle.
        handle: &'a [u8],
    },
}

/// What a packet type turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "lives on the stack for one call")]
pub(crate) enum Parsed<'a> {
    Request(Request<'a>),
    /// The payload has fewer arguments than the type needs.
    MissingArguments,
    /// A type that only servers send, or the unused 5.
    NotExpected,
    /// A type that does not exist.
    UnknownType,
}

impl<'a> Request<'a> {
    /// The request in a packet of type `kind`.
    pub(crate) fn parse(packet: u32, payload: &'a [u8]) -> Parsed<'a> {
        let request = match packet {
            kind::CAN_DO => Some(Request::CanDo { function: payload }),
            kind::CAN_DO_TIMEOUT => arguments(payload)
                .map(|[function, timeout]| Request::CanDoTimeout { function, timeout }),
            kind::CANT_DO => Some(Request::CantDo { function: payload }),
            kind::RESET_ABILITIES => Some(Request::ResetAbilities),
            kind::PRE_SLEEP => Some(Request::PreSleep),
            kind::SUBMIT_JOB
            | kind::SUBMIT_JOB_HIGH
            | kind::SUBMIT_JOB_LOW
            | kind::SUBMIT_JOB_BG
            | kind::SUBMIT_JOB_HIGH_BG
            | kind::SUBMIT_JOB_LOW_BG
            | kind::SUBMIT_JOB_SCHED
            | kind::SUBMIT_JOB_EPOCH
            | kind::SUBMIT_REDUCE_JOB
            | kind::SUBMIT_REDUCE_JOB_BACKGROUND => {
                Submit::parse(packet, payload).map(Request::Submit)
            }
            kind::GRAB_JOB => Some(Request::GrabJob(Grab::Plain)),
            kind::GRAB_JOB_UNIQ => Some(Request::GrabJob(Grab::Unique)),
            kind::GRAB_JOB_ALL => Some(Request::GrabJob(Grab::All)),
            kind::WORK_STATUS => {
                arguments(payload).map(|[handle, numerator, denominator]| Request::WorkStatus {
                    handle,
                    numerator,
                    denominator,
                })
            }
            kind::WORK_COMPLETE => {
                arguments(payload).map(|[handle, data]| Request::WorkComplete { handle, data })
            }
            kind::WORK_FAIL => Some(Request::WorkFail { handle: payload }),
            kind::WORK_EXCEPTION => {
                arguments(payload).map(|[handle, data]| Request::WorkException { handle, data })
            }
            kind::WORK_DATA => {
                arguments(payload).map(|[handle, data]| Request::WorkData { handle, data })
            }
            kind::WORK_WARNING => {
                arguments(payload).map(|[handle, data]| Request::WorkWarning { handle, data })
            }
            kind::GET_STATUS => Some(Request::GetStatus { handle: payload }),
            kind::GET_STATUS_UNIQUE => Some(Request::GetStatusUnique { unique: payload }),
            kind::ECHO_REQ => Some(Request::Echo { data: payload }),
            kind::SET_CLIENT_ID => Some(Request::SetClientId { id: payload }),
            kind::ALL_YOURS => Some(Request::AllYours),
            kind::OPTION_REQ => Some(Request::Option { name: payload }),
            kind::ATTACH => Some(Request::Attach { handle: payload }),
            kind::NACK => arguments(payload).map(|[handle, delay, data]| Request::Nack {
                handle,
                delay,
                data,
            }),
            kind::TOUCH => Some(Request::Touch { handle: payload }),
            0 | 43.. => return Parsed::UnknownType,
            _ => return Parsed::NotExpected,
        };
        request.map_or(Parsed::MissingArguments, Parsed::Request)
    }

    /// The packet type that says this.
    #[must_use]
    pub fn kind(&self) -> u32 {
        match self {
            Self::CanDo { .. } => kind::CAN_DO,
            Self::CanDoTimeout { .. } => kind::CAN_DO_TIMEOUT,
            Self::CantDo { .. } => kind::CANT_DO,
            Self::ResetAbilities => kind::RESET_ABILITIES,
            Self::PreSleep => kind::PRE_SLEEP,
            Self::Submit(submit) => submit.kind(),
            Self::GrabJob(Grab::Plain) => kind::GRAB_JOB,
            Self::GrabJob(Grab::Unique) => kind::GRAB_JOB_UNIQ,
            Self::GrabJob(Grab::All) => kind::GRAB_JOB_ALL,
            Self::WorkStatus { .. } => kind::WORK_STATUS,
            Self::WorkComplete { .. } => kind::WORK_COMPLETE,
            Self::WorkFail { .. } => kind::WORK_FAIL,
            Self::WorkException { .. } => kind::WORK_EXCEPTION,
            Self::WorkData { .. } => kind::WORK_DATA,
            Self::WorkWarning { .. } => kind::WORK_WARNING,
            Self::GetStatus { .. } => kind::GET_STATUS,
            Self::GetStatusUnique { .. } => kind::GET_STATUS_UNIQUE,
            Self::Echo { .. } => kind::ECHO_REQ,
            Self::SetClientId { .. } => kind::SET_CLIENT_ID,
            Self::AllYours => kind::ALL_YOURS,
            Self::Option { .. } => kind::OPTION_REQ,
            Self::Attach { .. } => kind::ATTACH,
            Self::Nack { .. } => kind::NACK,
            Self::Touch { .. } => kind::TOUCH,
        }
    }

    /// Appends the packet. Arguments other than the last must not contain NUL: the caller has checked names that came from outside.
    ///
    /// # Panics
    /// When the payload exceeds 4 GiB, which no packet can say.
    pub fn encode(&self, out: &mut impl BufMut) {
        let kind = self.kind();
        match *self {
            Self::CanDo { function } | Self::CantDo { function } => {
                frame::put(out, REQ, kind, &[function], None)
            }
            Self::CanDoTimeout { function, timeout } => {
                frame::put(out, REQ, kind, &[function, timeout], None)
            }
            Self::ResetAbilities | Self::PreSleep | Self::GrabJob(_) | Self::AllYours => {
                frame::put(out, REQ, kind, &[], None)
            }
            Self::Submit(submit) => submit.encode(out),
            Self::WorkStatus {
                handle,
                numerator,
                denominator,
            } => frame::put(out, REQ, kind, &[handle, numerator, denominator], None),
            Self::WorkComplete { handle, data }
            | Self::WorkException { handle, data }
            | Self::WorkData { handle, data }
            | Self::WorkWarning { handle, data } => {
                frame::put(out, REQ, kind, &[handle, data], None)
            }
            Self::WorkFail { handle }
            | Self::GetStatus { handle }
            | Self::Attach { handle }
            | Self::Touch { handle } => {
                frame::put(out, REQ, kind, &[handle], None);
            }
            Self::GetStatusUnique { unique } => frame::put(out, REQ, kind, &[unique], None),
            Self::Echo { data } => frame::put(out, REQ, kind, &[data], None),
            Self::SetClientId { id } => frame::put(out, REQ, kind, &[id], None),
            Self::Option { name } => frame::put(out, REQ, kind, &[name], None),
            Self::Nack {
                handle,
                delay,
                data,
            } => frame::put(out, REQ, kind, &[handle, delay, data], None),
        }
    }
}

impl<'a> Submit<'a> {
    fn parse(packet: u32, payload: &'a [u8]) -> Option<Self> {
        match packet {
            kind::SUBMIT_JOB_EPOCH => {
                arguments(payload).map(|[function, unique, epoch, workload]| Self {
                    epoch: Some(epoch),
                    ..Self::new(function, unique, workload).background()
                })
            }
            kind::SUBMIT_JOB_SCHED => {
                let [
                    function,
                    unique,
                    minute,
                    hour,
                    day,
                    month,
                    weekday,
                    workload,
                ] = arguments(payload)?;
                Some(Self {
                    schedule: Some([minute, hour, day, month, weekday]),
                    ..Self::new(function, unique, workload).background()
                })
            }
            // COMPAT(gearmand): four arguments before the data, as its code has it; its protocol text lists three.
            kind::SUBMIT_REDUCE_JOB | kind::SUBMIT_REDUCE_JOB_BACKGROUND => {
                let [function, unique, reducer, unused, workload] = arguments(payload)?;
                let submit = Self {
                    reducer: Some([reducer, unused]),
                    ..Self::new(function, unique, workload)
                };
                Some(if packet == kind::SUBMIT_REDUCE_JOB {
                    submit
                } else {
                    submit.background()
                })
            }
            _ => {
                let [function, unique, workload] = arguments(payload)?;
                let submit = Self::new(function, unique, workload);
                Some(match packet {
                    kind::SUBMIT_JOB_HIGH => submit.priority(Priority::High),
                    kind::SUBMIT_JOB_LOW => submit.priority(Priority::Low),
                    kind::SUBMIT_JOB_BG => submit.background(),
                    kind::SUBMIT_JOB_HIGH_BG => submit.background().priority(Priority::High),
                    kind::SUBMIT_JOB_LOW_BG => submit.background().priority(Priority::Low),
                    _ => submit,
                })
            }
        }
    }

    fn encode(&self, out: &mut impl BufMut) {
        let kind = self.kind();
        let (function, unique, workload) = (self.function, self.unique, self.workload);
        match (self.epoch, self.schedule, self.reducer) {
            (Some(epoch), ..) => {
                frame::put(out, REQ, kind, &[function, unique, epoch, workload], None)
            }
            (None, Some([minute, hour, day, month, weekday]), _) => {
                frame::put(
                    out,
                    REQ,
                    kind,
                    &[
                        function, unique, minute, hour, day, month, weekday, workload,
                    ],
                    None,
                );
            }
            (None, None, Some([reducer, unused])) => frame::put(
                out,
                REQ,
                kind,
                &[function, unique, reducer, unused, workload],
                None,
            ),
            (None, None, None) => frame::put(out, REQ, kind, &[function, unique, workload], None),
        }
    }
}

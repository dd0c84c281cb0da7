//! Packet type numbers. Nothing but the table: which arguments a type has is said by `request.rs` and `response.rs`.
//!
//! 1–42 are the original's (`libgearman-1.0/protocol.h`); from 1001 on they are extensions of this family, which a server that does not know them answers with
//! `INVALID_COMMAND`.

macro_rules! kinds {
    ($($name:ident = $value:literal),+ $(,)?) => {
        $(#[doc = concat!("Packet type ", stringify!($value), ".")] pub const $name: u32 = $value;)+

        /// The name of a packet type as the protocol text writes it.
        #[must_use]
        pub const fn name(kind: u32) -> Option<&'static str> {
            match kind { $($value => Some(stringify!($name)),)+ _ => None }
        }

        /// Every packet type there is, ascending.
        pub const ALL: &[u32] = &[$($value),+];
    };
}

kinds! {
    CAN_DO = 1, CANT_DO = 2, RESET_ABILITIES = 3, PRE_SLEEP = 4, NOOP = 6, SUBMIT_JOB = 7, JOB_CREATED = 8, GRAB_JOB = 9, NO_JOB = 10,
    JOB_ASSIGN = 11, WORK_STATUS = 12, WORK_COMPLETE = 13, WORK_FAIL = 14, GET_STATUS = 15, ECHO_REQ = 16, ECHO_RES = 17, SUBMIT_JOB_BG = 18,
    ERROR = 19, STATUS_RES = 20, SUBMIT_JOB_HIGH = 21, SET_CLIENT_ID = 22, CAN_DO_TIMEOUT = 23, ALL_YOURS = 24, WORK_EXCEPTION = 25,
    OPTION_REQ = 26, OPTION_RES = 27, WORK_DATA = 28, WORK_WARNING = 29, GRAB_JOB_UNIQ = 30, JOB_ASSIGN_UNIQ = 31, SUBMIT_JOB_HIGH_BG = 32,
    SUBMIT_JOB_LOW = 33, SUBMIT_JOB_LOW_BG = 34, SUBMIT_JOB_SCHED = 35, SUBMIT_JOB_EPOCH = 36, SUBMIT_REDUCE_JOB = 37,
    SUBMIT_REDUCE_JOB_BACKGROUND = 38, GRAB_JOB_ALL = 39, JOB_ASSIGN_ALL = 40, GET_STATUS_UNIQUE = 41, STATUS_RES_UNIQUE = 42,
    ATTACH = 1001, NACK = 1002, TOUCH = 1003,
}

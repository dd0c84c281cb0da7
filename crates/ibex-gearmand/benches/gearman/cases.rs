//! What is measured, against which servers.

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Load {
    /// ECHO_REQ and back.
    Echo,
    /// Submission to result.
    Foreground,
    /// Submission to JOB_CREATED, nobody works.
    Background,
    /// Workers only, over what was submitted before.
    Drain(usize),
    /// Jobs that wait: memory.
    Backlog(usize),
    /// Workers that sleep: memory.
    Idle(usize),
}

/// How workers come to jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asking {
    /// GRAB_JOB, NO_JOB, PRE_SLEEP, NOOP: what every server knows.
    Grab,
    /// GRAB_JOB with the option `wait`: it is answered when there is a job.
    Wait,
    /// The option `push`: the server sends jobs by itself, as many as the worker holds at once.
    Push(u32),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) load: Load,
    pub(crate) clients: usize,
    pub(crate) in_flight: usize,
    pub(crate) workers: usize,
    pub(crate) payload: usize,
    pub(crate) asking: Asking,
    pub(crate) servers: &'static [Kind],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Ours,
    OursSqlite,
    OursMariadb,
    Theirs1,
    Theirs4,
    TheirsSqlite,
    Floor,
}

/// Every one costs two descriptors, its own and the server's; usual limits are 20 000 a process.
const IDLE: usize = 10_000;
const MEMORY: &[Kind] = &[Kind::Ours, Kind::Theirs1, Kind::Theirs4];
const OURS: &[Kind] = &[Kind::Ours];
const DURABLE: &[Kind] = &[Kind::OursSqlite, Kind::OursMariadb, Kind::TheirsSqlite];

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "echo 1 connection",
        load: Load::Echo,
        clients: 1,
        in_flight: 1,
        workers: 0,
        payload: 16,
        asking: Asking::Grab,
        servers: &[Kind::Floor, Kind::Ours, Kind::Theirs1, Kind::Theirs4],
    },
    Case {
        name: "echo 32x16",
        load: Load::Echo,
        clients: 32,
        in_flight: 16,
        workers: 0,
        payload: 16,
        asking: Asking::Grab,
        servers: &[Kind::Floor, Kind::Ours, Kind::Theirs1, Kind::Theirs4],
    },
    // One read and one write for each, eight in flight: the least that a job costs which a worker of the plain protocol asks for.
    Case {
        name: "echo 8x1",
        load: Load::Echo,
        clients: 8,
        in_flight: 1,
        workers: 0,
        payload: 32,
        asking: Asking::Grab,
        servers: &[Kind::Floor, Kind::Ours, Kind::Theirs1],
    },
    Case {
        name: "foreground 1x1, 1 worker",
        load: Load::Foreground,
        clients: 1,
        in_flight: 1,
        workers: 1,
        payload: 16,
        asking: Asking::Grab,
        servers: MEMORY,
    },
    Case {
        name: "foreground 1x1, push=1",
        load: Load::Foreground,
        clients: 1,
        in_flight: 1,
        workers: 1,
        payload: 16,
        asking: Asking::Push(1),
        servers: OURS,
    },
    Case {
        name: "foreground 32x16, 8 workers",
        load: Load::Foreground,
        clients: 32,
        in_flight: 16,
        workers: 8,
        payload: 16,
        asking: Asking::Grab,
        servers: MEMORY,
    },
    Case {
        name: "foreground 32x16, 8 wait",
        load: Load::Foreground,
        clients: 32,
        in_flight: 16,
        workers: 8,
        payload: 16,
        asking: Asking::Wait,
        servers: OURS,
    },
    Case {
        name: "foreground 32x16, 8 push=16",
        load: Load::Foreground,
        clients: 32,
        in_flight: 16,
        workers: 8,
        payload: 16,
        asking: Asking::Push(16),
        servers: OURS,
    },
    Case {
        name: "foreground 64x1, 256 workers",
        load: Load::Foreground,
        clients: 64,
        in_flight: 1,
        workers: 256,
        payload: 16,
        asking: Asking::Grab,
        servers: MEMORY,
    },
    Case {
        name: "foreground 1x1, 100 kB",
        load: Load::Foreground,
        clients: 1,
        in_flight: 1,
        workers: 1,
        payload: 100_000,
        asking: Asking::Grab,
        servers: MEMORY,
    },
    Case {
        name: "background 4x64, memory",
        load: Load::Background,
        clients: 4,
        in_flight: 64,
        workers: 0,
        payload: 16,
        asking: Asking::Grab,
        servers: MEMORY,
    },
    Case {
        name: "background 1x1, durable",
        load: Load::Background,
        clients: 1,
        in_flight: 1,
        workers: 0,
        payload: 16,
        asking: Asking::Grab,
        servers: DURABLE,
    },
    Case {
        name: "background 32x4, durable",
        load: Load::Background,
        clients: 32,
        in_flight: 4,
        workers: 0,
        payload: 16,
        asking: Asking::Grab,
        servers: DURABLE,
    },
    Case {
        name: "drain 200 k",
        load: Load::Drain(200_000),
        clients: 4,
        in_flight: 64,
        workers: 8,
        payload: 16,
        asking: Asking::Grab,
        servers: MEMORY,
    },
    Case {
        name: "drain 1 M",
        load: Load::Drain(1_000_000),
        clients: 4,
        in_flight: 64,
        workers: 8,
        payload: 16,
        asking: Asking::Grab,
        servers: MEMORY,
    },
    Case {
        name: "backlog 1 M",
        load: Load::Backlog(1_000_000),
        clients: 4,
        in_flight: 64,
        workers: 0,
        payload: 16,
        asking: Asking::Grab,
        servers: MEMORY,
    },
    Case {
        name: "idle workers 10 000",
        load: Load::Idle(IDLE),
        clients: 0,
        in_flight: 0,
        workers: IDLE,
        payload: 0,
        asking: Asking::Grab,
        servers: MEMORY,
    },
];

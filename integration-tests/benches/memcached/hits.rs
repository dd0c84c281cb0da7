//! Hit ratios at equal `-m`: the same trace read through both servers over the wire.

use std::path::Path;
use std::time::{Duration, Instant};

use ibex_memcached_proto::reply::Reply;

use crate::Options;
use crate::data::Rows;
use crate::servers::{Server, Talk, start_all, store};
use crate::traces::{CHANGE, REQUESTS, Request, TRACES, Trace, recorded};

const MEGABYTES: u32 = 64;
/// Of recorded traces.
const RECORDED_MEGABYTES: [u32; 3] = [64, 256, 1024];
/// Reads on the way at once; one where a trace reads the same again at once.
const BATCH: usize = 50;
/// Points of the course over time.
const WINDOWS: usize = 60;

/// Hits and requests in each window of the trace.
struct Course {
    hits: Vec<u64>,
    asked: Vec<u64>,
}

impl Course {
    /// The share of hits after the first third.
    fn ratio(&self) -> f64 {
        let sum = |counts: &[u64]| counts[WINDOWS / 3..].iter().sum::<u64>() as f64;
        sum(&self.hits) / sum(&self.asked)
    }

    fn share(&self, window: usize) -> f64 {
        self.hits[window] as f64 / self.asked[window] as f64
    }
}

/// When a request is due, if time matters: `--hour` spreads the first half over an hour, in which the original may move its slabs.
fn due(n: usize, trace: Trace, is_slow: bool) -> Option<Duration> {
    let half = REQUESTS as f64 / 2.0;
    let seconds = match trace.rate {
        Some(rate) => n as f64 / f64::from(rate),
        None if is_slow => {
            let halves = n as f64 / half;
            3600.0 * halves.min(1.0) + 900.0 * (halves - 1.0).max(0.0)
        }
        None => return None,
    };
    Some(Duration::from_secs_f64(seconds))
}

/// Reads the trace through `server`, storing what is missed.
fn read_through(
    server: &Server,
    requests: &[Request],
    batch_len: usize,
    due: impl Fn(usize) -> Option<Duration>,
) -> Course {
    let mut talk = Talk::new(server);
    let mut course = Course {
        hits: vec![0; WINDOWS],
        asked: vec![0; WINDOWS],
    };
    let mut missed: Vec<Request> = Vec::new();
    let start = Instant::now();
    for (n, batch) in requests.chunks(batch_len).enumerate() {
        if let Some(due) = due(n * batch_len) {
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
        let stores = missed.len();
        for request in missed.drain(..) {
            let key = format!("{:010}", request.key);
            store(
                &mut talk.out,
                key.as_bytes(),
                request.ttl,
                request.bytes as usize,
            );
        }
        for request in batch {
            let line = format!("get {:010}\r\n", request.key);
            talk.out.extend_from_slice(line.as_bytes());
        }
        talk.send();
        talk.receive(stores, |reply| {
            // The original has no room for a value when its slabs have others.
            let is_known = matches!(reply, Reply::Stored | Reply::ServerError(_));
            assert!(is_known, "{reply:?}");
            true
        });
        let (mut at, mut found) = (0, false);
        talk.receive(batch.len(), |reply| {
            if matches!(reply, Reply::Value(_)) {
                found = true;
                return false;
            }
            assert!(matches!(reply, Reply::End), "{reply:?}");
            let window = (n * batch_len + at) * WINDOWS / requests.len();
            course.asked[window] += 1;
            if found {
                course.hits[window] += 1;
            } else {
                missed.push(batch[at]);
            }
            (at, found) = (at + 1, false);
            true
        });
    }
    course
}

/// Both servers at the same time: what they answer does not depend on their speed.
fn courses(
    servers: &[Server],
    requests: &[Request],
    batch_len: usize,
    due: impl Fn(usize) -> Option<Duration> + Sync,
) -> Vec<Course> {
    let due = &due;
    std::thread::scope(|scope| {
        let reading: Vec<_> = servers
            .iter()
            .map(|server| scope.spawn(move || read_through(server, requests, batch_len, due)))
            .collect();
        reading.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

/// The row of one run.
fn row(name: String, courses: &[Course], servers: &[Server]) -> Vec<String> {
    let column = |n: usize, what: &dyn Fn(&Course, &Server) -> String| {
        courses
            .get(n)
            .zip(servers.get(n))
            .map_or_else(|| "-".to_owned(), |(course, server)| what(course, server))
    };
    let ratio = |course: &Course, _: &Server| format!("{:.4}", course.ratio());
    let items = |_: &Course, server: &Server| server.stat("curr_items").to_string();
    vec![
        name,
        column(0, &ratio),
        column(1, &ratio),
        column(0, &items),
        column(1, &items),
    ]
}

fn is_above(courses: &[Course]) -> bool {
    match courses {
        [ours, theirs] => ours.ratio() >= theirs.ratio(),
        _ => true,
    }
}

const COLUMNS: [&str; 5] = ["trace", "ibex-memcached", "memcached", "items", "its items"];

/// A recorded trace at several sizes of memory.
fn run_file(options: &Options, path: &Path) -> bool {
    let requests = recorded(path);
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    println!(
        "\n{name}, {} requests, the first third not counted",
        requests.len()
    );
    let mut rows = Rows::new(&COLUMNS);
    let mut is_well = true;
    for megabytes in RECORDED_MEGABYTES {
        let servers = start_all(megabytes, &[]);
        let courses = courses(&servers, &requests, 1, |_| None);
        is_well &= is_above(&courses);
        rows.push(row(format!("{name}, -m {megabytes}"), &courses, &servers));
    }
    rows.keep(options, "hit-ratio-recorded");
    is_well
}

pub(crate) fn run(options: &Options) -> bool {
    if let Some(path) = options.value("--recorded") {
        return run_file(options, Path::new(path));
    }
    println!("\nhit ratio at -m {MEGABYTES}, {REQUESTS} requests, the first third not counted");
    let mut rows = Rows::new(&COLUMNS);
    let mut change: Vec<Course> = Vec::new();
    let mut is_well = true;
    let is_slow = options.has("--hour");
    for trace in TRACES {
        if !options.takes(trace.name) || (is_slow && trace.name != CHANGE) {
            continue;
        }
        let servers = start_all(MEGABYTES, &[]);
        let requests: Vec<Request> = trace.requests().collect();
        let courses = courses(&servers, &requests, BATCH, |n| due(n, trace, is_slow));
        rows.push(row(trace.name.to_owned(), &courses, &servers));
        is_well &= is_above(&courses);
        if trace.name == CHANGE {
            change = courses;
        }
    }
    if !is_slow {
        rows.keep(options, "hit-ratio");
    }
    if change.len() == 2 {
        let mut rows = Rows::new(&["requests", "ibex-memcached", "memcached"]);
        for window in 0..WINDOWS {
            let end = ((window + 1) * REQUESTS / WINDOWS).to_string();
            let shares = change
                .iter()
                .map(|course| format!("{:.4}", course.share(window)));
            rows.push(std::iter::once(end).chain(shares).collect());
        }
        let name = if is_slow { "size-mix-hour" } else { "size-mix" };
        rows.keep(options, name);
    }
    is_well
}

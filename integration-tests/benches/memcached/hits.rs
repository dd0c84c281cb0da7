//! Hit ratios at equal `-m`: the same trace read through both servers over the wire.

use std::time::{Duration, Instant};

use ibex_memcached_proto::reply::Reply;

use crate::Options;
use crate::data::Rows;
use crate::servers::{Server, Talk, start_all, store};
use crate::traces::{CHANGE, REQUESTS, Request, TRACES, Trace};

const MEGABYTES: u32 = 64;
/// Reads on the way at once.
const BATCH: usize = 50;
/// Points of the course over time.
const WINDOWS: usize = 60;

/// Hits in each window of the trace.
struct Course {
    hits: Vec<u64>,
}

impl Course {
    /// The share of hits after the first third.
    fn ratio(&self) -> f64 {
        let counted = &self.hits[WINDOWS / 3..];
        counted.iter().sum::<u64>() as f64 / (REQUESTS / WINDOWS * counted.len()) as f64
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
fn read_through(server: &Server, trace: Trace, is_slow: bool) -> Course {
    let mut talk = Talk::new(server);
    let mut hits = vec![0; WINDOWS];
    let mut missed: Vec<Request> = Vec::new();
    let requests: Vec<Request> = trace.requests().collect();
    let start = Instant::now();
    for (n, batch) in requests.chunks(BATCH).enumerate() {
        if let Some(due) = due(n * BATCH, trace, is_slow) {
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
            assert!(matches!(reply, Reply::Stored), "{reply:?}");
            true
        });
        let (mut at, mut found) = (0, false);
        talk.receive(batch.len(), |reply| {
            if matches!(reply, Reply::Value(_)) {
                found = true;
                return false;
            }
            assert!(matches!(reply, Reply::End), "{reply:?}");
            if found {
                hits[(n * BATCH + at) * WINDOWS / REQUESTS] += 1;
            } else {
                missed.push(batch[at]);
            }
            (at, found) = (at + 1, false);
            true
        });
    }
    Course { hits }
}

pub(crate) fn run(options: &Options) -> bool {
    println!("\nhit ratio at -m {MEGABYTES}, {REQUESTS} requests, the first third not counted");
    let mut rows = Rows::new(&["trace", "ibex-memcached", "memcached", "items", "its items"]);
    let mut course: Vec<Vec<String>> = Vec::new();
    let mut is_above = true;
    let is_slow = options.has("--hour");
    for trace in TRACES {
        if !options.takes(trace.name) || (is_slow && trace.name != CHANGE) {
            continue;
        }
        let servers = start_all(MEGABYTES, &[]);
        // At the same time: what they answer does not depend on their speed.
        let courses: Vec<Course> = std::thread::scope(|scope| {
            let reading: Vec<_> = servers
                .iter()
                .map(|server| scope.spawn(move || read_through(server, trace, is_slow)))
                .collect();
            reading.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let column = |n: usize, what: &dyn Fn(&Course, &Server) -> String| {
            courses
                .get(n)
                .zip(servers.get(n))
                .map_or_else(|| "-".to_owned(), |(course, server)| what(course, server))
        };
        let ratio = |course: &Course, _: &Server| format!("{:.4}", course.ratio());
        let items = |_: &Course, server: &Server| server.stat("curr_items").to_string();
        rows.push(vec![
            trace.name.to_owned(),
            column(0, &ratio),
            column(1, &ratio),
            column(0, &items),
            column(1, &items),
        ]);
        if let [ours, theirs] = courses.as_slice() {
            is_above &= ours.ratio() >= theirs.ratio();
        }
        if trace.name == CHANGE {
            let share = |course: &Course, n: usize| {
                format!("{:.4}", course.hits[n] as f64 / (REQUESTS / WINDOWS) as f64)
            };
            course = (0..WINDOWS)
                .map(|n| {
                    let end = ((n + 1) * REQUESTS / WINDOWS).to_string();
                    let shares = courses.iter().map(|course| share(course, n));
                    std::iter::once(end).chain(shares).collect()
                })
                .collect();
        }
    }
    if !is_slow {
        rows.keep(options, "hit-ratio");
    }
    if course.first().is_some_and(|row| row.len() == 3) {
        let mut rows = Rows::new(&["requests", "ibex-memcached", "memcached"]);
        course.into_iter().for_each(|row| rows.push(row));
        let name = if is_slow { "size-mix-hour" } else { "size-mix" };
        rows.keep(options, name);
    }
    is_above
}

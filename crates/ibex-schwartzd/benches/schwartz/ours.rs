//! Our daemon under load, over HTTP.

use std::time::Duration;

use ibex_testkit::Daemon;
use serde_json::json;

use crate::http::{Http, together};
use crate::place::{Kind, Place};

/// Our daemon on a fresh place.
pub(crate) struct Ours<'s> {
    pub(crate) daemon: Daemon,
    pub(crate) place: Place<'s>,
}

impl<'s> Ours<'s> {
    pub(crate) fn start(kind: Kind<'s>) -> Option<Self> {
        Self::start_with(Place::new(kind)?, &[])
    }

    pub(crate) fn start_with(place: Place<'s>, settings: &[(&str, &str)]) -> Option<Self> {
        let builder = Daemon::builder("ibex-schwartzd")
            .set("store.url", &place.url())
            .set("shutdown.grace", "1s");
        let builder = settings
            .iter()
            .fold(builder, |builder, (key, value)| builder.set(key, value));
        let daemon = builder.start().unwrap();
        Some(Self { daemon, place })
    }

    pub(crate) fn connect(&self) -> Http {
        Http::new(self.daemon.addr("schwartz").unwrap())
    }

    fn connections(&self, count: usize) -> Vec<Http> {
        (0..count).map(|_| self.connect()).collect()
    }

    pub(crate) fn insert(self, connections: usize, list: usize, time: Duration) -> f64 {
        let body = bulk(list);
        let done = together(self.connections(connections), time, |http| {
            http.post("/v1/jobs", &body);
            list
        });
        self.daemon.stop().unwrap();
        done
    }

    /// Takes and finishes `max` at a time; `ready` jobs lie there before.
    pub(crate) fn work(self, connections: usize, max: usize, ready: usize, time: Duration) -> f64 {
        let mut http = self.connect();
        for _ in 0..ready / 1000 {
            http.post("/v1/jobs", &bulk(1000));
        }
        let done = together(self.connections(connections), time, |http| {
            take_and_finish(http, max, |_| {})
        });
        self.daemon.stop().unwrap();
        done
    }
}

/// One fetch and one finish of all it gave; `each` sees every job's handle. No exit status is kept: neither Perl's worker classes nor beanstalkd keep one.
///
/// The answers are searched and not parsed: a load maker shall leave the processors to what is measured.
pub(crate) fn take_and_finish(http: &mut Http, max: usize, mut each: impl FnMut(&str)) -> usize {
    let fetch = format!(r#"{{"funcs":["Bench"],"max":{max},"grab_for":600}}"#);
    let answer = String::from_utf8(http.post("/v1/fetch", &fetch)).unwrap();
    let mut results = String::from(r#"{"results":["#);
    let (mut rest, mut jobs) = (answer.as_str(), 0);
    while let Some((handle, after)) = field(rest, r#""handle":""#) {
        let (lease, after) = field(after, r#""lease":""#).unwrap();
        if jobs > 0 {
            results.push(',');
        }
        results.push_str(r#"{"op":"complete","keep_exit_status_for":0,"handle":""#);
        results.push_str(handle);
        results.push_str(r#"","lease":""#);
        results.push_str(lease);
        results.push_str(r#""}"#);
        each(handle);
        (rest, jobs) = (after, jobs + 1);
    }
    if jobs > 0 {
        results.push_str("]}");
        let answer = String::from_utf8(http.post("/v1/finish", &results)).unwrap();
        assert_eq!(answer.matches(r#""status":"ok""#).count(), jobs);
    }
    jobs
}

/// The text after a field's name, and what follows it.
fn field<'t>(text: &'t str, name: &str) -> Option<(&'t str, &'t str)> {
    let (_, rest) = text.split_once(name)?;
    rest.split_once('"')
}

/// The body of an insert of so many jobs with arguments of 100 bytes.
pub(crate) fn bulk(list: usize) -> String {
    let job = json!({ "func": "Bench", "arg": "x".repeat(100) });
    if list == 1 {
        return job.to_string();
    }
    json!({ "jobs": vec![job; list] }).to_string()
}

/// Statements of one row each, from so many connections at once: what the server's own group commit gives without any job queue.
pub(crate) fn bare_inserts(kind: Kind<'_>, connections: usize, time: Duration) -> Option<f64> {
    let place = Place::new(kind)?;
    place.make_classic();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = ibex_sql::Config::new(&place.url()).unwrap();
    let db = runtime.block_on(ibex_sql::Db::open(&config)).unwrap();
    let done = runtime.block_on(async {
        let start = std::time::Instant::now();
        let tasks: Vec<_> = (0..connections)
            .map(|_| {
                let db = db.clone();
                tokio::spawn(async move {
                    let mut done = 0;
                    while start.elapsed() < time {
                        let statement = "INSERT INTO job (funcid, arg, insert_time, run_after, grabbed_until) VALUES (1, ?, UNIX_TIMESTAMP(), UNIX_TIMESTAMP(), 0)";
                        db.execute(statement, ibex_sql::params!["x".repeat(100)])
                            .await
                            .unwrap();
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        let mut sum = 0;
        for task in tasks {
            sum += task.await.unwrap();
        }
        f64::from(sum) / start.elapsed().as_secs_f64()
    });
    runtime.block_on(db.close()).unwrap();
    Some(done)
}

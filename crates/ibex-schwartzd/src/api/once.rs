//! Inserts with an `Idempotency-Key`: a producer that got no answer asks again, and gets the answer of the first time.
//!
//! Apart from other inserts because the answer is written in the jobs' own transaction, so that a crash leaves both or neither.

use super::App;
use super::jobs::{JOBS_MAX, inserted_out, job_in};
use crate::http::{Refusal, Reply, body_bytes, parse, query_pairs, reply};
use ::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use ibex_schwartz::{Inserted, Job, Once};
use md5::{Digest as _, Md5};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The key a request brings.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(KEY) else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(text) if headers.get_all(KEY).iter().count() == 1 => Ok(Some(text.to_owned())),
        Ok(_) | Err(_) => Err(Refusal::bad_request(
            "there is one Idempotency-Key, of 1 to 255 printable characters",
        )),
    }
}

/// What a call asks for, read.
struct Asked {
    /// Each job, or why it is none.
    read: Vec<Result<Job, Value>>,
    is_list: bool,
    is_atomic: bool,
}

impl Asked {
    fn of(app: &App, mut body: Value, trace: Option<&str>, refuses: bool) -> Result<Self, Refusal> {
        if let Some(trace) = trace {
            crate::trace::give(&mut body, trace);
        }
        let is_atomic = body.get("atomic").and_then(Value::as_bool).unwrap_or(false);
        let bytes_max = app.arg_bytes_max();
        let list = match body.get_mut("jobs").map(Value::take) {
            None => {
                return Ok(Self {
                    read: vec![Ok(job_in(body, bytes_max)?)],
                    is_list: false,
                    is_atomic: refuses,
                });
            }
            Some(Value::Array(list)) if list.len() <= JOBS_MAX => list,
            Some(_) => {
                return Err(Refusal::bad_request(format!(
                    "jobs is a list of at most {JOBS_MAX}"
                )));
            }
        };
        let mut read = Vec::with_capacity(list.len());
        for (index, job) in list.into_iter().enumerate() {
            match job_in(job, bytes_max) {
                Ok(job) => read.push(Ok(job)),
                Err(refusal) if is_atomic => {
                    return Err(Refusal {
                        message: format!("job {index}: {}", refusal.message),
                        ..refusal
                    });
                }
                Err(refusal) => read.push(Err(refusal.to_json())),
            }
        }
        Ok(Self {
            read,
            is_list: true,
            is_atomic,
        })
    }
}

/// The answer to a call, from what became of its jobs: status and body.
fn answer(is_list: bool, refused: &[Option<Value>], outcomes: &[Inserted]) -> (u16, Value) {
    let mut outcomes = outcomes.iter();
    if !is_list {
        let inserted = outcomes.next();
        let status = match inserted {
            Some(Inserted::New(_)) => StatusCode::CREATED,
            Some(Inserted::Duplicate(_)) | None => StatusCode::OK,
        };
        return (status.as_u16(), inserted.map_or(Value::Null, inserted_out));
    }
    let jobs: Vec<Value> = refused
        .iter()
        .map(|refused| match refused {
            Some(error) => json!({ "error": error }),
            None => outcomes.next().map_or(Value::Null, inserted_out),
        })
        .collect();
    (StatusCode::CREATED.as_u16(), json!({ "jobs": jobs }))
}

impl App {
    pub(super) async fn insert_once(
        self: &Arc<Self>,
        key: &str,
        request: Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        if self.hub.closing.is_cancelled() {
            return Err(Refusal::shutting_down());
        }
        let started = Instant::now();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let refuses = match query_pairs(Some(&query))
            .get("on_duplicate")
            .map(String::as_str)
        {
            None => false,
            Some("error") => true,
            Some(_) => {
                return Err(Refusal::bad_request(
                    "with an Idempotency-Key, on_duplicate is error or nothing",
                ));
            }
        };
        let trace = crate::trace::of(request.headers());
        let bytes = body_bytes(request.into_body()).await?;
        let mut digest = Md5::new();
        digest.update(query.as_bytes());
        digest.update(b"\n");
        digest.update(&bytes);
        let digest: String = digest
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let asked = Asked::of(self, parse(&bytes)?, trace.as_deref(), refuses)?;
        let refused: Vec<Option<Value>> = asked
            .read
            .iter()
            .map(|one| one.as_ref().err().cloned())
            .collect();
        let jobs: Vec<Job> = asked.read.into_iter().filter_map(Result::ok).collect();
        let names: Vec<String> = jobs.iter().map(|job| job.funcname().to_owned()).collect();
        let is_list = asked.is_list;
        let words = move |outcomes: &[Inserted]| {
            let (status, body) = answer(is_list, &refused, outcomes);
            json!({ "status": status, "body": body }).to_string()
        };
        let once = self
            .client
            .insert_once(key, &digest, jobs, asked.is_atomic, words)
            .await?;
        self.metrics
            .insert_seconds
            .observe(started.elapsed().as_secs_f64());
        match once {
            Once::First(text, outcomes) => {
                for (func, outcome) in names.iter().zip(&outcomes) {
                    self.inserted(func, outcome);
                }
                again(&text)
            }
            Once::Again(text) => {
                self.metrics.repeats.inc();
                let mut reply = again(&text)?;
                reply
                    .headers_mut()
                    .insert(REPLAYED, HeaderValue::from_static("true"));
                Ok(reply)
            }
            Once::Other => Err(Refusal::new(
                StatusCode::CONFLICT,
                "conflict",
                "this Idempotency-Key was used for another call within a day",
            )),
        }
    }
}

/// A kept answer as a reply.
fn again(text: &str) -> Result<Reply, Refusal> {
    let kept: Option<Value> = serde_json::from_str(text).ok();
    let status = kept
        .as_ref()
        .and_then(|kept| kept.get("status")?.as_u64())
        .and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok());
    match (status, kept.as_ref().and_then(|kept| kept.get("body"))) {
        (Some(status), Some(body)) => Ok(reply(status, body)),
        _ => Err(Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the answer that is kept cannot be read",
        )),
    }
}

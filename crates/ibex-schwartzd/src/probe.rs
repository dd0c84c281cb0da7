//! Bytes of strangers through everything here that reads such, for the fuzzer and for the test that replays its corpus.
//!
//! Apart because it is no part of the daemon: it says what must hold for any bytes. A panic is the finding.

use crate::api::{argument_out, job_in, parse_handle};
use crate::held::Token;
use crate::http::{BODY_BYTES_MAX, JSON_DEPTH_MAX, gunzip, parse, query_pairs};
use serde_json::{Map, Value};

/// Bytes of an argument here.
const ARG_BYTES_MAX: usize = 64 * 1024;

fn levels(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(levels).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(levels).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn job(value: Value) {
    if let Ok(job) = job_in(value, ARG_BYTES_MAX) {
        assert!(job.check().is_ok(), "taken and not right");
        assert!(job.arg().len() <= ARG_BYTES_MAX, "larger than allowed");
        argument_out(job.arg(), &mut Map::new());
    }
}

/// Reads `data` as a body, packed and not, as an argument, a handle, a lease, a query and a trace.
#[doc(hidden)]
pub fn probe(data: &[u8]) {
    if let Ok(value) = parse(data) {
        assert!(levels(&value) <= JSON_DEPTH_MAX, "deeper than allowed");
        if let Some(Value::Array(list)) = value.get("jobs") {
            for one in list {
                job(one.clone());
            }
        }
        job(value);
    }
    if let Ok(unpacked) = gunzip(data) {
        assert!(unpacked.len() <= BODY_BYTES_MAX, "larger than allowed");
    }
    argument_out(data, &mut Map::new());
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(handle) = parse_handle(text) {
        assert_eq!(handle.to_string(), text, "two spellings of one handle");
    }
    if let Some(token) = Token::decode(text) {
        assert_eq!(token.encode(), text, "two spellings of one lease");
    }
    let pairs = query_pairs(Some(text));
    assert!(pairs.len() <= text.len(), "fields out of nothing");
    if let Ok(value) = text.parse() {
        let mut headers = http::HeaderMap::new();
        headers.insert("traceparent", value);
        if let Some(trace) = crate::trace::of(&headers) {
            assert!(trace.len() >= 55, "a trace of {} characters", trace.len());
        }
    }
}

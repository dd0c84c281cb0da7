//! W3C trace context: the `traceparent` of a request that inserts jobs becomes that of jobs that bring none, so that one id finds the whole path.
//!
//! Apart because it looks at headers and touches jobs as they were written, before they are read.

use http::HeaderMap;
use serde_json::Value;

/// The request's trace context, if it has one that is right: `version-trace-parent-flags` in lower-case hex, neither id all zeros.
pub(crate) fn of(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = text.split('-');
    let mut part = |length: usize| {
        parts.next().filter(|part| {
            part.len() == length
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        })
    };
    let (version, trace, parent, _flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    let is_zero = |id: &str| id.bytes().all(|byte| byte == b'0');
    let is_right = version != "ff" && !is_zero(trace) && !is_zero(parent);
    // Version 0 ends here; later ones may go on.
    (is_right && (version != "00" || parts.next().is_none())).then(|| text.to_owned())
}

/// Gives it to a job, or to each of a list, that brings none.
pub(crate) fn give(body: &mut Value, trace: &str) {
    let give_one = |job: &mut Value| {
        if let Some(job) = job.as_object_mut()
            && job.get("trace").is_none_or(Value::is_null)
        {
            job.insert("trace".to_owned(), trace.into());
        }
    };
    match body.get_mut("jobs") {
        Some(Value::Array(jobs)) => jobs.iter_mut().for_each(give_one),
        Some(_) => {}
        None => give_one(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const RIGHT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn only_a_right_context_is_taken() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", text.parse().unwrap());
            super::of(&headers)
        };
        assert_eq!(of(RIGHT).as_deref(), Some(RIGHT));
        let later = format!("01{}-more", RIGHT.get(2..).unwrap());
        assert_eq!(of(&later).as_deref(), Some(later.as_str()));
        for wrong in [
            "",
            "00",
            &format!("{RIGHT}-more"),
            &format!("ff{}", RIGHT.get(2..).unwrap()),
            &RIGHT.to_uppercase(),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn jobs_keep_their_own() {
        let mut one = json!({"func": "f"});
        give(&mut one, "t");
        assert_eq!(one["trace"], "t");
        let mut list =
            json!({"jobs": [{"func": "f", "trace": "own"}, {"func": "g", "trace": null}, 5]});
        give(&mut list, "t");
        assert_eq!(
            list,
            json!({"jobs": [{"func": "f", "trace": "own"}, {"func": "g", "trace": "t"}, 5]})
        );
    }
}

//! A job as the daemon reads it.
//!
//! Apart because it is the whole list of what a job can ask for, in the words of `docs/schwartz/protocol.md`.

use crate::job::{Job, When};
use crate::options::{Merge, OnDeath, OnFail, Options, Parent, Unique, UniqueBy};
use crate::policy::Backoff;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Bytes as the JSON they are, else as text.
pub(super) fn json_or_text(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|_| String::from_utf8_lossy(bytes).into_owned().into())
}

/// `arg` as it goes over the wire.
pub(super) fn out(job: &Job, arg: &[u8]) -> Value {
    let mut out = json!({ "func": job.funcname, "arg_b64": STANDARD.encode(arg) });
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            out[name] = value;
        }
    };
    put("uniqkey", job.uniqkey.clone().into());
    put("coalesce", job.coalesce.clone().into());
    put("priority", job.priority.into());
    match job.run_after {
        When::Now => {}
        When::In(seconds) => put("delay", seconds.into()),
        When::At(epoch) => put("run_after", epoch.into()),
    }
    if let Some(options) = &job.options {
        wide(options, &mut put);
    }
    out
}

fn wide(options: &Options, put: &mut impl FnMut(&str, Value)) {
    if let Some(limit) = &options.concurrency {
        let on_fail = match limit.on_fail {
            OnFail::Block => "block",
            OnFail::Skip => "skip",
        };
        put(
            "concurrency",
            json!({ "key": limit.key, "limit": limit.limit, "on_fail": on_fail }),
        );
    }
    if let Some(rate) = &options.rate {
        put(
            "rate",
            json!({ "key": rate.key, "n": rate.jobs, "per": rate.per }),
        );
    }
    if let Some(unique) = &options.unique {
        put("unique", window(unique));
    }
    if let Some(merge) = options.merge {
        let word = match merge {
            Merge::Append => "append",
            Merge::Last => "last",
            Merge::MaxDelay => "max_delay",
        };
        put("coalesce_merge", word.into());
    }
    if !options.parents.is_empty() {
        let parents: Vec<Value> = options.parents.iter().map(parent).collect();
        put("depends_on", parents.into());
    }
    put(
        "batch",
        options.batch.as_ref().map(ToString::to_string).into(),
    );
    put("expires_in", options.expires_in.into());
    put("max_attempts", options.max_attempts.into());
    put(
        "meta",
        options.meta.as_deref().map_or(Value::Null, json_or_text),
    );
    put("trace", options.trace.clone().into());
    put(
        "backoff",
        match &options.backoff {
            None => Value::Null,
            Some(Backoff::Steps(steps)) => steps.clone().into(),
            Some(Backoff::Doubling { first, most }) => json!({ "first": first, "most": most }),
        },
    );
    put("timeout_s", options.timeout_s.into());
    put("keep_exit_status_for", options.keep.into());
    if let Some(tenant) = &options.tenant {
        put("tenant", json!({ "key": tenant.key, "cost": tenant.cost }));
    }
    if !options.tags.is_empty() {
        put("tags", options.tags.clone().into());
    }
}

fn parent((parent, on_death): &(Parent, OnDeath)) -> Value {
    let name = match parent {
        Parent::Job(handle) => handle.to_string(),
        Parent::InList(index) => format!("#{index}"),
    };
    let on_death = match on_death {
        OnDeath::Cancel => "cancel",
        OnDeath::Run => "run",
    };
    json!({ "job": name, "on_death": on_death })
}

fn window(unique: &Unique) -> Value {
    let by = match &unique.by {
        UniqueBy::Func => "func".into(),
        UniqueBy::Arg => "args".into(),
        UniqueBy::Fields(fields) => fields.clone().into(),
        UniqueBy::Key(key) => json!({ "key": key }),
    };
    let states = [
        ("pending", unique.pending),
        ("grabbed", unique.grabbed),
        ("completed", unique.completed),
    ];
    let states: Vec<&str> = states
        .iter()
        .filter(|(_, counts)| *counts)
        .map(|(state, _)| *state)
        .collect();
    let mut out = json!({ "by": by, "states": states });
    if unique.window > 0 {
        out["for"] = unique.window.into();
    }
    out
}

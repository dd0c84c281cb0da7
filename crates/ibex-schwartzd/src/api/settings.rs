//! Settings of functions: read, replaced, shown.
//!
//! Apart because they are kept in the databases and hold for every program of ours on them, not for this daemon alone.

use super::App;
use super::wide::{BackoffIn, backoff_out};
use crate::http::{Refusal, Reply, json_body, ok};
use ::http::Request;
use hyper::body::Incoming;
use ibex_schwartz::FuncSettings;
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Debug, Deserialize)]
struct SettingsIn {
    max_running: Option<u32>,
    rate: Option<RateIn>,
    weight: Option<u32>,
    max_attempts: Option<u32>,
    dead_func: Option<String>,
    retain_failed: Option<u64>,
    retain_completed: Option<u64>,
    retain_cancelled: Option<u64>,
    backoff: Option<BackoffIn>,
    timeout_s: Option<u64>,
    keep_exit_status_for: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct RateIn {
    n: u32,
    per: u64,
}

/// Those that were given.
pub(super) fn settings_out(settings: &FuncSettings) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            out.insert(name.to_owned(), value);
        }
    };
    put("max_running", settings.max_running.into());
    put(
        "rate",
        settings
            .rate
            .map_or(Value::Null, |(n, per)| json!({ "n": n, "per": per })),
    );
    put("weight", settings.weight.into());
    put("max_attempts", settings.max_attempts.into());
    put("dead_func", settings.dead_func.clone().into());
    put("retain_failed", settings.retain_failed.into());
    put("retain_completed", settings.retain_completed.into());
    put("retain_cancelled", settings.retain_cancelled.into());
    put(
        "backoff",
        settings.backoff.as_ref().map_or(Value::Null, backoff_out),
    );
    put("timeout_s", settings.timeout_s.into());
    put("keep_exit_status_for", settings.keep_exit_status_for.into());
    Value::Object(out)
}

impl App {
    pub(super) async fn func_get(&self, func: &str) -> Result<Reply, Refusal> {
        let settings = self.client.func_settings(func).await?;
        Ok(ok(
            &json!({ "func": func, "settings": settings_out(&settings) }),
        ))
    }

    pub(super) async fn func_put(
        &self,
        func: &str,
        request: Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        let asked: SettingsIn = serde_json::from_value(json_body(request.into_body()).await?)
            .map_err(|error| Refusal::bad_request(error.to_string()))?;
        let settings = FuncSettings {
            max_running: asked.max_running,
            rate: asked.rate.map(|rate| (rate.n, rate.per)),
            weight: asked.weight,
            max_attempts: asked.max_attempts,
            dead_func: asked.dead_func,
            retain_failed: asked.retain_failed,
            retain_completed: asked.retain_completed,
            retain_cancelled: asked.retain_cancelled,
            backoff: asked.backoff.map(Into::into),
            timeout_s: asked.timeout_s,
            keep_exit_status_for: asked.keep_exit_status_for,
        };
        self.client.set_func(func, &settings).await?;
        tracing::info!(func, ?settings, "settings of a function");
        self.hub.tick();
        self.func_get(func).await
    }
}

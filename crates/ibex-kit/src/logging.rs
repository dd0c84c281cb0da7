//! Logging: `tracing` events to stderr as text, JSON, or to the journal.
//!
//! Owns the one subscriber of the process: its formats, the live level filter, the counts by level, the ring of recent
//! warnings for the status page, and the rate limit for events that strangers can cause (those with a `peer` field).
//! Files and rotation are the supervisor's business.

use std::collections::{BTreeMap, VecDeque};
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::about::About;
use crate::config::common::{LogConfig, LogFormat};
use crate::lock;

/// Messages of one call site with a `peer` in one second before the rest is only counted.
const PEER_MESSAGES_PER_SECOND: u64 = 10;
/// Recent warnings and errors kept for the status page.
const RECENT_MAX: usize = 200;

static COUNTS: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];
static RECENT: Mutex<VecDeque<Recent>> = Mutex::new(VecDeque::new());
static LIMITS: Mutex<BTreeMap<usize, Site>> = Mutex::new(BTreeMap::new());
static FILTER: OnceLock<Filter> = OnceLock::new();

/// A recent WARN or ERROR.
#[derive(Debug, Clone)]
pub(crate) struct Recent {
    pub(crate) time: String,
    pub(crate) level: &'static str,
    pub(crate) text: String,
}

/// How often a call site spoke in the current second.
#[derive(Debug)]
struct Site {
    since: Instant,
    count: u64,
    suppressed: u64,
    place: String,
}

type FilterHandle = tracing_subscriber::reload::Handle<Targets, tracing_subscriber::Registry>;

struct Filter {
    handle: FilterHandle,
    text: Mutex<String>,
}

const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

fn level_index(level: Level) -> usize {
    match level {
        Level::ERROR => 0,
        Level::WARN => 1,
        Level::INFO => 2,
        Level::DEBUG => 3,
        Level::TRACE => 4,
    }
}

/// Messages so far by level.
pub(crate) fn counts() -> Vec<(&'static str, u64)> {
    LEVELS
        .iter()
        .zip(&COUNTS)
        .map(|(level, count)| (*level, count.load(Ordering::Relaxed)))
        .collect()
}

/// Recent warnings and errors, newest last.
pub(crate) fn recent() -> Vec<Recent> {
    lock(&RECENT).iter().cloned().collect()
}

/// The level filter in force.
pub(crate) fn level() -> String {
    FILTER
        .get()
        .map_or_else(|| "info".to_owned(), |filter| lock(&filter.text).clone())
}

/// Reads a filter: levels and `target=level`, separated by commas. A bare word that is no level is refused, because
/// it would switch everything else off.
pub(crate) fn parse_filter(text: &str) -> Result<Targets, String> {
    let wrong = |part: &str| {
        format!("{part:?} is not a level (error, warn, info, debug, trace, off) nor target=level")
    };
    for part in text.split(',').map(str::trim) {
        let level = part.split_once('=').map_or(part, |(_, level)| level);
        if level
            .parse::<tracing_subscriber::filter::LevelFilter>()
            .is_err()
            || level.is_empty()
        {
            return Err(wrong(part));
        }
    }
    text.parse().map_err(|_| wrong(text))
}

/// Changes the level filter at once.
pub(crate) fn set_level(text: &str) -> Result<(), String> {
    let targets = parse_filter(text)?;
    let Some(filter) = FILTER.get() else {
        return Err("logging is not started".to_owned());
    };
    filter
        .handle
        .reload(targets)
        .map_err(|error| error.to_string())?;
    text.clone_into(&mut lock(&filter.text));
    Ok(())
}

/// Starts logging; only the first call of a process counts.
pub(crate) fn start(about: &About, node: &str, config: &LogConfig) -> Result<(), String> {
    let targets = parse_filter(&config.level)?;
    let (layer, handle) = tracing_subscriber::reload::Layer::new(targets);
    let (sink, note) = Sink::choose(about, config.format);
    let output = Output {
        sink,
        node: node.to_owned(),
    };
    let started = tracing_subscriber::registry()
        .with(layer)
        .with(output)
        .try_init()
        .is_ok();
    if started
        && FILTER
            .set(Filter {
                handle,
                text: Mutex::new(config.level.clone()),
            })
            .is_err()
    {
        return Err("logging is started already".to_owned());
    }
    if let Some(note) = note {
        tracing::warn!("{note}");
    }
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// A panic becomes one record of the log, in the log's own format.
fn log_panic(info: &std::panic::PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("no message");
    let place = info
        .location()
        .map_or_else(|| "unknown".to_owned(), ToString::to_string);
    let thread = std::thread::current()
        .name()
        .unwrap_or("unnamed")
        .to_owned();
    let backtrace = std::backtrace::Backtrace::capture();
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        tracing::error!(place, thread, backtrace = %backtrace, "panic: {message}");
    } else {
        tracing::error!(place, thread, "panic: {message}");
    }
}

enum Sink {
    /// With colours on a terminal.
    Text {
        colour: bool,
    },
    /// Text with the priority systemd reads: `<4>`.
    Prefixed,
    Json,
    Journald(tracing_journald::Layer),
}

impl Sink {
    fn choose(about: &About, format: LogFormat) -> (Self, Option<&'static str>) {
        let plain = || Self::Text {
            colour: std::io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        match format {
            LogFormat::Json => (Self::Json, None),
            LogFormat::Text => (plain(), None),
            LogFormat::Auto if !stderr_is_journal() => (plain(), None),
            LogFormat::Journald | LogFormat::Auto => match tracing_journald::layer() {
                Ok(layer) => (
                    Self::Journald(layer.with_syslog_identifier(about.name.to_owned())),
                    None,
                ),
                Err(_) if stderr_is_journal() => (
                    Self::Prefixed,
                    Some("journal socket refused, logging text with priorities"),
                ),
                Err(_) => (plain(), Some("journal socket refused, logging text")),
            },
        }
    }
}

/// Whether fd 2 is the journal's stream: `$JOURNAL_STREAM` names its device and inode.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let Ok(metadata) = std::fs::metadata("/proc/self/fd/2") else {
        return false;
    };
    stream == format!("{}:{}", metadata.dev(), metadata.ino())
}

struct Output {
    sink: Sink,
    node: String,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Output {
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        id: &tracing::span::Id,
        context: Context<'_, S>,
    ) {
        if let Sink::Journald(journal) = &self.sink {
            journal.on_new_span(attributes, id, context);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        if let Some(count) = COUNTS.get(level_index(*metadata.level())) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if !admitted(metadata) {
            return;
        }
        let fields = Fields::of(event);
        if *metadata.level() <= Level::WARN {
            remember(metadata, &fields);
        }
        let line = match &self.sink {
            Sink::Journald(journal) => return journal.on_event(event, context),
            Sink::Text { colour } => text_line(metadata, &fields, *colour),
            Sink::Prefixed => format!(
                "<{}>{}",
                priority(*metadata.level()),
                body(metadata, &fields)
            ),
            Sink::Json => json_line(metadata, &fields, &self.node),
        };
        // Nobody could be told that stderr is gone.
        let _ignored = std::io::stderr()
            .lock()
            .write_all((line + "\n").as_bytes())
            .is_ok();
    }
}

/// The rate limit: an event with a `peer` can be caused by strangers.
fn admitted(metadata: &Metadata<'_>) -> bool {
    if *metadata.level() > Level::INFO || metadata.fields().field("peer").is_none() {
        return true;
    }
    let now = Instant::now();
    let mut sites = lock(&LIMITS);
    let key = std::ptr::from_ref(metadata).addr();
    let site = sites.entry(key).or_insert_with(|| {
        let place = format!(
            "{}:{}",
            metadata.file().unwrap_or("unknown"),
            metadata.line().unwrap_or(0)
        );
        Site {
            since: now,
            count: 0,
            suppressed: 0,
            place,
        }
    });
    if now.duration_since(site.since) >= Duration::from_secs(1) {
        site.since = now;
        site.count = 0;
    }
    site.count += 1;
    let admitted = site.count <= PEER_MESSAGES_PER_SECOND;
    site.suppressed += u64::from(!admitted);
    admitted
}

/// Tells what was suppressed since the last call; the kit calls it once a second.
pub(crate) fn tell_suppressed() {
    let told: Vec<(String, u64)> = {
        let mut sites = lock(&LIMITS);
        sites
            .values_mut()
            .filter(|site| site.suppressed > 0)
            .map(|site| (site.place.clone(), std::mem::take(&mut site.suppressed)))
            .collect()
    };
    for (place, suppressed) in told {
        tracing::warn!(suppressed, place, "messages suppressed");
    }
}

/// The fields of an event: the message, and the rest in order.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    rest: Vec<(&'static str, serde_json::Value)>,
}

impl Fields {
    fn of(event: &Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        fields
    }

    fn put(&mut self, field: &Field, value: serde_json::Value) {
        if field.name() == "message" {
            self.message = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
        } else {
            self.rest.push((field.name(), value));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

/// RFC 3339, UTC, microseconds.
fn timestamp() -> String {
    let now = jiff::Timestamp::now();
    format!("{now:.6}")
}

/// A field's text: quoted when it would be ambiguous; never more than one line.
fn shown(value: &serde_json::Value) -> String {
    let odd = |c: char| c.is_whitespace() || c == '"' || c == '=' || c.is_control();
    let plain = value
        .as_str()
        .filter(|text| !text.is_empty() && !text.contains(odd));
    plain.map_or_else(|| value.to_string(), str::to_owned)
}

fn one_line(text: &str) -> String {
    if text.contains(|c: char| c.is_control()) {
        text.escape_debug().to_string()
    } else {
        text.to_owned()
    }
}

fn body(metadata: &Metadata<'_>, fields: &Fields) -> String {
    let mut text = format!("{}: {}", metadata.target(), one_line(&fields.message));
    for (name, value) in &fields.rest {
        put!(text, " {name}={}", shown(value));
    }
    text
}

fn text_line(metadata: &Metadata<'_>, fields: &Fields, colour: bool) -> String {
    let level = *metadata.level();
    let (on, off) = match (colour, level_index(level)) {
        (false, _) => ("", ""),
        (true, 0) => ("\x1b[31m", "\x1b[0m"),
        (true, 1) => ("\x1b[33m", "\x1b[0m"),
        (true, 2) => ("\x1b[32m", "\x1b[0m"),
        (true, _) => ("\x1b[2m", "\x1b[0m"),
    };
    format!(
        "{} {on}{level:>5}{off} {}",
        timestamp(),
        body(metadata, fields)
    )
}

fn json_line(metadata: &Metadata<'_>, fields: &Fields, node: &str) -> String {
    let mut object = serde_json::Map::new();
    object.insert("ts".to_owned(), timestamp().into());
    object.insert(
        "level".to_owned(),
        LEVELS
            .get(level_index(*metadata.level()))
            .copied()
            .unwrap_or("info")
            .into(),
    );
    object.insert("target".to_owned(), metadata.target().into());
    object.insert("msg".to_owned(), fields.message.clone().into());
    object.insert("node".to_owned(), node.into());
    for (name, value) in &fields.rest {
        object.insert((*name).to_owned(), value.clone());
    }
    serde_json::Value::Object(object).to_string()
}

/// Syslog priorities.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

fn remember(metadata: &Metadata<'_>, fields: &Fields) {
    let level = LEVELS
        .get(level_index(*metadata.level()))
        .copied()
        .unwrap_or("warn");
    let mut recent = lock(&RECENT);
    if recent.len() >= RECENT_MAX {
        recent.pop_front();
    }
    recent.push_back(Recent {
        time: timestamp(),
        level,
        text: body(metadata, fields),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for good in [
            "info",
            "INFO",
            "off",
            "info,ibex_gearmand=debug",
            "warn, hyper=off",
        ] {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        for bad in ["", "loud", "info,hyper", "hyper=loud", "info,,debug", "="] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_are_one_word_or_quoted() {
        let shown = |text: &str| shown(&serde_json::Value::from(text));
        assert_eq!(
            [shown("a-b"), shown("a b"), shown(""), shown("a\nb")],
            ["a-b", "\"a b\"", "\"\"", "\"a\\nb\""]
        );
        assert_eq!(one_line("a\nb"), "a\\nb");
    }
}

//! Logging: `tracing` events to stderr as text, JSON, or to the journal.
//!
//! Owns the one subscriber of the process: its formats, the live level filter, the counts by level, the ring of recent
//! warnings for the status page. The rate limit and the look of a line are modules beside it.
//! Files and rotation are the supervisor's business.

mod format;
mod limit;

pub(crate) use limit::tell_suppressed;

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use format::{Fields, body, json_line, priority, text_line, timestamp};
use limit::admitted;

use crate::about::About;
use crate::config::common::{LogConfig, LogFormat};
use crate::lock;

/// Recent warnings and errors kept for the status page.
const RECENT_MAX: usize = 200;

static COUNTS: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];
static RECENT: Mutex<VecDeque<Recent>> = Mutex::new(VecDeque::new());
static FILTER: OnceLock<Filter> = OnceLock::new();

/// A recent WARN or ERROR.
#[derive(Debug, Clone)]
pub(crate) struct Recent {
    pub(crate) time: String,
    pub(crate) level: &'static str,
    pub(crate) text: String,
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
}

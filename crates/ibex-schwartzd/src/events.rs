//! What happens to jobs, told to whoever listens now: a line per event, nothing kept.
//!
//! Apart because nobody may be slowed down by a listener: each has a bounded place in one ring, and who is too slow is told how many he missed.

use ibex_schwartz::Handle;
use serde_json::json;
use tokio::sync::broadcast;

/// Events a listener may be behind.
const EVENTS_WAITING_MAX: usize = 4096;

/// What happened.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) kind: &'static str,
    pub(crate) func: String,
    handle: String,
}

impl Event {
    /// As the event stream has it.
    pub(crate) fn to_text(&self) -> String {
        let data = json!({ "func": self.func, "handle": self.handle });
        format!("event: {}\ndata: {data}\n\n", self.kind)
    }
}

/// The ring.
#[derive(Debug)]
pub(crate) struct Events(broadcast::Sender<Event>);

impl Events {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(EVENTS_WAITING_MAX))
    }

    /// Tells those who listen; costs nothing when nobody does.
    pub(crate) fn tell(&self, kind: &'static str, func: &str, handle: &Handle) {
        if self.0.receiver_count() > 0 {
            let event = Event {
                kind,
                func: func.to_owned(),
                handle: handle.to_string(),
            };
            // The last listener may have gone this very moment.
            drop(self.0.send(event));
        }
    }

    /// How many listen.
    pub(crate) fn count(&self) -> usize {
        self.0.receiver_count()
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}

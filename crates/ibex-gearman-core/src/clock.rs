//! The two clocks: instants, by which everything is timed, and the wall clock, by which jobs are scheduled; what is due by the latter.

use std::time::{Duration, Instant};

use crate::job::State;
use crate::server::JobServer;

/// A day: how far ahead a timer is set for times that no `Instant` can say.
const FAR: Duration = Duration::from_secs(86_400);

impl JobServer {
    /// Microseconds of this server's life.
    pub(crate) fn life_us(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.begun).as_micros()).unwrap_or(u64::MAX)
    }

    /// The wall clock at `now`.
    pub(crate) fn wall_ms(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.wall.0);
        self.wall
            .1
            .saturating_add(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn instant_of(&self, wall_ms: u64) -> Instant {
        let ahead = Duration::from_millis(wall_ms.saturating_sub(self.wall.1));
        // A time beyond what an Instant can say is looked at again in a day.
        self.wall.0.checked_add(ahead).unwrap_or(self.wall.0 + FAR)
    }

    /// Puts scheduled jobs whose time has come into their queues, and submits what recurs now.
    pub(crate) fn release_scheduled(&mut self, now: Instant) {
        let wall_ms = self.wall_ms(now);
        while let Some((due_ms, job)) = self.schedule.first().copied() {
            if due_ms > wall_ms {
                break;
            }
            let index = self.jobs.index_of(job).expect("scheduled jobs exist");
            debug_assert_eq!(self.jobs.get(index).state, State::Scheduled);
            self.leave(index);
            self.enter_queue(now, index, false);
        }
        self.release_recurring(now);
    }
}

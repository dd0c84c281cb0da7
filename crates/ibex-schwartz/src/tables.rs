//! Statements: table prefix, the database's clock, parameters.
//!
//! Apart so that every statement is written once for both engines. In a template `{p}` is the table prefix and `:now` the time in
//! whole seconds: the server's own clock for MySQL, read inside the statement; ours for SQLite, which never steps back within a
//! process.

use ibex_sql::{Engine, Value};
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the time of a SQLite database comes from; tests set it.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// The latest second ever given out.
    floor: AtomicU64,
    /// Seconds added to the system's clock.
    offset: AtomicU64,
    /// Stands still here when not 0.
    held: AtomicU64,
}

impl Clock {
    pub(crate) fn now(&self) -> u64 {
        let system = match self.held.load(Ordering::Relaxed) {
            0 => std::time::SystemTime::UNIX_EPOCH
                .elapsed()
                .map_or(0, |since| since.as_secs()),
            held => held,
        };
        let now = system + self.offset.load(Ordering::Relaxed);
        now.max(self.floor.fetch_max(now, Ordering::Relaxed))
    }

    pub(crate) fn hold(&self, epoch: u64) {
        self.held.store(epoch, Ordering::Relaxed);
        self.floor.store(0, Ordering::Relaxed);
    }

    pub(crate) fn advance(&self, seconds: u64) {
        self.offset.fetch_add(seconds, Ordering::Relaxed);
    }
}

/// A statement ready for one engine.
pub(crate) fn fill(
    template: &str,
    params: Vec<Value>,
    prefix: &str,
    engine: Engine,
    now: u64,
) -> (String, Vec<Value>) {
    let mut sql = String::with_capacity(template.len() + 32);
    let mut bound = Vec::with_capacity(params.len() + 2);
    let mut params = params.into_iter();
    let mut rest = template;
    while let Some(at) = rest.find(['?', ':', '{']) {
        let (before, from) = rest.split_at(at);
        sql.push_str(before);
        if let Some(after) = from.strip_prefix(":now") {
            match engine {
                Engine::Sqlite => {
                    sql.push('?');
                    bound.push(Value::from(now));
                }
                Engine::MySql => sql.push_str("UNIX_TIMESTAMP()"),
            }
            rest = after;
        } else if let Some(after) = from.strip_prefix("{p}") {
            sql.push_str(prefix);
            rest = after;
        } else {
            if from.starts_with('?') {
                bound.extend(params.next());
            }
            let (one, after) = from.split_at(1);
            sql.push_str(one);
            rest = after;
        }
    }
    sql.push_str(rest);
    bound.extend(params);
    (sql, bound)
}

/// `?, ?, ?` for a list of `count`.
pub(crate) fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// Marks and values for `IN (…)`, padded to a power of two by repeating the first, so that few different statements have to be prepared.
pub(crate) fn id_list(ids: &[u64]) -> (String, Vec<Value>) {
    let mut values: Vec<Value> = ids.iter().map(|id| Value::from(*id)).collect();
    if let Some(first) = values.first().cloned() {
        values.resize(ids.len().next_power_of_two(), first);
    }
    (marks(values.len()), values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ibex_sql::params;

    #[test]
    fn the_clock_goes_where_the_engine_wants_it() {
        let template =
            "UPDATE {p}job SET run_after = :now + ? WHERE jobid = ? AND grabbed_until <= :now";
        let (sql, bound) = fill(template, params![5, 7], "sch_", Engine::Sqlite, 100);
        assert_eq!(
            sql,
            "UPDATE sch_job SET run_after = ? + ? WHERE jobid = ? AND grabbed_until <= ?"
        );
        assert_eq!(bound, params![100, 5, 7, 100]);
        let (sql, bound) = fill(template, params![5, 7], "", Engine::MySql, 100);
        assert_eq!(
            sql,
            "UPDATE job SET run_after = UNIX_TIMESTAMP() + ? WHERE jobid = ? AND grabbed_until <= UNIX_TIMESTAMP()"
        );
        assert_eq!(bound, params![5, 7]);
    }

    #[test]
    fn the_clock_never_steps_back() {
        let clock = Clock::default();
        let first = clock.now();
        clock.advance(50);
        assert!(clock.now() >= first + 50);
        clock.offset.store(0, Ordering::Relaxed);
        assert!(clock.now() >= first + 50);
    }
}

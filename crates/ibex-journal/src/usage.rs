//! Last update times in the global database: a derived index, written by a coalescing flusher.
//!
//! Apart because a posting request must not write to the global database (spec/journal.md §1). The authoritative time is the
//! newest row of the journal itself; `ibex-journal admin rebuild-usage` makes the index anew.

use crate::app::App;
use crate::error::Result;
use ibex_cluster::{BoxFuture, UserId};
use ibex_sql::{Tx, params};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Updates that wait, one for each user however often he posted.
#[derive(Debug, Default)]
pub struct Pending {
    updates: Mutex<HashMap<UserId, (i64, i64)>>,
}

impl Pending {
    /// Notes that `user` posted at `time`; `public` if everybody may see it.
    pub fn note(&self, user: UserId, time: i64, is_public: bool) {
        let mut updates = self.updates.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = updates.entry(user).or_default();
        entry.0 = entry.0.max(time);
        if is_public {
            entry.1 = entry.1.max(time);
        }
    }

    fn take(&self) -> HashMap<UserId, (i64, i64)> {
        std::mem::take(&mut *self.updates.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes what waits, in one transaction; on failure it waits on.
///
/// # Errors
/// The global database's.
pub async fn flush(app: &App) -> Result<usize> {
    let updates = app.usage.take();
    if updates.is_empty() {
        return Ok(0);
    }
    let sql = app.cluster.global().engine().pick(
        "INSERT INTO userusage (userid, timeupdate, public) VALUES (?, ?, ?) ON CONFLICT (userid) DO UPDATE SET
            timeupdate = MAX(timeupdate, excluded.timeupdate), public = MAX(public, excluded.public)",
        "INSERT INTO userusage (userid, timeupdate, public) VALUES (?, ?, ?) ON DUPLICATE KEY UPDATE
            timeupdate = GREATEST(timeupdate, VALUES(timeupdate)), public = GREATEST(public, VALUES(public))",
    );
    let sets: Arc<Vec<_>> = Arc::new(
        updates
            .iter()
            .map(|(user, (time, public))| params![*user, *time, *public])
            .collect(),
    );
    let written = app
        .cluster
        .global()
        .write(
            move |tx: &mut Tx| -> BoxFuture<'_, Result<(), ibex_sql::Error>> {
                let sets = Arc::clone(&sets);
                Box::pin(async move {
                    tx.execute_each(sql, sets.to_vec()).await?;
                    Ok(())
                })
            },
        )
        .await;
    if let Err(error) = written {
        for (user, (time, public)) in &updates {
            app.usage.note(*user, *time, false);
            app.usage.note(*user, *public, *public > 0);
        }
        return Err(error.into());
    }
    Ok(updates.len())
}

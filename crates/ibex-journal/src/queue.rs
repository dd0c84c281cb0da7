//! Work that must happen: the job queue, TheSchwartz's tables in a database of their own or in the global one.
//!
//! Apart so that the site says `insert` and the worker says what the functions do.

use crate::app::Event;
use crate::config::Config;
use crate::error::{Error, Result};
use ibex_sql::Db;

/// Somebody commented: find out who wants to know.
pub const COMMENT: &str = "journal.comment";
/// Send one mail.
pub const MAIL: &str = "journal.mail";

/// The job queue.
#[derive(Debug)]
pub struct Queue {
    db: Db,
}

impl Queue {
    /// Opens the queue's database, or takes the global one.
    ///
    /// # Errors
    /// The database's.
    pub async fn open(config: &Config, global: &Db) -> Result<Self> {
        let db = if config.schwartz.dsn.is_empty() {
            global.clone()
        } else {
            let mut dsn = ibex_sql::Config::new(&config.schwartz.dsn)?;
            if !config.schwartz.password.is_empty() {
                dsn = dsn.with_password(config.schwartz.password.reveal());
            }
            Db::open(&dsn).await?
        };
        Ok(Self { db })
    }

    /// Queues a job, unless one of the same function and unique name is waiting.
    ///
    /// # Errors
    /// [`Error::Jobs`].
    #[expect(clippy::unused_async, reason = "the queue's library replaces the body")]
    pub async fn insert(&self, event: &Event) -> Result<()> {
        Err(Error::Jobs(format!("{}: no queue on {}", event.function, self.db.config())))
    }
}

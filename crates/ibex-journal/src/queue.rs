//! Work that must happen: the job queue, TheSchwartz's tables in a database of their own or in the global one.
//!
//! Apart so that the site says `insert` and the worker says what the functions do.

use crate::app::Event;
use crate::config::Config;
use crate::error::{Error, Result};
use ibex_schwartz::{Client, Job};
use ibex_sql::Db;
use std::time::Duration;

/// Somebody commented: find out who wants to know.
pub const COMMENT: &str = "journal.comment";
/// Send one mail.
pub const MAIL: &str = "journal.mail";
/// How long a queue's database that failed is left alone; the outbox keeps what could not be queued.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The job queue.
#[derive(Debug, Clone)]
pub struct Queue {
    client: Client,
}

impl Queue {
    /// Takes the queue's database, or the global one. The former need not be up.
    ///
    /// # Errors
    /// An address that makes no sense.
    pub async fn open(config: &Config, global: &Db) -> Result<Self> {
        let builder = Client::builder()
            .auto_init(config.db.migrate)
            .retry_after(RETRY_AFTER);
        let builder = if config.schwartz.dsn.is_empty() {
            builder.shared(global.clone())
        } else {
            builder.db(with_password(
                &config.schwartz.dsn,
                config.schwartz.password.reveal(),
            ))
        };
        Ok(Self {
            client: builder
                .build_lazy()
                .await
                .map_err(|error| Error::Invalid(format!("schwartz.dsn: {error}")))?,
        })
    }

    /// Queues a job, unless one of the same function and unique name is waiting.
    ///
    /// # Errors
    /// [`Error::Jobs`].
    pub async fn insert(&self, event: &Event) -> Result<()> {
        let job =
            Job::new(event.function.clone(), event.argument.clone()).uniqkey(event.unique.clone());
        self.client
            .insert(job)
            .await
            .map(drop)
            .map_err(|error| Error::Jobs(error.to_string()))
    }

    /// The client, for the worker.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }
}

/// Puts a password into a `mysql://user@host/db` that has none.
fn with_password(dsn: &str, password: &str) -> String {
    match (
        password,
        dsn.split_once("://")
            .and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?))),
    ) {
        (password, Some((scheme, (user, rest)))) if !password.is_empty() && !user.contains(':') => {
            let encoded =
                percent_encoding::utf8_percent_encode(password, percent_encoding::NON_ALPHANUMERIC);
            format!("{scheme}://{user}:{encoded}@{rest}")
        }
        _ => dsn.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::with_password;

    #[test]
    fn a_password_goes_where_none_is() {
        assert_eq!(with_password("mysql://u@h/d", "p@s"), "mysql://u:p%40s@h/d");
        assert_eq!(with_password("mysql://u:x@h/d", "p"), "mysql://u:x@h/d");
        assert_eq!(with_password("sqlite:a@b", "p"), "sqlite:a@b");
    }
}

//! How a client is made: addresses, prefix, what may be created, who listens.
//!
//! Apart because none of it is needed once the client is there.

use super::{Client, Inner, UniqueScope};
use crate::crypt::Keys;
use crate::database::{Database, Roles, Settings};
use crate::dsn::Address;
use crate::error::{Causes, Error};
use crate::hooks::Hooks;
use crate::schema::check_prefix;
use crate::stir::Stir;
use crate::tables::Clock;
use ibex_base::rng::Rng;
use ibex_sql::Db;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// A database that failed is left alone this long, as the original does.
const REST: Duration = Duration::from_secs(30);

/// How a client is made.
#[derive(Default)]
pub struct ClientBuilder {
    urls: Vec<(String, Roles)>,
    shared: Vec<Db>,
    prefix: String,
    secret: Option<String>,
    auto_init: Option<bool>,
    rest: Option<Duration>,
    unique_scope: UniqueScope,
    hooks: Vec<Arc<dyn Hooks>>,
    keys: Option<Keys>,
    seed: Option<u64>,
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Addresses may hold passwords.
        f.debug_struct("ClientBuilder")
            .field("databases", &(self.urls.len() + self.shared.len()))
            .finish_non_exhaustive()
    }
}

impl ClientBuilder {
    /// The password of every server whose URL has none.
    #[must_use]
    pub fn password(mut self, secret: impl Into<String>) -> Self {
        self.secret = Some(secret.into());
        self
    }

    /// A database by its URL; see [`ibex_sql::Config::new`] for the forms.
    #[must_use]
    pub fn db(self, url: impl Into<String>) -> Self {
        self.db_with_roles(url, Roles::default())
    }

    /// A database that takes only part of the work, for instance one that is being drained.
    #[must_use]
    pub fn db_with_roles(mut self, url: impl Into<String>, roles: Roles) -> Self {
        self.urls.push((url.into(), roles));
        self
    }

    /// A database the program has open already, so that jobs and its own rows can share a transaction.
    #[must_use]
    pub fn shared(mut self, db: Db) -> Self {
        self.shared.push(db);
        self
    }

    /// What the tables' names start with; empty by default.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Whether missing tables are made; by default only in SQLite files.
    #[must_use]
    pub fn auto_init(mut self, auto_init: bool) -> Self {
        self.auto_init = Some(auto_init);
        self
    }

    /// Where unique keys count; in all databases by default.
    #[must_use]
    pub fn unique_scope(mut self, scope: UniqueScope) -> Self {
        self.unique_scope = scope;
        self
    }

    /// Called around every insert of this client and every run of its workers; several are called in order.
    #[must_use]
    pub fn hook(mut self, hook: impl Hooks + 'static) -> Self {
        self.hooks.push(Arc::new(hook));
        self
    }

    /// Makes the order in which databases are tried repeat, for simulations.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Arguments are sealed with these keys in the rows, and opened for whoever has them. Jobs inserted before, or by programs without keys, are
    /// worked all the same.
    #[must_use]
    pub fn keys(mut self, keys: Keys) -> Self {
        self.keys = Some(keys);
        self
    }

    /// How long a database that failed is left alone; 30 seconds by default.
    #[must_use]
    pub fn retry_after(mut self, rest: Duration) -> Self {
        self.rest = Some(rest);
        self
    }

    /// Makes the client. Databases that do not answer now are rested and tried later; at least one must answer.
    ///
    /// # Errors
    /// [`Error::Config`] for addresses that make no sense, [`Error::NoDatabase`] when none answers.
    pub async fn build(self) -> Result<Client, Error> {
        let client = self.build_lazy().await?;
        let mut causes = Vec::new();
        for database in client.databases() {
            match database.judge(database.db().await.map(|_| ())) {
                Ok(()) => {}
                Err(Error::Sql(error)) => causes.push((database.address(), error)),
                Err(error) => return Err(error),
            }
        }
        if causes.len() == client.databases().len() {
            Err(Error::NoDatabase(Causes(causes)))
        } else {
            Ok(client)
        }
    }

    /// As [`ClientBuilder::build`], but asks no database yet except those that are open already.
    ///
    /// # Errors
    /// [`Error::Config`] for addresses that make no sense.
    pub async fn build_lazy(self) -> Result<Client, Error> {
        check_prefix(&self.prefix)?;
        let clock = Arc::new(Clock::default());
        let stir = Arc::new(Stir::default());
        let settings = Settings {
            prefix: Arc::from(self.prefix.as_str()),
            auto_init: self.auto_init,
            rest: self.rest.unwrap_or(REST),
            keys: self.keys,
        };
        let mut databases = Vec::new();
        for (url, roles) in &self.urls {
            let mut address = Address::parse(url)?;
            if let Some(secret) = self
                .secret
                .as_ref()
                .filter(|_| !address.config.has_password())
            {
                address.config = address.config.with_password(secret);
            }
            databases.push(Database::new(
                address,
                settings.clone(),
                *roles,
                Arc::clone(&clock),
                Arc::clone(&stir),
            ));
        }
        for db in self.shared {
            let database = Database::new(
                Address::of(db.config()),
                settings.clone(),
                Roles::default(),
                Arc::clone(&clock),
                Arc::clone(&stir),
            );
            database.adopt(db).await?;
            databases.push(database);
        }
        if databases.is_empty() {
            return Err(Error::Config(
                "a client needs at least one database".to_owned(),
            ));
        }
        let seed = self.seed.unwrap_or_else(|| {
            std::time::SystemTime::UNIX_EPOCH
                .elapsed()
                .map_or(1, |since| u64::from(since.subsec_nanos()))
                ^ u64::from(std::process::id())
        });
        Ok(Client {
            inner: Arc::new(Inner {
                databases,
                rng: Mutex::new(Rng::new(seed)),
                clock,
                inserted: Notify::new(),
                stir,
                unique_scope: self.unique_scope,
                hooks: self.hooks,
            }),
        })
    }
}

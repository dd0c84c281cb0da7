//! Inserts that a producer may repeat: the first answer is kept in the transaction of its jobs, and given again.
//!
//! Apart from keys of jobs, which say that work is pending: this says that a call was made, whatever became of its jobs since. What is kept is
//! the caller's own text, so that a repetition is answered word for word.

use crate::client::Client;
use crate::database::{Database, Work};
use crate::error::{Causes, Error};
use crate::handle::Handle;
use crate::insert::{self, Inserted};
use crate::job::{Job, name_is_short};
use crate::rendezvous;
use crate::wide::{Effects, Placed};
use ibex_sql::{Row, params};
use std::sync::Arc;

/// An answer is kept this long.
const KEPT_SECONDS: u64 = 86_400;

pub(crate) const SQLITE: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS {p}sz_once (k TEXT PRIMARY KEY NOT NULL, body TEXT NOT NULL, answer TEXT NOT NULL, until_at INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS {p}sz_once_until ON {p}sz_once (until_at)",
];
pub(crate) const MYSQL: [&str; 1] = [
    "CREATE TABLE IF NOT EXISTS {p}sz_once (k VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY, body VARCHAR(64) NOT NULL, \
     answer MEDIUMTEXT CHARACTER SET utf8mb4 NOT NULL, until_at BIGINT UNSIGNED NOT NULL, INDEX (until_at)) ENGINE=InnoDB",
];

/// What became of an insert that may be a repetition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Once {
    /// The jobs were inserted now; the answer that is kept, and each job's outcome.
    First(String, Vec<Inserted>),
    /// They were inserted before: the answer of then.
    Again(String),
    /// The key was used for something else within a day; nothing was written.
    Other,
}

/// The words of an answer to jobs.
type Words = Arc<dyn Fn(&[Inserted]) -> String + Send + Sync>;

/// One insert, as every database is asked for it.
#[derive(Clone)]
struct Asked {
    key: String,
    body: String,
    is_atomic: bool,
    words: Words,
}

impl Client {
    /// Inserts jobs once for a key of the producer: a repetition within a day, at whatever client of the databases and after whatever crash, inserts
    /// nothing and gets the first answer. `body` is a digest of what is asked for, `words` makes the answer. With `is_atomic` a pending key of a job
    /// refuses all, and nothing is kept of that. All jobs go to one database; a job's own key counts there.
    ///
    /// # Errors
    /// As [`Client::insert_all`], and [`Error::Config`] where our own tables are not allowed.
    pub async fn insert_once(
        &self,
        key: &str,
        body: &str,
        mut jobs: Vec<Job>,
        is_atomic: bool,
        words: impl Fn(&[Inserted]) -> String + Send + Sync + 'static,
    ) -> Result<Once, Error> {
        if key.is_empty() || !name_is_short(key) || key.chars().any(char::is_control) {
            return Err(Error::Invalid(
                "a key of an insert has 1 to 255 characters, none of them a control".to_owned(),
            ));
        }
        for hook in self.hooks() {
            for job in &mut jobs {
                hook.before_insert(job)?;
            }
        }
        let asked = Asked {
            key: key.to_owned(),
            body: body.to_owned(),
            is_atomic,
            words: Arc::new(words),
        };
        // Parents and batches say where their jobs go.
        let mut named = jobs.iter().filter_map(|job| job.options.as_ref());
        let home = match named.find_map(|options| options.handles().next().cloned()) {
            Some(handle) => Some(self.of(&handle)?.clone()),
            None => None,
        };
        let databases = match &home {
            Some(home) => vec![home.clone()],
            None => self.begin_at(key),
        };
        // While the first database of a key was away, another may have taken it.
        for database in databases.iter().skip(1) {
            match database.judge(database.kept_answer(&asked).await) {
                Ok(Some(kept)) => return Ok(kept),
                Ok(None) => {}
                Err(error) if error.is_database_down() => {}
                Err(error) => return Err(error),
            }
        }
        let mut causes = Vec::new();
        for database in databases
            .iter()
            .filter(|database| home.is_some() || database.roles().insert)
        {
            match database.judge(database.insert_once(&asked, &jobs).await) {
                Err(Error::Sql(error)) if crate::error::is_down(error.kind()) => {
                    causes.push((database.address(), error));
                }
                other => {
                    self.wake();
                    return other;
                }
            }
        }
        Err(Error::NoDatabase(Causes(causes)))
    }
}

impl Client {
    /// The databases in the order in which a key is tried; those that rest are left out while another lives.
    fn begin_at(&self, key: &str) -> Vec<Database> {
        let mut databases: Vec<Database> = self
            .databases()
            .iter()
            .filter(|database| database.admits())
            .cloned()
            .collect();
        if databases.is_empty() {
            databases = self.databases().to_vec();
        }
        rendezvous::sort(&mut databases, &[key]);
        databases
    }
}

impl Database {
    /// What is kept for a key here.
    async fn kept_answer(&self, asked: &Asked) -> Result<Option<Once>, Error> {
        self.need_side().await?;
        let rows = self
            .query(
                "SELECT body, answer FROM {p}sz_once WHERE k = ? AND until_at >= :now",
                params![&asked.key],
            )
            .await?;
        rows.first().map(|row| kept(row, asked)).transpose()
    }

    async fn insert_once(&self, asked: &Asked, jobs: &[Job]) -> Result<Once, Error> {
        let rows = insert::prepared(self, jobs).await?;
        let (scope, asked) = (self.scope(), asked.clone());
        let hash = self.hash().to_owned();
        let mut keys = Vec::with_capacity(jobs.len());
        for job in jobs {
            keys.push((self.funcid(&job.funcname).await?, job.uniqkey.clone()));
        }
        let (once, effects) = self
            .db()
            .await?
            .write(move |tx| {
                let (scope, rows, asked) = (scope.clone(), rows.clone(), asked.clone());
                let (hash, keys) = (hash.clone(), keys.clone());
                Box::pin(async move {
                    let mut work = scope.on(tx);
                    let mut effects = Effects::default();
                    if let Some(kept) = claim(&mut work, &asked).await? {
                        return Ok::<_, Error>((kept, effects));
                    }
                    let outcomes = if asked.is_atomic {
                        let ids = insert::insert_rows(&mut work, rows, &mut effects).await?;
                        ids.into_iter()
                            .map(|id| Inserted::New(Handle::new(&hash, id)))
                            .collect()
                    } else {
                        let placed = insert::insert_tolerant(&mut work, rows, &mut effects).await?;
                        outcomes(&mut work, &hash, placed, &keys).await?
                    };
                    let answer = (asked.words)(&outcomes);
                    work.execute(
                        "UPDATE {p}sz_once SET answer = ? WHERE k = ?",
                        params![&answer, &asked.key],
                    )
                    .await?;
                    Ok((Once::First(answer, outcomes), effects))
                })
            })
            .await?;
        self.tell(&effects).await;
        Ok(once)
    }

    /// One chunk of answers past their time.
    pub(crate) async fn clean_once(&self, rows_max: u32) -> Result<u64, Error> {
        let statement = self.engine().pick(
            "DELETE FROM {p}sz_once WHERE k IN (SELECT k FROM {p}sz_once WHERE until_at < :now LIMIT ?)",
            "DELETE FROM {p}sz_once WHERE until_at < :now LIMIT ?",
        );
        Ok(self
            .execute(statement, params![rows_max])
            .await?
            .rows_affected)
    }
}

/// What became of jobs, with the handles of those that were pending.
async fn outcomes(
    work: &mut Work<'_>,
    hash: &str,
    placed: Vec<Placed>,
    keys: &[(u32, Option<String>)],
) -> Result<Vec<Inserted>, Error> {
    let mut outcomes = Vec::with_capacity(placed.len());
    for (placed, (funcid, key)) in placed.into_iter().zip(keys) {
        outcomes.push(match placed {
            Placed::New(id) => Inserted::New(Handle::new(hash, id)),
            Placed::Taken(Some(id)) => Inserted::Duplicate(Some(Handle::new(hash, id))),
            Placed::Taken(None) => {
                let row = work
                    .query_one(
                        "SELECT jobid FROM {p}job WHERE funcid = ? AND uniqkey = ?",
                        params![*funcid, key.as_deref()],
                    )
                    .await?;
                let id = row.map(|row| row.get(0)).transpose()?;
                Inserted::Duplicate(id.map(|id| Handle::new(hash, id)))
            }
        });
    }
    Ok(outcomes)
}

/// Takes the key for this transaction; what is kept when another has it.
async fn claim(work: &mut Work<'_>, asked: &Asked) -> Result<Option<Once>, Error> {
    work.execute(
        "DELETE FROM {p}sz_once WHERE k = ? AND until_at < :now",
        params![&asked.key],
    )
    .await?;
    let ignore = work.engine().pick("OR IGNORE", "IGNORE");
    let done = work
        .execute(
            &format!("INSERT {ignore} INTO {{p}}sz_once (k, body, answer, until_at) VALUES (?, ?, '', :now + ?)"),
            params![&asked.key, &asked.body, KEPT_SECONDS],
        )
        .await?;
    if done.rows_affected == 1 {
        return Ok(None);
    }
    let row = work
        .query_one(
            "SELECT body, answer FROM {p}sz_once WHERE k = ?",
            params![&asked.key],
        )
        .await?;
    row.as_ref().map(|row| kept(row, asked)).transpose()
}

fn kept(row: &Row, asked: &Asked) -> Result<Once, Error> {
    if row.get::<String>(0)? == asked.body {
        Ok(Once::Again(row.get(1)?))
    } else {
        Ok(Once::Other)
    }
}

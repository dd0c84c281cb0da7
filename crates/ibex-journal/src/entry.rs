//! Entries: their rows, texts and properties; posting, editing, deleting; the newest of a journal.
//!
//! Apart from pages, which show them, and from `visibility`, which decides. Everything lives on the journal's cluster under
//! `(journalid, jitemid)`; the public number is `jitemid * 256 + anum`, so that addresses cannot be walked.

use crate::app::{App, Effects};
use crate::error::{Error, Result};
use crate::keys::Key;
use crate::visibility::Security;
use crate::{clock, keys, token};
use ibex_cluster::{BoxFuture, UserId, UserTx};
use ibex_sql::{Row, Tx, Value, params};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Newest entries of a journal that are kept as one cached list. A friends page looks no deeper into one journal.
pub const RECENT_MAX: u32 = 100;
/// Largest body, in letters and in bytes.
const BODY_LETTERS_MAX: usize = 300_000;
const BODY_BYTES_MAX: usize = 450_000;
/// Largest subject, in letters and in bytes.
const SUBJECT_LETTERS_MAX: usize = 100;
const SUBJECT_BYTES_MAX: usize = 255;
/// Largest tag and most tags of an entry.
const TAG_LETTERS_MAX: usize = 40;
const TAGS_MAX: usize = 100;
/// The largest time a row may carry; newest first is an ascending index on the rest to it.
const END_OF_TIME: i64 = 1 << 62;

/// The row of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EntryRow {
    /// Whose journal.
    pub journal: UserId,
    /// Its number there.
    pub jitemid: i64,
    /// Who wrote it.
    pub poster: UserId,
    /// The author's clock.
    pub eventtime: i64,
    /// The server's clock.
    pub logtime: i64,
    /// Who may see it.
    pub security: Security,
    /// Random part of the public number.
    pub anum: u8,
    /// Comments that count.
    pub replies: i64,
    /// Last change of the text; the log time if none.
    pub edited: i64,
}

impl EntryRow {
    /// The public number.
    #[must_use]
    pub fn ditemid(&self) -> i64 {
        self.jitemid * 256 + i64::from(self.anum)
    }
}

/// Splits a public number into number and random part.
#[must_use]
pub fn split_public(number: i64) -> (i64, u8) {
    (number >> 8, u8::try_from(number & 255).unwrap_or(0))
}

/// Text and properties of an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Text {
    /// May be empty.
    pub subject: String,
    /// As written.
    pub body: String,
    /// current_mood, current_music, current_location, editor, opt_nocomments, …
    pub props: BTreeMap<String, String>,
    /// In order.
    pub tags: Vec<String>,
}

impl Text {
    /// One property, empty if it is not set.
    #[must_use]
    pub fn prop(&self, name: &str) -> &str {
        self.props.get(name).map_or("", String::as_str)
    }
}

/// A whole entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its row.
    pub row: EntryRow,
    /// Its text.
    pub text: Text,
}

/// What an author says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// May be empty.
    pub subject: String,
    /// Not blank.
    pub body: String,
    /// Who may see it.
    pub security: Security,
    /// The author's clock; now if absent.
    pub eventtime: Option<i64>,
    /// Properties.
    pub props: BTreeMap<String, String>,
    /// Tags.
    pub tags: Vec<String>,
}

impl Draft {
    /// Checks limits and cleans tags.
    ///
    /// # Errors
    /// [`Error::Invalid`] with a text for the author.
    pub fn checked(mut self) -> Result<Self> {
        self.subject = self.subject.replace(['\r', '\n'], " ").trim().to_owned();
        if self.subject.chars().count() > SUBJECT_LETTERS_MAX
            || self.subject.len() > SUBJECT_BYTES_MAX
        {
            return Err(Error::invalid("The subject is longer than 100 letters."));
        }
        self.body = self
            .body
            .replace("\r\n", "\n")
            .replace('\r', "\n")
            .trim()
            .to_owned();
        if self.body.is_empty() {
            return Err(Error::invalid("The entry is empty."));
        }
        if self.body.len() > BODY_BYTES_MAX || self.body.chars().count() > BODY_LETTERS_MAX {
            return Err(Error::invalid("The entry is longer than 300 000 letters."));
        }
        self.tags = clean_tags(&self.tags)?;
        self.props.retain(|_, value| !value.is_empty());
        for value in self.props.values() {
            if value.len() > 255 {
                return Err(Error::invalid(
                    "Mood, music and place have at most 255 bytes each.",
                ));
            }
        }
        Ok(self)
    }

    /// Equal for a repeated post, different for any change.
    fn digest(&self) -> String {
        let (security, mask) = self.security.columns();
        token::md5(format!("{}\0{}\0{security}\0{mask}", self.subject, self.body).as_bytes())
    }
}

fn clean_tags(tags: &[String]) -> Result<Vec<String>> {
    let mut clean = BTreeSet::new();
    for tag in tags
        .iter()
        .map(|tag| tag.trim().to_lowercase())
        .filter(|tag| !tag.is_empty())
    {
        if tag.starts_with('_') || tag.contains(['<', '>', '\r', '\n', '\t', ',', '/']) {
            return Err(Error::Invalid(format!(
                "\u{201c}{tag}\u{201d} cannot be a tag."
            )));
        }
        if tag.chars().count() > TAG_LETTERS_MAX || tag.len() > 2 * TAG_LETTERS_MAX {
            return Err(Error::invalid("A tag has at most 40 letters."));
        }
        clean.insert(tag);
    }
    if clean.len() > TAGS_MAX {
        return Err(Error::invalid("An entry has at most 100 tags."));
    }
    Ok(clean.into_iter().collect())
}

/// Columns of [`EntryRow`], in its order.
pub const COLUMNS: &str = "journalid, jitemid, posterid, eventtime, logtime, security, allowmask, anum, replycount, edittime";

/// Reads a row of [`COLUMNS`].
///
/// # Errors
/// A column of another type.
pub fn row(row: &Row) -> Result<EntryRow, ibex_sql::Error> {
    Ok(EntryRow {
        journal: UserId(row.get(0)?),
        jitemid: row.get(1)?,
        poster: UserId(row.get(2)?),
        eventtime: row.get(3)?,
        logtime: row.get(4)?,
        security: Security::from_columns(row.get(5)?, row.get(6)?),
        anum: u8::try_from(row.get::<i64>(7)?).unwrap_or(0),
        replies: row.get(8)?,
        edited: row.get(9)?,
    })
}

/// All keys that hold something of an entry.
fn keys_of(journal: UserId, jitemid: i64) -> Vec<Key> {
    vec![
        keys::log2(journal, jitemid),
        keys::logtext(journal, jitemid),
        keys::log2lt(journal),
        keys::feed(journal, "atom"),
        keys::feed(journal, "rss"),
    ]
}

/// Posts an entry. A repetition of the author's last one there is answered with the first one.
///
/// # Errors
/// [`Error::Invalid`]; the cluster's.
pub async fn post(app: &App, journal: UserId, poster: UserId, draft: Draft) -> Result<EntryRow> {
    let draft = draft.checked()?;
    let (anum, now) = (token::random_byte(), clock::now());
    let is_public = draft.security == Security::Public;
    let backdated = draft.props.contains_key("opt_backdated");
    let posted = app
        .write(
            journal,
            move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<(EntryRow, Effects)>> {
                let draft = draft.clone();
                Box::pin(async move { insert(tx, poster, &draft, anum, now).await })
            },
        )
        .await?;
    if !backdated {
        app.usage.note(journal, posted.logtime, is_public);
    }
    Ok(posted)
}

/// Writes a new entry in an open transaction.
///
/// # Errors
/// The database's.
async fn insert(
    tx: &mut UserTx<'_>,
    poster: UserId,
    draft: &Draft,
    anum: u8,
    now: i64,
) -> Result<(EntryRow, Effects)> {
    let journal = tx.user();
    let digest = draft.digest();
    let sql = format!(
        "SELECT {COLUMNS} FROM log WHERE journalid = ? AND jitemid = (SELECT jitemid FROM dupsig WHERE journalid = ? AND posterid = ? AND digest = ?)"
    );
    if let Some(same) = tx
        .query_one(sql, params![journal, journal, poster, digest.clone()])
        .await?
    {
        return Ok((row(&same)?, Effects::default()));
    }
    // The log time never goes back within a journal, whatever the clock does.
    let last = tx
        .query_one(
            "SELECT MIN(rlogtime) FROM log WHERE journalid = ?",
            params![journal],
        )
        .await?;
    let last = last
        .map(|row| row.get::<Option<i64>>(0))
        .transpose()?
        .flatten()
        .map_or(0, |rest| END_OF_TIME - rest);
    let logtime = now.max(last);
    let entry = EntryRow {
        journal,
        jitemid: tx.next('L').await?,
        poster,
        eventtime: draft.eventtime.unwrap_or(logtime),
        logtime,
        security: draft.security,
        anum,
        replies: 0,
        edited: logtime,
    };
    insert_row(tx, &entry).await?;
    write_text(tx, entry.jitemid, draft).await?;
    let sql = "REPLACE INTO dupsig (journalid, posterid, digest, jitemid) VALUES (?, ?, ?, ?)";
    tx.write_row(
        "dupsig",
        &[Value::from(poster)],
        sql,
        params![journal, poster, digest, entry.jitemid],
    )
    .await?;
    Ok((entry, Effects::keys(keys_of(journal, entry.jitemid))))
}

async fn insert_row(tx: &mut UserTx<'_>, entry: &EntryRow) -> Result<()> {
    let (security, mask) = entry.security.columns();
    let sql = "INSERT INTO log (journalid, jitemid, posterid, eventtime, logtime, security, allowmask, anum, rlogtime, revttime, replycount, edittime)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let values = params![
        entry.journal,
        entry.jitemid,
        entry.poster,
        entry.eventtime,
        entry.logtime,
        security,
        mask,
        i64::from(entry.anum),
        END_OF_TIME - entry.logtime,
        END_OF_TIME - entry.eventtime,
        entry.replies,
        entry.edited
    ];
    tx.write_row("log", &[Value::Int(entry.jitemid)], sql, values)
        .await?;
    Ok(())
}

/// Text, properties and tags, replacing what was there.
async fn write_text(tx: &mut UserTx<'_>, jitemid: i64, draft: &Draft) -> Result<()> {
    let journal = tx.user();
    let sql = "REPLACE INTO logtext (journalid, jitemid, subject, body) VALUES (?, ?, ?, ?)";
    tx.write_row(
        "logtext",
        &[Value::Int(jitemid)],
        sql,
        params![journal, jitemid, draft.subject.clone(), draft.body.clone()],
    )
    .await?;
    clear(tx, "logprop", "name", jitemid).await?;
    clear(tx, "logtag", "tag", jitemid).await?;
    let keys = draft
        .props
        .keys()
        .map(|name| params![jitemid, name.clone()])
        .collect();
    let sets = draft
        .props
        .iter()
        .map(|(name, value)| params![journal, jitemid, name.clone(), value.clone()])
        .collect();
    tx.write_rows(
        "logprop",
        keys,
        "INSERT INTO logprop (journalid, jitemid, name, value) VALUES (?, ?, ?, ?)",
        sets,
    )
    .await?;
    let keys = draft
        .tags
        .iter()
        .map(|tag| params![jitemid, tag.clone()])
        .collect();
    let sets = draft
        .tags
        .iter()
        .map(|tag| params![journal, jitemid, tag.clone()])
        .collect();
    tx.write_rows(
        "logtag",
        keys,
        "INSERT INTO logtag (journalid, jitemid, tag) VALUES (?, ?, ?)",
        sets,
    )
    .await?;
    Ok(())
}

/// Deletes the rows `(journalid, jitemid, *)` of a table, each by its key.
async fn clear(tx: &mut UserTx<'_>, table: &'static str, column: &str, jitemid: i64) -> Result<()> {
    let journal = tx.user();
    let rows = tx
        .query(
            format!("SELECT {column} FROM {table} WHERE journalid = ? AND jitemid = ?"),
            params![journal, jitemid],
        )
        .await?;
    let names = rows
        .iter()
        .map(|row| row.get::<String>(0))
        .collect::<Result<Vec<_>, _>>()?;
    let keys = names
        .iter()
        .map(|name| params![jitemid, name.clone()])
        .collect();
    let sets = names
        .iter()
        .map(|name| params![journal, jitemid, name.clone()])
        .collect();
    tx.write_rows(
        table,
        keys,
        format!("DELETE FROM {table} WHERE journalid = ? AND jitemid = ? AND {column} = ?"),
        sets,
    )
    .await?;
    Ok(())
}

/// Changes an entry; its number, log time and comments stay.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Invalid`]; the cluster's.
pub async fn edit(app: &App, journal: UserId, jitemid: i64, draft: Draft) -> Result<()> {
    let draft = draft.checked()?;
    let now = clock::now();
    app.write(journal, move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<((), Effects)>> {
        let draft = draft.clone();
        Box::pin(async move {
            let sql = "SELECT eventtime FROM log WHERE journalid = ? AND jitemid = ?";
            let old = tx.query_one(sql, params![journal, jitemid]).await?.ok_or(Error::NotFound)?;
            let eventtime = draft.eventtime.unwrap_or(old.get(0)?);
            let (security, mask) = draft.security.columns();
            let sql = "UPDATE log SET security = ?, allowmask = ?, edittime = ?, eventtime = ?, revttime = ? WHERE journalid = ? AND jitemid = ?";
            let values = params![security, mask, now, eventtime, END_OF_TIME - eventtime, journal, jitemid];
            tx.write_row("log", &[Value::Int(jitemid)], sql, values).await?;
            write_text(tx, jitemid, &draft).await?;
            Ok(((), Effects::keys(keys_of(journal, jitemid))))
        })
    })
    .await
}

/// Deletes an entry with everything that hangs on it.
///
/// # Errors
/// The cluster's.
pub async fn delete(app: &App, journal: UserId, jitemid: i64) -> Result<()> {
    app.write(
        journal,
        move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<((), Effects)>> {
            Box::pin(async move {
                clear(tx, "logprop", "name", jitemid).await?;
                clear(tx, "logtag", "tag", jitemid).await?;
                let talk = tx
                    .query(
                        "SELECT jtalkid FROM talk WHERE journalid = ? AND jitemid = ?",
                        params![journal, jitemid],
                    )
                    .await?;
                let ids = talk
                    .iter()
                    .map(|row| row.get::<i64>(0))
                    .collect::<Result<Vec<_>, _>>()?;
                for table in ["talk", "talktext"] {
                    let keys = ids.iter().map(|id| params![*id]).collect();
                    let sets = ids.iter().map(|id| params![journal, *id]).collect();
                    tx.write_rows(
                        table,
                        keys,
                        format!("DELETE FROM {table} WHERE journalid = ? AND jtalkid = ?"),
                        sets,
                    )
                    .await?;
                }
                for table in ["log", "logtext"] {
                    let sql = format!("DELETE FROM {table} WHERE journalid = ? AND jitemid = ?");
                    tx.write_row(
                        table,
                        &[Value::Int(jitemid)],
                        sql,
                        params![journal, jitemid],
                    )
                    .await?;
                }
                let signed = tx
                    .query(
                        "SELECT posterid FROM dupsig WHERE journalid = ? AND jitemid = ?",
                        params![journal, jitemid],
                    )
                    .await?;
                for row in &signed {
                    let poster: i64 = row.get(0)?;
                    tx.write_row(
                        "dupsig",
                        &[Value::Int(poster)],
                        "DELETE FROM dupsig WHERE journalid = ? AND posterid = ?",
                        params![journal, poster],
                    )
                    .await?;
                }
                let mut gone = keys_of(journal, jitemid);
                gone.push(keys::talk2(journal, jitemid));
                gone.extend(ids.iter().map(|id| keys::talktext(journal, *id)));
                Ok(((), Effects::keys(gone)))
            })
        },
    )
    .await
}

/// The row of an entry, if its public number is right.
///
/// # Errors
/// [`Error::NotFound`]; the cluster's.
pub async fn by_public(app: &App, journal: UserId, number: i64) -> Result<EntryRow> {
    let (jitemid, anum) = split_public(number);
    let rows = rows(app, &[(journal, jitemid)]).await?;
    rows.get(&(journal, jitemid))
        .copied()
        .filter(|entry| entry.anum == anum)
        .ok_or(Error::NotFound)
}

/// Rows of entries, from anywhere.
///
/// # Errors
/// The global database's; a cluster that is away makes them missing.
pub async fn rows(app: &App, ids: &[(UserId, i64)]) -> Result<HashMap<(UserId, i64), EntryRow>> {
    let load = |missing: Vec<(UserId, i64)>| async move {
        let found = gather_pairs(
            app,
            &missing,
            |pairs| format!("SELECT {COLUMNS} FROM log WHERE {pairs}"),
            row,
        )
        .await?;
        Ok::<_, Error>(
            found
                .into_iter()
                .map(|entry| ((entry.journal, entry.jitemid), entry))
                .collect(),
        )
    };
    app.cache
        .many(
            keys::LOG2,
            ids,
            |(journal, jitemid)| keys::log2(*journal, *jitemid),
            load,
        )
        .await
}

/// Texts of entries, from anywhere.
///
/// # Errors
/// As [`rows`].
pub async fn texts(app: &App, ids: &[(UserId, i64)]) -> Result<HashMap<(UserId, i64), Text>> {
    let load = |missing: Vec<(UserId, i64)>| async move {
        type Part = ((UserId, i64), u8, String, String);
        let part = |kind: u8| {
            move |row: &Row| -> Result<Part, ibex_sql::Error> {
                Ok((
                    (UserId(row.get(0)?), row.get(1)?),
                    kind,
                    row.get(2)?,
                    row.get(3)?,
                ))
            }
        };
        let text = gather_pairs(
            app,
            &missing,
            |pairs| format!("SELECT journalid, jitemid, subject, body FROM logtext WHERE {pairs}"),
            part(0),
        );
        let props = gather_pairs(
            app,
            &missing,
            |pairs| format!("SELECT journalid, jitemid, name, value FROM logprop WHERE {pairs}"),
            part(1),
        );
        let tags = gather_pairs(
            app,
            &missing,
            |pairs| {
                format!("SELECT journalid, jitemid, tag, '' FROM logtag WHERE {pairs} ORDER BY tag")
            },
            part(2),
        );
        let (text, props, tags) = tokio::try_join!(text, props, tags)?;
        let mut found: HashMap<(UserId, i64), Text> = text
            .into_iter()
            .map(|(id, _, subject, body)| {
                (
                    id,
                    Text {
                        subject,
                        body,
                        ..Text::default()
                    },
                )
            })
            .collect();
        for (id, _, name, value) in props {
            if let Some(text) = found.get_mut(&id) {
                text.props.insert(name, value);
            }
        }
        for (id, _, tag, _) in tags {
            if let Some(text) = found.get_mut(&id) {
                text.tags.push(tag);
            }
        }
        Ok::<_, Error>(found)
    };
    app.cache
        .many(
            keys::LOGTEXT,
            ids,
            |(journal, jitemid)| keys::logtext(*journal, *jitemid),
            load,
        )
        .await
}

/// One statement per cluster for pairs of journal and number. `sql` gets the condition that names this cluster's pairs.
async fn gather_pairs<T: Send + 'static>(
    app: &App,
    pairs: &[(UserId, i64)],
    sql: impl Fn(&str) -> String + Send + Sync + 'static,
    read: impl Fn(&Row) -> Result<T, ibex_sql::Error> + Send + Sync + 'static,
) -> Result<Vec<T>> {
    let users: Vec<UserId> = pairs.iter().map(|(journal, _)| *journal).collect();
    let pairs: Arc<Vec<(UserId, i64)>> = Arc::new(pairs.to_vec());
    let (sql, read) = (Arc::new(sql), Arc::new(read));
    let gathered = app
        .cluster
        .gather(
            &users,
            move |tx: &mut Tx,
                  here: Arc<[UserId]>|
                  -> BoxFuture<'_, Result<Vec<T>, ibex_sql::Error>> {
                let (pairs, sql, read) = (Arc::clone(&pairs), Arc::clone(&sql), Arc::clone(&read));
                Box::pin(async move {
                    let mut out = Vec::new();
                    let mine: Vec<&(UserId, i64)> = pairs
                        .iter()
                        .filter(|(journal, _)| here.binary_search(journal).is_ok())
                        .collect();
                    for chunk in mine.chunks(200) {
                        let condition =
                            vec!["(journalid = ? AND jitemid = ?)"; chunk.len()].join(" OR ");
                        let values = chunk
                            .iter()
                            .flat_map(|(journal, jitemid)| params![*journal, *jitemid])
                            .collect();
                        for row in tx.query(sql(&format!("({condition})")), values).await? {
                            out.push(read(&row)?);
                        }
                    }
                    Ok(out)
                })
            },
        )
        .await?;
    Ok(gathered.found)
}

/// The newest entries of a journal, newest first.
pub type Recent = Vec<EntryRow>;

/// The newest entries of many journals, and whether a cluster did not answer.
///
/// # Errors
/// The global database's.
pub async fn recent(app: &App, journals: &[UserId]) -> Result<(HashMap<UserId, Recent>, bool)> {
    let partial = std::sync::atomic::AtomicBool::new(false);
    let flag = &partial;
    let load = |missing: Vec<UserId>| async move {
        let gathered = app
            .cluster
            .gather(
                &missing,
                |tx: &mut Tx,
                 here: Arc<[UserId]>|
                 -> BoxFuture<'_, Result<Vec<(UserId, Recent)>, ibex_sql::Error>> {
                    Box::pin(async move {
                        let mut out = Vec::with_capacity(here.len());
                        for journal in here.iter() {
                            out.push((*journal, newest(tx, *journal, RECENT_MAX, 0).await?));
                        }
                        Ok(out)
                    })
                },
            )
            .await?;
        flag.store(gathered.is_partial(), std::sync::atomic::Ordering::Relaxed);
        Ok::<_, Error>(gathered.found.into_iter().collect())
    };
    let found = app
        .cache
        .many(
            keys::LOG2LT,
            journals,
            |journal| keys::log2lt(*journal),
            load,
        )
        .await?;
    Ok((found, partial.load(std::sync::atomic::Ordering::Relaxed)))
}

async fn newest(
    tx: &mut Tx,
    journal: UserId,
    limit: u32,
    skip: u32,
) -> Result<Recent, ibex_sql::Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM log WHERE journalid = ? ORDER BY rlogtime, revttime, jitemid DESC LIMIT ? OFFSET ?"
    );
    let rows = tx
        .query(sql, params![journal, i64::from(limit), i64::from(skip)])
        .await?;
    rows.iter().map(row).collect()
}

/// Entries of one journal, newest first, deeper than the cached list goes.
///
/// # Errors
/// The cluster's.
pub async fn newest_of(app: &App, journal: UserId, limit: u32, skip: u32) -> Result<Recent> {
    app.cluster
        .read(
            journal,
            move |tx: &mut Tx| -> BoxFuture<'_, Result<Recent>> {
                Box::pin(async move { Ok(newest(tx, journal, limit, skip).await?) })
            },
        )
        .await
}

/// All entries of a journal that carry a tag, newest first, at most 500.
///
/// # Errors
/// The cluster's.
pub async fn tagged(app: &App, journal: UserId, tag: &str) -> Result<Recent> {
    let tag = tag.to_owned();
    app.cluster
        .read(journal, move |tx: &mut Tx| -> BoxFuture<'_, Result<Recent>> {
            let tag = tag.clone();
            Box::pin(async move {
                let sql = format!(
                    "SELECT {COLUMNS} FROM log WHERE journalid = ? AND jitemid IN (SELECT jitemid FROM logtag WHERE journalid = ? AND tag = ?) ORDER \
                    BY rlogtime LIMIT 500"
                );
                let rows = tx.query(sql, params![journal, journal, tag]).await?;
                Ok(rows.iter().map(row).collect::<Result<_, _>>()?)
            })
        })
        .await
}

/// How many entries a journal has.
///
/// # Errors
/// The cluster's.
pub async fn count(app: &App, journal: UserId) -> Result<i64> {
    app.cluster
        .read(journal, move |tx: &mut Tx| -> BoxFuture<'_, Result<i64>> {
            Box::pin(async move {
                let row = tx
                    .query_one(
                        "SELECT COUNT(*) FROM log WHERE journalid = ?",
                        params![journal],
                    )
                    .await?;
                Ok(row.map(|row| row.get(0)).transpose()?.unwrap_or(0))
            })
        })
        .await
}

/// Rows with their texts, in the order of `rows`; those whose text cannot be had now are left out.
///
/// # Errors
/// The global database's.
pub async fn with_texts(app: &App, rows: &[EntryRow]) -> Result<Vec<Entry>> {
    let ids: Vec<(UserId, i64)> = rows.iter().map(|row| (row.journal, row.jitemid)).collect();
    let mut texts = texts(app, &ids).await?;
    Ok(rows
        .iter()
        .filter_map(|row| {
            Some(Entry {
                row: *row,
                text: texts.remove(&(row.journal, row.jitemid))?,
            })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(subject: &str, body: &str, tags: &[&str]) -> Draft {
        Draft {
            subject: subject.to_owned(),
            body: body.to_owned(),
            security: Security::Public,
            eventtime: None,
            props: BTreeMap::new(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        }
    }

    #[test]
    fn public_numbers_split_and_join() {
        let entry = EntryRow {
            journal: UserId(1),
            jitemid: 1234,
            poster: UserId(1),
            eventtime: 0,
            logtime: 0,
            security: Security::Public,
            anum: 200,
            replies: 0,
            edited: 0,
        };
        assert_eq!(split_public(entry.ditemid()), (1234, 200));
    }

    #[test]
    fn drafts_are_cleaned_and_limited() {
        let clean = draft(
            "two\nlines",
            "a\r\nb",
            &[" Mountains", "reading", "mountains ", ""],
        )
        .checked()
        .unwrap();
        assert_eq!(
            (clean.subject.as_str(), clean.body.as_str()),
            ("two lines", "a\nb")
        );
        assert_eq!(clean.tags, vec!["mountains", "reading"]);
        assert!(draft(&"s".repeat(100), "x", &[]).checked().is_ok());
        assert!(draft(&"s".repeat(101), "x", &[]).checked().is_err());
        assert!(draft("", " \n ", &[]).checked().is_err());
        assert!(draft("", &"b".repeat(300_000), &[]).checked().is_ok());
        assert!(draft("", &"b".repeat(300_001), &[]).checked().is_err());
        assert!(draft("", "x", &["<b>"]).checked().is_err());
        assert!(draft("", "x", &["_x"]).checked().is_err());
    }

    #[test]
    fn a_repeated_post_has_the_same_digest() {
        let one = draft("a", "b", &[]);
        let mut other = one.clone();
        other.security = crate::visibility::FRIENDS;
        assert_eq!(one.digest(), draft("a", "b", &["tag"]).digest());
        assert_ne!(one.digest(), other.digest());
        assert_ne!(one.digest(), draft("ab", "", &[]).digest());
    }
}

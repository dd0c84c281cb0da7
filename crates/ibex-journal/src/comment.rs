//! Comments: threads on the journal's cluster, and what may be done to them.
//!
//! Apart from entries because they have their own numbers, states and rights. A comment is written together with the count on its
//! entry and the event that will notify people, in one transaction.

use crate::app::{App, Effects, Event};
use crate::circle::{self, Viewer};
use crate::entry::EntryRow;
use crate::error::{Error, Result};
use crate::user::User;
use crate::{clock, keys, queue};
use ibex_cluster::{BoxFuture, UserId, UserTx};
use ibex_sql::{Row, Tx, Value, params};
use std::collections::{BTreeMap, HashMap};

/// Largest body, in letters and bytes; largest subject, in bytes.
const BODY_LETTERS_MAX: usize = 16_000;
const BODY_BYTES_MAX: usize = 65_535;
const SUBJECT_BYTES_MAX: usize = 100;
/// Comments of one entry.
const COMMENTS_MAX: usize = 10_000;
/// Deepest step that a page indents.
pub const DEPTH_MAX: u8 = 8;

/// What state a comment is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum State {
    /// Shown.
    Active,
    /// Shown to few.
    Screened,
    /// Shown; cannot be answered.
    Frozen,
    /// Gone; a stub remains if it has answers.
    Deleted,
}

impl State {
    fn letter(self) -> &'static str {
        match self {
            Self::Active => "A",
            Self::Screened => "S",
            Self::Frozen => "F",
            Self::Deleted => "D",
        }
    }

    fn from_letter(letter: &str) -> Self {
        match letter {
            "A" => Self::Active,
            "F" => Self::Frozen,
            "D" => Self::Deleted,
            _ => Self::Screened,
        }
    }

    /// Whether it is counted beside the entry.
    fn counts(self) -> bool {
        matches!(self, Self::Active | Self::Frozen)
    }
}

/// A comment without its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Talk {
    /// Its number in the journal.
    pub id: i64,
    /// The comment it answers; 0 for the entry.
    pub parent: i64,
    /// Who wrote it; 0 for nobody known.
    pub poster: UserId,
    /// When.
    pub time: i64,
    /// Its state.
    pub state: State,
}

/// Subject and body.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TalkText {
    /// May be empty.
    pub subject: String,
    /// As written.
    pub body: String,
}

/// A comment in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The comment.
    pub talk: Talk,
    /// How deep, 0 for answers to the entry.
    pub depth: u8,
    /// Its thread, counted from 0.
    pub thread: usize,
}

/// All comments of an entry, oldest first.
///
/// # Errors
/// The cluster's.
pub async fn all(app: &App, journal: UserId, jitemid: i64) -> Result<Vec<Talk>> {
    let load = || async {
        let rows = app.cluster.read(journal, move |tx: &mut Tx| -> BoxFuture<'_, Result<Vec<Row>>> {
            let sql = "SELECT jtalkid, parent, posterid, posttime, state FROM talk WHERE journalid = ? AND jitemid = ? ORDER BY jtalkid";
            Box::pin(async move { Ok(tx.query(sql, params![journal, jitemid]).await?) })
        });
        Ok::<_, Error>(Some(
            rows.await?
                .iter()
                .map(talk)
                .collect::<Result<Vec<_>, _>>()?,
        ))
    };
    Ok(app
        .cache
        .one(keys::TALK2, keys::talk2(journal, jitemid), load)
        .await?
        .unwrap_or_default())
}

fn talk(row: &Row) -> Result<Talk, ibex_sql::Error> {
    Ok(Talk {
        id: row.get(0)?,
        parent: row.get(1)?,
        poster: UserId(row.get(2)?),
        time: row.get(3)?,
        state: State::from_letter(&row.get::<String>(4)?),
    })
}

/// Texts of comments of one journal.
///
/// # Errors
/// The cluster's.
pub async fn texts(app: &App, journal: UserId, ids: &[i64]) -> Result<HashMap<i64, TalkText>> {
    let load = |missing: Vec<i64>| async move {
        let rows = app.cluster.read(journal, move |tx: &mut Tx| -> BoxFuture<'_, Result<Vec<Row>>> {
            let missing = missing.clone();
            Box::pin(async move {
                let mut rows = Vec::new();
                for chunk in missing.chunks(400) {
                    let marks = vec!["?"; chunk.len()].join(",");
                    let values = std::iter::once(Value::from(journal)).chain(chunk.iter().map(|id| Value::Int(*id))).collect();
                    rows.extend(tx.query(format!("SELECT jtalkid, subject, body FROM talktext WHERE journalid = ? AND jtalkid IN ({marks})"), values).await?);
                }
                Ok(rows)
            })
        });
        let text = |row: &Row| {
            Ok((
                row.get(0)?,
                TalkText {
                    subject: row.get(1)?,
                    body: row.get(2)?,
                },
            ))
        };
        Ok::<_, Error>(
            rows.await?
                .iter()
                .map(text)
                .collect::<Result<_, ibex_sql::Error>>()?,
        )
    };
    app.cache
        .many(keys::TALKTEXT, ids, |id| keys::talktext(journal, *id), load)
        .await
}

/// Orders comments into threads, each followed by its answers. What `visible` refuses is left out with its answers; deleted
/// comments stay as stubs where answers hang on them.
#[must_use]
pub fn threads(all: &[Talk], visible: impl Fn(&Talk) -> bool) -> Vec<Placed> {
    let known: std::collections::BTreeSet<i64> = all.iter().map(|talk| talk.id).collect();
    let mut children: BTreeMap<i64, Vec<Talk>> = BTreeMap::new();
    for talk in all.iter().filter(|talk| visible(talk)) {
        // A parent that is not there any more leaves its answers on the top.
        let parent = if known.contains(&talk.parent) {
            talk.parent
        } else {
            0
        };
        children.entry(parent).or_default().push(*talk);
    }
    let mut out = Vec::with_capacity(all.len());
    for (thread, top) in children
        .get(&0)
        .cloned()
        .unwrap_or_default()
        .into_iter()
        .enumerate()
    {
        let mut open = vec![(top, 0_u8)];
        while let Some((talk, depth)) = open.pop() {
            out.push(Placed {
                talk,
                depth,
                thread,
            });
            for answer in children.get(&talk.id).into_iter().flatten().rev() {
                open.push((*answer, (depth + 1).min(DEPTH_MAX)));
            }
        }
    }
    // From the end: a deleted comment stays only if what follows is one of its answers.
    let mut kept: Vec<Placed> = Vec::with_capacity(out.len());
    let mut parents_needed = std::collections::BTreeSet::new();
    for placed in out.into_iter().rev() {
        if placed.talk.state != State::Deleted || parents_needed.contains(&placed.talk.id) {
            parents_needed.insert(placed.talk.parent);
            kept.push(placed);
        }
    }
    kept.reverse();
    kept
}

/// Whether a reader sees a comment of an entry that he sees. Screened ones are seen by those who look after the journal, the
/// entry's author, their own author, and the author of what they answer.
#[must_use]
pub fn sees(viewer: Option<&Viewer>, entry: &EntryRow, talk: &Talk, all: &[Talk]) -> bool {
    if talk.state != State::Screened {
        return true;
    }
    let Some(reader) = viewer.map(|viewer| viewer.user.id) else {
        return false;
    };
    let parent_poster = all
        .iter()
        .find(|other| other.id == talk.parent)
        .map(|parent| parent.poster);
    circle::manages(viewer, entry.journal)
        || reader == entry.poster
        || reader == talk.poster
        || parent_poster == Some(reader)
}

/// Why this reader cannot comment here, in words; `None` if he can.
#[must_use]
pub fn closed(
    viewer: Option<&Viewer>,
    journal: &User,
    entry: &EntryRow,
    nocomments: bool,
) -> Option<&'static str> {
    let relation = circle::relation(viewer, journal.id);
    if nocomments {
        return Some("Comments are closed here.");
    }
    match (journal.whocanreply.as_str(), viewer) {
        ("reg", None) => Some("Only registered users comment here."),
        ("friends", None) => Some("Only friends comment here."),
        ("friends", Some(reader))
            if !relation.is_owner && relation.mask == 0 && reader.user.id != entry.poster =>
        {
            Some("Only friends comment here.")
        }
        _ => None,
    }
}

/// A comment as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Draft {
    /// The comment it answers; 0 for the entry.
    pub parent: i64,
    /// May be empty.
    pub subject: String,
    /// Not blank.
    pub body: String,
}

impl Draft {
    fn checked(mut self) -> Result<Self> {
        self.subject = self.subject.replace(['\r', '\n'], " ").trim().to_owned();
        if self.subject.len() > SUBJECT_BYTES_MAX {
            return Err(Error::invalid("The subject is longer than 100 bytes."));
        }
        self.body = self
            .body
            .replace("\r\n", "\n")
            .replace('\r', "\n")
            .trim()
            .to_owned();
        if self.body.is_empty() {
            return Err(Error::invalid("The comment is empty."));
        }
        if self.body.len() > BODY_BYTES_MAX || self.body.chars().count() > BODY_LETTERS_MAX {
            return Err(Error::invalid("The comment is longer than 16 000 letters."));
        }
        Ok(self)
    }
}

/// Writes a comment, the count beside its entry, and the event, in one transaction.
///
/// # Errors
/// [`Error::Invalid`], [`Error::NotFound`] when the entry or the parent is gone; the cluster's.
pub async fn post(app: &App, entry: EntryRow, poster: UserId, draft: Draft) -> Result<i64> {
    let draft = draft.checked()?;
    let (journal, jitemid, now) = (entry.journal, entry.jitemid, clock::now());
    app.write(journal, move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<(i64, Effects)>> {
        let draft = draft.clone();
        Box::pin(async move {
            if draft.parent != 0 {
                let sql = "SELECT state FROM talk WHERE journalid = ? AND jtalkid = ? AND jitemid = ?";
                let parent = tx.query_one(sql, params![journal, draft.parent, jitemid]).await?.ok_or(Error::NotFound)?;
                if matches!(State::from_letter(&parent.get::<String>(0)?), State::Frozen | State::Deleted) {
                    return Err(Error::invalid("This comment cannot be answered any more."));
                }
            }
            let sql = "SELECT COUNT(*) FROM talk WHERE journalid = ? AND jitemid = ?";
            let count: i64 = tx.query_one(sql, params![journal, jitemid]).await?.map(|row| row.get(0)).transpose()?.unwrap_or(0);
            if usize::try_from(count).unwrap_or(usize::MAX) >= COMMENTS_MAX {
                return Err(Error::invalid("This entry has as many comments as it can hold."));
            }
            let id = tx.next('T').await?;
            let sql = "UPDATE log SET replycount = replycount + 1 WHERE journalid = ? AND jitemid = ?";
            if tx.write_row("log", &[Value::Int(jitemid)], sql, params![journal, jitemid]).await?.rows_affected != 1 {
                return Err(Error::NotFound);
            }
            let sql = "INSERT INTO talk (journalid, jtalkid, jitemid, parent, posterid, posttime, state) VALUES (?, ?, ?, ?, ?, ?, 'A')";
            tx.write_row("talk", &[Value::Int(id)], sql, params![journal, id, jitemid, draft.parent, poster, now]).await?;
            let sql = "INSERT INTO talktext (journalid, jtalkid, subject, body) VALUES (?, ?, ?, ?)";
            tx.write_row("talktext", &[Value::Int(id)], sql, params![journal, id, draft.subject, draft.body]).await?;
            let mut effects = changed(journal, jitemid);
            effects.events.push(Event {
                function: queue::COMMENT.to_owned(),
                argument: serde_json::json!({ "journal": journal.0, "jitemid": jitemid, "jtalkid": id }).to_string(),
                unique: format!("comment:{journal}:{id}"),
            });
            Ok((id, effects))
        })
    })
    .await
}

fn changed(journal: UserId, jitemid: i64) -> Effects {
    Effects::keys([
        keys::log2(journal, jitemid),
        keys::log2lt(journal),
        keys::talk2(journal, jitemid),
    ])
}

/// Changes the state of a comment, and the count with it.
///
/// # Errors
/// [`Error::NotFound`]; the cluster's.
pub async fn set_state(app: &App, entry: EntryRow, id: i64, state: State) -> Result<()> {
    let (journal, jitemid) = (entry.journal, entry.jitemid);
    app.write(journal, move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<((), Effects)>> {
        Box::pin(async move {
            let sql = "SELECT state FROM talk WHERE journalid = ? AND jtalkid = ? AND jitemid = ?";
            let old = tx.query_one(sql, params![journal, id, jitemid]).await?.ok_or(Error::NotFound)?;
            let old = State::from_letter(&old.get::<String>(0)?);
            let sql = "UPDATE talk SET state = ? WHERE journalid = ? AND jtalkid = ?";
            tx.write_row("talk", &[Value::Int(id)], sql, params![state.letter(), journal, id]).await?;
            let step = i64::from(state.counts()) - i64::from(old.counts());
            if step != 0 {
                let sql = "UPDATE log SET replycount = replycount + ? WHERE journalid = ? AND jitemid = ?";
                tx.write_row("log", &[Value::Int(jitemid)], sql, params![step, journal, jitemid]).await?;
            }
            let mut effects = changed(journal, jitemid);
            if state == State::Deleted {
                let sql = "UPDATE talktext SET subject = '', body = '' WHERE journalid = ? AND jtalkid = ?";
                tx.write_row("talktext", &[Value::Int(id)], sql, params![journal, id]).await?;
                effects.invalidate.push(keys::talktext(journal, id));
            }
            Ok(((), effects))
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(id: i64, parent: i64, state: State) -> Talk {
        Talk {
            id,
            parent,
            poster: UserId(1),
            time: id,
            state,
        }
    }

    fn shape(all: &[Talk]) -> Vec<(i64, u8, usize)> {
        threads(all, |_| true)
            .iter()
            .map(|placed| (placed.talk.id, placed.depth, placed.thread))
            .collect()
    }

    #[test]
    fn answers_follow_what_they_answer() {
        use State::Active;
        let all = [
            talk(1, 0, Active),
            talk(2, 0, Active),
            talk(3, 1, Active),
            talk(4, 2, Active),
            talk(5, 1, Active),
            talk(6, 3, Active),
        ];
        assert_eq!(
            shape(&all),
            vec![
                (1, 0, 0),
                (3, 1, 0),
                (6, 2, 0),
                (5, 1, 0),
                (2, 0, 1),
                (4, 1, 1)
            ]
        );
    }

    #[test]
    fn a_deleted_comment_stays_only_where_answers_hang_on_it() {
        use State::{Active, Deleted};
        assert_eq!(
            shape(&[talk(1, 0, Deleted), talk(2, 1, Active)]),
            vec![(1, 0, 0), (2, 1, 0)]
        );
        assert_eq!(
            shape(&[talk(1, 0, Deleted), talk(2, 1, Deleted), talk(3, 0, Active)]),
            vec![(3, 0, 1)]
        );
    }

    #[test]
    fn endless_and_broken_chains_do_no_harm() {
        use State::Active;
        let deep: Vec<Talk> = (1..=2000).map(|id| talk(id, id - 1, Active)).collect();
        assert_eq!(threads(&deep, |_| true).len(), 2000);
        assert_eq!(
            threads(&deep, |_| true).last().map(|placed| placed.depth),
            Some(DEPTH_MAX)
        );
        assert_eq!(shape(&[talk(5, 4, Active)]), vec![(5, 0, 0)]);
        assert_eq!(
            shape(&[talk(5, 6, Active), talk(6, 5, Active)]),
            vec![],
            "a circle hangs on nothing"
        );
    }
}

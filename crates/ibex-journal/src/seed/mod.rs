//! The demonstration's people and entries: deterministic, quick, and much like a real site.
//!
//! Apart from the site's own ways of writing, because ten thousand entries one transaction each would take minutes: rows are made in
//! memory from the seed, then written per user in one fenced transaction. Friends are log-normal in number, readers prefer the
//! popular, threads have geometric depth. A site that holds the same seed already is left alone.

mod make;
mod paint;
mod words;

#[cfg(test)]
pub(crate) use paint::userpic;

use crate::app::{App, Effects};
use crate::commands::say;
use crate::error::{Error, Result};
use crate::user::{self, User};
use crate::{circle, clock, keys, picture, usage};
use ibex_cluster::{BoxFuture, ClusterId, UserId, UserTx};
use ibex_sql::{Tx, Value, params};
use indicatif::{ProgressBar, ProgressStyle};
use make::{Account, Made};
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::Arc;

/// Users written to the global database in one transaction.
const USERS_AT_ONCE: usize = 500;
/// Clusters are written to at the same time, and so many users of each.
const WRITERS: usize = 8;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) users: u32,
    pub(crate) entries: u32,
    pub(crate) seed: u64,
    pub(crate) password: String,
    pub(crate) pictures: u32,
}

/// Fills the site.
pub(crate) async fn run(app: &App, plan: Plan) -> Result<()> {
    if plan.users < 10 {
        return Err(Error::invalid("--users: at least 10"));
    }
    if let Some((cluster, error)) = app.cluster.open_all().await.into_iter().next() {
        return Err(Error::Invalid(format!("cluster {cluster}: {error}")));
    }
    let mark = format!(
        "users {} entries {} seed {}",
        plan.users, plan.entries, plan.seed
    );
    let known = app
        .cluster
        .global()
        .query_one("SELECT value FROM setting WHERE name = 'seed'", params![])
        .await?;
    match known.map(|row| row.get::<String>(0)).transpose()? {
        Some(done) if done == mark => {
            say(&format!("the site holds this already: {mark}"));
            return Ok(());
        }
        Some(done) => {
            return Err(Error::Invalid(format!(
                "the site was seeded otherwise: {done}"
            )));
        }
        None => {}
    }
    let began = std::time::Instant::now();
    let made = Arc::new(make::site(&plan, clock::now()));
    let ids = accounts(app, &plan, &made).await?;
    edges(app, &made, &ids).await?;
    let comments = journals(app, &made, &ids).await?;
    paint(app, &plan, &made, &ids).await?;
    let sql = "INSERT INTO setting (name, value) VALUES ('seed', ?)";
    app.cluster
        .global()
        .execute(sql, params![mark.clone()])
        .await?;
    let first = made
        .accounts
        .first()
        .map_or("", |account| account.name.as_str());
    say(&format!(
        "made {} accounts, {} entries, {comments} comments in {:.1?}; log in as {first}",
        made.accounts.len(),
        made.entries.len(),
        began.elapsed()
    ));
    Ok(())
}

/// A bar on a terminal, a line elsewhere.
fn bar(length: usize, what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        say(&format!("{what}: {length}"));
    }
    let style = ProgressStyle::with_template("{msg:>10} {bar:40} {pos}/{len}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length as u64)
        .with_style(style)
        .with_message(what)
}

/// Global rows and owner rows. All accounts share one password hash: they share the password, and a thousand hashes take a minute.
async fn accounts(app: &App, plan: &Plan, made: &Made) -> Result<Vec<UserId>> {
    let hash = user::hash_new_password(app, &plan.password).await?;
    let count =
        u32::try_from(made.accounts.len()).map_err(|_| Error::invalid("--users: too many"))?;
    let first = user::next_userid(app, count).await?;
    let ids: Vec<UserId> = (0..count).map(|step| UserId(first.0 + step)).collect();
    let progress = bar(made.accounts.len(), "people");
    let pairs: Vec<(UserId, &Account)> = ids.iter().copied().zip(&made.accounts).collect();
    for chunk in pairs.chunks(USERS_AT_ONCE) {
        let mut rows = Vec::with_capacity(chunk.len());
        let mut by_cluster: BTreeMap<ClusterId, Vec<Vec<Value>>> = BTreeMap::new();
        for (id, account) in chunk {
            let home = app.cluster.place().await?;
            by_cluster
                .entry(home)
                .or_default()
                .push(params![*id, account.created]);
            let hash = if account.is_community {
                String::new()
            } else {
                hash.clone()
            };
            rows.push((new_user(*id, account), home, account.email(), hash));
        }
        for (cluster, owners) in by_cluster {
            let (db, owners) = (app.cluster.db(cluster).await?, Arc::new(owners));
            db.write(move |tx: &mut Tx| -> BoxFuture<'_, Result<(), ibex_sql::Error>> {
                let owners = Arc::clone(&owners);
                Box::pin(async move {
                    let sql = "INSERT INTO owner (userid, state, epoch, seq, fwd, since, moveid, capture) VALUES (?, 'L', 1, 0, 0, ?, 0, 0)";
                    tx.execute_each(sql, owners.to_vec()).await?;
                    Ok(())
                })
            })
            .await?;
        }
        let rows = Arc::new(rows);
        progress.inc(rows.len() as u64);
        app.cluster
            .global()
            .write(
                move |tx: &mut Tx| -> BoxFuture<'_, Result<(), ibex_sql::Error>> {
                    let rows = Arc::clone(&rows);
                    Box::pin(async move {
                        for (user, home, email, hash) in rows.iter() {
                            user::insert_user(tx, user, *home, email, hash).await?;
                        }
                        Ok(())
                    })
                },
            )
            .await?;
    }
    progress.finish();
    Ok(ids)
}

fn new_user(id: UserId, account: &Account) -> User {
    User {
        id,
        name: account.name.clone(),
        kind: if account.is_community {
            crate::visibility::Kind::Community
        } else {
            crate::visibility::Kind::Person
        },
        statusvis: "V".to_owned(),
        display: account.display.clone(),
        picid: 0,
        whocanreply: "all".to_owned(),
        created: account.created,
    }
}

/// Friendships and memberships, in the global database.
async fn edges(app: &App, made: &Made, ids: &[UserId]) -> Result<()> {
    let id = |index: usize| ids.get(index).copied().unwrap_or(UserId(0));
    let now = clock::now();
    let row = |from: usize, to: usize, trust: i64, watch: i64| {
        params![id(from), id(to), trust, watch, trust, now]
    };
    let progress = bar(made.friends.len() + made.members.len(), "friends");
    let mut rows: Vec<Vec<Value>> = made
        .friends
        .iter()
        .map(|(from, to)| row(*from, *to, 1, 1))
        .collect();
    for (community, member) in &made.members {
        rows.push(row(*community, *member, 1, 0));
        rows.push(row(*member, *community, 0, 1));
    }
    for chunk in rows.chunks(5000) {
        let chunk = Arc::new(chunk.to_vec());
        progress.inc(chunk.len() as u64);
        app.cluster
            .global()
            .write(move |tx: &mut Tx| -> BoxFuture<'_, Result<(), ibex_sql::Error>> {
                let chunk = Arc::clone(&chunk);
                Box::pin(async move {
                    tx.execute_each("REPLACE INTO edge (from_id, to_id, trust, watch, mask, created) VALUES (?, ?, ?, ?, ?, ?)", chunk.to_vec()).await?;
                    Ok(())
                })
            })
            .await?;
    }
    progress.finish();
    for (community, owner) in &made.owners {
        circle::make_administrator(app, id(*community), id(*owner)).await?;
    }
    Ok(())
}

/// Entries, comments and settings, one fenced transaction for each journal. Returns how many comments there are.
async fn journals(app: &App, made: &Arc<Made>, ids: &[UserId]) -> Result<usize> {
    let mut of_journal: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, entry) in made.entries.iter().enumerate() {
        of_journal.entry(entry.journal).or_default().push(index);
    }
    let progress = bar(made.entries.len(), "entries");
    let ids: Arc<Vec<UserId>> = Arc::new(ids.to_vec());
    let mut running = tokio::task::JoinSet::new();
    let mut comments = 0;
    for (journal, account) in made.accounts.iter().enumerate() {
        let entries = of_journal.remove(&journal).unwrap_or_default();
        let (app, made, ids) = (app.clone(), Arc::clone(made), Arc::clone(&ids));
        let bio = account.bio;
        running.spawn(async move { one_journal(&app, &made, &ids, journal, entries, bio).await });
        while running.len() >= WRITERS {
            if let Some(done) = running.join_next().await {
                let (entries, written) = done.map_err(|error| Error::Bug(error.to_string()))??;
                progress.inc(entries as u64);
                comments += written;
            }
        }
    }
    while let Some(done) = running.join_next().await {
        let (entries, written) = done.map_err(|error| Error::Bug(error.to_string()))??;
        progress.inc(entries as u64);
        comments += written;
    }
    usage::flush(app).await?;
    progress.finish();
    Ok(comments)
}

async fn one_journal(
    app: &App,
    made: &Arc<Made>,
    ids: &Arc<Vec<UserId>>,
    journal: usize,
    entries: Vec<usize>,
    bio: &'static str,
) -> Result<(usize, usize)> {
    let owner = ids.get(journal).copied().unwrap_or(UserId(0));
    let rows = Arc::new(make::rows(made, ids, journal, &entries));
    let (count, comments) = (entries.len(), rows.comments);
    for (time, is_public) in &rows.updates {
        app.usage.note(owner, *time, *is_public);
    }
    app.write(
        owner,
        move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<((), Effects)>> {
            let rows = Arc::clone(&rows);
            Box::pin(async move {
                if rows.entries > 0 {
                    tx.next_many('L', rows.entries, 0).await?;
                }
                if let Ok(comments) = u32::try_from(rows.comments)
                    && comments > 0
                {
                    tx.next_many('T', comments, 0).await?;
                }
                for table in &rows.tables {
                    tx.write_rows(
                        table.name,
                        table.keys.clone(),
                        table.sql,
                        table.sets.clone(),
                    )
                    .await?;
                }
                let sql = "INSERT INTO userprop (userid, name, value) VALUES (?, 'bio', ?)";
                tx.write_row("userprop", &[Value::from("bio")], sql, params![owner, bio])
                    .await?;
                Ok(((), Effects::keys([keys::log2lt(owner), keys::props(owner)])))
            })
        },
    )
    .await?;
    Ok((count, comments))
}

/// Userpics for the first people, painted from the seed and stored as an upload would be.
async fn paint(app: &App, plan: &Plan, made: &Made, ids: &[UserId]) -> Result<()> {
    let count = made
        .accounts
        .len()
        .min(usize::try_from(plan.pictures).unwrap_or(0));
    let progress = bar(count, "pictures");
    for (index, id) in ids.iter().take(count).enumerate() {
        let png = paint::userpic(plan.seed.wrapping_add(index as u64))?;
        match picture::upload(app, *id, "default", png.into()).await {
            Ok(_) => progress.inc(1),
            Err(Error::Files(error)) => {
                say(&format!(
                    "pictures left out, the file store does not take them: {error}"
                ));
                break;
            }
            Err(error) => return Err(error),
        }
    }
    progress.finish();
    Ok(())
}

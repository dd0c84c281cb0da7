//! The friends page: the newest entries of everybody a user watches, gathered from all clusters at once.
//!
//! Apart because it is the one page that asks many journals. It takes each watched journal's cached list of newest entries, the
//! missing ones with one request per cluster, filters by the one visibility function, and merges.

use crate::app::App;
use crate::circle::{self, Viewer};
use crate::entry::{self, EntryRow};
use crate::error::Result;
use crate::user::{self, User};
use crate::{clock, usage};
use ibex_cluster::UserId;
use ibex_sql::params;
use std::collections::HashMap;

/// Entries on one page, and how many pages deep one may go.
pub const PAGE: usize = 20;
pub const SKIP_MAX: usize = 1000;
/// Journals the page of latest entries looks at.
const LATEST_JOURNALS: i64 = 60;

/// One page of entries from many journals.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// In order.
    pub rows: Vec<EntryRow>,
    /// There are older ones.
    pub has_more: bool,
    /// A cluster did not answer; its journals are missing.
    pub is_partial: bool,
}

/// The friends page of `owner`. Only he sees protected entries on it; anybody else sees it as if not logged in.
///
/// # Errors
/// The global database's.
pub async fn friends(
    app: &App,
    viewer: Option<&Viewer>,
    owner: &User,
    skip: usize,
) -> Result<Page> {
    let viewer = viewer.filter(|viewer| viewer.user.id == owner.id);
    let edges = circle::outgoing(app, owner.id).await?;
    let watched: Vec<UserId> = edges
        .iter()
        .filter(|edge| edge.is_watched)
        .map(|edge| edge.other)
        .collect();
    merge(app, viewer, &watched, skip).await
}

/// The newest public entries of the whole site.
///
/// # Errors
/// The global database's.
pub async fn latest(app: &App, skip: usize) -> Result<Page> {
    usage::flush(app).await?;
    let sql = "SELECT userid FROM userusage WHERE public > 0 ORDER BY public DESC LIMIT ?";
    let rows = app
        .cluster
        .global()
        .query(sql, params![LATEST_JOURNALS])
        .await?;
    let journals = rows
        .iter()
        .map(|row| row.get(0).map(UserId))
        .collect::<Result<Vec<_>, _>>()?;
    merge(app, None, &journals, skip).await
}

async fn merge(
    app: &App,
    viewer: Option<&Viewer>,
    journals: &[UserId],
    skip: usize,
) -> Result<Page> {
    let users: HashMap<UserId, User> = user::by_ids(app, journals).await?;
    let (recent, is_partial) = entry::recent(app, journals).await?;
    let oldest =
        clock::now() - i64::try_from(app.config.read.max_age.std().as_secs()).unwrap_or(i64::MAX);
    let mut rows: Vec<EntryRow> = recent
        .values()
        .flatten()
        .filter(|row| row.logtime >= oldest)
        .filter(|row| {
            users
                .get(&row.journal)
                .is_some_and(|journal| circle::sees(viewer, journal, row.security))
        })
        .copied()
        .collect();
    rows.sort_by_key(|row| {
        std::cmp::Reverse((row.logtime, row.eventtime, row.jitemid, row.journal))
    });
    let skip = skip.min(SKIP_MAX);
    let has_more = rows.len() > skip + PAGE && skip + PAGE <= SKIP_MAX;
    Ok(Page {
        rows: rows.into_iter().skip(skip).take(PAGE).collect(),
        has_more,
        is_partial,
    })
}

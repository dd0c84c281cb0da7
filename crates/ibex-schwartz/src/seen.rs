//! What is read of jobs once they are leased: their rows, their failures, what they carry, how long their runs may take.
//!
//! Apart from `grab.rs` because nothing here decides who has a job.

use crate::crypt::Keys;
use crate::database::{Database, Work};
use crate::error::Error;
use crate::grab::{Candidate, GrabbedJob};
use crate::handle::Handle;
use crate::job::StoredJob;
use crate::settings::Known;
use crate::tables::id_list;
use crate::wide::{self, Effects, Timed};
use bytes::Bytes;
use ibex_sql::{Engine, Row, params};
use std::collections::BTreeMap;

/// Bytes of all arguments of one grab: as many as a caller over HTTP may send at once. What is beyond is given back; one is always taken.
const GRAB_ARG_BYTES: u64 = 16 << 20;
/// Rows read before their sizes are known: four of the largest are 64 MiB.
const ROWS_FIRST: usize = 4;
/// Rows of one statement.
const ROWS_MAX: usize = 1024;
const RELEASE: &str = "UPDATE {p}job SET grabbed_until = 0 WHERE jobid = ? AND grabbed_until = ?";

/// The columns [`Database::stored`] reads, in its order.
pub(crate) const COLUMNS: &str = "jobid, funcid, arg, uniqkey, coalesce, insert_time, run_after, grabbed_until, priority, OCTET_LENGTH(arg)";
/// The same with the beginning of the argument, of as many bytes as the first parameter says: the rest never leaves the database.
pub(crate) fn columns_cut(engine: Engine) -> &'static str {
    // Perl binds text, whose SUBSTR counts characters.
    engine.pick(
        "jobid, funcid, SUBSTR(CAST(arg AS BLOB), 1, ?) AS arg, uniqkey, coalesce, insert_time, run_after, grabbed_until, priority, OCTET_LENGTH(arg)",
        "jobid, funcid, SUBSTR(arg, 1, ?) AS arg, uniqkey, coalesce, insert_time, run_after, grabbed_until, priority, OCTET_LENGTH(arg)",
    )
}

impl Database {
    pub(crate) async fn grabbed(
        &self,
        row: &Row,
        lease: u64,
        seen: Seen,
    ) -> Result<Option<GrabbedJob>, Error> {
        let Some(job) = self.stored(row).await? else {
            return Ok(None);
        };
        Ok(Some(GrabbedJob {
            handle: Handle::new(self.hash(), job.jobid),
            lease,
            attempt: seen.failures.saturating_add(1),
            max_attempts: seen.max_attempts,
            timeout_s: seen.timeout_s,
            meta: seen.meta,
            trace: seen.trace,
            is_wide: seen.is_wide,
            job,
            database: self.clone(),
        }))
    }

    /// A row of [`COLUMNS`] as a job; `None` when its function has no name.
    pub(crate) async fn stored(&self, row: &Row) -> Result<Option<StoredJob>, Error> {
        let funcid: u32 = row.get(1)?;
        let Some(funcname) = self.funcname(funcid).await? else {
            return Ok(None);
        };
        let arg: Option<Bytes> = row.get(2)?;
        let arg_bytes = row.get::<Option<u64>>(9)?.unwrap_or(0);
        let read = arg.as_ref().map_or(0, Bytes::len);
        let is_cut = u64::try_from(read).is_ok_and(|read| read < arg_bytes);
        let (arg, sealed) = self.opened(arg, &funcname);
        Ok(Some(StoredJob {
            jobid: row.get(0)?,
            funcid,
            funcname,
            arg,
            is_encrypted: sealed.is_some(),
            sealed: sealed.filter(|_| !is_cut).unwrap_or_default(),
            uniqkey: row.get(3)?,
            coalesce: row.get(4)?,
            insert_time: row.get(5)?,
            run_after: row.get(6)?,
            grabbed_until: row.get(7)?,
            priority: row.get(8)?,
            arg_bytes,
            is_cut,
        }))
    }

    /// An argument, or one that nobody here can read.
    fn opened(&self, arg: Option<Bytes>, func: &str) -> (Bytes, Option<Bytes>) {
        let arg = arg.unwrap_or_default();
        if !Keys::is_sealed(&arg) {
            return (arg, None);
        }
        match self.keys().and_then(|keys| keys.open(func, &arg)) {
            Some(arg) => (arg, None),
            None => (Bytes::new(), Some(arg)),
        }
    }

    /// A job as it is now, with the lease it has; for working on a handle without grabbing it.
    pub(crate) async fn peek(&self, jobid: u64) -> Result<Option<GrabbedJob>, Error> {
        let rows = self
            .query(
                &format!("SELECT {COLUMNS} FROM {{p}}job WHERE jobid = ?"),
                params![jobid],
            )
            .await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let failures = self
            .query(
                "SELECT COUNT(*) FROM {p}error WHERE jobid = ?",
                params![jobid],
            )
            .await?;
        let failures: u32 = failures.first().map_or(Ok(0), |row| row.get(0))?;
        let recorded = self
            .texts(jobid)
            .await?
            .last()
            .map_or(0, |(attempt, ..)| *attempt);
        let wide = self.wide_status(jobid).await?;
        let seen = Seen {
            failures: failures.max(recorded),
            is_wide: wide.is_some(),
            max_attempts: wide.as_ref().and_then(|wide| wide.max_attempts),
            timeout_s: wide.and_then(|wide| wide.timeout_s),
            ..Seen::default()
        };
        self.grabbed(row, row.get(7)?, seen).await
    }
}

/// What the tables know of a job beside its row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    meta: Option<Bytes>,
    trace: Option<String>,
    failures: u32,
    is_wide: bool,
    max_attempts: Option<u32>,
    timeout_s: Option<u64>,
    is_expired: bool,
}

impl Seen {
    /// Nobody started it in its time.
    fn is_late(&self) -> bool {
        self.is_expired && self.failures == 0
    }
}

/// What jobs carry beside their arguments; plain jobs carry nothing.
async fn notes(work: &mut Work<'_>, all_seen: &mut BTreeMap<u64, Seen>) -> Result<(), Error> {
    let wide: Vec<u64> = all_seen
        .iter()
        .filter(|(_, seen)| seen.is_wide)
        .map(|(jobid, _)| *jobid)
        .collect();
    if wide.is_empty() {
        return Ok(());
    }
    let (list, ids) = id_list(&wide);
    let rows = work
        .query(
            &format!("SELECT jobid, notekey, value FROM {{p}}note WHERE jobid IN ({list}) AND notekey IN ('sz.meta', 'sz.trace')"),
            ids,
        )
        .await?;
    for row in &rows {
        let Some(seen) = all_seen.get_mut(&row.get::<u64>(0)?) else {
            continue;
        };
        let value: Option<Bytes> = row.get(2)?;
        if row.get::<String>(1)? == "sz.meta" {
            seen.meta = value;
        } else {
            seen.trace = value.and_then(|text| String::from_utf8(text.to_vec()).ok());
        }
    }
    Ok(())
}

/// Jobs whose time to live is over are removed instead of handed out.
pub(crate) async fn expire(
    work: &mut Work<'_>,
    lease: u64,
    rows: &mut Vec<(Row, Seen)>,
    effects: &mut Effects,
) -> Result<(), Error> {
    for (row, _) in rows.iter().filter(|(_, seen)| seen.is_late()) {
        wide::expire(work, row.get(0)?, Some(lease), effects).await?;
    }
    rows.retain(|(_, seen)| !seen.is_late());
    Ok(())
}

/// Notes the end of runs that have one: the job's own time, else its function's.
pub(crate) async fn bound(
    work: &mut Work<'_>,
    lease: u64,
    rows: &mut [(Row, Seen)],
    settings: &Known,
) -> Result<(), Error> {
    let mut runs = Vec::new();
    for (row, seen) in rows {
        let funcid = row.get(1)?;
        seen.max_attempts = seen.max_attempts.or(settings.max_attempts(funcid));
        seen.timeout_s = seen.timeout_s.or_else(|| settings.timeout(funcid));
        if let Some(seconds) = seen.timeout_s {
            // A row that is noted is looked at again when the run ends.
            seen.is_wide = true;
            runs.push(Timed {
                jobid: row.get(0)?,
                funcid,
                seconds,
            });
        }
    }
    wide::start(work, lease, &runs).await
}

/// Reads rows in order until their arguments together have [`GRAB_ARG_BYTES`]; answers which were read. The rest was not looked at.
async fn within_budget(work: &mut Work<'_>, ours: &[u64]) -> Result<(Vec<Row>, usize), Error> {
    let (mut rows, mut read, mut bytes) = (Vec::new(), 0, 0);
    let mut step = ROWS_FIRST;
    while read < ours.len() && bytes < GRAB_ARG_BYTES {
        let chunk = ours.get(read..).unwrap_or_default();
        let chunk = chunk.get(..step).unwrap_or(chunk);
        let (list, ids) = id_list(chunk);
        let template = format!("SELECT {COLUMNS} FROM {{p}}job WHERE jobid IN ({list})");
        for row in work.query(&template, ids).await? {
            bytes += row.get::<Option<u64>>(9)?.unwrap_or(0);
            rows.push(row);
        }
        read += chunk.len();
        // As many as fit if they are like those before.
        let each = bytes / u64::try_from(read).unwrap_or(u64::MAX) + 1;
        let fit = GRAB_ARG_BYTES.saturating_sub(bytes) / each;
        step = usize::try_from(fit).unwrap_or(ROWS_MAX).clamp(1, ROWS_MAX);
    }
    Ok((rows, read))
}

/// The rows of leased jobs with what else is known of them, in the order of the candidates; and the jobs whose arguments would be too much at
/// once, which are given back.
pub(crate) async fn rows_of(
    work: &mut Work<'_>,
    candidates: &[Candidate],
    ours: &mut Vec<u64>,
    lease: u64,
    has_side: bool,
) -> Result<Vec<(Row, Seen)>, Error> {
    let places: BTreeMap<u64, usize> = candidates
        .iter()
        .enumerate()
        .map(|(place, candidate)| (candidate.jobid, place))
        .collect();
    ours.sort_by_key(|jobid| places.get(jobid).copied());
    let (rows, read) = within_budget(work, ours).await?;
    let unread = ours.split_off(read);
    let sets = unread.iter().map(|jobid| params![*jobid, lease]).collect();
    work.execute_each(RELEASE, sets).await?;
    let (list, ids) = id_list(ours);
    let mut all_seen: BTreeMap<u64, Seen> = BTreeMap::new();
    let mut counts = format!(
        "SELECT jobid, COUNT(*), 0, NULL, 0, NULL FROM {{p}}error WHERE jobid IN ({list}) GROUP BY jobid"
    );
    let mut params = ids.clone();
    if has_side {
        counts.push_str(&format!(
            " UNION ALL SELECT jobid, MAX(attempt), 0, NULL, 0, NULL FROM {{p}}sz_attempt WHERE jobid IN ({list}) GROUP BY jobid \
             UNION ALL SELECT jobid, 0, 1, max_attempts, CASE WHEN expires_at <= :now THEN 1 ELSE 0 END, timeout_s FROM {{p}}sz_jobx WHERE jobid IN ({list})"
        ));
        params.extend(ids.clone());
        params.extend(ids);
    }
    for row in work.query(&counts, params).await? {
        let seen = all_seen.entry(row.get(0)?).or_default();
        seen.failures = seen.failures.max(row.get(1)?);
        seen.is_wide |= row.get::<u32>(2)? != 0;
        seen.max_attempts = seen.max_attempts.or(row.get(3)?);
        seen.is_expired |= row.get::<u32>(4)? != 0;
        seen.timeout_s = seen.timeout_s.or(row.get(5)?);
    }
    notes(work, &mut all_seen).await?;
    let mut all: Vec<(Row, Seen)> = rows
        .into_iter()
        .map(|row| {
            let seen = row
                .get(0)
                .ok()
                .and_then(|id: u64| all_seen.remove(&id))
                .unwrap_or_default();
            (row, seen)
        })
        .collect();
    all.sort_by_key(|(row, _)| {
        row.get(0)
            .ok()
            .and_then(|jobid: u64| places.get(&jobid).copied())
    });
    Ok(all)
}

//! Workloads that left memory, read back when their jobs' turn comes: on reader connections, beside the transactions.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ibex_gearman_core::JobId;
use ibex_sql::{Db, Error, Value};
use tokio::sync::mpsc;

use super::{Outcomes, schema};

/// Jobs of one statement.
const JOBS_MAX: usize = 64;

/// Answers until nobody can ask any more.
pub(super) async fn serve(
    db: Db,
    mut asked: mpsc::UnboundedReceiver<Vec<JobId>>,
    outcomes: Arc<impl Outcomes>,
) {
    while let Some(jobs) = asked.recv().await {
        for part in jobs.chunks(JOBS_MAX) {
            match read(&db, part).await {
                Ok(mut found) => {
                    let workloads = part.iter().map(|job| (*job, found.remove(job)));
                    outcomes.fetched(workloads.collect());
                }
                Err(error) => {
                    tracing::warn!(error = %error, jobs = part.len(), "workloads could not be read, will be asked again");
                    outcomes.fetch_failed(part.to_vec());
                }
            }
        }
    }
}

async fn read(db: &Db, jobs: &[JobId]) -> Result<BTreeMap<JobId, Bytes>, Error> {
    let marks = vec!["?"; jobs.len()].join(", ");
    let ids = jobs.iter().map(|job| Value::Int(schema::number(*job)));
    let sql = format!("SELECT id, workload FROM gearman_jobs WHERE id IN ({marks})");
    let mut found = BTreeMap::new();
    for row in db.query(sql, ids.collect()).await? {
        let id = u64::try_from(row.get::<i64>(0)?).unwrap_or(0);
        found.insert(JobId(id), row.get(1)?);
    }
    Ok(found)
}

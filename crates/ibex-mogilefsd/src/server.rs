//! Start and stop, top-down.

use crate::commands::Client;
use crate::config::Config;
use crate::conn;
use crate::jobs;
use crate::store::schema::{self, Found, SCHEMA_VERSION};
use crate::store::{Store, StoreError};
use crate::tracker::Tracker;
use ibex_kit::page::Section;
use ibex_kit::{Check, Failure, Kit};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the database is asked whether it is there.
const STORE_CHECK: Duration = Duration::from_secs(1);
/// And how long it may take to say so.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// Runs the tracker until it is told to stop.
///
/// # Errors
/// A database that cannot be opened or is newer than this program, or an address that cannot be bound.
pub async fn run(config: Config, kit: Kit) -> Result<(), Failure> {
    let store = open_store(&config, &kit).await?;
    let highest = store.highest_fid().await.map_err(temporary)?;
    store.raise_fid_counter(highest).await.map_err(temporary)?;
    let bound = kit.bind("tracker", &config.listen)?;
    let tracker = Arc::new(Tracker::new(config, kit.clone(), store, highest));
    tracker.reload().await.map_err(temporary)?;

    let reloaded = Arc::clone(&tracker);
    kit.on_reload(move |new: &Config| reloaded.replace_config(new.clone()));
    publish_pages(&kit, &tracker);
    kit.spawn_background(
        "store check",
        watch_store(Arc::clone(&tracker), kit.check("store")),
    );
    jobs::start(&tracker);
    let serving = Arc::clone(&tracker);
    bound.serve(
        |config: &Config| config.listen.clone(),
        move |arrival| {
            let client = Client {
                ip: arrival.peer.ip(),
            };
            conn::serve(Arc::clone(&serving), arrival.stream, client)
        },
    );
    kit.ready().await?;
    kit.draining().cancelled().await;
    if let Err(error) = tracker.give_back_claims().await {
        tracing::warn!(%error, "claimed work stays claimed until its lease ends");
    }
    Ok(())
}

/// Tells `/readyz` whether the database answers.
async fn watch_store(tracker: Arc<Tracker>, check: Check) {
    loop {
        match tracker.store.db.ping(STORE_PATIENCE).await {
            Ok(()) => check.ok(),
            Err(error) => check.failed(error.to_string()),
        }
        tokio::time::sleep(STORE_CHECK).await;
    }
}

async fn open_store(config: &Config, kit: &Kit) -> Result<Store, Failure> {
    let url = if config.store.url.is_empty() {
        format!("sqlite:{}", kit.state_dir()?.join("mogilefs.db").display())
    } else {
        config.store.url.clone()
    };
    let mut database =
        ibex_sql::Config::new(&url).map_err(|error| Failure::config(error.to_string()))?;
    if !config.store.password.is_empty() {
        database = database.with_password(config.store.password.reveal());
    }
    let deadline = Instant::now() + config.store.startup_timeout.std();
    loop {
        match try_open(&database).await {
            Ok((db, Found::Ready)) => {
                tracing::info!(database = %database, schema = SCHEMA_VERSION, "database open");
                return Ok(Store::new(db));
            }
            Ok((_, Found::Newer(version))) => {
                return Err(Failure::config(format!(
                    "database has schema version {version}, this tracker knows {SCHEMA_VERSION}"
                )));
            }
            Err(error) if error.is_retryable() && Instant::now() < deadline => {
                tracing::info!(%error, "database not reachable yet");
                kit.extend_startup(Duration::from_secs(10), "waiting for the database");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(error) => {
                return Err(Failure::temporary(format!(
                    "open database {database}: {error}"
                )));
            }
        }
    }
}

async fn try_open(database: &ibex_sql::Config) -> Result<(ibex_sql::Db, Found), ibex_sql::Error> {
    let db = ibex_sql::Db::open(database).await?;
    let found = schema::prepare(&db).await?;
    Ok((db, found))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "used as a function of map_err"
)]
fn temporary(error: StoreError) -> Failure {
    Failure::temporary(error.to_string())
}

fn publish_pages(kit: &Kit, tracker: &Arc<Tracker>) {
    let shown = Arc::clone(tracker);
    kit.page(move || {
        let snapshot = shown.snapshot();
        let mb = |value: Option<u64>| value.map_or_else(|| "–".to_owned(), |mb| format!("{mb} MB"));
        let devices = snapshot
            .cluster
            .devices
            .values()
            .map(|device| {
                let host = snapshot.cluster.hosts.get(&device.host);
                vec![
                    format!("dev{}", device.id),
                    host.map_or_else(String::new, |host| {
                        format!("{} ({})", host.name, host.state)
                    }),
                    device.state.to_string(),
                    device.observed.name().to_owned(),
                    mb(device.mb_total),
                    mb(device.mb_free()),
                ]
            })
            .collect();
        let classes = snapshot
            .domains
            .values()
            .flat_map(|domain| {
                domain.classes.values().map(|class| {
                    vec![
                        String::from_utf8_lossy(&domain.name).into_owned(),
                        String::from_utf8_lossy(&class.name).into_owned(),
                        class.mindevcount.to_string(),
                        class.policy.to_string(),
                    ]
                })
            })
            .collect();
        vec![
            Section::table(
                "Devices",
                ["device", "host", "state", "observed", "size", "free"],
                devices,
            ),
            Section::table(
                "Classes",
                ["domain", "class", "replicas", "policy"],
                classes,
            ),
        ]
    });
    let counted = Arc::clone(tracker);
    kit.status_line(move || {
        let snapshot = counted.snapshot();
        let writeable = snapshot.cluster.receivers().count();
        format!(
            "{writeable} of {} devices take files",
            snapshot.cluster.devices.len()
        )
    });
}

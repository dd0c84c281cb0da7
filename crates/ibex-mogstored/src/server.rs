//! Start and stop, top-down.

use crate::config::Config;
use crate::conn;
use crate::disks::Disks;
use crate::handler::Handler;
use crate::metrics::Metrics;
use crate::side::Side;
use crate::usage::{self, UsageWorker};
use ibex_kit::page::Section;
use ibex_kit::{Failure, Kit};
use ibex_mogilefs_proto::DevId;
use std::collections::BTreeSet;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::{Arc, RwLock};

/// The configuration that a reload replaces.
#[derive(Debug)]
pub(crate) struct Live(RwLock<Config>);

impl Live {
    /// The configuration now.
    pub(crate) fn config(&self) -> Config {
        self.0
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    fn replace(&self, config: Config) {
        *self
            .0
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = config;
    }
}

/// Runs the node until it is told to stop.
///
/// # Errors
/// An address that cannot be bound, or a device that cannot be cleaned up.
pub async fn run(config: Config, kit: Kit) -> Result<(), Failure> {
    let disks = Arc::new(Disks::new(Path::new(&config.docroot), config.disk_threads));
    let metrics = Arc::new(Metrics::register(kit.metrics()));
    let http = kit.bind("http", &config.listen)?;
    let side = kit.bind("side", &config.side_addresses())?;
    let live = Arc::new(Live(RwLock::new(config)));

    prepare(&disks, &live.config()).await?;
    let reloaded = Arc::clone(&live);
    kit.on_reload(move |new: &Config| reloaded.replace(new.clone()));
    kit.worker(UsageWorker {
        disks: Arc::clone(&disks),
        live: Arc::clone(&live),
        metrics: Arc::clone(&metrics),
        failing: BTreeSet::new(),
        rounds: 0,
    });
    publish_pages(&kit, &disks);

    let handler = Arc::new(Handler {
        disks: Arc::clone(&disks),
        live,
        metrics: Arc::clone(&metrics),
    });
    let connections = kit.clone();
    http.serve(
        |config: &Config| config.listen.clone(),
        move |arrival| conn::serve(Arc::clone(&handler), connections.clone(), arrival.stream),
    );
    let side_channel = Arc::new(Side {
        disks,
        metrics: Arc::clone(&metrics),
        kit: kit.clone(),
    });
    side.serve(Config::side_addresses, move |arrival| {
        let side_channel = Arc::clone(&side_channel);
        async move { side_channel.serve(arrival.stream).await }
    });
    kit.ready().await?;
    kit.draining().cancelled().await;
    Ok(())
}

/// Removes unfinished uploads of an earlier process and writes the first usage files, so that a tracker finds them as soon as the port is open.
async fn prepare(disks: &Arc<Disks>, config: &Config) -> Result<(), Failure> {
    let disks = Arc::clone(disks);
    let require_mounts = config.require_mounts;
    let docroot = config.docroot.clone();
    let wanted = config.make_devices.clone();
    let work = tokio::task::spawn_blocking(move || {
        make_devices(&disks, &wanted)?;
        let devices = disks.present();
        tracing::info!(docroot, devices = devices.len(), "devices found");
        for device in devices {
            match disks.clean_temp(device) {
                Ok(0) => {}
                Ok(removed) => {
                    tracing::info!(devid = %device, removed, "unfinished uploads removed")
                }
                Err(error) => {
                    tracing::warn!(devid = %device, %error, "cannot remove unfinished uploads")
                }
            }
        }
        for (device, outcome) in usage::round(&disks, require_mounts) {
            if let Err(error) = outcome {
                tracing::warn!(devid = %device, %error, "cannot write usage");
            }
        }
        Ok(())
    });
    work.await
        .map_err(|error| Failure::bug(error.to_string()))?
}

/// Makes the directories of devices that are to be there.
fn make_devices(disks: &Disks, wanted: &[u32]) -> Result<(), Failure> {
    for number in wanted {
        let path = disks.path(DevId(*number));
        match std::fs::DirBuilder::new().mode(0o750).create(&path) {
            Ok(()) => tracing::info!(devid = number, path = %path.display(), "device made"),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Failure::io(format!("{}: {error}", path.display()))),
        }
    }
    Ok(())
}

fn publish_pages(kit: &Kit, disks: &Arc<Disks>) {
    let listed = Arc::clone(disks);
    kit.page(move || {
        let rows = listed
            .present()
            .into_iter()
            .map(|device| {
                let usage = std::fs::read(listed.path(device).join("usage"))
                    .ok()
                    .and_then(|text| ibex_mogilefs_proto::usage::Usage::parse(&text));
                let cell = |value: Option<u64>| {
                    value.map_or_else(|| "–".to_owned(), |kib| format!("{} MiB", kib / 1024))
                };
                vec![
                    format!("dev{device}"),
                    cell(usage.as_ref().map(|usage| usage.total_kib)),
                    cell(usage.as_ref().map(|usage| usage.used_kib)),
                    usage.map_or_else(String::new, |usage| usage.disk),
                ]
            })
            .collect();
        vec![Section::table(
            "Devices",
            ["device", "size", "used", "disk"],
            rows,
        )]
    });
    let named = Arc::clone(disks);
    kit.status_line(move || format!("{} devices", named.present().len()));
}

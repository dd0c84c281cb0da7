//! The worker that measures every device and writes its `usage` file.
//!
//! Owns the numbers in it: statvfs with reserved blocks left out, or a walk over the files when `MOG_DEV_USAGE_VIA_DU` is set, as test suites of the
//! original do.

use crate::disks::Disks;
use crate::metrics::Metrics;
use crate::server::Live;
use ibex_kit::{Step, Worker, WorkerStatus};
use ibex_mogilefs_proto::DevId;
use ibex_mogilefs_proto::usage::Usage;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Measures all devices, again and again.
pub(crate) struct UsageWorker {
    pub(crate) disks: Arc<Disks>,
    pub(crate) live: Arc<Live>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) failing: BTreeSet<DevId>,
    pub(crate) rounds: u64,
}

impl Worker for UsageWorker {
    fn name(&self) -> String {
        "usage".to_owned()
    }

    fn status(&self) -> WorkerStatus {
        WorkerStatus {
            done: self.rounds,
            total: None,
            note: "rounds over all devices".to_owned(),
        }
    }

    async fn step(&mut self) -> Result<Step, anyhow::Error> {
        let disks = Arc::clone(&self.disks);
        let require_mounts = self.live.config().require_mounts;
        let outcomes = tokio::task::spawn_blocking(move || round(&disks, require_mounts)).await?;
        for (device, outcome) in outcomes {
            match outcome {
                Ok(usage) => {
                    self.metrics.observe_usage(device, &usage);
                    if self.failing.remove(&device) {
                        tracing::info!(devid = %device, "device is measured again");
                    }
                }
                Err(error) => {
                    if self.failing.insert(device) {
                        tracing::warn!(devid = %device, %error, "cannot write usage, trackers will stop using the device");
                    }
                }
            }
        }
        self.rounds += 1;
        Ok(Step::Idle {
            wait: self.live.config().usage_interval.std(),
        })
    }
}

/// Measures every device once. Blocks.
pub(crate) fn round(disks: &Disks, require_mounts: bool) -> Vec<(DevId, io::Result<Usage>)> {
    disks
        .present()
        .into_iter()
        .map(|device| (device, measure(disks, device, require_mounts)))
        .collect()
}

fn measure(disks: &Disks, device: DevId, require_mounts: bool) -> io::Result<Usage> {
    if !disks.is_mounted(device, require_mounts)? {
        return Err(io::Error::other("not a mount point"));
    }
    disks.observe(device)?;
    let path = disks.path(device);
    let space = rustix::fs::statvfs(&path)?;
    let kib = |blocks: u64| {
        (u128::from(blocks) * u128::from(space.f_frsize) / 1024)
            .try_into()
            .unwrap_or(u64::MAX)
    };
    let available_kib = kib(space.f_bavail);
    let used_kib = if std::env::var_os("MOG_DEV_USAGE_VIA_DU").is_some() {
        walk_kib(&path)
    } else {
        kib(space.f_blocks.saturating_sub(space.f_bfree))
    };
    let (source, mount_point) =
        mount_of(&path).unwrap_or_else(|| ("-".to_owned(), path.display().to_string()));
    let usage = Usage {
        available_kib,
        used_kib,
        total_kib: used_kib + available_kib,
        device: source,
        disk: mount_point,
        time: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    };
    replace(&path, usage.encode().as_bytes())?;
    Ok(usage)
}

/// Writes `usage` in one step. Not synced: the next round writes it anew.
fn replace(device: &Path, text: &[u8]) -> io::Result<()> {
    let temp = device.join(".usage.new");
    let mut file = fs::File::create(&temp)?;
    file.write_all(text)?;
    drop(file);
    fs::rename(temp, device.join("usage"))
}

fn walk_kib(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => walk_kib(&entry.path()),
            // The kernel counts blocks of 512 bytes.
            Ok(metadata) => metadata.blocks() / 2,
            Err(_) => 0,
        })
        .sum()
}

/// Source and mount point of the file system that holds `path`.
fn mount_of(path: &Path) -> Option<(String, String)> {
    let path = path.canonicalize().ok()?;
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    table
        .lines()
        .filter_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            let mount_point = front.split(' ').nth(4)?;
            path.starts_with(mount_point).then(|| {
                (
                    back.split(' ').nth(1).unwrap_or("-").to_owned(),
                    mount_point.to_owned(),
                )
            })
        })
        .max_by_key(|(_, mount_point)| mount_point.len())
}

//! Disk load from the kernel's statistics. Owns the reading of `/sys/dev/block/MAJOR:MINOR/stat`; file systems without a block device have no figures.

use std::time::Instant;

/// Busy time of one file system's disk, sampled.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    last: Option<(Instant, u64)>,
}

impl Sampler {
    /// Percent of the time since the last call during which the disk was busy; `None` at the first call or without figures.
    pub(crate) fn percent(&mut self, file_system: u64) -> Option<f64> {
        let busy_ms = busy_milliseconds(file_system)?;
        let now = Instant::now();
        let (then, before) = self.last.replace((now, busy_ms))?;
        let elapsed_ms = now.duration_since(then).as_secs_f64() * 1000.0;
        if elapsed_ms < 1.0 {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "milliseconds between two samples stay far below 2^53"
        )]
        let busy = busy_ms.saturating_sub(before) as f64;
        Some((busy / elapsed_ms * 100.0).min(100.0))
    }
}

fn busy_milliseconds(file_system: u64) -> Option<u64> {
    let (major, minor) = (
        rustix::fs::major(file_system),
        rustix::fs::minor(file_system),
    );
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    // The tenth figure is the time the device had requests in flight (Documentation/block/stat.rst of Linux).
    text.split_ascii_whitespace().nth(9)?.parse().ok()
}

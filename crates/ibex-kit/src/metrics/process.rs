//! The `process_*` metrics, from `/proc/self`.
//!
//! Owns the reading and the units. A hardened unit may hide files; what cannot be read is absent, never an error.

/// Appends the process metrics in OpenMetrics form.
pub(crate) fn write(out: &mut String) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command name may hold spaces and brackets; fields are counted after its last bracket. Field 3 of proc(5) is first here.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    let field = |number: usize| {
        fields
            .get(number - 3)
            .and_then(|text| text.parse::<u64>().ok())
    };
    let ticks = to_f64(rustix::param::clock_ticks_per_second());
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    if let (Some(user), Some(system)) = (field(14), field(15)) {
        let seconds = to_f64(user + system) / ticks;
        family(
            out,
            "process_cpu_seconds",
            "counter",
            "User and system time spent.",
            "process_cpu_seconds_total",
            seconds,
        );
    }
    if let Some(fds) = std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count) {
        family(
            out,
            "process_open_fds",
            "gauge",
            "Open file descriptors.",
            "process_open_fds",
            fds,
        );
    }
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        family(
            out,
            "process_max_fds",
            "gauge",
            "Most file descriptors allowed.",
            "process_max_fds",
            limit,
        );
    }
    if let Some(pages) = field(24) {
        family(
            out,
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory.",
            "process_resident_memory_bytes",
            pages * page,
        );
    }
    if let Some(bytes) = field(23) {
        family(
            out,
            "process_virtual_memory_bytes",
            "gauge",
            "Virtual memory.",
            "process_virtual_memory_bytes",
            bytes,
        );
    }
    if let Some(threads) = field(20) {
        family(
            out,
            "process_threads",
            "gauge",
            "Threads.",
            "process_threads",
            threads,
        );
    }
    if let Some(start) = start_time(field(22), ticks) {
        family(
            out,
            "process_start_time_seconds",
            "gauge",
            "Start of the process, Unix time.",
            "process_start_time_seconds",
            start,
        );
    }
}

/// Start time: now minus the age, the age being the time since boot minus the start since boot.
fn start_time(started_ticks: Option<u64>, ticks: f64) -> Option<f64> {
    let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .ok()?
        .as_secs_f64();
    let boot_age = to_f64(u64::try_from(since_boot.tv_sec).ok()?)
        + to_f64(u64::try_from(since_boot.tv_nsec).ok()?) / 1e9;
    Some(now - boot_age + to_f64(started_ticks?) / ticks)
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn to_f64(number: u64) -> f64 {
    number as f64
}

fn family(
    out: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    sample: &str,
    value: impl std::fmt::Display,
) {
    put!(
        out,
        "# HELP {name} {help}\n# TYPE {name} {kind}\n{sample} {value}\n"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_there_on_linux() {
        let mut out = String::new();
        write(&mut out);
        let names = [
            "cpu_seconds_total",
            "open_fds",
            "max_fds",
            "resident_memory_bytes",
            "virtual_memory_bytes",
            "threads",
            "start_time_seconds",
        ];
        for name in names {
            assert!(
                out.lines()
                    .any(|line| line.starts_with(&format!("process_{name} "))),
                "{name} missing in\n{out}"
            );
        }
        let start: f64 = out
            .lines()
            .find_map(|line| line.strip_prefix("process_start_time_seconds "))
            .unwrap()
            .parse()
            .unwrap();
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        assert!(
            (0.0..3600.0).contains(&(now - start + 1.0)),
            "{start} {now}"
        );
    }
}

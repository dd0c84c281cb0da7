//! Limits of the process: file descriptors.
//!
//! Owns the arithmetic of spec/ops.md 7.3: need, raise, and if the hard limit is short, fewer connections rather than failure.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::config::common::Common;
use crate::config::types::AutoOr;

/// Descriptors beside the clients': listeners, store, upstreams, log, admin.
const SPARE: u64 = 64;

/// What to set and how many connections fit.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    soft: u64,
    connections: u32,
}

fn plan(want: AutoOr, connections: u32, soft: u64, hard: u64, admin: u32) -> Plan {
    // Twice: a proxy needs an upstream descriptor for each client.
    let need = 2 * u64::from(connections) + u64::from(admin) + SPARE;
    let target = match want {
        AutoOr::Auto => soft.max(need),
        AutoOr::Exactly(number) => number,
    };
    let soft = target.min(hard);
    let fit = soft.saturating_sub(u64::from(admin) + SPARE).max(1);
    Plan {
        soft,
        connections: u32::try_from(fit).map_or(connections, |fit| fit.min(connections)),
    }
}

/// A configured memory beyond this share of the control group's limit is probably a mistake.
const MEMORY_SHARE_MAX: u64 = 80;

/// What to say about a memory limit within a control group that allows `group` bytes.
fn memory_warning(memory: u64, group: &str) -> Option<String> {
    let group: u64 = group.trim().parse().ok()?;
    let too_much = memory > group / 100 * MEMORY_SHARE_MAX;
    too_much.then(|| format!("limits.memory {memory} is more than {MEMORY_SHARE_MAX}% of the control group's {group} bytes"))
}

/// Warns if the control group allows less memory than is configured; where it cannot be read, nothing is said.
pub(crate) fn check_memory(common: &Common) {
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").unwrap_or_default();
    if let Some(warning) = memory_warning(common.limits.memory.bytes(), &group) {
        warn!("{warning}");
    }
}

/// Raises the soft limit, at most to the hard one, and lowers `limits.connections` if that is still short.
pub(crate) fn raise_open_files(common: &mut Common) {
    let now = getrlimit(Resource::Nofile);
    let soft = now.current.unwrap_or(u64::MAX);
    let hard = now.maximum.unwrap_or(u64::MAX);
    let plan = plan(
        common.limits.open_files,
        common.limits.connections,
        soft,
        hard,
        common.admin.connections,
    );
    if plan.soft != soft
        && let Err(error) = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(plan.soft),
                maximum: now.maximum,
            },
        )
    {
        warn!(error = %error, open_files = soft, "file descriptor limit stays");
    }
    if plan.connections < common.limits.connections {
        warn!(
            configured = common.limits.connections,
            connections = plan.connections,
            open_files = plan.soft,
            hard,
            "fewer connections than configured fit the file descriptor limit"
        );
        common.limits.connections = plan.connections;
    }
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    info!(open_files = plan.soft, connections = common.limits.connections, memory = %common.limits.memory, processors = threads, "limits");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_beyond_the_control_group() {
        assert!(memory_warning(900, "1000\n").is_some_and(|text| text.contains("80%")));
        assert_eq!(memory_warning(800, "1000\n"), None);
        assert_eq!(memory_warning(900, "max\n"), None);
        assert_eq!(memory_warning(900, ""), None);
    }

    #[test]
    fn the_plan() {
        // Room enough: raised to the need.
        assert_eq!(
            plan(AutoOr::Auto, 10_000, 1024, 1_048_576, 64),
            Plan {
                soft: 20_128,
                connections: 10_000
            }
        );
        // Already more than needed: left alone.
        assert_eq!(
            plan(AutoOr::Auto, 100, 65_536, 65_536, 64),
            Plan {
                soft: 65_536,
                connections: 100
            }
        );
        // A container with 20 000: short of the doubled need, but the clients fit.
        assert_eq!(
            plan(AutoOr::Auto, 10_000, 1024, 20_000, 64),
            Plan {
                soft: 20_000,
                connections: 10_000
            }
        );
        // Far too few: connections give way.
        assert_eq!(
            plan(AutoOr::Auto, 10_000, 1024, 4096, 64),
            Plan {
                soft: 4096,
                connections: 3968
            }
        );
        // Exactly as told.
        assert_eq!(
            plan(AutoOr::Exactly(2048), 10_000, 1024, 4096, 64),
            Plan {
                soft: 2048,
                connections: 1920
            }
        );
        assert_eq!(plan(AutoOr::Auto, 10_000, 10, 10, 64).connections, 1);
    }
}

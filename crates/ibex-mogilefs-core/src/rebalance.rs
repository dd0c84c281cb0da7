//! Moving files off devices: which devices give, which receive, and the progress string that survives a restart.
//!
//! Owns the policy language (`from_percent_used=95 to_percent_free=10`) and the selection. Feeding queues and copying is the shell's.

use crate::cluster::{Cluster, Device};
use ibex_mogilefs_proto::DevId;
use std::collections::{BTreeMap, BTreeSet};

/// Whether a run moves the oldest or the newest files first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FidAge {
    /// Lowest file ids first.
    #[default]
    Old,
    /// Highest file ids first.
    New,
}

/// What bounds a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Limit {
    /// Until the source is empty.
    #[default]
    None,
    /// So many files per source.
    Count(u64),
    /// So many bytes per source.
    Bytes(u64),
}

/// A rebalance policy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    from: Filter,
    to: Filter,
    not_to_hosts: BTreeSet<u32>,
    not_to_devices: BTreeSet<u32>,
    /// Order of files.
    pub fid_age: FidAge,
    /// Bound of the run.
    pub limit: Limit,
    /// Whether emptied sources stay in the state `drain`.
    pub leave_in_drain_mode: bool,
    /// How many destinations a queue item names at most; `None` is all.
    pub destinations_max: Option<usize>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Filter {
    all: bool,
    hosts: BTreeSet<u32>,
    devices: BTreeSet<u32>,
    percent_used: Option<f64>,
    percent_free: Option<f64>,
    space_used_mb: Option<u64>,
    space_free_mb: Option<u64>,
}

/// Why a text is no plan: the name that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid setting {0}")]
pub struct PlanError(pub String);

impl Plan {
    /// Reads `name=value` words.
    ///
    /// # Errors
    /// [`PlanError`] with the first unknown name or unusable value.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        let mut plan = Self::default();
        let mut limit_by = None;
        let mut limit_amount = None;
        for word in text.split_ascii_whitespace() {
            let (name, value) = word
                .split_once('=')
                .ok_or_else(|| PlanError(word.to_owned()))?;
            let known = match name {
                "limit_by" => {
                    limit_by = Some(value);
                    matches!(value, "none" | "count" | "size")
                }
                "limit" => {
                    limit_amount = parse_amount(value);
                    limit_amount.is_some()
                }
                "limit_type" => matches!(value, "device" | "global"),
                _ => plan.set(name, value).is_some(),
            };
            if !known {
                return Err(PlanError(name.to_owned()));
            }
        }
        plan.limit = match (limit_by, limit_amount) {
            (Some("count"), Some(amount)) => Limit::Count(amount),
            (Some("size"), Some(amount)) => Limit::Bytes(amount),
            _ => Limit::None,
        };
        Ok(plan)
    }

    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        if let Some(rest) = name.strip_prefix("from_") {
            return self.from.set(rest, value);
        }
        if let Some(rest) = name.strip_prefix("to_") {
            return self.to.set(rest, value);
        }
        match name {
            "not_to_hosts" => self.not_to_hosts = parse_ids(value)?,
            "not_to_devices" => self.not_to_devices = parse_ids(value)?,
            "fid_age" if value == "old" => self.fid_age = FidAge::Old,
            "fid_age" if value == "new" => self.fid_age = FidAge::New,
            "leave_in_drain_mode" => self.leave_in_drain_mode = parse_flag(value)?,
            "use_dest_devs" if value == "all" => self.destinations_max = None,
            "use_dest_devs" => {
                self.destinations_max = Some(value.parse().ok().filter(|&count| count > 0)?)
            }
            _ => return None,
        }
        Some(())
    }

    /// Devices that give, by number.
    #[must_use]
    pub fn sources(&self, cluster: &Cluster) -> Vec<DevId> {
        cluster
            .devices
            .values()
            .filter(|device| cluster.can_delete(device.id) && self.from.passes(device))
            .map(|device| device.id)
            .collect()
    }

    /// Devices that receive, by number; never a source.
    #[must_use]
    pub fn destinations(&self, cluster: &Cluster) -> Vec<DevId> {
        let sources: BTreeSet<DevId> = self.sources(cluster).into_iter().collect();
        cluster
            .receivers()
            .filter(|device| !sources.contains(&device.id) && self.to.is_open(device))
            .filter(|device| {
                !self.not_to_hosts.contains(&device.host.0)
                    && !self.not_to_devices.contains(&device.id.0)
            })
            .map(|device| device.id)
            .collect()
    }
}

impl Filter {
    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "all_devs" => self.all = parse_flag(value)?,
            "hosts" => self.hosts = parse_ids(value)?,
            "devices" => self.devices = parse_ids(value)?,
            "percent_used" => self.percent_used = Some(parse_percent(value)?),
            "percent_free" => self.percent_free = Some(parse_percent(value)?),
            "space_used" => self.space_used_mb = Some(value.parse().ok()?),
            "space_free" => self.space_free_mb = Some(value.parse().ok()?),
            _ => return None,
        }
        Some(())
    }

    /// Whether a device is named by some condition and contradicts none.
    fn passes(&self, device: &Device) -> bool {
        let names_something =
            self.all || !self.hosts.is_empty() || !self.devices.is_empty() || self.has_thresholds();
        names_something && self.is_open(device)
    }

    /// Whether a device contradicts no condition; without conditions all are open.
    fn is_open(&self, device: &Device) -> bool {
        let named = self.all
            || (self.hosts.is_empty() && self.devices.is_empty())
            || self.hosts.contains(&device.host.0)
            || self.devices.contains(&device.id.0);
        let free_percent = device.free_fraction().map(|free| free * 100.0);
        let above = |limit: Option<f64>, value: Option<f64>| {
            limit.is_none_or(|limit| value.is_some_and(|value| value > limit))
        };
        let above_mb = |limit: Option<u64>, value: Option<u64>| {
            limit.is_none_or(|limit| value.is_some_and(|value| value > limit))
        };
        named
            && above(self.percent_used, free_percent.map(|free| 100.0 - free))
            && above(self.percent_free, free_percent)
            && above_mb(self.space_used_mb, device.mb_used)
            && above_mb(self.space_free_mb, device.mb_free())
    }

    fn has_thresholds(&self) -> bool {
        self.percent_used.is_some()
            || self.percent_free.is_some()
            || self.space_used_mb.is_some()
            || self.space_free_mb.is_some()
    }
}

fn parse_ids(value: &str) -> Option<BTreeSet<u32>> {
    value
        .split(',')
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().ok())
        .collect()
}

fn parse_flag(value: &str) -> Option<bool> {
    match value {
        "1" => Some(true),
        "0" => Some(false),
        _ => None,
    }
}

fn parse_percent(value: &str) -> Option<f64> {
    value
        .parse()
        .ok()
        .filter(|percent| (0.0..=100.0).contains(percent))
}

/// A number with an optional `k`, `m`, `g` or `t`.
fn parse_amount(value: &str) -> Option<u64> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match value[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// Progress of a run as the `name=value` string kept in the setting `rebal_state`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    fields: BTreeMap<String, String>,
}

impl Progress {
    /// Reads the string; words without `=` are skipped.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let fields = text
            .split_ascii_whitespace()
            .filter_map(|word| word.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self { fields }
    }

    /// The string to store.
    #[must_use]
    pub fn encode(&self) -> String {
        self.fields
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// A number; 0 when absent.
    #[must_use]
    pub fn number(&self, name: &str) -> u64 {
        self.fields
            .get(name)
            .and_then(|value| value.parse().ok())
            .unwrap_or(0)
    }

    /// Devices in a comma list.
    #[must_use]
    pub fn devices(&self, name: &str) -> Vec<DevId> {
        let text = self.fields.get(name).map_or("", String::as_str);
        text.split(',')
            .filter_map(|part| DevId::parse(part.as_bytes()))
            .collect()
    }

    /// Sets a number.
    pub fn set_number(&mut self, name: &str, value: u64) {
        self.fields.insert(name.to_owned(), value.to_string());
    }

    /// Sets a comma list of devices.
    pub fn set_devices(&mut self, name: &str, devices: &[DevId]) {
        let list = devices
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",");
        self.fields.insert(name.to_owned(), list);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_read_and_refuse() {
        assert!(
            Plan::parse(
                "from_percent_used=95 to_percent_free=10.5 limit_by=size limit=100g use_dest_devs=3"
            )
            .is_ok_and(|plan| plan.limit == Limit::Bytes(100 << 30))
        );
        assert_eq!(Plan::parse("bogus=1"), Err(PlanError("bogus".into())));
        assert_eq!(
            Plan::parse("from_percent_used=lots"),
            Err(PlanError("from_percent_used".into()))
        );
        assert_eq!(Plan::parse("word"), Err(PlanError("word".into())));
    }

    #[test]
    fn progress_round_trips() {
        let mut progress = Progress::default();
        progress.set_devices("source_devs", &[DevId(3), DevId(4)]);
        progress.set_number("fids_queued", 12);
        let read = Progress::parse(&progress.encode());
        assert_eq!(read, progress);
        assert_eq!(read.devices("source_devs"), [DevId(3), DevId(4)]);
        assert_eq!(read.number("missing"), 0);
    }
}

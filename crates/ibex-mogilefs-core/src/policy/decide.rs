//! The judgement of a policy over one file: enough, too many, or where the next replica belongs.

use super::{Policy, spread};
use crate::cluster::{Cluster, Device};
use crate::weighted::by_free_space;
use ibex_base::rng::Rng;
use ibex_mogilefs_proto::DevId;
use std::collections::BTreeSet;

/// What a policy is asked about: one file and the world around it.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// Hosts and devices.
    pub cluster: &'a Cluster,
    /// Devices the file is on; those that do not count must be left out.
    pub on: &'a BTreeSet<DevId>,
    /// Devices that are no destination now, because a copy there just failed or must not happen.
    pub failed: &'a BTreeSet<DevId>,
    /// The class's count of replicas, at least 1.
    pub mindevcount: u32,
}

/// A policy's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Enough, and well placed.
    Happy,
    /// More than needed.
    TooHappy,
    /// Another replica is needed.
    Place {
        /// Destinations that bring the file closer to what the policy asks, best first.
        ideal: Vec<DevId>,
        /// Destinations that are better than nothing, best first.
        desperate: Vec<DevId>,
    },
    /// Not happy, and no destination would help.
    Stuck,
}

impl Verdict {
    /// Whether the file needs nothing more.
    #[must_use]
    pub fn is_satisfied(&self) -> bool {
        matches!(self, Self::Happy | Self::TooHappy)
    }

    pub(super) fn place(ideal: Vec<DevId>, desperate: Vec<DevId>) -> Self {
        if ideal.is_empty() && desperate.is_empty() {
            Self::Stuck
        } else {
            Self::Place { ideal, desperate }
        }
    }
}

impl Situation<'_> {
    /// Devices that may get a replica of this file, by number.
    pub(super) fn candidates(&self) -> impl Iterator<Item = &Device> {
        self.cluster
            .receivers()
            .filter(|device| !self.on.contains(&device.id) && !self.failed.contains(&device.id))
    }

    pub(super) fn copies(&self) -> u32 {
        u32::try_from(self.on.len()).unwrap_or(u32::MAX)
    }
}

impl Policy {
    /// Judges `situation`. The same situation and generator state give the same answer.
    #[must_use]
    pub fn decide(&self, situation: &Situation<'_>, rng: &mut Rng) -> Verdict {
        debug_assert!(
            situation.on.iter().all(|&id| situation.cluster.counts(id)),
            "replicas that do not count were passed"
        );
        match self {
            Self::MultipleHosts(count) => {
                multiple_hosts(situation, count.unwrap_or(situation.mindevcount), rng)
            }
            Self::MultipleDevices(count) => {
                multiple_devices(situation, count.unwrap_or(situation.mindevcount), rng)
            }
            Self::MultipleNetworks(count) => {
                spread::multiple_networks(situation, count.unwrap_or(situation.mindevcount), rng)
            }
            Self::HostsPerNetwork(zones) => spread::hosts_per_network(situation, zones, rng),
            Self::OnDevices(devices) => on_devices(situation, devices),
            Self::OnHosts(hosts) => on_hosts(situation, hosts, rng),
            Self::Union(parts) => union(situation, parts, rng),
        }
    }
}

fn multiple_hosts(situation: &Situation<'_>, min: u32, rng: &mut Rng) -> Verdict {
    let copies = situation.copies();
    if min == 1 && copies == 1 {
        return Verdict::Happy;
    }
    let used = situation.cluster.hosts_of(situation.on);
    let hosts_on = u32::try_from(used.len()).unwrap_or(u32::MAX);
    let receiving: BTreeSet<_> = situation
        .cluster
        .receivers()
        .map(|device| device.host)
        .collect();
    if hosts_on >= min {
        return if copies > min {
            Verdict::TooHappy
        } else {
            Verdict::Happy
        };
    }
    // DIFFERS(mogilefsd): the original calls more copies than asked for too many even when they share a host and another is free; it then removes before it
    // spreads. Here a better place comes first and the surplus goes afterwards.
    let ideal = by_free_space(
        situation
            .candidates()
            .filter(|device| !used.contains(&device.host)),
        rng,
    );
    let no_host_left = receiving.is_subset(&used);
    if ideal.is_empty() && copies >= min {
        return match (no_host_left, copies > min) {
            (true, true) => Verdict::TooHappy,
            (true, false) => Verdict::Happy,
            // Enough copies, badly placed, and the better place fails just now: another copy on a used host would not help.
            (false, _) => Verdict::Stuck,
        };
    }
    let desperate = by_free_space(
        situation
            .candidates()
            .filter(|device| used.contains(&device.host) && copies < min),
        rng,
    );
    Verdict::place(ideal, desperate)
}

fn multiple_devices(situation: &Situation<'_>, min: u32, rng: &mut Rng) -> Verdict {
    let copies = situation.copies();
    if copies > min {
        return Verdict::TooHappy;
    }
    if copies == min {
        return Verdict::Happy;
    }
    Verdict::place(by_free_space(situation.candidates(), rng), Vec::new())
}

fn on_devices(situation: &Situation<'_>, devices: &[DevId]) -> Verdict {
    let missing: Vec<DevId> = devices
        .iter()
        .copied()
        .filter(|id| !situation.on.contains(id))
        .collect();
    if missing.is_empty() {
        return extra(situation, devices.len());
    }
    let possible = |id: &DevId| situation.candidates().any(|device| device.id == *id);
    Verdict::place(missing.into_iter().filter(possible).collect(), Vec::new())
}

fn on_hosts(situation: &Situation<'_>, hosts: &[String], rng: &mut Rng) -> Verdict {
    let cluster = situation.cluster;
    let used = cluster.hosts_of(situation.on);
    let missing: Vec<_> = hosts
        .iter()
        .filter(|name| {
            cluster
                .host_named(name.as_bytes())
                .is_none_or(|host| !used.contains(&host.id))
        })
        .collect();
    if missing.is_empty() {
        return extra(situation, hosts.len());
    }
    let wanted = |device: &&Device| {
        missing.iter().any(|name| {
            cluster
                .host_named(name.as_bytes())
                .is_some_and(|host| host.id == device.host)
        })
    };
    Verdict::place(
        by_free_space(situation.candidates().filter(wanted), rng),
        Vec::new(),
    )
}

/// Satisfied; too much so when there are more replicas than `needed`.
pub(super) fn extra(situation: &Situation<'_>, needed: usize) -> Verdict {
    if situation.on.len() > needed {
        Verdict::TooHappy
    } else {
        Verdict::Happy
    }
}

fn union(situation: &Situation<'_>, parts: &[Policy], rng: &mut Rng) -> Verdict {
    let verdicts: Vec<Verdict> = parts
        .iter()
        .map(|part| part.decide(situation, rng))
        .collect();
    if verdicts.iter().all(|verdict| *verdict == Verdict::TooHappy) {
        return Verdict::TooHappy;
    }
    verdicts
        .into_iter()
        .find(|verdict| !verdict.is_satisfied())
        .unwrap_or(Verdict::Happy)
}

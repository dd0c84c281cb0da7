//! The two policies that look at networks: spread over as many as there are, or a fixed number of hosts in each.

use super::decide::{Situation, Verdict, extra};
use crate::cluster::{Cluster, Device};
use crate::weighted::by_free_space;
use ibex_base::rng::Rng;
use ibex_mogilefs_proto::DevId;
use std::collections::BTreeSet;

fn count<T>(set: &BTreeSet<T>) -> u32 {
    u32::try_from(set.len()).unwrap_or(u32::MAX)
}

/// Networks first, up to as many as can receive files, then hosts. A known network is less desperate than a used host.
pub(super) fn multiple_networks(situation: &Situation<'_>, min: u32, rng: &mut Rng) -> Verdict {
    let cluster = situation.cluster;
    let copies = situation.copies();
    if min == 1 && copies == 1 {
        return Verdict::Happy;
    }
    let network = |device: &Device| cluster.network_of(device.id);
    let used_hosts = cluster.hosts_of(situation.on);
    let used_networks: BTreeSet<String> = situation
        .on
        .iter()
        .filter_map(|&id| cluster.network_of(id))
        .collect();
    let receiving: BTreeSet<String> = cluster.receivers().filter_map(network).collect();
    let reachable = count(&receiving.union(&used_networks).cloned().collect());
    let spread_enough = count(&used_networks) >= min.min(reachable);

    if copies > min && spread_enough {
        return Verdict::TooHappy;
    }
    let hosts_left = cluster
        .receivers()
        .any(|device| !used_hosts.contains(&device.host));
    if spread_enough && (count(&used_hosts) >= min || (copies >= min && !hosts_left)) {
        return Verdict::Happy;
    }
    let fresh_host = |device: &&Device| !used_hosts.contains(&device.host);
    let fresh_network =
        |device: &&Device| network(device).is_some_and(|network| !used_networks.contains(&network));
    let best = by_free_space(
        situation
            .candidates()
            .filter(|device| fresh_host(device) && fresh_network(device)),
        rng,
    );
    let other_hosts = by_free_space(
        situation
            .candidates()
            .filter(|device| fresh_host(device) && !fresh_network(device)),
        rng,
    );
    let same_hosts = by_free_space(
        situation.candidates().filter(|device| !fresh_host(device)),
        rng,
    );
    if copies >= min && best.is_empty() && (!spread_enough || other_hosts.is_empty()) {
        return Verdict::Stuck;
    }
    if spread_enough {
        let ideal = best.into_iter().chain(other_hosts).collect();
        return Verdict::place(ideal, same_hosts);
    }
    Verdict::place(best, other_hosts.into_iter().chain(same_hosts).collect())
}

/// So many hosts of each zone; where a zone has fewer hosts than that, devices make up for them.
pub(super) fn hosts_per_network(
    situation: &Situation<'_>,
    zones: &[(String, u32)],
    rng: &mut Rng,
) -> Verdict {
    let cluster = situation.cluster;
    let mut ideal = Vec::new();
    let mut desperate = Vec::new();
    let mut unhappy = false;
    for (zone, wanted) in zones {
        let here: BTreeSet<DevId> = situation
            .on
            .iter()
            .copied()
            .filter(|&id| cluster.zone_of(id) == Some(zone.as_str()))
            .collect();
        let used_hosts = cluster.hosts_of(&here);
        let enough_hosts = count(&used_hosts) >= *wanted;
        let hosts_left = has_other_hosts(cluster, zone, &used_hosts);
        if enough_hosts || (count(&here) >= *wanted && !hosts_left) {
            continue;
        }
        unhappy = true;
        let in_zone = |device: &&Device| cluster.zone_of(device.id) == Some(zone.as_str());
        let fresh = |device: &&Device| !used_hosts.contains(&device.host);
        ideal.extend(by_free_space(
            situation
                .candidates()
                .filter(|device| in_zone(device) && fresh(device)),
            rng,
        ));
        if count(&here) < *wanted {
            desperate.extend(by_free_space(
                situation
                    .candidates()
                    .filter(|device| in_zone(device) && !fresh(device)),
                rng,
            ));
        }
    }
    if unhappy {
        return Verdict::place(ideal, desperate);
    }
    extra(
        situation,
        zones
            .iter()
            .map(|(_, wanted)| usize::try_from(*wanted).unwrap_or(usize::MAX))
            .sum(),
    )
}

fn has_other_hosts(cluster: &Cluster, zone: &str, used: &BTreeSet<crate::HostId>) -> bool {
    cluster
        .receivers()
        .any(|device| cluster.zone_of(device.id) == Some(zone) && !used.contains(&device.host))
}

//! Where new files go and in which order readers try replicas.

use crate::cluster::Cluster;
use crate::weighted::{by_free_space, shuffle};
use ibex_base::rng::Rng;
use ibex_mogilefs_proto::DevId;
use std::collections::BTreeSet;

/// Most destinations a client is offered for one upload.
pub const DESTINATIONS_MAX: usize = 3;

/// A wish for destinations.
#[derive(Debug, Clone, Copy)]
pub struct NewFile<'a> {
    /// Length in bytes, when the client knows it.
    pub bytes: Option<u64>,
    /// How many destinations, at most [`DESTINATIONS_MAX`].
    pub count: usize,
    /// The client's zone, whose devices are offered first.
    pub zone: Option<&'a str>,
}

/// Devices for a new file, best first, all on different hosts as long as there are enough hosts. Empty when no device may get files.
///
/// DIFFERS(mogilefsd): the original compares device ids with host ids here and may offer two devices of one host while others are free.
#[must_use]
pub fn destinations(cluster: &Cluster, wish: NewFile<'_>, rng: &mut Rng) -> Vec<DevId> {
    let fits = |device: &&crate::cluster::Device| match (wish.bytes, device.mb_free()) {
        (Some(bytes), Some(free)) => free.saturating_mul(1 << 20) > bytes,
        (Some(_), None) => false,
        (None, _) => true,
    };
    let mut order = by_free_space(cluster.receivers().filter(fits), rng);
    if order.is_empty() {
        order = by_free_space(
            cluster
                .receivers()
                .filter(|device| device.mb_free().is_none()),
            rng,
        );
    }
    if let Some(zone) = wish.zone {
        // A stable sort keeps the weighted order within each half.
        order.sort_by_key(|&id| cluster.zone_of(id) != Some(zone));
    }
    spread_over_hosts(cluster, &order, wish.count.clamp(1, DESTINATIONS_MAX))
}

fn spread_over_hosts(cluster: &Cluster, order: &[DevId], count: usize) -> Vec<DevId> {
    let mut used = BTreeSet::new();
    let (mut fresh, others): (Vec<DevId>, Vec<DevId>) = order.iter().partition(|id| {
        cluster
            .devices
            .get(id)
            .is_some_and(|device| used.insert(device.host))
    });
    fresh.extend(others);
    fresh.truncate(count);
    fresh
}

/// Replicas in the order to read them: idle disks tend to come first, draining ones last, and those that cannot be read now only when nothing else is
/// left. Dead and
/// unknown devices are never named.
#[must_use]
pub fn read_order(
    cluster: &Cluster,
    replicas: &[DevId],
    zone: Option<&str>,
    rng: &mut Rng,
) -> Vec<DevId> {
    let weight = |id: DevId| {
        let device = cluster.devices.get(&id)?;
        let weight = match device.utilization {
            Some(percent) => (102.0 - percent).max(1.0),
            None if device.weight == 0 => 100.0,
            None => f64::from(device.weight),
        };
        Some((id, weight))
    };
    let known: Vec<(DevId, f64)> = replicas
        .iter()
        .filter(|id| cluster.counts(**id))
        .filter_map(|&id| weight(id))
        .collect();
    let mut order = shuffle(&known, rng);
    let readable = |id: &DevId| {
        cluster.can_read(*id)
            && cluster
                .devices
                .get(id)
                .is_some_and(|device| device.observed != crate::Observed::Unreachable)
    };
    if order.iter().any(readable) {
        order.retain(readable);
    }
    order.sort_by_key(|&id| {
        let draining = cluster
            .devices
            .get(&id)
            .is_some_and(|device| device.state == crate::DeviceState::Drain);
        (draining, zone.is_some() && cluster.zone_of(id) != zone)
    });
    order
}

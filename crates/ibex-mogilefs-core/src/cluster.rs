//! A picture of the hosts and devices at one moment, and the questions asked of it.
//!
//! The shell builds a new picture from database rows and the monitor's observations and swaps it in whole; nothing here changes by itself. Maps are
//! ordered, so that answers
//! depend on the picture and the seed alone.

use crate::ids::HostId;
use crate::netmask::{Netmask, Zones};
use crate::state::{DeviceState, HostState, Observed};
use ibex_mogilefs_proto::DevId;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// A storage node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Number.
    pub id: HostId,
    /// Name.
    pub name: String,
    /// The administrator's word.
    pub state: HostState,
    /// Address for HTTP, as stored.
    pub ip: String,
    /// Port for HTTP.
    pub http_port: u16,
    /// Port for GET when it differs.
    pub http_get_port: Option<u16>,
    /// Second address, shown to clients in `altmask`.
    pub altip: Option<String>,
    /// Which clients get `altip`.
    pub altmask: Option<String>,
}

impl Host {
    /// Port for reading.
    #[must_use]
    pub fn get_port(&self) -> u16 {
        self.http_get_port.unwrap_or(self.http_port)
    }

    /// The address a client at `client` should use; `force_alt` asks for the second one wherever there is one.
    #[must_use]
    pub fn address_for(&self, client: Option<Ipv4Addr>, force_alt: bool) -> &str {
        let Some(altip) = &self.altip else {
            return &self.ip;
        };
        let in_mask = || {
            let mask = Netmask::parse(self.altmask.as_deref()?)?;
            client.map(|client| mask.contains(client))
        };
        if force_alt || in_mask().unwrap_or(false) {
            altip
        } else {
            &self.ip
        }
    }

    /// The network two hosts must not share under a policy that spreads over networks: the zone, or the surrounding `/16`.
    #[must_use]
    pub fn network(&self, zones: &Zones) -> String {
        let Ok(address) = self.ip.parse::<Ipv4Addr>() else {
            return self.ip.clone();
        };
        zones
            .zone_of(address)
            .map_or_else(|| Netmask::of(address, 16).to_string(), str::to_owned)
    }
}

/// A disk of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Number.
    pub id: DevId,
    /// Its node.
    pub host: HostId,
    /// The administrator's word.
    pub state: DeviceState,
    /// Share of reads relative to other disks; 100 is usual.
    pub weight: u32,
    /// Size, MB.
    pub mb_total: Option<u64>,
    /// In use, MB.
    pub mb_used: Option<u64>,
    /// When the sizes were taken, seconds since 1970.
    pub mb_asof: Option<u64>,
    /// The monitor's word.
    pub observed: Observed,
    /// Busy time of the disk in percent, when its node tells.
    pub utilization: Option<f64>,
    /// Whether its node verifies `Content-MD5` itself.
    pub rejects_bad_md5: Option<bool>,
}

impl Device {
    /// Free space in MB, when known.
    #[must_use]
    pub fn mb_free(&self) -> Option<u64> {
        let total = self.mb_total.filter(|&total| total > 0)?;
        Some(total.saturating_sub(self.mb_used?))
    }

    /// Free share of the disk, 0 to 1, when known.
    #[must_use]
    pub fn free_fraction(&self) -> Option<f64> {
        let total = self.mb_total.filter(|&total| total > 0)?;
        #[expect(
            clippy::cast_precision_loss,
            reason = "a ratio for ordering; megabytes of a disk stay far below 2^53"
        )]
        let fraction = self.mb_free()? as f64 / total as f64;
        Some(fraction)
    }
}

/// All hosts, devices and zones at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cluster {
    /// Nodes by number.
    pub hosts: BTreeMap<HostId, Host>,
    /// Disks by number.
    pub devices: BTreeMap<DevId, Device>,
    /// Named networks.
    pub zones: Zones,
    /// Free space below which a disk gets nothing new, MB.
    pub min_free_mb: u64,
}

impl Cluster {
    /// The disk and its node.
    #[must_use]
    pub fn device(&self, id: DevId) -> Option<(&Device, &Host)> {
        let device = self.devices.get(&id)?;
        Some((device, self.hosts.get(&device.host)?))
    }

    /// The node called `name`.
    #[must_use]
    pub fn host_named(&self, name: &[u8]) -> Option<&Host> {
        self.hosts
            .values()
            .find(|host| host.name.as_bytes() == name)
    }

    /// Whether states allow reading from it, whatever the monitor saw.
    #[must_use]
    pub fn can_read(&self, id: DevId) -> bool {
        self.device(id)
            .is_some_and(|(device, host)| device.state.can_read() && host.state.can_read())
    }

    /// Whether it can be read now, as far as the monitor knows.
    #[must_use]
    pub fn is_readable(&self, id: DevId) -> bool {
        self.can_read(id)
            && self
                .devices
                .get(&id)
                .is_some_and(|device| device.observed.can_read())
    }

    /// Whether states allow removing files from it.
    #[must_use]
    pub fn can_delete(&self, id: DevId) -> bool {
        self.device(id)
            .is_some_and(|(device, host)| device.state.can_delete() && host.state.can_write())
    }

    /// Whether it may get new files and replicas.
    #[must_use]
    pub fn gets_files(&self, id: DevId) -> bool {
        self.device(id).is_some_and(|(device, host)| {
            device.state.gets_files()
                && host.state.can_write()
                && device.observed == Observed::Writeable
                && device.mb_free().is_none_or(|free| free >= self.min_free_mb)
        })
    }

    /// Whether a replica there counts. Unknown devices hold nothing.
    #[must_use]
    pub fn counts(&self, id: DevId) -> bool {
        self.devices
            .get(&id)
            .is_some_and(|device| device.state.counts())
    }

    /// Devices that may get new files, by number.
    pub fn receivers(&self) -> impl Iterator<Item = &Device> {
        self.devices
            .values()
            .filter(|device| self.gets_files(device.id))
    }

    /// Nodes of the given devices.
    #[must_use]
    pub fn hosts_of<'a>(&self, devices: impl IntoIterator<Item = &'a DevId>) -> BTreeSet<HostId> {
        devices
            .into_iter()
            .filter_map(|id| self.devices.get(id))
            .map(|device| device.host)
            .collect()
    }

    /// Network of a device's node, as policies see it.
    #[must_use]
    pub fn network_of(&self, id: DevId) -> Option<String> {
        self.device(id).map(|(_, host)| host.network(&self.zones))
    }

    /// Zone of a device's node.
    #[must_use]
    pub fn zone_of(&self, id: DevId) -> Option<&str> {
        let (_, host) = self.device(id)?;
        self.zones.zone_of(host.ip.parse().ok()?)
    }
}

//! Simulation: a cluster whose devices come, go, fill up and die, and files that are stepped until they rest.
//!
//! Checked after every step: nothing is removed that leaves fewer counting replicas than asked; stepping ends; with a calm cluster every file ends on
//! as many hosts as it should.
//! `IBEX_SIM_SEED` replays one seed, `IBEX_SIM_SEEDS` widens the run.

use ibex_base::rng::Rng;
use ibex_mogilefs_core::replicate::{Progress, Step, next_step};
use ibex_mogilefs_core::{
    Cluster, DevId, Device, DeviceState, Host, HostId, HostState, Observed, Policy,
};
use std::collections::BTreeSet;
use std::fmt::Write as _;

const SEEDS: u64 = 256;
const STEPS_MAX: usize = 64;

struct World {
    cluster: Cluster,
    files: Vec<(BTreeSet<DevId>, u32, Policy)>,
    rng: Rng,
    trace: String,
    is_stormy: bool,
}

fn device_id(host: u32, slot: u32) -> DevId {
    DevId(host * 10 + slot)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut cluster = Cluster {
            min_free_mb: 100,
            ..Cluster::default()
        };
        let hosts = 2 + u32::try_from(rng.below(4)).unwrap();
        for host in 1..=hosts {
            let id = HostId(host);
            cluster.hosts.insert(
                id,
                Host {
                    id,
                    name: format!("h{host}"),
                    state: HostState::Alive,
                    ip: format!("10.{}.0.{host}", host % 2),
                    http_port: 7500,
                    http_get_port: None,
                    altip: None,
                    altmask: None,
                },
            );
            for slot in 0..1 + u32::try_from(rng.below(3)).unwrap() {
                let id = device_id(host, slot);
                cluster.devices.insert(id, new_device(id, HostId(host)));
            }
        }
        Self {
            cluster,
            files: Vec::new(),
            rng,
            trace: String::new(),
            is_stormy: true,
        }
    }

    fn disturb(&mut self) {
        let devices: Vec<DevId> = self.cluster.devices.keys().copied().collect();
        let id = *self.rng.pick(&devices).unwrap();
        let what = self.rng.below(7);
        let device = self.cluster.devices.get_mut(&id).unwrap();
        match what {
            0 => device.observed = Observed::Unreachable,
            1 | 2 => device.observed = Observed::Writeable,
            3 => device.state = DeviceState::Drain,
            4 => device.state = DeviceState::Alive,
            5 => device.mb_used = device.mb_total,
            _ => device.state = DeviceState::Down,
        }
        writeln!(self.trace, "disturb {id} {what}").unwrap();
    }

    fn create(&mut self) {
        let receivers: Vec<DevId> = self.cluster.receivers().map(|device| device.id).collect();
        let Some(&first) = self.rng.pick(&receivers) else {
            return;
        };
        let policy = match self.rng.below(4) {
            0 => Policy::MultipleDevices(None),
            1 => Policy::MultipleNetworks(None),
            _ => Policy::MultipleHosts(None),
        };
        let count = 1 + u32::try_from(self.rng.below(3)).unwrap();
        self.files.push((BTreeSet::from([first]), count, policy));
    }

    /// Steps one file until it rests.
    fn settle(&mut self, index: usize) {
        let (on, count, policy) = self.files[index].clone();
        let mut progress = Progress {
            on,
            failed: BTreeSet::new(),
        };
        for _ in 0..STEPS_MAX {
            // An administrator may give a device up between two steps.
            if self.is_stormy && self.rng.chance(1, 40) {
                self.kill(&progress.on);
            }
            let step = next_step(&self.cluster, &policy, count, &progress, &mut self.rng);
            writeln!(self.trace, "file {index} {step:?}").unwrap();
            match step {
                Step::Done | Step::Stuck => {
                    self.files[index].0 = progress.on;
                    return;
                }
                Step::Copy { to, .. } => {
                    assert!(
                        self.cluster.gets_files(to),
                        "copy to a device that gets no files"
                    );
                    assert!(!progress.on.contains(&to), "copy onto an existing replica");
                    if self.rng.chance(1, 5) {
                        progress.failed.insert(to);
                    } else {
                        progress.on.insert(to);
                    }
                }
                Step::Remove(device) => {
                    assert!(self.cluster.can_delete(device) && progress.on.contains(&device));
                    progress.on.remove(&device);
                    let readable = progress
                        .on
                        .iter()
                        .filter(|&&id| self.cluster.can_read(id))
                        .count();
                    assert!(
                        readable >= usize::try_from(count).unwrap(),
                        "removed below the count: {progress:?}"
                    );
                }
            }
        }
        panic!("file {index} never rests:\n{}", self.trace);
    }

    /// One of these devices dies; its replicas are lost.
    fn kill(&mut self, on: &BTreeSet<DevId>) {
        let on: Vec<DevId> = on.iter().copied().collect();
        if let Some(device) = self
            .rng
            .pick(&on)
            .and_then(|id| self.cluster.devices.get_mut(id))
        {
            device.state = DeviceState::Dead;
            writeln!(self.trace, "dead {}", device.id).unwrap();
        }
    }

    fn calm(&mut self) {
        self.is_stormy = false;
        for host in self.cluster.hosts.values_mut() {
            host.state = HostState::Alive;
        }
        for device in self.cluster.devices.values_mut() {
            *device = new_device(device.id, device.host);
        }
    }
}

fn new_device(id: DevId, host: HostId) -> Device {
    Device {
        id,
        host,
        state: DeviceState::Alive,
        weight: 100,
        mb_total: Some(10_000),
        mb_used: Some(1000),
        mb_asof: None,
        observed: Observed::Writeable,
        utilization: None,
        rejects_bad_md5: None,
    }
}

fn run(seed: u64) -> String {
    let mut world = World::new(seed);
    for _ in 0..60 {
        match world.rng.below(10) {
            0..=2 => world.disturb(),
            3..=4 => world.create(),
            _ if world.files.is_empty() => world.create(),
            _ => {
                let index = world.rng.index(world.files.len());
                world.settle(index);
            }
        }
    }
    world.calm();
    for index in 0..world.files.len() {
        // Failed copies leave a file unfinished; calm rounds finish it.
        for _ in 0..32 {
            world.settle(index);
        }
        let (on, count, policy) = &world.files[index];
        let hosts = u32::try_from(world.cluster.hosts_of(on).len()).unwrap();
        let possible = u32::try_from(world.cluster.hosts.len()).unwrap();
        let copies = u32::try_from(on.len()).unwrap();
        let capacity = u32::try_from(world.cluster.devices.len()).unwrap();
        assert!(
            copies >= (*count).min(capacity),
            "seed {seed}: {copies} of {count} copies of file {index}"
        );
        if *policy == Policy::MultipleHosts(None) && *count > 1 {
            assert!(
                hosts >= (*count).min(possible),
                "seed {seed}: {hosts} of {count} hosts of file {index}: {on:?}"
            );
        }
    }
    world.trace
}

#[test]
fn files_end_where_they_belong() {
    if let Ok(seed) = std::env::var("IBEX_SIM_SEED") {
        run(seed.parse().expect("IBEX_SIM_SEED is a number"));
        return;
    }
    let seeds = std::env::var("IBEX_SIM_SEEDS").ok().map_or(SEEDS, |seeds| {
        seeds.parse().expect("IBEX_SIM_SEEDS is a number")
    });
    for seed in 0..seeds {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(
            outcome.is_ok(),
            "seed {seed} failed; replay with IBEX_SIM_SEED={seed}"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    assert_eq!(run(42), run(42));
}

//! The next step for one file: copy it somewhere, remove one replica too many, or leave it; and when to try again after a failure.
//!
//! The shell performs a step, updates the set of replicas, and asks again until the answer is final. Owns the rule that nothing is removed unless the
//! rest would
//! satisfy the policy no less than before.

use crate::cluster::Cluster;
use crate::policy::{Policy, Situation, Verdict};
use ibex_base::rng::Rng;
use ibex_mogilefs_proto::DevId;
use std::collections::BTreeSet;
use std::time::Duration;

/// What to do with a file next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The policy is satisfied.
    Done,
    /// Make a replica.
    Copy {
        /// Where.
        to: DevId,
        /// Whether the destination is only better than nothing: when all is done the file still wants a better place.
        desperate: bool,
    },
    /// Remove a replica.
    Remove(DevId),
    /// Nothing can be done now; try later.
    Stuck,
}

/// One file on its way to happiness.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Devices it is on, as far as they count.
    pub on: BTreeSet<DevId>,
    /// Destinations that failed this time.
    pub failed: BTreeSet<DevId>,
}

/// The next step for a file of a class with `policy` and `mindevcount`.
#[must_use]
pub fn next_step(
    cluster: &Cluster,
    policy: &Policy,
    mindevcount: u32,
    progress: &Progress,
    rng: &mut Rng,
) -> Step {
    // A device may have been given up between two steps; what is on it counts no longer.
    let on: BTreeSet<DevId> = progress
        .on
        .iter()
        .copied()
        .filter(|&device| cluster.counts(device))
        .collect();
    let situation = Situation {
        cluster,
        on: &on,
        failed: &progress.failed,
        mindevcount: mindevcount.max(1),
    };
    match policy.decide(&situation, rng) {
        Verdict::Happy => Step::Done,
        Verdict::TooHappy => surplus(&situation, policy, rng).map_or(Step::Done, Step::Remove),
        Verdict::Stuck => Step::Stuck,
        Verdict::Place { ideal, desperate } => match (ideal.first(), desperate.first()) {
            (Some(&to), _) => Step::Copy {
                to,
                desperate: false,
            },
            (None, Some(&to)) => Step::Copy {
                to,
                desperate: true,
            },
            (None, None) => Step::Stuck,
        },
    }
}

/// The replica to remove when there is one too many: a random one among those on devices that allow it and can be read, whose absence leaves the
/// policy satisfied.
///
/// DIFFERS(mogilefsd): the original removes any, and may remove the only replica on a second host and copy it back.
fn surplus(situation: &Situation<'_>, policy: &Policy, rng: &mut Rng) -> Option<DevId> {
    let removable: Vec<DevId> = situation
        .on
        .iter()
        .copied()
        .filter(|&id| situation.cluster.can_delete(id) && situation.cluster.is_readable(id))
        .filter(|id| {
            let mut rest = situation.on.clone();
            rest.remove(id);
            // A replica nobody can read now must not be what makes the others superfluous.
            rest.retain(|&other| situation.cluster.can_read(other));
            let without = Situation {
                on: &rest,
                ..*situation
            };
            policy.decide(&without, rng).is_satisfied()
        })
        .collect();
    rng.pick(&removable).copied()
}

/// The replica to copy from: the one the queue row names if it can be read, else one of the local zone, else any; none that failed before.
#[must_use]
pub fn choose_source(
    cluster: &Cluster,
    on: &BTreeSet<DevId>,
    preferred: Option<DevId>,
    failed: &BTreeSet<DevId>,
    zone: Option<&str>,
    rng: &mut Rng,
) -> Option<DevId> {
    let usable = |id: &DevId| on.contains(id) && !failed.contains(id) && cluster.can_read(*id);
    let reachable = |id: &DevId| usable(id) && cluster.is_readable(*id);
    if let Some(preferred) = preferred.filter(reachable) {
        return Some(preferred);
    }
    let local: Vec<DevId> = on
        .iter()
        .copied()
        .filter(|id| reachable(id) && zone.is_some() && cluster.zone_of(*id) == zone)
        .collect();
    let any: Vec<DevId> = on.iter().copied().filter(reachable).collect();
    // The monitor may be behind: a device it could not reach a moment ago is still worth a try when nothing else is left.
    let last: Vec<DevId> = on.iter().copied().filter(usable).collect();
    [local, any, last]
        .iter()
        .find_map(|set| rng.pick(set).copied())
}

/// How long to wait after the `failures`-th failure in a row (0 is the first), within a fifth either way so that a fleet does not try in step.
#[must_use]
pub fn retry_delay(failures: u32, rng: &mut Rng) -> Duration {
    /// Soon at first, since most failures are a node that restarts; daily in the end, since the rest wait for a person.
    const STEPS_SECONDS: [u64; 8] = [15, 60, 300, 1800, 3600, 7200, 14_400, 28_800];
    const LAST_SECONDS: u64 = 86_400;
    let index = usize::try_from(failures).unwrap_or(usize::MAX);
    let base = STEPS_SECONDS.get(index).copied().unwrap_or(LAST_SECONDS);
    Duration::from_millis(base * (800 + rng.below(401)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_jitter() {
        let mut rng = Rng::new(7);
        for (failures, base) in [
            (0, 15),
            (1, 60),
            (7, 28_800),
            (8, 86_400),
            (u32::MAX, 86_400),
        ] {
            let delay = retry_delay(failures, &mut rng).as_millis();
            assert!(
                (base * 800..=base * 1200).contains(&delay),
                "{failures}: {delay} ms"
            );
        }
    }
}

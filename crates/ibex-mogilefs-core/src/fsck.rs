//! Checking one file: what its replicas look like, which events that is worth, and what repairs it.
//!
//! The shell probes the replicas and reads digests; this module judges. Event codes are four letters, stored in the log and summed in settings.

use ibex_mogilefs_proto::{Checksum, DevId};

/// Something a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// `NOPA`: no location is recorded.
    NoPath,
    /// `POVI`: the replication policy is violated.
    PolicyViolation,
    /// `BCNT`: the recorded count of replicas is wrong.
    BadCount,
    /// `MISS`: a recorded replica does not exist.
    Missing,
    /// `BLEN`: a replica has the wrong length.
    BadLength,
    /// `SRCH`: no good replica is recorded, all devices are searched.
    Search,
    /// `FOND`: the search found one.
    Found,
    /// `GONE`: nothing was found anywhere.
    Gone,
    /// `REPL`: replication was queued.
    Replicate,
    /// `BSUM`: digests disagree with the stored one.
    BadChecksum,
    /// `BALG`: the stored digest is of another algorithm than the class asks for.
    BadAlgorithm,
    /// `NSUM`: a digest was stored where there was none.
    NewChecksum,
    /// `MSUM`: replicas differ and no digest says which is right.
    MultipleChecksums,
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 13] = [
        Self::NoPath,
        Self::PolicyViolation,
        Self::BadCount,
        Self::Missing,
        Self::BadLength,
        Self::Search,
        Self::Found,
        Self::Gone,
        Self::Replicate,
        Self::BadChecksum,
        Self::BadAlgorithm,
        Self::NewChecksum,
        Self::MultipleChecksums,
    ];

    /// The code in the log.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoPath => "NOPA",
            Self::PolicyViolation => "POVI",
            Self::BadCount => "BCNT",
            Self::Missing => "MISS",
            Self::BadLength => "BLEN",
            Self::Search => "SRCH",
            Self::Found => "FOND",
            Self::Gone => "GONE",
            Self::Replicate => "REPL",
            Self::BadChecksum => "BSUM",
            Self::BadAlgorithm => "BALG",
            Self::NewChecksum => "NSUM",
            Self::MultipleChecksums => "MSUM",
        }
    }
}

/// What a node said about one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// It has so many bytes.
    Length(u64),
    /// There is no such file.
    Missing,
    /// The node did not answer, so nothing is known.
    Unreachable,
    /// The device is dead or unknown: as good as missing, and not worth an event.
    Lost,
}

/// The sorted result of probing the recorded replicas of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Replicas of the right length.
    pub good: Vec<DevId>,
    /// Locations that must be forgotten.
    pub bad: Vec<DevId>,
    /// What to log, with the device concerned.
    pub events: Vec<(Event, Option<DevId>)>,
    /// Whether a node was silent; nothing may be dropped or declared gone then.
    pub stalled: bool,
}

/// Sorts probes of a file that should have `length` bytes.
#[must_use]
pub fn inspect(length: u64, probes: &[(DevId, Probe)]) -> Inspection {
    let mut inspection = Inspection::default();
    for &(device, probe) in probes {
        match probe {
            Probe::Length(found) if found == length => inspection.good.push(device),
            Probe::Length(_) => {
                inspection.bad.push(device);
                inspection.events.push((Event::BadLength, Some(device)));
            }
            Probe::Missing => {
                inspection.bad.push(device);
                inspection.events.push((Event::Missing, Some(device)));
            }
            Probe::Lost => inspection.bad.push(device),
            Probe::Unreachable => inspection.stalled = true,
        }
    }
    inspection
}

/// What to do about digests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChecksumRepair {
    /// What to log.
    pub events: Vec<(Event, Option<DevId>)>,
    /// Replicas to forget because others match the stored digest.
    pub drop: Vec<DevId>,
    /// Digest to store.
    pub store: Option<Checksum>,
}

/// Compares the digests of all good replicas with the stored one. `wants` says whether the class keeps digests. Nothing is dropped unless another
/// replica matches.
#[must_use]
pub fn judge_checksums(
    stored: Option<&Checksum>,
    wants: bool,
    found: &[(DevId, Checksum)],
) -> ChecksumRepair {
    let mut repair = ChecksumRepair::default();
    let Some((_, first)) = found.first() else {
        return repair;
    };
    let all_agree = found.iter().all(|(_, sum)| sum == first);
    match stored {
        None if all_agree && wants => {
            repair.events.push((Event::NewChecksum, None));
            repair.store = Some(first.clone());
        }
        None if all_agree => {}
        None => repair.events.push((Event::MultipleChecksums, None)),
        Some(stored) if stored.algorithm != first.algorithm => {
            repair.events.push((Event::BadAlgorithm, None))
        }
        Some(stored) => {
            let differing: Vec<DevId> = found
                .iter()
                .filter(|(_, sum)| sum != stored)
                .map(|(device, _)| *device)
                .collect();
            if differing.is_empty() {
                return repair;
            }
            if differing.len() == found.len() {
                repair.events.push((Event::BadChecksum, None));
            } else {
                repair.events.extend(
                    differing
                        .iter()
                        .map(|&device| (Event::BadChecksum, Some(device))),
                );
                repair.drop = differing;
            }
        }
    }
    repair
}

#[cfg(test)]
mod tests {
    use super::*;

    fn md5(byte: u8) -> Checksum {
        Checksum {
            algorithm: ibex_mogilefs_proto::HashAlgorithm::Md5,
            digest: vec![byte; 16],
        }
    }

    #[test]
    fn probes_are_sorted() {
        let probes = [
            (DevId(1), Probe::Length(5)),
            (DevId(2), Probe::Length(4)),
            (DevId(3), Probe::Missing),
            (DevId(4), Probe::Lost),
            (DevId(5), Probe::Unreachable),
        ];
        let inspection = inspect(5, &probes);
        assert_eq!(inspection.good, [DevId(1)]);
        assert_eq!(inspection.bad, [DevId(2), DevId(3), DevId(4)]);
        assert_eq!(
            inspection.events,
            [
                (Event::BadLength, Some(DevId(2))),
                (Event::Missing, Some(DevId(3)))
            ]
        );
        assert!(inspection.stalled);
    }

    #[test]
    fn a_replica_is_dropped_only_when_another_matches() {
        let (good, bad) = ((DevId(1), md5(1)), (DevId(2), md5(2)));
        let repair = judge_checksums(Some(&md5(1)), true, &[good.clone(), bad.clone()]);
        assert_eq!(repair.drop, [DevId(2)]);
        let repair = judge_checksums(Some(&md5(3)), true, &[good.clone(), bad.clone()]);
        assert_eq!(
            (repair.drop.len(), repair.events),
            (0, vec![(Event::BadChecksum, None)])
        );
        let repair = judge_checksums(None, true, &[good.clone(), bad]);
        assert_eq!(
            (repair.drop.len(), repair.events),
            (0, vec![(Event::MultipleChecksums, None)])
        );
        let repair = judge_checksums(None, true, &[good]);
        assert_eq!(repair.store, Some(md5(1)));
    }
}

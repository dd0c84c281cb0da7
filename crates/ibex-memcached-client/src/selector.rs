//! Which server holds a key: pure arithmetic over the list of servers.
//!
//! Compatible with libmemcached (modula, ketama, ketama-weighted) and Cache::Memcached (perl); rendezvous and jump are for new pools.
//! Knows nothing of connections: the caller says which servers are alive.

use crate::hash::{Hash, crc, md5, md5_point};

/// Points of an unweighted ketama ring per server (libmemcached `MEMCACHED_POINTS_PER_SERVER`).
const KETAMA_POINTS: u32 = 100;
/// Points of a weighted ketama ring per server at even weights (libmemcached `MEMCACHED_POINTS_PER_SERVER_KETAMA`).
const KETAMA_WEIGHTED_POINTS: f32 = 160.0;
/// Points one MD5 gives.
const POINTS_PER_DIGEST: u32 = 4;
/// How often Cache::Memcached looks for another server when one is dead.
const PERL_TRIES_MAX: u32 = 20;
/// The port that ketama leaves out of a server's name.
const DEFAULT_PORT: u16 = 11211;

/// How keys are spread over servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Distribution {
    /// Hash modulo number of servers; libmemcached's and php-memcached's default. Weights count for nothing.
    Modula,
    /// Consistent hashing as libmemcached's `KETAMA`, php-memcached's `DISTRIBUTION_CONSISTENT` and pylibmc's `ketama`. Weights count for nothing.
    /// A libmemcached that was told so before servers with weights were added does as [`Distribution::KetamaWeighted`] with this hash for keys.
    #[default]
    Ketama,
    /// Consistent hashing with weights as libmemcached's `KETAMA_WEIGHTED`, PHP's `LIBKETAMA_COMPATIBLE` and pylibmc's `ketama_weighted`: MD5 on the
    /// ring, and for keys too unless another hash is asked for.
    KetamaWeighted,
    /// Cache::Memcached: weighted buckets and CRC, whichever hash is asked for.
    Perl,
    /// Highest random weight: minimal movement, no ring. Hashes with MD5.
    Rendezvous,
    /// Jump consistent hash: for pools that only grow at the end. Hashes with MD5.
    Jump,
}

impl Distribution {
    /// The hash of keys that its original uses unless told otherwise.
    #[must_use]
    pub fn default_hash(self) -> Hash {
        match self {
            Self::Modula | Self::Ketama => Hash::OneAtATime,
            Self::KetamaWeighted | Self::Rendezvous | Self::Jump => Hash::Md5,
            Self::Perl => Hash::Crc,
        }
    }
}

/// Name and weight of a server, as far as the choice needs them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Host name, address or socket path as configured.
    pub host: String,
    /// TCP port; 0 for a socket path.
    pub port: u16,
    /// Relative share, at least 1.
    pub weight: u32,
}

/// A prepared choice over a fixed list of servers.
#[derive(Debug, Clone)]
pub struct Selector {
    distribution: Distribution,
    hash: Hash,
    /// Ketama: points sorted by (point, server). Perl: one entry per bucket. Others: one entry per live server.
    points: Vec<(u32, usize)>,
    /// Seeds of rendezvous, one per entry of `points`.
    seeds: Vec<u64>,
}

impl Selector {
    /// Prepares the choice over those `servers` for which `alive` holds. The returned indices count in `servers`.
    pub fn new(
        distribution: Distribution,
        hash: Hash,
        servers: &[Candidate],
        alive: impl Fn(usize) -> bool,
    ) -> Self {
        let live: Vec<(usize, &Candidate)> = servers
            .iter()
            .enumerate()
            .filter(|(index, _)| alive(*index))
            .collect();
        let points = match distribution {
            Distribution::Ketama => sorted(
                live.iter()
                    .flat_map(|(index, server)| ketama_points(*index, server, hash))
                    .collect(),
            ),
            Distribution::KetamaWeighted => sorted(weighted_points(&live)),
            Distribution::Perl => live
                .iter()
                .flat_map(|(index, server)| (0..server.weight.max(1)).map(|_| (0, *index)))
                .collect(),
            Distribution::Modula | Distribution::Rendezvous | Distribution::Jump => {
                live.iter().map(|(index, _)| (0, *index)).collect()
            }
        };
        let seeds = match distribution {
            Distribution::Rendezvous => live
                .iter()
                .map(|(_, server)| first_word(&md5(name(server).as_bytes())))
                .collect(),
            Distribution::Modula
            | Distribution::Ketama
            | Distribution::KetamaWeighted
            | Distribution::Perl
            | Distribution::Jump => Vec::new(),
        };
        Self {
            distribution,
            hash,
            points,
            seeds,
        }
    }

    /// The server of `key`; `None` without servers.
    pub fn server(&self, key: &[u8]) -> Option<usize> {
        self.server_of_number(self.number(key))
    }

    /// What this distribution makes of a key before it looks for a server.
    pub fn number(&self, key: &[u8]) -> u64 {
        match self.distribution {
            Distribution::Modula | Distribution::Ketama | Distribution::KetamaWeighted => {
                u64::from(self.hash.of(key))
            }
            Distribution::Perl => u64::from(crc(key)),
            Distribution::Rendezvous | Distribution::Jump => first_word(&md5(key)),
        }
    }

    /// The server of a number that stands in place of a hash; a ring knows its low 32 bits. `None` without servers.
    pub fn server_of_number(&self, number: u64) -> Option<usize> {
        match self.distribution {
            Distribution::Modula | Distribution::Perl => self.at(number),
            Distribution::Ketama | Distribution::KetamaWeighted => {
                let [low, ..] = split(number);
                self.successor(low)
            }
            Distribution::Rendezvous => self.highest(number),
            Distribution::Jump => self.jump(number),
        }
    }

    /// A server that is alive, looking further from `number` with the number of the try before `key`, at most 20 times; `None` if all those are dead.
    /// Cache::Memcached adds the CRC of that; the other distributions take its hash, because on a ring a small step leads to the same server again.
    pub fn rehashed(
        &self,
        number: u64,
        key: &[u8],
        alive: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let mut number = number;
        for attempt in 1..=PERL_TRIES_MAX {
            let server = self.server_of_number(number)?;
            if alive(server) {
                return Some(server);
            }
            let mut again = attempt.to_string().into_bytes();
            again.extend_from_slice(key);
            number = match self.distribution {
                Distribution::Perl => number.wrapping_add(u64::from(crc(&again))),
                Distribution::Modula
                | Distribution::Ketama
                | Distribution::KetamaWeighted
                | Distribution::Rendezvous
                | Distribution::Jump => self.number(&again),
            };
        }
        None
    }

    fn at(&self, hash: u64) -> Option<usize> {
        let index = hash.checked_rem(self.points.len() as u64)?;
        self.points
            .get(usize::try_from(index).ok()?)
            .map(|(_, server)| *server)
    }

    fn successor(&self, hash: u32) -> Option<usize> {
        let at = self.points.partition_point(|(point, _)| *point < hash);
        self.points
            .get(at)
            .or(self.points.first())
            .map(|(_, server)| *server)
    }

    fn highest(&self, hash: u64) -> Option<usize> {
        let scored = self
            .points
            .iter()
            .zip(&self.seeds)
            .map(|((_, server), seed)| (mix(hash ^ seed), *server));
        scored.max().map(|(_, server)| server)
    }

    /// Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm".
    fn jump(&self, mut key: u64) -> Option<usize> {
        let count = self.points.len() as u64;
        let (mut bucket, mut next) = (0_u64, 0_u64);
        while next < count {
            bucket = next;
            key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
            // floor((bucket + 1) * 2^31 / ((key >> 33) + 1)), in whole numbers.
            next = (u128::from(bucket + 1) << 31)
                .checked_div(u128::from((key >> 33) + 1))
                .and_then(|next| u64::try_from(next).ok())?;
        }
        self.at(bucket)
    }
}

/// Low and high half.
fn split(number: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

fn first_word(digest: &[u8; 16]) -> u64 {
    u64::from(md5_point(digest, 0)) << 32 | u64::from(md5_point(digest, 1))
}

/// The finaliser of splitmix64.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn sorted(mut points: Vec<(u32, usize)>) -> Vec<(u32, usize)> {
    points.sort_unstable();
    points
}

/// `host`, or `host:port` unless the port is the usual one.
fn name(server: &Candidate) -> String {
    if server.port == DEFAULT_PORT {
        server.host.clone()
    } else {
        format!("{}:{}", server.host, server.port)
    }
}

// COMPAT(libmemcached 1.1.4): the points are made with the hash in force when the ring is made. php-memcached and pylibmc set the hash before that, so
// points and keys are hashed alike, as here. A C program that sets another hash after its servers keeps a ring of default points; no such pool can be shared.
fn ketama_points(
    index: usize,
    server: &Candidate,
    hash: Hash,
) -> impl Iterator<Item = (u32, usize)> {
    let name = name(server);
    (0..KETAMA_POINTS).map(move |point| (hash.of(format!("{name}-{point}").as_bytes()), index))
}

fn weighted_points(live: &[(usize, &Candidate)]) -> Vec<(u32, usize)> {
    let total: u32 = live.iter().map(|(_, server)| server.weight.max(1)).sum();
    let mut points = Vec::new();
    for (index, server) in live {
        let name = name(server);
        for digest_index in 0..weighted_digests(server.weight.max(1), total, live.len()) {
            let digest = md5(format!("{name}-{digest_index}").as_bytes());
            points.extend(
                (0..POINTS_PER_DIGEST as usize).map(|word| (md5_point(&digest, word), *index)),
            );
        }
    }
    points
}

/// MD5 digests a server contributes, in the original's single-precision arithmetic: rounding is part of the compatibility.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "libmemcached computes this in C floats, and pools must agree with it"
)]
fn weighted_digests(weight: u32, total: u32, live: usize) -> u32 {
    let share = weight as f32 / total as f32;
    (share * KETAMA_WEIGHTED_POINTS / 4.0 * live as f32 + 0.000_000_000_1).floor() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn servers(count: u16) -> Vec<Candidate> {
        (0..count)
            .map(|n| Candidate {
                host: "10.0.0.1".to_owned(),
                port: 11211 + n,
                weight: 1,
            })
            .collect()
    }

    const ALL: [Distribution; 6] = [
        Distribution::Modula,
        Distribution::Ketama,
        Distribution::KetamaWeighted,
        Distribution::Perl,
        Distribution::Rendezvous,
        Distribution::Jump,
    ];

    #[test]
    fn no_server_no_choice() {
        for distribution in ALL {
            assert_eq!(
                Selector::new(distribution, Hash::default(), &[], |_| true).server(b"k"),
                None
            );
        }
    }

    #[test]
    fn consistent_distributions_move_few_keys_when_a_server_leaves() {
        for distribution in [
            Distribution::Ketama,
            Distribution::KetamaWeighted,
            Distribution::Rendezvous,
        ] {
            let servers = servers(10);
            let all = Selector::new(distribution, Hash::Md5, &servers, |_| true);
            let fewer = Selector::new(distribution, Hash::Md5, &servers, |index| index != 3);
            for n in 0..2000 {
                let key = format!("key{n}").into_bytes();
                let before = all.server(&key).unwrap();
                if before != 3 {
                    assert_eq!(fewer.server(&key), Some(before), "{distribution:?}");
                }
            }
        }
    }

    /// What libmemcached's ejection makes: the ring of the servers left, with their weights.
    #[test]
    fn without_a_dead_server_the_choice_is_that_of_a_pool_without_it() {
        let mut all = servers(6);
        for (server, weight) in all.iter_mut().zip([3, 1, 2, 1, 5, 1]) {
            server.weight = weight;
        }
        let mut left = all.clone();
        left.remove(2);
        for distribution in ALL {
            let hash = distribution.default_hash();
            let ejected = Selector::new(distribution, hash, &all, |index| index != 2);
            let without = Selector::new(distribution, hash, &left, |_| true);
            for n in 0..2000 {
                let key = format!("key{n}").into_bytes();
                let expected = without.server(&key).map(|at| at + usize::from(at >= 2));
                assert_eq!(ejected.server(&key), expected, "{distribution:?}");
            }
        }
    }

    #[test]
    fn keys_look_further_when_a_server_is_dead() {
        for distribution in ALL {
            let hash = distribution.default_hash();
            let selector = Selector::new(distribution, hash, &servers(3), |_| true);
            for n in 0..100 {
                let key = format!("k{n}").into_bytes();
                let number = selector.number(&key);
                let chosen = selector.rehashed(number, &key, |index| index != 1);
                assert_ne!(chosen.unwrap(), 1, "{distribution:?}");
                assert_eq!(
                    selector.rehashed(number, &key, |_| true),
                    selector.server(&key)
                );
            }
        }
    }

    proptest! {
        #[test]
        fn every_key_has_a_server_in_range(key in proptest::collection::vec(any::<u8>(), 1..40), count in 1_u16..20) {
            for distribution in ALL {
                let chosen = Selector::new(distribution, Hash::OneAtATime, &servers(count), |_| true).server(&key);
                prop_assert!(chosen.is_some_and(|index| index < usize::from(count)));
            }
        }
    }
}

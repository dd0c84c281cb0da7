//! Which server gets a job: pure functions over names and keys, with test vectors that other clients of the family share.

use crate::address::Address;
use crate::config::HashMode;

/// Server indices in the order in which they are to be tried for a key.
pub(crate) fn order_for_key(
    mode: HashMode,
    servers: &[Address],
    function: &[u8],
    key: &[u8],
) -> Vec<usize> {
    match mode {
        HashMode::Rendezvous => {
            let mut scored: Vec<(u64, usize)> = servers
                .iter()
                .enumerate()
                .map(|(index, server)| (score(server.to_string().as_bytes(), function, key), index))
                .collect();
            scored.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
            scored.into_iter().map(|(_, index)| index).collect()
        }
        HashMode::PerlCrc32 => {
            let hash = usize::try_from((crc32(key) >> 16) & 0x7fff).unwrap_or(0);
            order_from(hash, servers.len())
        }
    }
}

/// All indices below `count`, beginning at `first` modulo `count`.
pub(crate) fn order_from(first: usize, count: usize) -> Vec<usize> {
    (0..count)
        .map(|step| {
            (first.checked_rem(count).unwrap_or(0) + step)
                .checked_rem(count)
                .unwrap_or(0)
        })
        .collect()
}

/// FNV-1a over the three parts with a separator no part contains, mixed so that neighbouring keys spread.
fn score(server: &[u8], function: &[u8], key: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in server
        .iter()
        .chain(&[0])
        .chain(function)
        .chain(&[0])
        .chain(key)
    {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// CRC-32 (IEEE, reflected), bit by bit: keys are short.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(count: usize) -> Vec<Address> {
        (1..=count)
            .map(|n| format!("10.0.0.{n}:4730").parse().unwrap())
            .collect()
    }

    #[test]
    fn crc_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn a_lost_server_moves_only_its_own_keys() {
        let (three, two) = (servers(3), servers(2));
        let (mut moved, mut per_server) = (0, [0; 3]);
        for n in 0..3000 {
            let key = format!("key{n}");
            let before = order_for_key(HashMode::Rendezvous, &three, b"f", key.as_bytes());
            let after = order_for_key(HashMode::Rendezvous, &two, b"f", key.as_bytes());
            per_server[before[0]] += 1;
            moved += usize::from(before[0] != after[0]);
            assert_eq!(
                *before.iter().find(|i| **i != 2).unwrap(),
                after[0],
                "the next choice is the fallback"
            );
        }
        assert_eq!(moved, per_server[2]);
        assert!(
            per_server.iter().all(|n| (850..1150).contains(n)),
            "{per_server:?}"
        );
    }

    #[test]
    fn perl_order_wraps() {
        assert_eq!(order_from(4, 3), [1, 2, 0]);
        let order = order_for_key(HashMode::PerlCrc32, &servers(3), b"f", b"123456789");
        assert_eq!(
            order[0],
            usize::try_from((0xcbf4_3926_u32 >> 16) & 0x7fff).unwrap() % 3
        );
    }
}

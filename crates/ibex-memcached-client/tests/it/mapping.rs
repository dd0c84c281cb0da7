//! Key to server as libmemcached does it, asked of php-memcached (which links libmemcached).

use ibex_memcached_client::{Candidate, Distribution, Hash, Selector};
use std::process::Command;

const KEYS: usize = 2000;

/// The indices libmemcached chooses for `key-0`, `key-1`, … and a key with high bytes each, or `None` without php-memcached.
fn libmemcached(options: &str, weights: &[u32]) -> Option<Vec<usize>> {
    let servers: Vec<String> = weights
        .iter()
        .enumerate()
        .map(|(n, weight)| format!("['10.0.0.{n}', {}, {weight}]", 11211 + n))
        .collect();
    let script = format!(
        "$m = new Memcached(); {options} $m->addServers([{}]); for ($i = 0; $i < {KEYS}; $i++) {{ \
         echo substr($m->getServerByKey(\"key-$i\")['host'], 7), \"\\n\"; }}",
        servers.join(", ")
    );
    let output = Command::new("php").args(["-r", &script]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let chosen: Vec<usize> = text.lines().filter_map(|line| line.parse().ok()).collect();
    if chosen.len() != KEYS {
        eprintln!("skipped: php-memcached is not here");
        return None;
    }
    Some(chosen)
}

fn check(options: &str, distribution: Distribution, hash: Hash, weights: &[u32]) {
    let Some(expected) = libmemcached(options, weights) else {
        return;
    };
    let servers: Vec<Candidate> = weights
        .iter()
        .zip(0_u16..)
        .map(|(weight, n)| Candidate {
            host: format!("10.0.0.{n}"),
            port: 11211 + n,
            weight: *weight,
        })
        .collect();
    let selector = Selector::new(distribution, hash, &servers, |_| true);
    for (n, expected) in expected.iter().enumerate() {
        assert_eq!(
            selector.server(format!("key-{n}").as_bytes()),
            Some(*expected),
            "{distribution:?} {hash:?} key-{n}"
        );
    }
}

const HASHES: [(&str, Hash); 7] = [
    ("HASH_DEFAULT", Hash::OneAtATime),
    ("HASH_MD5", Hash::Md5),
    ("HASH_CRC", Hash::Crc),
    ("HASH_FNV1_32", Hash::Fnv1_32),
    ("HASH_FNV1A_32", Hash::Fnv1a32),
    ("HASH_FNV1_64", Hash::Fnv1_64),
    ("HASH_FNV1A_64", Hash::Fnv1a64),
];

#[test]
fn modula_agrees_with_libmemcached() {
    for (name, hash) in HASHES {
        check(
            &format!("$m->setOption(Memcached::OPT_HASH, Memcached::{name});"),
            Distribution::Modula,
            hash,
            &[1; 5],
        );
    }
}

#[test]
fn ketama_agrees_with_libmemcached() {
    for (name, hash) in HASHES {
        let options = format!(
            "$m->setOption(Memcached::OPT_DISTRIBUTION, Memcached::DISTRIBUTION_CONSISTENT); $m->setOption(Memcached::OPT_HASH, Memcached::{name});"
        );
        check(&options, Distribution::Ketama, hash, &[1; 5]);
    }
}

#[test]
fn weighted_ketama_agrees_with_libmemcached() {
    let options = "$m->setOption(Memcached::OPT_LIBKETAMA_COMPATIBLE, true);";
    for weights in [&[1_u32, 1, 1][..], &[1, 2, 3], &[5, 1, 1, 40]] {
        check(options, Distribution::KetamaWeighted, Hash::Md5, weights);
    }
}

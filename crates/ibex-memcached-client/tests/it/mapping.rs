//! Key to server as libmemcached and Cache::Memcached do it: each library itself is asked about 100 000 keys, for every distribution, hash and set of
//! weights that has a counterpart there. Skipped where a library is missing.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use ibex_base::rng::Rng;
use ibex_memcached_client::{Candidate, Client, Config, Distribution, Hash, Selector};
use ibex_testkit::skip;
use serde_json::{Value, json};

const KEYS: usize = 100_000;
/// How the scripts end where the library is missing.
const MISSING: i32 = 3;
/// What the script for Cache::Memcached prints for a key without a server.
const NOWHERE: u8 = 255;

/// In the order of libmemcached's numbers for them.
const HASHES: [Hash; 7] = [
    Hash::OneAtATime,
    Hash::Md5,
    Hash::Crc,
    Hash::Fnv1_64,
    Hash::Fnv1a64,
    Hash::Fnv1_32,
    Hash::Fnv1a32,
];

/// Keys as programs make them, and keys of random bytes of all lengths. Without line ends, which the text protocol cannot carry anyway.
fn keys() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(11);
    (0..KEYS)
        .map(|n| match n % 4 {
            0 => format!("key-{n}").into_bytes(),
            1 => format!("user:{}:friends", rng.below(1 << 40)).into_bytes(),
            2 => (0..=rng.below(30)).map(|_| byte(&mut rng)).collect(),
            _ => (0..=rng.below(249)).map(|_| byte(&mut rng)).collect(),
        })
        .collect()
}

fn byte(rng: &mut Rng) -> u8 {
    // 33 to 255, which leaves out what separates on the wire.
    u8::try_from(33 + rng.below(223)).unwrap()
}

/// The servers of the cases: the first on the usual port, which is not part of its name.
fn servers(weights: &[u32]) -> Vec<Candidate> {
    weights
        .iter()
        .zip(0_u16..)
        .map(|(weight, n)| Candidate {
            host: format!("10.0.0.{n}"),
            port: 11211 + n,
            weight: *weight,
        })
        .collect()
}

/// Runs a script of `originals/`; `None` after a word if its library is missing.
#[expect(
    clippy::unwrap_in_result,
    reason = "a script that cannot be started fails the test"
)]
fn ask(program: &str, script: &str, args: &[&str], input: &str) -> Option<Vec<u8>> {
    let program = skip::program(program)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/originals")
        .join(script);
    let mut child = Command::new(program)
        .arg(script)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A script without its library ends before it reads.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(MISSING) {
        skip::skip(&format!("a library is missing: {complaint}"));
        return None;
    }
    assert!(output.status.success(), "{complaint}");
    Some(output.stdout)
}

/// The keys in a file for the scripts, one a line.
fn write(keys: &[Vec<u8>]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for key in keys {
        file.write_all(key).unwrap();
        file.write_all(b"\n").unwrap();
    }
    file.flush().unwrap();
    file
}

/// One way to configure libmemcached, and ours that is to agree with it.
struct Case {
    before: Value,
    after: Value,
    distribution: Distribution,
    hash: Hash,
    servers: Vec<Candidate>,
}

impl Case {
    fn new(distribution: Distribution, hash: Hash, weights: &[u32]) -> Self {
        Self {
            before: json!([]),
            after: json!([]),
            distribution,
            hash,
            servers: servers(weights),
        }
    }

    fn before(self, before: Value) -> Self {
        Self { before, ..self }
    }

    fn after(self, after: Value) -> Self {
        Self { after, ..self }
    }
}

fn agrees_with_libmemcached(cases: &[Case]) {
    let keys = keys();
    let file = write(&keys);
    let asked: Vec<Value> = cases
        .iter()
        .map(|case| {
            let servers: Vec<_> = case
                .servers
                .iter()
                .map(|server| json!([server.host, server.port, server.weight]))
                .collect();
            json!({"before": case.before, "servers": servers, "after": case.after})
        })
        .collect();
    let input = Value::from(asked).to_string();
    let path = file.path().to_str().unwrap();
    let Some(answers) = ask(skip::python(), "libmemcached.py", &[path], &input) else {
        return;
    };
    assert_eq!(answers.len(), cases.len() * KEYS);
    for (case, expected) in cases.iter().zip(answers.chunks(KEYS)) {
        let selector = Selector::new(case.distribution, case.hash, &case.servers, |_| true);
        compare(&keys, expected, |key| selector.server(key), &|| {
            format!("{:?} {:?} {}", case.distribution, case.hash, case.before)
        });
    }
}

fn compare(
    keys: &[Vec<u8>],
    expected: &[u8],
    chosen: impl Fn(&[u8]) -> Option<usize>,
    case: &dyn Fn() -> String,
) {
    let differing: Vec<_> = keys
        .iter()
        .zip(expected)
        .filter(|(key, expected)| chosen(key) != Some(usize::from(**expected)))
        .collect();
    assert!(
        differing.is_empty(),
        "{}: {} of {KEYS} keys differ, first {:?}",
        case(),
        differing.len(),
        differing.first()
    );
}

fn each_hash(of: impl Fn(usize, Hash) -> Vec<Case>) -> Vec<Case> {
    HASHES
        .into_iter()
        .enumerate()
        .flat_map(|(n, hash)| of(n, hash))
        .collect()
}

#[test]
fn modula_agrees_with_libmemcached() {
    agrees_with_libmemcached(&each_hash(|n, hash| {
        [&[1_u32; 5][..], &[1, 2, 3]]
            .map(|weights| {
                Case::new(Distribution::Modula, hash, weights).before(json!([["hash", n]]))
            })
            .into()
    }));
}

#[test]
fn ketama_agrees_with_libmemcached() {
    agrees_with_libmemcached(&each_hash(|n, hash| {
        vec![
            // php-memcached's way and pylibmc's.
            Case::new(Distribution::Ketama, hash, &[1; 5])
                .before(json!([["hash", n], ["distribution", 1]])),
            Case::new(Distribution::Ketama, hash, &[1, 2, 3])
                .after(json!([["hash", n], ["ketama", 1]])),
        ]
    }));
}

#[test]
fn ketama_told_before_servers_with_weights_is_the_weighted_ring() {
    agrees_with_libmemcached(&each_hash(|n, hash| {
        vec![
            Case::new(Distribution::KetamaWeighted, hash, &[3, 1, 2])
                .before(json!([["hash", n], ["ketama", 1]])),
        ]
    }));
}

#[test]
fn weighted_ketama_agrees_with_libmemcached() {
    let many: Vec<u32> = (1..=40).collect();
    let weights = [
        &[1][..],
        &[1, 1, 1],
        &[1, 2, 3],
        &[5, 1, 1, 40],
        &[1; 23],
        &[7; 3],
        &many,
    ];
    let cases: Vec<Case> = weights
        .iter()
        .map(|weights| {
            Case::new(Distribution::KetamaWeighted, Hash::Md5, weights)
                .before(json!([["ketama_weighted", 1]]))
        })
        .collect();
    agrees_with_libmemcached(&cases);
}

#[test]
fn weighted_ketama_with_another_hash_agrees_with_libmemcached() {
    agrees_with_libmemcached(&each_hash(|n, hash| {
        vec![
            Case::new(Distribution::KetamaWeighted, hash, &[1, 2, 3])
                .before(json!([["ketama_weighted", 1], ["hash", n]])),
        ]
    }));
}

#[test]
fn sockets_agree_with_libmemcached() {
    let on_sockets = |distribution, hash, before| Case {
        servers: ["/run/a.sock", "/run/b.sock", "/run/c.sock"]
            .map(|path| Candidate {
                host: path.to_owned(),
                port: 0,
                weight: 1,
            })
            .into(),
        ..Case::new(distribution, hash, &[]).before(before)
    };
    agrees_with_libmemcached(&[
        on_sockets(Distribution::Modula, Hash::OneAtATime, json!([])),
        on_sockets(
            Distribution::Ketama,
            Hash::OneAtATime,
            json!([["ketama", 1]]),
        ),
        on_sockets(
            Distribution::KetamaWeighted,
            Hash::Md5,
            json!([["ketama_weighted", 1]]),
        ),
    ]);
}

/// Keys with a namespace, through a whole client: hashed without it, or with it where libmemcached is told so.
#[tokio::test]
async fn namespaces_agree_with_libmemcached() {
    const NAMESPACE: &str = "pictures:";
    // Both leave keys too long for the wire to chance.
    let keys: Vec<_> = keys().into_iter().filter(|key| key.len() < 200).collect();
    let file = write(&keys);
    let weights = [1, 2, 3];
    let servers = servers(&weights);
    let listed: Vec<_> = servers
        .iter()
        .map(|server| json!([server.host, server.port, server.weight]))
        .collect();
    let texts = servers
        .iter()
        .map(|server| format!("{}:{}:{}", server.host, server.port, server.weight));
    let texts: Vec<_> = texts.collect();
    for is_hashed in [false, true] {
        for (distribution, behaviour) in [
            (Distribution::Modula, json!(["hash", 0])),
            (Distribution::KetamaWeighted, json!(["ketama_weighted", 1])),
        ] {
            let before = json!([behaviour, ["hash_with_namespace", u8::from(is_hashed)]]);
            let case =
                json!([{"namespace": NAMESPACE, "before": before, "servers": listed, "after": []}]);
            let path = file.path().to_str().unwrap();
            let Some(expected) = ask(
                skip::python(),
                "libmemcached.py",
                &[path],
                &case.to_string(),
            ) else {
                return;
            };
            let config = Config::new(texts.clone())
                .with_distribution(distribution)
                .with_namespace(NAMESPACE);
            let config = if is_hashed {
                config.with_hashed_namespace()
            } else {
                config
            };
            let cache = Client::connect(config).await.unwrap();
            for (key, expected) in keys.iter().zip(&expected) {
                let server = &servers[usize::from(*expected)];
                let name = format!("{}:{}", server.host, server.port);
                assert_eq!(
                    cache.server_name(key).unwrap(),
                    name,
                    "{distribution:?} {is_hashed}"
                );
            }
            assert_eq!(expected.len(), keys.len());
        }
    }
}

/// Asks Cache::Memcached; `dead` servers are passed over, `are_numbered` makes each key a pair with its place in the list.
fn agrees_with_cache_memcached(weights: &[u32], dead: &[usize], are_numbered: bool) {
    let keys = keys();
    let file = write(&keys);
    let case = json!({"weights": weights, "dead": dead, "numbers": are_numbered}).to_string();
    let args = [file.path().to_str().unwrap(), &case];
    let Some(expected) = ask("perl", "cache_memcached.pl", &args, "") else {
        return;
    };
    assert_eq!(expected.len(), KEYS);
    let selector = Selector::new(Distribution::Perl, Hash::Crc, &servers(weights), |_| true);
    for ((key, expected), n) in keys.iter().zip(expected).zip(0_u64..) {
        let number = if are_numbered {
            n
        } else {
            selector.number(key)
        };
        let chosen = selector.rehashed(number, key, |server| !dead.contains(&server));
        let expected = (expected != NOWHERE).then_some(usize::from(expected));
        assert_eq!(chosen, expected, "{case} {n}");
        if dead.is_empty() {
            assert_eq!(selector.server_of_number(number), expected, "{case} {n}");
        }
    }
}

#[test]
fn perl_agrees_with_cache_memcached() {
    for weights in [&[1_u32; 5][..], &[1, 2, 3], &[5, 1, 1, 40]] {
        agrees_with_cache_memcached(weights, &[], false);
    }
}

#[test]
fn perl_pairs_of_number_and_key_agree_with_cache_memcached() {
    agrees_with_cache_memcached(&[1, 2, 3], &[], true);
    agrees_with_cache_memcached(&[1, 2, 3], &[2], true);
}

#[test]
fn perl_passes_over_dead_servers_as_cache_memcached_does() {
    agrees_with_cache_memcached(&[1; 5], &[3], false);
    agrees_with_cache_memcached(&[1, 2, 3], &[0, 2], false);
    agrees_with_cache_memcached(&[3, 1], &[0, 1], false);
}

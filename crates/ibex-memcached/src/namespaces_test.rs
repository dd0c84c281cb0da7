//! Namespaces against a model: random commands of every kind on keys in nested, empty and lookalike prefixes.

use crate::config::Config;
use crate::namespaces::{Namespaces, PREFIXES_MAX, Refused};
use crate::testing::{Bench, shared};
use ibex_base::rng::Rng;
use std::collections::BTreeMap;

const SEEDS: u64 = 64;
const STEPS: u64 = 400;

const KEYS: [&str; 12] = [
    "a", "a:", "a:1", "a:2", "a:b:1", "a:b:2", "ab:1", "b:1", "b:a:1", ":a", ":", "c",
];
const PREFIXES: [&str; 8] = ["a", "a:b", "b", "b:a", "ab", "c", "x", "1"];

#[derive(Debug, Clone)]
struct Item {
    value: String,
    /// When it was stored, in steps.
    stored: u64,
}

/// What the daemon should hold.
#[derive(Debug, Default)]
struct Model {
    items: BTreeMap<&'static str, Item>,
    marks: BTreeMap<&'static str, u64>,
    step: u64,
}

impl Model {
    fn live(&self, key: &str) -> Option<&Item> {
        let item = self.items.get(key)?;
        let ends = key.bytes().enumerate().filter(|(_, byte)| *byte == b':');
        let is_gone = ends
            .filter_map(|(at, _)| self.marks.get(&key[..at]))
            .any(|mark| item.stored <= *mark);
        (!is_gone).then_some(item)
    }

    fn put(&mut self, key: &'static str, value: String) {
        let stored = self.step;
        self.items.insert(key, Item { value, stored });
    }

    /// A command that stores, by the word for it; the reply.
    fn store(&mut self, verb: &str, key: &'static str, value: &str) -> &'static str {
        let old = self.live(key).map(|item| item.value.clone());
        let value = match (verb, old) {
            ("set", _) | ("add", None) | ("replace", Some(_)) => value.to_owned(),
            ("append", Some(old)) => old + value,
            ("prepend", Some(old)) => value.to_owned() + &old,
            _ => return "NOT_STORED\r\n",
        };
        self.put(key, value);
        "STORED\r\n"
    }

    fn get(&self, keys: &[&str]) -> String {
        let hit = |key: &&str| {
            let value = &self.live(key)?.value;
            Some(format!("VALUE {key} 0 {}\r\n{value}\r\n", value.len()))
        };
        keys.iter().filter_map(hit).collect::<String>() + "END\r\n"
    }
}

/// A random command and the reply the model gives to it.
fn command(rng: &mut Rng, model: &mut Model) -> (String, String) {
    model.step += 1;
    let key = KEYS[rng.index(KEYS.len())];
    let number = rng.below(1000);
    match rng.below(12) {
        0..3 => {
            let prefix = PREFIXES[rng.index(PREFIXES.len())];
            model.marks.insert(prefix, model.step);
            (format!("ns_invalidate {prefix}\r\n"), "OK\r\n".to_owned())
        }
        3..6 => {
            let verb = ["set", "add", "replace", "append", "prepend"][rng.index(5)];
            let value = number.to_string();
            let reply = model.store(verb, key, &value).to_owned();
            let request = format!("{verb} {key} 0 0 {}\r\n{value}\r\n", value.len());
            (request, reply)
        }
        6 => {
            let other = KEYS[rng.index(KEYS.len())];
            let reply = model.get(&[key, other]);
            (format!("get {key} {other}\r\n"), reply)
        }
        7 => {
            let reply = match model.live(key) {
                Some(Item { value, .. }) => {
                    format!("VA {} s{}\r\n{value}\r\n", value.len(), value.len())
                }
                None => "EN\r\n".to_owned(),
            };
            (format!("mg {key} v s\r\n"), reply)
        }
        8 => {
            let reply = match model.live(key).map(|item| item.value.parse::<u64>()) {
                None => "NOT_FOUND\r\n".to_owned(),
                Some(Ok(value)) => {
                    let value = value.wrapping_add(number);
                    model.put(key, value.to_string());
                    format!("{value}\r\n")
                }
                Some(Err(_)) => {
                    "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n".to_owned()
                }
            };
            (format!("incr {key} {number}\r\n"), reply)
        }
        9 => {
            let reply = if model.live(key).is_some() {
                "TOUCHED\r\n"
            } else {
                "NOT_FOUND\r\n"
            };
            (format!("touch {key} 0\r\n"), reply.to_owned())
        }
        10 => {
            let reply = if model.live(key).is_some() {
                "DELETED\r\n"
            } else {
                "NOT_FOUND\r\n"
            };
            model.items.remove(key);
            (format!("delete {key}\r\n"), reply.to_owned())
        }
        _ => {
            let reply = if model.live(key).is_some() {
                "EX\r\n"
            } else {
                // On a miss the comparison has nothing to fail on.
                "NF\r\n"
            };
            (
                format!("ms {key} 1 C18446744073709551615\r\nx\r\n"),
                reply.to_owned(),
            )
        }
    }
}

#[test]
fn every_command_sees_what_the_model_sees() {
    for seed in 0..SEEDS {
        let mut rng = Rng::new(seed);
        let config = Config {
            ns_delimiter: ":".to_owned(),
            ..Config::default()
        };
        let mut bench = Bench::of(&shared(config), 0);
        let mut model = Model::default();
        for step in 0..STEPS {
            let (request, expected) = command(&mut rng, &mut model);
            let reply = bench.ask(request.as_bytes());
            let reply = String::from_utf8_lossy(&reply);
            assert_eq!(reply, expected, "seed {seed}, step {step}: {request:?}");
        }
        let dump = bench.ask(b"lru_crawler mgdump all\r\n");
        let dump = String::from_utf8_lossy(&dump);
        let mut shown: Vec<&str> = dump
            .lines()
            .filter_map(|line| line.strip_prefix("mg "))
            .collect();
        shown.sort_unstable();
        let mut live: Vec<&str> = KEYS
            .into_iter()
            .filter(|key| model.live(key).is_some())
            .collect();
        live.sort_unstable();
        assert_eq!(shown, live, "seed {seed}: a dump shows what is left");
    }
}

#[test]
fn what_was_stored_before_is_gone() {
    let namespaces = Namespaces::new(Some(b':'));
    assert!(!namespaces.is_gone(b"a:1", 5));
    namespaces.invalidate(b"a", 10).unwrap();
    for (key, cas, is_gone) in [
        (&b"a:1"[..], 10, true),
        (b"a:1", 11, false),
        (b"a:", 3, true),
        (b"a:b:c", 3, true),
        (b"a", 3, false),
        (b"ab:1", 3, false),
        (b":a:1", 3, false),
    ] {
        assert_eq!(namespaces.is_gone(key, cas), is_gone, "{key:?} {cas}");
    }
    namespaces.invalidate(b"a:b", 20).unwrap();
    assert!(namespaces.is_gone(b"a:b:c", 15) && !namespaces.is_gone(b"a:c:c", 15));
    // An older mark never replaces a newer one.
    namespaces.invalidate(b"a:b", 12).unwrap();
    assert!(namespaces.is_gone(b"a:b:c", 15));
}

#[test]
fn off_and_full() {
    let off = Namespaces::new(None);
    assert_eq!(off.invalidate(b"a", 1), Err(Refused::Off));
    let namespaces = Namespaces::new(Some(b':'));
    for n in 0..PREFIXES_MAX {
        namespaces.invalidate(&n.to_le_bytes(), 1).unwrap();
    }
    assert_eq!(namespaces.invalidate(b"one more", 1), Err(Refused::Full));
    assert_eq!(namespaces.invalidate(&3_usize.to_le_bytes(), 2), Ok(()));
}

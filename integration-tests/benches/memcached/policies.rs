//! Eviction policies on the traces whose items are all alike, simulated at the number of items that each server holds: what a policy is worth, apart from
//! what density is worth.

use std::collections::{HashMap, VecDeque};

use crate::Options;
use crate::data::Rows;
use crate::traces::{REQUESTS, TRACES, Trace};

/// Items of 100 bytes that memcached 1.6.18 and ibex-memcached hold at `-m 64` (measured by `--memory`).
const CAPACITIES: [usize; 2] = [349_504, 469_472];

/// A cache that counts items: answers whether a key is there and takes it in if not.
trait Policy {
    fn read(&mut self, key: u32) -> bool;
}

/// First in, first out; with `chances` above 0 an item that was read goes round again (CLOCK with a counter).
struct Clock {
    capacity: usize,
    chances: u8,
    queue: VecDeque<u32>,
    left: HashMap<u32, u8>,
}

impl Clock {
    fn new(capacity: usize, chances: u8) -> Self {
        Self {
            capacity,
            chances,
            queue: VecDeque::new(),
            left: HashMap::new(),
        }
    }
}

impl Policy for Clock {
    fn read(&mut self, key: u32) -> bool {
        if let Some(left) = self.left.get_mut(&key) {
            *left = self.chances.min(*left + 1);
            return true;
        }
        while self.left.len() >= self.capacity {
            let oldest = self.queue.pop_front().unwrap();
            match self.left.get_mut(&oldest) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    self.queue.push_back(oldest);
                }
                _ => drop(self.left.remove(&oldest)),
            }
        }
        self.queue.push_back(key);
        self.left.insert(key, 0);
        false
    }
}

/// Least recently used, by time stamps of which the outdated are skipped.
struct Lru {
    capacity: usize,
    now: u64,
    queue: VecDeque<(u32, u64)>,
    seen: HashMap<u32, u64>,
}

impl Policy for Lru {
    fn read(&mut self, key: u32) -> bool {
        self.now += 1;
        self.queue.push_back((key, self.now));
        let was_there = self.seen.insert(key, self.now).is_some();
        while self.seen.len() > self.capacity {
            let (oldest, at) = self.queue.pop_front().unwrap();
            if self.seen.get(&oldest) == Some(&at) {
                self.seen.remove(&oldest);
            }
        }
        was_there
    }
}

/// SIEVE (Zhang et al., NSDI 2024): a queue that nothing moves in; a hand goes from old to new and takes the first that was not read since it came by.
struct Sieve {
    capacity: usize,
    /// Key, whether it was read, and the neighbours: towards the newest, towards the oldest.
    nodes: Vec<(u32, bool, Option<usize>, Option<usize>)>,
    newest: Option<usize>,
    oldest: Option<usize>,
    hand: Option<usize>,
    places: HashMap<u32, usize>,
}

impl Sieve {
    fn new(capacity: usize) -> Self {
        Self {
            capacity,
            nodes: Vec::with_capacity(capacity),
            newest: None,
            oldest: None,
            hand: None,
            places: HashMap::new(),
        }
    }

    /// Takes one item out; its place.
    fn evict(&mut self) -> usize {
        let mut at = self.hand.or(self.oldest).unwrap();
        while self.nodes[at].1 {
            self.nodes[at].1 = false;
            at = self.nodes[at].2.or(self.oldest).unwrap();
        }
        let (key, _, newer, older) = self.nodes[at];
        self.hand = newer;
        match newer {
            Some(newer) => self.nodes[newer].3 = older,
            None => self.newest = older,
        }
        match older {
            Some(older) => self.nodes[older].2 = newer,
            None => self.oldest = newer,
        }
        self.places.remove(&key);
        at
    }
}

impl Policy for Sieve {
    fn read(&mut self, key: u32) -> bool {
        if let Some(at) = self.places.get(&key) {
            self.nodes[*at].1 = true;
            return true;
        }
        let at = if self.nodes.len() < self.capacity {
            self.nodes.push((0, false, None, None));
            self.nodes.len() - 1
        } else {
            self.evict()
        };
        self.nodes[at] = (key, false, None, self.newest);
        if let Some(newest) = self.newest {
            self.nodes[newest].2 = Some(at);
        }
        self.newest = Some(at);
        self.oldest = self.oldest.or(Some(at));
        self.places.insert(key, at);
        false
    }
}

/// S3-FIFO (Yang et al., SOSP 2023): a tenth for newcomers, the rest for what was read there or came back soon after it was dropped.
struct S3Fifo {
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    ghosts: VecDeque<u32>,
    /// Reads since it came, and whether it is in `main`.
    here: HashMap<u32, (u8, bool)>,
    gone: HashMap<u32, ()>,
    capacity: usize,
}

impl S3Fifo {
    fn new(capacity: usize) -> Self {
        Self {
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            here: HashMap::new(),
            gone: HashMap::new(),
            capacity,
        }
    }

    fn evict(&mut self) {
        if self.small.len() >= self.capacity / 10 || self.main.is_empty() {
            let key = self.small.pop_front().unwrap();
            if self.here[&key].0 > 0 {
                self.here.insert(key, (0, true));
                self.main.push_back(key);
                return;
            }
            self.here.remove(&key);
            self.gone.insert(key, ());
            self.ghosts.push_back(key);
            if self.ghosts.len() > self.capacity * 9 / 10 {
                let oldest = self.ghosts.pop_front().unwrap();
                self.gone.remove(&oldest);
            }
            return;
        }
        let key = self.main.pop_front().unwrap();
        let (reads, _) = self.here[&key];
        if reads > 0 {
            self.here.insert(key, (reads - 1, true));
            self.main.push_back(key);
        } else {
            self.here.remove(&key);
        }
    }
}

impl Policy for S3Fifo {
    fn read(&mut self, key: u32) -> bool {
        if let Some((reads, _)) = self.here.get_mut(&key) {
            *reads = 3.min(*reads + 1);
            return true;
        }
        while self.here.len() >= self.capacity {
            self.evict();
        }
        let is_back = self.gone.remove(&key).is_some();
        self.here.insert(key, (0, is_back));
        if is_back {
            self.main.push_back(key);
        } else {
            self.small.push_back(key);
        }
        false
    }
}

/// The share of hits after the first third.
fn ratio(trace: Trace, mut policy: impl Policy) -> String {
    let mut hits = 0_u32;
    for (n, request) in trace.requests().enumerate() {
        let is_hit = policy.read(request.key);
        hits += u32::from(is_hit && n >= REQUESTS / 3);
    }
    format!("{:.4}", f64::from(hits) / (REQUESTS * 2 / 3) as f64)
}

pub(crate) fn run(options: &Options) -> bool {
    println!("\nhit ratio of policies at a number of items, simulated");
    let mut rows = Rows::new(&["trace", "items", "FIFO", "LRU", "CLOCK", "SIEVE", "S3-FIFO"]);
    for trace in TRACES {
        if !trace.is_uniform() || !options.takes(trace.name) {
            continue;
        }
        for capacity in CAPACITIES {
            let lru = Lru {
                capacity,
                now: 0,
                queue: VecDeque::new(),
                seen: HashMap::new(),
            };
            rows.push(vec![
                trace.name.to_owned(),
                capacity.to_string(),
                ratio(trace, Clock::new(capacity, 0)),
                ratio(trace, lru),
                ratio(trace, Clock::new(capacity, 1)),
                ratio(trace, Sieve::new(capacity)),
                ratio(trace, S3Fifo::new(capacity)),
            ]);
        }
    }
    rows.keep(options, "policies");
    true
}

//! A soak: hours of mixed requests on a cache too small for its keys, every answer compared with a model.
//!
//! Each connection owns its keys, so that its model says exactly what a hit must be: value, flags, cas and remaining time. A miss is always allowed (eviction),
//! but what was missed, deleted, invalidated or has expired may not come back. A few keys are everybody's; their values tell whether they are whole.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ibex_base::rng::Rng;
use ibex_base::zipf::Zipf;
use ibex_memcached_proto::reply::{Code, Reply};

use crate::Options;
use crate::data::Rows;
use crate::servers::{Server, Talk, start_ours};

const MEGABYTES: u32 = 64;
const CONNECTIONS: usize = 4;
/// Keys of each connection; all of them are about 150 MB.
const KEYS: u32 = 20_000;
const SHARED_KEYS: u64 = 64;
/// Requests on the way at once on a connection.
const BATCH: usize = 20;
/// Requests a second on each connection, unless `--rate` says otherwise.
const RATE: f64 = 2000.0;
/// By which the server's clock may be late, which counts seconds.
const LATE: Duration = Duration::from_secs(2);
/// Lifetimes in seconds; 0 is for ever.
const LIFETIMES: [u64; 6] = [0, 0, 0, 2, 10, 60];

/// A lifetime, and between which moments it began: the request was written, its answer read.
#[derive(Debug, Clone, Copy)]
struct Lifetime {
    span: Duration,
    asked: Instant,
    answered: Instant,
}

impl Lifetime {
    fn answered_now(mut self) -> Self {
        self.answered = Instant::now();
        self
    }
}

/// What a key holds.
#[derive(Debug, Clone)]
struct Known {
    value: Vec<u8>,
    flags: u32,
    life: Option<Lifetime>,
    cas: Option<u64>,
}

impl Known {
    /// As it is when the answer to its store has come.
    fn stored(&self) -> Self {
        Self {
            life: self.life.map(Lifetime::answered_now),
            ..self.clone()
        }
    }
}

/// A request on its way, and what it would make of the key.
#[derive(Debug)]
enum Sent {
    Set(u32, Known),
    Add(u32, Known),
    Replace(u32, Known),
    Cas(u32, u64, Known),
    Append(u32, Vec<u8>),
    Increment(u32, u64),
    Delete(u32),
    Touch(u32, Option<Lifetime>),
    Get(u32),
    /// A read that sets the lifetime.
    GetAndTouch(u32, Option<Lifetime>),
    MetaGet(u32),
    Invalidate,
    StoreShared,
    GetShared,
}

/// What a soak saw.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    requests: u64,
    hits: u64,
    misses: u64,
}

/// Bytes that belong to `seed`, which they start with.
fn bytes_of(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut bytes = seed.to_le_bytes().to_vec();
    while bytes.len() < len {
        bytes.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

struct Owner {
    number: usize,
    talk: Talk,
    rng: Rng,
    zipf: Zipf,
    known: HashMap<u32, Known>,
    seen: Seen,
}

impl Owner {
    fn new(server: &Server, number: usize) -> Self {
        Self {
            number,
            talk: Talk::new(server),
            rng: Rng::new(number as u64 + 1),
            zipf: Zipf::new(KEYS, 0.8),
            known: HashMap::new(),
            seen: Seen::default(),
        }
    }

    fn key(&self, key: u32) -> String {
        format!("o{}:{key}", self.number)
    }

    fn line(&mut self, line: &str) {
        self.talk.out.extend_from_slice(line.as_bytes());
        self.talk.out.extend_from_slice(b"\r\n");
    }

    /// Every eighth key holds a number.
    fn is_number(key: u32) -> bool {
        key.is_multiple_of(8)
    }

    fn fresh(&mut self, key: u32) -> (Known, u64) {
        let value = if Self::is_number(key) {
            self.rng.below(1000).to_string().into_bytes()
        } else {
            let len = (20.0 * (self.rng.fraction() * 10.5).exp2()) as usize;
            bytes_of(self.rng.next_u64(), len)
        };
        let flags = [0, 1, u32::MAX][self.rng.index(3)];
        let (life, ttl) = self.lifetime();
        let known = Known {
            value,
            flags,
            life,
            cas: None,
        };
        (known, ttl)
    }

    fn lifetime(&mut self) -> (Option<Lifetime>, u64) {
        let ttl = LIFETIMES[self.rng.index(LIFETIMES.len())];
        let life = Lifetime {
            span: Duration::from_secs(ttl),
            asked: Instant::now(),
            answered: Instant::now(),
        };
        ((ttl > 0).then_some(life), ttl)
    }

    fn block(&mut self, verb: &str, key: u32, cas: &str) -> Known {
        let (known, ttl) = self.fresh(key);
        let (name, flags, len) = (self.key(key), known.flags, known.value.len());
        self.line(&format!("{verb} {name} {flags} {ttl} {len}{cas}"));
        self.talk.out.extend_from_slice(&known.value);
        self.line("");
        known
    }

    /// Writes one request.
    fn ask(&mut self) -> Sent {
        let key = self.zipf.sample(&mut self.rng);
        let name = self.key(key);
        match self.rng.below(1000) {
            0..200 => Sent::Set(key, self.block("set", key, "")),
            200..240 => Sent::Add(key, self.block("add", key, "")),
            240..280 => Sent::Replace(key, self.block("replace", key, "")),
            280..320 => {
                let number = self.known.get(&key).and_then(|known| known.cas);
                let number = number.unwrap_or(1);
                let known = self.block("cas", key, &format!(" {number}"));
                Sent::Cas(key, number, known)
            }
            320..360 if Self::is_number(key) => {
                let by = self.rng.below(100);
                self.line(&format!("incr {name} {by}"));
                Sent::Increment(key, by)
            }
            320..360 => {
                self.line(&format!("append {name} 0 0 7"));
                self.line("more757");
                Sent::Append(key, b"more757".to_vec())
            }
            360..400 => {
                self.line(&format!("delete {name}"));
                Sent::Delete(key)
            }
            400..430 => {
                let (life, ttl) = self.lifetime();
                self.line(&format!("touch {name} {ttl}"));
                Sent::Touch(key, life)
            }
            430..460 => {
                let (life, ttl) = self.lifetime();
                self.line(&format!("gats {ttl} {name}"));
                Sent::GetAndTouch(key, life)
            }
            460..600 => {
                self.line(&format!("mg {name} v f t c"));
                Sent::MetaGet(key)
            }
            600..980 => {
                self.line(&format!("gets {name}"));
                Sent::Get(key)
            }
            980..985 => {
                let (which, len) = (self.rng.below(SHARED_KEYS), 8 + self.rng.index(50_000));
                let value = bytes_of(self.rng.next_u64(), len);
                self.line(&format!("set shared:{which} 0 0 {len}"));
                self.talk.out.extend_from_slice(&value);
                self.line("");
                Sent::StoreShared
            }
            999 if self.rng.chance(1, 500) => {
                self.line(&format!("ns_invalidate o{}", self.number));
                Sent::Invalidate
            }
            _ => {
                let which = self.rng.below(SHARED_KEYS);
                self.line(&format!("get shared:{which}"));
                Sent::GetShared
            }
        }
    }

    /// A batch of requests and their answers.
    fn turn(&mut self) {
        let sending = Instant::now();
        let batch: Vec<Sent> = (0..BATCH).map(|_| self.ask()).collect();
        self.talk.send();
        let mut judge = Judge {
            known: &mut self.known,
            seen: &mut self.seen,
            sending,
            found: false,
        };
        let mut sent = batch.iter();
        let mut current = sent.next();
        self.talk.receive(BATCH, |reply| {
            let is_end = judge.judge(current.unwrap(), reply);
            if is_end {
                current = sent.next();
                judge.found = false;
            }
            is_end
        });
        self.seen.requests += BATCH as u64;
    }
}

/// Compares answers with what is known.
struct Judge<'a> {
    known: &'a mut HashMap<u32, Known>,
    seen: &'a mut Seen,
    sending: Instant,
    /// A classic read had its value already.
    found: bool,
}

impl Judge<'_> {
    /// The key must be there, and its time not long over.
    fn is_there(&mut self, key: u32, sent: &Sent) -> &mut Known {
        let sending = self.sending;
        let Some(known) = self.known.get_mut(&key) else {
            panic!("a key that is not there was found: {sent:?}");
        };
        let is_over = known
            .life
            .is_some_and(|life| life.answered + life.span + LATE < sending);
        assert!(!is_over, "an expired item was found: {sent:?}");
        known
    }

    fn is_hit(&mut self, key: u32, sent: &Sent, flags: u32, cas: Option<u64>, data: &[u8]) {
        self.seen.hits += 1;
        let known = self.is_there(key, sent);
        assert!(known.value == data, "another value: {sent:?}");
        assert_eq!(known.flags, flags, "{sent:?}");
        if let (Some(old), Some(new)) = (known.cas, cas) {
            assert_eq!(old, new, "another cas without a change: {sent:?}");
        }
        known.cas = known.cas.or(cas);
    }

    fn is_missed(&mut self, key: u32) {
        self.seen.misses += 1;
        self.known.remove(&key);
    }

    /// Whether the answer ends the request.
    fn judge(&mut self, sent: &Sent, reply: &Reply<'_>) -> bool {
        match (sent, reply) {
            (Sent::Set(key, known) | Sent::Add(key, known), Reply::Stored) => {
                self.known.insert(*key, known.stored());
            }
            (Sent::Replace(key, known), Reply::Stored) => {
                *self.is_there(*key, sent) = known.stored();
            }
            (Sent::Cas(key, number, known), Reply::Stored) => {
                let old = self.is_there(*key, sent);
                assert_eq!(old.cas, Some(*number), "a wrong cas was taken: {sent:?}");
                *old = known.stored();
            }
            (Sent::Cas(key, number, _), Reply::Exists) => {
                let known = self.is_there(*key, sent);
                assert_ne!(
                    known.cas,
                    Some(*number),
                    "a right cas was refused: {sent:?}"
                );
            }
            (Sent::Add(key, _), Reply::NotStored) => {
                self.is_there(*key, sent);
            }
            (Sent::Append(key, more), Reply::Stored) => {
                let known = self.is_there(*key, sent);
                known.value.extend_from_slice(more);
                known.cas = None;
            }
            (Sent::Increment(key, by), Reply::Number(sum)) => {
                let known = self.is_there(*key, sent);
                let old: u64 = String::from_utf8_lossy(&known.value).parse().unwrap();
                assert_eq!(old + by, *sum, "{sent:?}");
                known.value = sum.to_string().into_bytes();
                known.cas = None;
            }
            (Sent::Delete(key), Reply::Deleted) => {
                self.is_there(*key, sent);
                self.known.remove(key);
            }
            (Sent::Touch(key, life), Reply::Touched) => {
                self.is_there(*key, sent).life = life.map(Lifetime::answered_now);
            }
            (Sent::Get(key) | Sent::GetAndTouch(key, _), Reply::Value(value)) => {
                self.is_hit(*key, sent, value.flags, value.cas, value.data);
                if let Sent::GetAndTouch(_, life) = sent {
                    self.is_there(*key, sent).life = life.map(Lifetime::answered_now);
                }
                self.found = true;
                return false;
            }
            (Sent::Get(key) | Sent::GetAndTouch(key, _), Reply::End) => {
                if !self.found {
                    self.is_missed(*key);
                }
            }
            (
                Sent::MetaGet(key),
                Reply::Meta {
                    code: Code::Va,
                    flags,
                    data,
                },
            ) => {
                let number = flags.number(b'f').unwrap() as u32;
                self.is_hit(*key, sent, number, flags.number(b'c'), data);
                let life = self.is_there(*key, sent).life;
                self.is_time(life, flags.token(b't').unwrap(), sent);
            }
            (Sent::Replace(key, _) | Sent::Append(key, _), Reply::NotStored)
            | (
                Sent::Cas(key, ..)
                | Sent::Increment(key, _)
                | Sent::Delete(key)
                | Sent::Touch(key, _),
                Reply::NotFound,
            )
            | (Sent::MetaGet(key), Reply::Meta { code: Code::En, .. }) => self.is_missed(*key),
            (Sent::Invalidate, Reply::Ok) => self.known.clear(),
            (Sent::StoreShared, Reply::Stored) | (Sent::GetShared, Reply::End) => {}
            (Sent::GetShared, Reply::Value(value)) => {
                let seed = u64::from_le_bytes(value.data[..8].try_into().unwrap());
                assert!(
                    bytes_of(seed, value.data.len()) == value.data,
                    "a torn value"
                );
                self.seen.hits += 1;
                return false;
            }
            _ => panic!("{sent:?} was answered with {reply:?}"),
        }
        true
    }

    /// The remaining seconds a hit tells; -1 is for ever.
    fn is_time(&self, life: Option<Lifetime>, token: &[u8], sent: &Sent) {
        let left: i64 = std::str::from_utf8(token).unwrap().parse().unwrap();
        let Some(life) = life else {
            return assert_eq!(left, -1, "{sent:?}");
        };
        let seconds = |begin: Instant, now: Instant| {
            (begin + life.span).saturating_duration_since(now).as_secs()
        };
        let least = seconds(life.asked, Instant::now()).saturating_sub(LATE.as_secs()) as i64;
        let most = (seconds(life.answered, self.sending) + LATE.as_secs()) as i64;
        assert!(
            (least..=most).contains(&left),
            "{left} s left, not {least} to {most}: {sent:?}"
        );
    }
}

fn own(server: &Server, number: usize, span: Duration, rate: f64) -> Seen {
    let mut owner = Owner::new(server, number);
    let start = Instant::now();
    while start.elapsed() < span {
        let due = Duration::from_secs_f64(owner.seen.requests as f64 / rate);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        owner.turn();
    }
    owner.seen
}

pub(crate) fn run(options: &Options) -> bool {
    let span = options.seconds();
    let rate = options
        .value("--rate")
        .map_or(RATE, |rate| rate.parse().unwrap());
    println!("\nsoak of {span:?} at -m {MEGABYTES}, every answer compared");
    let server = start_ours(MEGABYTES, &["-o", "ns=:"]);
    let ours = &server;
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let owners: Vec<_> = (0..CONNECTIONS)
            .map(|number| scope.spawn(move || own(ours, number, span, rate)))
            .collect();
        owners.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let sum = |of: fn(&Seen) -> u64| seen.iter().map(of).sum::<u64>();
    let mut rows = Rows::new(&[
        "seconds",
        "requests",
        "hits",
        "misses",
        "evictions",
        "peak MiB",
    ]);
    rows.push(vec![
        span.as_secs().to_string(),
        sum(|seen| seen.requests).to_string(),
        sum(|seen| seen.hits).to_string(),
        sum(|seen| seen.misses).to_string(),
        ours.stat("evictions").to_string(),
        format!("{:.1}", ours.peak() as f64 / f64::from(1 << 20)),
    ]);
    rows.keep(options, "soak");
    true
}

//! What is asked: which keys, how large their values, reads or stores; as bytes of the protocol.

use std::str::FromStr;
use std::sync::OnceLock;

use bytes::BytesMut;
use ibex_base::rng::Rng;
use ibex_base::zipf::Zipf;
use ibex_memcached_proto::encode::{self, Meta, Store};

/// The largest value: what servers take when told to (`-I 1g` is beyond what a load is for).
const VALUE_BYTES_MAX: u32 = 64 << 20;

/// How keys are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum KeySpread {
    Uniform,
    Zipf(f64),
    Scan,
}

impl FromStr for KeySpread {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "uniform" => Ok(Self::Uniform),
            None if text == "scan" => Ok(Self::Scan),
            Some(("zipf", exponent)) => match exponent.parse::<f64>() {
                Ok(exponent) if (0.0..=10.0).contains(&exponent) => Ok(Self::Zipf(exponent)),
                _ => Err(format!("{exponent:?} is no exponent from 0 to 10")),
            },
            _ => Err("one of uniform, zipf:EXPONENT, scan".to_owned()),
        }
    }
}

impl KeySpread {
    pub(super) fn sampler(self, keys: u32) -> Sampler {
        match self {
            Self::Uniform => Sampler::Uniform,
            Self::Zipf(exponent) => Sampler::Zipf(Zipf::new(keys, exponent)),
            Self::Scan => Sampler::Scan,
        }
    }
}

/// A prepared [`KeySpread`].
#[derive(Debug, Clone)]
pub(super) enum Sampler {
    Uniform,
    Zipf(Zipf),
    Scan,
}

/// Sizes of values with their weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Least and greatest size, and the weight of what lies between.
    parts: Vec<(u32, u32, u32)>,
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not SIZE, FROM-TO or SIZE=WEIGHT,…");
        let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
        let mut parts = Vec::new();
        for part in text.split(',') {
            let (sizes, weight) = part.split_once('=').unwrap_or((part, "1"));
            let (from, to) = sizes.split_once('-').unwrap_or((sizes, sizes));
            let (from, to, weight) = (number(from)?, number(to)?, number(weight)?);
            if from > to || weight == 0 || to > VALUE_BYTES_MAX {
                return Err(wrong());
            }
            parts.push((from, to, weight));
        }
        Ok(Self { parts })
    }
}

impl Sizes {
    /// The size of the value of key number `key`.
    fn of(&self, key: u32) -> u32 {
        if let [(size, to, _)] = self.parts.as_slice()
            && size == to
        {
            return *size;
        }
        let mut rng = Rng::new(u64::from(key));
        let total: u64 = self
            .parts
            .iter()
            .map(|(.., weight)| u64::from(*weight))
            .sum();
        let mut at = rng.below(total.max(1));
        for (from, to, weight) in &self.parts {
            match at.checked_sub(u64::from(*weight)) {
                Some(rest) => at = rest,
                None => {
                    let wide = rng.below(u64::from(to - from) + 1);
                    return from + u32::try_from(wide).unwrap_or(0);
                }
            }
        }
        0
    }

    fn max(&self) -> usize {
        let largest = self.parts.iter().map(|(_, to, _)| *to).max();
        largest
            .and_then(|max| usize::try_from(max).ok())
            .unwrap_or(0)
    }
}

/// What a request asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// `keys` values; the number of the first key.
    Read { keys: u32, key: u32 },
    /// Stores one value.
    Store,
}

/// The load, but for its times.
#[derive(Debug, Clone)]
pub(super) struct Work {
    pub(super) keys: u32,
    pub(super) key_bytes: usize,
    pub(super) spread: Sampler,
    pub(super) sizes: Sizes,
    pub(super) sets: f64,
    pub(super) multiget: u32,
    pub(super) expire: u32,
    pub(super) is_meta: bool,
}

/// One connection's source of requests.
#[derive(Debug)]
pub(super) struct Source<'w> {
    work: &'w Work,
    rng: Rng,
    next: u32,
    key: Vec<u8>,
}

impl<'w> Source<'w> {
    /// `first` is where a scan begins.
    pub(super) fn new(work: &'w Work, rng: Rng, first: u32) -> Self {
        Self {
            work,
            rng,
            next: first,
            key: Vec::with_capacity(work.key_bytes),
        }
    }

    /// Uniform in 0.0 to 1.0, for arrivals.
    pub(super) fn fraction(&mut self) -> f64 {
        self.rng.fraction()
    }

    /// Appends the next request.
    pub(super) fn ask(&mut self, out: &mut BytesMut) -> Asked {
        if self.work.sets > 0.0 && self.rng.fraction() < self.work.sets {
            let key = self.choose();
            return self.store(out, key);
        }
        let key = self.choose();
        if self.work.is_meta {
            self.meta_read(out, key);
        } else {
            self.classic_read(out, key);
        }
        Asked::Read {
            keys: self.work.multiget,
            key,
        }
    }

    fn classic_read(&mut self, out: &mut BytesMut, first: u32) {
        out.extend_from_slice(b"get");
        for n in 0..self.work.multiget {
            let key = if n == 0 { first } else { self.choose() };
            out.extend_from_slice(b" ");
            out.extend_from_slice(self.name(key));
        }
        out.extend_from_slice(b"\r\n");
    }

    fn meta_read(&mut self, out: &mut BytesMut, first: u32) {
        let flags: &[u8] = if self.work.multiget == 1 { b"v" } else { b"vq" };
        for n in 0..self.work.multiget {
            let key = if n == 0 { first } else { self.choose() };
            Meta::new(out, b"mg", self.name(key)).flags(flags).end();
        }
        if self.work.multiget > 1 {
            out.extend_from_slice(b"mn\r\n");
        }
    }

    /// Appends a request that stores key number `key`.
    pub(super) fn store(&mut self, out: &mut BytesMut, key: u32) -> Asked {
        let bytes = usize::try_from(self.work.sizes.of(key)).unwrap_or(0);
        let value = zeros(self.work.sizes.max()).get(..bytes).unwrap_or(&[]);
        let (expire, is_meta) = (i64::from(self.work.expire), self.work.is_meta);
        let key = self.name(key);
        if is_meta {
            Meta::store(out, key, bytes)
                .signed(b'T', expire)
                .end_with(value);
        } else {
            let store = Store {
                key,
                flags: 0,
                exptime: expire,
                cas: None,
                value,
            };
            encode::store(out, b"set", &store);
        }
        Asked::Store
    }

    fn choose(&mut self) -> u32 {
        match &self.work.spread {
            Sampler::Uniform => {
                let key = self.rng.below(u64::from(self.work.keys));
                u32::try_from(key).unwrap_or(0)
            }
            Sampler::Zipf(zipf) => zipf.sample(&mut self.rng) - 1,
            Sampler::Scan => {
                let key = self.next % self.work.keys;
                self.next = key + 1;
                key
            }
        }
    }

    fn name(&mut self, key: u32) -> &[u8] {
        self.key.clear();
        self.key.resize(self.work.key_bytes, b'0');
        let mut rest = key;
        for digit in self.key.iter_mut().rev() {
            if rest == 0 {
                break;
            }
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
        &self.key
    }
}

/// The bytes of all values: as many letters as the largest has.
fn zeros(max: usize) -> &'static [u8] {
    static VALUE: OnceLock<Vec<u8>> = OnceLock::new();
    VALUE.get_or_init(|| vec![b'v'; max])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(spread: KeySpread, sets: f64, multiget: u32, is_meta: bool) -> Work {
        Work {
            keys: 50,
            key_bytes: 10,
            spread: spread.sampler(50),
            sizes: "3".parse().unwrap(),
            sets,
            multiget,
            expire: 60,
            is_meta,
        }
    }

    fn asked(work: &Work) -> String {
        let mut out = BytesMut::new();
        Source::new(work, Rng::new(1), 48).ask(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn requests_in_both_protocols() {
        let scan = KeySpread::Scan;
        assert_eq!(asked(&work(scan, 0.0, 1, false)), "get 0000000048\r\n");
        assert_eq!(
            asked(&work(scan, 0.0, 3, false)),
            "get 0000000048 0000000049 0000000000\r\n"
        );
        assert_eq!(asked(&work(scan, 0.0, 1, true)), "mg 0000000048 v\r\n");
        assert_eq!(
            asked(&work(scan, 0.0, 2, true)),
            "mg 0000000048 v q\r\nmg 0000000049 v q\r\nmn\r\n"
        );
        assert_eq!(
            asked(&work(scan, 1.0, 1, false)),
            "set 0000000048 0 60 3\r\nvvv\r\n"
        );
        assert_eq!(
            asked(&work(scan, 1.0, 1, true)),
            "ms 0000000048 3 T60\r\nvvv\r\n"
        );
    }

    #[test]
    fn sizes_are_read_and_stay_with_their_key() {
        let mixed: Sizes = "10=3,100-200=1".parse().unwrap();
        let sizes: Vec<u32> = (0..4000).map(|key| mixed.of(key)).collect();
        assert_eq!(
            sizes,
            (0..4000).map(|key| mixed.of(key)).collect::<Vec<_>>()
        );
        let small = sizes.iter().filter(|size| **size == 10).count();
        assert!((2800..3200).contains(&small), "{small}");
        assert!(
            sizes
                .iter()
                .all(|size| *size == 10 || (100..=200).contains(size))
        );
        for wrong in ["", "x", "3-1", "1=0", "1,", "99999999999", "100000000"] {
            assert!(wrong.parse::<Sizes>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn spreads_are_read() {
        assert_eq!("zipf:0.99".parse(), Ok(KeySpread::Zipf(0.99)));
        assert_eq!("uniform".parse(), Ok(KeySpread::Uniform));
        for wrong in ["zipf", "zipf:", "zipf:-1", "zipf:NaN", "other"] {
            assert!(wrong.parse::<KeySpread>().is_err(), "{wrong}");
        }
    }
}

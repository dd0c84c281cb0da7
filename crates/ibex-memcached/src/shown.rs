//! Settings of the original that mean nothing here: read, checked, and shown by `stats settings` as they were set.
//!
//! They tune size classes, LRU threads and a hash table that this store does not have. Programs that set them read them back, so they are kept.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Which values a setting takes.
#[derive(Debug, Clone, Copy)]
enum Takes {
    /// A whole number.
    Number(u64, u64),
    /// A number of kilobytes, shown in bytes.
    Kilobytes(u64, u64),
    /// A number above 0 and up to this.
    Factor(f64),
    /// One of these words.
    Word(&'static [&'static str]),
}

const YES_NO: Takes = Takes::Word(&["yes", "no"]);

/// Name, what it takes, what is shown unless it is set.
type Row = (&'static str, Takes, &'static str);

/// The settings, with the original's limits (memcached.c, main).
const TABLE: [Row; 14] = [
    ("slab_reassign", YES_NO, "yes"),
    ("slab_automove", Takes::Number(0, 2), "1"),
    ("slab_automove_ratio", Takes::Factor(1.0), "0.80"),
    ("slab_automove_window", Takes::Number(3, 1800), "30"),
    ("slab_chunk_max", Takes::Kilobytes(1, 1024), "524288"),
    ("lru_crawler_sleep", Takes::Number(0, 1_000_000), "100"),
    (
        "lru_crawler_tocrawl",
        Takes::Number(0, u32::MAX as u64),
        "0",
    ),
    ("tail_repair_time", Takes::Number(10, i32::MAX as u64), "0"),
    (
        "hash_algorithm",
        Takes::Word(&["jenkins", "murmur3", "xxh3"]),
        "xxh3",
    ),
    ("hot_lru_pct", Takes::Number(1, 79), "20"),
    ("warm_lru_pct", Takes::Number(1, 79), "40"),
    ("hot_max_factor", Takes::Factor(f64::MAX), "0.20"),
    ("warm_max_factor", Takes::Factor(f64::MAX), "2.00"),
    ("temporary_ttl", Takes::Number(0, i32::MAX as u64), "61"),
];

/// Largest sum of the hot and warm shares, in percent.
pub(crate) const LRU_PERCENT_MAX: u64 = 80;

/// The name as the table has it, and how the value is shown.
///
/// # Errors
/// What is wrong with it.
fn read(setting: &str) -> Result<(&'static str, String), String> {
    let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
    let row = TABLE.iter().find(|(known, _, _)| *known == name);
    let (name, takes, _) = row.ok_or_else(|| format!("{name}: there is no such setting"))?;
    if value.is_empty() {
        return Err(format!("{name} needs a value"));
    }
    let number = |least, most, scale: u64| match value.parse::<u64>() {
        Ok(number) if (least..=most).contains(&number) => Ok((number * scale).to_string()),
        _ => Err(format!("{name}={value}: must be from {least} to {most}")),
    };
    let shown = match takes {
        Takes::Number(least, most) => number(*least, *most, 1)?,
        Takes::Kilobytes(least, most) => number(*least, *most, 1024)?,
        Takes::Factor(most) => match value.parse::<f64>() {
            Ok(factor) if factor > 0.0 && factor <= *most => format!("{factor:.2}"),
            _ => {
                return Err(format!(
                    "{name}={value}: must be a number greater than 0 and not too large"
                ));
            }
        },
        Takes::Word(words) if words.contains(&value) => value.to_owned(),
        Takes::Word(words) => {
            return Err(format!("{name}={value}: must be {}", words.join(" or ")));
        }
    };
    Ok((name, shown))
}

/// What is wrong with `settings`, each written `name=value`.
pub(crate) fn check(settings: &[String]) -> Vec<String> {
    let mut problems: Vec<String> = settings
        .iter()
        .filter_map(|setting| read(setting).err())
        .collect();
    if problems.is_empty() {
        let shown = Shown::new(settings);
        if shown.percent("hot_lru_pct") + shown.percent("warm_lru_pct") > LRU_PERCENT_MAX {
            problems.push(format!(
                "hot_lru_pct and warm_lru_pct together must be at most {LRU_PERCENT_MAX}"
            ));
        }
    }
    problems
}

/// The settings as they are now; commands change some.
#[derive(Debug)]
pub(crate) struct Shown(Mutex<BTreeMap<&'static str, String>>);

impl Shown {
    /// The defaults, and over them `settings`, which were checked; the last one of a name counts.
    pub(crate) fn new(settings: &[String]) -> Self {
        let mut all: BTreeMap<_, _> = TABLE
            .iter()
            .map(|(name, _, default)| (*name, (*default).to_owned()))
            .collect();
        all.extend(settings.iter().filter_map(|setting| read(setting).ok()));
        Self(Mutex::new(all))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is shown under a name of the table.
    pub(crate) fn get(&self, name: &str) -> String {
        self.lock().get(name).cloned().unwrap_or_default()
    }

    fn percent(&self, name: &str) -> u64 {
        self.get(name).parse().unwrap_or(0)
    }

    /// Changes a setting, as a command does that has checked its value against limits of its own.
    pub(crate) fn set(&self, name: &'static str, value: impl Into<String>) {
        self.lock().insert(name, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_at_and_over_their_limits() {
        for (setting, shown) in [
            ("slab_automove=2", Some("2")),
            ("slab_automove=3", None),
            ("slab_automove_ratio=1", Some("1.00")),
            ("slab_automove_ratio=0", None),
            ("slab_automove_ratio=nan", None),
            ("slab_automove_window=3", Some("3")),
            ("slab_automove_window=2", None),
            ("slab_automove_window=1801", None),
            ("slab_chunk_max=1024", Some("1048576")),
            ("slab_chunk_max=1025", None),
            ("lru_crawler_sleep=1000001", None),
            ("tail_repair_time=10", Some("10")),
            ("tail_repair_time=9", None),
            ("hash_algorithm=murmur3", Some("murmur3")),
            ("hash_algorithm=md5", None),
            ("hot_lru_pct=80", None),
            ("hot_max_factor=0", None),
            ("temporary_ttl=", None),
            ("temporary_ttl", None),
            ("nonsense=1", None),
        ] {
            assert_eq!(
                read(setting).ok().map(|(_, shown)| shown).as_deref(),
                shown,
                "{setting}"
            );
        }
    }

    #[test]
    fn shares_are_checked_together_and_the_last_one_counts() {
        let list = |settings: &[&str]| settings.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert!(check(&list(&["hot_lru_pct=40", "warm_lru_pct=40"])).is_empty());
        assert_eq!(check(&list(&["hot_lru_pct=41"])).len(), 1);
        assert_eq!(check(&list(&["x=1", "slab_automove=9"])).len(), 2);
        let shown = Shown::new(&list(&["slab_automove=0", "slab_automove=2"]));
        assert_eq!(shown.get("slab_automove"), "2");
        shown.set("slab_automove", "1");
        assert_eq!(
            (shown.get("slab_automove"), shown.get("hot_lru_pct")),
            ("1".to_owned(), "20".to_owned())
        );
    }
}

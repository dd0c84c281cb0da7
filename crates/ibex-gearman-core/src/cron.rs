//! The five fields of SUBMIT_JOB_SCHED, and the next minute they name. Arithmetic only: UTC, no leap seconds, no time zones.
//!
//! A field is empty or `*` (any), or a comma-separated list of numbers, ranges `a-b` and steps `*/n`, `a-b/n`, as in cron. When day of month and day
//! of week are both bound, a day that either names will do, as in cron.
//!
//! COMPAT(gearmand): day of week 0 is Monday (its PROTOCOL text). DIFFERS(gearmand): the original parses the packet and then refuses it.

use bytes::Bytes;

/// Bytes of one field: sixty numbers of two digits with their commas, and some air.
pub(crate) const FIELD_BYTES_MAX: usize = 200;

/// What the fields may say: minute, hour, day of month, month, day of week.
const RANGES: [(u32, u32); 5] = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];

/// Days looked at before a date counts as one that never comes: from one 29 February to the next there can be eight years (1896 to 1904, 2096 to 2104).
const DAYS_MAX: u64 = 8 * 366 + 1;

const MINUTE_MS: u64 = 60_000;
const DAY_MINUTES: u64 = 24 * 60;

/// The minutes at which something recurs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cron {
    /// As they were sent.
    pub(crate) fields: [Bytes; 5],
    /// The numbers each field names, as bits.
    sets: [u64; 5],
    is_day_bound: bool,
    is_weekday_bound: bool,
}

impl Cron {
    /// The schedule these fields say; `None` when a field cannot be read or no date ever fits.
    pub(crate) fn parse(fields: &[Bytes; 5]) -> Option<Self> {
        let mut sets = [0; 5];
        for ((set, field), range) in sets.iter_mut().zip(fields).zip(RANGES) {
            *set = parse_field(field, range)?;
        }
        let is_bound = |field: &Bytes| !matches!(&field[..], b"" | b"*");
        let cron = Self {
            fields: fields.clone(),
            sets,
            is_day_bound: is_bound(&fields[2]),
            is_weekday_bound: is_bound(&fields[4]),
        };
        cron.next_after(0).map(|_| cron)
    }

    /// The first minute after `wall_ms` (milliseconds since 1970) that the fields name, in the same unit.
    pub(crate) fn next_after(&self, wall_ms: u64) -> Option<u64> {
        let first = wall_ms / MINUTE_MS + 1;
        let mut day = first / DAY_MINUTES;
        let mut minute_of_day = first % DAY_MINUTES;
        for _ in 0..DAYS_MAX {
            if self.names_day(day)
                && let Some(minute) = self.next_in_day(minute_of_day)
            {
                return Some((day * DAY_MINUTES + minute) * MINUTE_MS);
            }
            (day, minute_of_day) = (day + 1, 0);
        }
        None
    }

    fn has(&self, field: usize, number: u64) -> bool {
        self.sets[field] >> number & 1 == 1
    }

    fn names_day(&self, day: u64) -> bool {
        let (month, day_of_month) = civil(day);
        // 1 January 1970 was a Thursday, three days after a Monday.
        let weekday = (day + 3) % 7;
        let fits = match (self.is_day_bound, self.is_weekday_bound) {
            (true, true) => self.has(2, day_of_month) || self.has(4, weekday),
            _ => self.has(2, day_of_month) && self.has(4, weekday),
        };
        fits && self.has(3, month)
    }

    fn next_in_day(&self, from: u64) -> Option<u64> {
        (from..DAY_MINUTES).find(|minute| self.has(1, minute / 60) && self.has(0, minute % 60))
    }
}

fn parse_field(field: &[u8], (low, high): (u32, u32)) -> Option<u64> {
    if field.len() > FIELD_BYTES_MAX {
        return None;
    }
    if field.is_empty() {
        return Some(span(low, high, 1));
    }
    let mut set = 0;
    for part in field.split(|b| *b == b',') {
        let (range, step) = match part.iter().position(|b| *b == b'/') {
            None => (part, None),
            Some(at) => (&part[..at], Some(number(&part[at + 1..])?)),
        };
        let (from, to) = if range == b"*" {
            (low, high)
        } else if let Some(at) = range.iter().position(|b| *b == b'-') {
            (number(&range[..at])?, number(&range[at + 1..])?)
        } else {
            let from = number(range)?;
            (from, if step.is_some() { high } else { from })
        };
        let step = step.unwrap_or(1);
        if from < low || to > high || from > to || step == 0 {
            return None;
        }
        set |= span(from, to, step);
    }
    Some(set)
}

fn span(from: u32, to: u32, step: u32) -> u64 {
    let mut set = 0;
    let mut number = from;
    while number <= to {
        set |= 1 << number;
        number = number.saturating_add(step);
    }
    set
}

fn number(text: &[u8]) -> Option<u32> {
    u32::try_from(ibex_base::ascii::parse_u64(text)?).ok()
}

/// Month and day of month of a day since 1970, by counting in years that begin in March, so that the leap day is the last.
fn civil(day: u64) -> (u64, u64) {
    let shifted = day + 719_468;
    let of_era = shifted % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * month + 2) / 5 + 1;
    (if month < 10 { month + 3 } else { month - 9 }, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron(text: &str) -> Option<Cron> {
        let fields: Vec<Bytes> = text
            .split(' ')
            .map(|field| Bytes::copy_from_slice(field.as_bytes()))
            .collect();
        Cron::parse(&fields.try_into().unwrap())
    }

    /// Minutes since 1970 of the next occurrence after a second.
    #[track_caller]
    fn check(text: &str, after_s: u64, expected_s: u64) {
        assert_eq!(
            cron(text).unwrap().next_after(after_s * 1000),
            Some(expected_s * 1000),
            "{text} after {after_s}"
        );
    }

    #[test]
    fn next_minutes() {
        // Sunday, 9 September 2001, 01:46:40 UTC.
        let now = 1_000_000_000;
        check("* * * * *", now, 1_000_000_020);
        check("* * * * *", 1_000_000_020, 1_000_000_080);
        check("*/15 * * * *", now, 1_000_000_800);
        check("0 2 * * *", now, 1_000_000_800);
        check("0 1 * * *", now, 1_000_000_800 + 23 * 3600);
        // Day 0 is Monday: midnight of the 10th.
        check("0 0 * * 0", now, 1_000_080_000);
        // Day 6 is Sunday: today is over at midnight, so in seven days.
        check("0 0 * * 6", now, 1_000_080_000 + 6 * 86_400);
        check("0 0 1 10 *", now, 1_001_894_400);
        // 29 February 2004.
        check("30 12 29 2 *", now, 1_078_057_800);
        // Either the 11th or a Monday.
        check("0 0 11 * 0", now, 1_000_080_000);
        check("0 0 11 * 3", now, 1_000_166_400);
        // A list, a range and a stepped range.
        check("50,55 1-3 * * *", now, 1_000_000_200);
        check("10-50/20 * * * *", now, 1_000_000_200);
    }

    #[test]
    fn empty_fields_mean_any() {
        let any = Cron::parse(&[const { Bytes::new() }; 5]).unwrap();
        assert_eq!(any.next_after(0), Some(60_000));
    }

    #[test]
    fn the_century_without_a_leap_day() {
        // From 1 March 2096 the next 29 February is in 2104.
        let leap = cron("0 0 29 2 *").unwrap();
        let march_2096 = 3_981_398_400_000;
        let next = leap.next_after(march_2096).unwrap();
        assert_eq!((next - march_2096) / 86_400_000, 8 * 365);
    }

    #[test]
    fn what_cannot_be_read_or_never_comes() {
        for text in [
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * 32 * *",
            "* * * 13 *",
            "* * * * 7",
            "5-1 * * * *",
            "*/0 * * * *",
            "x * * * *",
            "1, * * * *",
            "-1 * * * *",
            "* * 30 2 *",
            "** * * * *",
        ] {
            assert_eq!(cron(text), None, "{text}");
        }
        assert_eq!(parse_field(&[b'1'; FIELD_BYTES_MAX + 1], (0, 59)), None);
    }
}

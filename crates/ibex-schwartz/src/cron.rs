//! Periodic jobs: when the next one is due, and the row that makes several daemons insert it once.
//!
//! Apart because a schedule is pure arithmetic over civil time, tested without a clock. An hour that a change of clocks skips runs once after
//! the gap; an hour that is repeated runs once.

use crate::database::Database;
use crate::error::Error;
use crate::handle::Handle;
use crate::insert::{insert_tolerant, prepared};
use crate::job::Job;
use crate::wide::{Effects, Placed};
use ibex_sql::params;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// How far ahead a match is looked for: 29 February comes every eight years at worst.
const YEARS_AHEAD: i16 = 9;
/// Characters of a name, and of a specification.
const NAME_CHARS_MAX: usize = 255;

/// When a periodic job runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    when: Times,
    zone: TimeZone,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Times {
    /// Every so many seconds since the epoch.
    Every(i64),
    Fields(Box<Fields>),
}

/// Bit n is set when the value n matches.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fields {
    second: u64,
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    /// Both day fields restrict: either may match, as in every cron.
    either_day: bool,
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Reads `minute hour day month weekday`, the same with seconds before it, `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`, or
    /// `@every 90s|5m|2h|1d`; `zone` is an IANA name, empty for UTC.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the part that makes no sense.
    pub fn parse(spec: &str, zone: &str) -> Result<Self, Error> {
        let zone = if zone.is_empty() {
            TimeZone::UTC
        } else {
            TimeZone::get(zone).map_err(|_| invalid(format!("unknown time zone {zone:?}")))?
        };
        let spec = match spec.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            other => other,
        };
        if let Some(every) = spec.strip_prefix("@every ") {
            return Ok(Self {
                when: Times::Every(every_seconds(every.trim())?),
                zone,
            });
        }
        let parts: Vec<&str> = spec.split_whitespace().collect();
        let (second, rest) = match parts.as_slice() {
            [minute, hour, day, month, weekday] => (1, [*minute, *hour, *day, *month, *weekday]),
            [second, minute, hour, day, month, weekday] => (
                field(second, 0, 59, &[])?,
                [*minute, *hour, *day, *month, *weekday],
            ),
            _ => return Err(invalid("a schedule has 5 or 6 fields, or starts with @")),
        };
        let [minute, hour, day, month, weekday] = rest;
        let mut weekdays = field(weekday, 0, 7, &WEEKDAYS)?;
        // 7 is Sunday, too.
        weekdays |= weekdays >> 7 & 1;
        let fields = Fields {
            second,
            minute: field(minute, 0, 59, &[])?,
            hour: field(hour, 0, 23, &[])?,
            day: field(day, 1, 31, &[])?,
            month: field(month, 1, 12, &MONTHS)?,
            weekday: weekdays,
            either_day: !day.starts_with('*') && !weekday.starts_with('*'),
        };
        let schedule = Self {
            when: Times::Fields(Box::new(fields)),
            zone,
        };
        if schedule.next(0).is_none() {
            return Err(invalid("the schedule never comes"));
        }
        Ok(schedule)
    }

    /// The first second after `after` (both since the epoch) at which it runs.
    #[must_use]
    pub fn next(&self, after: i64) -> Option<i64> {
        match &self.when {
            Times::Every(seconds) => after
                .div_euclid(*seconds)
                .checked_add(1)?
                .checked_mul(*seconds),
            Times::Fields(fields) => {
                let mut civil = self.zone.to_datetime(Timestamp::from_second(after).ok()?);
                let last = civil.year() + YEARS_AHEAD;
                loop {
                    civil = fields.next(civil.checked_add(1.second()).ok()?, last)?;
                    // A gap moves it behind the gap; of a repeated hour the first counts, which may be past already.
                    let at = self
                        .zone
                        .to_ambiguous_timestamp(civil)
                        .compatible()
                        .ok()?
                        .as_second();
                    if at > after {
                        return Some(at);
                    }
                }
            }
        }
    }
}

impl Fields {
    /// The first matching time at or after `from`.
    fn next(&self, from: DateTime, last_year: i16) -> Option<DateTime> {
        let mut time = from.with().subsec_nanosecond(0).build().ok()?;
        while time.year() <= last_year {
            if !has(self.month, time.month()) {
                time = time
                    .first_of_month()
                    .checked_add(1.month())
                    .ok()?
                    .start_of_day();
            } else if !self.is_day(time) {
                time = time.checked_add(1.day()).ok()?.start_of_day();
            } else if !has(self.hour, time.hour()) {
                time = time
                    .with()
                    .minute(0)
                    .second(0)
                    .build()
                    .ok()?
                    .checked_add(1.hour())
                    .ok()?;
            } else if !has(self.minute, time.minute()) {
                time = time
                    .with()
                    .second(0)
                    .build()
                    .ok()?
                    .checked_add(1.minute())
                    .ok()?;
            } else if !has(self.second, time.second()) {
                time = time.checked_add(1.second()).ok()?;
            } else {
                return Some(time);
            }
        }
        None
    }

    fn is_day(&self, time: DateTime) -> bool {
        let by_day = has(self.day, time.day());
        let by_weekday = has(self.weekday, time.weekday().to_sunday_zero_offset());
        if self.either_day {
            by_day || by_weekday
        } else {
            by_day && by_weekday
        }
    }
}

fn has(bits: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| bits >> value & 1 == 1)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::Invalid(message.into())
}

fn every_seconds(text: &str) -> Result<i64, Error> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(invalid("@every takes 90s, 5m, 2h or 1d")),
    };
    match digits
        .parse::<i64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
    {
        Some(seconds) if (1..=366 * 86_400).contains(&seconds) => Ok(seconds),
        _ => Err(invalid("@every takes one second to one year")),
    }
}

/// `*`, `a`, `a-b`, each with `/step`, in a list.
fn field(text: &str, low: u32, high: u32, names: &[&str]) -> Result<u64, Error> {
    let bad = || invalid(format!("{text:?} is no field from {low} to {high}"));
    let value = |part: &str| -> Option<u32> {
        let lower = part.to_ascii_lowercase();
        if let Some(index) = names.iter().position(|name| *name == lower) {
            return Some(u32::try_from(index).ok()? + low);
        }
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        part.parse()
            .ok()
            .filter(|value| (low..=high).contains(value))
    };
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (
                range,
                step.parse().ok().filter(|step| *step > 0).ok_or_else(bad)?,
            ),
            None => (part, 1),
        };
        let (from, to) = match (range, range.split_once('-')) {
            ("*", _) => (low, high),
            (_, Some((from, to))) => (value(from).ok_or_else(bad)?, value(to).ok_or_else(bad)?),
            (one, None) => {
                let from = value(one).ok_or_else(bad)?;
                (from, if part.contains('/') { high } else { from })
            }
        };
        if from > to {
            return Err(bad());
        }
        let mut at = from;
        while at <= to {
            bits |= 1_u64 << at;
            at = at.saturating_add(step);
        }
    }
    Ok(bits)
}

/// What happens to runs that were missed while no daemon was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CatchUp {
    /// They are left out.
    #[default]
    None,
    /// The last of them runs.
    One,
    /// All of them run.
    All,
}

impl CatchUp {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::One => "one",
            Self::All => "all",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::None, Self::One, Self::All]
            .into_iter()
            .find(|policy| policy.as_str() == word)
    }
}

/// A periodic job as its row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronEntry {
    /// Unique in its database.
    pub name: String,
    /// See [`Schedule::parse`].
    pub spec: String,
    /// IANA name; empty for UTC.
    pub zone: String,
    /// Missed runs.
    pub catch_up: CatchUp,
    /// The job, in whatever form the caller keeps it.
    pub template: String,
    /// The next run, epoch seconds.
    pub next_at: i64,
    /// The last run, epoch seconds.
    pub last_at: Option<i64>,
}

const COLUMNS: &str = "name, spec, zone, catch_up, template, next_at, last_at";

impl Database {
    /// Stores a periodic job; its next run is counted from now.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the schedule; [`Error::NotFound`] when the database does not allow our own tables.
    pub async fn cron_put(
        &self,
        name: &str,
        spec: &str,
        zone: &str,
        catch_up: CatchUp,
        template: &str,
    ) -> Result<CronEntry, Error> {
        let count = name.chars().count();
        if count == 0
            || count > NAME_CHARS_MAX
            || spec.chars().count() > NAME_CHARS_MAX
            || name.chars().any(char::is_control)
        {
            return Err(invalid(
                "a name has 1 to 255 characters, a schedule at most 255",
            ));
        }
        let schedule = Schedule::parse(spec, zone)?;
        let now = i64::try_from(self.time().await?).unwrap_or(i64::MAX);
        let next_at = schedule
            .next(now)
            .ok_or_else(|| invalid("the schedule never comes"))?;
        self.need_side().await?;
        self.execute(
            "REPLACE INTO {p}sz_cron (name, spec, zone, catch_up, template, next_at, last_at) VALUES (?, ?, ?, ?, ?, ?, NULL)",
            params![name, spec, zone, catch_up.as_str(), template, next_at],
        )
        .await?;
        Ok(CronEntry {
            name: name.to_owned(),
            spec: spec.to_owned(),
            zone: zone.to_owned(),
            catch_up,
            template: template.to_owned(),
            next_at,
            last_at: None,
        })
    }

    /// All periodic jobs, by name.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn cron_list(&self) -> Result<Vec<CronEntry>, Error> {
        self.need_side().await?;
        self.query(
            &format!("SELECT {COLUMNS} FROM {{p}}sz_cron ORDER BY name"),
            params![],
        )
        .await?
        .iter()
        .map(entry)
        .collect()
    }

    /// Removes one; `false` when there is none of that name.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn cron_delete(&self, name: &str) -> Result<bool, Error> {
        self.need_side().await?;
        Ok(self
            .execute("DELETE FROM {p}sz_cron WHERE name = ?", params![name])
            .await?
            .rows_affected
            == 1)
    }

    /// Those that are due now, with the database's now.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn cron_due(&self) -> Result<Vec<(CronEntry, i64)>, Error> {
        self.db().await?;
        if !self.has_side() {
            return Ok(Vec::new());
        }
        let rows = self.query(&format!("SELECT {COLUMNS}, :now FROM {{p}}sz_cron WHERE next_at <= :now ORDER BY next_at"), params![]).await?;
        rows.iter()
            .map(|row| Ok((entry(row)?, row.get(7)?)))
            .collect()
    }

    /// Moves an entry to its next run and inserts `jobs` in one transaction, unless another daemon was faster: then `None`.
    ///
    /// # Errors
    /// What the database answers, and as an insert.
    pub async fn cron_fire(
        &self,
        entry: &CronEntry,
        next_at: i64,
        jobs: &[Job],
    ) -> Result<Option<Vec<Handle>>, Error> {
        let rows = prepared(self, jobs).await?;
        let (scope, name, due) = (self.scope(), entry.name.clone(), entry.next_at);
        let ids = self
            .db()
            .await?
            .write(move |tx| {
                let (scope, name, rows) = (scope.clone(), name.clone(), rows.clone());
                Box::pin(async move {
                    let mut work = scope.on(tx);
                    let moved = work
                        .execute("UPDATE {p}sz_cron SET next_at = ?, last_at = :now WHERE name = ? AND next_at = ?", params![next_at, name, due])
                        .await?;
                    if moved.rows_affected != 1 {
                        return Ok(None);
                    }
                    let mut effects = Effects::default();
                    let placed = insert_tolerant(&mut work, rows, &mut effects).await?;
                    Ok(Some((placed, effects)))
                })
            })
            .await;
        let placed: Option<(Vec<Placed>, Effects)> = ids.map_err(|error: Error| error)?;
        let Some((placed, effects)) = placed else {
            return Ok(None);
        };
        self.tell(&effects).await;
        let ids = placed.into_iter().filter_map(Placed::id);
        Ok(Some(ids.map(|id| Handle::new(self.hash(), id)).collect()))
    }

    pub(crate) async fn need_side(&self) -> Result<(), Error> {
        self.db().await?;
        if self.has_side() {
            Ok(())
        } else {
            Err(Error::Config(
                "the database does not allow tables of our own".to_owned(),
            ))
        }
    }
}

fn entry(row: &ibex_sql::Row) -> Result<CronEntry, Error> {
    Ok(CronEntry {
        name: row.get(0)?,
        spec: row.get(1)?,
        zone: row.get(2)?,
        catch_up: CatchUp::from_word(&row.get::<String>(3)?).unwrap_or_default(),
        template: row.get(4)?,
        next_at: row.get(5)?,
        last_at: row.get(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn runs(spec: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(spec, zone).unwrap();
        let mut at = from.parse::<Timestamp>().unwrap().as_second();
        (0..count)
            .map(|_| {
                at = schedule.next(at).unwrap();
                Timestamp::from_second(at).unwrap().to_string()
            })
            .collect()
    }

    #[test]
    fn ordinary_schedules() {
        assert_eq!(
            runs("*/15 9-17 * * mon-fri", "", "2026-11-27T17:50:00Z", 2),
            ["2026-11-30T09:00:00Z", "2026-11-30T09:15:00Z"]
        );
        assert_eq!(
            runs("0 0 29 2 *", "", "2026-01-01T00:00:00Z", 1),
            ["2028-02-29T00:00:00Z"]
        );
        assert_eq!(
            runs("30 0 12 * * *", "", "2026-11-25T12:00:30Z", 1),
            ["2026-11-26T12:00:30Z"]
        );
        assert_eq!(
            runs("0 0 13 * 5", "", "2026-11-01T00:00:00Z", 3),
            [
                "2026-11-06T00:00:00Z",
                "2026-11-13T00:00:00Z",
                "2026-11-20T00:00:00Z"
            ]
        );
        assert_eq!(
            runs("@every 90s", "", "1970-01-01T00:02:00Z", 2),
            ["1970-01-01T00:03:00Z", "1970-01-01T00:04:30Z"]
        );
        assert_eq!(
            runs("0 8 * * 7", "Europe/Berlin", "2026-11-25T00:00:00Z", 1),
            ["2026-11-29T07:00:00Z"]
        );
    }

    #[test]
    fn a_skipped_hour_runs_once_after_it_and_a_repeated_hour_once() {
        // Clocks went from 02:00 to 03:00 on 29 March 2026 in Berlin, and from 03:00 back to 02:00 on 25 October.
        let spring = runs("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2);
        assert_eq!(spring, ["2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"]);
        let autumn = runs("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
        assert_eq!(autumn, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        let quarters = runs("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:30:00Z", 2);
        assert_eq!(quarters, ["2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for spec in [
            "",
            "* * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-1 * * * *",
            "*/0 * * * *",
            "x * * * *",
            "0 0 30 2 *",
            "@every 5",
            "@every 0s",
            "@sometimes",
        ] {
            assert!(Schedule::parse(spec, "").is_err(), "{spec}");
        }
        assert!(Schedule::parse("* * * * *", "Mars/Olympus").is_err());
    }

    proptest! {
        #[test]
        fn the_next_run_is_later_and_stable(minute in 0..60_u8, hour in 0..24_u8, after in 0_i64..4_000_000_000) {
            let schedule = Schedule::parse(&format!("{minute} {hour} * * *"), "America/New_York").unwrap();
            let next = schedule.next(after).unwrap();
            prop_assert!(next > after && next - after <= 2 * 86_400);
            prop_assert_eq!(schedule.next(next - 1), Some(next));
        }

        #[test]
        fn no_text_panics(spec in ".{0,40}", zone in ".{0,10}") {
            drop(Schedule::parse(&spec, &zone));
        }
    }
}

//! What time it is, and how times are shown. The one place that reads the wall clock.
//!
//! Apart because entries carry two times: `eventtime`, the author's own clock without a zone, and `logtime`, the server's in UTC.
//! Both are seconds since 1970 read as UTC.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// Seconds since 1970.
#[must_use]
pub fn now() -> i64 {
    Timestamp::now().as_second()
}

fn civil(seconds: i64) -> DateTime {
    Offset::UTC.to_datetime(Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// `25 November 2026, 04:20`.
#[must_use]
pub fn human(seconds: i64) -> String {
    civil(seconds).strftime("%-d %B %Y, %H:%M").to_string()
}

/// `25 November 2026`.
#[must_use]
pub fn day(seconds: i64) -> String {
    civil(seconds).strftime("%-d %B %Y").to_string()
}

/// `November 2026`.
#[must_use]
pub fn month(seconds: i64) -> String {
    civil(seconds).strftime("%B %Y").to_string()
}

/// `2026-11-25T04:20:00Z`.
#[must_use]
pub fn iso(seconds: i64) -> String {
    civil(seconds).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-11-25 04:20:00`, as the old protocols write times.
#[must_use]
pub fn sql(seconds: i64) -> String {
    civil(seconds).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// `2026-11-25`.
#[must_use]
pub fn date(seconds: i64) -> String {
    civil(seconds).strftime("%Y-%m-%d").to_string()
}

/// `Wed, 25 Nov 2026 04:20:00 GMT`.
#[must_use]
pub fn http(seconds: i64) -> String {
    civil(seconds)
        .strftime("%a, %d %b %Y %H:%M:%S GMT")
        .to_string()
}

/// How long ago, in the words of a reader; beyond a week the day.
#[must_use]
pub fn ago(seconds: i64, now: i64) -> String {
    let plural = |count: i64, word: &str| {
        if count == 1 {
            format!("1 {word} ago")
        } else {
            format!("{count} {word}s ago")
        }
    };
    match now - seconds {
        past if past < 60 => "just now".to_owned(),
        past if past < 3600 => plural(past / 60, "minute"),
        past if past < 86_400 => plural(past / 3600, "hour"),
        past if past < 7 * 86_400 => plural(past / 86_400, "day"),
        _ => day(seconds),
    }
}

/// Seconds of a date and time; `None` for one that does not exist.
#[must_use]
pub fn from_parts(year: i16, month: i8, day: i8, hour: i8, minute: i8) -> Option<i64> {
    let civil = DateTime::new(year, month, day, hour, minute, 0, 0).ok()?;
    Offset::UTC
        .to_timestamp(civil)
        .ok()
        .map(Timestamp::as_second)
}

/// Seconds of `YYYY-MM-DD hh:mm:ss`.
#[must_use]
pub fn parse_sql(text: &str) -> Option<i64> {
    let civil = DateTime::strptime("%Y-%m-%d %H:%M:%S", text).ok()?;
    Offset::UTC
        .to_timestamp(civil)
        .ok()
        .map(Timestamp::as_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_people_and_machines_expect() {
        let time = from_parts(2026, 11, 25, 4, 20).unwrap();
        assert_eq!(human(time), "25 November 2026, 04:20");
        assert_eq!(iso(time), "2026-11-25T04:20:00Z");
        assert_eq!(http(time), "Wed, 25 Nov 2026 04:20:00 GMT");
        assert_eq!(parse_sql(&sql(time)), Some(time));
        assert_eq!(from_parts(2026, 2, 30, 0, 0), None);
        assert_eq!(ago(time, time + 3700), "1 hour ago");
        assert_eq!(ago(time, time + 864_000), "25 November 2026");
    }
}

//! Dates as HTTP writes them. Spec: RFC 9110 section 5.6.7.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY_SECONDS: u64 = 24 * 60 * 60;
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// `Sun, 06 Nov 1994 08:49:37 GMT`. Times before 1970 are given as its first second, and those that
/// four digits of a year cannot hold as the last of 9999.
pub fn http_date(time: SystemTime) -> String {
    let seconds = seconds_since_1970(time);
    let (days, second) = (seconds / DAY_SECONDS, seconds % DAY_SECONDS);
    let (year, month, day) = civil_from_days(days);
    let weekday = WEEKDAYS[(days % 7) as usize];
    let month = MONTHS[(month - 1) as usize];
    format!(
        "{weekday}, {day:02} {month} {year:04} {:02}:{:02}:{:02} GMT",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// `1994-11-06T08:49:37Z`, as JSON documents have it (RFC 3339); the bounds are those of
/// [`http_date`].
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = seconds_since_1970(time);
    let (days, second) = (seconds / DAY_SECONDS, seconds % DAY_SECONDS);
    let (year, month, day) = civil_from_days(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

fn seconds_since_1970(time: SystemTime) -> u64 {
    const LAST_SECOND: u64 = 253_402_300_799;
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
        .min(LAST_SECOND)
}

/// Reads a date in any of the three forms a recipient must accept. The name of the day is not
/// checked against the date. A year of two digits is one between 1970 and 2069.
pub fn parse_http_date(text: &str) -> Option<SystemTime> {
    let (_, rest) = text.split_once(' ')?;
    let (day, month, year, time) = if text.as_bytes().get(3) == Some(&b' ') {
        // Sun Nov  6 08:49:37 1994
        let mut words = rest.split(' ').filter(|word| !word.is_empty());
        let (month, day, time, year) = (words.next()?, words.next()?, words.next()?, words.next()?);
        if words.next().is_some() {
            return None;
        }
        (number(day, 1..=2)?, month, number(year, 4..=4)?, time)
    } else if rest.contains('-') {
        // Sunday, 06-Nov-94 08:49:37 GMT
        let (date, time) = rest.strip_suffix(" GMT")?.split_once(' ')?;
        let mut parts = date.split('-');
        let (day, month, year) = (parts.next()?, parts.next()?, number(parts.next()?, 2..=2)?);
        let century = if year < 70 { 2000 } else { 1900 };
        (number(day, 2..=2)?, month, century + year, time)
    } else {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let mut words = rest.strip_suffix(" GMT")?.splitn(4, ' ');
        let (day, month, year) = (words.next()?, words.next()?, words.next()?);
        (
            number(day, 2..=2)?,
            month,
            number(year, 4..=4)?,
            words.next()?,
        )
    };
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let mut parts = time.split(':').map(|part| number(part, 2..=2));
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    let is_time = hour < 24 && minute < 60 && second <= 60 && parts.next().is_none();
    if !is_time
        || !(1970..=9999).contains(&year)
        || !(1..=days_in_month(year, month)).contains(&day)
    {
        return None;
    }
    let seconds =
        days_from_civil(year, month, day) * DAY_SECONDS + hour * 3600 + minute * 60 + second;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn number(digits: &str, length: std::ops::RangeInclusive<usize>) -> Option<u64> {
    let is_number =
        length.contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().expect("at most four digits"))
}

fn days_in_month(year: u64, month: u64) -> u64 {
    let is_leap_year =
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if is_leap_year => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to the first of January of `year`.
fn days_before_year(year: u64) -> u64 {
    let leap_days = |year: u64| (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    (year - 1970) * 365 + leap_days(year) - leap_days(1970)
}

fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let before_month: u64 = (1..month).map(|month| days_in_month(year, month)).sum();
    days_before_year(year) + before_month + day - 1
}

fn civil_from_days(days: u64) -> (u64, u64, u64) {
    // A guess that is never too small and at most a few years too large.
    let mut year = 1970 + days / 365;
    while days_before_year(year) > days {
        year -= 1;
    }
    let mut day = days - days_before_year(year);
    let mut month = 1;
    while day >= days_in_month(year, month) {
        day -= days_in_month(year, month);
        month += 1;
    }
    (year, month, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_document_s_date_is_the_same_moment() {
        let time = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(rfc3339(time), "1994-11-06T08:49:37Z");
        assert_eq!(
            rfc3339(UNIX_EPOCH - Duration::from_secs(1)),
            "1970-01-01T00:00:00Z"
        );
    }

    #[test]
    fn known_moments_are_written_and_read() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(http_date(at(seconds)), text);
            assert_eq!(parse_http_date(text), Some(at(seconds)), "{text}");
        }
        assert_eq!(
            http_date(at(300_000_000_000)),
            "Fri, 31 Dec 9999 23:59:59 GMT"
        );
        assert_eq!(
            http_date(UNIX_EPOCH - Duration::from_secs(1)),
            "Thu, 01 Jan 1970 00:00:00 GMT"
        );
    }

    #[test]
    fn every_day_of_four_centuries_survives_the_way_there_and_back() {
        for day in 0..146_097 {
            let time = at(day * DAY_SECONDS + day % DAY_SECONDS);
            assert_eq!(parse_http_date(&http_date(time)), Some(time));
        }
    }

    #[test]
    fn the_two_obsolete_forms_are_read() {
        let time = Some(at(784_111_777));
        assert_eq!(parse_http_date("Sunday, 06-Nov-94 08:49:37 GMT"), time);
        assert_eq!(parse_http_date("Sun Nov  6 08:49:37 1994"), time);
    }

    #[test]
    fn what_is_no_date_gives_none() {
        for text in [
            "",
            "now",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 1994 08:49:37:00 GMT",
            "Sun, 06 Nov 1969 08:49:37 GMT",
            "Sun, +6 Nov 1994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "784111777",
            "Sun Nov  6 08:49:37 1994 x",
        ] {
            assert_eq!(parse_http_date(text), None, "{text:?}");
        }
    }
}

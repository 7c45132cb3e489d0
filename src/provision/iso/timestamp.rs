//! A time of day in UTC, in the two forms of ECMA-119.

/// 2155-12-31 23:59:59: a folder record counts years from 1900 in one byte.
pub(super) const SECONDS_MAX: u64 = 5_869_583_999;

const DAY_SECONDS: u64 = 86_400;

#[derive(Clone, Copy)]
pub(super) struct Timestamp {
    year: u16,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Timestamp {
    /// None when it is later than a folder record can say.
    pub(super) fn new(seconds_since_1970: u64) -> Option<Timestamp> {
        if seconds_since_1970 > SECONDS_MAX {
            return None;
        }
        let (year, month, day) = date_of(seconds_since_1970 / DAY_SECONDS);
        let second_of_day = seconds_since_1970 % DAY_SECONDS;
        Some(Timestamp {
            year: year as u16,
            month: month as u8,
            day: day as u8,
            hour: (second_of_day / 3600) as u8,
            minute: (second_of_day / 60 % 60) as u8,
            second: (second_of_day % 60) as u8,
        })
    }

    /// In a folder record (9.1.5) and in Rock Ridge; the last byte is the distance from UTC.
    pub(super) fn short(self) -> [u8; 7] {
        let years = u8::try_from(self.year - 1900).expect("SECONDS_MAX is in 2155");
        [
            years,
            self.month,
            self.day,
            self.hour,
            self.minute,
            self.second,
            0,
        ]
    }

    /// In a volume descriptor (8.4.26.1).
    pub(super) fn long(self) -> [u8; 17] {
        let digits = format!(
            "{:04}{:02}{:02}{:02}{:02}{:02}00",
            self.year, self.month, self.day, self.hour, self.minute, self.second
        );
        let mut field = [0; 17];
        field[..16].copy_from_slice(digits.as_bytes());
        field
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
///
/// Years are counted from March, so that the leap day is the last of its year.
fn date_of(day_since_1970: u64) -> (u64, u64, u64) {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    /// From 0000-03-01 to 1970-01-01.
    const DAYS_BEFORE_1970: u64 = 719_468;
    let day = day_since_1970 + DAYS_BEFORE_1970;
    let (era, day) = (day / DAYS_IN_400_YEARS, day % DAYS_IN_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let is_next_year = u64::from(month <= 2);
    (400 * era + year + is_next_year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(seconds: u64) -> String {
        let field = Timestamp::new(seconds).unwrap().long();
        String::from_utf8_lossy(&field[..16]).into_owned()
    }

    #[test]
    fn times_are_written_in_utc() {
        for (seconds, expected) in [
            (0, "1970010100000000"),
            (951_782_399, "2000022823595900"),
            (951_782_400, "2000022900000000"),
            (951_868_800, "2000030100000000"),
            (1_700_000_000, "2023111422132000"),
            (4_107_542_400, "2100030100000000"),
            (SECONDS_MAX, "2155123123595900"),
        ] {
            assert_eq!(long(seconds), expected);
        }
        assert_eq!(
            Timestamp::new(SECONDS_MAX).unwrap().short(),
            [255, 12, 31, 23, 59, 59, 0]
        );
        assert!(Timestamp::new(SECONDS_MAX + 1).is_none());
    }
}

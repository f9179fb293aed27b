//! Dates for templates, from a clock that the caller reads.

use crate::{Error, Result};

/// A moment as a reader's clock shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub unix_seconds: i64,
    /// How far the reader's clock is ahead of UTC, in seconds.
    pub utc_offset_seconds: i32,
}

const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

impl LocalTime {
    /// Writes the moment as Python's `strftime` does in the C locale.
    ///
    /// Knows `%a %A %b %B %d %e %F %H %I %j %m %M %p %S %T %w %y %Y %z %Z %%`, and `-` after the
    /// `%` for a number without padding.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another directive, and for a year outside 1 to 9999.
    pub fn strftime(self, format: &str) -> Result<String> {
        let seconds = self.unix_seconds.saturating_add(self.utc_offset_seconds.into());
        let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, of_month) = civil(day);
        if !(1..=9999).contains(&year) {
            return Err(Error::invalid(format!("the year {year} can't be written as a date")));
        }
        let of_year = day - days_before(year) + 1;
        let weekday = (day + 4).rem_euclid(7);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let month_name = MONTHS.get(month as usize - 1).copied().unwrap_or_default();
        let day_name = DAYS.get(weekday as usize).copied().unwrap_or_default();

        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next();
            let unpadded = directive == Some('-');
            if unpadded {
                directive = chars.next();
            }
            let number = |value: i64, width: usize| {
                let width = if unpadded { 0 } else { width };
                format!("{value:0width$}")
            };
            out.push_str(&match directive {
                Some('Y') => number(year, 4),
                Some('y') => number(year % 100, 2),
                Some('m') => number(month, 2),
                Some('d') => number(of_month, 2),
                Some('e') if unpadded => of_month.to_string(),
                Some('e') => format!("{of_month:2}"),
                Some('H') => number(hour, 2),
                Some('I') => number((hour + 11) % 12 + 1, 2),
                Some('M') => number(minute, 2),
                Some('S') => number(second, 2),
                Some('j') => number(of_year, 3),
                Some('w') => weekday.to_string(),
                Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
                Some('a') => day_name.chars().take(3).collect(),
                Some('A') => day_name.to_owned(),
                Some('b') => month_name.chars().take(3).collect(),
                Some('B') => month_name.to_owned(),
                Some('F') => format!("{year:04}-{month:02}-{of_month:02}"),
                Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
                // Python leaves both empty: `datetime.now()` has no time zone.
                Some('z' | 'Z') => String::new(),
                Some('%') => "%".to_owned(),
                other => {
                    let name = other.map(String::from).unwrap_or_default();
                    return Err(Error::invalid(format!("strftime: %{name} is not supported")));
                }
            });
        }
        Ok(out)
    }
}

/// Days from 1970-01-01 to the first of January of a year.
fn days_before(year: i64) -> i64 {
    let y = year - 1;
    365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) - 719_162
}

/// Year, month (1–12) and day of the month of a day counted from 1970-01-01: H. Hinnant's
/// `civil_from_days`, which counts years from March so that the leap day comes last.
fn civil(day: i64) -> (i64, i64, i64) {
    let z = day + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, of_month)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn at(unix_seconds: i64) -> LocalTime {
        LocalTime { unix_seconds, utc_offset_seconds: 0 }
    }

    #[test]
    fn writes_what_python_writes() {
        // `datetime.fromtimestamp(s, UTC).replace(tzinfo=None).strftime(…)` in CPython 3.
        let format = "%a %A %d %e %b %B %Y %y %m %j %w %H:%M:%S %I %p|%F|%T|%z%Z|%-d %-m|%%";
        assert_eq!(
            at(0).strftime(format).unwrap(),
            "Thu Thursday 01  1 Jan January 1970 70 01 001 4 00:00:00 12 AM|1970-01-01|00:00:00||1 1|%"
        );
        assert_eq!(
            at(1_709_211_845).strftime(format).unwrap(),
            "Thu Thursday 29 29 Feb February 2024 24 02 060 4 13:04:05 01 PM|2024-02-29|13:04:05||29 2|%"
        );
        assert_eq!(at(-1).strftime("%d %b %Y %H").unwrap(), "31 Dec 1969 23");
    }

    #[test]
    fn the_offset_moves_the_clock() {
        let time = LocalTime { unix_seconds: 0, utc_offset_seconds: -3600 };
        assert_eq!(time.strftime("%F %T").unwrap(), "1969-12-31 23:00:00");
    }

    #[test]
    fn days_follow_each_other() {
        let mut before = civil(-800_000);
        for day in -799_999..800_000 {
            let today = civil(day);
            let (y, m, d) = before;
            assert!(today == (y, m, d + 1) || today == (y, m + 1, 1) || today == (y + 1, 1, 1));
            if (m, d) == (12, 31) {
                assert_eq!(days_before(y + 1), day);
            }
            before = today;
        }
    }

    #[test]
    fn what_it_can_not_write_is_an_error() {
        assert!(at(0).strftime("%Q").unwrap_err().to_string().contains("%Q"));
        assert!(at(0).strftime("%").is_err());
        assert!(at(i64::MAX).strftime("%Y").is_err());
        assert!(at(i64::MIN).strftime("%Y").is_err());
    }
}

//! Times as text, in UTC: the day of a Unix time, as password managers store it, and an RFC 3339 timestamp.

use std::time::{SystemTime, UNIX_EPOCH};

/// The time as RFC 3339, `YYYY-MM-DDTHH:MM:SSZ`; `None` before 1970 and after the year 9999.
pub fn moment(time: SystemTime) -> Option<String> {
    let seconds = i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()?;
    let second = seconds.rem_euclid(86_400);
    let day = day(seconds)?;
    Some(format!("{day}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60))
}

/// The day, `YYYY-MM-DD` in UTC, of a time in seconds since 1970; `None` outside the years 0 to 9999.
pub fn day(seconds: i64) -> Option<String> {
    // Years start in March here, so that the leap day is the last day of a year:
    // <https://howardhinnant.github.io/date_algorithms.html>, civil_from_days. No sum overflows: an i64 of seconds has
    // fewer than 2^48 days.
    let days = seconds.div_euclid(86_400) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (0..=9999).contains(&year).then(|| format!("{year:04}-{month:02}-{day:02}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_date() {
        // `date -u -d @SECONDS +%F`
        for (seconds, want) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_768_638_600, "2026-01-17"),
            (4_107_542_400, "2100-03-01"),
            (253_402_300_799, "9999-12-31"),
        ] {
            assert_eq!(day(seconds).as_deref(), Some(want), "{seconds}");
        }
        for seconds in [253_402_300_800, i64::MAX, i64::MIN] {
            assert_eq!(day(seconds), None, "{seconds}");
        }
    }

    #[test]
    fn moments_are_those_of_date() {
        // `date -u -d @SECONDS +%FT%TZ`
        for (seconds, want) in [(0, "1970-01-01T00:00:00Z"), (1_768_724_999, "2026-01-18T08:29:59Z")] {
            let time = UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            assert_eq!(moment(time).as_deref(), Some(want), "{seconds}");
        }
        assert_eq!(moment(UNIX_EPOCH - std::time::Duration::from_secs(1)), None);
    }
}

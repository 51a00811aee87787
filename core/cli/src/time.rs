//! Times as text: RFC 3339, in the proleptic Gregorian calendar, milliseconds, UTC when printed.

use replicate::Timestamp;

const DAY_MS: i64 = 86_400_000;

/// A time as `2026-11-22T19:12:58.123Z`.
pub(crate) fn format(time: Timestamp) -> String {
    let (days, ms) = (time.0.div_euclid(DAY_MS), time.0.rem_euclid(DAY_MS));
    let (year, month, day) = date_of(days);
    let (h, m, s, milli) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{milli:03}Z")
}

/// Parses RFC 3339 (`2026-11-22T19:12:58Z`, `…58.123+01:00`). Digits beyond milliseconds are cut off.
pub(crate) fn parse(text: &str) -> Result<Timestamp, String> {
    parsed(text).ok_or_else(|| "expected a time such as 2026-11-22T19:12:58Z or 2026-11-22T20:12:58.5+01:00".to_owned())
}

fn parsed(text: &str) -> Option<Timestamp> {
    let (year, rest) = number(text, 4)?;
    let (month, rest) = number(rest.strip_prefix('-')?, 2)?;
    let (day, rest) = number(rest.strip_prefix('-')?, 2)?;
    let (hour, rest) = number(rest.strip_prefix(['T', 't', ' '])?, 2)?;
    let (minute, rest) = number(rest.strip_prefix(':')?, 2)?;
    let (second, rest) = number(rest.strip_prefix(':')?, 2)?;
    let (milli, rest) = fraction(rest)?;
    let offset = offset(rest)?;
    let days = days_of(year, month, day);
    // A date that does not exist comes back as another one; a leap second counts as the second before it.
    let real = (1..=12).contains(&month) && date_of(days) == (year, month, day);
    if !real || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = (hour * 60 + minute) * 60 + second.min(59);
    Some(Timestamp(days * DAY_MS + seconds * 1000 + milli - offset * 60_000))
}

/// The number in the next `digits` bytes, all of them digits, and what follows.
fn number(text: &str, digits: usize) -> Option<(i64, &str)> {
    let (number, rest) = text.split_at_checked(digits)?;
    number.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
    Some((number.parse().ok()?, rest))
}

/// Milliseconds of an optional fraction.
fn fraction(text: &str) -> Option<(i64, &str)> {
    let Some(rest) = text.strip_prefix('.') else { return Some((0, text)) };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return None;
    }
    let milli = format!("{:0<3}", &rest[..digits.min(3)]).parse().ok()?;
    Some((milli, &rest[digits..]))
}

/// Minutes east of UTC.
fn offset(text: &str) -> Option<i64> {
    if text == "Z" || text == "z" {
        return Some(0);
    }
    let sign = match text.chars().next()? {
        '+' => 1,
        '-' => -1,
        _ => return None,
    };
    let (hours, rest) = number(&text[1..], 2)?;
    let (minutes, rest) = number(rest.strip_prefix(':')?, 2)?;
    (rest.is_empty() && hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes))
}

/// Days since 1970-01-01. Years are counted from March, so that the leap day is the last of its year.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of a number of days since 1970-01-01.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-22T19:12:58.123Z", 1_795_374_778_123),
            ("2000-02-29T12:00:00+01:30", 951_820_200_000),
            ("1969-12-31T23:59:59.9999Z", -1),
            ("2026-11-22 19:12:58.1-00:00", 1_795_374_778_100),
        ] {
            assert_eq!(parse(text), Ok(Timestamp(ms)), "{text}");
        }
        assert_eq!(format(Timestamp(1_795_374_778_123)), "2026-11-22T19:12:58.123Z");
        assert_eq!(format(Timestamp(-1)), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn every_day_comes_back() {
        for day in -800_000..800_000 {
            let (y, m, d) = date_of(day);
            assert_eq!(days_of(y, m, d), day);
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            "now",
            "2026-11-22",
            "2026-11-22T19:12:58",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T19:60:00Z",
            "2026-11-22T19:12:58.Z",
            "2026-11-22T19:12:58Zx",
            "2026-11-22T19:12:58+1:00",
            "+026-11-22T19:12:58Z",
            "2026-11-22T19:12:58é",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

//! The text forms of durations and sizes.

use std::time::Duration;

/// Parses a duration as Go writes it: a sum of decimal numbers with units, `300ms`, `1.5h`, `1h30m`.
/// Units are `ns`, `us` (or `µs`), `ms`, `s`, `m`, `h`. A bare number has no unit and is refused.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let wrong = || "expected a duration such as 500ms, 1s or 1m30s".to_owned();
    let mut rest = text;
    let mut total = 0.0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let tail = &rest[digits..];
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (_, scale) = UNITS.iter().find(|(unit, _)| *unit == &tail[..unit_len]).ok_or_else(wrong)?;
        total += number * scale;
        rest = &tail[unit_len..];
    }
    Duration::try_from_secs_f64(total).map_err(|_| wrong())
}

/// Parses a size in bytes: a whole number, alone or with `B`, `KB`, `MB`, `GB`, `TB` (powers of 1000) or
/// `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024).
pub fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 10] = [
        ("", 1),
        ("B", 1),
        ("KB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
    ];
    let wrong = || "expected a size such as 64MiB or 1GB".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit = text[digits..].trim();
    let (_, scale) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?;
    number.checked_mul(*scale).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_go() {
        for (text, millis) in [("1s", 1000), ("500ms", 500), ("1m30s", 90_000), ("1.5h", 5_400_000), ("2us500us", 0)] {
            assert_eq!(parse_duration(text).map(|d| d.as_millis()), Ok(millis), "{text}");
        }
        for bad in ["", "1", "s", "1x", "-1s", "1s ", "1..5s", "1e3s", "999999999999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_know_both_kinds_of_units() {
        for (text, bytes) in [("7", 7), ("5MB", 5_000_000), ("5MiB", 5 << 20), ("1 GiB", 1 << 30), ("2kib", 2048)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "MiB", "1.5MiB", "-1", "1XB", "99999999TiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}

//! The timestamp beside an object: two entries of user metadata, RFC 3339 in UTC with milliseconds.
//!
//! Litestream reads the one, its descendant the other; both are written and either is read. Names come back in
//! any case: some servers capitalise them.

use std::collections::HashMap;

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};

const NAMES: [&str; 2] = ["litestream-timestamp", "replicate-timestamp"];

/// The entries that say this time.
pub(super) fn write(time: Timestamp) -> Result<HashMap<String, String>> {
    let text = format(time)?;
    Ok(NAMES.iter().map(|name| ((*name).to_owned(), text.clone())).collect())
}

/// The time that these entries say, if any of them does.
pub(super) fn read(entries: &HashMap<String, String>) -> Option<Timestamp> {
    let named = |name: &str| entries.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
    NAMES.iter().filter_map(|name| named(name)).find_map(|(_, text)| parse(text))
}

fn format(time: Timestamp) -> Result<String> {
    let millis = time.0.rem_euclid(1000);
    let whole = DateTime::from_secs(time.0.div_euclid(1000)).fmt(DateTimeFormat::DateTime);
    let whole = whole.map_err(|e| Error::new(ErrorKind::Config, format!("not a time to store: {e}")))?;
    Ok(format!("{}.{millis:03}Z", whole.trim_end_matches('Z')))
}

fn parse(text: &str) -> Option<Timestamp> {
    let time = DateTime::from_str(text.trim(), DateTimeFormat::DateTimeWithOffset).ok()?;
    time.to_millis().ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_milliseconds_and_read_back() {
        for (millis, text) in [
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (1_700_000_000_000, "2023-11-14T22:13:20.000Z"),
            (1_700_000_000_010, "2023-11-14T22:13:20.010Z"),
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_001, "2000-02-29T00:00:00.001Z"),
        ] {
            assert_eq!(format(Timestamp(millis)).expect("a time"), text);
            assert_eq!(parse(text), Some(Timestamp(millis)));
        }
        assert!(format(Timestamp(i64::MAX)).is_err());
    }

    #[test]
    fn what_others_write_is_read() {
        for (text, millis) in [
            ("2023-11-14T22:13:20Z", Some(1_700_000_000_000)),
            ("2023-11-14T22:13:20.123456789Z", Some(1_700_000_000_123)),
            ("2023-11-15T00:13:20.5+02:00", Some(1_700_000_000_500)),
            ("yesterday", None),
            ("", None),
            ("2023-13-99T99:99:99Z", None),
        ] {
            assert_eq!(parse(text), millis.map(Timestamp), "{text}");
        }
    }

    #[test]
    fn either_name_in_any_case_will_do() {
        let entries = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let at = "2023-11-14T22:13:20Z";
        for pairs in [
            &[("litestream-timestamp", at)][..],
            &[("replicate-timestamp", at)],
            &[("Litestream-Timestamp", at)],
            &[("litestream-timestamp", "no"), ("replicate-timestamp", at)],
        ] {
            assert_eq!(read(&entries(pairs)), Some(Timestamp(1_700_000_000_000)));
        }
        assert_eq!(read(&entries(&[("x", at)])), None);
        assert_eq!(write(Timestamp(0)).expect("a time").len(), 2);
    }
}

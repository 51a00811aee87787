//! Any text as a replica URL: refused without being repeated, or a place that is shown as a URL of the same place.

#![no_main]

use libfuzzer_sys::fuzz_target;
use replicate::config::StoreLocation;

fuzz_target!(|url: &str| {
    match StoreLocation::parse(url) {
        Ok(StoreLocation::S3(s3)) => {
            assert!(!s3.bucket.is_empty() && s3.credentials.is_none(), "{s3:?}");
            assert!(s3.prefix.split('/').all(|part| !matches!(part, "." | "..")), "{s3:?}");
            assert!(!s3.prefix.starts_with('/') && !s3.prefix.ends_with('/'), "{s3:?}");
        }
        Ok(place) => assert_eq!(StoreLocation::parse(&place.to_string()).ok(), Some(place.clone()), "{place}"),
        Err(error) => assert_eq!(error.kind(), replicate::ErrorKind::Config),
    }
});

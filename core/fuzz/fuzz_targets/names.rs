//! Any text as a name: refused, or printed back to the letter.

#![no_main]

use libfuzzer_sys::fuzz_target;
use replicate_format::{Txid, V3Generation, V3Segment, V3Snapshot, ltx_file_name, parse_ltx_file_name};

fuzz_target!(|name: &str| {
    if let Some(txids) = parse_ltx_file_name(name) {
        assert_eq!(ltx_file_name(txids), name);
    }
    if let Ok(txid) = name.parse::<Txid>() {
        assert_eq!(txid.to_string(), name);
    }
    if let Some(generation) = V3Generation::parse(name) {
        assert_eq!(generation.to_string(), name);
    }
    if let Some(snapshot) = V3Snapshot::parse(name) {
        assert_eq!(snapshot.to_string(), name);
    }
    // Offsets may have more digits than they need.
    if let Some(segment) = V3Segment::parse(name) {
        assert_eq!(V3Segment::parse(&segment.to_string()), Some(segment));
    }
});

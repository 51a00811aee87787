//! Any text as a name or a key of an object: refused, or printed back to the letter.

#![no_main]

use libfuzzer_sys::fuzz_target;
use replicate::Level;
use replicate::blob::ObjectKey;
use replicate::store::Layout;
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
    if let Ok(key) = ObjectKey::new(name) {
        for level in Level::all() {
            for layout in [Layout::Hex4, Layout::LtxDir] {
                if let Some(txids) = layout.parse(level, &key) {
                    assert_eq!(layout.key(level, txids).expect("a key"), key);
                }
            }
        }
    }
    // Offsets may have more digits than they need.
    if let Some(segment) = V3Segment::parse(name) {
        assert_eq!(V3Segment::parse(&segment.to_string()), Some(segment));
    }
});

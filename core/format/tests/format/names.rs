//! Names: one form each, and anything else is somebody else's file.

use proptest::prelude::*;
use replicate_format::{FileName, TxidRange, V3Generation, V3Segment, V3Snapshot, ltx_file_name, parse_ltx_file_name};

use crate::common::range;

#[test]
fn the_name_of_a_file_is_its_range() {
    let name = "0000000000000001-00000000000000ff.ltx";
    assert_eq!(ltx_file_name(range(1, 255)), name);
    assert_eq!(parse_ltx_file_name(name), Some(range(1, 255)));
    assert_eq!(name.parse::<FileName>().expect("a name").to_string(), name);
}

#[test]
fn other_names_are_ignored() {
    for name in [
        "",
        ".ltx",
        "0000000000000001-00000000000000FF.ltx",
        "0000000000000001-00000000000000ff.ltx.tmp",
        "0000000000000001-00000000000000ff.LTX",
        "000000000000001-00000000000000ff.ltx",
        "00000000000000010-0000000000000ff.ltx",
        "0000000000000001_00000000000000ff.ltx",
        "0000000000000001-00000000000000fg.ltx",
        "+000000000000001-00000000000000ff.ltx",
        "ltx/0000000000000001-00000000000000ff.ltx",
        " 000000000000001-00000000000000ff.ltx",
        "0000000000000000-0000000000000001.ltx",
        "0000000000000002-0000000000000001.ltx",
        "00000000000000é1-00000000000000f.ltx",
    ] {
        assert_eq!(parse_ltx_file_name(name), None, "{name}");
        assert!(name.parse::<FileName>().is_err(), "{name}");
    }
}

#[test]
fn names_of_version_3_backups_are_read() {
    assert_eq!(V3Generation::parse("00000000000000ab"), Some(V3Generation(0xab)));
    assert_eq!(V3Snapshot::parse("0000000a.snapshot.lz4"), Some(V3Snapshot { index: 10 }));
    let segment = |index, offset| Some(V3Segment { index, offset });
    assert_eq!(V3Segment::parse("0000000a_00001000.wal.lz4"), segment(10, 4096));
    assert_eq!(V3Segment::parse("0000000a_100000000.wal.lz4"), segment(10, 1 << 32));
    assert_eq!(V3Segment::parse("0000000a_ffffffffffffffff.wal.lz4"), segment(10, u64::MAX));
    assert_eq!(V3Segment { index: 10, offset: 1 << 32 }.to_string(), "0000000a_100000000.wal.lz4");
    assert_eq!(V3Snapshot { index: 10 }.to_string(), "0000000a.snapshot.lz4");
    for name in ["", "00000000000000AB", "00000000000000a", "00000000000000abc", "00000000000000a/"] {
        assert_eq!(V3Generation::parse(name), None, "{name}");
    }
    for name in ["a.snapshot.lz4", "0000000A.snapshot.lz4", "00000000a.snapshot.lz4", "0000000a.snapshot", "0000000a"] {
        assert_eq!(V3Snapshot::parse(name), None, "{name}");
    }
    for name in [
        "0000000a.wal.lz4",
        "0000000a_0001000.wal.lz4",
        "0000000a_00000000000001000.wal.lz4",
        "00000000a_00001000.wal.lz4",
        "0000000a_00001000.wal",
        "0000000a_00001000_.wal.lz4",
        "0000000a-00001000.wal.lz4",
    ] {
        assert_eq!(V3Segment::parse(name), None, "{name}");
    }
}

proptest! {
    #[test]
    fn names_are_unique_and_sort_like_ranges(a: (u64, u64), b: (u64, u64)) {
        let range = |(x, y): (u64, u64)| range(x.min(y).max(1), x.max(y).max(1));
        let (a, b): (TxidRange, TxidRange) = (range(a), range(b));
        prop_assert_eq!(parse_ltx_file_name(&ltx_file_name(a)), Some(a));
        prop_assert_eq!(ltx_file_name(a).cmp(&ltx_file_name(b)), a.cmp(&b));
    }

    #[test]
    fn any_name_that_is_read_is_printed_the_same(name in "[0-9a-fA-F_.]{0,20}(\\.wal|\\.snapshot)?(\\.lz4|\\.ltx)?") {
        if let Some(txids) = parse_ltx_file_name(&name) {
            prop_assert_eq!(ltx_file_name(txids), name.clone());
        }
        if let Some(generation) = V3Generation::parse(&name) {
            prop_assert_eq!(generation.to_string(), name.clone());
        }
        if let Some(snapshot) = V3Snapshot::parse(&name) {
            prop_assert_eq!(snapshot.to_string(), name);
        }
    }
}

//! WAL header, frames, WAL-index and database header, by example.

use replicate_format::{
    DB_HEADER_LEN, DB_MAGIC, DbHeader, FRAME_HEADER_LEN, FrameChain, FrameHeader, READ_MARK_UNUSED, Salts, ScanLimits,
    WalHeader, WalIndexHeader, scan_wal, wal_checksum,
};

use crate::common::{hex, page, pgno, size};

const SALTS: Salts = Salts { salt1: 0x1b9a_294b, salt2: 0x37f9_1916 };

/// A log of 4096-byte pages: transaction {1, 2}, then {2}.
pub(crate) fn three_frames(big_endian: bool) -> (WalHeader, Vec<u8>) {
    let header = WalHeader::new(big_endian, size(4096), 0, SALTS);
    let mut chain = FrameChain::new(&header);
    let mut log = header.encode().to_vec();
    for (i, (n, commit)) in [(1, 0), (2, 2), (2, 2)].into_iter().enumerate() {
        let page = page(4096, i as u64, 1);
        log.extend(chain.append(pgno(n), commit, &page).encode());
        log.extend(page);
    }
    (header, log)
}

#[test]
fn a_header_that_is_being_written_is_no_wal_yet() {
    let (header, log) = three_frames(false);
    assert_eq!(WalHeader::decode(&log).expect("a wal"), Some(header));
    for len in [0, 10, 31] {
        assert_eq!(WalHeader::decode(&log[..len]).expect("no error"), None);
    }
    for at in 8..32 {
        let mut torn = log.clone();
        torn[at] ^= 1;
        assert_eq!(WalHeader::decode(&torn).expect("no error"), None, "byte {at}");
    }
}

#[test]
fn another_magic_version_or_page_size_is_an_error() {
    let error = WalHeader::decode(&[0; 32]).expect_err("zeros");
    assert!(error.to_string().contains("magic"), "{error}");
    let mut bytes = hex("377f0683 00000001");
    bytes.resize(24, 0);
    bytes.extend(hex("157b2092 bbf8341d"));
    let error = WalHeader::decode(&bytes).expect_err("version 1");
    assert!(error.to_string().contains("version"), "{error}");

    let mut bytes = WalHeader::new(true, size(512), 0, SALTS).encode();
    bytes[8..12].copy_from_slice(&1000_u32.to_be_bytes());
    let (s0, s1) = wal_checksum(true, (0, 0), &bytes[..24]);
    bytes[24..28].copy_from_slice(&s0.to_be_bytes());
    bytes[28..32].copy_from_slice(&s1.to_be_bytes());
    let error = WalHeader::decode(&bytes).expect_err("page size");
    assert!(error.to_string().contains("page size"), "{error}");
}

#[test]
fn frames_are_read_in_both_byte_orders_until_the_log_ends() {
    for big_endian in [false, true] {
        let (header, log) = three_frames(big_endian);
        let mut chain = FrameChain::new(&header);
        let mut at = 32;
        let mut seen = Vec::new();
        while let Some(frame) = chain.push(&log[at..]) {
            seen.push((at, frame.header.pgno.get(), frame.header.commit));
            at += chain.frame_len();
        }
        assert_eq!(seen, [(32, 1, 0), (4152, 2, 2), (8272, 2, 2)]);
        let delta = scan_wal(FrameChain::new(&header), 32, &log[32..], ScanLimits::default());
        assert_eq!(delta.pages, [(pgno(1), 32), (pgno(2), 8272)]);
        assert_eq!((delta.commit, delta.frames, delta.transactions), (2, 3, 2));
        assert_eq!((delta.end, delta.limited, delta.chain), (log.len() as u64, false, chain));
    }
}

#[test]
fn a_limit_stops_after_the_commit_that_reaches_it() {
    let (header, log) = three_frames(false);
    let limited_to = |max| ScanLimits { max_bytes: Some(max), end: None };
    let ends =
        [1, 8272 - 32, 8272 - 31].map(|max| scan_wal(FrameChain::new(&header), 32, &log[32..], limited_to(max)).end);
    assert_eq!(ends, [8272, 8272, 12392]);
    let delta = scan_wal(FrameChain::new(&header), 32, &log[32..], limited_to(1));
    assert_eq!((delta.end, delta.commit, delta.pages.len(), delta.limited), (8272, 2, 2, true));
    let rest = scan_wal(delta.chain, delta.end, &log[8272..], ScanLimits::default());
    assert_eq!(rest.pages, [(pgno(2), 8272)]);
    assert!(!rest.limited);
}

#[test]
fn an_end_takes_no_transaction_across_it() {
    let (header, log) = three_frames(false);
    for (end, frames, limited) in [(32, 0, true), (8271, 0, true), (8272, 2, true), (12391, 2, true), (12392, 3, false)]
    {
        let limits = ScanLimits { max_bytes: None, end: Some(end) };
        let delta = scan_wal(FrameChain::new(&header), 32, &log[32..], limits);
        assert_eq!((delta.frames, delta.limited), (frames, limited), "{end}");
        assert!(delta.end <= end);
    }
}

#[test]
fn wrong_salts_checksum_or_length_end_the_log() {
    let (header, log) = three_frames(true);
    let second = 4152;
    // Page number, commit, salts, checksum, page.
    for at in [second, second + 4, second + 8, second + 15, second + 16, second + 23, second + 24, second + 4119] {
        let mut bad = log.clone();
        bad[at] ^= 1;
        let mut chain = FrameChain::new(&header);
        assert!(chain.push(&bad[32..]).is_some());
        let before = chain;
        assert_eq!(chain.push(&bad[second..]), None, "byte {at}");
        assert_eq!(chain, before, "a refused frame changes nothing");
        assert_eq!(scan_wal(FrameChain::new(&header), 32, &bad[32..], ScanLimits::default()).frames, 0);
    }
    let mut chain = FrameChain::new(&header);
    assert_eq!(chain.push(&log[32..second - 1]), None, "a cut frame");
}

#[test]
fn page_zero_ends_the_log_even_with_a_right_checksum() {
    let header = WalHeader::new(false, size(512), 0, SALTS);
    let page = page(512, 1, 1);
    let head = [0, 0, 0, 0, 0, 0, 0, 1];
    let checksum = wal_checksum(false, wal_checksum(false, header.checksum, &head), &page);
    let mut frame = FrameHeader { pgno: pgno(1), commit: 1, salts: SALTS, checksum }.encode().to_vec();
    frame[..8].copy_from_slice(&head);
    frame.extend(&page);
    assert_eq!(FrameChain::new(&header).push(&frame), None);
    assert_eq!(FrameHeader::decode(frame.first_chunk::<FRAME_HEADER_LEN>().expect("a header")), None);
}

#[test]
fn a_chain_resumes_from_a_known_frame() {
    let (header, log) = three_frames(false);
    let mut chain = FrameChain::new(&header);
    let first = chain.push(&log[32..]).expect("a frame").header;
    let mut resumed = FrameChain::resume(false, size(4096), SALTS, first.checksum);
    assert_eq!(resumed, chain);
    assert_eq!(resumed.push(&log[4152..]).map(|f| f.header.pgno), Some(pgno(2)));
}

#[test]
fn frame_offsets_of_large_logs_do_not_wrap() {
    for bytes in [4096, 16384, 32768, 65536] {
        let frame = size(bytes).frame_len() as u64;
        assert_eq!(frame, 24 + u64::from(bytes));
        let chain = FrameChain::resume(false, size(bytes), SALTS, (1, 2));
        let offset = 32 + 121_359 * frame;
        let mut writer = chain;
        let page = page(bytes as usize, 1, 1);
        let mut log = writer.append(pgno(9), 9, &page).encode().to_vec();
        log.extend(page);
        let delta = scan_wal(chain, offset, &log, ScanLimits::default());
        assert_eq!((delta.pages, delta.end), (vec![(pgno(9), offset)], offset + frame));
    }
}

fn wal_index() -> WalIndexHeader {
    WalIndexHeader {
        version: 3_007_000,
        change: 7,
        is_init: true,
        big_endian_checksums: false,
        page_size: Some(size(4096)),
        max_frame: 68,
        page_count: 20,
        frame_checksum: (0x0102_0304, 0x0506_0708),
        salts: SALTS,
        backfilled: 65,
        read_marks: [0, 65, READ_MARK_UNUSED, READ_MARK_UNUSED, READ_MARK_UNUSED],
    }
}

#[test]
fn a_wal_index_header_is_read_back_at_all_page_sizes() {
    for log in 9..=16 {
        let header = WalIndexHeader { page_size: Some(size(1 << log)), ..wal_index() };
        assert_eq!(WalIndexHeader::decode(&header.encode()), Some(header));
    }
    let empty = WalIndexHeader { page_size: None, max_frame: 0, ..wal_index() };
    assert_eq!(WalIndexHeader::decode(&empty.encode()), Some(empty), "set up on an empty log");
    assert!(wal_index().is_known_version());
    let other = WalIndexHeader { version: 3_007_001, ..wal_index() };
    assert!(!WalIndexHeader::decode(&other.encode()).expect("readable").is_known_version());
}

#[test]
fn a_wal_index_keeps_numbers_in_machine_order_and_salts_in_that_of_the_log() {
    let bytes = wal_index().encode();
    assert_eq!(bytes[32..40], [0x1b, 0x9a, 0x29, 0x4b, 0x37, 0xf9, 0x19, 0x16]);
    assert_eq!(bytes[16..20], 68_u32.to_ne_bytes());
    assert_eq!(bytes[96..100], 65_u32.to_ne_bytes());
    assert_eq!(bytes[..48], bytes[48..96]);
}

#[test]
fn log_index_and_database_of_a_real_sqlite_agree() {
    let log = hex(include_str!("vectors/sqlite_wal.hex"));
    let header = WalHeader::decode(&log).expect("a wal").expect("a whole header");
    let delta = scan_wal(FrameChain::new(&header), 32, &log[32..], ScanLimits::default());
    assert_eq!((delta.frames, delta.transactions, delta.commit, delta.end), (4, 3, 3, log.len() as u64));

    let database = DbHeader::decode(&hex(include_str!("vectors/sqlite_db.hex"))).expect("a database");
    assert_eq!(database.page_size, header.page_size);
    assert!(database.is_wal() && database.page_count_is_valid());

    if cfg!(target_endian = "big") {
        return; // The index was made on a little-endian machine and stays there.
    }
    let bytes = hex(include_str!("vectors/sqlite_shm.hex")).try_into().expect("136 bytes");
    let index = WalIndexHeader::decode(&bytes).expect("whole");
    let expected = WalIndexHeader {
        version: 3_007_000,
        change: 5,
        is_init: true,
        big_endian_checksums: header.big_endian_checksums,
        page_size: Some(header.page_size),
        max_frame: 4,
        page_count: delta.commit,
        frame_checksum: delta.chain.checksum(),
        salts: header.salts,
        backfilled: 2,
        read_marks: [0, 2, READ_MARK_UNUSED, READ_MARK_UNUSED, READ_MARK_UNUSED],
    };
    assert_eq!(index, expected);
    assert_eq!(expected.encode()[..128], bytes[..128]);
}

#[test]
fn a_torn_wal_index_header_is_not_believed() {
    let good = wal_index().encode();
    for at in 0..96 {
        let mut torn = good;
        torn[at] ^= 1;
        assert_eq!(WalIndexHeader::decode(&torn), None, "byte {at} of one copy");
        torn[(at + 48) % 96] ^= 1;
        assert_eq!(WalIndexHeader::decode(&torn), None, "byte {at} of both copies");
    }
    assert_eq!(WalIndexHeader::decode(&[0; 136]), None, "all zero");
    let fresh = WalIndexHeader { is_init: false, ..wal_index() };
    assert_eq!(WalIndexHeader::decode(&fresh.encode()), None, "not set up");
}

fn db_header(page_size: [u8; 2]) -> Vec<u8> {
    let mut bytes = DB_MAGIC.to_vec();
    bytes.extend(page_size);
    bytes.extend([2, 2, 0, 64, 32, 32]);
    bytes.extend(hex("00000005 00000014"));
    bytes.resize(92, 0);
    bytes.extend(hex("00000005 002e83c0"));
    bytes
}

#[test]
fn a_database_header_is_read() {
    let header = DbHeader::decode(&db_header([0x10, 0])).expect("a database");
    assert_eq!((header.page_size, header.page_count, header.change_counter), (size(4096), 20, 5));
    assert!(header.is_wal() && header.page_count_is_valid());
    assert_eq!(DbHeader::decode(&db_header([0, 1])).expect("a database").page_size, size(65536));
    let mut rollback = db_header([2, 0]);
    (rollback[18], rollback[19], rollback[95]) = (1, 1, 4);
    let header = DbHeader::decode(&rollback).expect("a database");
    assert!(!header.is_wal() && !header.page_count_is_valid());
}

#[test]
fn what_is_no_database_is_refused() {
    let good = db_header([0x10, 0]);
    for len in 0..DB_HEADER_LEN {
        assert!(DbHeader::decode(&good[..len]).expect_err("short").is_truncated());
    }
    for at in 0..16 {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(DbHeader::decode(&bad).is_err());
    }
    for page_size in [[0, 0], [0, 2], [1, 0], [0x10, 1], [0xff, 0xff]] {
        assert!(DbHeader::decode(&db_header(page_size)).is_err(), "{page_size:?}");
    }
}

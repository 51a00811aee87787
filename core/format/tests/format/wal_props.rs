//! The scan of a log against a naive one.

use std::collections::BTreeMap;

use proptest::prelude::*;
use replicate_format::{
    FrameChain, PageSize, Pgno, Salts, ScanLimits, WalDelta, WalHeader, WalScan, scan_wal, wal_checksum,
};

use crate::common::{page, pgno};

const FRAME: usize = 24 + 512;

fn naive_checksum(big_endian: bool, (mut s0, mut s1): (u32, u32), bytes: &[u8]) -> (u32, u32) {
    let words: Vec<u32> = bytes
        .chunks(4)
        .map(|word| {
            let value = word.iter().fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
            if big_endian { value } else { value.swap_bytes() }
        })
        .collect();
    for pair in words.chunks(2) {
        s0 = (u64::from(s0) + u64::from(pair[0]) + u64::from(s1)) as u32;
        s1 = (u64::from(s1) + u64::from(pair[1]) + u64::from(s0)) as u32;
    }
    (s0, s1)
}

/// A log of transactions, the last perhaps without its commit, then perhaps damage and old frames.
#[derive(Clone, Debug)]
struct Log {
    header: WalHeader,
    bytes: Vec<u8>,
}

fn logs() -> impl Strategy<Value = Log> {
    let frame = (1_u32..9, prop_oneof![2 => Just(0), 1 => 1_u32..9], any::<u64>());
    let frames = proptest::collection::vec(frame, 0..14);
    let old = proptest::collection::vec(any::<u8>(), 0..700);
    (any::<bool>(), frames, proptest::option::weighted(0.3, any::<prop::sample::Index>()), old).prop_map(
        |(big_endian, frames, damage, old)| {
            let salts = Salts { salt1: 3, salt2: 4 };
            let header = WalHeader::new(big_endian, PageSize::MIN, 0, salts);
            let mut chain = FrameChain::new(&header);
            let mut bytes = header.encode().to_vec();
            for (n, commit, seed) in frames {
                let page = page(512, seed, 1);
                bytes.extend(chain.append(pgno(n), commit, &page).encode());
                bytes.extend(page);
            }
            if let Some(damage) = damage.filter(|_| bytes.len() > 32) {
                let at = 32 + damage.index(bytes.len() - 32);
                bytes[at] ^= 0x40;
            }
            bytes.extend(old);
            Log { header, bytes }
        },
    )
}

/// Reads frame by frame from the bytes alone, and keeps a full map for every commit.
fn naive_scan(log: &Log, limits: ScanLimits) -> (BTreeMap<u32, u64>, u32, u64, bool) {
    let (mut open, mut map) = (BTreeMap::new(), BTreeMap::new());
    let (mut size, mut end, mut state) = (0, 32_u64, log.header.checksum);
    for (i, frame) in log.bytes[32..].chunks_exact(FRAME).enumerate() {
        let at = 32 + (i * FRAME) as u64;
        let word = |i: usize| u32::from_be_bytes([frame[i], frame[i + 1], frame[i + 2], frame[i + 3]]);
        if limits.end.is_some_and(|limit| at + FRAME as u64 > limit) {
            return finish(map, size, end, true);
        }
        state = naive_checksum(log.header.big_endian_checksums, state, &frame[..8]);
        state = naive_checksum(log.header.big_endian_checksums, state, &frame[24..]);
        if word(0) == 0 || (word(8), word(12)) != (3, 4) || (word(16), word(20)) != state {
            break;
        }
        open.insert(word(0), at);
        if word(4) != 0 {
            map.append(&mut open);
            (size, end) = (word(4), at + FRAME as u64);
            if limits.max_bytes.is_some_and(|max| end - 32 >= max) {
                return finish(map, size, end, true);
            }
        }
    }
    finish(map, size, end, false)
}

fn finish(mut map: BTreeMap<u32, u64>, size: u32, end: u64, limited: bool) -> (BTreeMap<u32, u64>, u32, u64, bool) {
    map.retain(|n, _| *n <= size);
    (map, size, end, limited)
}

fn shape(delta: &WalDelta) -> (BTreeMap<u32, u64>, u32, u64, bool) {
    let rising = delta.pages.windows(2).all(|pair| pair[0].0 < pair[1].0);
    assert!(rising, "pages are in order, each once");
    let map = delta.pages.iter().map(|(n, at): &(Pgno, u64)| (n.get(), *at)).collect();
    (map, delta.commit, delta.end, delta.limited)
}

proptest! {
    #[test]
    fn the_checksum_is_the_naive_one(words in proptest::collection::vec(any::<u64>(), 0..80), big_endian: bool, state: (u32, u32)) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        prop_assert_eq!(wal_checksum(big_endian, state, &bytes), naive_checksum(big_endian, state, &bytes));
    }

    #[test]
    fn a_scan_is_the_naive_scan(
        log in logs(),
        max_bytes in proptest::option::of(1_u64..6000),
        end in proptest::option::of(32_u64..7000),
    ) {
        let limits = ScanLimits { max_bytes, end };
        let delta = scan_wal(FrameChain::new(&log.header), 32, &log.bytes[32..], limits);
        prop_assert_eq!(shape(&delta), naive_scan(&log, limits));
        prop_assert_eq!(delta.end, 32 + delta.frames * FRAME as u64);
    }

    #[test]
    fn pieces_of_any_length_give_the_same_scan(log in logs(), pieces in proptest::collection::vec(1_usize..1500, 1..9)) {
        let whole = scan_wal(FrameChain::new(&log.header), 32, &log.bytes[32..], ScanLimits::default());
        let mut scan = WalScan::new(FrameChain::new(&log.header), 32, ScanLimits::default());
        let mut held = 32;
        for piece in pieces.iter().cycle() {
            held = (held + piece).min(log.bytes.len());
            let from = scan.offset() as usize;
            let taken = scan.push(&log.bytes[from..held]);
            prop_assert_eq!(taken % FRAME, 0);
            if scan.is_done() || held == log.bytes.len() {
                break;
            }
        }
        prop_assert_eq!(scan.finish(), whole);
    }

    #[test]
    fn scanning_on_from_each_limit_finds_every_transaction(log in logs(), max in 1_u64..3000) {
        let whole = scan_wal(FrameChain::new(&log.header), 32, &log.bytes[32..], ScanLimits::default());
        let (mut chain, mut at, mut transactions) = (FrameChain::new(&log.header), 32, 0);
        let mut map = BTreeMap::new();
        let mut size = 0;
        loop {
            let limits = ScanLimits { max_bytes: Some(max), end: None };
            let delta = scan_wal(chain, at, &log.bytes[at as usize..], limits);
            if delta.transactions == 0 {
                break;
            }
            (chain, at, size) = (delta.chain, delta.end, delta.commit);
            transactions += delta.transactions;
            map.extend(delta.pages);
            map.retain(|n: &Pgno, _| n.get() <= size);
        }
        prop_assert_eq!((at, transactions, size), (whole.end, whole.transactions, whole.commit));
        prop_assert_eq!(chain, whole.chain);
        // Cutting between a shrink and a growth drops pages that one scan would keep; nothing else differs.
        prop_assert!(map.iter().all(|(n, at)| whole.pages.contains(&(*n, *at))));
    }
}

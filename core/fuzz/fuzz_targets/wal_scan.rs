//! Any bytes as a log: the scan in one piece and in pieces agree, and never pass the bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use replicate_format::{FrameChain, ScanLimits, WAL_HEADER_LEN, WalHeader, WalScan, scan_wal};

fuzz_target!(|bytes: &[u8]| {
    let Ok(Some(header)) = WalHeader::decode(bytes) else { return };
    assert_eq!(header.encode(), bytes[..WAL_HEADER_LEN]);
    let frames = &bytes[WAL_HEADER_LEN..];
    let chain = FrameChain::new(&header);
    let whole = scan_wal(chain, WAL_HEADER_LEN as u64, frames, ScanLimits::default());
    assert!(whole.end <= bytes.len() as u64);
    assert!(whole.pages.len() as u64 <= whole.frames);

    let mut scan = WalScan::new(chain, WAL_HEADER_LEN as u64, ScanLimits::default());
    while !scan.is_done() {
        let at = scan.offset() as usize;
        let piece = &bytes[at..bytes.len().min(at + header.page_size.frame_len() + 7)];
        if scan.push(piece) == 0 {
            break;
        }
    }
    assert_eq!(scan.finish(), whole);

    let limits = ScanLimits { max_bytes: Some(1), end: Some(bytes.len() as u64 / 2) };
    let some = scan_wal(chain, WAL_HEADER_LEN as u64, frames, limits);
    assert!(some.end <= whole.end && some.transactions <= whole.transactions);
});

//! How fast the formats go on this machine: `cargo run --release -p replicate-format --example speed`.

#![allow(clippy::disallowed_methods, reason = "a measurement looks at the clock")]

use std::time::Instant;

use replicate_format::{
    Crc64, Decoder, Encoder, FormatError, FrameChain, Header, Merger, PageEncoding, PageSize, Pgno, Salts, ScanLimits,
    Txid, TxidRange, WalHeader, page_checksum, scan_wal, wal_checksum,
};

const PAGES: u32 = 50_000;

/// Rows of words and numbers, as a table has them; LZ4 packs them to about a half.
fn page(n: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(n) << 1 | 1;
    let mut out = Vec::with_capacity(len + 64);
    while out.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let word = ["customer", "order", "pending", "delivered", "street"][(state >> 40) as usize % 5];
        out.extend_from_slice(word.as_bytes());
        out.extend_from_slice(&state.to_be_bytes());
    }
    out.truncate(len);
    out
}

fn timed<T>(what: &str, bytes: u64, run: impl Fn() -> Result<T, FormatError>) -> Result<T, FormatError> {
    let mut best = f64::MAX;
    let mut result = None;
    for _ in 0..3 {
        let start = Instant::now();
        result = Some(run()?);
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{what:28} {:8.0} MB/s", bytes as f64 / best / 1e6);
    Ok(result.expect("it ran"))
}

fn encode(header: Header, encoding: PageEncoding, pages: &[Vec<u8>]) -> Result<Vec<u8>, FormatError> {
    let mut encoder = Encoder::new(Vec::new(), header, encoding)?;
    for (pgno, page) in (1..).zip(pages) {
        encoder.page(Pgno::new(pgno).expect("from 1"), page)?;
    }
    Ok(encoder.finish()?.1)
}

fn main() -> Result<(), FormatError> {
    for len in [4096, 65536] {
        let page_size = PageSize::new(len).expect("a page size");
        let count = PAGES * 4096 / len;
        let pages: Vec<_> = (1..=count).map(|n| page(n, page_size.len())).collect();
        let bytes = u64::from(count) * u64::from(len);
        let range = |min, max| TxidRange::new(Txid(min), Txid(max)).expect("a range");
        let header = Header::untracked(page_size, count, range(1, 1), 0);
        for encoding in [PageEncoding::Frame, PageEncoding::Block] {
            let file = timed(&format!("encode {encoding:?} {len}"), bytes, || encode(header, encoding, &pages))?;
            timed("  decode and verify", bytes, || Decoder::new(file.as_slice())?.finish())?;
            let second = Header { txids: range(2, 2), ..header };
            let second = encode(second, encoding, &pages)?;
            timed("  merge two (input bytes)", 2 * bytes, || {
                let inputs = vec![Decoder::new(file.as_slice())?, Decoder::new(second.as_slice())?];
                Merger::new(inputs, Vec::new(), encoding)?.finish()
            })?;
            println!("  packed to {:.0} %", file.len() as f64 * 100.0 / bytes as f64);
        }
        timed("crc page by page", bytes, || {
            let mut crc = Crc64::new();
            pages.iter().for_each(|page| crc.update(page));
            Ok(crc.value())
        })?;
        timed("page checksums", bytes, || {
            Ok(pages.iter().fold(0, |sum, page| sum ^ page_checksum(Pgno::FIRST, page)))
        })?;
        for big_endian in [false, true] {
            timed(&format!("wal checksum, big {big_endian}"), bytes, || {
                Ok(pages.iter().fold((0, 0), |state, page| wal_checksum(big_endian, state, page)))
            })?;
        }
        let wal = WalHeader::new(false, page_size, 0, Salts { salt1: 1, salt2: 2 });
        let mut chain = FrameChain::new(&wal);
        let mut log = Vec::new();
        for (pgno, page) in (1..).zip(&pages) {
            log.extend(chain.append(Pgno::new(pgno).expect("from 1"), count, page).encode());
            log.extend(page);
        }
        timed("wal scan", bytes, || Ok(scan_wal(FrameChain::new(&wal), 32, &log, ScanLimits::default())))?;
    }
    Ok(())
}

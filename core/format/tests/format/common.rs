//! What the tests of the formats share: pages to fill files with, a writer that knows no rules, and readers
//! that collect everything. The forger lays out bytes by the drawing of the format, not by the encoder.

use std::collections::BTreeMap;

use replicate_format::{
    CHECKSUM_FLAG, Crc64, Decoder, Encoded, Encoder, FormatError, Header, PageEncoding, PageSize, Pgno, Trailer, Txid,
    TxidRange, encode_page_frame,
};

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ascii"), 16).expect("hex"))
        .collect()
}

pub(crate) fn size(bytes: u32) -> PageSize {
    PageSize::new(bytes).expect("a page size")
}

pub(crate) fn pgno(n: u32) -> Pgno {
    Pgno::new(n).expect("not zero")
}

pub(crate) fn range(min: u64, max: u64) -> TxidRange {
    TxidRange::new(Txid(min), Txid(max)).expect("a range")
}

pub(crate) fn header(page_size: u32, commit: u32, min: u64, max: u64) -> Header {
    Header::untracked(size(page_size), commit, range(min, max), 1_700_000_000_123)
}

/// A page that depends on nothing but its arguments: kind 0 is zeros, 1 packs well, 2 does not pack.
pub(crate) fn page(len: usize, seed: u64, kind: u8) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    match kind % 3 {
        0 => vec![0; len],
        1 => (0..len).map(|i| if i % 16 == 0 { next() as u8 } else { (i / 16) as u8 }).collect(),
        _ => (0..len).map(|_| (next() >> 24) as u8).collect(),
    }
}

pub(crate) type Pages = BTreeMap<u32, Vec<u8>>;

pub(crate) fn write(header: Header, encoding: PageEncoding, pages: &Pages) -> Result<(Encoded, Vec<u8>), FormatError> {
    let mut encoder = Encoder::new(Vec::new(), header, encoding)?;
    for (&n, page) in pages {
        encoder.page(pgno(n), page)?;
    }
    encoder.finish()
}

pub(crate) fn read(file: &[u8]) -> Result<(Header, Pages, Trailer), FormatError> {
    let mut decoder = Decoder::new(file)?;
    let mut page = vec![0; decoder.header().page_size.len()];
    let mut pages = Pages::new();
    while let Some(n) = decoder.next_page(&mut page)? {
        pages.insert(n.get(), page.clone());
    }
    let header = *decoder.header();
    Ok((header, pages, decoder.finish()?))
}

/// The index lines of a file: page, offset, length of its frame.
pub(crate) type Lines = Vec<(u64, u64, u64)>;

/// Writes a file with right checksums, whatever the pages are and whatever `change` makes of the index.
pub(crate) fn forge(
    header: &Header,
    frames: &[(u32, PageEncoding, Vec<u8>)],
    post_apply: u64,
    change: impl FnOnce(&mut Lines),
) -> Vec<u8> {
    let mut file = header.encode().to_vec();
    let mut crc = Crc64::new();
    crc.update(&file);
    let mut lines = Lines::new();
    for (n, encoding, page) in frames {
        let start = file.len();
        encode_page_frame(pgno(*n), page, *encoding, &mut file).expect("a page");
        let covered = if *encoding == PageEncoding::Block { 10 } else { 6 };
        crc.update(&file[start..start + covered]);
        crc.update(page);
        lines.push((u64::from(*n), start as u64, (file.len() - start) as u64));
    }
    change(&mut lines);
    let mut tail = vec![0; 6];
    for (n, offset, len) in lines {
        for mut value in [n, offset, len] {
            while value > 127 {
                tail.push(value as u8 | 128);
                value >>= 7;
            }
            tail.push(value as u8);
        }
    }
    tail.push(0);
    let index_len = tail.len() as u64 - 6;
    tail.extend(index_len.to_be_bytes());
    tail.extend(post_apply.to_be_bytes());
    crc.update(&tail);
    file.extend(tail);
    file.extend((crc.value() | CHECKSUM_FLAG).to_be_bytes());
    file
}

/// [`forge`] with an honest index.
pub(crate) fn forge_pages(header: &Header, encoding: PageEncoding, pages: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let frames: Vec<_> = pages.iter().map(|(n, page)| (*n, encoding, page.clone())).collect();
    forge(header, &frames, 0, |_| {})
}

pub(crate) const ENCODINGS: [PageEncoding; 2] = [PageEncoding::Frame, PageEncoding::Block];

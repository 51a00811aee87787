//! Files that something happened to: cut, flipped, lied about. Never a panic, never wrong pages.

use std::io::Read;

use proptest::prelude::*;
use replicate_format::{
    Decoder, FormatError, PageEncoding, PageIndex, TAIL_MIN, decode_page_frame, encode_page_frame, tail_needed,
};

use crate::common::{ENCODINGS, Lines, Pages, forge, header, page, pgno, read, size, write};

/// Small files of both encodings with pages that pack, that do not, and that are zero.
fn samples() -> Vec<Vec<u8>> {
    let pages: Pages = (1..=4).map(|n| (n, page(512, n.into(), n as u8))).collect();
    let mixed: Vec<_> = pages.iter().map(|(&n, page)| (n, ENCODINGS[n as usize % 2], page.clone())).collect();
    let mut files = vec![forge(&header(512, 4, 1, 3), &mixed, 0, |_| {})];
    for encoding in ENCODINGS {
        files.push(write(header(512, 4, 1, 3), encoding, &pages).expect("a file").1);
        files.push(write(header(512, 9, 2, 3), encoding, &pages).expect("a file").1);
    }
    files
}

#[test]
fn a_file_with_pages_of_both_encodings_is_read() {
    let (_, pages, _) = read(&samples()[0]).expect("mixed");
    assert_eq!(pages, (1..=4).map(|n| (n, page(512, n.into(), n as u8))).collect());
}

#[test]
fn a_flipped_bit_is_an_error_or_changes_no_page() {
    for file in samples() {
        let (header, pages, _) = read(&file).expect("valid");
        let mut harmless = 0;
        for bit in 0..file.len() * 8 {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok((h, p, _)) = read(&bad) {
                // The bytes of an LZ4 block are covered by what they unpack to.
                assert_eq!((h, p), (header, pages.clone()), "bit {bit}");
                harmless += 1;
            }
        }
        assert!(harmless < file.len() / 8, "{harmless} flips went unnoticed in {} bytes", file.len());
    }
}

#[test]
fn a_file_cut_anywhere_is_truncated() {
    for file in samples() {
        for len in 0..file.len() {
            let error = read(&file[..len]).expect_err("cut");
            assert!(error.is_truncated(), "{len}: {error}");
        }
    }
}

#[test]
fn bytes_after_the_trailer_are_refused() {
    for mut file in samples() {
        file.push(0);
        assert!(read(&file).is_err());
    }
}

#[test]
fn a_lying_index_is_refused_by_the_decoder_and_by_the_index_alone() {
    type Lie = fn(&mut Lines);
    let lies: [(&str, Lie); 9] = [
        ("page", |lines| lines[1].0 = 3),
        ("a page beyond the end", |lines| lines[2].0 = 9),
        ("offset", |lines| lines[1].1 += 1),
        ("size", |lines| lines[1].2 -= 1),
        ("first offset", |lines| lines[0].1 -= 1),
        ("a line less", |lines| lines.truncate(2)),
        ("a line more", |lines| lines.push((9, lines[2].1 + lines[2].2, 30))),
        ("order", |lines| lines.swap(0, 1)),
        ("no lines", Vec::clear),
    ];
    let frames: Vec<_> = (1..=3).map(|n| (n, PageEncoding::Frame, page(512, n.into(), 1))).collect();
    let header = header(512, 3, 1, 1);
    assert!(read(&forge(&header, &frames, 0, |_| {})).is_ok());
    for (what, lie) in lies {
        let file = forge(&header, &frames, 0, lie);
        assert!(read(&file).is_err(), "{what}");
        let index = PageIndex::decode(&file, file.len() as u64).and_then(|index| index.validate(&header));
        assert!(index.is_err(), "{what}");
    }
}

#[test]
fn an_index_alone_refuses_pages_that_do_not_rise_and_bytes_after_its_end() {
    let frames: Vec<_> = (1..=3).map(|n| (n, PageEncoding::Frame, page(512, n.into(), 1))).collect();
    let header = header(512, 9, 2, 2);
    for number in [1, 3, 4, u64::from(u32::MAX) + 3] {
        let file = forge(&header, &frames, 0, |lines| lines[1].0 = number);
        assert!(PageIndex::decode(&file, file.len() as u64).is_err(), "page {number}");
    }
    let mut file = forge(&header, &frames, 0, |_| {});
    let size_at = file.len() - TAIL_MIN;
    let size = u64::from_be_bytes(file[size_at..size_at + 8].try_into().expect("eight bytes"));
    file[size_at..size_at + 8].copy_from_slice(&(size + 1).to_be_bytes());
    file.insert(size_at, 0);
    let error = PageIndex::decode(&file, file.len() as u64).expect_err("a byte more");
    assert!(error.to_string().contains("nothing after its end"), "{error}");
}

#[test]
fn a_tail_too_short_or_with_an_impossible_size_is_refused() {
    let file = &samples()[1];
    let len = file.len() as u64;
    let needed = tail_needed(&file[file.len() - TAIL_MIN..], len).expect("a size");
    assert!(needed > TAIL_MIN as u64);
    for short in 0..TAIL_MIN {
        assert!(tail_needed(&file[file.len() - short..], len).is_err());
    }
    let tail = &file[file.len() - needed as usize..];
    let index = PageIndex::decode(tail, len).expect("an index");
    assert_eq!(Some(index), PageIndex::decode(file, len).ok(), "more of the file changes nothing");
    assert!(PageIndex::decode(&tail[1..], len).is_err());
    for object in 0..len.min(200) {
        let start = file.len() - object as usize;
        assert!(PageIndex::decode(&file[start..], object).is_err() || object == len, "an object of {object} bytes");
    }
    for lie in [0, 1, needed - 23, len, u64::MAX, i64::MAX as u64, u64::from(u32::MAX)] {
        let mut bad = file.clone();
        let at = bad.len() - TAIL_MIN;
        bad[at..at + 8].copy_from_slice(&lie.to_be_bytes());
        assert!(PageIndex::decode(&bad, len).is_err(), "size {lie}");
    }
}

#[test]
fn a_flipped_bit_in_the_tail_never_gives_another_index() {
    for file in samples() {
        let len = file.len() as u64;
        let good = PageIndex::decode(&file, len).expect("an index");
        for bit in 100 * 8..file.len() * 8 {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(index) = PageIndex::decode(&bad, len) {
                assert!(index.iter().map(|e| (e.offset, e.size)).eq(good.iter().map(|e| (e.offset, e.size))));
            }
        }
    }
}

#[test]
fn an_index_over_32_kib_is_found_in_two_steps() {
    let pages: Pages = (1..=6000).map(|n| (n, page(512, n.into(), 1))).collect();
    let (_, file) = write(header(512, 6000, 1, 1), PageEncoding::Frame, &pages).expect("a file");
    let first = &file[file.len() - 32 * 1024..];
    let needed = tail_needed(first, file.len() as u64).expect("a size");
    assert!(needed > first.len() as u64);
    assert!(PageIndex::decode(first, file.len() as u64).expect_err("too short").is_truncated());
    let index = PageIndex::decode(&file[file.len() - needed as usize..], file.len() as u64).expect("an index");
    index.validate(&header(512, 6000, 1, 1)).expect("valid");
    let mut found = vec![0; 512];
    for entry in index.iter().step_by(997) {
        let frame = &file[entry.offset as usize..][..entry.size as usize];
        assert_eq!(decode_page_frame(frame, size(512), &mut found).expect("a page"), entry.pgno);
        assert_eq!(found, pages[&entry.pgno.get()]);
    }
}

#[test]
fn a_page_fetched_alone_is_exactly_one_frame() {
    let raw = page(512, 4, 1);
    let mut found = vec![0; 512];
    for encoding in ENCODINGS {
        let mut frame = Vec::new();
        encode_page_frame(pgno(7), &raw, encoding, &mut frame).expect("a page");
        assert_eq!(decode_page_frame(&frame, size(512), &mut found).expect("a page"), pgno(7));
        assert_eq!(found, raw);
        for len in 0..frame.len() {
            assert!(decode_page_frame(&frame[..len], size(512), &mut found).is_err(), "{len}");
        }
        let longer = [frame.as_slice(), &[0]].concat();
        assert!(decode_page_frame(&longer, size(512), &mut found).is_err());
        assert!(decode_page_frame(&frame, size(1024), &mut [0; 1024]).is_err(), "another page size");
        assert!(decode_page_frame(&frame, size(512), &mut [0; 511]).is_err(), "another buffer");
    }
    assert!(decode_page_frame(&[0; 30], size(512), &mut found).is_err(), "the end of pages");
}

#[test]
fn larger_block_limits_of_the_lz4_frame_are_read() {
    let raw = page(512, 4, 1);
    let mut found = vec![0; 512];
    let mut frame = Vec::new();
    encode_page_frame(pgno(7), &raw, PageEncoding::Frame, &mut frame).expect("a page");
    // FLG, BD and the checksum over both: 256 KiB, 1 MiB, 4 MiB; version 0; no content checksum; dictionary.
    let good = [[0x64, 0x50], [0x64, 0x60], [0x64, 0x70], [0x44, 0x40]];
    let bad = [[0x64, 0x30], [0x24, 0x40], [0x60, 0x40], [0x65, 0x40], [0x74, 0x40], [0x6c, 0x40], [0x64, 0x41]];
    for (bytes, ok) in good.map(|b| (b, true)).into_iter().chain(bad.map(|b| (b, false))) {
        frame[10..12].copy_from_slice(&bytes);
        frame[12] = (twox_hash::XxHash32::oneshot(0, &bytes) >> 8) as u8;
        assert_eq!(decode_page_frame(&frame, size(512), &mut found).is_ok(), ok, "{bytes:02x?}");
        frame[12] ^= 1;
        assert!(decode_page_frame(&frame, size(512), &mut found).is_err(), "a wrong header checksum");
    }
}

#[test]
fn declared_lengths_cost_no_memory_before_they_are_checked() {
    let mut file =
        write(header(512, 4, 2, 2), PageEncoding::Block, &Pages::from([(1, page(512, 1, 1))])).expect("a file").1;
    file[106..110].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(read(&file), Err(FormatError::Invalid { what: "ltx page length", .. })));
}

#[test]
fn a_block_that_unpacks_to_less_than_a_page_is_refused() {
    let mut frame = Vec::new();
    encode_page_frame(pgno(1), &page(512, 1, 0), PageEncoding::Block, &mut frame).expect("a page");
    let mut found = vec![9; 1024];
    assert!(decode_page_frame(&frame, size(1024), &mut found).is_err());
}

#[test]
fn the_file_checksum_covers_pages_and_not_their_packing() {
    let raw = vec![b'A'; 512];
    let (_, file) = write(header(512, 1, 2, 2), PageEncoding::Frame, &Pages::from([(1, raw.clone())])).expect("a file");
    // The low half of the last token of an LZ4 block has no meaning: the same page, packed in other bytes.
    let token = (117..file.len()).find(|&at| {
        let mut other = file.clone();
        other[at] ^= 1;
        read(&other).is_ok()
    });
    let mut other = file.clone();
    other[token.expect("a byte without meaning")] ^= 1;
    assert_eq!(read(&other).expect("valid").1, Pages::from([(1, raw)]));
}

/// Gives single bytes, now and then an interruption, and an error at the end.
struct Drip<'a> {
    bytes: &'a [u8],
    calls: usize,
    fail: bool,
}

impl Read for Drip<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.calls += 1;
        if self.calls.is_multiple_of(3) {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        match self.bytes.split_first() {
            Some((&first, rest)) => {
                (buf[0], self.bytes) = (first, rest);
                Ok(1)
            }
            None if self.fail => Err(std::io::ErrorKind::ConnectionReset.into()),
            None => Ok(0),
        }
    }
}

#[test]
fn a_reader_may_give_single_bytes_and_its_errors_are_kept_apart() {
    let file = &samples()[1];
    let whole = Drip { bytes: file, calls: 0, fail: false };
    assert_eq!(Decoder::new(whole).and_then(Decoder::finish).expect("valid"), read(file).expect("valid").2);
    for cut in [50, 300, file.len() - 5] {
        let broken = Drip { bytes: &file[..cut], calls: 0, fail: true };
        let error = Decoder::new(broken).and_then(Decoder::finish).expect_err("broken");
        assert!(error.is_io(), "{error}");
    }
}

#[test]
fn a_decoder_gives_nothing_after_an_error() {
    let mut file = samples()[1].clone();
    file[104] = 0x80;
    let mut decoder = Decoder::new(file.as_slice()).expect("a header");
    let mut page = vec![0; 512];
    assert!(decoder.next_page(&mut page).is_err());
    assert!(matches!(decoder.next_page(&mut page), Err(FormatError::Misuse { .. })));
    assert!(decoder.finish().is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), at in 0_usize..400) {
        let _ = read(&bytes);
        let _ = PageIndex::decode(&bytes, bytes.len() as u64);
        let _ = PageIndex::decode(&bytes, u64::MAX);
        let _ = decode_page_frame(&bytes, size(512), &mut [0; 512]);
        let mut file = samples()[at % 5].clone();
        let at = at.min(file.len());
        let end = (at + bytes.len()).min(file.len());
        file[at..end].copy_from_slice(&bytes[..end - at]);
        let _ = read(&file);
        let _ = PageIndex::decode(&file, file.len() as u64);
    }
}

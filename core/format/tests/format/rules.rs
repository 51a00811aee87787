//! The rules of LTX files, each broken on the way in and on the way out.

use replicate_format::{
    CHECKSUM_FLAG, Decoder, Encoder, FormatError, HEADER_LEN, Header, PageEncoding, PageIndex, Trailer,
};

use crate::common::{ENCODINGS, Pages, forge, forge_pages, header, page, pgno, read, write};

fn refused_both_ways(header: Header, part: &str) {
    let writing = Encoder::new(Vec::new(), header, PageEncoding::Frame).expect_err("not written");
    let reading = Header::decode(&header.encode()).expect_err("not read");
    for error in [writing, reading] {
        assert!(matches!(error, FormatError::Invalid { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error} names {part}");
    }
}

#[test]
fn header_rules_hold_on_read_and_on_write() {
    let good = Header { wal_offset: 32, wal_size: 536, wal_salt1: 1, ..header(512, 3, 7, 7) };
    assert_eq!(Header::decode(&good.encode()).expect("valid"), good);
    refused_both_ways(Header { flags: 1, ..good }, "flags");
    refused_both_ways(Header { flags: 6, ..good }, "flags");
    refused_both_ways(Header { wal_offset: -1, ..good }, "wal offset");
    refused_both_ways(Header { wal_size: -1, ..good }, "wal size");
    let nowhere = Header { wal_offset: 0, wal_size: 0, wal_salt1: 0, wal_salt2: 0, ..good };
    assert!(nowhere.validate().is_ok());
    refused_both_ways(Header { wal_salt1: 1, ..nowhere }, "wal offset");
    refused_both_ways(Header { wal_salt2: 1, ..nowhere }, "wal offset");
    refused_both_ways(Header { wal_size: 1, ..nowhere }, "wal offset");
    let snapshot = header(512, 3, 1, 7);
    refused_both_ways(Header { flags: 0, pre_apply_checksum: CHECKSUM_FLAG | 5, ..snapshot }, "pre-apply");
    refused_both_ways(Header { pre_apply_checksum: CHECKSUM_FLAG | 5, ..good }, "pre-apply");
    refused_both_ways(Header { flags: 0, ..good }, "pre-apply");
    refused_both_ways(Header { flags: 0, pre_apply_checksum: 5, ..good }, "pre-apply");
}

#[test]
fn header_bytes_that_no_value_stands_for_are_refused() {
    let good = header(512, 3, 7, 9).encode();
    let changes: [(usize, &[u8]); 6] = [
        (0, b"LTX2"),
        (8, &513_u32.to_be_bytes()),
        (8, &131_072_u32.to_be_bytes()),
        (16, &0_u64.to_be_bytes()),
        (16, &10_u64.to_be_bytes()),
        (24, &0_u64.to_be_bytes()),
    ];
    for (at, bytes) in changes {
        let mut bad: [u8; HEADER_LEN] = good;
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        assert!(Header::decode(&bad).is_err(), "{bytes:02x?} at {at}");
    }
}

#[test]
fn trailer_rules_hold_on_read_and_on_write() {
    let untracked = header(512, 1, 7, 7);
    let tracked = Header { flags: 0, pre_apply_checksum: CHECKSUM_FLAG | 1, ..untracked };
    let frames = [(1, PageEncoding::Frame, page(512, 1, 1))];
    let cases = [(untracked, 0, true), (untracked, CHECKSUM_FLAG, false), (tracked, CHECKSUM_FLAG | 9, true)];
    for (header, post, good) in cases.into_iter().chain([(tracked, 0, false), (tracked, 9, false)]) {
        let file = forge(&header, &frames, post, |_| {});
        assert_eq!(read(&file).is_ok(), good, "read {post:x}");
        let mut encoder = Encoder::new(Vec::new(), header, PageEncoding::Frame).expect("a header");
        encoder.page(pgno(1), &frames[0].2).expect("a page");
        encoder.set_post_apply_checksum(post);
        assert_eq!(encoder.finish().is_ok(), good, "write {post:x}");
    }
    let bare = Trailer { post_apply_checksum: 0, file_checksum: 5 };
    assert!(Trailer::decode(&bare.encode()).is_err(), "a file checksum has bit 63");
}

#[test]
fn a_tracked_empty_database_has_the_empty_checksum() {
    let deleted = Header { flags: 0, pre_apply_checksum: CHECKSUM_FLAG | 1, ..header(512, 0, 7, 7) };
    for (post, good) in [(CHECKSUM_FLAG, true), (CHECKSUM_FLAG | 1, false)] {
        let mut encoder = Encoder::new(Vec::new(), deleted, PageEncoding::Frame).expect("a header");
        encoder.set_post_apply_checksum(post);
        assert_eq!(encoder.finish().is_ok(), good, "{post:x}");
    }
}

#[test]
fn a_tracked_snapshot_is_held_to_its_rolling_checksum() {
    let tracked = Header { flags: 0, ..header(512, 2, 1, 1) };
    let sevens: Vec<u8> = (0..512_u32).map(|i| (i * 7 % 251) as u8).collect();
    let right = 0xd43a_8b48_af9b_3a4a;
    let frames = [(1, PageEncoding::Block, vec![b'A'; 512]), (2, PageEncoding::Block, sevens)];
    for (post, good) in [(right, true), (right ^ 1, false)] {
        assert_eq!(read(&forge(&tracked, &frames, post, |_| {})).is_ok(), good);
        let mut encoder = Encoder::new(Vec::new(), tracked, PageEncoding::Block).expect("a header");
        for (n, _, page) in &frames {
            encoder.page(pgno(*n), page).expect("a page");
        }
        encoder.set_post_apply_checksum(post);
        assert_eq!(encoder.finish().is_ok(), good);
    }
}

/// Whether the pages make a file, by the encoder, by the decoder, and by the index alone.
fn accepted(header: Header, numbers: &[u32]) -> [bool; 3] {
    let pages: Vec<_> = numbers.iter().map(|&n| (n, page(header.page_size.len(), 3, 1))).collect();
    let file = forge_pages(&header, PageEncoding::Frame, &pages);
    let index = PageIndex::decode(&file, file.len() as u64).and_then(|index| index.validate(&header));
    let encode = || -> Result<(), FormatError> {
        let mut encoder = Encoder::new(Vec::new(), header, PageEncoding::Frame)?;
        for (n, page) in &pages {
            encoder.page(pgno(*n), page)?;
        }
        encoder.finish().map(|_| ())
    };
    [encode().is_ok(), read(&file).is_ok(), index.is_ok()]
}

#[test]
fn a_snapshot_holds_every_page_once_and_in_order() {
    let snapshot = header(512, 3, 1, 4);
    assert_eq!(accepted(snapshot, &[1, 2, 3]), [true; 3]);
    for bad in [&[][..], &[1, 2], &[1, 3], &[2, 3], &[1, 2, 3, 4], &[1, 1, 2, 3], &[2, 1, 3]] {
        assert_eq!(accepted(snapshot, bad), [false; 3], "{bad:?}");
    }
}

#[test]
fn other_files_hold_rising_pages_up_to_the_size_of_the_database() {
    let later = header(512, 5, 2, 4);
    for good in [&[][..], &[1], &[5], &[2, 4], &[1, 2, 3, 4, 5]] {
        assert_eq!(accepted(later, good), [true; 3], "{good:?}");
    }
    for bad in [&[6][..], &[2, 2], &[3, 2], &[1, 6]] {
        assert_eq!(accepted(later, bad), [false; 3], "{bad:?}");
    }
}

#[test]
fn the_lock_page_is_in_no_file() {
    for bytes in [512, 4096, 65536] {
        let lock = crate::common::size(bytes).lock_page().get();
        let later = header(bytes, lock + 1, 2, 2);
        assert_eq!(accepted(later, &[lock - 1, lock + 1]), [true; 3]);
        assert_eq!(accepted(later, &[lock]), [false; 3]);
    }
}

#[test]
fn a_snapshot_over_one_gibibyte_steps_over_the_lock_page() {
    let bytes = 65536;
    let lock = crate::common::size(bytes).lock_page().get();
    let zeros = vec![0; bytes as usize];
    for commit in [lock + 1, lock] {
        let mut encoder = Encoder::new(Vec::new(), header(bytes, commit, 1, 1), PageEncoding::Frame).expect("a header");
        for n in (1..=commit).filter(|&n| n != lock) {
            encoder.page(pgno(n), &zeros).expect("in order");
        }
        let (encoded, file) = encoder.finish().expect("complete without the lock page");
        assert_eq!(encoded.pages, u64::from(commit) - 1);
        let trailer = Decoder::new(file.as_slice()).and_then(Decoder::finish).expect("valid");
        assert_eq!(trailer, encoded.trailer);
    }
}

#[test]
fn empty_files_are_read_and_written() {
    for empty in [header(512, 3, 2, 2), header(512, 0, 2, 2), header(512, 0, 1, 1)] {
        for encoding in ENCODINGS {
            let (encoded, file) = write(empty, encoding, &Pages::new()).expect("a file");
            assert_eq!(file.len() as u64, replicate_format::FILE_MIN);
            assert_eq!(read(&file).expect("valid"), (empty, Pages::new(), encoded.trailer));
        }
    }
}

#[test]
fn an_encoder_takes_nothing_after_an_error() {
    let mut encoder = Encoder::new(Vec::new(), header(512, 3, 2, 2), PageEncoding::Frame).expect("a header");
    let page = page(512, 1, 1);
    assert!(encoder.page(pgno(4), &page).is_err());
    assert!(matches!(encoder.page(pgno(1), &page), Err(FormatError::Misuse { .. })));
    assert!(matches!(encoder.finish(), Err(FormatError::Misuse { .. })));
}

#[test]
fn a_packed_page_must_fit_its_page_and_number() {
    let (one, other) = (page(512, 1, 1), page(512, 2, 1));
    for encoding in ENCODINGS {
        let mut packed = Vec::new();
        replicate_format::encode_page_frame(pgno(2), &one, encoding, &mut packed).expect("a page");
        let add = |n: u32, raw: &[u8], packed: &[u8]| {
            let mut encoder = Encoder::new(Vec::new(), header(512, 3, 2, 2), encoding)?;
            encoder.page_encoded(pgno(n), raw, packed)?;
            encoder.finish()
        };
        let (_, file) = add(2, &one, &packed).expect("fits");
        let pages = Pages::from([(2, one.clone())]);
        assert_eq!(file, write(header(512, 3, 2, 2), encoding, &pages).expect("a file").1);
        assert!(add(3, &one, &packed).is_err(), "another number");
        assert!(add(2, &one, &packed[..packed.len() - 1]).is_err(), "cut");
        assert!(add(2, &one, &[packed.as_slice(), &[0]].concat()).is_err(), "longer");
        assert!(add(2, &one, &[]).is_err(), "nothing");
        if encoding == PageEncoding::Frame {
            assert!(add(2, &other, &packed).is_err(), "another page");
        }
    }
}

#[test]
fn a_writer_that_fails_is_an_io_error_and_spoils_the_encoder() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let pages: Pages = (1..=40).map(|n| (n, page(4096, n.into(), 2))).collect();
    let mut encoder = Encoder::new(Full, header(4096, 40, 1, 1), PageEncoding::Frame).expect("a header");
    let failed = pages.iter().find_map(|(&n, page)| encoder.page(pgno(n), page).err());
    assert!(failed.expect("64 KiB reach the writer").is_io());
    assert!(encoder.finish().is_err());
}

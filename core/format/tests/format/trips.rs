//! There and back: any pages, any page size, both encodings, tracked or not.

use proptest::prelude::*;
use replicate_format::{
    CHECKSUM_FLAG, Encoder, Header, PageEncoding, PageIndex, PageSize, RollingChecksum, decode_page_frame,
    page_checksum,
};

use crate::common::{ENCODINGS, Pages, forge_pages, header, page, pgno, read};

/// Pages with rising numbers; the page after the last is the size of the database or more.
fn pages(len: usize) -> impl Strategy<Value = (Pages, u32)> {
    let one = (1_u32..40, any::<u64>(), 0_u8..3);
    (proptest::collection::vec(one, 0..12), 0_u32..3).prop_map(move |(steps, beyond)| {
        let mut n = 0;
        let mut pages = Pages::new();
        for (step, seed, kind) in steps {
            n += step;
            pages.insert(n, page(len, seed, kind));
        }
        (pages, n + beyond)
    })
}

fn file() -> impl Strategy<Value = (PageSize, Pages, u32)> {
    (9_u32..=16).prop_flat_map(|log| {
        let size = PageSize::new(1 << log).expect("a page size");
        pages(size.len()).prop_map(move |(pages, commit)| (size, pages, commit))
    })
}

fn naive_rolling(pages: &Pages) -> u64 {
    let xor = pages.iter().fold(0, |sum, (&n, page)| sum ^ page_checksum(pgno(n), page));
    CHECKSUM_FLAG | xor
}

proptest! {
    #[test]
    fn what_is_written_is_read((size, pages, commit) in file(), tracked: bool, encoding in 0_usize..2) {
        let encoding = ENCODINGS[encoding];
        let mut header = Header { timestamp_ms: -5, node_id: 77, ..header(size.get(), commit, 3, 9) };
        let post = if tracked { CHECKSUM_FLAG | u64::from(commit > 0) } else { 0 };
        if tracked {
            (header.flags, header.pre_apply_checksum) = (0, CHECKSUM_FLAG | 3);
        }
        let mut encoder = Encoder::new(Vec::new(), header, encoding).expect("a header");
        for (&n, page) in &pages {
            encoder.page(pgno(n), page).expect("in order");
        }
        encoder.set_post_apply_checksum(post);
        let (encoded, file) = encoder.finish().expect("a file");
        prop_assert_eq!((encoded.size, encoded.pages), (file.len() as u64, pages.len() as u64));
        let (found, read_pages, trailer) = read(&file).expect("valid");
        prop_assert_eq!((found, trailer), (header, encoded.trailer));
        prop_assert!(read_pages == pages);

        let index = PageIndex::decode(&file, file.len() as u64).expect("an index");
        index.validate(&header).expect("fits");
        prop_assert!(index.iter().map(|e| e.pgno.get()).eq(pages.keys().copied()));
        let mut page = vec![0; size.len()];
        for entry in index.iter() {
            let frame = &file[entry.offset as usize..(entry.offset + entry.size) as usize];
            prop_assert_eq!(decode_page_frame(frame, size, &mut page).expect("a page"), entry.pgno);
            prop_assert!(page == pages[&entry.pgno.get()]);
        }
    }

    #[test]
    fn the_encoder_lays_out_the_bytes_of_the_drawing((size, pages, commit) in file(), encoding in 0_usize..2) {
        let encoding = ENCODINGS[encoding];
        let header = header(size.get(), commit, 3, 9);
        let written = crate::common::write(header, encoding, &pages).expect("a file").1;
        let list: Vec<_> = pages.into_iter().collect();
        prop_assert!(written == forge_pages(&header, encoding, &list));
    }

    #[test]
    fn a_rolling_checksum_kept_up_is_the_one_computed_anew(
        changes in proptest::collection::vec((1_u32..12, any::<u64>(), 1_u32..12), 1..30),
    ) {
        let size = PageSize::MIN;
        let mut rolling = RollingChecksum::new(size);
        let mut database = Pages::new();
        for (n, seed, commit) in changes {
            // Every page up to the size of the database exists; the ones beyond it are cut off.
            for n in 1..=commit {
                database.entry(n).or_insert_with(|| {
                    let zeros = vec![0; 512];
                    rolling.toggle(pgno(n), &zeros);
                    zeros
                });
            }
            while let Some((&last, _)) = database.last_key_value().filter(|(n, _)| **n > commit) {
                let cut = database.remove(&last).expect("the last page");
                rolling.toggle(pgno(last), &cut);
            }
            if let Some(old) = database.get_mut(&n) {
                let new = page(512, seed, 1);
                rolling.replace(pgno(n), old, &new);
                *old = new;
            }
            prop_assert_eq!(rolling.value(), naive_rolling(&database));
        }
        let resumed = RollingChecksum::resume(size, rolling.value());
        prop_assert_eq!(resumed, rolling);
    }
}

#[test]
fn the_lock_page_does_not_count_in_the_rolling_checksum() {
    let size = PageSize::MAX;
    let mut rolling = RollingChecksum::new(size);
    rolling.toggle(size.lock_page(), &vec![1; size.len()]);
    assert_eq!(rolling, RollingChecksum::new(size));
}

#[test]
fn packing_in_threads_and_adding_in_order_gives_the_same_file() {
    let pages: Pages = (1..=50).map(|n| (n, page(4096, n.into(), n as u8))).collect();
    for encoding in ENCODINGS {
        let packed = std::thread::scope(|scope| {
            let workers: Vec<_> = pages
                .iter()
                .map(|(&n, page)| {
                    scope.spawn(move || {
                        let mut out = Vec::new();
                        replicate_format::encode_page_frame(pgno(n), page, encoding, &mut out).expect("a page");
                        out
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().expect("packed")).collect::<Vec<_>>()
        });
        let header = header(4096, 50, 1, 1);
        let mut encoder = Encoder::new(Vec::new(), header, encoding).expect("a header");
        for ((&n, page), packed) in pages.iter().zip(&packed) {
            encoder.page_encoded(pgno(n), page, packed).expect("in order");
        }
        let together = encoder.finish().expect("a file").1;
        assert!(together == crate::common::write(header, encoding, &pages).expect("a file").1);
    }
}

#[test]
fn frames_are_the_default_because_every_reader_takes_them() {
    assert_eq!(PageEncoding::default(), PageEncoding::Frame);
}

//! Merging against the naive way: apply one file after the other to a database of pages.

use proptest::prelude::*;
use replicate_format::{
    Decoder, FormatError, Header, MergedPages, Merger, PageEncoding, PageIndex, Trailer, TxidRange,
};

use crate::common::{ENCODINGS, Pages, forge, forge_pages, header, page, range, read, write};

/// One capture: the size of the database after it, and the pages it brings.
#[derive(Clone, Debug)]
struct Step {
    commit: u32,
    pages: Pages,
}

fn apply(database: &mut Pages, step: &Step) {
    for (n, page) in &step.pages {
        database.insert(*n, page.clone());
    }
    database.retain(|n, _| *n <= step.commit);
}

/// A life of a database. As SQLite does, a growing database writes every page it gains.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = (1_u32..14, proptest::collection::btree_set(1_u32..14, 0..6), any::<u64>());
    proptest::collection::vec(one, 1..8).prop_map(|raw| {
        let mut size = 0;
        raw.into_iter()
            .enumerate()
            .map(|(i, (commit, mut changed, seed))| {
                changed.extend(size + 1..=commit);
                size = commit;
                let kind = |n: u32| (seed >> (n % 32)) as u8;
                let fill = |n: u32| page(512, seed ^ u64::from(n) ^ (i as u64) << 32, kind(n));
                let pages = changed.into_iter().filter(|n| *n <= commit).map(|n| (n, fill(n))).collect();
                Step { commit, pages }
            })
            .collect()
    })
}

/// What several steps bring together.
fn squash(steps: &[Step]) -> Step {
    let mut pages = Pages::new();
    for step in steps {
        apply(&mut pages, step);
    }
    Step { commit: steps.last().expect("a step").commit, pages }
}

fn merge(files: &[Vec<u8>], encoding: PageEncoding) -> Result<Vec<u8>, FormatError> {
    let inputs = files.iter().map(|file| Decoder::new(file.as_slice())).collect::<Result<_, _>>()?;
    Ok(Merger::new(inputs, Vec::new(), encoding)?.finish()?.1)
}

proptest! {
    #[test]
    fn a_merge_is_what_its_inputs_do_one_after_the_other(
        steps in steps(),
        first in prop_oneof![Just(1_u64), 2_u64..1000],
        cuts in proptest::collection::vec((1_usize..4, 0_usize..3, 0_usize..2), 1..8),
        encoding in 0_usize..2,
    ) {
        // Files of one or more steps each; some begin again with steps that the file before had.
        let mut files = Vec::new();
        let mut done = 0;
        for (len, overlap, encoding) in cuts.iter().cycle() {
            let from = done - done.min(*overlap);
            done = (done + len).min(steps.len());
            let squashed = squash(&steps[from..done]);
            let head = Header {
                timestamp_ms: done as i64,
                ..header(512, squashed.commit, first + from as u64, first + done as u64 - 1)
            };
            // Overlap may begin a later file at transaction 1, and then it must be complete; it is.
            files.push((head, write(head, ENCODINGS[*encoding], &squashed.pages).expect("a file").1));
            if done == steps.len() {
                break;
            }
        }
        let bytes: Vec<_> = files.iter().map(|(_, file)| file.clone()).collect();
        let merged = merge(&bytes, ENCODINGS[encoding]).expect("a merge");
        let (found, pages, _) = read(&merged).expect("valid");

        let (first_head, last_head) = (files[0].0, files[files.len() - 1].0);
        let txids = TxidRange::new(first_head.txids.min(), last_head.txids.max()).expect("a range");
        let expected = Header::untracked(last_head.page_size, last_head.commit, txids, last_head.timestamp_ms);
        prop_assert_eq!(found, expected);

        let mut one_by_one = Pages::new();
        for (head, file) in &files {
            let step = Step { commit: head.commit, pages: read(file).expect("valid").1 };
            apply(&mut one_by_one, &step);
        }
        prop_assert!(one_by_one == squash(&steps).pages, "the naive way agrees with the life itself");
        // In a life where every gained page is written, nothing that was cut off can come back.
        prop_assert!(pages == one_by_one);

        let flags = merged_flags(&merged);
        prop_assert!(flags.iter().all(|flag| *flag == encoding as u16), "one encoding throughout: {flags:?}");

        let inputs = bytes.iter().map(|file| Decoder::new(file.as_slice()).expect("a header")).collect();
        let mut pages_only = MergedPages::new(inputs).expect("a merge");
        let mut streamed = Pages::new();
        while let Some((n, page)) = pages_only.next_page().expect("valid") {
            streamed.insert(n.get(), page.to_vec());
        }
        pages_only.finish().expect("valid");
        prop_assert!(streamed == one_by_one);
    }
}

/// The flags of each page.
fn merged_flags(file: &[u8]) -> Vec<u16> {
    let index = PageIndex::decode(file, file.len() as u64).expect("an index");
    let flag = |at: u64| u16::from_be_bytes([file[at as usize + 4], file[at as usize + 5]]);
    index.iter().map(|entry| flag(entry.offset)).collect()
}

fn file(commit: u32, min: u64, max: u64, pages: &[u32]) -> Vec<u8> {
    let pages = pages.iter().map(|&n| (n, page(512, min * 100 + u64::from(n), 1))).collect();
    write(header(512, commit, min, max), PageEncoding::Frame, &pages).expect("a file").1
}

#[test]
fn inputs_must_follow_each_other_and_make_progress() {
    let five = file(3, 5, 5, &[1]);
    for (min, max, good) in [(6, 6, true), (5, 6, true), (2, 9, true), (7, 7, false), (4, 5, false), (5, 5, false)] {
        assert_eq!(merge(&[five.clone(), file(3, min, max, &[2])], PageEncoding::Frame).is_ok(), good, "{min}-{max}");
    }
    assert!(merge(&[], PageEncoding::Frame).is_err(), "no input");
}

#[test]
fn inputs_must_have_one_page_size() {
    let other = write(header(1024, 3, 6, 6), PageEncoding::Frame, &Pages::new()).expect("a file").1;
    let error = merge(&[file(3, 5, 5, &[1]), other], PageEncoding::Frame).expect_err("two page sizes");
    assert!(matches!(error, FormatError::Invalid { what: "page size of a merge", .. }), "{error}");
}

#[test]
fn a_merge_from_the_start_without_all_pages_is_no_file() {
    assert!(merge(&[file(2, 1, 1, &[1, 2]), file(3, 2, 2, &[3])], PageEncoding::Frame).is_ok());
    assert!(merge(&[file(2, 1, 1, &[1, 2]), file(4, 2, 2, &[4])], PageEncoding::Frame).is_err(), "page 3 is lost");
    assert!(merge(&[file(2, 1, 1, &[1, 2]), file(3, 2, 2, &[1])], PageEncoding::Frame).is_err(), "page 3 is lost");
}

#[test]
fn empty_and_deletion_files_take_part() {
    let (empty, deleted) = (file(3, 6, 6, &[]), file(0, 7, 7, &[]));
    let merged = merge(&[file(3, 5, 5, &[2]), empty.clone()], PageEncoding::Frame).expect("a merge");
    assert_eq!(read(&merged).expect("valid").1.len(), 1);
    let merged = merge(&[file(3, 5, 5, &[2]), empty, deleted.clone()], PageEncoding::Frame).expect("a merge");
    let (head, pages, _) = read(&merged).expect("valid");
    assert_eq!((head.commit, head.txids, pages.len()), (0, range(5, 7), 0));
    let merged = merge(&[deleted, file(2, 8, 8, &[1, 2])], PageEncoding::Frame).expect("a merge");
    assert_eq!(read(&merged).expect("valid").1.len(), 2);
}

#[test]
fn tracked_inputs_merge_into_an_untracked_file() {
    let tracked = Header { flags: 0, pre_apply_checksum: 1 << 63, ..header(512, 1, 5, 5) };
    let input = forge(&tracked, &[(1, PageEncoding::Frame, page(512, 1, 1))], 1 << 63 | 5, |_| {});
    let merged = merge(&[input], PageEncoding::Frame).expect("a merge");
    let (head, _, Trailer { post_apply_checksum, .. }) = read(&merged).expect("valid");
    assert!(!head.is_tracked());
    assert_eq!(post_apply_checksum, 0);
}

#[test]
fn a_fault_anywhere_in_any_input_fails_the_merge() {
    let inputs = [file(4, 1, 1, &[1, 2, 3, 4]), file(4, 2, 2, &[2]), file(4, 3, 3, &[4])];
    let good = read(&merge(&inputs, PageEncoding::Frame).expect("a merge")).expect("valid").1;
    for i in 0..inputs.len() {
        for at in 0..inputs[i].len() {
            let mut bad = inputs.clone();
            bad[i][at] ^= 0x10;
            if let Ok(merged) = merge(&bad, PageEncoding::Frame) {
                assert!(read(&merged).expect("valid").1 == good, "byte {at} of input {i}");
            }
            bad[i].truncate(at);
            assert!(merge(&bad, PageEncoding::Frame).is_err(), "input {i} cut at {at}");
        }
    }
}

#[test]
fn a_page_in_an_odd_lz4_frame_is_packed_anew() {
    let mut odd = forge_pages(&header(512, 1, 5, 5), PageEncoding::Frame, &[(1, page(512, 1, 1))]);
    // A block limit of 4 MiB instead of 64 KiB: valid, but not what old readers have been seen to read.
    odd[111] = 0x70;
    odd[112] = (twox_hash::XxHash32::oneshot(0, &[0x64, 0x70]) >> 8) as u8;
    let merged = merge(&[odd], PageEncoding::Frame).expect("a merge");
    assert_eq!(merged[110..113], [0x64, 0x40, 0xa7]);
    read(&merged).expect("valid");
}

#[test]
fn progress_is_the_last_page_written() {
    let bytes = [file(4, 5, 5, &[1, 4]), file(4, 6, 6, &[2])];
    let inputs = bytes.iter().map(|file| Decoder::new(file.as_slice()).expect("a header")).collect();
    let mut merger = Merger::new(inputs, Vec::new(), PageEncoding::Frame).expect("a merge");
    let mut seen = Vec::new();
    while merger.step().expect("valid") {
        seen.push(merger.progress().map(|n| n.get()));
    }
    assert_eq!(seen, [Some(1), Some(2), Some(4)]);
    assert_eq!(merger.finish().expect("a file").0.pages, 3);
}

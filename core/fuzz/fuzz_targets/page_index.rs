//! Any bytes as the end of an LTX file, and as a page fetched alone.

#![no_main]

use libfuzzer_sys::fuzz_target;
use replicate_format::{HEADER_LEN, Header, PageIndex, PageSize, decode_page_frame, tail_needed};

fuzz_target!(|bytes: &[u8]| {
    let whole = bytes.len() as u64;
    for file_len in [whole, whole + 1000, u64::MAX] {
        let needed = tail_needed(bytes, file_len);
        if let Ok(index) = PageIndex::decode(bytes, file_len) {
            assert!(needed.expect("an index that was read") <= whole);
            let mut end = HEADER_LEN as u64;
            for entry in index.iter() {
                assert_eq!(entry.offset, end);
                assert_eq!(index.get(entry.pgno), Some(entry));
                end += entry.size;
            }
            assert!(end < file_len);
        }
    }
    if let (Some(header), Ok(index)) = (bytes.first_chunk(), PageIndex::decode(bytes, whole)) {
        if let Ok(header) = Header::decode(header) {
            if index.validate(&header).is_ok() {
                let mut page = vec![0; header.page_size.len()];
                for entry in index.iter() {
                    let frame = &bytes[entry.offset as usize..(entry.offset + entry.size) as usize];
                    let _ = decode_page_frame(frame, header.page_size, &mut page);
                }
            }
        }
    }
    let _ = decode_page_frame(bytes, PageSize::MIN, &mut [0; 512]);
});

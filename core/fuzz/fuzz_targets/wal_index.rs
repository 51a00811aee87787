//! Any bytes as the header of a WAL-index: not believed, or written again with the same meaning.

#![no_main]

use libfuzzer_sys::fuzz_target;
use replicate_format::{WAL_INDEX_HEADER_LEN, WalIndexHeader};

fuzz_target!(|bytes: &[u8]| {
    let Some(bytes) = bytes.first_chunk::<WAL_INDEX_HEADER_LEN>() else { return };
    if let Some(header) = WalIndexHeader::decode(bytes) {
        assert_eq!(WalIndexHeader::decode(&header.encode()), Some(header));
    }
});

//! Any bytes as the header of a database.

#![no_main]

use libfuzzer_sys::fuzz_target;
use replicate_format::DbHeader;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = DbHeader::decode(bytes) {
        assert!(header.page_size.get().is_power_of_two());
        let _ = (header.is_wal(), header.page_count_is_valid());
    }
});

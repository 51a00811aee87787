//! Any bytes as the header of an age file: the same answer however they arrive, and, if it is one, the one way to
//! write what it says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use replicate::fuzzing::seal_header;
use replicate_fuzz::tape::Tape;

fuzz_target!(|bytes: &[u8]| {
    // The cuts stand at the end, so that a file of the corpus is a header.
    let (bytes, cuts) = bytes.split_at(bytes.len() - bytes.len().min(8));
    let whole = seal_header(&[bytes]);
    assert_eq!(seal_header(&Tape::new(cuts).cut(bytes)), whole);
    if let Ok(Some((header, rebuilt))) = whole {
        assert!(bytes.starts_with(&header));
        assert_eq!(header, rebuilt);
    }
});

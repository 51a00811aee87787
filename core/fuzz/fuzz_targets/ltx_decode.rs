//! Any bytes as an LTX file: an error, or pages that make the same file when written again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use replicate_format::{Decoder, Encoder, FormatError, Header, PageEncoding, Pgno, Trailer};

type Content = (Header, Vec<(Pgno, Vec<u8>)>, Trailer);

fn read(file: &[u8]) -> Result<Content, FormatError> {
    let mut decoder = Decoder::new(file)?;
    let header = *decoder.header();
    let mut page = vec![0; header.page_size.len()];
    let mut pages = Vec::new();
    while let Some(pgno) = decoder.next_page(&mut page)? {
        pages.push((pgno, page.clone()));
    }
    Ok((header, pages, decoder.finish()?))
}

fuzz_target!(|bytes: &[u8]| {
    let Ok((header, pages, trailer)) = read(bytes) else { return };
    let mut encoder = Encoder::new(Vec::new(), header, PageEncoding::Frame).expect("a header that was read");
    for (pgno, page) in &pages {
        encoder.page(*pgno, page).expect("pages in the order they were read");
    }
    encoder.set_post_apply_checksum(trailer.post_apply_checksum);
    // The one rule that binds writers alone: what an empty tracked database must have.
    if header.commit != 0 || !header.is_tracked() {
        let (encoded, file) = encoder.finish().expect("a file that was read");
        let again = read(&file).expect("a file that was written");
        assert_eq!(again.0, header);
        assert!(again.1 == pages);
        assert_eq!(again.2, encoded.trailer);
    }
});

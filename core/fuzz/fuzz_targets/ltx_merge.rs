//! Two files in one input, the first behind its length: an error, or a file that holds what they do together.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use replicate_format::{Decoder, FormatError, Merger, PageEncoding};

fn read(file: &[u8], pages: &mut BTreeMap<u32, Vec<u8>>) -> Result<(), FormatError> {
    let mut decoder = Decoder::new(file)?;
    let commit = decoder.header().commit;
    let mut page = vec![0; decoder.header().page_size.len()];
    while let Some(pgno) = decoder.next_page(&mut page)? {
        pages.insert(pgno.get(), page.clone());
    }
    decoder.finish()?;
    pages.retain(|pgno, _| *pgno <= commit);
    Ok(())
}

fn merge(files: [&[u8]; 2], encoding: PageEncoding) -> Result<Vec<u8>, FormatError> {
    let inputs = files.into_iter().map(Decoder::new).collect::<Result<_, _>>()?;
    Ok(Merger::new(inputs, Vec::new(), encoding)?.finish()?.1)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((len, rest)) = bytes.split_first_chunk::<2>() else { return };
    let Some(files) = rest.split_at_checked(u16::from_be_bytes(*len).into()) else { return };
    for encoding in [PageEncoding::Frame, PageEncoding::Block] {
        let Ok(merged) = merge([files.0, files.1], encoding) else { continue };
        let mut one_by_one = BTreeMap::new();
        for file in [files.0, files.1] {
            read(file, &mut one_by_one).expect("an input of a finished merge");
        }
        let mut found = BTreeMap::new();
        read(&merged, &mut found).expect("a finished merge");
        assert!(found == one_by_one);
    }
});

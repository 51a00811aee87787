//! Any bytes as the page ledger and as one that was being replaced, then captures, flushes, rebases and crashes: it
//! says what a plain list would say, and after a crash what it is of, or that it knows nothing.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use replicate::fuzzing::Ledger;
use replicate_format::{PageSize, Pgno, Txid, crc64};
use replicate_fuzz::disk::MemoryDisk;
use replicate_fuzz::tape::Tape;

/// A file: as the input says, or with the checksum that makes its header whole.
fn file(tape: &mut Tape<'_>) -> Vec<u8> {
    let (honest, pages) = (tape.byte() % 4 != 0, tape.byte());
    let mut bytes = tape.run().to_vec();
    if honest {
        bytes.resize(bytes.len().max(40), 0);
        bytes[..8].copy_from_slice(b"RPLLEDG2");
        bytes[28..32].copy_from_slice(&u32::from(pages).to_be_bytes());
        let crc = crc64(&bytes[..32]);
        bytes[32..40].copy_from_slice(&crc.to_be_bytes());
    }
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    let mut tape = Tape::new(bytes);
    let folder = Path::new("state");
    let (old, new) = (file(&mut tape), file(&mut tape));
    let disk = MemoryDisk::with([(folder.join("ledger"), &old[..]), (folder.join("ledger.tmp"), &new[..])]);
    let newest = (tape.byte() % 2 == 0).then(|| Txid(u64::from(tape.byte())));
    let mut ledger = Ledger::open(disk.clone(), folder, newest).expect("the disk works");
    let mut model = ledger.checksums().expect("the disk works");
    assert!(model.len() * 8 <= old.len().max(new.len()));
    let mut txid = ledger.base().map_or(Txid(1), |(base, _)| Txid(base.0.min(u64::MAX / 2)));
    let mut flushed = ledger.base().map(|(base, _)| (base, model.clone()));
    for _ in 0..tape.byte() % 12 {
        match tape.byte() % 4 {
            0 | 1 => {
                txid = Txid(txid.0 + 1);
                let pages = u32::try_from(1 + tape.below(400)).expect("small");
                let mut changes: Vec<u32> = tape.run().iter().map(|step| u32::from(*step)).collect();
                let mut at = 0;
                changes.iter_mut().for_each(|step| {
                    at += 1 + *step % 16;
                    *step = at;
                });
                changes.retain(|page| *page <= pages);
                let sum = |page: &u32| (Pgno::new(*page).expect("not zero"), txid.0 << 32 | u64::from(*page));
                let changes: Vec<_> = changes.iter().map(sum).collect();
                ledger.record(txid, pages, &changes);
                model.resize(pages as usize, 0);
                changes.iter().for_each(|(page, sum)| model[page.get() as usize - 1] = *sum);
            }
            2 => {
                ledger.flush(txid).expect("the disk works");
                if ledger.base().is_some() {
                    flushed = Some((txid, model.clone()));
                }
            }
            _ => {
                txid = Txid(txid.0 + 1);
                model = (0..tape.byte()).map(|page| u64::from(page) + 1).collect();
                ledger.replace(PageSize::MIN, &model, txid).expect("the disk works");
                flushed = Some((txid, model.clone()));
            }
        }
        assert_eq!(ledger.checksums().expect("the disk works"), model);
    }
    // Nothing was spilled, so the file is as of the last flush.
    let found = Ledger::open(disk, folder, None).expect("the disk works");
    match (flushed, found.base()) {
        (Some((at, content)), Some((base, _))) => {
            assert_eq!(base, at);
            assert_eq!(found.checksums().expect("the disk works"), content);
        }
        (flushed, base) => assert!(flushed.is_none() && base.is_none(), "{flushed:?} {base:?}"),
    }
});

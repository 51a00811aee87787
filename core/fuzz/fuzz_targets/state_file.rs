//! Any bytes as the state file: nothing, or a record that is read again as it was once it is written. Behind the bytes
//! of the input stand their checksums, or the fuzzer would never get past them.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use replicate::fuzzing::state_file;
use replicate_format::crc64;
use replicate_fuzz::disk::MemoryDisk;
use replicate_fuzz::tape::Tape;

const SLOT: usize = 2048;

/// A slot: as the input says, or with the checksum that makes it whole.
fn slot(tape: &mut Tape<'_>) -> Vec<u8> {
    let honest = tape.byte() % 4 != 0;
    let mut bytes = tape.run().to_vec();
    if honest {
        bytes.retain(|byte| *byte != b'\n');
        bytes.push(b'\n');
        bytes.extend_from_slice(format!("{:016x}\n", crc64(&bytes)).as_bytes());
    }
    bytes.resize(SLOT, 0);
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    let mut tape = Tape::new(bytes);
    let mut file = slot(&mut tape);
    file.extend(slot(&mut tape));
    file.truncate(file.len() - tape.number().min(file.len()));
    let folder = Path::new("state");
    let disk = MemoryDisk::with([(folder.join("state"), &file[..])]);
    // One whose sequence has reached its end, or that is too long for its slot, cannot be written.
    let Ok(Some(record)) = state_file(&disk, folder) else { return };
    assert_eq!(state_file(&disk, folder).expect("a record that was written"), Some(record));
});

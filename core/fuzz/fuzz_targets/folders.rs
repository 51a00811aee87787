//! Any names and contents in the folders of the spool and of the messages between processes: what is ours is read and
//! answered, the rest is removed or left alone.

#![no_main]

use std::collections::BTreeSet;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use replicate::fuzzing::{messages, spool_files};
use replicate::{Level, Timestamp};
use replicate_format::{TxidRange, ltx_file_name, parse_ltx_file_name};
use replicate_fuzz::disk::MemoryDisk;
use replicate_fuzz::tape::Tape;

fuzz_target!(|bytes: &[u8]| {
    let mut tape = Tape::new(bytes);
    let state = Path::new("state");
    let folders = [state.join("spool/0"), state.join("spool/9"), state.join("asks")];
    let mut files = Vec::new();
    for _ in 0..8 {
        let folder = &folders[tape.below(3)];
        let len = tape.byte();
        let Ok(name) = std::str::from_utf8(tape.take(len.into())) else { continue };
        let content = tape.run();
        if !name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != ".." {
            files.push((folder.join(name), content));
        }
    }
    let names: BTreeSet<_> = files.iter().map(|(path, _)| path.clone()).collect();
    let disk = MemoryDisk::with(files);

    let found = spool_files(&disk, state).expect("the disk works");
    assert!(found.is_sorted_by_key(|(_, txids)| TxidRange::max(*txids)));
    for (level, folder) in [(Level::L0, &folders[0]), (Level::SNAPSHOT, &folders[1])] {
        let here = |path: &&std::path::PathBuf| path.parent() == Some(folder);
        let ours = |path: &std::path::PathBuf| path.file_name()?.to_str().and_then(parse_ltx_file_name);
        let expected: BTreeSet<_> = names.iter().filter(here).filter_map(ours).map(ltx_file_name).collect();
        let of_level = found.iter().filter(|(of, _)| *of == level).map(|(_, txids)| ltx_file_name(*txids));
        assert_eq!(of_level.collect::<BTreeSet<_>>(), expected);
        let left: BTreeSet<_> = disk.list(folder).expect("it works").into_iter().map(|entry| entry.name).collect();
        assert_eq!(left, expected);
    }

    let asked = messages(&disk, state, Timestamp(10)).expect("the disk works");
    for (name, _) in &asked {
        assert!(names.contains(&folders[2].join(format!("{name}.ask"))), "{name}");
    }
    assert!(messages(&disk, state, Timestamp(10)).expect("the disk works").is_empty());
});

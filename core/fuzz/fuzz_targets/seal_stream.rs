//! A sealed file that was changed at will and arrives in pieces: it opens only if it is as it was made, what comes out
//! is a true beginning, and how it ends does not depend on how it arrives.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use replicate::fuzzing::open_stream;
use replicate::seal::{Identities, IdentityKind, Keys, KeysBuilder, Recipients, generate_identity};
use replicate_fuzz::liar::{Liar, seal};
use replicate_fuzz::tape::Tape;

const LENGTHS: [usize; 7] = [0, 1, 700, 65_535, 65_536, 65_537, 140_000];

struct Base {
    keys: Arc<Keys>,
    files: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The byte at a place, the same in every file.
fn content(at: usize) -> u8 {
    (at % 251) as u8
}

/// Each sealing has a header of its own, of the same length in every run.
fn base(kind: IdentityKind, auth: bool) -> Base {
    let made = generate_identity(kind).expect("chance");
    let recipients = Some(Recipients::parse(&made.recipient).expect("a public key"));
    let identities = Some(Identities::parse(&made.identity).expect("a private key"));
    let auth_key = auth.then(|| Box::new([9; 32].into()));
    let keys = KeysBuilder { recipients, identities, auth_key, ..KeysBuilder::default() };
    let keys = Arc::new(keys.build().expect("they belong together"));
    let plain = |len: usize| (0..len).map(|i| (i % 251) as u8).collect::<Vec<u8>>();
    let files = LENGTHS.map(plain).map(|plain| (seal(&keys, &plain), plain));
    Base { keys, files: files.into() }
}

static BASES: LazyLock<[Base; 3]> = LazyLock::new(|| {
    [base(IdentityKind::X25519, false), base(IdentityKind::X25519, true), base(IdentityKind::PostQuantum, false)]
});

/// One change.
fn change(bytes: &mut Vec<u8>, tape: &mut Tape<'_>, others: &[(Vec<u8>, Vec<u8>)]) {
    let (what, len) = (tape.byte() % 8, bytes.len());
    let at = tape.below(len + 1);
    match what {
        0 if at < len => bytes[at] ^= 1 << (tape.byte() % 8),
        1 => bytes.truncate(at),
        2 => bytes.extend_from_slice(tape.run()),
        3 => drop(bytes.drain(at..(at + tape.below(70_000)).min(len))),
        4 => {
            let other = &others[tape.below(others.len())].0;
            let from = at.min(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        5 => {
            let run = tape.run();
            drop(bytes.splice(at..(at + run.len()).min(len), run.iter().copied()));
        }
        6 => {
            let twice = bytes[at..(at + tape.below(70_000)).min(len)].to_vec();
            drop(bytes.splice(at..at, twice));
        }
        _ => {}
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut tape = Tape::new(bytes);
    let base = &BASES[tape.below(BASES.len())];
    let (file, plain) = &base.files[tape.below(base.files.len())];
    let mut changed = file.clone();
    for _ in 0..tape.byte() % 4 {
        change(&mut changed, &mut tape, &base.files);
    }
    let (store, info) = Liar::new(Vec::new(), Vec::new(), changed.len() as u64, []).open(&base.keys);
    let whole = open_stream(&store, &info, &[&changed]);
    let whole_is_another = base.files.iter().any(|(file, _)| *file == changed) && changed != *file;
    let pieces = open_stream(&store, &info, &tape.cut(&changed));
    // Also the beginning of another file may come out. How much does before a failure depends on the pieces.
    for (plain, _) in [&whole, &pieces] {
        assert!(plain.iter().enumerate().all(|(at, byte)| *byte == content(at)));
    }
    if !whole_is_another {
        assert_eq!(whole.1.is_ok(), changed == *file, "{:?}", whole.1);
        assert!(whole.1.is_err() || whole.0 == *plain);
    }
    assert_eq!(pieces.1, whole.1);
    assert!(whole.1.is_err() || pieces.0 == whole.0);
});

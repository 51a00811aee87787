//! Ranges of a sealed file from a store that lies: what is read is true, or it is an error.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use replicate::seal::{Identities, IdentityKind, Keys, KeysBuilder, Recipients, generate_identity};
use replicate_fuzz::liar::{Liar, Lie, now, seal};
use replicate_fuzz::tape::Tape;

const LENGTHS: [usize; 6] = [0, 1, 65_536, 131_072, 150_000, 400_000];

struct Base {
    keys: Arc<Keys>,
    plain: Vec<Vec<u8>>,
    sealed: Vec<Vec<u8>>,
    /// Other files with other content, sealed to the same keys.
    other: Vec<Vec<u8>>,
}

static BASES: LazyLock<[Base; 2]> = LazyLock::new(|| {
    // With many recipients the header is longer than what is asked for first.
    [(IdentityKind::X25519, 1), (IdentityKind::PostQuantum, 4)].map(|(kind, recipients)| {
        let made = generate_identity(kind).expect("chance");
        let list = vec![made.recipient; recipients].join("\n");
        let recipients = Some(Recipients::parse(&list).expect("public keys"));
        let identities = Some(Identities::parse(&made.identity).expect("a private key"));
        let keys = KeysBuilder { recipients, identities, ..KeysBuilder::default() };
        let keys = Arc::new(keys.build().expect("they belong together"));
        let content = |len: usize, more: usize| (0..len).map(|i| ((i + more) % 251) as u8).collect::<Vec<u8>>();
        let plain: Vec<_> = LENGTHS.iter().map(|len| content(*len, 0)).collect();
        let sealed = plain.iter().map(|plain| seal(&keys, plain)).collect();
        let other = LENGTHS.iter().map(|len| seal(&keys, &content(*len, 100))).collect();
        Base { keys, plain, sealed, other }
    })
});

fn lie(tape: &mut Tape<'_>) -> Lie {
    match tape.byte() % 16 {
        0 => Lie::Short(tape.number()),
        1 => Lie::Long(tape.number()),
        2 => Lie::Flip(tape.number()),
        3 => Lie::Elsewhere(tape.number()),
        4 => Lie::Other,
        5 => Lie::Error,
        _ => Lie::None,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut tape = Tape::new(bytes);
    let base = &BASES[tape.below(BASES.len())];
    let chosen = tape.below(LENGTHS.len());
    let (object, plain) = (base.sealed[chosen].clone(), &base.plain[chosen]);
    let listed = match tape.byte() % 8 {
        0 => tape.number() as u64,
        1 => object.len() as u64 + tape.number() as u64,
        2 => u64::MAX - tape.number() as u64,
        _ => object.len() as u64,
    };
    let honest = tape.byte() % 4 == 0 && listed == object.len() as u64;
    let lies: Vec<_> = (0..tape.byte() % 12).map(|_| if honest { Lie::None } else { lie(&mut tape) }).collect();
    let other = base.other[tape.below(LENGTHS.len())].clone();
    // A whole file that only lies where another belongs is one: nothing in it tells its name without an authentication key.
    let swapped = lies.contains(&Lie::Other);
    let (store, info) = Liar::new(object, other, listed, lies).open(&base.keys);
    let open = match now(store.open(&info)) {
        Ok(open) => open,
        Err(error) => return assert!(!honest, "{error}"),
    };
    let truths: Vec<Vec<u8>> = match swapped {
        true => vec![plain.clone(), plain.iter().map(|byte| ((usize::from(*byte) + 100) % 251) as u8).collect()],
        false => vec![plain.clone()],
    };
    assert!(swapped || open.size() == plain.len() as u64);
    for _ in 0..1 + tape.byte() % 6 {
        let start = tape.number();
        let end = start + tape.number();
        match now(open.read(start as u64..end as u64)) {
            Ok(_) if swapped && open.size() != plain.len() as u64 => {}
            Ok(read) => {
                let of = |truth: &Vec<u8>| read == truth[start.min(truth.len())..end.min(truth.len())];
                assert!(truths.iter().any(of), "{start}..{end}");
            }
            Err(error) => assert!(!honest, "{error}"),
        }
    }
});

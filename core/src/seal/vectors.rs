//! The vectors, through the reader that takes bytes as they arrive. (Through the ranged one: `store`.)

use std::sync::Arc;

use super::crypto::sha256;
use super::testing::{bad, class, data, good, keys, keys_of, kit, vectors};
use super::{Identities, IdentityKind, Keys, Opener, Recipients, SealError, generate_identity, recipient_of};

/// What comes out, and how it ends.
fn open(keys: &Arc<Keys>, bytes: &[u8], piece: usize) -> (Vec<u8>, Result<(), SealError>) {
    let (mut opener, mut out) = (Opener::new(keys.clone(), None), Vec::new());
    let mut pieces = bytes.chunks(piece).peekable();
    if pieces.peek().is_none() {
        let ended = opener.feed(&[], true, &mut out);
        return (out, ended);
    }
    while let Some(part) = pieces.next() {
        if let Err(error) = opener.feed(part, pieces.peek().is_none(), &mut out) {
            return (out, Err(error));
        }
    }
    (out, Ok(()))
}

const PIECES: [usize; 6] = [17, 1000, 65_536, 65_552, 131_104, usize::MAX];

#[test]
fn every_good_file_opens_however_it_arrives() {
    for file in good() {
        for lists in &file.identities {
            let keys = keys_of(lists);
            for piece in PIECES {
                let (plain, ended) = open(&keys, &file.bytes, piece);
                assert_eq!(ended, Ok(()), "{} {lists:?} {piece}", file.name);
                assert!(plain == file.plain, "{} {lists:?} {piece}", file.name);
            }
        }
    }
}

#[test]
fn every_bad_file_is_refused_for_its_reason_after_what_was_good() {
    for file in bad() {
        let keys = keys_of(&file.identities);
        for piece in PIECES {
            let (plain, ended) = open(&keys, &file.bytes, piece);
            let found = (ended.err().map(class), plain.len());
            assert_eq!(found, (Some(file.class.as_str()), file.released), "{} {piece}", file.name);
        }
    }
}

#[test]
fn the_public_test_kit_passes() {
    let cases = kit();
    assert_eq!(cases.len(), 85);
    for case in cases {
        let keys = keys(&case.identity);
        for piece in [1000, usize::MAX] {
            let (plain, ended) = open(&keys, &case.bytes, piece);
            let found = match ended.map_err(class) {
                Ok(()) => "success",
                Err("NotAge" | "Header") => "header failure",
                Err("NoMatch") => "no match",
                Err("BadMac") => "HMAC failure",
                Err("Payload") => "payload failure",
                Err(other) => other,
            };
            assert_eq!(found, case.expect, "{} {piece}", case.name);
            if let Some(payload) = &case.payload {
                assert_eq!(sha256(&[&plain]).as_slice(), payload, "{} {piece}", case.name);
            }
        }
    }
}

#[test]
fn lists_of_keys_are_taken_or_refused_without_showing_them() {
    for entry in vectors()["key_strings"].as_array().expect("a list") {
        let text = entry["text"].as_str().expect("text");
        let why = entry["why"].as_str().expect("text");
        let result = match entry["kind"].as_str() {
            Some("recipients") => Recipients::parse(text).map(|_| ()),
            _ => Identities::parse(text).map(|_| ()),
        };
        // The mix that parses elsewhere and fails when used fails here at once.
        let valid = entry["valid"] == true && !why.contains("must fail");
        assert_eq!(result.is_ok(), valid, "{why}");
        if let Err(error) = result {
            let shown = format!("{error} {error:?} {:?}", error.hint());
            for word in text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() > 6) {
                assert!(!shown.contains(word), "{why}: {shown}");
            }
        }
    }
}

#[test]
fn keys_of_every_kind_are_made_and_their_public_half_is_found() {
    for kind in IdentityKind::ALL {
        let made = generate_identity(kind).expect("made");
        let texts = std::slice::from_ref(&made.recipient);
        assert_eq!(recipient_of(&made.identity).expect("found"), texts);
        assert_eq!(Recipients::parse(&made.recipient).expect("parsed").to_texts(), texts);
        assert!(!format!("{made:?}").contains("SECRET"));
        let identities = Identities::parse(&made.identity).expect("parsed");
        assert_eq!(format!("{identities:?}"), "Identities(1)");
        assert_eq!(kind.name().parse::<IdentityKind>().expect("a kind"), kind);
    }
    for list in ["x25519_a", "pq_a", "xw_a"] {
        let text = String::from_utf8(data(&format!("keys/{list}.txt"))).expect("text");
        let told = text.lines().find_map(|line| line.strip_prefix("# public key: ")).expect("told");
        assert_eq!(recipient_of(&text).expect("found"), [told]);
    }
}

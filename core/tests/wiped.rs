//! Memory that held private keys is wiped before it is given back: every block that this process frees is looked
//! through.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "tests")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bech32::{FromBase32, u5};
use common::sealing::{AUTH, make, restore_with, sealed_to};
use common::{Lab, SOON};
use replicate::seal::{GeneratedIdentity, Identities, IdentityKind, generate_identity, recipient_of};
use replicate::{ConfigKey, Handle, Options};

/// The system's allocator, which looks at what it is given back.
struct Watching;

static WATCHED: AtomicBool = AtomicBool::new(false);
static FOUND: AtomicUsize = AtomicUsize::new(0);
/// The secret that was found last, and the length of the block.
static WHICH: AtomicUsize = AtomicUsize::new(0);
static SIZE: AtomicUsize = AtomicUsize::new(0);
/// Stretches of secrets.
static SECRETS: RwLock<Vec<Vec<u8>>> = RwLock::new(Vec::new());

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Zeroed, so that all of a block may be read when it is given back.
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if WATCHED.load(Ordering::Relaxed) {
            // SAFETY: the block is the caller's until now, of this length, and was made of zeros.
            look(unsafe { std::slice::from_raw_parts(block, layout.size()) });
        }
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
    // A block that is made longer goes through both: the default of the trait.
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

fn look(block: &[u8]) {
    // No block is skipped. Waiting ends: whoever writes the list has turned watching off before, so never comes here,
    // and waits for readers alone; and these allocate and free nothing.
    let secrets = SECRETS.read().unwrap_or_else(PoisonError::into_inner);
    let holds = |secret: &[u8]| block.windows(secret.len()).any(|window| window == secret);
    if let Some(which) = secrets.iter().position(|secret| holds(secret)) {
        WHICH.store(which, Ordering::Relaxed);
        SIZE.store(block.len(), Ordering::Relaxed);
        FOUND.fetch_add(1, Ordering::Relaxed);
    }
}

/// Does it and tells how many blocks with some of these secrets were given back meanwhile.
fn freed_with(secrets: Vec<Vec<u8>>, work: impl FnOnce()) -> usize {
    *SECRETS.write().unwrap() = secrets;
    FOUND.store(0, Ordering::Relaxed);
    WATCHED.store(true, Ordering::Relaxed);
    work();
    WATCHED.store(false, Ordering::Relaxed);
    FOUND.load(Ordering::Relaxed)
}

/// Every form in which a private key may lie about: its text in either case, its digits, its bytes; ten of each.
fn forms(identity: &str) -> Vec<Vec<u8>> {
    let (_, digits, _) = bech32::decode(identity).unwrap();
    let bytes = Vec::<u8>::from_base32(&digits).unwrap();
    let digits: Vec<u8> = digits.into_iter().map(u5::to_u8).collect();
    let letters = identity.rsplit('1').next().unwrap();
    let texts = [letters.as_bytes().to_vec(), letters.to_ascii_lowercase().into_bytes(), digits, bytes];
    texts.into_iter().flat_map(|form| [form[..10].to_vec(), form[20..30].to_vec()]).collect()
}

/// The same of an SSH key: a line of its text that the secret is in, and the secret.
fn ssh_forms(identity: &str) -> Vec<Vec<u8>> {
    let lines: Vec<_> = identity.lines().collect();
    let letters = lines[4].as_bytes();
    let bytes = BASE64_STANDARD.decode(lines[1..lines.len() - 1].concat()).unwrap();
    // Behind the second of the public key's three places, and a length.
    let public = &bytes[62..94];
    let second = bytes[94..].windows(32).position(|window| window == public).unwrap() + 94;
    let seed = &bytes[second + 36..second + 68];
    [&letters[10..20], &letters[30..40], &seed[..10], &seed[20..30]].map(<[u8]>::to_vec).to_vec()
}

/// One test, because all of the process is watched.
#[test]
fn no_memory_is_given_back_with_a_private_key_in_it() {
    let made = IdentityKind::ALL.map(|kind| (Some(kind), make(kind), forms as fn(&str) -> _));
    let (identity, recipient) =
        (include_str!("data/age/keys/ssh_ed25519"), include_str!("data/age/keys/ssh_ed25519.pub"));
    let ssh = GeneratedIdentity { identity: identity.trim_end().to_owned().into(), recipient: recipient.to_owned() };
    for (kind, keys, forms) in made.into_iter().chain([(None, ssh, ssh_forms as fn(&str) -> _)]) {
        let lab = Lab::new();
        let app = lab.create(4096);
        app.execute("INSERT INTO t VALUES (1, zeroblob(200000), 'a')", []).unwrap();
        let file = lab.folder.path().join("identity.txt");
        // Long enough to be read in several pieces, with the key in the middle.
        let comment = "# a comment\n".repeat(700);
        std::fs::write(&file, format!("{comment}{}\n{comment}", *keys.identity)).unwrap();
        let (text, auth) = (keys.identity.to_string(), AUTH.to_owned());

        // What is not wiped is found.
        let copy = text.clone();
        assert!(freed_with(forms(&text), || drop(copy)) > 0, "{kind:?}");

        let (given, given_auth) = (text.clone(), auth.clone());
        let mut secrets = forms(&text);
        secrets.extend([AUTH.as_bytes()[4..20].to_vec(), b"0123456789abcdef0123".to_vec()]);
        let freed = freed_with(secrets, || {
            let identities = Identities::parse(&text).unwrap();
            assert_eq!(identities.and(Identities::parse(&text).unwrap()).count(), 2);
            assert!(recipient_of(&text).is_ok());
            // Mistyped in the last place: all of it was read.
            assert!(Identities::parse(&text[..text.len() - 1]).is_err());
            let options =
                sealed_to(&lab, &keys).with(ConfigKey::AgeIdentity, given).with(ConfigKey::AuthKey, given_auth);
            let handle = Handle::start(&lab.database, options.check().unwrap()).unwrap();
            handle.sync(SOON).unwrap();
            handle.stop(SOON).unwrap();
            drop(handle);
            let options = options.with(ConfigKey::AgeIdentityFile, file.to_str().unwrap());
            restore_with(&lab, options.clone()).unwrap();
            replicate::rewrap(&options.check().unwrap(), &mut |_| ()).unwrap();
            drop(options);
            drop(Options::new());
        });
        assert_eq!(freed, 0, "{kind:?}: secret {WHICH:?} in a block of {SIZE:?}");

        // A new key: its text begins so.
        let Some(kind) = kind else { continue };
        let start = keys.identity[..=keys.identity.rfind('1').unwrap()].as_bytes().to_vec();
        let lower = start.to_ascii_lowercase();
        assert_eq!(freed_with(vec![start, lower], || drop(generate_identity(kind).unwrap())), 0, "{kind:?}");
    }
}

//! Any text as a list of public keys and of private keys: refused without being repeated, or keys whose text means the
//! same; and as the text of an authentication key.

#![no_main]

use libfuzzer_sys::fuzz_target;
use replicate::seal::{Identities, Recipients, recipient_of};
use replicate::{ConfigKey, Error, ErrorKind, Options};

/// Not even a part of what was given is told.
fn refused(error: &Error, text: &str) {
    assert_eq!(error.kind(), ErrorKind::Config);
    let told = format!("{error:?} {error}");
    for word in text.split_whitespace().filter(|word| word.len() >= 24 && word.is_ascii()) {
        assert!(!told.contains(word), "{told}");
    }
}

fuzz_target!(|text: &str| {
    match Recipients::parse(text) {
        Ok(keys) => {
            let again = Recipients::parse(&keys.to_texts().join("\n")).expect("keys that were shown");
            assert_eq!((again.to_texts(), again.fingerprints()), (keys.to_texts(), keys.fingerprints()));
            assert_eq!(again.is_post_quantum(), keys.is_post_quantum());
        }
        Err(error) => refused(&error, text),
    }
    match Identities::parse(text) {
        Ok(keys) => {
            let public = recipient_of(text).expect("keys that were read");
            assert_eq!(public.len(), keys.count());
            assert!(public.iter().all(|key| Recipients::parse(key).is_ok()), "{public:?}");
            assert!(!format!("{keys:?}").contains("SECRET"));
        }
        Err(error) => refused(&error, text),
    }
    let mut options = Options::new();
    options.set_key(ConfigKey::AuthKey, text);
    if let Err(error) = options.check() {
        refused(&error, text);
    }
});

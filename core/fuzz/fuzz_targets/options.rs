//! Options, one `name=value` a line: refused with the option's name, or a configuration; secrets never show. Also the
//! text forms of durations, sizes and times on their own.

#![no_main]

use libfuzzer_sys::fuzz_target;
use replicate::config::{parse_duration, parse_size};
use replicate::{ConfigKey, ErrorKind, Options};

#[path = "../../cli/src/time.rs"]
#[allow(dead_code, unreachable_pub)]
mod time;

fuzz_target!(|text: &str| {
    let mut options = Options::new();
    for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
        // These would be read: an input must not depend on files of this machine.
        let files = [ConfigKey::AgeRecipientsFile, ConfigKey::AgeIdentityFile];
        if ConfigKey::from_name(name).is_some_and(|key| files.contains(&key)) {
            continue;
        }
        match options.set(name, value) {
            Ok(()) => assert!(ConfigKey::from_name(name).is_some()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Config),
        }
    }
    let secret = "a secret that no input has";
    options.set_key(ConfigKey::SecretKey, secret);
    match options.check() {
        Ok(config) => assert!(!format!("{config:?} {options:?}").contains(secret)),
        Err(error) => assert!(error.kind() == ErrorKind::Config && !format!("{error:?} {error}").contains(secret)),
    }
    let _ = (parse_duration(text), parse_size(text));
    if let Ok(moment) = time::parse(text) {
        let shown = time::format(moment);
        // An offset may move it out of the years of four digits.
        if let Ok(again) = time::parse(&shown) {
            assert_eq!(again, moment, "{shown}");
        } else {
            assert!(shown.starts_with('-') || shown.starts_with("10000-"), "{shown}");
        }
    }
});

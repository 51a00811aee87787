//! Any words as a command line, one a line: refused, or understood; and no flag is spelled anew twice.

#![no_main]

use std::ffi::OsString;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "../../cli/src/args.rs"]
#[allow(dead_code, unreachable_pub)]
mod args;
#[path = "../../cli/src/exit.rs"]
#[allow(dead_code, unreachable_pub)]
mod exit;
#[path = "../../cli/src/output.rs"]
#[allow(dead_code, unreachable_pub)]
mod output;
#[path = "../../cli/src/patient.rs"]
#[allow(dead_code, unreachable_pub)]
mod patient;
#[path = "../../cli/src/signal.rs"]
#[allow(dead_code, unreachable_pub)]
mod signal;
#[path = "../../cli/src/spelling.rs"]
#[allow(dead_code, unreachable_pub)]
mod spelling;
#[path = "../../cli/src/time.rs"]
#[allow(dead_code, unreachable_pub)]
mod time;

// Made once: it lets go of no memory.
static COMMAND: LazyLock<clap::Command> = LazyLock::new(args::command);

fuzz_target!(|text: &str| {
    let typed: Vec<OsString> = std::iter::once("replicate").chain(text.lines()).map(OsString::from).collect();
    let _ = spelling::wants_json(&typed);
    let words = spelling::normalise(&COMMAND, typed);
    assert_eq!(spelling::normalise(&COMMAND, words.clone()), words);
    match COMMAND.clone().try_get_matches_from(words) {
        Ok(matches) => assert!(matches.subcommand_name().is_some()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

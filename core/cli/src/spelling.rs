//! The spelling of flags: Litestream's and Go's (`-txid X`, `-json=false`) become GNU's (`--txid X`) before
//! the command line is parsed. Values, and everything after `--`, stay as they were typed.

use std::ffi::{OsStr, OsString};

use clap::Command;

/// Whether errors are to be written as JSON, whatever else is wrong with the command line.
pub(crate) fn wants_json(typed: &[OsString]) -> bool {
    let flags = typed.iter().skip(1).take_while(|arg| *arg != "--");
    flags.filter_map(|arg| arg.to_str()).any(|arg| {
        let name = arg.trim_start_matches('-');
        arg != name && (name == "json" || name.strip_prefix("json=").is_some_and(|v| go_bool(v) == Some(true)))
    })
}

/// The same command line with long flags spelled with two dashes and switches without values.
pub(crate) fn normalise(command: &Command, typed: Vec<OsString>) -> Vec<OsString> {
    let mut words = typed.into_iter();
    let mut result: Vec<OsString> = words.next().into_iter().collect();
    // The flags that count are those of the subcommand, once it is known.
    let mut current = command;
    while let Some(word) = words.next() {
        if word == "--" {
            result.push(word);
            result.extend(words);
            break;
        }
        if let Some(sub) = word.to_str().and_then(|name| current.find_subcommand(name)) {
            current = sub;
            result.push(word);
            continue;
        }
        match Flag::read(current, &word) {
            Flag::Other => result.push(word),
            Flag::Dropped => {}
            Flag::Switch(name) => result.push(name.into()),
            Flag::Valued { spelled, complete } => {
                result.push(spelled);
                if !complete {
                    result.extend(words.next());
                }
            }
        }
    }
    result
}

enum Flag {
    /// Not a long flag of this command: a value, a short flag, or something to complain about.
    Other,
    /// A switch that was turned off explicitly, `-json=false`.
    Dropped,
    /// A switch that is on.
    Switch(String),
    /// A flag with a value: `complete` if the value is in the same word.
    Valued { spelled: OsString, complete: bool },
}

impl Flag {
    fn read(command: &Command, word: &OsStr) -> Self {
        let Some(dashed) = word.to_str().filter(|w| w.starts_with('-')) else { return Self::Other };
        let (name, value) = match dashed.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (dashed, None),
        };
        let is_short = name.len() == 2;
        let name = name.strip_prefix("--").unwrap_or(&name[1..]);
        let found = command.get_arguments().find(|arg| {
            if is_short {
                arg.get_short().is_some_and(|short| name.starts_with(short))
            } else {
                arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|all| all.contains(&name))
            }
        });
        let Some(arg) = found else { return Self::Other };
        let prefix = if is_short { "-" } else { "--" };
        if arg.get_action().takes_values() {
            let spelled = value.map_or_else(|| format!("{prefix}{name}"), |v| format!("{prefix}{name}={v}"));
            return Self::Valued { spelled: spelled.into(), complete: value.is_some() };
        }
        match value.map(go_bool) {
            None | Some(Some(true)) => Self::Switch(format!("{prefix}{name}")),
            Some(Some(false)) => Self::Dropped,
            Some(None) => Self::Other,
        }
    }
}

/// A truth value as Go's flags take it.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(line: &str) -> String {
        let typed = line.split(' ').map(OsString::from).collect();
        let words = normalise(&crate::args::command(), typed);
        words.iter().map(|w| w.to_str().expect("text")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn single_dash_long_flags_become_double_dash_ones() {
        for (typed, expected) in [
            ("replicate restore -txid 1 -o x url", "replicate restore --txid 1 -o x url"),
            ("replicate restore -txid=1 url", "replicate restore --txid=1 url"),
            ("replicate restore --txid=1 url", "replicate restore --txid=1 url"),
            ("replicate restore -force -if-db-not-exists url", "replicate restore --force --if-db-not-exists url"),
            ("replicate ltx -level all url", "replicate ltx --level all url"),
            ("replicate replicate -sync-interval 5s db url", "replicate replicate --sync-interval 5s db url"),
        ] {
            assert_eq!(normalised(typed), expected, "{typed}");
        }
    }

    #[test]
    fn switches_take_truth_values_as_in_go() {
        assert_eq!(normalised("replicate ltx -json=true url"), "replicate ltx --json url");
        assert_eq!(normalised("replicate ltx -json=false url"), "replicate ltx url");
        assert_eq!(normalised("replicate ltx -json=maybe url"), "replicate ltx -json=maybe url");
    }

    #[test]
    fn values_and_what_follows_two_dashes_stay() {
        for line in [
            "replicate restore -o -txid url",
            "replicate restore --txid -timestamp url",
            "replicate restore -- -txid",
            "replicate ltx -- -json=false",
            "replicate restore -oput url",
            "replicate restore -1 url",
            "replicate restore - url",
        ] {
            assert_eq!(normalised(line), line, "{line}");
        }
    }

    #[test]
    fn json_is_seen_in_every_spelling_but_not_as_an_argument() {
        let wants = |line: &str| wants_json(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert!(wants("replicate -json nonsense") && wants("replicate x --json") && wants("replicate x -json=1"));
        assert!(!wants("replicate x json") && !wants("replicate x -json=false") && !wants("replicate x -- --json"));
    }
}

//! The tasks of this repository: `cargo xtask <command>`.
//!
//! Continuous integration and people run the same commands. Each command is a module; [`COMMANDS`] is the
//! one list of them. No part of the product depends on this crate.

mod check;
mod demo;
mod fuzz;
mod launch;
mod layers;
mod links;
mod options;
mod readme;
mod sh;
mod test;
mod tools;
mod wheel;

use std::process::ExitCode;

/// What a command answers: nothing, or one readable error.
type Outcome<T = ()> = Result<T, String>;

struct Command {
    name: &'static str,
    usage: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Outcome,
}

const COMMANDS: &[Command] = &[
    Command {
        name: "demo",
        usage: "",
        about: "replicate a database to a local S3 server and bring it back",
        run: demo::run,
    },
    Command {
        name: "test",
        usage: "[part or filter …]",
        about: "every test; with words only these parts, or Rust tests of these names",
        run: test::run,
    },
    Command {
        name: "check",
        usage: "",
        about: "format, lints, layers, option table, documents, licences",
        run: check::run,
    },
    Command {
        name: "msrv",
        usage: "",
        about: "the workspace under the oldest Rust that Cargo.toml promises",
        run: check::msrv,
    },
    Command {
        name: "docs",
        usage: "",
        about: "rewrite the option table of the README from the source",
        run: options::rewrite,
    },
    Command {
        name: "bench",
        usage: "[…]",
        about: "figures beside Litestream, in one run",
        run: |a| launch::run("bench", a),
    },
    Command {
        name: "interop",
        usage: "[…]",
        about: "Litestream restores what we write, we restore what it writes",
        run: |a| launch::run("interop", a),
    },
    Command {
        name: "sim",
        usage: "[--seed N] [--for 10m]",
        about: "the engine under simulated time, disk and network",
        run: |a| launch::run("sim", a),
    },
    Command {
        name: "fuzz",
        usage: "[target …] [--for 30s]",
        about: "everything that parses, with bytes of all kinds",
        run: fuzz::run,
    },
    Command {
        name: "torture",
        usage: "[case …] [--quick]",
        about: "kills, outages and full disks against real processes",
        run: |a| launch::run("torture", a),
    },
    Command {
        name: "stress",
        usage: "[--for 10m] [--kills 50]",
        about: "host and engine in one process under load, first the laboratory, then the wheel; then kills",
        run: test::stress,
    },
    Command {
        name: "locks",
        usage: "",
        about: "two SQLite copies in one process do each other no harm",
        run: |a| sh::no_arguments(a).and_then(|()| test::locks()),
    },
    Command {
        name: "dist",
        usage: "",
        about: "the release wheel under target/dist, for old systems too, and tested",
        run: wheel::dist,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Outcome {
    match arguments.first().map(String::as_str) {
        None | Some("help" | "--help" | "-h") => {
            print!("{}", help());
            Ok(())
        }
        Some(name) => match COMMANDS.iter().find(|c| c.name == name) {
            Some(command) => (command.run)(&arguments[1..]),
            None => Err(format!("unknown command {name:?}; `cargo xtask help` lists them")),
        },
    }
}

fn help() -> String {
    let mut text = String::from("cargo xtask <command>\n\n");
    for c in COMMANDS {
        let call = format!("{} {}", c.name, c.usage);
        text += &format!("  {:<28} {}\n", call.trim_end(), c.about);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_command_is_an_error_that_names_it() {
        let error = dispatch(&["frobnicate".to_owned()]).expect_err("unknown");
        assert!(error.contains("frobnicate"), "{error}");
    }

    #[test]
    fn help_has_one_line_for_each_command() {
        let lines = help().lines().count();
        assert_eq!(lines, COMMANDS.len() + 2);
    }

    #[test]
    fn a_command_without_arguments_refuses_them() {
        for name in ["check", "demo", "dist", "docs", "locks", "msrv"] {
            let error = dispatch(&[name.to_owned(), "--frobnicate".to_owned()]).expect_err(name);
            assert!(error.contains("--frobnicate"), "{error}");
        }
    }
}

//! The `replicate` command: the library's engine in a process of its own.
//!
//! It uses the library's public API only. `args` turns what was typed into a request, `run` carries it out,
//! `output` is the only code that writes to the terminal, `patient` keeps who does not read from holding up who writes, `log` hands it the library's warnings, `exit` knows what a failure looks like and which
//! code it ends with. What is promised of all this is in the library's documents, `COMMAND.md`.

mod args;
mod exit;
mod log;
mod output;
mod patient;
mod run;
mod signal;
mod spelling;
mod time;

use std::process::ExitCode;

fn main() -> ExitCode {
    // There is no other program in this process, hence no other SQLite whose locks could be harmed.
    replicate::embed::sole_sqlite();
    let typed: Vec<_> = std::env::args_os().collect();
    // Before parsing, because a wrong command line must be reported in the wanted form, too.
    let json = spelling::wants_json(&typed);
    let outcome = log::install(json).map_err(Into::into).and_then(|()| args::parse(typed)).and_then(run::run);
    log::finish();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(json);
            ExitCode::from(failure.exit_code())
        }
    }
}

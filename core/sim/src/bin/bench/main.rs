//! Our command beside Litestream: the same databases, the same stores, one run.
//!
//! Run by `cargo xtask bench`, which builds for release. Contenders take turns (one round of each, then the
//! next round), so that what the machine does meanwhile hits all of them; figures are medians over the
//! rounds. Prints one markdown table; what is going on is told on the error stream.
//!
//! Flags: `--quick` and `--full` for the sizes, `--only latency|load|restore`.

mod latency;
mod load;
mod restoring;
mod table;
mod watch;
mod writer;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use replicate_sim::peers::{Gateway, Outcome, Pace, Place, Side, Tools};

use crate::table::Table;

/// How much is measured.
#[derive(Clone, Copy)]
struct Sizes {
    name: &'static str,
    rounds: usize,
    /// Commits in a round of the latency measurement.
    commits: usize,
    /// How long the writer writes.
    writing: Duration,
    /// Bytes of the database that is written to.
    load_bytes: u64,
    /// Bytes of the database that is restored.
    restore_bytes: u64,
    /// Files of level 0 after the first image.
    restore_files: usize,
}

const MIB: u64 = 1 << 20;

const QUICK: Sizes = Sizes {
    name: "quick",
    rounds: 1,
    commits: 5,
    writing: Duration::from_secs(4),
    load_bytes: 16 * MIB,
    restore_bytes: 32 * MIB,
    restore_files: 50,
};
const NORMAL: Sizes = Sizes {
    name: "normal",
    rounds: 3,
    commits: 8,
    writing: Duration::from_secs(8),
    load_bytes: 64 * MIB,
    restore_bytes: 256 * MIB,
    restore_files: 200,
};
const FULL: Sizes = Sizes { name: "full", rounds: 5, commits: 20, writing: Duration::from_secs(20), ..NORMAL };

/// What is compared.
struct Contender {
    side: Side,
    pace: Pace,
}

/// The bench and everything it needs.
struct Bench<'a> {
    sizes: Sizes,
    contenders: Vec<Contender>,
    gateway: &'a Gateway,
    scratch: &'a Path,
}

/// What can be measured alone.
type Part = (&'static str, fn(&Bench<'_>, &mut Table) -> Outcome);

/// The stores, by name.
const STORES: [&str; 2] = ["file", "S3"];

impl Bench<'_> {
    /// A place that nothing is in yet.
    fn place(&self, store: &str, name: &str) -> Place {
        match store {
            "S3" => self.gateway.place(name),
            _ => Place::file(self.scratch.join("replicas").join(name)),
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    // The bench starts itself as the application that writes.
    let done = match arguments.split_first() {
        Some((first, rest)) if first == "writer" => writer::main(rest),
        _ => run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Outcome {
    let (mut sizes, mut only) = (NORMAL, None);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => sizes = QUICK,
            "--full" => sizes = FULL,
            "--only" => only = Some(words.next().ok_or("--only needs a value")?.as_str()),
            _ => return Err(format!("unknown flag {word}")),
        }
    }
    let parts: [Part; 3] = [("latency", latency::measure), ("load", load::measure), ("restore", restoring::measure)];
    if only.is_some_and(|only| parts.iter().all(|(name, _)| *name != only)) {
        return Err("--only latency, load or restore".to_owned());
    }

    let tools = Tools::from_env()?;
    let folder = tempfile::tempdir().map_err(|e| format!("a scratch folder: {e}"))?;
    let gateway = Gateway::start(&tools.versitygw, folder.path())?;
    let litestream = Side::litestream("new", &tools.litestream_new)?;
    let contenders = vec![
        Contender { side: Side::ours(&tools.ours), pace: Pace::Default },
        Contender { side: litestream.clone(), pace: Pace::Default },
        Contender { side: litestream, pace: Pace::Lowest },
    ];
    let bench = Bench { sizes, contenders, gateway: &gateway, scratch: folder.path() };
    let mut table = Table::default();
    for (name, measure) in parts.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        measure(&bench, &mut table).map_err(|e| format!("{name}: {e}"))?;
    }
    println!("{}", table.markdown(&bench.contenders[1].side.name, sizes.name));
    Ok(())
}

/// Tells what is going on.
fn tell(what: &str) {
    eprintln!("{what} …");
}

/// Removes what a round has left; the scratch folder goes with the process anyway.
fn tidy(folder: &Path) {
    let _removed = std::fs::remove_dir_all(folder);
}

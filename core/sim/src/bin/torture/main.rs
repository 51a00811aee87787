//! The engine against real faults: processes that are killed, disks that are full or broken, servers that fail, and
//! applications that behave badly.
//!
//! Run by `cargo xtask torture [case …]`; without a case all of them run. Each case prints one line with what it did
//! and its verdict. A result is proved by a hash chain of rows (`chain`): what is restored is compared by content, never
//! by an exit status. A case that fails keeps its folder as evidence, with the seed that repeats its choices (not its
//! timing).
//!
//! Flags: `--rounds N` (of the case `kill`), `--for T` (the case is repeated for so long: `90s`, `10m`), `--seed N`,
//! `--quick` (a short selection), `--full` (the largest sizes), `--mutant NAME` (every engine has this deliberate defect,
//! so the case must fail).

mod actor;
mod chain;
mod child;
mod disk;
mod ground;
mod kill;
mod load;
mod proxy;
mod server;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use replicate_sim::peers::Outcome;
use replicate_sim::sim::Rng;

/// How much is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Size {
    Quick,
    Normal,
    Full,
}

/// What was asked for.
#[derive(Debug)]
struct Wanted {
    cases: Vec<&'static Case>,
    seed: u64,
    rounds: Option<u64>,
    time: Option<Duration>,
    size: Size,
}

/// What a case works with.
struct Torture {
    folder: PathBuf,
    rng: Rng,
    rounds: Option<u64>,
    time: Option<Duration>,
    size: Size,
}

#[derive(Debug)]
struct Case {
    name: &'static str,
    about: &'static str,
    /// What it did.
    run: fn(&mut Torture) -> Outcome<String>,
}

const CASES: &[Case] = &[
    Case {
        name: "kill",
        about: "SIGKILL of host and engine, together and apart, at random and at named points",
        run: kill::run,
    },
    Case { name: "disk", about: "full disks, and calls that fail, under the engine alone", run: disk::run },
    Case { name: "server", about: "an S3 server that dies, throttles, denies, cuts, loses and lies", run: server::run },
    Case {
        name: "snapshot-race",
        about: "a slow first snapshot while the application checkpoints",
        run: load::snapshot_race,
    },
    Case {
        name: "migration",
        about: "one transaction that rewrites everything, and a writer at once",
        run: load::migration,
    },
    Case { name: "long-reader", about: "a reader that does not end, and a WAL that grows", run: load::long_reader },
    Case { name: "truncate-loop", about: "the application truncates the WAL all the time", run: load::truncate_loop },
];

impl Torture {
    /// A new empty folder.
    fn place(&self, name: &str) -> Outcome<PathBuf> {
        let path = self.folder.join(name);
        std::fs::create_dir_all(&path).map_err(|e| format!("create {}: {e}", path.display()))?;
        Ok(path)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "actor") {
        return ended(actor::main());
    }
    ended(parse(&arguments).and_then(|wanted| run(&wanted)))
}

fn ended(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Outcome<Wanted> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = u64::try_from(since.as_millis()).unwrap_or(0) % 1_000_000_000;
    let mut wanted = Wanted { cases: Vec::new(), seed, rounds: None, time: None, size: Size::Normal };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--rounds" => wanted.rounds = Some(number(value()?)?),
            "--seed" => wanted.seed = number(value()?)?,
            "--for" => wanted.time = Some(replicate::config::parse_duration(value()?)?),
            "--mutant" => drop(child::MUTANT.set(value()?.clone())),
            "--quick" => wanted.size = Size::Quick,
            "--full" => wanted.size = Size::Full,
            name => {
                let case = CASES.iter().find(|case| case.name == name);
                let known = || CASES.iter().map(|c| format!("  {:<14} {}\n", c.name, c.about)).collect::<String>();
                wanted.cases.push(case.ok_or_else(|| format!("no case or flag {name:?}; the cases:\n{}", known()))?);
            }
        }
    }
    if wanted.cases.is_empty() {
        wanted.cases = CASES.iter().collect();
    }
    Ok(wanted)
}

fn number(text: &str) -> Outcome<u64> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

fn run(wanted: &Wanted) -> Outcome {
    replicate::embed::sole_sqlite();
    println!("seed {}", wanted.seed);
    let failed = wanted.cases.iter().filter(|case| !run_case(wanted, case)).count();
    if failed == 0 { Ok(()) } else { Err(format!("{failed} of {} cases failed", wanted.cases.len())) }
}

/// Runs one case, once or for as long as was asked, and tells how it went.
fn run_case(wanted: &Wanted, case: &Case) -> bool {
    let begun = Instant::now();
    let mut seed = wanted.seed;
    loop {
        let left = wanted.time.map(|time| time.saturating_sub(begun.elapsed()));
        let once = Instant::now();
        let good = tell(case, seed, once_in_a_folder(wanted, case, seed, left), once);
        seed += 1;
        if !good || wanted.time.is_none_or(|time| begun.elapsed() >= time) {
            return good;
        }
    }
}

fn tell(case: &Case, seed: u64, outcome: Outcome<String>, begun: Instant) -> bool {
    let seconds = begun.elapsed().as_secs_f64();
    match outcome {
        Ok(did) => {
            println!("{}: ok: {did} ({seconds:.1} s)", case.name);
            true
        }
        Err(why) => {
            println!("{}: FAILED: {why} (seed {seed}, {seconds:.1} s)", case.name);
            false
        }
    }
}

fn once_in_a_folder(wanted: &Wanted, case: &Case, seed: u64, left: Option<Duration>) -> Outcome<String> {
    let folder = tempfile::Builder::new().prefix(&format!("torture-{}-", case.name)).tempdir();
    let folder = folder.map_err(|e| format!("a folder: {e}"))?;
    // The child's SQLite is given the path that the kernel has for it.
    let path = folder.path().canonicalize().map_err(|e| format!("{}: {e}", folder.path().display()))?;
    let mut torture =
        Torture { folder: path, rng: Rng::new(seed), rounds: wanted.rounds, time: left, size: wanted.size };
    (case.run)(&mut torture).map_err(|why| format!("{why}; evidence: {}", folder.keep().display()))
}

/// Our command, which the launcher builds beside this program. A test of this package alone does not; it goes without.
fn command() -> Outcome<Option<PathBuf>> {
    if let Some(folder) = std::env::var_os("REPLICATE_BIN") {
        let command = Path::new(&folder).join("replicate");
        return if command.exists() { Ok(Some(command)) } else { Err(format!("there is no {}", command.display())) };
    }
    let here = std::env::current_exe().ok().and_then(|program| program.parent().map(Path::to_owned));
    Ok(here.map(|folder| folder.join("replicate")).filter(|command| command.exists()))
}

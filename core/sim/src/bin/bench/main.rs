//! Our command beside Litestream: the same databases, the same stores, one run.
//!
//! Run by `cargo xtask bench`, which builds for release. Contenders take turns (one round of each, then the
//! next round), so that what the machine does meanwhile hits all of them; figures are medians over the
//! rounds. Prints one markdown table; what is going on is told on the error stream.
//!
//! | flag | what |
//! |---|---|
//! | `--quick` | small sizes, one round: whether everything runs, not figures to quote |
//! | `--only WORD` | the cases whose name holds this (may be given several times); `--list` tells the names |
//! | `--rounds N` | so many rounds instead of three |
//! | `--write` | puts the table into `core/docs/PERFORMANCE.md` |

mod control;
mod document;
mod goal;
mod idle;
mod latency;
mod load;
mod merging;
mod proxy;
mod restoring;
mod sealing;
mod sizes;
mod snapshot;
mod table;
mod watch;
mod writer;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use replicate_sim::peers::{Gateway, Outcome, Pace, Place, Side, Tools};

use crate::proxy::Proxy;
use crate::sizes::{NORMAL, QUICK, Sizes};
use crate::table::Table;

/// What the longer line to the store adds to every request.
const FAR: Duration = Duration::from_millis(20);

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
    far: &'a Proxy,
    scratch: &'a Path,
}

/// A kind of store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Store {
    File,
    S3,
    /// S3 over a longer line.
    Far,
}

const STORES: [Store; 3] = [Store::File, Store::S3, Store::Far];

impl Store {
    fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::S3 => "S3",
            Self::Far => "S3 + 20 ms",
        }
    }
}

type Run = dyn Fn(&Bench<'_>, &mut Table) -> Outcome;

/// Something that can be measured alone.
struct Case {
    name: String,
    run: Box<Run>,
}

impl Case {
    fn new(name: impl Into<String>, run: impl Fn(&Bench<'_>, &mut Table) -> Outcome + 'static) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }
}

impl Bench<'_> {
    /// A place that nothing is in yet.
    fn place(&self, store: Store, name: &str) -> Place {
        match store {
            Store::File => Place::file(self.scratch.join("replicas").join(name)),
            Store::S3 => self.gateway.place(name),
            Store::Far => self.gateway.place(name).through(self.far.endpoint()),
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    // The bench starts itself as the application that writes, what goes on beside it, and as a host of many databases.
    let done = match arguments.split_first() {
        Some((first, rest)) if first == "writer" => writer::main(rest),
        Some((first, rest)) if first == "control" => control::main(rest),
        Some((first, rest)) if first == "host" => idle::host(rest),
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
    let (mut sizes, mut only, mut write, mut rounds) = (NORMAL, Vec::new(), false, None);
    let mut cases = latency::cases();
    cases.extend(load::cases().into_iter().chain(snapshot::cases()).chain(restoring::cases()));
    cases.extend(merging::cases().into_iter().chain(idle::cases()).chain(sealing::cases()).chain(control::cases()));
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--quick" => sizes = QUICK,
            "--only" => only.push(value()?.to_lowercase()),
            "--rounds" => rounds = Some(value()?.parse().map_err(|_| "--rounds needs a number")?),
            "--write" => write = true,
            "--list" => {
                cases.iter().for_each(|case| println!("{}", case.name));
                return Ok(());
            }
            _ => return Err(format!("unknown flag {word}")),
        }
    }
    sizes.rounds = rounds.unwrap_or(sizes.rounds).max(1);
    let whole = only.is_empty();
    cases.retain(|case| whole || only.iter().any(|word| case.name.to_lowercase().contains(word)));
    if cases.is_empty() {
        return Err("--only names no case; --list tells them".to_owned());
    }
    if write && !whole {
        return Err("--write needs the whole run: the document has one table of one run".to_owned());
    }

    let tools = Tools::from_env()?;
    let folder = tempfile::tempdir().map_err(|e| format!("a scratch folder: {e}"))?;
    let gateway = Gateway::start(&tools.versitygw, folder.path())?;
    let far = Proxy::start(gateway.address(), FAR)?;
    let litestream = Side::litestream("new", &tools.litestream_new)?;
    let contenders = vec![
        Contender { side: Side::ours(&tools.ours), pace: Pace::Default },
        Contender { side: litestream.clone(), pace: Pace::Default },
        Contender { side: litestream, pace: Pace::Lowest },
    ];
    let scratch = folder.path();
    let bench = Bench { sizes, contenders, gateway: &gateway, far: &far, scratch };
    let conditions = document::Conditions::now(&tools, scratch);
    let mut table = Table::default();
    let mut failed = Vec::new();
    for case in &cases {
        if let Err(error) = (case.run)(&bench, &mut table) {
            tell(&format!("{} failed: {error}", case.name));
            failed.push(format!("{}: {error}", case.name));
        }
    }
    let text = conditions.text(&table.markdown(&bench.contenders[1].side.name), &table.others(), arguments, &sizes);
    println!("{text}");
    if !failed.is_empty() {
        // A table with holes does not take the place of a whole one.
        return Err(failed.join("; "));
    }
    if write { document::write(&text) } else { Ok(()) }
}

/// Tells what is going on.
fn tell(what: &str) {
    eprintln!("{what} …");
}

/// Removes a folder of scratch; what stays goes with the whole.
fn tidy(folder: &Path) {
    let _ = std::fs::remove_dir_all(folder);
}

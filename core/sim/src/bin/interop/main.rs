//! Litestream and we on the same replicas: each restores what the other wrote, each takes over from the
//! other. Every case is a real database, real programs and a real store; the result is compared by content.
//!
//! Run by `cargo xtask interop`. Flags narrow the matrix: `--peer old|new`, `--store file|s3`,
//! `--page-size N`, `--case NAME` (`sealed`: the cases with age keys alone); `--keep` leaves the folders of failed cases for inspection.

mod sealed;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use replicate_sim::peers::{App, File, Gateway, Outcome, Pace, Place, Side, Tools, compare, wait_until};

const PAGE_SIZES: [u32; 3] = [512, 4096, 65536];
/// How long a store must not change before everything is taken to have arrived.
const QUIET: Duration = Duration::from_millis(400);
const ARRIVAL: Duration = Duration::from_secs(40);

/// Who writes, one after the other.
struct Case {
    name: &'static str,
    /// `true`: we do.
    turns: &'static [bool],
}

const CASES: [Case; 4] = [
    Case { name: "we-write", turns: &[true] },
    Case { name: "they-write", turns: &[false] },
    Case { name: "we-take-over", turns: &[false, true] },
    Case { name: "they-take-over-and-we-again", turns: &[true, false, true] },
];

/// What the flags leave of the matrix.
#[derive(Default)]
struct Wanted {
    peer: Option<String>,
    store: Option<String>,
    page_size: Option<String>,
    case: Option<String>,
    keep: bool,
}

fn main() -> ExitCode {
    let done = Wanted::parse(std::env::args().skip(1)).and_then(|wanted| run(&wanted));
    match done {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Wanted {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut wanted = Self::default();
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{flag} needs a value")).map(Some);
            match flag.as_str() {
                "--peer" => wanted.peer = value()?,
                "--store" => wanted.store = value()?,
                "--page-size" => wanted.page_size = value()?,
                "--case" => wanted.case = value()?,
                "--keep" => wanted.keep = true,
                _ => return Err(format!("unknown flag {flag}")),
            }
        }
        Ok(wanted)
    }

    fn has(wanted: &Option<String>, value: &str) -> bool {
        wanted.as_ref().is_none_or(|wanted| wanted == value)
    }
}

/// Runs the matrix; how many cases failed.
fn run(wanted: &Wanted) -> Outcome<usize> {
    let tools = Tools::from_env()?;
    let folder = tempfile::tempdir().map_err(|e| format!("a scratch folder: {e}"))?;
    let gateway = Gateway::start(&tools.versitygw, folder.path())?;
    let old = tools.litestream_old.as_ref().ok_or("REPLICATE_LITESTREAM_OLD is not set")?;
    let peers = [("old", Side::litestream("old", old)?), ("new", Side::litestream("new", &tools.litestream_new)?)];
    let ours = Side::ours(&tools.ours);
    let (mut passed, mut failed) = (0, 0);
    for (role, peer) in peers.iter().filter(|(role, _)| Wanted::has(&wanted.peer, role)) {
        for store in ["file", "s3"].into_iter().filter(|store| Wanted::has(&wanted.store, store)) {
            for page_size in PAGE_SIZES.into_iter().filter(|n| Wanted::has(&wanted.page_size, &n.to_string())) {
                for case in CASES.iter().filter(|case| Wanted::has(&wanted.case, case.name)) {
                    let name = format!("{role}-{store}-{page_size}-{}", case.name);
                    let scratch = folder.path().join(&name);
                    let place = match store {
                        "s3" => gateway.place(&name),
                        _ => Place::file(scratch.join("replica")),
                    };
                    let start = Instant::now();
                    let trial = Trial { ours: &ours, peer, place, page_size, scratch: scratch.clone() };
                    let result = trial.run(case.turns);
                    let seconds = start.elapsed().as_secs_f64();
                    let shown = format!("{:<18} {store:<4} {page_size:>5}  {}", peer.name, case.name);
                    match &result {
                        Ok(told) => println!("ok    {shown} ({told}, {seconds:.1} s)"),
                        Err(error) => println!("FAIL  {shown}: {error}"),
                    }
                    *if result.is_ok() { &mut passed } else { &mut failed } += 1;
                    if result.is_ok() || !wanted.keep {
                        // What is left behind is in a temporary folder anyway.
                        let _removed = std::fs::remove_dir_all(&scratch);
                    }
                }
            }
        }
    }
    if wanted.case.as_ref().is_none_or(|case| case == "sealed") {
        let age = tools.age.as_ref().ok_or("REPLICATE_AGE is not set")?;
        let litestreams: Vec<_> = peers.iter().filter(|(r, _)| Wanted::has(&wanted.peer, r)).map(|(_, s)| s).collect();
        for kind in sealed::KINDS {
            let scratch = folder.path().join(format!("sealed-{}", kind.name));
            let start = Instant::now();
            let result =
                sealed::Trial { ours: &tools.ours, litestreams: &litestreams, age, scratch: &scratch }.run(kind);
            match &result {
                Ok(told) => println!("ok    sealed {:<8} ({told}, {:.1} s)", kind.name, start.elapsed().as_secs_f64()),
                Err(error) => println!("FAIL  sealed {:<8}: {error}", kind.name),
            }
            *if result.is_ok() { &mut passed } else { &mut failed } += 1;
        }
    }
    println!("{passed} passed, {failed} failed");
    if wanted.keep && failed > 0 {
        println!("kept in {}", folder.keep().display());
    }
    if passed + failed == 0 { Err("the flags leave no case".to_owned()) } else { Ok(failed) }
}

/// One database with one replica.
struct Trial<'a> {
    ours: &'a Side,
    peer: &'a Side,
    place: Place,
    page_size: u32,
    scratch: PathBuf,
}

impl Trial<'_> {
    fn run(&self, turns: &[bool]) -> Outcome<String> {
        std::fs::create_dir_all(&self.scratch).map_err(|e| format!("create {}: {e}", self.scratch.display()))?;
        let database = self.scratch.join("app.db");
        let mut app = App::create(&database, self.page_size)?;
        // There is something before anybody replicates, and later something that nobody has seen happen.
        app.live(|| Ok(()))?;
        for (number, we_do) in turns.iter().enumerate() {
            let side = if *we_do { self.ours } else { self.peer };
            self.turn(side, &mut app, &database, number).map_err(|e| format!("turn {}: {e}", number + 1))?;
        }
        app.close()?;
        self.place.check_layout()?;
        let by_us = turns.last() == Some(&true);
        for side in [self.peer, self.ours] {
            self.check(side, &database, by_us)?;
        }
        Ok(format!("{} transactions", self.place.last()?))
    }

    /// One of them replicates while the application works.
    fn turn(&self, side: &Side, app: &mut App, database: &Path, number: usize) -> Outcome {
        let before = self.place.files()?;
        let scratch = self.scratch.join(format!("turn{number}"));
        let mut running = side.replicate(database, &self.place, Pace::Merging, &scratch)?;
        // A replicator that starts has something to store: the database, or what it changed to meanwhile.
        let last = before.iter().map(|file| file.max).max().unwrap_or(0);
        let mut seen = last;
        let mut settle = || {
            running.still_runs()?;
            seen = self.arrived(seen)?;
            Ok(())
        };
        if number == 0 {
            settle()?;
        }
        app.live(settle)?;
        let status = running.stop()?;
        if !side.is_litestream() && !status.success() {
            return Err(format!("{} ended with {status}", side.name));
        }
        continues(&before, &self.place.files()?)
    }

    /// Returns when something newer has arrived and nothing more follows; the last id.
    fn arrived(&self, after: u64) -> Outcome<u64> {
        let mut quiet_since = (Instant::now(), 0);
        wait_until("commits arrive at the store", ARRIVAL, || {
            let last = self.place.last()?;
            if last != quiet_since.1 {
                quiet_since = (Instant::now(), last);
            }
            Ok((last > after && quiet_since.0.elapsed() >= QUIET).then_some(last))
        })
    }

    fn check(&self, side: &Side, database: &Path, pages: bool) -> Outcome {
        let output = self.scratch.join(format!("by-{}.db", side.name.replace(' ', "-")));
        side.restore(&self.place, &output, &self.scratch.join("restore"))?;
        compare(database, &output, pages).map_err(|e| format!("restored by {}: {e}", side.name))
    }
}

/// An error unless the new ids follow the old ones without a gap, whether merged meanwhile or not, and no
/// single transaction of before was written again.
fn continues(before: &[File], after: &[File]) -> Outcome {
    let last = before.iter().map(|file| file.max).max().unwrap_or(0);
    for file in after.iter().filter(|file| file.level == 0 && file.min <= last) {
        if !before.contains(file) {
            return Err(format!("transaction {:x} was written again", file.min));
        }
    }
    let mut new: Vec<_> = after.iter().filter(|file| file.max > last).collect();
    new.sort_unstable_by_key(|file| (file.min, file.max));
    let mut reached = last;
    for file in &new {
        if file.min > reached + 1 {
            return Err(format!("transaction {:x} follows {reached:x}", file.min));
        }
        reached = reached.max(file.max);
    }
    if new.is_empty() { Err("nothing new arrived".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(level: u8, min: u64, max: u64) -> File {
        File { level, min, max, size: 7 }
    }

    #[test]
    fn a_takeover_continues_the_ids() {
        let before = [file(0, 1, 1), file(0, 2, 2)];
        let with = |more: &[File]| continues(&before, &[&before[..], more].concat());
        with(&[file(0, 3, 3), file(0, 4, 4)]).expect("continues");
        with(&[file(0, 5, 5), file(1, 1, 4)]).expect("3 and 4 were merged and removed");
        assert!(with(&[]).is_err());
        assert!(with(&[file(0, 4, 4)]).is_err());
        assert!(with(&[file(0, 3, 3), file(0, 5, 5)]).is_err());
        with(&[file(0, 6, 6), file(1, 3, 4), file(1, 5, 5)]).expect("merged in two parts");
        assert!(continues(&before, &[File { size: 8, ..before[0] }, file(0, 3, 3)]).is_err());
    }
}

//! How long it takes to get a database back.
//!
//! The replica is written by us, in the encoding that both read, one file a commit.

use std::path::Path;
use std::time::{Duration, Instant};

use replicate_sim::peers::{Outcome, Pace, Place, wait_until};

use crate::goal::Goal;
use crate::load::{MEMORY_MIB, MIB};
use crate::table::{OURS, Row, THEIRS, Table};
use crate::watch::Watch;
use crate::writer::{Committer, make};
use crate::{Bench, Case, STORES, Store, tell, tidy};

const ARRIVAL: Duration = Duration::from_secs(120);
/// What takes longer is not repeated: it moves no median by its noise.
const SLOW: Duration = Duration::from_secs(30);

/// What is restored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Shape {
    /// A large image and some files.
    Large,
    /// A small image and thousands of files.
    Many,
    /// A large image and thousands of files.
    Both,
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |shape, store: Store| {
        let word = match shape {
            Shape::Large => "large",
            Shape::Many => "many",
            Shape::Both => "large and many",
        };
        Case::new(format!("restore {word} {}", store.name()), move |b: &Bench<'_>, t: &mut Table| {
            measure(b, shape, store, t)
        })
    };
    let of_all = |shape| STORES.map(|store| case(shape, store));
    let both = case(Shape::Both, Store::Far);
    of_all(Shape::Large).into_iter().chain(of_all(Shape::Many)).chain([both]).collect()
}

/// Rows of one shape and store.
struct Rows {
    checked: Row,
    plain: Row,
    cpu: Row,
    memory: Row,
}

impl Rows {
    fn new(bench: &Bench<'_>, shape: Shape, store: Store) -> Self {
        let (bytes, files) = size(bench, shape);
        let name = format!("restore {} MiB and {files} files", bytes >> 20);
        let row = |what: &str, unit| Row::new(&format!("{name}{what}"), store.name(), unit);
        let checked = row(", quick_check included", "s");
        let checked = match (shape, store) {
            (Shape::Large, Store::Far) => checked.goal(Goal::OfFloor(2.0)).goal(Goal::Faster(8.0)),
            (Shape::Large, _) => checked.goal(Goal::OfFloor(2.0)).goal(Goal::Faster(6.0)),
            (Shape::Many, Store::Far) => checked.goal(Goal::AtMost(6.0)),
            (Shape::Many, _) | (Shape::Both, _) => checked,
        };
        let memory = row(", peak memory", "MiB").quantile(1.0).goal(Goal::AtMost(MEMORY_MIB));
        Self { checked, plain: row(", without quick_check", "s"), cpu: row(", CPU", "s"), memory }
    }
}

fn size(bench: &Bench<'_>, shape: Shape) -> (u64, usize) {
    match shape {
        Shape::Large => (bench.sizes.large_bytes, bench.sizes.large_files),
        Shape::Many => (bench.sizes.small_bytes, bench.sizes.small_files),
        Shape::Both => (bench.sizes.large_bytes, bench.sizes.small_files),
    }
}

fn measure(bench: &Bench<'_>, shape: Shape, store: Store, table: &mut Table) -> Outcome {
    // The longer line leads to the same replica, which need not be made again.
    let kind = if store == Store::File { "file" } else { "s3" };
    let folder = bench.scratch.join(format!("restore-{shape:?}-{kind}"));
    let mut place = bench.place(store, &format!("restore-{shape:?}-{kind}"));
    let database = folder.join("app.db");
    if !database.exists() {
        tell(&format!("restore {shape:?} {kind}: making the replica"));
        std::fs::create_dir_all(&folder).map_err(|e| format!("create {}: {e}", folder.display()))?;
        let near =
            if store == Store::Far { bench.place(Store::S3, &format!("restore-{shape:?}-{kind}")) } else { place };
        replica(bench, shape, &near, &folder, &database)?;
        place = bench.place(store, &format!("restore-{shape:?}-{kind}"));
    }
    let mut rows = Rows::new(bench, shape, store);
    let mut slow = false;
    for round in 0..bench.sizes.rounds {
        tell(&format!("restore {shape:?} {}, round {}", store.name(), round + 1));
        for column in [OURS, THEIRS] {
            if column == THEIRS && slow {
                continue;
            }
            for check in ["quick", "none"] {
                let elapsed = one(bench, column, check, &place, &folder, &mut rows)?;
                if column == THEIRS && elapsed > SLOW {
                    slow = true;
                    break;
                }
            }
        }
        let copied = copy(&database, &folder.join("copy.db"))?.as_secs_f64();
        rows.checked.add_floor(copied);
        rows.plain.add_floor(copied);
    }
    [rows.checked, rows.plain, rows.cpu, rows.memory].into_iter().for_each(|row| table.add(row));
    if store != Store::S3 {
        tidy(&folder);
        tidy(place.folder());
    }
    Ok(())
}

fn one(
    bench: &Bench<'_>,
    side: usize,
    check: &str,
    place: &Place,
    folder: &Path,
    rows: &mut Rows,
) -> Outcome<Duration> {
    let output = folder.join("out.db");
    let arguments = ["-integrity-check", check];
    let (elapsed, usage) = bench.contenders[side].side.restore_with(place, &output, folder, &arguments)?;
    remove(&output)?;
    if check == "quick" {
        rows.checked.add(side, elapsed.as_secs_f64());
        rows.cpu.add(side, usage.cpu.as_secs_f64());
        rows.memory.add(side, usage.peak_bytes as f64 / MIB);
    } else {
        rows.plain.add(side, elapsed.as_secs_f64());
    }
    Ok(elapsed)
}

/// A replica with one image and many small files.
fn replica(bench: &Bench<'_>, shape: Shape, place: &Place, folder: &Path, database: &Path) -> Outcome {
    let (bytes, files) = size(bench, shape);
    make(database, bytes)?;
    let mut running = bench.contenders[OURS].side.replicate(database, place, Pace::Lowest, folder)?;
    let mut writer = Committer::start(database)?;
    wait_until("the first image arrives", ARRIVAL, || {
        running.still_runs()?;
        Ok((place.last()? > 0).then_some(()))
    })?;
    let watch = Watch::new(&place.level_folder(0))?;
    for _ in 0..files {
        writer.commit()?;
        watch.next(ARRIVAL)?;
    }
    drop(writer);
    running.stop()?;
    Ok(())
}

fn remove(path: &Path) -> Outcome {
    std::fs::remove_file(path).map_err(|e| format!("remove {}: {e}", path.display()))
}

/// The same file copied and synced.
fn copy(from: &Path, to: &Path) -> Outcome<Duration> {
    let start = Instant::now();
    let copied = std::fs::copy(from, to).and_then(|_| std::fs::File::open(to)?.sync_all());
    copied.map_err(|e| format!("copy {}: {e}", from.display()))?;
    let elapsed = start.elapsed();
    remove(to)?;
    Ok(elapsed)
}

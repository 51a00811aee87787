//! What the first image of a large database costs, and what goes on after it while nobody writes.

use std::path::Path;
use std::time::{Duration, Instant};

use replicate_sim::peers::{Outcome, wait_until};

use crate::goal::Goal;
use crate::load::{MEMORY_MIB, MIB};
use crate::table::{LOWEST, OURS, Row, Table};
use crate::writer::make;
use crate::{Bench, Case, Store, tell, tidy};

const ARRIVAL: Duration = Duration::from_secs(300);
/// After the image has its name its writer has a little left to do that belongs to it.
const BOOKS: Duration = Duration::from_secs(4);

pub(crate) fn cases() -> Vec<Case> {
    let case = |store: Store| {
        Case::new(format!("first snapshot {}", store.name()), move |b: &Bench<'_>, t: &mut Table| measure(b, store, t))
    };
    [Store::File, Store::S3].map(case).into()
}

/// One round, whatever is asked for: it takes long, and its figures are sums that noise hardly moves.
fn measure(bench: &Bench<'_>, store: Store, table: &mut Table) -> Outcome {
    let template = bench.scratch.join("snapshot.db");
    if !template.exists() {
        tell("first snapshot: making the database");
        make(&template, bench.sizes.large_bytes)?;
    }
    let name = format!("first snapshot of {} MiB", bench.sizes.large_bytes >> 20);
    let row = |what: &str, unit| Row::new(&format!("{name}: {what}"), store.name(), unit);
    let after = bench.sizes.after_snapshot.as_secs();
    let mut time = row("time until stored", "s");
    let mut cpu = row(&format!("CPU, {after} s after it included"), "s").goal(Goal::OfRival(0.1));
    let mut stored = row("stored; floor: the image once", "MiB").goal(Goal::OfFloor(1.01));
    let mut again = row(&format!("read in the {after} s after it"), "MiB").goal(Goal::AtMost(1.0));
    let mut memory = row("peak memory", "MiB").goal(Goal::AtMost(MEMORY_MIB));
    for (column, contender) in bench.contenders.iter().enumerate().take(LOWEST) {
        tell(&format!("first snapshot {}: {}", store.name(), contender.side.name));
        let folder = bench.scratch.join(format!("snapshot-{store:?}-{column}"));
        let database = copied(&template, &folder)?;
        let place = bench.place(store, &format!("snapshot-{store:?}-{column}"));
        let start = Instant::now();
        let mut running = contender.side.replicate(&database, &place, contender.pace, &folder)?;
        wait_until("the first image arrives", ARRIVAL, || {
            running.still_runs()?;
            Ok((place.last()? > 0).then_some(()))
        })?;
        time.add(column, start.elapsed().as_secs_f64());
        let image = place.files()?.iter().map(|file| file.size).max().unwrap_or(0);
        std::thread::sleep(BOOKS);
        let before = running.usage()?;
        std::thread::sleep(bench.sizes.after_snapshot);
        let usage = running.usage()?;
        cpu.add(column, usage.cpu.as_secs_f64());
        again.add(column, usage.read_bytes.saturating_sub(before.read_bytes) as f64 / MIB);
        memory.add(column, usage.peak_bytes as f64 / MIB);
        stored.add(column, place.files()?.iter().map(|file| file.size as f64).sum::<f64>() / MIB);
        if column == OURS {
            stored.add_floor(image as f64 / MIB);
        }
        running.stop()?;
        tidy(&folder);
        tidy(place.folder());
    }
    [time, cpu, stored, again, memory].into_iter().for_each(|row| table.add(row));
    Ok(())
}

/// A copy that lies on the disk: nothing of it is written while something is measured.
fn copied(template: &Path, folder: &Path) -> Outcome<std::path::PathBuf> {
    let database = folder.join("app.db");
    let copy = || {
        std::fs::create_dir_all(folder)?;
        std::fs::copy(template, &database)?;
        std::fs::File::open(&database)?.sync_all()
    };
    copy().map_err(|e| format!("copy to {}: {e}", folder.display()))?;
    Ok(database)
}

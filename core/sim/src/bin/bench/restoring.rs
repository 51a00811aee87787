//! How long it takes to get a database back.

use std::path::Path;
use std::time::{Duration, Instant};

use replicate_sim::peers::{Outcome, Pace, Place, wait_until};

use crate::table::{Row, Table};
use crate::watch::Watch;
use crate::writer::{Committer, make};
use crate::{Bench, STORES, tell, tidy};

const ARRIVAL: Duration = Duration::from_secs(120);
const OURS: usize = 0;
const THEIRS: usize = 1;

pub(crate) fn measure(bench: &Bench<'_>, table: &mut Table) -> Outcome {
    for store in STORES {
        let folder = bench.scratch.join(format!("restore-{store}"));
        std::fs::create_dir_all(&folder).map_err(|e| format!("create {}: {e}", folder.display()))?;
        tell(&format!("restore {store}: making the replica"));
        let place = bench.place(store, &format!("restore-{store}"));
        let database = replica(bench, &place, &folder)?;
        let mib = bench.sizes.restore_bytes >> 20;
        let name = format!("restore {mib} MiB and {} files", bench.sizes.restore_files);
        let mut time = Row::new(&name, store, "s");
        let mut checked = Row::new(&format!("{name}, quick_check included"), store, "s");
        let mut cpu = Row::new(&format!("{name}: CPU"), store, "s");
        let mut memory = Row::new(&format!("{name}: peak memory"), store, "MiB");
        for round in 0..bench.sizes.rounds.max(3) {
            tell(&format!("restore {store}, round {}", round + 1));
            for column in [OURS, THEIRS] {
                for check in ["none", "quick"] {
                    let output = folder.join("out.db");
                    let side = &bench.contenders[column].side;
                    let arguments = ["-integrity-check", check];
                    let (elapsed, usage) = side.restore_with(&place, &output, &folder, &arguments)?;
                    remove(&output)?;
                    if check == "quick" {
                        checked.add(column, elapsed.as_secs_f64());
                        continue;
                    }
                    time.add(column, elapsed.as_secs_f64());
                    cpu.add(column, usage.cpu.as_secs_f64());
                    memory.add(column, usage.peak_bytes as f64 / 1_048_576.0);
                }
            }
            time.add_floor(copy(&database, &folder.join("copy.db"))?.as_secs_f64());
        }
        [time, checked, cpu, memory].into_iter().for_each(|row| table.add(row));
        tidy(&folder);
        tidy(place.folder());
    }
    Ok(())
}

/// A replica with one image and many small files, written by us in the encoding that both read.
fn replica(bench: &Bench<'_>, place: &Place, folder: &Path) -> Outcome<std::path::PathBuf> {
    let database = folder.join("app.db");
    make(&database, bench.sizes.restore_bytes)?;
    let mut running = bench.contenders[OURS].side.replicate(&database, place, Pace::Lowest, folder)?;
    let mut writer = Committer::start(&database)?;
    wait_until("the first image arrives", ARRIVAL, || {
        running.still_runs()?;
        Ok((place.last()? > 0).then_some(()))
    })?;
    let watch = Watch::new(&place.level_folder(0))?;
    for _ in 0..bench.sizes.restore_files {
        writer.commit()?;
        watch.next(ARRIVAL)?;
    }
    drop(writer);
    running.stop()?;
    Ok(database)
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

//! What replicating costs the application and the machine while it writes.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use replicate_sim::peers::{Outcome, Place, Usage, wait_until};

use crate::goal::Goal;
use crate::table::{LOWEST, Row, Table};
use crate::writer::{Felt, Task, make, write};
use crate::{Bench, Case, Contender, Store, tell, tidy};

const ARRIVAL: Duration = Duration::from_secs(120);
/// Nothing new for this long: it has caught up.
const CAUGHT_UP: Duration = Duration::from_millis(2500);

/// The most memory that any of it may take, and what SQLite's own cache takes by default.
pub(crate) const MEMORY_MIB: f64 = 64.0 + 2.0;

/// A way of writing.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    store: Store,
    autocheckpoint: bool,
    rate: u32,
}

pub(crate) const MIB: f64 = 1_048_576.0;

const FULL: &str = "full speed";
const FULL_NONE: &str = "full speed, application never checkpoints";
const STEADY: &str = "300 tx/s";

const KINDS: [Kind; 5] = [
    Kind { name: FULL, store: Store::File, autocheckpoint: true, rate: 0 },
    Kind { name: FULL_NONE, store: Store::File, autocheckpoint: false, rate: 0 },
    Kind { name: FULL, store: Store::S3, autocheckpoint: true, rate: 0 },
    Kind { name: STEADY, store: Store::File, autocheckpoint: true, rate: 300 },
    Kind { name: STEADY, store: Store::S3, autocheckpoint: true, rate: 300 },
];

impl Kind {
    fn rows(self) -> [Row; 6] {
        let row = |what: &str, unit| Row::new(&format!("{}: {what}", self.name), self.store.name(), unit);
        let cpu = row("CPU a MB of WAL", "ms");
        let wal = row("longest WAL", "MiB");
        [
            row("transactions a second", "tx/s").goal(Goal::KeepsOfFloor(0.97)),
            row("longest transaction", "ms").goal(Goal::OverFloor(50.0)),
            if self.rate == 0 { cpu.goal(Goal::OfRival(0.7)) } else { cpu.goal(Goal::OfLowest(0.15)) },
            row("peak memory", "MiB").goal(Goal::AtMost(MEMORY_MIB)),
            if self.rate == 0 { wal.goal(Goal::AtMost(64.0)) } else { wal },
            row("last commit to last object", "s"),
        ]
    }
}

/// What one round showed.
struct Round {
    felt: Felt,
    /// Nothing for the writer alone.
    replicator: Option<Replicator>,
}

struct Replicator {
    usage: Usage,
    wal_bytes: u64,
    lag: Duration,
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |kind: Kind| {
        Case::new(format!("load {} {}", kind.name, kind.store.name()), move |b: &Bench<'_>, t: &mut Table| {
            measure(b, kind, t)
        })
    };
    KINDS.map(case).into()
}

fn measure(bench: &Bench<'_>, kind: Kind, table: &mut Table) -> Outcome {
    let mut rows = kind.rows();
    for round in 0..bench.sizes.rounds {
        for column in 0..=bench.contenders.len() {
            let contender = bench.contenders.get(column);
            // At full speed its intervals mean nothing to it: it always has something to do.
            if kind.rate == 0 && column == LOWEST {
                continue;
            }
            let name = contender.map_or("nobody", |c| &c.side.name);
            tell(&format!("load {} {}, round {}: {name}", kind.name, kind.store.name(), round + 1));
            let folder = bench.scratch.join(format!("load-{}-{:?}-{round}-{column}", kind.rate, kind.store));
            let result = round_of(bench, &kind, contender, &folder)?;
            record(&mut rows, column, contender.is_some(), &result);
            tidy(&folder);
        }
    }
    rows.into_iter().for_each(|row| table.add(row));
    Ok(())
}

fn record(rows: &mut [Row; 6], column: usize, replicated: bool, round: &Round) {
    let [rate, longest, cpu, memory, wal, lag] = rows;
    if !replicated {
        rate.add_floor(round.felt.rate);
        longest.add_floor(round.felt.longest_ms);
        return;
    }
    rate.add(column, round.felt.rate);
    longest.add(column, round.felt.longest_ms);
    if let Some(replicator) = &round.replicator {
        cpu.add(column, replicator.usage.cpu.as_secs_f64() * 1e3 / (round.felt.wal_bytes / 1e6));
        memory.add(column, replicator.usage.peak_bytes as f64 / MIB);
        wal.add(column, replicator.wal_bytes as f64 / MIB);
        lag.add(column, replicator.lag.as_secs_f64());
    }
}

fn round_of(bench: &Bench<'_>, kind: &Kind, contender: Option<&Contender>, folder: &Path) -> Outcome<Round> {
    std::fs::create_dir_all(folder).map_err(|e| format!("create {}: {e}", folder.display()))?;
    let database = folder.join("app.db");
    make(&database, bench.sizes.load_bytes)?;
    let task = Task { time: bench.sizes.writing, autocheckpoint: kind.autocheckpoint, rate: kind.rate };
    let Some(contender) = contender else {
        return Ok(Round { felt: write(&database, task)?, replicator: None });
    };
    let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let place = bench.place(kind.store, &name);
    let mut running = contender.side.replicate(&database, &place, contender.pace, folder)?;
    wait_until("the first image arrives", ARRIVAL, || {
        running.still_runs()?;
        Ok((place.last()? > 0).then_some(()))
    })?;
    let before = running.usage()?;
    let (felt, wal_bytes) = watched(&folder.join("app.db-wal"), || write(&database, task))?;
    let lag = caught_up(&place)?;
    let mut usage = running.usage()?;
    usage.cpu = usage.cpu.saturating_sub(before.cpu);
    running.stop()?;
    tidy(place.folder());
    Ok(Round { felt: felt?, replicator: Some(Replicator { usage, wal_bytes, lag }) })
}

/// Does it, and how large the file became meanwhile.
pub(crate) fn watched<T: Send>(wal: &Path, work: impl FnOnce() -> T + Send) -> Outcome<(T, u64)> {
    let (done, largest) = (AtomicBool::new(false), AtomicU64::new(0));
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Only its size is asked for; it may not exist for a moment.
                let size = std::fs::metadata(wal).map_or(0, |meta| meta.len());
                largest.fetch_max(size, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    });
    Ok((result, largest.into_inner()))
}

/// Returns when nothing more arrives; how long after the call the last object did.
fn caught_up(place: &Place) -> Outcome<Duration> {
    let start = Instant::now();
    let (mut last, mut changed) = (place.last()?, start);
    wait_until("everything arrives", ARRIVAL, || {
        let reached = place.last()?;
        if reached != last {
            (last, changed) = (reached, Instant::now());
        }
        Ok((changed.elapsed() >= CAUGHT_UP).then(|| changed - start))
    })
}

//! What replicating costs the application and the machine while it writes.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use replicate_sim::peers::{Outcome, Pace, Place, Usage, wait_until};

use crate::goal::Goal;
use crate::table::{LOWEST, NOBODY, OURS, Row, THEIRS, Table};
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
    /// Both at their lowest intervals: not only a commit after quiet has a low latency, every one has.
    lowest: bool,
}

pub(crate) const MIB: f64 = 1_048_576.0;

const FULL: &str = "full speed";
const FULL_NONE: &str = "full speed, application never checkpoints";
const STEADY: &str = "300 tx/s";
const STEADY_LOWEST: &str = "300 tx/s, both at their lowest intervals";

const KINDS: [Kind; 7] = [
    Kind::full(FULL, Store::File, true),
    Kind::full(FULL_NONE, Store::File, false),
    Kind::full(FULL, Store::S3, true),
    Kind::steady(STEADY, Store::File, false),
    Kind::steady(STEADY, Store::S3, false),
    Kind::steady(STEADY_LOWEST, Store::File, true),
    Kind::steady(STEADY_LOWEST, Store::S3, true),
];

impl Kind {
    const fn full(name: &'static str, store: Store, autocheckpoint: bool) -> Self {
        Self { name, store, autocheckpoint, rate: 0, lowest: false }
    }

    const fn steady(name: &'static str, store: Store, lowest: bool) -> Self {
        Self { name, store, autocheckpoint: true, rate: 300, lowest }
    }

    /// Who takes part, in the order of the columns; the last is nobody.
    fn columns(self) -> &'static [usize] {
        match (self.rate, self.lowest) {
            // At full speed its intervals mean nothing to it: it always has something to do.
            (0, _) => &[OURS, THEIRS, NOBODY],
            (_, true) => &[OURS, LOWEST, NOBODY],
            (_, false) => &[OURS, THEIRS, LOWEST, NOBODY],
        }
    }

    fn rows(self) -> [Row; 6] {
        let row = |what: &str, unit| Row::new(&format!("{}: {what}", self.name), self.store.name(), unit);
        let cpu = row("CPU a MB of WAL", "ms");
        let wal = row("longest WAL", "MiB");
        [
            row("transactions a second", "tx/s").goal(Goal::KeepsOfFloor(0.97)),
            // The worst of all rounds, not that of a usual one.
            row("longest transaction", "ms").quantile(1.0).goal(Goal::OverFloor(50.0)),
            if self.rate == 0 { cpu.goal(Goal::OfRival(0.7)) } else { cpu.goal(Goal::OfLowest(0.15)) },
            row("peak memory", "MiB").quantile(1.0).goal(Goal::AtMost(MEMORY_MIB)),
            if self.rate == 0 { wal.quantile(1.0).goal(Goal::AtMost(64.0e6 / MIB)) } else { wal.quantile(1.0) },
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
        for &column in kind.columns() {
            let contender = bench.contenders.get(column);
            let name = contender.map_or("nobody", |c| &c.side.name);
            tell(&format!("load {} {}, round {}: {name}", kind.name, kind.store.name(), round + 1));
            let folder =
                bench.scratch.join(format!("load-{}-{}-{:?}-{round}-{column}", kind.rate, kind.lowest, kind.store));
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
    let pace = if kind.lowest { Pace::Lowest } else { contender.pace };
    let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let place = bench.place(kind.store, &name);
    let mut running = contender.side.replicate(&database, &place, pace, folder)?;
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

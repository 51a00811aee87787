//! How long after a commit its object is in the store, when nothing was written for a while.
//!
//! Several databases, each with a replicator of its own, take turns to commit, so that one is quiet while the others
//! are measured.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use replicate::blob::{ObjectKey, PutMode, PutOptions};
use replicate::disk::RealDisk;
use replicate::{ConfigKey, Options, Timestamp};
use replicate_sim::peers::{Outcome, Place, Running, wait_until};

use crate::goal::Goal;
use crate::table::{Row, Table};
use crate::watch::Watch;
use crate::writer::{Committer, make};
use crate::{Bench, Case, Contender, STORES, Store, tell, tidy};

/// Longer than every default interval, so that the next commit comes after quiet.
const QUIET_MS: u64 = 1300;
/// Databases that take turns.
const LANES: usize = 4;
const ARRIVAL: Duration = Duration::from_secs(30);

pub(crate) fn cases() -> Vec<Case> {
    STORES.map(|store| Case::new(format!("latency {}", store.name()), move |b, t| measure(b, store, t))).into()
}

fn measure(bench: &Bench<'_>, store: Store, table: &mut Table) -> Outcome {
    let median = Row::new("commit to stored after quiet, median", store.name(), "ms");
    let tail = Row::new("commit to stored after quiet, p99", store.name(), "ms");
    let mut rows = [median.goal(Goal::OverFloor(5.0)), tail.quantile(0.99).goal(Goal::OfMedian(3.0))];
    for round in 0..bench.sizes.rounds {
        for (column, contender) in bench.contenders.iter().enumerate() {
            tell(&format!("latency {}, round {}: {}", store.name(), round + 1, contender.side.name));
            for sample in round_of(bench, contender, store, &format!("latency-{store:?}-{round}-{column}"))? {
                rows.iter_mut().for_each(|row| row.add(column, sample));
            }
        }
        for sample in put_alone(bench, store, &format!("put-{store:?}-{round}"))? {
            rows.iter_mut().for_each(|row| row.add_floor(sample));
        }
    }
    rows.into_iter().for_each(|row| table.add(row));
    Ok(())
}

/// A database that is replicated.
struct Lane {
    folder: PathBuf,
    place: Place,
    running: Running,
    writer: Committer,
}

impl Lane {
    fn start(bench: &Bench<'_>, contender: &Contender, store: Store, name: &str) -> Outcome<Self> {
        let folder = bench.scratch.join(name);
        std::fs::create_dir_all(&folder).map_err(|e| format!("create {}: {e}", folder.display()))?;
        let database = folder.join("app.db");
        make(&database, 1 << 20)?;
        let place = bench.place(store, name);
        let running = contender.side.replicate(&database, &place, contender.pace, &folder)?;
        let writer = Committer::start(&database)?;
        Ok(Self { folder, place, running, writer })
    }
}

fn round_of(bench: &Bench<'_>, contender: &Contender, store: Store, name: &str) -> Outcome<Vec<f64>> {
    let lanes = (0..LANES).map(|lane| Lane::start(bench, contender, store, &format!("{name}-{lane}")));
    let mut lanes = lanes.collect::<Outcome<Vec<_>>>()?;
    for lane in &mut lanes {
        wait_until("the first image arrives", ARRIVAL, || {
            lane.running.still_runs()?;
            Ok((lane.place.last()? > 0).then_some(()))
        })?;
        // This one may come right after the image and wait for its interval; the next must not wait for it.
        lane.writer.commit()?;
    }
    std::thread::sleep(Duration::from_millis(2 * QUIET_MS));
    let mut watches = lanes.iter().map(|lane| Watch::new(&lane.place.level_folder(0))).collect::<Outcome<Vec<_>>>()?;
    let mut samples = Vec::new();
    for number in 0..bench.sizes.commits {
        pause(number);
        let at = number % lanes.len();
        let (Some(lane), Some(watch)) = (lanes.get_mut(at), watches.get_mut(at)) else { continue };
        watch.forget();
        let committed = lane.writer.commit()?;
        let stored = watch.next(ARRIVAL)?;
        samples.push(stored.saturating_sub(committed).as_secs_f64() * 1e3);
    }
    for lane in lanes {
        drop(lane.writer);
        lane.running.stop()?;
        tidy(&lane.folder);
        tidy(lane.place.folder());
    }
    Ok(samples)
}

/// Lets time pass, never the same, so that no poll of a program is met in step. A lane comes after quiet.
fn pause(number: usize) {
    let extra = (number as u64 * 377) % 100;
    std::thread::sleep(Duration::from_millis(QUIET_MS / LANES as u64 + extra));
}

/// One PUT of the same size with nothing around it: the library's own client, with its connection open.
fn put_alone(bench: &Bench<'_>, store: Store, name: &str) -> Outcome<Vec<f64>> {
    const SIZE: usize = 5000;
    let place = bench.place(store, name);
    let mut options = Options::new().with(ConfigKey::Url, place.url());
    for (variable, value) in place.environment() {
        options.set_key(ConfigKey::from_env(variable).ok_or("unknown variable")?, value);
    }
    let location = options.check().map_err(|e| e.to_string())?.location.ok_or("no location")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|e| format!("start a runtime: {e}"))?;
    let blob = {
        let _entered = runtime.enter();
        replicate::blob::open(&location, Arc::new(RealDisk)).map_err(|e| e.to_string())?
    };
    let mut samples = Vec::new();
    for number in 0..=bench.sizes.commits {
        if number > 0 {
            pause(number);
        }
        let key = ObjectKey::new(format!("{number}")).map_err(|e| e.to_string())?;
        let put = PutOptions { mode: PutMode::Create, created: Timestamp(0) };
        let start = Instant::now();
        let body = Arc::new(Bytes::from(vec![7; SIZE]));
        runtime.block_on(blob.put(&key, body, put)).map_err(|e| e.to_string())?;
        // The first one opens the connection.
        if number > 0 {
            samples.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    tidy(place.folder());
    Ok(samples)
}

//! How long after a commit its object is in the store, when nothing was written for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use replicate::blob::{ObjectKey, PutMode, PutOptions};
use replicate::disk::RealDisk;
use replicate::{ConfigKey, Options, Timestamp};
use replicate_sim::peers::{Outcome, wait_until};

use crate::table::{Row, Table};
use crate::watch::Watch;
use crate::writer::{Committer, make};
use crate::{Bench, Contender, STORES, tell, tidy};

/// Longer than every default interval, so that the next commit comes after quiet.
const QUIET_MS: u64 = 1300;
const ARRIVAL: Duration = Duration::from_secs(30);

pub(crate) fn measure(bench: &Bench<'_>, table: &mut Table) -> Outcome {
    for store in STORES {
        let mut median = Row::new("commit to stored after quiet, median", store, "ms");
        let mut worst = Row::new("commit to stored after quiet, worst", store, "ms").worst();
        for round in 0..bench.sizes.rounds {
            for (column, contender) in bench.contenders.iter().enumerate() {
                tell(&format!("latency {store}, round {}: {}", round + 1, contender.side.name));
                for sample in round_of(bench, contender, store, &format!("latency-{store}-{round}-{column}"))? {
                    median.add(column, sample);
                    worst.add(column, sample);
                }
            }
            for sample in put_alone(bench, store, &format!("put-{store}-{round}"))? {
                median.add_floor(sample);
                worst.add_floor(sample);
            }
        }
        table.add(median);
        table.add(worst);
    }
    Ok(())
}

fn round_of(bench: &Bench<'_>, contender: &Contender, store: &str, name: &str) -> Outcome<Vec<f64>> {
    let folder = bench.scratch.join(name);
    std::fs::create_dir_all(&folder).map_err(|e| format!("create {}: {e}", folder.display()))?;
    let database = folder.join("app.db");
    make(&database, 1 << 20)?;
    let place = bench.place(store, name);
    let mut running = contender.side.replicate(&database, &place, contender.pace, &folder)?;
    let mut writer = Committer::start(&database)?;
    wait_until("the first image arrives", ARRIVAL, || {
        running.still_runs()?;
        Ok((place.last()? > 0).then_some(()))
    })?;
    // This one may come right after the image and wait for its interval; the next must not wait for it.
    writer.commit()?;
    std::thread::sleep(Duration::from_millis(2 * QUIET_MS));
    let watch = Watch::new(&place.level_folder(0))?;
    let mut samples = Vec::new();
    for number in 0..bench.sizes.commits {
        quiet(number);
        watch.forget();
        let committed = writer.commit()?;
        let stored = watch.next(ARRIVAL)?;
        samples.push(stored.saturating_sub(committed).as_secs_f64() * 1e3);
    }
    drop(writer);
    running.stop()?;
    tidy(&folder);
    Ok(samples)
}

/// Lets time pass, never the same, so that no poll of a program is met in step.
fn quiet(number: usize) {
    let extra = (number as u64 * 377) % 1000;
    std::thread::sleep(Duration::from_millis(QUIET_MS + extra));
}

/// One PUT of the same size with nothing around it: the library's own client, with its connection open.
fn put_alone(bench: &Bench<'_>, store: &str, name: &str) -> Outcome<Vec<f64>> {
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
            quiet(number);
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

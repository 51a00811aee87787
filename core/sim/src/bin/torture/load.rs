//! Applications that make it hard, each with and without SQLite's own checkpoints: a first snapshot that is slow while
//! they checkpoint, a migration of everything in one transaction, a reader that does not end, checkpoints in a loop.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use replicate_sim::peers::Outcome;
use replicate_sim::servers::VersityGw;

use crate::actor::{Writing, checkpoint};
use crate::chain::{self, Shape, sql};
use crate::child::{Child, LATE, SOON};
use crate::ground::{Ground, beside, on_file, on_s3};
use crate::proxy::{Faults, Proxy};
use crate::{Size, Torture};

const MIB: u64 = 1 << 20;
/// Between two truncations. A loop without a pause keeps writers out for seconds by itself, without an engine: SQLite's tries
/// for the lock are up to a tenth of a second apart, and miss every gap.
const BREATH: Duration = Duration::from_millis(2);
/// As SQLite comes, and never.
const AUTOCHECKPOINTS: [u32; 2] = [1000, 0];

/// Runs it with and without SQLite's own checkpoints.
fn both(torture: &mut Torture, case: fn(&mut Torture, &Path, u32) -> Outcome<String>) -> Outcome<String> {
    let mut did = Vec::new();
    for autocheckpoint in AUTOCHECKPOINTS {
        let place = torture.place(&format!("autocheckpoint-{autocheckpoint}"))?;
        let kind = if autocheckpoint == 0 { "without autocheckpoint" } else { "with autocheckpoint" };
        let one = case(torture, &place, autocheckpoint).map_err(|why| format!("{kind}: {why}"))?;
        did.push(format!("{kind}: {one}"));
        // Disks are not endless; only what fails is kept.
        std::fs::remove_dir_all(&place).map_err(|e| format!("remove {}: {e}", place.display()))?;
    }
    Ok(did.join("; "))
}

fn ground(folder: &Path, replica: Vec<(String, String)>, filler: u64, autocheckpoint: u32) -> Outcome<Ground> {
    let ground = Ground::create(folder, replica, Shape { filler, ..Shape::default() })?.with("sync_interval", "50ms");
    Ok(Ground { autocheckpoint, ..ground })
}

fn wal(ground: &Ground) -> u64 {
    std::fs::metadata(beside(&ground.db, "-wal")).map_or(0, |meta| meta.len())
}

/// The host stops, everything arrives, and it is all there.
fn finish(ground: &Ground, mut host: Child, mut engine: Child) -> Outcome<String> {
    let felt = host.ask("quiet", SOON)?;
    engine.sync()?;
    ground.must_equal(&ground.source(true)?, "afterwards")?;
    host.stop()?;
    engine.stop()?;
    let slowest = felt["slowest_us"].as_u64().unwrap_or(0) / 1000;
    Ok(format!("{} commits, slowest {slowest} ms", felt["commits"].as_u64().unwrap_or(0)))
}

/// The first image goes slowly to a store that throttles, while the application checkpoints in every way.
pub(crate) fn snapshot_race(torture: &mut Torture) -> Outcome<String> {
    both(torture, |torture, place, autocheckpoint| {
        let size = if torture.size == Size::Quick { 9 * MIB } else { 24 * MIB };
        let server = VersityGw::start();
        server.create_bucket("bucket");
        let proxy = Proxy::start(&server.endpoint(), torture.rng.bits())?;
        let rate = Some(if torture.size == Size::Quick { 8 * MIB } else { 3 * MIB });
        proxy.set(Faults { rate, refuse: Some((503, "SlowDown", 25)), ..Faults::default() });
        let ground = ground(place, on_s3(&proxy.endpoint(), "bucket", "app"), size, autocheckpoint)?;
        let writing = |id| Writing { checkpoints: 20, reconnects: 50, ..ground.writing(id) };
        let mut host = ground.start("host", &ground.application(1, vec![writing(1), writing(2)]))?;
        host.goes_on(50)?;
        let mut engine = ground.start("engine", &ground.engine(1))?;
        host.goes_on(100)?;
        // It begins again with half of the image under way.
        let mut killed = "";
        if torture.rng.percent(60) {
            engine.until("an image is made", LATE, |status| status["local"].as_u64() > Some(0))?;
            engine.kill()?;
            host.goes_on(50)?;
            engine = ground.start("engine", &ground.engine(2))?;
            killed = ", engine killed meanwhile";
        }
        engine.until("the first image arrives", LATE, |status| status["remote"].as_u64() > Some(0))?;
        let met = proxy.met();
        proxy.set(Faults { rate, ..Faults::default() });
        let found = ground.restored(None)?;
        host.goes_on(50)?;
        found.begins(&ground.source(true)?, 0).map_err(|why| format!("just after the first image: {why}"))?;
        let felt = finish(&ground, host, engine)?;
        Ok(format!("{} MiB{killed}, {met} requests refused, {felt}", size / MIB))
    })
}

/// One transaction rewrites a table; a writer follows at once.
pub(crate) fn migration(torture: &mut Torture) -> Outcome<String> {
    both(torture, |torture, place, autocheckpoint| {
        let size = match torture.size {
            Size::Quick => 12 * MIB,
            Size::Normal => 64 * MIB,
            Size::Full => 850 * MIB,
        };
        let ground = ground(place, on_file(&place.join("replica")), size, autocheckpoint)?;
        let mut engine = ground.start("engine", &ground.engine(1))?;
        engine.sync()?;
        let mut connection = chain::connect(&ground.db, autocheckpoint).map_err(sql)?;
        let begun = Instant::now();
        let transaction = connection.transaction().map_err(sql)?;
        transaction
            .execute_batch(
                "CREATE TABLE migrated (id INTEGER PRIMARY KEY, v BLOB NOT NULL, extra TEXT);
                 INSERT INTO migrated SELECT id, randomblob(length(v)), 'x' FROM filler;
                 DROP TABLE filler; ALTER TABLE migrated RENAME TO filler;",
            )
            .map_err(sql)?;
        transaction.commit().map_err(sql)?;
        let took = begun.elapsed();
        let mut host = ground.start("host", &ground.application(1, vec![ground.writing(1), ground.writing(2)]))?;
        let longest = wal(&ground);
        host.goes_on(200)?;
        if torture.rng.percent(30) {
            engine.kill()?;
            engine = ground.start("engine", &ground.engine(2))?;
        }
        host.goes_on(200)?;
        drop(connection);
        let felt = finish(&ground, host, engine)?;
        Ok(format!("{} MiB in {:.1} s, WAL {} MiB, {felt}", size / MIB, took.as_secs_f64(), longest / MIB))
    })
}

/// A reader holds one state while writers go on and the WAL grows; then it ends, and the WAL starts over.
pub(crate) fn long_reader(torture: &mut Torture) -> Outcome<String> {
    both(torture, |torture, place, autocheckpoint| {
        let time = Duration::from_millis(if torture.size == Size::Quick { 1000 } else { 6000 });
        let ground = ground(place, on_file(&place.join("replica")), MIB, autocheckpoint)?;
        let fast = |id| Writing { pause: Duration::from_micros(200), row: 8000, ..ground.writing(id) };
        let mut host = ground.start("host", &ground.application(1, vec![fast(1), fast(2)]))?;
        let mut engine = ground.start("engine", &ground.engine(1))?;
        host.goes_on(50)?;
        let reader = chain::connect(&ground.db, 0).map_err(sql)?;
        reader.execute_batch("BEGIN").map_err(sql)?;
        let looked = chain::prove(&reader)?;
        std::thread::sleep(time);
        engine.sync()?;
        let longest = wal(&ground);
        // Nothing can be copied back beyond what the reader sees, so it must have grown.
        if longest < MIB {
            return Err(format!("the WAL had only {longest} bytes under a reader"));
        }
        let again = chain::prove(&reader)?;
        again.equals(&looked).map_err(|why| format!("the reader's state changed: {why}"))?;
        let before = salts(&ground)?;
        reader.execute_batch("COMMIT").map_err(sql)?;
        let until = Instant::now() + SOON;
        while salts(&ground)? == before {
            host.goes_on(20)?;
            if Instant::now() > until {
                return Err(format!("the WAL does not start over, it has {} bytes", wal(&ground)));
            }
        }
        drop(reader);
        let felt = finish(&ground, host, engine)?;
        Ok(format!("read for {:.0} s, WAL {} MiB, {felt}", time.as_secs_f64(), longest / MIB))
    })
}

/// What tells one generation of the WAL from the next.
fn salts(ground: &Ground) -> Outcome<Vec<u8>> {
    let path = beside(&ground.db, "-wal");
    let mut header = [0; 24];
    let read = std::fs::File::open(&path).and_then(|mut file| std::io::Read::read(&mut file, &mut header));
    match read {
        Ok(24) => Ok(header[16..24].to_vec()),
        // Cut or removed, so another one.
        Ok(_) => Ok(Vec::new()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(format!("read {}: {e}", path.display())),
    }
}

/// The application truncates the WAL again and again.
pub(crate) fn truncate_loop(torture: &mut Torture) -> Outcome<String> {
    both(torture, |torture, place, autocheckpoint| {
        let time = Duration::from_millis(if torture.size == Size::Quick { 1500 } else { 8000 });
        let ground =
            ground(place, on_file(&place.join("replica")), MIB, autocheckpoint)?.with("checkpoint_pages", "64");
        let fast = |id| Writing { pause: Duration::from_micros(500), ..ground.writing(id) };
        let mut host = ground.start("host", &ground.application(1, vec![fast(1), fast(2)]))?;
        let mut engine = ground.start("engine", &ground.engine(1))?;
        host.goes_on(20)?;
        let (ended, begun) = (AtomicBool::new(false), Instant::now());
        let (times, done) = std::thread::scope(|scope| {
            let looping = scope.spawn(|| -> Outcome<(u64, u64)> {
                let connection = chain::connect(&ground.db, autocheckpoint).map_err(sql)?;
                let (mut times, mut done) = (0, 0);
                while !ended.load(Ordering::Relaxed) {
                    done += u64::from(checkpoint(&connection, "TRUNCATE").map_err(sql)?);
                    times += 1;
                    std::thread::sleep(BREATH);
                }
                Ok((times, done))
            });
            let mut kept_on = Ok(());
            while begun.elapsed() < time && kept_on.is_ok() {
                kept_on = host.goes_on(20).and_then(|_| engine.status()).map(drop);
                if torture.rng.percent(2) && kept_on.is_ok() {
                    kept_on = engine
                        .kill()
                        .and_then(|()| ground.start("engine", &ground.engine(2)))
                        .map(|next| engine = next);
                }
            }
            ended.store(true, Ordering::Relaxed);
            let times = looping.join().map_err(|_| "the loop has panicked".to_owned())?;
            kept_on.and(times)
        })?;
        let felt = finish(&ground, host, engine)?;
        // A reader that never made way would let none of them through.
        if done * 10 < times {
            return Err(format!("only {done} of {times} truncations were done"));
        }
        Ok(format!("{done} of {times} truncations done, {felt}"))
    })
}

//! One simulation from its first step to the last check.
//!
//! The driver polls the engine, takes the steps that only it can take, moves time when everybody waits, and asks the
//! judge after each.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use replicate::seal::Keys;
use replicate::simulation::{Engine, Mutant, Setup, restore, switch};
use replicate::{Check, ErrorKind, Event, Options, RestoreOptions, RestoreReport, State, Target, Timestamp, Txid};
use replicate_format::{PageEncoding, parse_ltx_file_name};

use super::clock::{InstantClock, SimClock};
use super::db::state::State as Content;
use super::disk::{Files, SimDisk};
use super::door::SimAttach;
use super::keys::SimKeys;
use super::rng::Rng;
use super::step::{Schedule, Step, What};
use super::store::SimStore;
use super::world::{DATABASE, JUDGE, Shared, World};

/// After the last fault everything arrives within this time: the longest wait between attempts is half a minute.
const CONVERGES_WITHIN: Duration = Duration::from_secs(180);
/// More turns of the driver than any schedule needs: a busy loop.
const MOST_TURNS: u32 = 400_000;
/// What a member may spool before capture pauses.
const SPOOL_LIMIT: u64 = 24 << 10;
/// What a capture may add beyond that, in databases of this size.
const CATCHING_UP: u64 = 96 << 10;

/// What a simulation has found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// The first broken promise.
    pub violation: Option<String>,
    /// What happened, if it was asked for.
    pub trace: Vec<String>,
    /// The last id in the store.
    pub newest: u64,
    /// The store lied when nothing on the host could tell.
    pub inconclusive: bool,
    /// Commits of the database.
    pub commits: usize,
    /// Why images were made, as [`replicate::event::RebaseReason::name`] has it, each once.
    pub reasons: Vec<&'static str>,
}

#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A future that is polled when it was woken.
struct Task<T> {
    future: Pin<Box<dyn Future<Output = T> + Send>>,
    flag: Arc<Flag>,
    waker: Waker,
}

impl<T> Task<T> {
    fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        Self { future: Box::pin(future), waker: Waker::from(flag.clone()), flag }
    }

    /// Its result, or whether it did anything.
    fn poll(&mut self) -> Result<T, bool> {
        if !self.flag.0.swap(false, Ordering::Relaxed) {
            return Err(false);
        }
        match self.future.as_mut().poll(&mut Context::from_waker(&self.waker)) {
            Poll::Ready(result) => Ok(result),
            Poll::Pending => Err(true),
        }
    }
}

struct Running {
    engine: Engine,
    task: Task<()>,
    process: u32,
    /// The place of the history when it was told to stop.
    stopping: Option<usize>,
    /// Calls of `sync` that wait, with the place of the history and the database when they were made.
    syncs: Vec<(u64, usize, Option<usize>)>,
}

struct Restoring {
    task: Task<replicate::Result<RestoreReport>>,
    process: u32,
    output: String,
}

struct Sim {
    world: Shared,
    clock: Arc<SimClock>,
    running: Option<Running>,
    restoring: Option<Restoring>,
    restores: u32,
    /// Restores by the judge.
    judged: u32,
    /// Objects are sealed.
    keys: Option<SimKeys>,
    rng: Rng,
    reasons: Vec<&'static str>,
}

/// Runs a schedule.
#[must_use]
pub fn run(schedule: &Schedule, mutant: Option<Mutant>, traced: bool) -> Outcome {
    switch(mutant);
    let world = World::shared(schedule, traced);
    let clock = Arc::new(SimClock(world.clone()));
    let rng = Rng::new(schedule.seed ^ 0xd21f);
    let keys = SimKeys::of(schedule.manner);
    let mut sim =
        Sim { world, clock, running: None, restoring: None, restores: 0, judged: 0, keys, rng, reasons: Vec::new() };
    sim.start();
    sim.steps();
    if !sim.is_over() {
        sim.converge();
    }
    if !sim.is_over() {
        sim.finish();
    }
    sim.drop_engine();
    sim.restoring = None;
    switch(None);
    let mut world = sim.world.lock();
    Outcome {
        violation: world.violation.take(),
        trace: world.trace.take().unwrap_or_default(),
        newest: world.oracle.newest(),
        inconclusive: world.inconclusive,
        commits: world.oracle.now() + 1,
        reasons: std::mem::take(&mut sim.reasons),
    }
}

impl Sim {
    fn is_over(&self) -> bool {
        let world = self.world.lock();
        world.violation.is_some() || world.inconclusive
    }

    fn start(&mut self) {
        if self.running.is_some() {
            return;
        }
        let process = {
            let mut world = self.world.lock();
            let process = world.start_process();
            world.engine = Some(process);
            process
        };
        let mut config = Options::new().check().expect("the defaults are valid");
        if let Some(keys) = self.keys {
            config.keys = keys.of_host(&mut self.rng);
        }
        config.sync_interval = Duration::from_millis(self.rng.pick(&[10, 100, 1000]));
        config.checkpoint_pages = self.rng.pick(&[4, 8, 30]);
        config.spool_limit = SPOOL_LIMIT;
        config.page_encoding = self.rng.pick(&[PageEncoding::Frame, PageEncoding::Block]);
        let setup = Setup {
            path: DATABASE.into(),
            config,
            clock: self.clock.clone(),
            disk: Arc::new(SimDisk::new(&self.world, process)),
            attach: Arc::new(SimAttach::new(&self.world, process)),
            blob: Arc::new(SimStore::new(&self.world, &self.clock, process)),
            megabyte: self.rng.pick(&[200, 1000, 1000, 4000, 1 << 20]),
            spread: self.rng.bits(),
        };
        let (engine, future) = Engine::new(setup);
        let task = Task::new(future);
        self.running = Some(Running { engine, task, process, stopping: None, syncs: Vec::new() });
    }

    /// Takes all steps.
    fn steps(&mut self) {
        for _ in 0..MOST_TURNS {
            if self.is_over() {
                return;
            }
            let due = {
                let mut world = self.world.lock();
                world.take_steps();
                if world.steps.is_empty() {
                    return;
                }
                world.pop_due()
            };
            if let Some(step) = due {
                self.take(&step);
                continue;
            }
            if !self.turn() {
                let next = self.world.lock().next_step();
                self.wait_until(next);
            }
        }
        self.world.lock().violated("the schedule does not end".to_owned());
    }

    /// Lets whoever was woken run. Whether anybody did.
    fn turn(&mut self) -> bool {
        let mut ran = false;
        if let Some(running) = &mut self.running {
            if std::mem::take(&mut self.world.lock().rang) {
                running.engine.ring();
            }
            let polled = running.task.poll();
            ran |= polled != Err(false);
            if !self.world.lock().is_alive(running.process) {
                // Killed: whatever it said afterwards, nobody has heard it.
                self.running = None;
            } else if polled.is_ok() {
                self.ended();
            } else if polled == Err(true) {
                self.judge();
            }
        }
        if let Some(restoring) = &mut self.restoring {
            let polled = restoring.task.poll();
            ran |= !matches!(polled, Err(false));
            if !self.world.lock().is_alive(restoring.process) {
                self.restoring = None;
            } else if let Ok(result) = polled
                && let Some(done) = self.restoring.take()
            {
                self.restored(&done.output, result);
            }
        }
        ran
    }

    /// Everybody waits: time moves to the next moment that somebody waits for.
    fn wait_until(&mut self, step: Option<Duration>) {
        self.check_rest();
        let mut world = self.world.lock();
        let next = world.time.next().into_iter().chain(step).min();
        match next {
            Some(next) => world.time.advance(next),
            None => world.violated("nobody waits for anything any more".to_owned()),
        }
    }

    fn take(&mut self, step: &Step) {
        self.world.lock().tell(|_| format!("{:?}", step.what));
        let place = {
            let world = self.world.lock();
            (world.oracle.now(), world.current)
        };
        match (step.what, &mut self.running) {
            (What::Start, _) => self.start(),
            (What::Stop { millis }, Some(running)) => {
                running.stopping.get_or_insert(place.0);
                running.engine.request_stop(Duration::from_millis(millis.into()));
            }
            (What::Sync, Some(running)) => {
                let request = running.engine.request_sync();
                running.syncs.push((request, place.0, place.1));
            }
            (What::Restore, _) => self.start_restore(),
            (What::Move { skew }, _) => self.move_host(skew, step.seed),
            _ => {}
        }
    }

    /// What the engine has said since it was asked last.
    fn judge(&mut self) {
        let Some(running) = &mut self.running else { return };
        let status = running.engine.status();
        let mut world = self.world.lock();
        let checked = world.oracle.acknowledged(status.remote_txid.0);
        world.demand(checked);
        if let Some((id, process)) = world.foreign
            && process == Some(running.process)
            && status.remote_txid.0 >= id
            && !world.damaged
        {
            world.violated(format!("I4: id {id} is acknowledged, which another writer has stored"));
        }
        if status.state == State::Streaming && status.last_sync.is_some() {
            world.level_headed = Some(running.process);
        }
        if status.pending_bytes > SPOOL_LIMIT
            && let Some(bytes) = beyond_limit(&world.disk, status.remote_txid.0)
        {
            world.violated(format!("I14: {bytes} bytes wait in the spool"));
        }
        running.syncs.retain(|&(request, place, file)| {
            let Some(status) = running.engine.arrived(request) else { return true };
            // What was in a database that is no longer there need not have been seen.
            if world.current == file && file.is_some() {
                let checked = world.oracle.covers(status.remote_txid.0, place, "sync");
                world.demand(checked);
            }
            false
        });
        while let Some(event) = running.engine.event() {
            if let Event::Captured { rebase: Some(reason), .. } = &event
                && !self.reasons.contains(&reason.name())
            {
                self.reasons.push(reason.name());
            }
            if let Event::Captured { txid, .. } = &event {
                let name = format!("-{txid}.ltx");
                for path in world.disk.find(&name).into_iter().filter(|path| path.ends_with(&name)) {
                    if !world.disk.is_durable(&path) {
                        world.violated(format!("I14: {path} is captured, and not safe from a loss of power"));
                    }
                }
            }
            world.tell(|_| format!("    {event:?}"));
        }
        if matches!(status.state, State::Failed | State::Fenced) {
            world.violated(format!("replication has ended: {:?}", status.last_error));
        }
    }

    /// The engine has let go of the thread and waits for time to pass.
    fn check_rest(&mut self) {
        let mut world = self.world.lock();
        if let Some(held) = &world.held {
            let (sealed, reads) = (held.seal.is_some(), held.reads.len());
            if sealed {
                world.violated("I9: the write lock is held while the engine waits".to_owned());
            }
            if reads != 1 {
                world.violated(format!("I10: {reads} read transactions are open while the engine waits"));
            }
        }
    }

    /// The engine has ended, one way or another.
    fn ended(&mut self) {
        self.judge();
        let Some(running) = self.running.take() else { return };
        let mut world = self.world.lock();
        if let (Some(place), Some(report)) = (running.stopping, running.engine.report()) {
            world.tell(|_| format!("    {report:?}"));
            if report.flushed {
                let checked = world.oracle.covers(report.remote_txid.0, place, "stop");
                world.demand(checked);
            }
        }
        world.end_engine();
    }

    fn drop_engine(&mut self) {
        self.world.lock().end_engine();
        self.running = None;
    }

    fn start_restore(&mut self) {
        if self.restoring.is_some() {
            return;
        }
        self.restores += 1;
        let process = self.world.lock().start_process();
        let output = format!("/restored/{}.db", self.restores);
        let store = Arc::new(SimStore::new(&self.world, &self.clock, process));
        let (disk, clock) = (Arc::new(SimDisk::new(&self.world, process)), self.clock.clone());
        let options = RestoreOptions::new(&output).check(Check::None).parallelism(4);
        let keys = self.reading_keys();
        let task = Task::new(async move { restore(&options, store, keys, disk, clock).await });
        self.restoring = Some(Restoring { task, process, output });
    }

    /// A restore is either exact, or an error that leaves nothing.
    fn restored(&mut self, output: &str, result: replicate::Result<RestoreReport>) {
        let mut world = self.world.lock();
        let found = world.disk.content(output).map(<[u8]>::to_vec);
        match result {
            Err(error) => {
                // Not the path: the name of a temporary file says which process made it, and is never the same twice.
                let error = error.to_string();
                let what = error.split(" path=").next().unwrap_or_default();
                world.tell(|_| format!("    restore: {what}"));
                // The last step of all, making the name durable, may fail when the database has its name.
                let placed = error.to_string().contains("durable");
                if found.is_some() && !placed {
                    world.violated(format!("I2: a failed restore left its output: {error}"));
                }
            }
            Ok(report) => {
                drop(world);
                self.judge_content(output, report.txid.0);
            }
        }
    }

    /// Whether a restored file is what the database was at this id.
    fn judge_content(&mut self, output: &str, txid: u64) -> bool {
        let mut world = self.world.lock();
        let found = world.disk.content(output).map(<[u8]>::to_vec);
        let content = found.zip(world.oracle.page_size_of(txid)).map(|(bytes, size)| Content::of(size, &bytes));
        let restored = content.map(|content| content.hash());
        let exact = restored.is_some() && restored == world.oracle.state_of(txid);
        if !exact {
            world.violated(format!("I2: id {txid} is restored as something else"));
        }
        exact
    }

    /// After the last fault: everything arrives.
    fn converge(&mut self) {
        {
            let mut world = self.world.lock();
            world.heal();
            world.tell(|_| "no more faults".to_owned());
        }
        let start = self.world.lock().now();
        loop {
            for _ in 0..MOST_TURNS {
                if !self.turn() || self.is_over() {
                    break;
                }
            }
            if self.is_over() {
                return;
            }
            let (now, level) = {
                let world = self.world.lock();
                (world.now(), world.current.is_none() || world.oracle.is_level())
            };
            let status = match &self.running {
                None => {
                    self.start();
                    continue;
                }
                Some(running) if running.stopping.is_some() => None,
                Some(running) => Some(running.engine.status()),
            };
            if let Some(status) = status {
                let arrived = status.in_sync && status.local_txid == status.remote_txid;
                // Without a database there is nothing to do better after a listing that had told too little.
                let nothing = self.world.lock().current.is_none();
                if (arrived && level) || nothing {
                    self.world.lock().tell(|_| "level".to_owned());
                    return;
                }
                if now > start + CONVERGES_WITHIN {
                    let what = format!("not level after {CONVERGES_WITHIN:?}: level={level} {status:?}");
                    self.world.lock().violated(what);
                    return;
                }
            }
            self.wait_until(None);
        }
    }

    /// A last sync, a stop, and restores from what is in the store.
    fn finish(&mut self) {
        let place = self.world.lock().oracle.now();
        if let Some(running) = &mut self.running {
            running.stopping = Some(place);
            running.engine.request_stop(Duration::from_secs(30));
        }
        let start = self.world.lock().now();
        while self.running.is_some() && !self.is_over() {
            if !self.turn() && self.running.is_some() {
                if self.world.lock().now() > start + Duration::from_secs(40) {
                    self.world.lock().violated("stop does not end".to_owned());
                }
                self.wait_until(None);
            }
        }
        if self.is_over() {
            return;
        }
        let newest = self.world.lock().oracle.newest();
        if newest == 0 {
            return;
        }
        // Not what the database is now: the engine was the last to have it open, and what a dead writer had written to
        // its end becomes a commit for the next opener.
        let mut world = self.world.lock();
        if world.current.is_some() {
            let checked = world.oracle.covers(newest, place, "a stop without faults");
            world.demand(checked);
        }
        drop(world);
        self.check_restore(Target::Latest, newest);
        let drawn = self.rng.between(1, newest);
        if self.world.lock().oracle.state_of(drawn).is_none() {
            return;
        }
        self.check_restore(Target::Txid(Txid(drawn)), drawn);
        self.check_restore_by_time(drawn);
    }

    fn reading_keys(&self) -> Arc<Keys> {
        self.keys.map_or_else(|| Arc::new(Keys::none()), SimKeys::of_reader)
    }

    /// The host is lost, and another one goes on with what the store has.
    fn move_host(&mut self, skew: i32, seed: u64) {
        if self.world.lock().foreign.is_some() {
            return;
        }
        self.drop_engine();
        self.restoring = None;
        // Only now: what the engine was putting may have arrived when it was gone.
        let newest = self.world.lock().oracle.newest();
        if newest == 0 {
            return;
        }
        let Some(output) = self.check_restore(Target::Latest, newest) else { return };
        let mut world = self.world.lock();
        let found = world.disk.content(&output).map(<[u8]>::to_vec).unwrap_or_default();
        world.move_to(&found, skew, &mut Rng::new(seed));
    }

    /// A restore to the time of an id brings back that one, or another one that is as good: captured by then, and
    /// the next one later.
    fn check_restore_by_time(&mut self, txid: u64) {
        let (created, answers) = {
            let world = self.world.lock();
            let Some(created) = world.oracle.created(txid) else { return };
            (created, world.oracle.ids_at(created))
        };
        let target = Target::Time(Timestamp(created));
        let Some((reached, output)) = self.restore_now(target) else { return };
        if !answers.contains(&reached) {
            let what = format!("I2: restoring the time {created} of id {txid} gave id {reached}, not of {answers:?}");
            self.world.lock().violated(what);
        }
        self.judge_content(&output, reached);
    }

    /// Restores by the engine's own code from the objects as they are. The output, if it was the right id.
    fn check_restore(&mut self, target: Target, txid: u64) -> Option<String> {
        let (reached, output) = self.restore_now(target)?;
        if reached != txid {
            self.world.lock().violated(format!("I2: restoring id {txid} gave {reached}"));
        }
        self.judge_content(&output, reached).then_some(output)
    }

    /// Nothing else happens meanwhile, and nothing fails: the judge is on a machine of its own.
    fn restore_now(&mut self, target: Target) -> Option<(u64, String)> {
        let trouble = self.world.lock().disk.take_trouble();
        let restored = self.restore_soundly(target);
        self.world.lock().disk.put_trouble(trouble);
        restored
    }

    fn restore_soundly(&mut self, target: Target) -> Option<(u64, String)> {
        self.judged += 1;
        let output = format!("/judged/{}.db", self.judged);
        let store = Arc::new(SimStore::sound(&self.world, &self.clock));
        let disk = Arc::new(SimDisk::new(&self.world, JUDGE));
        let clock = Arc::new(InstantClock(self.clock.clone()));
        let options = RestoreOptions::new(&output).check(Check::None).target(target).parallelism(4);
        let keys = self.reading_keys();
        let mut task = Task::new(async move { restore(&options, store, keys, disk, clock).await });
        for _ in 0..MOST_TURNS {
            match task.poll() {
                Ok(Ok(report)) => return Some((report.txid.0, output)),
                // Where a clock was set back, the first id may be later than the time of one that follows.
                Ok(Err(error)) if matches!(target, Target::Time(_)) && error.kind() == ErrorKind::NoBackup => {
                    let late = matches!(target, Target::Time(time) if self.world.lock().oracle.begins_after(time.0));
                    if !late {
                        self.world.lock().violated(format!("I2: {target:?} cannot be restored: {error}"));
                    }
                    return None;
                }
                Ok(Err(error)) => {
                    self.world.lock().violated(format!("I2: {target:?} cannot be restored: {error}"));
                    return None;
                }
                Err(_) => {}
            }
        }
        self.world.lock().violated("a restore does not end".to_owned());
        None
    }
}

/// Bytes in the spool beyond which capture should have paused, if it has not. The first file that waits is under way,
/// and may be an image; a capture that began below the limit goes on until it has caught up with the writers.
fn beyond_limit(disk: &Files, remote: u64) -> Option<u64> {
    let file = |path: String| {
        let txids = parse_ltx_file_name(path.rsplit('/').next()?)?;
        (txids.max().0 > remote).then(|| (txids.max(), disk.content(&path).map_or(0, <[u8]>::len) as u64))
    };
    let mut waiting: Vec<_> = disk.find("/spool/").into_iter().filter_map(file).collect();
    waiting.sort_unstable();
    let counted = waiting.get(1..)?;
    let bytes = counted.iter().map(|(_, bytes)| bytes).sum();
    (bytes > SPOOL_LIMIT + CATCHING_UP).then_some(bytes)
}

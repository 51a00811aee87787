//! Everything outside of the engine: databases, disk, store, time, and the steps that change them.
//!
//! The engine runs on one thread and calls the world; each call is a point at which other processes may run first
//! ([`World::point`]), so steps happen in the middle of the engine's work as they do in life.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use replicate::Timestamp;
use replicate_format::PageSize;

use super::clock::Time;
use super::db::Database;
use super::disk::Files;
use super::door::Held;
use super::keys::SimKeys;
use super::oracle::Oracle;
use super::rng::Rng;
use super::step::{Manner, PAGE_SIZES, Schedule, Step, When};
use super::store::Objects;

/// The folder of the engine's state.
pub const STATE: &str = "/db/.app.db-replicate";
/// The database.
pub const DATABASE: &str = "/db/app.db";

/// The process of the judge: it is always there, and nobody else does anything while it works.
pub const JUDGE: u32 = 0;

/// What neither a listing that lies nor another writer explains.
const UNEXPLAINED: [&str; 7] = ["I7", "I9", "I10", "I11", "I14", "the schedule does not end", "a restore does not end"];

/// A step of [`When::Calls`] is taken after this time at the latest.
const PATIENCE: Duration = Duration::from_secs(1);

/// The world, shared by all who are in it.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<World>>);

impl Shared {
    /// Enters it.
    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of the host at some time.
#[derive(Debug)]
pub struct Host {
    pub files: Vec<Database>,
    pub current: Option<usize>,
    pub disk: Files,
}

/// See the module.
#[derive(Debug)]
pub struct World {
    pub time: Time,
    /// How far the wall clock is off.
    pub skew: i64,
    /// Every database file there has been.
    pub files: Vec<Database>,
    /// The one that the path names.
    pub current: Option<usize>,
    pub held: Option<Held>,
    pub doors: u64,
    pub disk: Files,
    pub store: Objects,
    pub manner: Manner,
    pub oracle: Oracle,
    pub saved: Option<Host>,
    /// Processes that run.
    alive: BTreeSet<u32>,
    /// That of the engine.
    pub engine: Option<u32>,
    processes: u32,
    pub steps: VecDeque<Step>,
    points: u64,
    /// Points and time when the last step was taken.
    last: (u64, Duration),
    pub door_errors: u64,
    pub door_errors_until: Duration,
    pub disk_errors_until: Duration,
    pub disk_full_until: Duration,
    rng: Rng,
    pub violation: Option<String>,
    /// The WAL was written.
    pub rang: bool,
    /// A listing that was made for the engine did not show all there is.
    pub lied: bool,
    /// What the engine knew on this host was lost in part or as a whole.
    pub damaged: bool,
    /// Another writer has stored this id, when this process was the engine.
    pub foreign: Option<(u64, Option<u32>)>,
    /// The process of the engine that knows how its chain and the one of the store go together.
    pub level_headed: Option<u32>,
    /// The engine cannot know better: what follows proves nothing.
    pub inconclusive: bool,
    pub trace: Option<Vec<String>>,
}

impl World {
    /// A new host with a small database, and an empty store.
    pub fn shared(schedule: &Schedule, traced: bool) -> Shared {
        let mut rng = Rng::new(schedule.seed ^ 0x0051_1e57);
        let page_size = page_size(rng.below(8) as u8);
        let pages = rng.between(1, 12) as u32;
        let mut database = Database::new((1, 1), page_size, pages, rng.percent(90), 1);
        database.full_sync = rng.percent(30);
        let mut oracle = Oracle::default();
        oracle.observe(&database.state);
        let store = Objects {
            objects: std::collections::BTreeMap::new(),
            troubles: Vec::new(),
            rng: Rng::new(rng.bits()),
            s3: rng.percent(50),
        };
        let mut disk = Files::default();
        disk.rng = Some(Rng::new(rng.bits()));
        let world = Self {
            time: Time::default(),
            skew: 0,
            files: vec![database],
            current: Some(0),
            held: None,
            doors: 0,
            disk,
            store,
            manner: schedule.manner,
            oracle,
            saved: None,
            alive: BTreeSet::new(),
            engine: None,
            processes: 0,
            steps: schedule.steps.iter().copied().collect(),
            points: 0,
            last: (0, Duration::ZERO),
            door_errors: 0,
            door_errors_until: Duration::ZERO,
            disk_errors_until: Duration::ZERO,
            disk_full_until: Duration::ZERO,
            rng,
            violation: None,
            rang: false,
            lied: false,
            damaged: false,
            foreign: None,
            level_headed: None,
            inconclusive: false,
            trace: traced.then(Vec::new),
        };
        Shared(Arc::new(Mutex::new(world)))
    }

    pub fn now(&self) -> Duration {
        self.time.now
    }

    /// The wall clock of the host.
    pub fn wall(&self) -> Timestamp {
        Timestamp(1_700_000_000_000 + self.time.now.as_millis() as i64 + self.skew)
    }

    /// The wall clock of the store.
    pub fn store_wall(&self) -> Timestamp {
        Timestamp(1_700_000_000_000 + self.time.now.as_millis() as i64 + i64::from(self.manner.store_ahead))
    }

    /// A generator for what no step draws.
    pub fn chance(&mut self) -> Rng {
        Rng::new(self.rng.bits())
    }

    /// Notes something for whoever reads the story of a failure.
    pub fn tell(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let text = format!("{:>9.3}s {:>5} {}", self.time.now.as_secs_f64(), self.points, line(self));
            self.trace.get_or_insert_default().push(text);
        }
    }

    /// Notes that a promise was broken; the first one counts.
    pub fn violated(&mut self, what: String) {
        // A listing that lies is caught by what the host remembers; without that nothing can catch it.
        let unexplained = UNEXPLAINED.iter().any(|kind| what.starts_with(kind));
        let foreign = self.foreign.is_some() && !what.starts_with("I4");
        if !unexplained && (self.lied && self.damaged || foreign) {
            self.inconclusive = true;
            return;
        }
        self.tell(|_| format!("VIOLATION {what}"));
        self.violation.get_or_insert(what);
    }

    /// Notes what a check found.
    pub fn demand(&mut self, checked: Result<(), String>) {
        if let Err(what) = checked {
            self.violated(what);
        }
    }

    /// An object is in the store.
    pub fn stored(&mut self, key: &str, body: &[u8]) {
        if self.foreign.is_some() {
            return;
        }
        let checked = match SimKeys::of(self.manner) {
            None => self.oracle.stored(key, body),
            Some(keys) => self.oracle.sealed(key, body, &keys.of_reader()),
        };
        self.tell(|w| format!("    stored {key} bytes={} commit {:?}", body.len(), w.oracle.newest_place()));
        self.demand(checked);
    }

    /// Looks at what the database is now.
    pub fn observe(&mut self) {
        if let Some(file) = self.current {
            self.oracle.observe(&self.files[file].state);
        }
    }

    /// A process starts.
    pub fn start_process(&mut self) -> u32 {
        self.processes += 1;
        self.alive.insert(self.processes);
        self.processes
    }

    /// Whether a process runs.
    pub fn is_alive(&self, process: u32) -> bool {
        process == JUDGE || self.alive.contains(&process)
    }

    /// The engine's process is killed, or has ended.
    pub fn end_engine(&mut self) {
        if let Some(process) = self.engine.take() {
            self.alive.remove(&process);
            if let Some(held) = &self.held {
                self.release(held.number);
            }
            self.disk.unlock();
        }
    }

    /// Every process is gone.
    pub fn end_all(&mut self) {
        self.end_engine();
        self.alive.clear();
        self.held = None;
    }

    /// A door is closed.
    pub fn release(&mut self, number: u64) {
        if let Some(mut held) = self.held.take_if(|held| held.number == number) {
            self.files[held.file].engine_closes(&mut held.reads, held.seal.take());
            self.observe();
        }
    }

    /// Whether a call to the database fails.
    pub fn door_fails(&mut self) -> bool {
        let percent = if self.time.now < self.door_errors_until { self.door_errors } else { 0 };
        percent > 0 && self.rng.percent(percent)
    }

    /// A process calls the world: steps that are due are taken first, unless they need the caller to wait.
    pub fn point(&mut self, process: u32) {
        if process == JUDGE {
            return;
        }
        self.points += 1;
        if self.is_alive(process) {
            self.take_steps();
        }
    }

    /// Takes the steps that are due, up to one that only the driver can take.
    pub fn take_steps(&mut self) {
        self.disk.full = self.time.now < self.disk_full_until;
        if self.time.now >= self.disk_errors_until {
            self.disk.errors = 0;
        }
        while let Some(step) = self.steps.front().copied()
            && self.is_due(&step)
            && !step.is_for_driver()
        {
            self.pop_step();
            self.take(&step);
        }
    }

    /// The next step, if it is due.
    pub fn pop_due(&mut self) -> Option<Step> {
        let step = self.steps.front().copied().filter(|step| self.is_due(step))?;
        self.pop_step();
        Some(step)
    }

    fn pop_step(&mut self) {
        self.steps.pop_front();
        self.last = (self.points, self.time.now);
    }

    fn is_due(&self, step: &Step) -> bool {
        match step.when {
            When::Calls(calls) => {
                self.points - self.last.0 >= u64::from(calls) || self.time.now >= self.last.1 + PATIENCE
            }
            When::Millis(_) => self.time.now >= self.due(step),
        }
    }

    fn due(&self, step: &Step) -> Duration {
        match step.when {
            When::Calls(_) => self.last.1 + PATIENCE,
            When::Millis(millis) => self.last.1 + Duration::from_millis(millis.into()),
        }
    }

    /// When the next step is due at the latest.
    pub fn next_step(&self) -> Option<Duration> {
        self.steps.front().map(|step| self.due(step))
    }
}

/// A page size by number.
pub fn page_size(number: u8) -> PageSize {
    PageSize::new(PAGE_SIZES[number as usize % PAGE_SIZES.len()]).expect("sizes of SQLite")
}

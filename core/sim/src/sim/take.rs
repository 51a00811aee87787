//! What each step does to the world.

use std::time::Duration;

use super::db::copy::Mode;
use super::db::{Change, Database, Who};
use super::disk::Files;
use super::rng::Rng;
use super::step::{Place, Step, What};
use super::store::Present;
use super::stored::Loss;
use super::world::{Host, STATE, World, page_size};

/// Databases stay small: what matters is the order of things.
const MOST_PAGES: u32 = 40;

impl Step {
    /// Whether it acts on the engine from outside, so that the engine must have let go of the thread.
    pub fn is_for_driver(&self) -> bool {
        matches!(self.what, What::Start | What::Stop { .. } | What::Sync | What::Restore | What::Move { .. })
    }
}

fn millis(n: u32) -> Duration {
    Duration::from_millis(n.into())
}

impl World {
    /// Takes a step.
    pub fn take(&mut self, step: &Step) {
        let mut rng = Rng::new(step.seed);
        self.tell(|_| format!("{:?}", step.what));
        self.take_what(step.what, &mut rng);
        self.observe();
        self.tell(|w| {
            let view = w.current.map(|file| {
                let database = &w.files[file];
                let index = database.index.as_ref().map(|i| (i.max_frame, i.backfilled, i.salts.salt2 >> 20));
                (file, database.state.pages.len(), index)
            });
            format!("    commit {} {view:?}", w.oracle.now())
        });
    }

    fn take_what(&mut self, what: What, rng: &mut Rng) {
        let now = self.now();
        match what {
            What::Commit { pages, grow } => self.commit(pages, grow, rng),
            What::Vacuum { shrink } => self.vacuum(shrink, rng),
            What::Burst { commits } => {
                for _ in 0..commits {
                    self.commit(1, 0, rng);
                    self.observe();
                }
            }
            What::Replace { page_size: size, pages } => {
                let id = (1, self.files.len() as u64 + 1);
                let stamp = (self.files.len() as u64) << 40 | rng.bits() >> 40;
                self.abandon();
                self.files.push(Database::new(id, page_size(size), pages.into(), true, stamp));
                self.current = Some(self.files.len() - 1);
            }
            What::Remove => {
                self.abandon();
                self.current = None;
            }
            What::Kill => self.end_engine(),
            What::PowerLoss(loss) => self.lose_power(loss, rng),
            What::RemoveState if self.engine.is_none() => {
                self.damaged = true;
                self.disk.remove_tree(STATE);
            }
            What::SaveHost => {
                let (files, disk) = (self.files.clone(), self.disk.clone());
                self.saved = Some(Host { files, current: self.current, disk });
            }
            What::RemoveSpool => {
                self.damaged = true;
                self.disk.remove_tree(&format!("{STATE}/spool"));
            }
            What::RevertHost if self.engine.is_none() => {
                if let Some(saved) = self.saved.take() {
                    self.damaged = true;
                    self.end_all();
                    (self.files, self.current, self.disk) = (saved.files, saved.current, saved.disk);
                    self.lose_power(Loss::None, rng);
                    for database in &mut self.files {
                        database.restamp(rng.between(1, 1000));
                    }
                }
            }
            What::DiskFull { millis: n } => self.disk_full_until = now + millis(n),
            What::DiskErrors { percent, millis: n } => {
                self.disk.errors = percent.into();
                self.disk_errors_until = now + millis(n);
            }
            What::DoorErrors { percent, millis: n } => {
                self.door_errors = percent.into();
                self.door_errors_until = now + millis(n);
            }
            What::Rot(place) => self.rot(place, rng),
            What::Store { trouble, percent, millis: n } => {
                let until = now + millis(n);
                self.store.troubles.push(Present { trouble, percent: percent.into(), until });
            }
            What::Foreign => self.foreign_object(),
            What::Jump { millis } => self.skew += i64::from(millis),
            other => self.take_on_database(other, rng),
        }
    }

    fn take_on_database(&mut self, what: What, rng: &mut Rng) {
        let Some(file) = self.current else { return };
        let database = &mut self.files[file];
        let alone = !database.engine_open && !database.app_open;
        match what {
            What::Begin { spilled } if database.app_txn.is_none() && opens(database) => {
                if let Some(mut txn) = database.begin_write(Who::App) {
                    if spilled > 0 {
                        let size = database.state.pages.len() as u32;
                        let pages = (0..spilled).map(|_| rng.word() % MOST_PAGES).collect();
                        database.write(&mut txn, &Change { pages, size, again: true }, false, rng);
                        self.rang = true;
                    }
                    database.app_txn = Some(txn);
                }
            }
            What::End { commit } => {
                if let Some(mut txn) = database.app_txn.take() {
                    if commit {
                        let size = database.state.pages.len() as u32;
                        let pages = vec![rng.word() % MOST_PAGES];
                        database.write(&mut txn, &Change { pages, size, again: false }, true, rng);
                        database.publish(txn, size);
                        self.rang = true;
                    } else {
                        database.roll_back(txn);
                    }
                }
            }
            What::Read if database.app_reads.len() < 2 && opens(database) => {
                if let Some(read) = database.begin_read(false) {
                    database.app_reads.push(read);
                }
            }
            What::EndRead if !database.app_reads.is_empty() => {
                let read = database.app_reads.remove(0);
                database.end_read(read);
            }
            What::Checkpoint(mode) if database.app_txn.is_none() && opens(database) => {
                database.checkpoint(Who::App, mode, rng);
            }
            What::BeginCopy { pages } if database.app_txn.is_none() && opens(database) && database.begin_copy() => {
                database.copy_some(pages.into());
            }
            What::EndCopy => database.end_copy(),
            What::Close => database.app_closes(),
            What::Die => database.app_dies(),
            What::DieCommitting if database.app_txn.is_none() && opens(database) => {
                if let Some(mut txn) = database.begin_write(Who::App) {
                    let size = database.state.pages.len() as u32;
                    let change = Change { pages: vec![rng.word(), rng.word()], size, again: false };
                    database.write(&mut txn, &change, true, rng);
                    database.roll_back(txn);
                    self.rang = true;
                }
                database.app_dies();
            }
            What::FullSync(on) => database.full_sync = on,
            What::RemoveWal if alone => {
                database.wal = None;
                database.settle_state();
            }
            What::Rewrite { page_size: size, pages, wal_mode } if alone => {
                database.rewrite(page_size(size), pages.into(), wal_mode);
            }
            _ => {}
        }
    }

    fn commit(&mut self, pages: u8, grow: i8, rng: &mut Rng) {
        let pages = (0..pages).map(|_| rng.word() % MOST_PAGES).collect();
        self.commit_pages(pages, grow, rng);
    }

    /// All pages in one commit, as VACUUM writes them.
    fn vacuum(&mut self, shrink: u8, rng: &mut Rng) {
        self.commit_pages((0..MOST_PAGES).collect(), -(shrink as i8), rng);
    }

    fn commit_pages(&mut self, pages: Vec<u32>, grow: i8, rng: &mut Rng) {
        let Some(file) = self.current else { return };
        let database = &mut self.files[file];
        if database.app_txn.is_some() {
            return;
        }
        if !database.wal_mode {
            // Outside of WAL mode a commit is a new content of the file.
            if !database.engine_open {
                let (size, pages) = (database.page_size, database.state.pages.len() as u32);
                database.rewrite(size, pages, false);
            }
            return;
        }
        opens(database);
        let Some(mut txn) = database.begin_write(Who::App) else { return };
        let before = database.state.pages.len() as u32;
        let size = before.saturating_add_signed(grow.into()).clamp(1, MOST_PAGES);
        let change = Change { pages, size, again: rng.percent(20) };
        database.write(&mut txn, &change, true, rng);
        database.publish(txn, size);
        self.rang = true;
        // SQLite's default is 1,000 pages; here everything is small.
        let index = database.index.as_ref();
        if rng.percent(30) && index.is_some_and(|index| index.max_frame > 12) {
            database.checkpoint(Who::App, Mode::Passive, rng);
        }
    }

    /// The host is lost with all that was on it; another one has this database and nothing else.
    pub fn move_to(&mut self, database: &[u8], skew: i32, rng: &mut Rng) {
        self.abandon();
        self.end_all();
        self.damaged = true;
        self.skew = i64::from(skew);
        let rng_of_disk = self.disk.rng.take();
        self.disk = Files::default();
        self.disk.rng = rng_of_disk;
        let id = (2, self.files.len() as u64 + 1);
        let stamp = (self.files.len() as u64) << 40 | rng.bits() >> 40;
        self.files.push(Database::of_bytes(id, database, stamp));
        self.current = Some(self.files.len() - 1);
        self.observe();
    }

    /// The application lets go of the file that the path names, for good.
    fn abandon(&mut self) {
        if let Some(file) = self.current {
            self.files[file].app_dies();
        }
    }

    fn lose_power(&mut self, loss: Loss, rng: &mut Rng) {
        self.end_all();
        for database in &mut self.files {
            database.lose_power(loss, rng);
        }
        // The database and the engine's files may lie on disks of different manners.
        let other = if rng.percent(50) { loss } else { Loss::draw(rng) };
        self.damaged |= other != Loss::None;
        self.disk.lose_power(other, rng);
        if let Some(file) = self.current {
            self.files[file].settle_state();
        }
    }

    fn rot(&mut self, place: Place, rng: &mut Rng) {
        let part = match place {
            Place::Spool => "/spool/",
            Place::Ledger => "/ledger",
            Place::State => "/state",
        };
        let found = self.disk.find(part);
        if !found.is_empty() {
            let path = found[rng.index(found.len())].clone();
            let at = self.disk.rot(&path, rng);
            self.damaged = true;
            self.tell(|_| format!("    {path} at {at:?}"));
        }
    }

    /// No more faults.
    pub fn heal(&mut self) {
        self.store.troubles.clear();
        self.door_errors = 0;
        self.disk.errors = 0;
        self.disk.full = false;
        (self.disk_full_until, self.disk_errors_until) = (Duration::ZERO, Duration::ZERO);
        if let Some(file) = self.current {
            let database = &mut self.files[file];
            if let Some(txn) = database.app_txn.take() {
                database.roll_back(txn);
            }
            database.end_copy();
            for read in std::mem::take(&mut database.app_reads) {
                database.end_read(read);
            }
        }
    }
}

/// The application has the database open, or opens it.
fn opens(database: &mut Database) -> bool {
    if database.wal_mode {
        database.app_opens();
    }
    database.wal_mode
}

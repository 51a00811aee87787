//! The door of the engine to the modelled database.

use std::path::Path;
use std::sync::MutexGuard;
use std::time::Duration;

use replicate::simulation::{Attach, Door, Identity, WalView};
use replicate::sqlite::Checkpoint;
use replicate::{Error, ErrorKind, Result};
use replicate_format::PageSize;

use super::db::copy::Mode;
use super::db::{Database, Read, Txn, Who};
use super::world::{Shared, World};

/// What the engine holds of a database.
#[derive(Debug)]
pub struct Held {
    pub number: u64,
    pub file: usize,
    pub reads: Vec<Read>,
    pub seal: Option<Txn>,
}

/// Opens doors for one process.
#[derive(Debug)]
pub struct SimAttach {
    world: Shared,
    process: u32,
}

impl SimAttach {
    pub fn new(world: &Shared, process: u32) -> Self {
        Self { world: world.clone(), process }
    }
}

#[derive(Debug)]
struct SimDoor {
    world: Shared,
    process: u32,
    number: u64,
    file: usize,
    wal_id: u64,
    page_size: PageSize,
}

fn gone() -> Error {
    Error::new(ErrorKind::Database, "the process is gone")
}

fn busy() -> Error {
    Error::new(ErrorKind::Busy, "database is locked")
}

/// Other things happen first; then the process may be gone, or the call fails.
fn enter(world: &Shared, process: u32) -> Result<MutexGuard<'_, World>> {
    let mut world = world.lock();
    world.point(process);
    if !world.is_alive(process) {
        return Err(gone());
    }
    if world.door_fails() {
        return Err(busy());
    }
    Ok(world)
}

impl Attach for SimAttach {
    fn attach(&self, _path: &Path) -> Result<Option<Box<dyn Door>>> {
        let mut world = enter(&self.world, self.process)?;
        let Some(file) = world.current else { return Ok(None) };
        let database = &mut world.files[file];
        if !database.wal_mode {
            if database.app_open {
                return Err(busy());
            }
            database.switch_to_wal();
        }
        database.open();
        database.engine_open = true;
        let read = database.begin_read(false);
        let (wal_id, page_size) = (database.wal_id, database.page_size);
        let Some(read) = read else {
            database.engine_closes(&mut Vec::new(), None);
            return Err(busy());
        };
        world.doors += 1;
        let number = world.doors;
        world.held = Some(Held { number, file, reads: vec![read], seal: None });
        world.observe();
        world.tell(|w| {
            let index = w.files[file].index.as_ref().map(|i| (i.max_frame, i.pages, i.backfilled, i.salts));
            format!("    attached, commit {} {index:?}", w.oracle.now())
        });
        let (world, process) = (self.world.clone(), self.process);
        Ok(Some(Box::new(SimDoor { world, process, number, file, wal_id, page_size })))
    }
}

impl SimDoor {
    fn enter(&self) -> Result<MutexGuard<'_, World>> {
        enter(&self.world, self.process)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Database, &mut Held) -> Result<T>) -> Result<T> {
        let mut world = self.enter()?;
        let world = &mut *world;
        match &mut world.held {
            Some(held) if held.number == self.number => work(&mut world.files[self.file], held),
            _ => Err(gone()),
        }
    }
}

impl Door for SimDoor {
    fn identity(&self) -> Result<Identity> {
        let world = self.enter()?;
        Ok(match world.current {
            None => Identity::Missing,
            Some(file) if file != self.file => Identity::Replaced,
            Some(file) if world.files[file].wal_id != self.wal_id => Identity::WalReplaced,
            Some(_) => Identity::Same,
        })
    }

    fn file(&self) -> (u64, u64) {
        self.world.lock().files[self.file].id
    }

    fn look(&self) -> Result<WalView> {
        self.with(|database, _| {
            let index = database.index.as_ref().ok_or_else(gone)?;
            Ok(WalView {
                salts: index.salts,
                max_frame: index.max_frame,
                frame_checksum: index.checksum,
                page_count: index.pages,
                backfilled: index.backfilled,
                page_size: index.page_size.unwrap_or(self.page_size),
            })
        })
    }

    fn read_wal(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.with(|database, _| Ok(database.wal.as_ref().map_or(0, |wal| wal.read(offset, buf))))
    }

    fn read_database(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.with(|database, _| Ok(database.main.read(offset, buf)))
    }

    fn file_pages(&self, page_size: PageSize) -> Result<u32> {
        self.with(|database, _| Ok((database.main.len() / page_size.len()) as u32))
    }

    fn pin(&mut self) -> Result<()> {
        self.with(|database, held| {
            if held.reads.len() > 1 {
                return Err(Error::internal("both readers hold a transaction"));
            }
            held.reads.push(database.begin_read(false).ok_or_else(busy)?);
            Ok(())
        })
    }

    fn unpin_older(&mut self) -> Result<()> {
        self.with(|database, held| {
            if held.reads.len() < 2 {
                return Err(Error::internal("the last read transaction would end"));
            }
            database.end_read(held.reads.remove(0));
            Ok(())
        })
    }

    fn unpin_newer(&mut self) -> Result<()> {
        self.with(|database, held| {
            if held.reads.len() < 2 {
                return Err(Error::internal("the last read transaction would end"));
            }
            if let Some(read) = held.reads.pop() {
                database.end_read(read);
            }
            Ok(())
        })
    }

    fn pins(&self) -> usize {
        let world = self.world.lock();
        world.held.as_ref().filter(|held| held.number == self.number).map_or(0, |held| held.reads.len())
    }

    fn checkpoint(&mut self) -> Result<Checkpoint> {
        let mut world = self.enter()?;
        let mut rng = world.chance();
        let copied = world.files[self.file].checkpoint(Who::Engine, Mode::Passive, &mut rng);
        Ok(Checkpoint { busy: copied.busy, log: copied.log, copied: copied.copied })
    }

    fn sync_database(&self) -> Result<()> {
        // The model's checkpoints bring what they copy to the disk themselves.
        Ok(())
    }

    fn seal(&mut self, _patience: Duration) -> Result<bool> {
        self.with(|database, held| {
            let Some(txn) = database.begin_write(Who::Engine) else { return Ok(false) };
            held.seal = Some(txn);
            Ok(true)
        })
    }

    fn unseal(&mut self) -> Result<()> {
        // Others may run first, but giving a lock back does not fail.
        let mut world = self.world.lock();
        world.point(self.process);
        let world = &mut *world;
        if let Some(held) = &mut world.held
            && held.number == self.number
            && let Some(txn) = held.seal.take()
        {
            world.files[self.file].roll_back(txn);
        }
        Ok(())
    }
}

impl Drop for SimDoor {
    fn drop(&mut self) {
        self.world.lock().release(self.number);
    }
}

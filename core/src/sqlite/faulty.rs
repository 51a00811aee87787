//! A door for tests: the real one, whose calls can be refused and whose looks can be falsified.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use replicate_format::PageSize;

use super::{Attach, Braking, Checkpoint, Door, Identity, WalView};
use crate::error::{Error, ErrorKind, Result};

type Twist = Box<dyn FnMut(&mut WalView) + Send>;
type Hook = Box<dyn FnMut() + Send>;
type Spoil = Box<dyn FnMut(u64, &mut [u8]) + Send>;

/// What is to go wrong, and what was done; shared with the doors that obey it.
#[derive(Default)]
pub(crate) struct Script {
    /// Calls of a name that are refused: how many to let through first, how many then.
    refused: Mutex<BTreeMap<&'static str, (u32, u32)>>,
    twist: Mutex<Option<Twist>>,
    spoil: Mutex<Option<Spoil>>,
    hooks: Mutex<BTreeMap<&'static str, Hook>>,
    calls: Mutex<BTreeMap<&'static str, u32>>,
    /// Somebody else is said to copy frames back.
    pub(crate) copied_back: AtomicBool,
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Script")
    }
}

impl Script {
    /// After `skip` calls of this name, `times` are answered with `Busy`.
    pub(crate) fn refuse(&self, call: &'static str, skip: u32, times: u32) {
        self.refused.lock().unwrap().insert(call, (skip, times));
    }

    /// Every look is changed by this.
    pub(crate) fn twist(&self, twist: impl FnMut(&mut WalView) + Send + 'static) {
        *self.twist.lock().unwrap() = Some(Box::new(twist));
    }

    /// Whatever is read of the WAL is changed by this; it is told the offset.
    pub(crate) fn spoil(&self, spoil: impl FnMut(u64, &mut [u8]) + Send + 'static) {
        *self.spoil.lock().unwrap() = Some(Box::new(spoil));
    }

    /// Before every call of this name something happens.
    pub(crate) fn before(&self, call: &'static str, hook: impl FnMut() + Send + 'static) {
        self.hooks.lock().unwrap().insert(call, Box::new(hook));
    }

    /// Nothing goes wrong any more.
    pub(crate) fn clear(&self) {
        self.refused.lock().unwrap().clear();
        self.hooks.lock().unwrap().clear();
        *self.twist.lock().unwrap() = None;
        *self.spoil.lock().unwrap() = None;
    }

    /// How often a call was made.
    pub(crate) fn calls(&self, call: &'static str) -> u32 {
        self.calls.lock().unwrap().get(call).copied().unwrap_or(0)
    }

    fn count(&self, call: &'static str) {
        *self.calls.lock().unwrap().entry(call).or_default() += 1;
    }

    fn meet(&self, call: &'static str) -> Result<()> {
        self.count(call);
        if let Some(hook) = self.hooks.lock().unwrap().get_mut(call) {
            hook();
        }
        match self.refused.lock().unwrap().get_mut(call) {
            Some((skip, _)) if *skip > 0 => *skip -= 1,
            Some((_, times)) if *times > 0 => {
                *times -= 1;
                return Err(Error::new(ErrorKind::Busy, format!("{call}: busy, says the test")));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Attaches doors that obey a script.
#[derive(Debug)]
pub(crate) struct FaultyAttach {
    pub(crate) inner: Arc<dyn Attach>,
    pub(crate) script: Arc<Script>,
}

impl Attach for FaultyAttach {
    fn attach(&self, path: &Path) -> Result<Option<Box<dyn Door>>> {
        self.script.meet("attach")?;
        let script = self.script.clone();
        Ok(self.inner.attach(path)?.map(|inner| Box::new(FaultyDoor { inner, script }) as Box<dyn Door>))
    }
}

#[derive(Debug)]
struct FaultyDoor {
    inner: Box<dyn Door>,
    script: Arc<Script>,
}

impl Door for FaultyDoor {
    fn identity(&self) -> Result<Identity> {
        self.script.meet("identity")?;
        self.inner.identity()
    }
    fn file(&self) -> (u64, u64) {
        self.inner.file()
    }
    fn look(&self) -> Result<WalView> {
        self.script.meet("look")?;
        let mut view = self.inner.look()?;
        if let Some(twist) = &mut *self.script.twist.lock().unwrap() {
            twist(&mut view);
        }
        Ok(view)
    }
    fn read_wal(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.script.meet("read_wal")?;
        let read = self.inner.read_wal(offset, buf)?;
        if let Some(spoil) = &mut *self.script.spoil.lock().unwrap() {
            spoil(offset, &mut buf[..read]);
        }
        Ok(read)
    }
    fn read_database(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.script.meet("read_database")?;
        self.inner.read_database(offset, buf)
    }
    fn file_pages(&self, page_size: PageSize) -> Result<u32> {
        self.inner.file_pages(page_size)
    }
    fn pin(&mut self) -> Result<()> {
        self.script.meet("pin")?;
        self.inner.pin()
    }
    fn unpin_older(&mut self) -> Result<()> {
        self.script.meet("unpin_older")?;
        self.inner.unpin_older()
    }
    fn unpin_newer(&mut self) -> Result<()> {
        self.script.meet("unpin_newer")?;
        self.inner.unpin_newer()
    }
    fn pins(&self) -> usize {
        self.inner.pins()
    }
    fn checkpoint(&mut self) -> Result<Checkpoint> {
        self.script.meet("checkpoint")?;
        self.inner.checkpoint()
    }
    fn sync_database(&self) -> Result<()> {
        self.script.meet("sync_database")?;
        self.inner.sync_database()
    }
    fn seal(&mut self, patience: Duration) -> Result<bool> {
        self.script.meet("seal")?;
        let sealed = self.inner.seal(patience)?;
        if sealed {
            self.script.count("sealed");
        }
        Ok(sealed)
    }
    fn unseal(&mut self) -> Result<()> {
        self.script.meet("unseal")?;
        self.inner.unseal()
    }
    fn brake(&mut self, how: Braking) -> Result<()> {
        self.script.meet("brake")?;
        if how != Braking::Off {
            self.script.count("braked");
        }
        self.inner.brake(how)
    }
    fn rest(&self) {
        self.inner.rest();
    }
    fn is_copied_back(&self) -> Result<bool> {
        Ok(self.script.copied_back.load(Ordering::Relaxed) || self.inner.is_copied_back()?)
    }
}

//! Our own files: a disk on which only what was synced is sure to survive a loss of power.
//!
//! Content of a file is durable after its own sync; a name is durable after a sync of the folder it is in, that of
//! a folder too. A loss of power leaves any part of the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::MutexGuard;

use replicate::Timestamp;
use replicate::disk::{Disk, DiskEntry, DiskFile, DiskLock};

use super::rng::Rng;
use super::stored::{Loss, Stored};
use super::world::{Shared, World};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Node {
    Folder,
    File(usize),
}

#[derive(Clone, Debug)]
enum Naming {
    Set(String, Node),
    Unset(String),
    Move(String, String, Node),
}

/// The files.
#[derive(Clone, Debug, Default)]
pub struct Files {
    contents: Vec<(Stored, Timestamp)>,
    names: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    /// Changes of names since the folder was synced.
    pending: BTreeMap<String, Vec<Naming>>,
    locks: BTreeSet<String>,
    /// Calls fail so many times in a hundred.
    pub errors: u64,
    /// Nothing more can be written.
    pub full: bool,
    pub rng: Option<Rng>,
}

fn text(path: &Path) -> String {
    path.to_str().unwrap_or_default().to_owned()
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no such file {path}"))
}

impl Files {
    fn name(&mut self, change: Naming) {
        let folder = match &change {
            Naming::Set(path, node) => {
                self.names.insert(path.clone(), *node);
                parent(path)
            }
            Naming::Unset(path) => {
                self.names.remove(path);
                parent(path)
            }
            Naming::Move(from, to, node) => {
                self.names.remove(from);
                self.names.insert(to.clone(), *node);
                parent(to)
            }
        };
        let folder = folder.to_owned();
        self.pending.entry(folder).or_default().push(change);
    }

    fn apply(durable: &mut BTreeMap<String, Node>, change: &Naming) {
        match change {
            Naming::Set(path, node) => {
                durable.insert(path.clone(), *node);
            }
            Naming::Unset(path) => {
                durable.remove(path);
            }
            Naming::Move(from, to, node) => {
                durable.remove(from);
                durable.insert(to.clone(), *node);
            }
        }
    }

    /// Power is lost.
    pub fn lose_power(&mut self, loss: Loss, rng: &mut Rng) {
        self.locks.clear();
        let mut names = std::mem::take(&mut self.durable);
        for changes in std::mem::take(&mut self.pending).into_values() {
            for change in &changes {
                let landed = match loss {
                    Loss::All => false,
                    Loss::None => true,
                    Loss::Some => rng.percent(50),
                };
                if landed {
                    Self::apply(&mut names, change);
                }
            }
        }
        // What lies in a folder that has no name is gone.
        let all = names.clone();
        let mut gone: Vec<String> = Vec::new();
        for path in all.keys() {
            let folder = parent(path);
            if !folder.is_empty() && (!all.contains_key(folder) || gone.iter().any(|g| g == folder)) {
                gone.push(path.clone());
            }
        }
        for path in gone {
            names.remove(&path);
        }
        self.durable.clone_from(&names);
        self.names = names;
        for (content, _) in &mut self.contents {
            content.lose_power(loss, rng);
        }
    }

    /// The process that held locks is gone.
    pub fn unlock(&mut self) {
        self.locks.clear();
    }

    /// Removes everything below a folder, and it.
    pub fn remove_tree(&mut self, folder: &str) {
        let below = format!("{folder}/");
        let gone = |path: &String| path == folder || path.starts_with(&below);
        self.names.retain(|path, _| !gone(path));
        self.durable.retain(|path, _| !gone(path));
        self.pending.retain(|path, _| !gone(path));
    }

    /// The names below a folder whose path has something in it.
    pub fn find(&self, part: &str) -> Vec<String> {
        let files = self.names.iter().filter(|(path, node)| path.contains(part) && matches!(node, Node::File(_)));
        files.map(|(path, _)| path.clone()).collect()
    }

    /// Whether a loss of power cannot harm a file: its content and its name are synced.
    pub fn is_durable(&self, path: &str) -> bool {
        match (self.names.get(path), self.durable.get(path)) {
            (Some(Node::File(file)), Some(durable)) => {
                *durable == Node::File(*file) && self.contents[*file].0.is_synced()
            }
            _ => false,
        }
    }

    /// Turns over a bit of a file.
    pub fn rot(&mut self, path: &str, rng: &mut Rng) -> Option<usize> {
        match self.names.get(path) {
            Some(Node::File(file)) => self.contents[*file].0.rot(rng),
            _ => None,
        }
    }

    /// The content of a file.
    pub fn content(&self, path: &str) -> Option<&[u8]> {
        match self.names.get(path) {
            Some(Node::File(file)) => Some(self.contents[*file].0.bytes()),
            _ => None,
        }
    }

    /// Nothing fails from here on; what did.
    pub fn take_trouble(&mut self) -> (u64, bool) {
        (std::mem::take(&mut self.errors), std::mem::take(&mut self.full))
    }

    /// What that gave fails again.
    pub fn put_trouble(&mut self, (errors, full): (u64, bool)) {
        (self.errors, self.full) = (errors, full);
    }

    fn fails(&mut self) -> io::Result<()> {
        let percent = self.errors;
        let fails = percent > 0 && self.rng.as_mut().is_some_and(|rng| rng.percent(percent));
        if fails { Err(io::Error::other("the disk fails (EIO)")) } else { Ok(()) }
    }

    fn room(&self) -> io::Result<()> {
        if self.full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn make(&mut self, path: String, now: Timestamp) -> io::Result<usize> {
        if !self.names.contains_key(parent(&path)) {
            return Err(not_found(&path));
        }
        self.contents.push((Stored::default(), now));
        let file = self.contents.len() - 1;
        self.name(Naming::Set(path, Node::File(file)));
        Ok(file)
    }
}

/// The disk of one process.
#[derive(Clone, Debug)]
pub struct SimDisk {
    world: Shared,
    process: u32,
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: usize,
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    path: String,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut world = self.disk.world.lock();
        if world.is_alive(self.disk.process) {
            world.disk.locks.remove(&self.path);
        }
    }
}

impl SimDisk {
    /// The disk as a process sees it.
    pub fn new(world: &Shared, process: u32) -> Self {
        Self { world: world.clone(), process }
    }

    /// Other things happen first; then this process may be gone, or the call fails.
    fn enter(&self) -> io::Result<MutexGuard<'_, World>> {
        let mut world = self.world.lock();
        world.point(self.process);
        if !world.is_alive(self.process) {
            return Err(io::Error::other("the process is gone"));
        }
        world.disk.fails()?;
        Ok(world)
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.disk.enter()?.disk.contents[self.file].0.read(offset, buf))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.disk.enter()?;
        let now = world.wall();
        world.disk.room()?;
        let (content, modified) = &mut world.disk.contents[self.file];
        content.write(offset as usize, bytes);
        *modified = now;
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = self.disk.enter()?;
        let grows = len > world.disk.contents[self.file].0.len() as u64;
        if grows {
            world.disk.room()?;
        }
        world.disk.contents[self.file].0.set_len(len as usize);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.enter()?.disk.contents[self.file].0.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.enter()?.disk.contents[self.file].0.sync();
        Ok(())
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut world = self.enter()?;
        let path = text(path);
        let ends = path.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0).chain([path.len()]);
        for end in ends.collect::<Vec<_>>() {
            let folder = &path[..end];
            if !world.disk.names.contains_key(folder) {
                world.disk.room()?;
                world.disk.name(Naming::Set(folder.to_owned(), Node::Folder));
            }
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut world = self.enter()?;
        let (path, now) = (text(path), world.wall());
        world.disk.room()?;
        let file = match world.disk.names.get(&path) {
            Some(Node::File(file)) => {
                let file = *file;
                world.disk.contents[file].0.set_len(0);
                file
            }
            _ => world.disk.make(path, now)?,
        };
        Ok(Box::new(SimFile { disk: self.clone(), file }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let world = self.enter()?;
        let path = text(path);
        match world.disk.names.get(&path) {
            Some(Node::File(file)) => Ok(Box::new(SimFile { disk: self.clone(), file: *file })),
            _ => Err(not_found(&path)),
        }
    }

    fn open_rw(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut world = self.enter()?;
        let (path, now) = (text(path), world.wall());
        let file = match world.disk.names.get(&path) {
            Some(Node::File(file)) => *file,
            _ => {
                world.disk.room()?;
                world.disk.make(path, now)?
            }
        };
        Ok(Box::new(SimFile { disk: self.clone(), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.enter()?;
        let (from, to) = (text(from), text(to));
        let node = *world.disk.names.get(&from).ok_or_else(|| not_found(&from))?;
        world.disk.name(Naming::Move(from, to, node));
        Ok(())
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.world.lock().disk.names.contains_key(&text(to)) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.enter()?;
        let path = text(path);
        if world.disk.names.contains_key(&path) {
            world.disk.name(Naming::Unset(path));
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.enter()?;
        let disk = &mut world.disk;
        let path_text = text(path);
        if !disk.names.contains_key(&path_text) {
            return Err(not_found(&path_text));
        }
        for change in disk.pending.remove(&text(path)).unwrap_or_default() {
            Files::apply(&mut disk.durable, &change);
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DiskEntry>> {
        let world = self.enter()?;
        let below = format!("{}/", text(path));
        let inside = world.disk.names.range(below.clone()..).take_while(|(name, _)| name.starts_with(&below));
        let direct = inside.filter(|(name, _)| !name[below.len()..].contains('/'));
        Ok(direct.map(|(name, node)| world.disk.entry(&name[below.len()..], *node)).collect())
    }

    fn stat(&self, path: &Path) -> io::Result<Option<DiskEntry>> {
        let world = self.enter()?;
        let path = text(path);
        let name = path.rsplit('/').next().unwrap_or_default();
        Ok(world.disk.names.get(&path).map(|node| world.disk.entry(name, *node)))
    }

    fn set_modified(&self, path: &Path, time: Timestamp) -> io::Result<()> {
        let mut world = self.enter()?;
        if let Some(Node::File(file)) = world.disk.names.get(&text(path)).copied() {
            world.disk.contents[file].1 = time;
        }
        Ok(())
    }

    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        Ok(if self.enter()?.disk.full { 0 } else { 1 << 40 })
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let mut world = self.enter()?;
        let (path, now) = (text(path), world.wall());
        if !world.disk.names.contains_key(&path) {
            world.disk.make(path.clone(), now)?;
        }
        if !world.disk.locks.insert(path.clone()) {
            return Ok(None);
        }
        Ok(Some(Box::new(SimLock { disk: self.clone(), path })))
    }
}

impl Files {
    fn entry(&self, name: &str, node: Node) -> DiskEntry {
        let (len, is_dir, modified) = match node {
            Node::Folder => (0, true, Timestamp(0)),
            Node::File(file) => (self.contents[file].0.len() as u64, false, self.contents[file].1),
        };
        DiskEntry { name: name.to_owned(), len, is_dir, modified }
    }
}

//! The proof, at every start, that locks of open file descriptions work here as the door needs them.
//!
//! Done on a scratch file in the state folder, never on the database, whose locks a mistake would drop. Refuses
//! network file systems, where SQLite itself does not support the write-ahead log. Called once per start. In a
//! process without another SQLite ([`sole_sqlite`]) classic locks do, as for any SQLite program.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::pinned::c_path;
use super::pool;
use super::sys::{self, Errno, Lock, Owner, Range};
use crate::{Error, ErrorKind, Result};

/// File systems whose files live on another machine, by the number `statfs` gives them (Linux, `magic.h`).
const REMOTE: &[(u64, &str)] = &[
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFF53_4D42, "SMB (cifs)"),
    (0xFE53_4D42, "SMB (smb2)"),
    (0x0102_1997, "9p"),
    (0x00C3_6400, "Ceph"),
    (0x0BD0_0BD0, "Lustre"),
    (0x5346_414F, "AFS"),
    (0x6B41_4653, "AFS (kafs)"),
    (0x7375_7245, "Coda"),
    (0x7461_636F, "OCFS2"),
    (0x0116_1970, "GFS2"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x786F_4256, "VirtualBox shared folder"),
];
const OVERLAY: u64 = 0x794C_7630;

static SOLE: AtomicBool = AtomicBool::new(false);

/// Says that no copy of SQLite but ours is, or will be, in this process: then its classic locks are safe, and
/// [`probe`] does not ask for locks of open file descriptions. For programs such as the `replicate` command; a
/// library inside of somebody else's program cannot know it.
pub fn sole_sqlite() {
    SOLE.store(true, Ordering::Relaxed);
}

/// Proves that a database can be replicated from inside this process: locks behave, and the state folder and the
/// database are on one local file system. `state_dir` must exist.
///
/// After [`sole_sqlite`] only a network file system and memory maps that reads do not agree with are refused.
///
/// # Errors
/// [`ErrorKind::Unsupported`] naming the step that failed; [`ErrorKind::Disk`] if the scratch file cannot be written.
pub fn probe(state_dir: &Path, db: &Path) -> Result<()> {
    super::fork::check()?;
    let db_type = refuse_remote(db)?;
    let state_type = refuse_remote(state_dir)?;
    let scratch = Scratch::create(state_dir)?;
    let sole = SOLE.load(Ordering::Relaxed);
    if !sole && !same_device(&scratch, db, state_dir, db_type == OVERLAY && state_type == OVERLAY)? {
        let message =
            format!("the state folder is on another file system state={} db={}", state_dir.display(), db.display());
        return Err(Error::new(ErrorKind::Unsupported, message)
            .with_hint("put the state folder on the file system of the database; beside it is the default"));
    }
    match LOCKS.iter().try_for_each(|step| scratch.check(step, db)) {
        Err(refused) if sole => {
            tracing::info!(%refused, "the classic locks of this process do");
            pool::close_nothing();
        }
        outcome => outcome?,
    }
    scratch.check(&MAPPINGS, db)
}

type Step = (&'static str, fn(&Scratch) -> Result<bool, Errno>);

/// What two copies of SQLite in one process need.
const LOCKS: [Step; 5] = [
    ("descriptions_conflict", descriptions_conflict),
    ("process_lock_meets_description_lock", process_lock_meets_description_lock),
    ("description_lock_meets_process_lock", description_lock_meets_process_lock),
    ("close_keeps_description_locks", close_keeps_description_locks),
    ("own_process_locks_are_seen", own_process_locks_are_seen),
];

/// What reading the index of the log as a file needs.
const MAPPINGS: Step = ("mappings_are_coherent", mappings_are_coherent);

/// Where the locks of the probe lie.
const BYTES: Range = (100, 10);

fn descriptions_conflict(scratch: &Scratch) -> Result<bool, Errno> {
    let (a, b) = (scratch.open()?, scratch.open()?);
    let first = sys::set_lock(a.0, Owner::Description, Lock::Write, BYTES)?;
    let second = sys::set_lock(b.0, Owner::Description, Lock::Read, BYTES)?;
    Ok(first && !second)
}

fn process_lock_meets_description_lock(scratch: &Scratch) -> Result<bool, Errno> {
    let (a, b) = (scratch.open()?, scratch.open()?);
    let first = sys::set_lock(a.0, Owner::Description, Lock::Write, BYTES)?;
    let second = sys::set_lock(b.0, Owner::Process, Lock::Write, BYTES)?;
    Ok(first && !second)
}

fn description_lock_meets_process_lock(scratch: &Scratch) -> Result<bool, Errno> {
    let (a, b) = (scratch.open()?, scratch.open()?);
    let first = sys::set_lock(a.0, Owner::Process, Lock::Write, BYTES)?;
    let second = sys::set_lock(b.0, Owner::Description, Lock::Write, BYTES)?;
    Ok(first && !second)
}

fn close_keeps_description_locks(scratch: &Scratch) -> Result<bool, Errno> {
    let (a, b) = (scratch.open()?, scratch.open()?);
    let first = sys::set_lock(a.0, Owner::Description, Lock::Write, BYTES)?;
    drop(scratch.open()?);
    Ok(first && sys::is_locked_for(b.0, Lock::Write, BYTES)?)
}

fn own_process_locks_are_seen(scratch: &Scratch) -> Result<bool, Errno> {
    let (a, b) = (scratch.open()?, scratch.open()?);
    let free = !sys::is_locked_for(b.0, Lock::Write, BYTES)?;
    let first = sys::set_lock(a.0, Owner::Process, Lock::Write, BYTES)?;
    Ok(free && first && sys::is_locked_for(b.0, Lock::Write, BYTES)?)
}

fn mappings_are_coherent(scratch: &Scratch) -> Result<bool, Errno> {
    let (a, b) = (scratch.open()?, scratch.open()?);
    sys::set_len(a.0, PAGE as u64)?;
    let (one, two) = (Mapping::new(a.0)?, Mapping::new(b.0)?);
    one.store(0x5A);
    let mut byte = [0];
    sys::read_at(b.0, &mut byte, 0)?;
    Ok(two.load() == 0x5A && byte[0] == 0x5A)
}

fn refuse_remote(path: &Path) -> Result<u64> {
    let found = rustix::fs::statfs(path).map_err(|e| Error::disk("look at the file system of", path, e.into()))?;
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "a bit pattern whose width differs")]
    let kind = u64::from(found.f_type as u32);
    match REMOTE.iter().find(|(number, _)| *number == kind) {
        None => Ok(kind),
        Some((_, name)) => {
            let message =
                format!("a network file system cannot be replicated safely type={name} path={}", path.display());
            Err(Error::new(ErrorKind::Unsupported, message).with_hint(
                "SQLite's write-ahead log needs a local disk: move the database to one, and run the program or the \
                 `replicate` command there",
            ))
        }
    }
}

/// An overlay gives a file the device of the layer it lies in; there the folders must do.
fn same_device(scratch: &Scratch, db: &Path, state_dir: &Path, overlay: bool) -> Result<bool> {
    let device = |path: &Path| -> Result<u64> {
        let found = super::FileId::of_path(path).map_err(|e| Error::disk("look at", path, e))?;
        found.map(|id| id.dev).ok_or_else(|| Error::disk("look at", path, Errno(libc::ENOENT).into_io()))
    };
    if device(db)? == device(&scratch.path)? {
        return Ok(true);
    }
    let folder = match db.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok(overlay && device(folder)? == device(state_dir)?)
}

fn locking_unsupported(step: &str, db: &Path) -> Error {
    let message = format!("file locks do not work here as replication needs them step={step} path={}", db.display());
    Error::new(ErrorKind::Unsupported, message)
        .with_hint("do not replicate from inside this program; run the `replicate` command as a process beside it")
}

/// A file of ours with which nothing can go wrong; gone on drop.
struct Scratch {
    path: PathBuf,
    name: std::ffi::CString,
}

impl Scratch {
    fn create(folder: &Path) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(".probe-{}-{}", sys::process_id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = folder.join(name);
        let create = || -> std::io::Result<std::ffi::CString> {
            let name = c_path(&path)?;
            // Left over from a process of this number that was killed; nobody else forms such names.
            let _ = rustix::fs::unlink(name.as_c_str());
            let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
            sys::close(sys::open(&name, flags, 0o600).map_err(Errno::into_io)?);
            Ok(name)
        };
        let name = create().map_err(|e| Error::disk("create", &path, e))?;
        Ok(Self { path, name })
    }

    fn open(&self) -> Result<Closing, Errno> {
        let name: &CStr = &self.name;
        sys::open(name, libc::O_RDWR, 0).map(Closing)
    }

    fn check(&self, (step, check): &Step, db: &Path) -> Result<()> {
        match check(self) {
            Ok(true) => Ok(()),
            Ok(false) => Err(locking_unsupported(step, db)),
            Err(e @ Errno(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | libc::ENOLCK)) => {
                Err(locking_unsupported(step, db).with_source(e.into_io()))
            }
            Err(e) => Err(Error::disk(format!("probe locks step={step}"), &self.path, e.into_io())),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Removing a scratch file is a courtesy; it holds nothing.
        let _ = rustix::fs::unlink(self.name.as_c_str());
    }
}

struct Closing(RawFd);

impl Drop for Closing {
    fn drop(&mut self) {
        sys::close(self.0);
    }
}

const PAGE: usize = 4096;

/// One shared page.
struct Mapping(*mut libc::c_void);

impl Mapping {
    fn new(fd: RawFd) -> Result<Self, Errno> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a fresh mapping at an address the system chooses overlaps nothing.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, fd, 0) };
        if at == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(Self(at)) }
    }

    fn store(&self, byte: u8) {
        // SAFETY: the page is mapped for writing until drop, and the file is long enough.
        unsafe { self.0.cast::<u8>().write_volatile(byte) };
    }

    fn load(&self) -> u8 {
        // SAFETY: as above.
        unsafe { self.0.cast::<u8>().read_volatile() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and no reference into it exists.
        unsafe { libc::munmap(self.0, PAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with_db() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let db = folder.path().join("app.db");
        sys::close(sys::open(&c_path(&db).unwrap(), libc::O_CREAT | libc::O_RDWR, 0o600).unwrap());
        (folder, db)
    }

    #[test]
    fn a_local_disk_passes_and_stays_clean() {
        let (folder, db) = folder_with_db();
        probe(folder.path(), &db).unwrap();
        let names: Vec<_> = folder.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["app.db"]);
    }

    #[test]
    fn the_state_folder_must_be_on_the_file_system_of_the_database() {
        let (_folder, db) = folder_with_db();
        let memory = Path::new("/dev/shm");
        let dev = |path: &Path| super::super::FileId::of_path(path).unwrap().map(|id| id.dev);
        assert!(memory.is_dir() && dev(memory) != dev(&db), "this test needs /dev/shm to be a file system of its own");
        let error = probe(memory, &db).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("another file system"), "{error}");
    }

    #[test]
    fn a_missing_database_is_named() {
        let (folder, _) = folder_with_db();
        let error = probe(folder.path(), &folder.path().join("missing.db")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disk);
        assert!(error.message().contains("missing.db"), "{error}");
    }

    #[test]
    fn refused_locks_name_the_step_and_the_way_out() {
        let error = locking_unsupported("descriptions_conflict", Path::new("app.db"));
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("step=descriptions_conflict"));
        assert!(error.hint().is_some_and(|hint| hint.contains("`replicate` command")));
    }
}

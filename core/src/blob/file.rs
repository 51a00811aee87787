//! Objects as files below a folder.
//!
//! A body is written under a temporary name, gets its timestamp as modification time (to the millisecond), is
//! synced, renamed and made durable by a sync of the folder, so it appears whole and dated or not at all.
//! Temporary names ([`is_temporary`]) are no objects: they cannot be put and are never listed. What a crash
//! left behind is removed by the first put into its folder that comes a day later.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::{
    BlobError, BlobResult, BlobStore, Body, Caps, ObjectKey, ObjectMeta, PutMode, PutOptions, check_prefix, cut,
    read_exact,
};
use crate::clock::{SharedClock, Timestamp};
use crate::disk::{Disk, DiskEntry, DiskFile, SharedDisk, Trickle};
use crate::error::{Error, ErrorKind};
use crate::exec::Blocking;

/// Bytes that are asked of a body at a time.
const CHUNK: u64 = 1 << 20;

/// Bytes of a range that memory is taken for before the length of the file is known.
const FORESEEN: u64 = 8 << 20;

/// How long a temporary file may belong to a put that still runs, perhaps on another host.
const ABANDONED_MS: i64 = 24 * 3600 * 1000;

/// A folder of objects.
#[derive(Debug)]
pub struct FileStore {
    root: PathBuf,
    disk: SharedDisk,
    clock: SharedClock,
    blocking: Blocking,
    /// Folders that this process has made durable and swept.
    ready: Mutex<HashSet<PathBuf>>,
}

impl FileStore {
    /// Whether the root is a folder, or nothing yet. A file in its place, or a link that leads nowhere, must not pass
    /// for an empty store: somebody expects a replica there.
    async fn check_root(&self) -> io::Result<()> {
        let root = self.root.clone();
        let found = self.blocking(move |disk| {
            let Some(found) = disk.stat(&root)? else { return Ok(true) };
            let behind = if found.is_dir { Some(found) } else { disk.stat(&disk.resolve(&root)?)? };
            Ok::<_, io::Error>(behind.is_some_and(|entry| entry.is_dir))
        });
        if found.await? { Ok(()) } else { Err(io::Error::new(io::ErrorKind::NotADirectory, "the root is no folder")) }
    }

    /// The store below this folder, which need not exist.
    pub(crate) fn new(root: PathBuf, disk: SharedDisk, clock: SharedClock, blocking: Blocking) -> Self {
        Self { root, disk, clock, blocking, ready: Mutex::default() }
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&dyn Disk) -> T + Send + 'static) -> T {
        let disk = Arc::clone(&self.disk);
        self.blocking.run(move || work(&*disk)).await
    }

    /// Makes the folder durable and sweeps it, once in the life of this store.
    async fn prepare(&self, folder: &Path) -> BlobResult<()> {
        if self.ready.lock().unwrap_or_else(PoisonError::into_inner).contains(folder) {
            return Ok(());
        }
        let (root, target) = (self.root.clone(), folder.to_owned());
        let abandoned = Timestamp(self.clock.now().0.saturating_sub(ABANDONED_MS));
        let done = self.blocking(move |disk| {
            make_durable(disk, &root, &target)?;
            sweep(disk, &target, abandoned)
        });
        done.await.map_err(|e| failed("create folder", folder, e))?;
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned());
        Ok(())
    }

    async fn put_once(&self, key: &ObjectKey, body: &Body, options: PutOptions) -> BlobResult<()> {
        let path = self.path(key);
        let folder = path.parent().unwrap_or(&self.root).to_owned();
        self.prepare(&folder).await?;
        let temporary = Temporary { path: folder.join(temporary_name(self.clock.now())), disk: Arc::clone(&self.disk) };
        let putting = Arc::new(Putting { key: key.clone(), options, path, folder, temporary });
        let (mut file, mut offset) = (None, 0);
        loop {
            let end = body.len().min(offset + CHUNK);
            let bytes = if offset < end { read_exact(body, offset..end).await? } else { Bytes::new() };
            let (putting, last) = (Arc::clone(&putting), end == body.len());
            // All of a small object is done in one go: going to another thread and back costs more than its writes.
            let step = self.blocking(move |disk| {
                let (file, mut trickle) = match file {
                    None => (putting.begin(disk)?, Trickle::default()),
                    Some(begun) => begun,
                };
                putting.write(file.as_ref(), offset, &bytes, &mut trickle)?;
                if last { putting.finish(disk, file.as_ref()).map(|()| None) } else { Ok(Some((file, trickle))) }
            });
            file = step.await?;
            if last {
                return Ok(());
            }
            offset = end;
        }
    }

    async fn stat(&self, key: &ObjectKey) -> BlobResult<Option<DiskEntry>> {
        let path = self.path(key);
        self.blocking(move |disk| stat(disk, &path)).await
    }
}

fn stat(disk: &dyn Disk, path: &Path) -> BlobResult<Option<DiskEntry>> {
    match disk.stat(path) {
        Err(e) if names_nothing(&e) => Ok(None),
        other => other.map_err(|e| failed("look at", path, e)),
    }
}

/// An object on its way. Its calls block.
#[derive(Debug)]
struct Putting {
    key: ObjectKey,
    options: PutOptions,
    path: PathBuf,
    folder: PathBuf,
    temporary: Temporary,
}

impl Putting {
    fn begin(&self, disk: &dyn Disk) -> BlobResult<Box<dyn DiskFile>> {
        if let Some(there) = stat(disk, &self.path)? {
            if there.is_dir {
                let message = format!("a folder is where an object should be key={}", self.key);
                return Err(Error::new(ErrorKind::Config, message).into());
            }
            if self.options.mode == PutMode::Create {
                return Err(self.exists());
            }
        }
        let temporary = &self.temporary.path;
        disk.create(temporary).map_err(|e| failed("create", temporary, e))
    }

    fn write(&self, file: &dyn DiskFile, offset: u64, bytes: &[u8], trickle: &mut Trickle) -> BlobResult<()> {
        file.write_at(offset, bytes).map_err(|e| failed("write", &self.temporary.path, e))?;
        trickle.wrote(file, offset + bytes.len() as u64);
        Ok(())
    }

    /// Makes it an object.
    fn finish(&self, disk: &dyn Disk, file: &dyn DiskFile) -> BlobResult<()> {
        let (from, to) = (&self.temporary.path, &self.path);
        // Before the sync: it carries the time to the disk with the size.
        let dated = disk.set_modified(from, self.options.created).and_then(|()| file.sync());
        dated.map_err(|e| failed("write", from, e))?;
        let renamed = match self.options.mode {
            PutMode::Create => disk.rename_new(from, to),
            PutMode::Overwrite => disk.rename(from, to),
        };
        renamed.and_then(|()| disk.sync_dir(&self.folder)).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists if self.options.mode == PutMode::Create => self.exists(),
            _ => failed("rename", to, e),
        })
    }

    fn exists(&self) -> BlobError {
        BlobError::AlreadyExists { key: self.key.to_string() }
    }
}

fn not_found(key: &ObjectKey) -> BlobError {
    BlobError::NotFound { key: key.to_string() }
}

fn names_nothing(error: &io::Error) -> bool {
    use io::ErrorKind as Io;
    matches!(error.kind(), Io::NotFound | Io::NotADirectory | Io::IsADirectory)
}

fn failed(what: &str, path: &Path, error: io::Error) -> BlobError {
    use io::ErrorKind as Io;
    let denied = matches!(error.kind(), Io::PermissionDenied | Io::ReadOnlyFilesystem);
    if !denied {
        return Error::disk(format!("replica: {what}"), path, error).into();
    }
    Error::new(ErrorKind::Denied, format!("replica: {what}: {error} path={}", path.display()))
        .with_hint("the folder of the replica must be writable for the user that runs this program")
        .with_source(error)
        .into()
}

/// Removes its file when it goes, whatever made it go. After the rename there is nothing to remove.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    disk: SharedDisk,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // One unlink, also when a put is cancelled; should it fail, the sweep comes later.
        let _ = self.disk.remove(&self.path);
    }
}

/// `.put-<milliseconds>-<process>-<number>.tmp`: unique while any put runs, and dated for the sweep (the
/// modification time is the body's).
fn temporary_name(now: Timestamp) -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!(".put-{}-{}-{number}.tmp", now.0.max(0), std::process::id())
}

fn is_temporary(name: &str) -> bool {
    name.starts_with(".put-") && name.ends_with(".tmp")
}

fn temporary_since(name: &str) -> Option<Timestamp> {
    name.strip_prefix(".put-")?.split('-').next()?.parse().ok().map(Timestamp)
}

/// Makes a folder whose names survive a crash, as far up as folders were missing or are ours.
fn make_durable(disk: &dyn Disk, root: &Path, folder: &Path) -> io::Result<()> {
    let mut parents = Vec::new();
    let mut at = folder;
    while let Some(parent) = at.parent().filter(|p| !p.as_os_str().is_empty()) {
        // Inside the root another process may have made the folder and not synced it yet.
        if !at.starts_with(root) && disk.stat(at)?.is_some() {
            break;
        }
        if at == root && disk.stat(at)?.is_some() {
            break;
        }
        parents.push(parent.to_owned());
        at = parent;
    }
    disk.create_dir_all(folder)?;
    parents.iter().rev().try_for_each(|parent| disk.sync_dir(parent))
}

fn sweep(disk: &dyn Disk, folder: &Path, abandoned: Timestamp) -> io::Result<()> {
    for entry in disk.list(folder)? {
        let old = temporary_since(&entry.name).is_some_and(|since| since < abandoned);
        if is_temporary(&entry.name) && old && !entry.is_dir {
            disk.remove(&folder.join(&entry.name))?;
        }
    }
    Ok(())
}

/// A walk in the order of keys. What is to come is a stack: the next on top.
struct Walk {
    stack: Vec<(String, DiskEntry)>,
    start_after: String,
}

impl Walk {
    /// Puts the entries of a folder on the stack. A folder sorts as if its name ended with `/`, because every
    /// key inside begins so.
    fn push(&mut self, prefix: &str, entries: Vec<DiskEntry>) {
        let mut found: Vec<_> = entries
            .into_iter()
            .filter(|entry| !is_temporary(&entry.name))
            .map(|entry| (format!("{prefix}{}{}", entry.name, if entry.is_dir { "/" } else { "" }), entry))
            .filter(|(key, entry)| {
                let after = self.start_after.as_str();
                key.as_str() > after || (entry.is_dir && after.starts_with(key.as_str()))
            })
            .collect();
        found.sort_by(|(a, _), (b, _)| b.cmp(a));
        self.stack.append(&mut found);
    }
}

#[async_trait]
impl BlobStore for FileStore {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn caps(&self) -> Caps {
        Caps { conditional_put: true, created_in_list: true }
    }

    fn location(&self) -> String {
        format!("file://{}", self.root.display())
    }

    async fn put(&self, key: &ObjectKey, body: Body, options: PutOptions) -> BlobResult<ObjectMeta> {
        if key.as_str().split('/').any(is_temporary) {
            return Err(
                Error::new(ErrorKind::Config, format!("the name of a temporary file is no key key={key}")).into()
            );
        }
        let mut done = self.put_once(key, &body, options).await;
        let path = self.path(key);
        if matches!(&done, Err(BlobError::Other(e)) if was_missing(e)) {
            // The folder was removed under us; make it again.
            if let Some(folder) = path.parent() {
                self.ready.lock().unwrap_or_else(PoisonError::into_inner).remove(folder);
            }
            done = self.put_once(key, &body, options).await;
        }
        done?;
        let created = Timestamp(options.created.0.max(0));
        Ok(ObjectMeta { key: key.clone(), size: body.len(), modified: created, created: Some(created), etag: None })
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> BlobResult<Bytes> {
        let path = self.path(key);
        // Taken here, not on a thread of the pool: memory freed elsewhere stays with the thread that took it,
        // and a restore from a folder would hold twice the memory it uses.
        let asked = range.as_ref().map_or(0, |range| range.end.saturating_sub(range.start).min(FORESEEN));
        let mut bytes = vec![0; usize::try_from(asked).unwrap_or(0)];
        let read = self.blocking(move |disk| -> io::Result<Vec<u8>> {
            let file = disk.open(&path)?;
            let range = cut(range, file.len()?);
            let wanted = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
            // Without this a folder would give an empty body for an empty range.
            bytes.resize(wanted.max(1), 0);
            let read = file.read_at(range.start, &mut bytes)?;
            bytes.truncate(read.min(wanted));
            Ok(bytes)
        });
        match read.await {
            Ok(bytes) => Ok(bytes.into()),
            Err(e) if names_nothing(&e) => Err(not_found(key)),
            Err(e) => Err(failed("read", &self.path(key), e)),
        }
    }

    async fn head(&self, key: &ObjectKey) -> BlobResult<ObjectMeta> {
        match self.stat(key).await? {
            Some(entry) if !entry.is_dir => Ok(meta(key.clone(), &entry)),
            _ => Err(not_found(key)),
        }
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'_, BlobResult<ObjectMeta>> {
        if let Err(error) = check_prefix(prefix) {
            return stream::iter([Err(error)]).boxed();
        }
        let top = DiskEntry { name: String::new(), len: 0, is_dir: true, modified: Timestamp(0) };
        let start_after = start_after.unwrap_or("").to_owned();
        let walk = Walk { stack: vec![(prefix.to_owned(), top)], start_after };
        stream::unfold(Some(walk), move |walk| async move {
            let mut walk = walk?;
            loop {
                let (key, entry) = walk.stack.pop()?;
                if !entry.is_dir {
                    // A name that cannot be a key is a file of somebody else.
                    let Ok(key) = ObjectKey::new(key) else { continue };
                    return Some((Ok(meta(key, &entry)), Some(walk)));
                }
                let folder = self.root.join(&key);
                let listed = match self.blocking(move |disk| disk.list(&folder)).await {
                    Ok(entries) if !entries.is_empty() => Ok(entries),
                    Ok(none) => self.check_root().await.map(|()| none),
                    Err(e) if names_nothing(&e) => self.check_root().await.map(|()| Vec::new()),
                    Err(e) => Err(e),
                };
                match listed {
                    Ok(entries) => walk.push(&key, entries),
                    Err(e) => return Some((Err(failed("list", &self.root.join(&key), e)), None)),
                }
            }
        })
        .boxed()
    }

    async fn delete(&self, keys: &[ObjectKey]) -> BlobResult<()> {
        let mut first = None;
        for key in keys {
            let path = self.path(key);
            match self.blocking(move |disk| disk.remove(&path)).await {
                Ok(()) => {}
                Err(e) if names_nothing(&e) => {}
                Err(e) => {
                    first.get_or_insert_with(|| failed("remove", &self.path(key), e));
                }
            }
        }
        first.map_or(Ok(()), Err)
    }
}

fn was_missing(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|s| s.downcast_ref::<io::Error>());
    source.is_some_and(|e| e.kind() == io::ErrorKind::NotFound)
}

fn meta(key: ObjectKey, entry: &DiskEntry) -> ObjectMeta {
    ObjectMeta { key, size: entry.len, modified: entry.modified, created: Some(entry.modified), etag: None }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests look at the folder from outside")]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::disk::RealDisk;

    fn store(root: &Path) -> FileStore {
        FileStore::new(root.to_owned(), Arc::new(RealDisk), Arc::new(SystemClock::new()), Blocking::Pool)
    }

    fn options() -> PutOptions {
        PutOptions { mode: PutMode::Overwrite, created: Timestamp(1_700_000_000_123) }
    }

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).expect("a key")
    }

    async fn listed(store: &FileStore) -> Vec<String> {
        store.list("", None).map(|item| item.expect("listed").key.to_string()).collect().await
    }

    #[tokio::test]
    async fn the_first_put_into_a_folder_sweeps_what_a_crash_left_a_day_ago() {
        let root = tempfile::tempdir().expect("folder");
        let folder = root.path().join("a");
        std::fs::create_dir(&folder).expect("made");
        let now = SystemClock::new().now();
        let (old, young) = (temporary_name(Timestamp(now.0 - ABANDONED_MS - 1)), temporary_name(now));
        for name in [old.as_str(), young.as_str(), "b.tmp"] {
            std::fs::write(folder.join(name), "x").expect("written");
        }
        let store = store(root.path());
        store.put(&key("a/c"), Arc::new(Bytes::from("y")), options()).await.expect("put");
        assert!(!folder.join(old).exists());
        assert!(folder.join(young).exists());
        assert_eq!(listed(&store).await, ["a/b.tmp", "a/c"]);
    }

    #[tokio::test]
    async fn a_removed_replica_is_made_again() {
        let root = tempfile::tempdir().expect("folder");
        let store = store(&root.path().join("x/y"));
        store.put(&key("a/b"), Arc::new(Bytes::from("1")), options()).await.expect("put");
        std::fs::remove_dir_all(root.path().join("x")).expect("removed");
        store.put(&key("a/b"), Arc::new(Bytes::from("2")), options()).await.expect("put again");
        assert_eq!(listed(&store).await, ["a/b"]);
    }

    #[tokio::test]
    async fn a_folder_in_the_way_and_a_reserved_name_are_errors() {
        let root = tempfile::tempdir().expect("folder");
        let store = store(root.path());
        store.put(&key("a/b"), Arc::new(Bytes::from("1")), options()).await.expect("put");
        for name in ["a", "a/b/c", "a/.put-1-2-3.tmp", ".put-1-2-3.tmp/x"] {
            let error = store.put(&key(name), Arc::new(Bytes::new()), options()).await.expect_err(name);
            assert!(matches!(error, BlobError::Other(_)), "{name}: {error}");
        }
        assert_eq!(listed(&store).await, ["a/b"]);
        assert!(matches!(store.get(&key("a"), Some(0..0)).await, Err(BlobError::NotFound { .. })));
        assert!(matches!(store.head(&key("a/b/c")).await, Err(BlobError::NotFound { .. })));
    }

    #[tokio::test]
    async fn a_file_where_the_root_should_be_is_an_error_not_an_empty_store() {
        let folder = tempfile::tempdir().expect("folder");
        let root = folder.path().join("root");
        std::fs::write(&root, b"").expect("written");
        let store = store(&root);
        assert!(store.list("ltx/0/", None).next().await.is_some_and(|item| item.is_err()));
    }

    #[tokio::test]
    async fn a_root_that_is_a_link_is_the_folder_behind_it_and_leading_nowhere_is_no_empty_store() {
        let folder = tempfile::tempdir().expect("folder");
        let (root, real) = (folder.path().join("root"), folder.path().join("real"));
        std::os::unix::fs::symlink("real", &root).expect("linked");
        let store = store(&root);
        assert!(store.list("ltx/0/", None).next().await.is_some_and(|item| item.is_err()));
        std::fs::create_dir(&real).expect("made");
        assert!(store.list("ltx/0/", None).next().await.is_none());
        store.put(&key("a/b"), Arc::new(Bytes::from("1")), options()).await.expect("put");
        assert_eq!(listed(&store).await, ["a/b"]);
        std::fs::remove_dir_all(&real).expect("removed");
        std::fs::write(&real, b"").expect("written");
        assert!(store.list("ltx/0/", None).next().await.is_some_and(|item| item.is_err()));
    }

    #[tokio::test]
    async fn the_timestamp_is_the_modification_time() {
        let root = tempfile::tempdir().expect("folder");
        store(root.path()).put(&key("a"), Arc::new(Bytes::from("1")), options()).await.expect("put");
        let modified = std::fs::metadata(root.path().join("a")).expect("there").modified().expect("time");
        let since = modified.duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        assert_eq!(since.as_millis(), 1_700_000_000_123);
    }
}

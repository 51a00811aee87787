//! Object storage: named immutable bodies, and nothing else.
//!
//! A backend moves bytes. It knows nothing of LTX, levels, transaction ids or keys of encryption; it never
//! looks into a body. What a body's timestamp is arrives as an attribute and is stored beside it. Keys are
//! relative to the root that the backend was made with (bucket and prefix, or folder).

#[cfg(feature = "testing")]
pub mod conformance;
mod file;
mod memory;
#[cfg(feature = "s3")]
mod s3;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::clock::{SystemClock, Timestamp};
use crate::config::StoreLocation;
use crate::disk::SharedDisk;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::Blocking;

pub use self::file::FileStore;
pub use self::memory::MemoryStore;
#[cfg(feature = "s3")]
pub use self::s3::S3Store;

/// The name of an object below the backend's root: segments joined by `/`, none of them empty, `.` or `..`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// A key, checked.
    pub fn new(key: impl Into<String>) -> Result<Self> {
        let key = key.into();
        let fine = !key.is_empty()
            && key.split('/').all(|s| !s.is_empty() && s != "." && s != "..")
            && !key.contains(['\0', '\\', '\n', '\r']);
        if fine { Ok(Self(key)) } else { Err(Error::new(ErrorKind::Config, format!("invalid object key {key:?}"))) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a store says of an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObjectMeta {
    /// Its key below the root.
    pub key: ObjectKey,
    /// Bytes of the body.
    pub size: u64,
    /// The store's own time of the last write.
    pub modified: Timestamp,
    /// The timestamp given at the put, where the answer at hand carries it (a listing of S3 does not, a
    /// [`head`](BlobStore::head) does).
    pub created: Option<Timestamp>,
    /// The store's version tag, where it has one.
    pub etag: Option<String>,
}

/// Where the bytes of a put come from. Reads may be repeated (a retried part) and may run at the same time.
#[async_trait]
pub trait BodySource: fmt::Debug + Send + Sync {
    /// The exact length.
    fn len(&self) -> u64;
    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Tells this content from every other one: bodies of the same length and the same tag hold the same bytes.
    /// `None` if that is not known; then an upload that was interrupted starts anew.
    fn tag(&self) -> Option<u64> {
        None
    }
    /// Exactly the bytes of this range, which lies within the length.
    async fn read(&self, range: Range<u64>) -> Result<Bytes>;
}

/// The body of a put.
pub type Body = Arc<dyn BodySource>;

#[async_trait]
impl BodySource for Bytes {
    fn len(&self) -> u64 {
        Self::len(self) as u64
    }

    async fn read(&self, range: Range<u64>) -> Result<Self> {
        let index = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let (start, end) = (index(range.start), index(range.end));
        if start > end || end > Self::len(self) {
            return Err(Error::internal(format!("read beyond a body of {} bytes", Self::len(self))));
        }
        Ok(self.slice(start..end))
    }
}

/// Whether a put may replace an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PutMode {
    /// Only a new name: an existing object is [`BlobError::AlreadyExists`] and stays as it is. Where the
    /// store cannot decide this atomically ([`Caps::conditional_put`] is false) it is checked before the put.
    Create,
    /// Replaces.
    Overwrite,
}

/// What goes with a put.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PutOptions {
    /// Whether it may replace.
    pub mode: PutMode,
    /// The timestamp to keep beside the body.
    pub created: Timestamp,
}

/// What a backend can do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caps {
    /// [`PutMode::Create`] is atomic.
    pub conditional_put: bool,
    /// Listings carry [`ObjectMeta::created`].
    pub created_in_list: bool,
}

/// Why a store did not do it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// No such object (or bucket, or folder).
    #[error("no such object key={key}")]
    NotFound {
        /// The key.
        key: String,
    },
    /// The name is taken ([`PutMode::Create`]).
    #[error("object exists already key={key}")]
    AlreadyExists {
        /// The key.
        key: String,
    },
    /// Anything else, already in the words and the kind of the public error.
    #[error(transparent)]
    Other(#[from] Error),
}

impl From<BlobError> for Error {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::NotFound { .. } => Self::new(ErrorKind::NoBackup, error.to_string()),
            BlobError::AlreadyExists { .. } => Self::new(ErrorKind::Diverged, error.to_string()),
            BlobError::Other(error) => error,
        }
    }
}

/// The result of a storage call.
pub type BlobResult<T> = std::result::Result<T, BlobError>;

/// A store of objects. The contract is what `blob::conformance` checks on every backend:
///
/// * A put is atomic: the object appears whole or not at all, and a body that fails to read leaves nothing.
/// * `get` of a range that starts at or after the end is empty; one that reaches over the end is cut there.
/// * `list` yields every object whose key starts with `prefix` (folder semantics: `prefix` is empty or ends
///   with `/`) in ascending order of keys, from the first key greater than `start_after`. A failed page is
///   an error item, never a shorter list.
/// * Deleting what is missing is fine; every other failure of a batch is reported.
/// * Calls may be repeated and may run at the same time.
#[async_trait]
pub trait BlobStore: fmt::Debug + Send + Sync {
    /// `memory`, `file`, `s3`, …
    fn kind(&self) -> &'static str;

    /// What it can do.
    fn caps(&self) -> Caps;

    /// Where it is, for messages: without secrets.
    fn location(&self) -> String;

    /// Stores a body under a name.
    async fn put(&self, key: &ObjectKey, body: Body, options: PutOptions) -> BlobResult<ObjectMeta>;

    /// The bytes of a range, or all.
    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> BlobResult<Bytes>;

    /// What is known of an object, its timestamp included.
    async fn head(&self, key: &ObjectKey) -> BlobResult<ObjectMeta>;

    /// The objects below a prefix.
    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'_, BlobResult<ObjectMeta>>;

    /// Removes objects.
    async fn delete(&self, keys: &[ObjectKey]) -> BlobResult<()>;
}

/// A shared store.
pub type SharedBlobStore = Arc<dyn BlobStore>;

/// The store at a checked place. Nothing is asked of it yet: a store that cannot be reached fails at its first
/// use.
pub fn open(location: &StoreLocation, disk: SharedDisk) -> Result<SharedBlobStore> {
    open_sharing(location, disk, &Sockets::default())
}

/// What stores of one runtime have in common.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    #[cfg(feature = "s3")]
    s3: s3::Sockets,
}

/// [`open`] with what other stores on the same runtime have opened.
#[cfg_attr(not(feature = "s3"), allow(unused_variables, reason = "only S3 has sockets"))]
pub(crate) fn open_sharing(location: &StoreLocation, disk: SharedDisk, sockets: &Sockets) -> Result<SharedBlobStore> {
    match location {
        StoreLocation::Memory(name) => Ok(MemoryStore::named(name)),
        StoreLocation::File(root) => {
            Ok(Arc::new(FileStore::new(root.clone(), disk, Arc::new(SystemClock::new()), Blocking::Pool)))
        }
        #[cfg(feature = "s3")]
        StoreLocation::S3(location) => Ok(Arc::new(S3Store::sharing(location.clone(), &sockets.s3)?)),
        #[cfg(not(feature = "s3"))]
        StoreLocation::S3(_) => {
            Err(Error::new(ErrorKind::Unsupported, "this build has no S3 client")
                .with_hint("build with the feature s3"))
        }
    }
}

/// Other places where a replica of this place may lie, as other programs spell it. To be read only.
pub(crate) fn spellings(location: &StoreLocation) -> Result<Vec<SharedBlobStore>> {
    match location {
        #[cfg(feature = "s3")]
        StoreLocation::S3(location) => {
            Ok(S3Store::spellings(location)?.into_iter().map(|store| Arc::new(store) as SharedBlobStore).collect())
        }
        _ => Ok(Vec::new()),
    }
}

/// The part of a range that lies within a body of this length; empty if none does.
fn cut(range: Option<Range<u64>>, len: u64) -> Range<u64> {
    let Some(range) = range else { return 0..len };
    let end = range.end.min(len);
    range.start.min(end)..end
}

/// Refuses a prefix that is not a folder: `db` would also name `db2/`.
fn check_prefix(prefix: &str) -> BlobResult<()> {
    if prefix.is_empty() || prefix.ends_with('/') {
        return Ok(());
    }
    Err(Error::internal(format!("a listing below {prefix:?}, which does not end with a slash")).into())
}

/// The bytes of this range of a body, or an error: a source that gives another number never gets stored.
async fn read_exact(body: &Body, range: Range<u64>) -> BlobResult<Bytes> {
    let bytes = body.read(range.clone()).await?;
    if bytes.len() as u64 == range.end - range.start {
        return Ok(bytes);
    }
    let message = format!("a body gave {} bytes where {} were asked", bytes.len(), range.end - range.start);
    Err(Error::internal(message).into())
}

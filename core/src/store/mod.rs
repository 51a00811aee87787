//! LTX files on a blob store: the one border between files of this library and objects of a bucket.
//!
//! Names are formed and read here and nowhere else, and nothing reaches a bucket by another way, so that
//! what is done to every object, its name and its seal, is done in one place.

mod layout;
mod open;
mod rewrap;
mod sealed;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt};
use replicate_format::{HEADER_LEN, Header, Level, Txid, TxidRange};

use crate::blob::{BlobError, Body, ObjectKey, ObjectMeta, PutMode, PutOptions, SharedBlobStore};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::seal::{Chain, Keys, Link, MAGIC_START, Opener, Place, SealError};

pub use self::layout::Layout;
pub use self::open::OpenFile;
pub use self::sealed::Sealed;

/// An LTX file on a store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LtxInfo {
    /// Its level.
    pub level: Level,
    /// What it covers.
    pub txids: TxidRange,
    /// Bytes of the object.
    pub size: u64,
    /// When its content was captured, where the listing told.
    pub created: Option<Timestamp>,
    /// When the store got it.
    pub modified: Timestamp,
    key: ObjectKey,
}

impl LtxInfo {
    /// The file that an object holds.
    fn new(place: Place, object: ObjectMeta) -> Self {
        let (Place { level, txids }, ObjectMeta { key, size, created, modified, .. }) = (place, object);
        Self { level, txids, size, created, modified, key }
    }

    /// The object's key below the root of the store.
    #[must_use]
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }
}

/// How many listings run at the same time.
const PARALLEL_LISTINGS: usize = 10;

/// Bytes compared at a time.
const COMPARE: u64 = 4 << 20;

/// The LTX files of one replica.
#[derive(Clone, Debug)]
pub struct LtxStore {
    blob: SharedBlobStore,
    layout: Layout,
    keys: Arc<Keys>,
    /// What was read of the chain, where files name each other.
    chain: Arc<Chain>,
}

impl LtxStore {
    /// The replica at the root of this store, sealed to and opened with these keys. To write plain files, say so
    /// by [`Keys::none`].
    #[must_use]
    pub fn new(blob: SharedBlobStore, keys: Arc<Keys>) -> Self {
        let layout = Layout::of_kind(blob.kind());
        Self { blob, layout, keys, chain: Arc::default() }
    }

    /// The keys of the replica.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Where it is, for messages.
    #[must_use]
    pub fn location(&self) -> String {
        self.blob.location()
    }

    /// The files of a level that end at `from` or later, ordered by first and last id, from either layout.
    pub async fn list(&self, level: Level, from: Txid) -> Result<Vec<LtxInfo>> {
        let mut files = Vec::new();
        for layout in Layout::ALL {
            let mut objects = self.blob.list(&layout.prefix(level), None);
            while let Some(object) = objects.try_next().await.map_err(Error::from)? {
                let Some(txids) = layout.parse(level, &object.key) else { continue };
                if txids.max() >= from {
                    files.push(LtxInfo::new(Place { level, txids }, object));
                }
            }
        }
        files.sort_by_key(|file| file.txids);
        files.dedup_by_key(|file| file.txids);
        Ok(files)
    }

    /// The files of every level.
    pub async fn list_all(&self) -> Result<Vec<LtxInfo>> {
        let levels = futures_util::stream::iter(Level::all())
            .map(|level| self.list(level, Txid::ZERO))
            .buffered(PARALLEL_LISTINGS)
            .try_collect::<Vec<_>>();
        Ok(levels.await?.concat())
    }

    /// Makes a file ready to be put: sealed, if the replica is. Keep the result for as long as the put may have to
    /// be repeated: made again, the same file has other bytes.
    pub fn seal(&self, level: Level, txids: TxidRange, plain: Body) -> Result<Sealed> {
        self.seal_after(Link::NONE, level, txids, plain)
    }

    /// The same for a file that follows on the one with this link.
    pub(crate) fn seal_after(&self, previous: Link, level: Level, txids: TxidRange, plain: Body) -> Result<Sealed> {
        Sealed::new(&self.keys, Place { level, txids }, plain, previous)
    }

    /// By which the file that begins with this id names the one before it: the image that ends there, which a restore
    /// begins with, or the file of level 0; none if there is no such file, or files are not authenticated. Needs no key.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) if there is one that bears no authentication: nothing can follow on it.
    pub(crate) async fn link_before(&self, txid: Txid) -> Result<Link> {
        let end = txid.prev();
        let Some(single) = TxidRange::single(end).filter(|_| self.keys.authenticates()) else {
            return Ok(Link::NONE);
        };
        let image = TxidRange::new(Txid(1), end).unwrap_or(single);
        for (level, txids) in [(Level::SNAPSHOT, image), (Level::L0, single)] {
            match self.blob.head(&self.layout.key(level, txids)?).await {
                Ok(there) => return self.link_of(LtxInfo::new(Place { level, txids }, there)).await,
                Err(BlobError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Link::NONE)
    }

    async fn link_of(&self, file: LtxInfo) -> Result<Link> {
        let head = self.exactly(&file, 0..open::HEAD.min(file.size)).await;
        // It may be getting another header just now.
        let mut head = head.map_err(|e| Error::new(ErrorKind::Unavailable, e.to_string()).with_source(e))?;
        let link = match head.starts_with(MAGIC_START) {
            true => self.start_of(&file, &mut head).await?.0.name(file.level),
            false => Link::NONE,
        };
        if link == Link::NONE {
            let message = format!("the newest file bears no authentication key={}", file.key);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(link)
    }

    /// Stores a file under its name, which must be free. An object that is there already is left as it is.
    ///
    /// What it takes has gone through [`seal`](Self::seal) of a store, which nothing else makes:
    ///
    /// ```
    /// # use replicate::{Level, Timestamp, TxidRange, blob::Body, store::LtxStore};
    /// async fn put(store: &LtxStore, txids: TxidRange, body: Body) -> replicate::Result<()> {
    ///     store.put(&store.seal(Level::L0, txids, body)?, Timestamp(0)).await.map(drop)
    /// }
    /// ```
    ///
    /// So a body that goes past the keys does not compile, neither as it is,
    ///
    /// ```compile_fail,E0308
    /// # use replicate::{Level, Timestamp, TxidRange, blob::Body, store::LtxStore};
    /// async fn put(store: &LtxStore, txids: TxidRange, body: Body) -> replicate::Result<()> {
    ///     store.put(&body, Timestamp(0)).await.map(drop)
    /// }
    /// ```
    ///
    /// nor in the clothes of a sealed one,
    ///
    /// ```compile_fail,E0451
    /// # use replicate::{Level, Timestamp, TxidRange, blob::Body, store::{LtxStore, Sealed}};
    /// async fn put(store: &LtxStore, sealed: Sealed, body: Body) -> replicate::Result<()> {
    ///     store.put(&Sealed { body, ..sealed }, Timestamp(0)).await.map(drop)
    /// }
    /// ```
    ///
    /// nor past this store: the one behind it is its own.
    ///
    /// ```compile_fail,E0616
    /// # use replicate::{Level, Timestamp, TxidRange, blob::{Body, ObjectKey, PutOptions}, store::LtxStore};
    /// async fn put(store: &LtxStore, key: ObjectKey, body: Body, options: PutOptions) -> replicate::Result<()> {
    ///     store.blob.put(&key, body, options).await.map(drop).map_err(Into::into)
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Internal`](ErrorKind::Internal) for one that another store has sealed, with other keys or none; and whatever the
    /// store answers.
    pub async fn put(&self, file: &Sealed, created: Timestamp) -> Result<PutOutcome> {
        if !Arc::ptr_eq(&file.keys, &self.keys) {
            return Err(Error::internal("a file was sealed with the keys of another store"));
        }
        let key = self.layout.key(file.place.level, file.place.txids)?;
        let mode = if mutant!(PutUnconditional) { PutMode::Overwrite } else { PutMode::Create };
        let options = PutOptions { mode, created };
        match self.blob.put(&key, file.body.clone(), options).await {
            Ok(meta) => Ok(PutOutcome::Stored { size: meta.size }),
            Err(BlobError::AlreadyExists { .. }) => Ok(PutOutcome::Exists(key)),
            Err(other) => Err(other.into()),
        }
    }

    /// Whether the object that a put has met is this file: byte for byte, or, where it can be opened, what is in
    /// it. What was sealed anew (a restart forgets how) and cannot be opened here counts as another one.
    pub async fn holds(&self, key: &ObjectKey, file: &Sealed) -> Result<bool> {
        Ok(self.met(key, file).await? != Met::Another)
    }

    /// What the object that a put has met is to this file, in the sense of [`holds`](Self::holds).
    pub(crate) async fn met(&self, key: &ObjectKey, file: &Sealed) -> Result<Met> {
        let bytes = |range: Range<u64>| async move { self.blob.get(key, Some(range)).await.map_err(Error::from) };
        match same(&file.body, bytes).await? {
            Likeness::Same => return Ok(Met::AsSealed),
            // A body that ends early proves nothing.
            Likeness::Cut if self.size(key).await? == file.size() => {
                let message = format!("the body of an object ended early key={key}");
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
            _ => {}
        }
        if Arc::ptr_eq(&file.body, &file.plain) || !self.keys.can_open() {
            return Ok(Met::Another);
        }
        let there = self.blob.head(key).await.map_err(Error::from)?;
        let info = LtxInfo::new(file.place, there);
        // One that is not ours, or no more, opens to nothing. What is wrong with the file here is told as it is.
        let foreign = |error: &Error| matches!(error.kind(), ErrorKind::Keys | ErrorKind::Corrupt);
        let open = match self.open(&info).await {
            Err(error) if foreign(&error) => return Ok(Met::Another),
            other => other?,
        };
        let opened = async |range| match open.read(range).await {
            Err(error) if foreign(&error) => Ok(Bytes::new()),
            other => other,
        };
        match same(&file.plain, opened).await? {
            Likeness::Same => Ok(Met::SameContent),
            _ => Ok(Met::Another),
        }
    }

    /// Bytes of a file as they lie in the store; never more than were asked for.
    pub async fn get(&self, file: &LtxInfo, range: Option<Range<u64>>) -> Result<Bytes, BlobError> {
        let most = range.as_ref().map(|range| range.end.saturating_sub(range.start));
        let bytes = self.blob.get(&file.key, range).await?;
        if most.is_some_and(|most| bytes.len() as u64 > most) {
            let message = format!("the store sent more than it was asked for key={}", file.key);
            return Err(Error::new(ErrorKind::Unsupported, message).into());
        }
        Ok(bytes)
    }

    /// Opens files as their bytes arrive.
    pub(crate) fn opening(&self) -> Opening {
        Opening { keys: self.keys.clone(), chain: self.chain.clone() }
    }

    /// Whether a file is sealed, from its first bytes.
    pub(crate) async fn is_sealed(&self, file: &LtxInfo) -> Result<bool> {
        // A body that ends early tells nothing, least of all that this one is plain.
        let start = self.exactly(file, 0..file.size.min(MAGIC_START.len() as u64)).await?;
        Ok(start.starts_with(MAGIC_START))
    }

    /// Whether an object that was stored before this process began can be compared with a file. Sealing anew gives other
    /// bytes each time, so one that is sealed must be opened.
    pub(crate) fn can_compare(&self) -> bool {
        self.keys.recipients().is_none() || self.keys.can_open()
    }

    /// Whether there is a file of this name, in the layout that is written.
    pub(crate) async fn has(&self, level: Level, txids: TxidRange) -> Result<bool> {
        match self.blob.head(&self.layout.key(level, txids)?).await {
            Ok(_) => Ok(true),
            Err(BlobError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes of an object that a put has met.
    pub(crate) async fn size(&self, key: &ObjectKey) -> Result<u64> {
        Ok(self.blob.head(key).await.map_err(Error::from)?.size)
    }

    /// When a file's content was captured: from the listing, the object's metadata, or its LTX header.
    pub async fn created(&self, file: &LtxInfo) -> Result<Timestamp> {
        if let Some(created) = file.created {
            return Ok(created);
        }
        let head = self.blob.head(&file.key).await.map_err(Error::from)?;
        if let Some(created) = head.created {
            return Ok(created);
        }
        Ok(Timestamp(self.header(file).await?.timestamp_ms))
    }

    /// The header of a file.
    pub async fn header(&self, file: &LtxInfo) -> Result<Header> {
        let bytes = self.open(file).await?.read(0..HEADER_LEN as u64).await?;
        let bytes: &[u8; HEADER_LEN] = bytes
            .as_ref()
            .try_into()
            .map_err(|_| Error::new(ErrorKind::Corrupt, format!("file is shorter than its header key={}", file.key)))?;
        Header::decode(bytes).map_err(|e| {
            Error::new(ErrorKind::Corrupt, format!("header of an LTX file: {e} key={}", file.key)).with_source(e)
        })
    }

    /// Removes files; missing ones are fine.
    pub async fn delete(&self, files: &[LtxInfo]) -> Result<()> {
        let keys: Vec<_> = files.iter().map(|file| file.key.clone()).collect();
        Ok(self.blob.delete(&keys).await?)
    }
}

/// What a put found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PutOutcome {
    /// The object is there now, whole.
    Stored {
        /// Its bytes.
        size: u64,
    },
    /// The name was taken before; nothing was written.
    Exists(ObjectKey),
}

/// What an object that is there already is to a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Met {
    /// The same byte for byte, as it was sealed here.
    AsSealed,
    /// Sealed another time, with the same in it.
    SameContent,
    /// Not ours, as far as can be told.
    Another,
}

/// How what is read somewhere is like a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Likeness {
    Same,
    /// It begins so and ends early.
    Cut,
    Other,
}

/// Whether what is read there is this body, and no more.
async fn same<R>(body: &Body, theirs: impl Fn(Range<u64>) -> R) -> Result<Likeness>
where
    R: Future<Output = Result<Bytes>>,
{
    let (mut offset, len) = (0, body.len());
    loop {
        // One byte more than ours, to see one that is longer.
        let end = (offset + COMPARE).min(len);
        let beyond = if end == len { end + 1 } else { end };
        let (theirs, ours) = (theirs(offset..beyond).await?, body.read(offset..end).await?);
        if theirs != ours {
            let cut = theirs.len() < ours.len() && ours.starts_with(&theirs);
            return Ok(if cut { Likeness::Cut } else { Likeness::Other });
        }
        offset = end;
        if offset == len {
            return Ok(Likeness::Same);
        }
    }
}

/// Opens the files of a replica as their bytes arrive, sealed or not.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    keys: Arc<Keys>,
    chain: Arc<Chain>,
}

impl Opening {
    /// For one file.
    pub(crate) fn of(&self, file: &LtxInfo) -> OpeningFile {
        let place = Place { level: file.level, txids: file.txids };
        OpeningFile { opening: self.clone(), place, form: OpeningForm::Unknown(BytesMut::new()) }
    }

    fn opener(&self, place: Place) -> Opener {
        Opener::new(self.keys.clone(), Some(place)).among(self.chain.clone())
    }
}

/// Opens one file as its bytes arrive.
pub(crate) struct OpeningFile {
    opening: Opening,
    place: Place,
    form: OpeningForm,
}

enum OpeningForm {
    /// Too short to tell.
    Unknown(BytesMut),
    Plain,
    Sealed(Box<Opener>),
}

impl std::fmt::Debug for OpeningFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpeningFile").field("place", &self.place).finish_non_exhaustive()
    }
}

impl OpeningFile {
    /// Takes the next bytes, the last ones of the file or not, and gives what they hold. The file is good only
    /// when its last bytes were taken without an error.
    pub(crate) fn feed(&mut self, bytes: Bytes, last: bool) -> Result<Bytes, SealError> {
        let bytes = match &mut self.form {
            OpeningForm::Unknown(start) => {
                start.extend_from_slice(&bytes);
                if start.len() < MAGIC_START.len() && !last {
                    return Ok(Bytes::new());
                }
                let start = std::mem::take(start).freeze();
                self.form = match self.opening.keys.must_open(&start)? {
                    true => OpeningForm::Sealed(Box::new(self.opening.opener(self.place))),
                    false => OpeningForm::Plain,
                };
                start
            }
            _ => bytes,
        };
        match &mut self.form {
            OpeningForm::Sealed(opener) => {
                let mut plain = Vec::new();
                opener.feed(&bytes, last, &mut plain)?;
                Ok(plain.into())
            }
            _ => Ok(bytes),
        }
    }
}

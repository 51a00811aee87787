//! LTX files on a blob store: the one border between files of this library and objects of a bucket.
//!
//! Names are formed and read here and nowhere else, and nothing reaches a bucket by another way, so that
//! what is done to every object (its name today, its seal tomorrow) is done in one place.

mod layout;

use std::ops::Range;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use replicate_format::{HEADER_LEN, Header, Level, Txid, TxidRange};

use crate::blob::{BlobError, Body, ObjectKey, PutMode, PutOptions, SharedBlobStore};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};

pub use self::layout::Layout;

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
    /// The object's key below the root of the store.
    #[must_use]
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }
}

/// How many listings run at the same time.
const PARALLEL_LISTINGS: usize = 10;

/// The LTX files of one replica.
#[derive(Clone, Debug)]
pub struct LtxStore {
    blob: SharedBlobStore,
    layout: Layout,
}

impl LtxStore {
    /// The replica at the root of this store.
    #[must_use]
    pub fn new(blob: SharedBlobStore) -> Self {
        let layout = Layout::of_kind(blob.kind());
        Self { blob, layout }
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
                    let (size, created, modified) = (object.size, object.created, object.modified);
                    files.push(LtxInfo { level, txids, size, created, modified, key: object.key });
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

    /// Stores a file under its name, which must be free. An object that is there already is left as it is.
    pub async fn put(&self, level: Level, txids: TxidRange, body: Body, created: Timestamp) -> Result<PutOutcome> {
        let key = self.layout.key(level, txids)?;
        let mode = if mutant!(PutUnconditional) { PutMode::Overwrite } else { PutMode::Create };
        let options = PutOptions { mode, created };
        match self.blob.put(&key, body, options).await {
            Ok(meta) => Ok(PutOutcome::Stored { size: meta.size }),
            Err(BlobError::AlreadyExists { .. }) => Ok(PutOutcome::Exists(key)),
            Err(other) => Err(other.into()),
        }
    }

    /// Bytes of a file.
    pub async fn get(&self, file: &LtxInfo, range: Option<Range<u64>>) -> Result<Bytes, BlobError> {
        self.blob.get(&file.key, range).await
    }

    /// Bytes of an object that a put has met.
    pub async fn get_key(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Bytes, BlobError> {
        self.blob.get(key, range).await
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
        let bytes = self.get(file, Some(0..HEADER_LEN as u64)).await.map_err(Error::from)?;
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

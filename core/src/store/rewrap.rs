//! New headers for files that are sealed already: other recipients, the same content.
//!
//! The file key stays, so nonce and chunks stay as they are, byte for byte. The store gets the object anew, because
//! no store can change the beginning of one; until the new one is whole the old one is there. Every chunk is opened on
//! its way: a file that is damaged, or that somebody else replaces meanwhile, is left as it is and never copied into
//! something that nobody can open.

use std::ops::Range;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::open::{HEAD, geometry_of};
use super::{LtxInfo, LtxStore};
use crate::blob::{BodySource, PutMode, PutOptions};
use crate::error::{Error, Result};
use crate::seal::{Geometry, PayloadKey, Place, RewrapError, SEALED_CHUNK};

impl LtxStore {
    /// Gives a file a new header for the recipients of this store's keys; `false` if it is not sealed, and that is
    /// allowed. Its timestamp stays.
    ///
    /// # Errors
    /// [`Keys`](crate::ErrorKind::Keys) if no identity opens it, [`Corrupt`](crate::ErrorKind::Corrupt) if it was
    /// changed; and whatever the store answers. The file is as it was then.
    pub async fn rewrap(&self, file: &LtxInfo) -> Result<bool> {
        let about = format!("key={}", file.key);
        let mut head = self.exactly(file, 0..HEAD.min(file.size)).await?;
        if !self.keys.must_open(&head).map_err(|e| e.into_error(&about))? {
            return Ok(false);
        }
        let (header, nonce) = self.start_of(file, &mut head).await?;
        let place = Place { level: file.level, txids: file.txids };
        let (start, key) = self.keys.rewrap(&header, &nonce, place).map_err(|error| match error {
            RewrapError::Seal(e) => e.into_error(&about),
            RewrapError::Other(error) => error,
        })?;
        let old = geometry_of(file, &header)?;
        let new = Geometry { start: start.len() as u64, ..old };
        let created = self.created(file).await?;
        let body = Rewrapped { store: self.clone(), file: file.clone(), start: start.into(), key, old, new };
        let options = PutOptions { mode: PutMode::Overwrite, created };
        self.blob.put(&file.key, std::sync::Arc::new(body), options).await.map_err(Error::from)?;
        Ok(true)
    }
}

/// Another header before the nonce and the chunks of a file.
struct Rewrapped {
    store: LtxStore,
    file: LtxInfo,
    /// The new header and the nonce.
    start: Bytes,
    key: PayloadKey,
    old: Geometry,
    new: Geometry,
}

impl std::fmt::Debug for Rewrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rewrapped").field("file", &self.file).field("new", &self.new).finish_non_exhaustive()
    }
}

#[async_trait]
impl BodySource for Rewrapped {
    fn len(&self) -> u64 {
        self.new.object()
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let chunks = self.new.chunks_at(&range);
        let mut bytes = BytesMut::new();
        let mut from = self.new.sealed_range(&chunks).start;
        if range.start < self.new.start {
            bytes.extend_from_slice(&self.start);
            from = 0;
        }
        if !chunks.is_empty() {
            bytes.extend_from_slice(&self.chunks(chunks).await?);
        }
        let index =
            |offset: u64| usize::try_from(offset - from).map_err(|_| Error::internal("a part beyond all memory"));
        Ok(bytes.freeze().slice(index(range.start)?..index(range.end)?))
    }
}

impl Rewrapped {
    /// Chunks of the file as they are, once each of them was opened.
    async fn chunks(&self, chunks: Range<u64>) -> Result<Bytes> {
        let sealed = self.store.exactly(&self.file, self.old.sealed_range(&chunks)).await?;
        for (number, chunk) in chunks.zip(sealed.chunks(SEALED_CHUNK as usize)) {
            let opened = self.key.open(number, self.old.is_last(number), &mut chunk.to_vec());
            opened.map_err(|e| e.into_error(format_args!("key={}", self.file.key)))?;
        }
        Ok(sealed)
    }
}

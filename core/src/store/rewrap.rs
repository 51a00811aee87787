//! New headers for files that are sealed already: other recipients, the same content.
//!
//! The file key stays, so nonce and chunks stay as they are, byte for byte. The store gets the object anew, because
//! no store can change the beginning of one; until the new one is whole the old one is there.

use std::ops::Range;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::open::HEAD;
use super::{LtxInfo, LtxStore};
use crate::blob::{BodySource, PutMode, PutOptions};
use crate::error::{Error, Result};
use crate::seal::{Place, RewrapError};

impl LtxStore {
    /// Gives a file a new header for the recipients of this store's keys; `false` if it is not sealed, and that is
    /// allowed. Its timestamp stays.
    ///
    /// # Errors
    /// [`Keys`](crate::ErrorKind::Keys) if no identity opens it, [`Corrupt`](crate::ErrorKind::Corrupt) if its header
    /// was changed; and whatever the store answers. The file is as it was then.
    pub async fn rewrap(&self, file: &LtxInfo) -> Result<bool> {
        let about = format!("key={}", file.key);
        let mut head = self.exactly(file, 0..HEAD.min(file.size)).await?;
        if !self.keys.must_open(&head).map_err(|e| e.into_error(&about))? {
            return Ok(false);
        }
        let old = self.header_of(file, &mut head).await?;
        let place = Place { level: file.level, txids: file.txids };
        let start = self.keys.rewrap(&old, place).map_err(|error| match error {
            RewrapError::Seal(e) => e.into_error(&about),
            RewrapError::Other(error) => error,
        })?;
        let created = self.created(file).await?;
        let from = old.bytes().len() as u64;
        let body = Rewrapped { store: self.clone(), file: file.clone(), start: start.into(), from };
        let options = PutOptions { mode: PutMode::Overwrite, created };
        self.blob.put(&file.key, std::sync::Arc::new(body), options).await.map_err(Error::from)?;
        Ok(true)
    }
}

/// Another header before what follows the old one.
#[derive(Debug)]
struct Rewrapped {
    store: LtxStore,
    file: LtxInfo,
    start: Bytes,
    /// Where the rest begins in the old object.
    from: u64,
}

#[async_trait]
impl BodySource for Rewrapped {
    fn len(&self) -> u64 {
        self.start.len() as u64 + self.file.size - self.from
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let header = self.start.len() as u64;
        let mut bytes = BytesMut::new();
        if range.start < header {
            let index = |offset: u64| usize::try_from(offset.min(header)).expect("within the header");
            bytes.extend_from_slice(&self.start[index(range.start)..index(range.end)]);
        }
        if range.end > header {
            let rest = range.start.max(header) - header + self.from..range.end - header + self.from;
            bytes.extend_from_slice(&self.store.exactly(&self.file, rest).await?);
        }
        Ok(bytes.freeze())
    }
}

//! What a put takes: a body that has gone through sealing, also where there is nothing to seal to.
//!
//! Only [`LtxStore::seal`](super::LtxStore::seal) makes one, so code that puts a body past the keys of a replica
//! does not compile.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::blob::{Body, BodySource};
use crate::error::{Error, ErrorKind, Result};
use crate::seal::{Geometry, Keys, Link, PayloadKey, Place};

/// A body as it will lie in the store. Putting it again, also in other parts, puts the same bytes.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// As it goes to the store.
    pub(super) body: Body,
    /// As it was before.
    pub(super) plain: Body,
    pub(super) place: Place,
    /// By which the next file names it.
    pub(super) link: Link,
    /// Whose keys it was sealed with.
    pub(super) keys: Arc<Keys>,
}

impl Sealed {
    pub(super) fn new(keys: &Arc<Keys>, place: Place, plain: Body, previous: Link) -> Result<Self> {
        let keys = keys.clone();
        let Some((start, key, link)) = keys.start_file(place, previous)? else {
            return Ok(Self { body: plain.clone(), plain, place, link: Link::NONE, keys });
        };
        let header = (start.len() - crate::seal::NONCE) as u64;
        let geometry = Geometry::of_plain(header, plain.len());
        let chunks = usize::try_from(geometry.chunks).map_err(|_| Error::internal("a body beyond all memory"))?;
        let tags = Mutex::new(vec![0; chunks]);
        let body = Arc::new(SealedBody { plain: plain.clone(), start, key, geometry, tags });
        Ok(Self { body, plain, place, link, keys })
    }

    /// By which the next file names it.
    pub(crate) fn link(&self) -> Link {
        self.link
    }

    /// Bytes in the store.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.body.len()
    }
}

struct SealedBody {
    plain: Body,
    /// Header and nonce.
    start: Vec<u8>,
    key: PayloadKey,
    geometry: Geometry,
    /// The first half of each chunk's tag, once it was sealed. Two different chunks must never be sealed under one
    /// number: a plain body that has changed since is noticed by this.
    tags: Mutex<Vec<u64>>,
}

impl fmt::Debug for SealedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedBody")
            .field("plain", &self.plain)
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl BodySource for SealedBody {
    fn len(&self) -> u64 {
        self.geometry.object()
    }

    fn tag(&self) -> Option<u64> {
        // The nonce, which is drawn for each sealing, tells it from every other one.
        self.start.last_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let start = self.geometry.start;
        let index = |offset: u64| usize::try_from(offset).map_err(|_| Error::internal("a part beyond all memory"));
        if range.end > self.len() || range.start >= range.end {
            return Err(Error::internal("read beyond a sealed body"));
        }
        if range.end <= start {
            return Ok(Bytes::copy_from_slice(&self.start[index(range.start)?..index(range.end)?]));
        }
        let chunks = self.geometry.chunks_at(&range);
        let from = match range.start < start {
            true => 0,
            false => self.geometry.sealed_range(&chunks).start,
        };
        let mut out = Vec::with_capacity(index(self.geometry.sealed_range(&chunks).end - from)?);
        if from == 0 {
            out.extend_from_slice(&self.start);
        }
        self.seal(chunks, &mut out).await?;
        Ok(Bytes::from(out).slice(index(range.start - from)?..index(range.end - from)?))
    }
}

impl SealedBody {
    async fn seal(&self, chunks: Range<u64>, out: &mut Vec<u8>) -> Result<()> {
        let plain_start = self.geometry.plain_range(chunks.start).start;
        let wanted = plain_start..self.geometry.plain_range(chunks.end - 1).end;
        let plain = match wanted.is_empty() {
            true => Bytes::new(),
            false => self.plain.read(wanted.clone()).await?,
        };
        if plain.len() as u64 != wanted.end - wanted.start {
            return Err(Error::internal("a body gave another number of bytes than were asked"));
        }
        let mut tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        for (chunk, bytes) in chunks.clone().zip(plain.chunks(crate::seal::CHUNK as usize).chain([&[][..]])) {
            let at = out.len();
            out.extend_from_slice(bytes);
            let tag = self.key.seal(chunk, self.geometry.is_last(chunk), &mut out[at..]);
            let half = u64::from_ne_bytes(tag[..8].try_into().expect("eight bytes"));
            let known = &mut tags[usize::try_from(chunk).expect("counted before")];
            if *known != 0 && *known != half {
                return Err(Error::new(ErrorKind::Corrupt, "a file has changed while it was sealed"));
            }
            *known = half;
            out.extend_from_slice(&tag);
        }
        Ok(())
    }
}

//! Reading ranges of one file, sealed or not.
//!
//! A sealed file is opened by its head and its tail, asked for at the same time: the head tells the key, and the
//! last chunk, which only opens as such, proves the length. After that a range costs the chunks it touches, with
//! neighbours in one request, and none if they are in the cache.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::future::try_join;

use super::{LtxInfo, LtxStore};
use crate::error::{Error, ErrorKind, Result};
use crate::seal::{
    CHUNK, Geometry, Header as SealHeader, HeaderParser, LONGEST_HEADER, MAGIC_START, NONCE, PayloadKey, Place,
    SEALED_CHUNK, SealError,
};

/// Bytes asked for at the start of a file: the header with two post-quantum keys fits.
pub(super) const HEAD: u64 = 4096;
/// Bytes asked for at its end: the last chunk is in them wherever it begins, and 64 KiB of plain data before the
/// end.
const TAIL: u64 = 2 * SEALED_CHUNK;
/// Chunks kept: 4 MiB.
const CACHED: usize = 64;
/// Of a longer row of chunks only both ends are kept: what is read on from there, or before it, shares no other chunk.
const SHORT_ROW: usize = 16;
/// Bodies that a range may come in.
const MOST_PARTS: usize = 64;

/// A file that is read in ranges.
#[derive(Debug)]
pub struct OpenFile<'a> {
    store: &'a LtxStore,
    file: LtxInfo,
    form: Form,
    /// Whether the first bytes were seen, which tell whether it is sealed.
    looked: AtomicBool,
}

#[derive(Debug)]
enum Form {
    Plain,
    Sealed(Box<Unsealed>),
}

struct Unsealed {
    key: PayloadKey,
    geometry: Geometry,
    /// The chunks used last, the newest at the end.
    cache: Mutex<VecDeque<(u64, Bytes)>>,
}

impl std::fmt::Debug for Unsealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unsealed").field("geometry", &self.geometry).finish_non_exhaustive()
    }
}

impl LtxStore {
    /// Opens a file for reading in ranges. One request, or two at the same time if it is long; none where nothing
    /// could be opened.
    ///
    /// # Errors
    /// [`Keys`](crate::ErrorKind::Keys) if no key at hand opens it, [`Corrupt`](crate::ErrorKind::Corrupt) if it was
    /// changed or cut; and whatever the store answers.
    pub async fn open(&self, file: &LtxInfo) -> Result<OpenFile<'_>> {
        let looked = AtomicBool::new(self.keys.can_open());
        let form = if self.keys.can_open() { self.open_form(file).await? } else { Form::Plain };
        Ok(OpenFile { store: self, file: file.clone(), form, looked })
    }

    async fn open_form(&self, file: &LtxInfo) -> Result<Form> {
        let failed = |e: SealError| e.into_error(format_args!("key={}", file.key));
        let (mut head, tail) = self.ends(file).await?;
        if !self.keys.must_open(&head).map_err(failed)? {
            return Ok(Form::Plain);
        }
        let (header, nonce) = self.start_of(file, &mut head).await?;
        let place = Place { level: file.level, txids: file.txids };
        let file_key = self.keys.open_header(&header, Some(place), &self.chain).map_err(failed)?;
        let key = PayloadKey::new(&file_key, &nonce);
        let geometry = geometry_of(file, &header)?;
        let unsealed = Unsealed { key, geometry, cache: Mutex::default() };
        unsealed.keep_tail(file.size - tail.len() as u64, &tail).map_err(failed)?;
        Ok(Form::Sealed(Box::new(unsealed)))
    }

    /// The header and the nonce of a sealed file whose first bytes are `head`; more are fetched if they are longer.
    pub(super) async fn start_of(&self, file: &LtxInfo, head: &mut Bytes) -> Result<(SealHeader, [u8; NONCE])> {
        let header = self.header_of(file, head).await?;
        let start = header.bytes().len();
        let nonce = match head.get(start..start + NONCE) {
            Some(nonce) => Bytes::copy_from_slice(nonce),
            None if start as u64 + NONCE as u64 > file.size => {
                let cut = SealError::Header("the file ends within its nonce");
                return Err(cut.into_error(format_args!("key={}", file.key)));
            }
            None => self.exactly(file, start as u64..(start + NONCE) as u64).await?,
        };
        let nonce = nonce.as_ref().try_into().map_err(|_| Error::internal("a nonce of another length"))?;
        Ok((header, nonce))
    }

    async fn header_of(&self, file: &LtxInfo, head: &mut Bytes) -> Result<SealHeader> {
        let failed = |e: SealError| e.into_error(format_args!("key={}", file.key));
        let mut parser = HeaderParser::new();
        let mut fed = 0;
        loop {
            if let Some((header, _)) = parser.feed(&head[fed..]).map_err(failed)? {
                return Ok(header);
            }
            fed = head.len();
            let grown = (3 * fed as u64).min(file.size).min(LONGEST_HEADER as u64 + 1);
            if grown <= fed as u64 {
                return Err(failed(parser.ended()));
            }
            let more = self.exactly(file, fed as u64..grown).await?;
            *head = join(&[head.clone(), more]);
        }
    }

    /// The head and the tail of a file; both are all of it if it is short.
    async fn ends(&self, file: &LtxInfo) -> Result<(Bytes, Bytes)> {
        if file.size <= HEAD + TAIL {
            let whole = self.exactly(file, 0..file.size).await?;
            return Ok((whole.clone(), whole));
        }
        try_join(self.exactly(file, 0..HEAD), self.exactly(file, file.size - TAIL..file.size)).await
    }

    pub(super) async fn exactly(&self, file: &LtxInfo, range: Range<u64>) -> Result<Bytes> {
        let (mut at, mut parts) = (range.start, Vec::new());
        while at < range.end {
            let bytes = self.get(file, Some(at..range.end)).await.map_err(Error::from)?;
            if bytes.is_empty() {
                let cut = SealError::Payload { chunk: 0, why: "the file is shorter than it was listed" };
                return Err(cut.into_error(format_args!("key={}", file.key)));
            }
            if bytes.len() as u64 > range.end - at {
                return Err(Error::internal(format!("the store sent more than was asked for key={}", file.key)));
            }
            // A body that ended early goes on where it ended; not for ever, for a store that gives a byte at a time.
            at += bytes.len() as u64;
            parts.push(bytes);
            if parts.len() == MOST_PARTS && at < range.end {
                let message = format!("bodies of the store end early, again and again key={}", file.key);
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
        }
        Ok(join(&parts))
    }
}

/// Where things are in a file that begins with this header, by its listed length.
pub(super) fn geometry_of(file: &LtxInfo, header: &SealHeader) -> Result<Geometry> {
    let cut = SealError::Payload { chunk: 0, why: "no file has this length" };
    let geometry = Geometry::of_object(header.bytes().len() as u64, file.size);
    geometry.ok_or_else(|| cut.into_error(format_args!("key={}", file.key)))
}

impl OpenFile<'_> {
    /// Bytes of the LTX file.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.form {
            Form::Plain => self.file.size,
            Form::Sealed(unsealed) => unsealed.geometry.plain,
        }
    }

    /// Bytes of a range; cut where the file ends. A failure never gives a part.
    ///
    /// # Errors
    /// As for [`LtxStore::open`].
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let range = range.start.min(self.size())..range.end.min(self.size());
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        match &self.form {
            Form::Plain => {
                let bytes = self.store.get(&self.file, Some(range.clone())).await.map_err(Error::from)?;
                self.look(&range, &bytes).await?;
                Ok(bytes)
            }
            Form::Sealed(unsealed) => self.read_sealed(unsealed, range).await,
        }
    }

    /// Without a private key nothing was looked at when it was opened: see that it is plain, and may be, before any of it
    /// is given out.
    async fn look(&self, range: &Range<u64>, bytes: &Bytes) -> Result<()> {
        if self.looked.load(Ordering::Relaxed) {
            return Ok(());
        }
        let enough = self.file.size.min(MAGIC_START.len() as u64);
        let start = match range.start == 0 && bytes.len() as u64 >= enough {
            true => bytes.clone(),
            false => self.store.exactly(&self.file, 0..enough).await?,
        };
        let sealed = self.store.keys.must_open(&start);
        sealed.map_err(|e| e.into_error(format_args!("key={}", self.file.key)))?;
        self.looked.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn read_sealed(&self, unsealed: &Unsealed, range: Range<u64>) -> Result<Bytes> {
        let geometry = &unsealed.geometry;
        let mut parts = Vec::new();
        let chunks = geometry.chunks_of(&range);
        let mut next = chunks.start;
        while next < chunks.end {
            if let Some(chunk) = unsealed.cached(next) {
                parts.push(chunk);
                next += 1;
                continue;
            }
            let missing = (next..chunks.end).find(|chunk| unsealed.has(*chunk)).unwrap_or(chunks.end);
            let bytes = self.store.exactly(&self.file, geometry.sealed_range(&(next..missing))).await?;
            let opened = unsealed.open(next, &bytes);
            parts.push(opened.map_err(|e| e.into_error(format_args!("key={}", self.file.key)))?);
            next = missing;
        }
        let whole = join(&parts);
        let at = |offset: u64| usize::try_from(offset - chunks.start * CHUNK).expect("within what was joined");
        Ok(whole.slice(at(range.start)..at(range.end)))
    }
}

impl Unsealed {
    /// Takes the whole chunks of a file's end. The last one proves the length.
    fn keep_tail(&self, offset: u64, tail: &Bytes) -> Result<(), SealError> {
        let skipped = offset.saturating_sub(self.geometry.start);
        let first = skipped.div_ceil(SEALED_CHUNK);
        let at = self.geometry.sealed_range(&(first..self.geometry.chunks)).start - offset;
        self.open(first, &tail.slice(usize::try_from(at).expect("within the tail")..)).map(drop)
    }

    /// Opens chunks that lie side by side.
    fn open(&self, first: u64, sealed: &Bytes) -> Result<Bytes, SealError> {
        let mut opened = BytesMut::with_capacity(sealed.len());
        for (number, chunk) in (first..).zip(sealed.chunks(SEALED_CHUNK as usize)) {
            let at = opened.len();
            opened.extend_from_slice(chunk);
            let len = self.key.open(number, self.geometry.is_last(number), &mut opened[at..])?;
            opened.truncate(at + len);
        }
        self.keep(first, &opened);
        Ok(opened.freeze())
    }

    /// Keeps copies of opened chunks: a part of a long row would hold all of it in memory.
    fn keep(&self, first: u64, opened: &[u8]) {
        let count = opened.len().div_ceil(CHUNK as usize);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, chunk) in opened.chunks(CHUNK as usize).enumerate() {
            if count > SHORT_ROW && at > 0 && at + 1 < count {
                continue;
            }
            let number = first + at as u64;
            cache.retain(|(kept, _)| *kept != number);
            cache.push_back((number, Bytes::copy_from_slice(chunk)));
        }
        let surplus = cache.len().saturating_sub(CACHED);
        cache.drain(..surplus);
    }

    fn has(&self, number: u64) -> bool {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|(kept, _)| *kept == number)
    }

    fn cached(&self, number: u64) -> Option<Bytes> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let at = cache.iter().position(|(kept, _)| *kept == number)?;
        let found = cache.remove(at)?;
        let chunk = found.1.clone();
        cache.push_back(found);
        Some(chunk)
    }
}

fn join(parts: &[Bytes]) -> Bytes {
    match parts {
        [one] => one.clone(),
        _ => {
            let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
            parts.iter().for_each(|part| whole.extend_from_slice(part));
            whole.freeze()
        }
    }
}

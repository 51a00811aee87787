//! A store that holds one object and answers as it likes.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt, iter};
use futures_util::FutureExt;
use replicate::blob::{BlobError, BlobResult, BlobStore, Body, Caps, MemoryStore, ObjectKey, ObjectMeta, PutOptions};
use replicate::seal::Keys;
use replicate::store::{LtxInfo, LtxStore};
use replicate::{Level, Timestamp, Txid, TxidRange};

/// How an answer differs from the truth.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lie {
    /// In nothing.
    None,
    /// It ends early, after so many bytes.
    Short(usize),
    /// It goes on for so many bytes of the object, or of zeros behind it.
    Long(usize),
    /// A bit of the byte at this place is the other way.
    Flip(usize),
    /// It is of a place so many bytes further.
    Elsewhere(usize),
    /// It is of another object.
    Other,
    /// It is an error.
    Error,
}

/// The store.
#[derive(Debug)]
pub struct Liar {
    object: Vec<u8>,
    other: Vec<u8>,
    /// The length that listings tell.
    listed: u64,
    lies: Mutex<VecDeque<Lie>>,
}

/// What the place of the object is.
pub fn txids() -> TxidRange {
    TxidRange::single(Txid(7)).expect("not zero")
}

/// These bytes as they would be put.
pub fn seal(keys: &Arc<Keys>, plain: &[u8]) -> Vec<u8> {
    let store = LtxStore::new(MemoryStore::named("fuzz"), keys.clone());
    let body: Body = Arc::new(Bytes::copy_from_slice(plain));
    let sealed = store.seal(Level::L0, txids(), body).expect("it can be sealed");
    now(store.put(&sealed, Timestamp(0))).expect("it can be put");
    let file = now(store.list(Level::L0, Txid(0))).expect("it can be listed").remove(0);
    let bytes = now(store.get(&file, None)).expect("it is there").to_vec();
    now(store.delete(&[file])).expect("it can be removed");
    bytes
}

/// The answer of something that never waits.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing here waits")
}

impl Liar {
    /// A store that holds this object, tells of it that it is so long, and lies so, answer by answer.
    pub fn new(object: Vec<u8>, other: Vec<u8>, listed: u64, lies: impl IntoIterator<Item = Lie>) -> Arc<Self> {
        Arc::new(Self { object, other, listed, lies: Mutex::new(lies.into_iter().collect()) })
    }

    /// The store, and the file in it.
    pub fn open(self: Arc<Self>, keys: &Arc<Keys>) -> (LtxStore, LtxInfo) {
        let store = LtxStore::new(self, keys.clone());
        let file = now(store.list(Level::L0, Txid(0))).expect("it can be listed").remove(0);
        (store, file)
    }

    fn meta(&self) -> ObjectMeta {
        let name = replicate::store::Layout::LtxDir.key(Level::L0, txids()).expect("a key");
        ObjectMeta { key: name, size: self.listed, modified: Timestamp(0), created: None, etag: None }
    }
}

fn piece(of: &[u8], start: u64, len: usize) -> Vec<u8> {
    let start = usize::try_from(start).unwrap_or(usize::MAX).min(of.len());
    of[start..].iter().copied().take(len).collect()
}

#[async_trait::async_trait]
impl BlobStore for Liar {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn caps(&self) -> Caps {
        Caps { conditional_put: true, created_in_list: false }
    }

    fn location(&self) -> String {
        "memory://liar".into()
    }

    async fn put(&self, _: &ObjectKey, _: Body, _: PutOptions) -> BlobResult<ObjectMeta> {
        Err(failed())
    }

    async fn get(&self, _: &ObjectKey, range: Option<Range<u64>>) -> BlobResult<Bytes> {
        let Range { start, end } = range.unwrap_or(0..self.object.len() as u64);
        let len = usize::try_from(end - start).unwrap_or(usize::MAX);
        let lie = self.lies.lock().unwrap_or_else(PoisonError::into_inner).pop_front().unwrap_or(Lie::None);
        let mut bytes = match lie {
            Lie::Long(more) => piece(&self.object, start, len + more),
            Lie::Elsewhere(by) => piece(&self.object, start.saturating_add(by as u64), len),
            Lie::Other => piece(&self.other, start, len),
            Lie::Error => return Err(failed()),
            Lie::None | Lie::Short(_) | Lie::Flip(_) => piece(&self.object, start, len),
        };
        match lie {
            Lie::Short(short) => bytes.truncate(short),
            Lie::Long(more) => bytes.resize(bytes.len() + more / 2, 0),
            Lie::Flip(at) if !bytes.is_empty() => {
                let at = at % bytes.len();
                bytes[at] ^= 1 << (at % 8);
            }
            _ => {}
        }
        Ok(bytes.into())
    }

    async fn head(&self, _: &ObjectKey) -> BlobResult<ObjectMeta> {
        Ok(self.meta())
    }

    fn list(&self, prefix: &str, _: Option<&str>) -> BoxStream<'_, BlobResult<ObjectMeta>> {
        let meta = self.meta();
        iter(meta.key.as_str().starts_with(prefix).then_some(Ok(meta))).boxed()
    }

    async fn delete(&self, _: &[ObjectKey]) -> BlobResult<()> {
        Err(failed())
    }
}

fn failed() -> BlobError {
    BlobError::NotFound { key: "gone".into() }
}

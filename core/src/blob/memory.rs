//! The reference store: objects in memory, for tests and as the model of what the contract means.
//!
//! [`MemoryStore::named`] gives every caller of one process the same store for `memory://name`. Nothing
//! survives the process.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, Range};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::{
    BlobError, BlobResult, BlobStore, Body, Caps, ObjectKey, ObjectMeta, PutMode, PutOptions, check_prefix, cut,
    read_exact,
};
use crate::clock::{SharedClock, SystemClock, Timestamp};

/// Objects in memory.
#[derive(Debug)]
pub struct MemoryStore {
    name: String,
    clock: SharedClock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    writes: u64,
}

#[derive(Clone, Debug)]
struct Object {
    body: Bytes,
    created: Timestamp,
    modified: Timestamp,
    write: u64,
}

static NAMED: LazyLock<Mutex<HashMap<String, Arc<MemoryStore>>>> = LazyLock::new(Mutex::default);

impl MemoryStore {
    /// An empty store whose writes are dated by this clock.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        Self { name: String::new(), clock, state: Mutex::default() }
    }

    /// The store of this name in this process; it lives as long as the process.
    #[must_use]
    pub fn named(name: &str) -> Arc<Self> {
        let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(named.entry(name.to_owned()).or_insert_with(|| {
            let store = Self::new(Arc::new(SystemClock::new()));
            Arc::new(Self { name: name.to_owned(), ..store })
        }))
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        // No step of the work can leave the map half changed, so a poisoned lock guards a whole one.
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn object(&self, key: &ObjectKey) -> BlobResult<Object> {
        let found = self.with(|state| state.objects.get(key.as_str()).cloned());
        found.ok_or_else(|| BlobError::NotFound { key: key.to_string() })
    }
}

fn meta(key: ObjectKey, object: &Object) -> ObjectMeta {
    ObjectMeta {
        key,
        size: object.body.len() as u64,
        modified: object.modified,
        created: Some(object.created),
        etag: Some(object.write.to_string()),
    }
}

#[async_trait]
impl BlobStore for MemoryStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn caps(&self) -> Caps {
        Caps { conditional_put: true, created_in_list: true }
    }

    fn location(&self) -> String {
        format!("memory://{}", self.name)
    }

    async fn put(&self, key: &ObjectKey, body: Body, options: PutOptions) -> BlobResult<ObjectMeta> {
        let body = read_exact(&body, 0..body.len()).await?;
        let modified = self.clock.now();
        self.with(|state| {
            if options.mode == PutMode::Create && state.objects.contains_key(key.as_str()) {
                return Err(BlobError::AlreadyExists { key: key.to_string() });
            }
            state.writes += 1;
            let object = Object { body, created: options.created, modified, write: state.writes };
            let answer = meta(key.clone(), &object);
            state.objects.insert(key.as_str().to_owned(), object);
            Ok(answer)
        })
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> BlobResult<Bytes> {
        let object = self.object(key)?;
        let cut = cut(range, object.body.len() as u64);
        let index = |n: u64| usize::try_from(n).expect("cut to a length in memory");
        Ok(object.body.slice(index(cut.start)..index(cut.end)))
    }

    async fn head(&self, key: &ObjectKey) -> BlobResult<ObjectMeta> {
        self.object(key).map(|object| meta(key.clone(), &object))
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'_, BlobResult<ObjectMeta>> {
        if let Err(error) = check_prefix(prefix) {
            return stream::iter([Err(error)]).boxed();
        }
        let from = match start_after {
            Some(key) if key >= prefix => Bound::Excluded(key.to_owned()),
            _ => Bound::Included(prefix.to_owned()),
        };
        let found: Vec<_> = self.with(|state| {
            let below = state.objects.range((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
            below.map(|(key, object)| Ok(meta(ObjectKey::new(key.as_str())?, object))).collect()
        });
        stream::iter(found).boxed()
    }

    async fn delete(&self, keys: &[ObjectKey]) -> BlobResult<()> {
        self.with(|state| {
            for key in keys {
                state.objects.remove(key.as_str());
            }
        });
        Ok(())
    }
}

//! The replica: objects in memory, and what a store does wrong.
//!
//! A put reads its body, waits, has its effect at one moment, waits, and answers. Whoever is gone before the moment
//! may have had the effect or not.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use replicate::blob::{BlobError, BlobResult, BlobStore, Body, Caps, ObjectKey, ObjectMeta, PutMode, PutOptions};
use replicate::{Error, ErrorKind, Timestamp, Txid, TxidRange};
use replicate_format::ltx_file_name;

use super::clock::SimClock;
use super::rng::Rng;
use super::step::Trouble;
use super::world::{JUDGE, Shared, World};

/// An object.
#[derive(Clone, Debug)]
pub struct Object {
    pub body: Bytes,
    created: Timestamp,
    modified: Timestamp,
    /// Virtual time of the put.
    at: Duration,
}

/// What goes wrong just now.
#[derive(Clone, Copy, Debug)]
pub struct Present {
    pub trouble: Trouble,
    pub percent: u64,
    pub until: Duration,
}

/// The objects.
#[derive(Clone, Debug)]
pub struct Objects {
    pub objects: BTreeMap<String, Object>,
    pub troubles: Vec<Present>,
    pub rng: Rng,
    /// The layout of keys: as S3, or as files.
    pub s3: bool,
}

impl Objects {
    /// Whether this goes wrong in the call at hand.
    fn draws(&mut self, trouble: Trouble, now: Duration) -> bool {
        self.troubles.retain(|present| present.until > now);
        let Some(present) = self.troubles.iter().find(|present| present.trouble == trouble) else { return false };
        let percent = present.percent;
        self.rng.percent(percent)
    }
}

impl World {
    /// Another writer has the next id. What the judge knows of the replica ends here.
    pub fn foreign_object(&mut self) {
        let id = self.oracle.newest() + 1;
        if self.foreign.is_some() || id == 1 {
            return;
        }
        let folder = if self.store.s3 { "0000" } else { "ltx/0" };
        let txids = TxidRange::single(Txid(id)).expect("not zero");
        let key = format!("{folder}/{}", ltx_file_name(txids));
        let (created, modified) = (self.wall(), self.store_wall());
        let object = Object { body: Bytes::from(vec![7; 300]), created, modified, at: self.now() };
        self.store.objects.insert(key, object);
        self.foreign = Some((id, self.level_headed.filter(|process| Some(*process) == self.engine)));
    }
}

/// The store as one process sees it.
#[derive(Clone, Debug)]
pub struct SimStore {
    world: Shared,
    clock: Arc<SimClock>,
    process: u32,
    /// A store that never fails nor waits, for the judge.
    sound: bool,
}

fn unavailable(what: &str) -> BlobError {
    Error::new(ErrorKind::Unavailable, what.to_owned()).into()
}

/// A put whose moment may still come.
struct Effect<'a> {
    store: &'a SimStore,
    key: String,
    object: Option<Object>,
    mode: PutMode,
}

impl Effect<'_> {
    fn happen(&mut self) -> BlobResult<ObjectMeta> {
        let Some(mut object) = self.object.take() else { return Err(unavailable("had its effect")) };
        let mut world = self.store.world.lock();
        let world = &mut *world;
        if self.mode == PutMode::Create && world.store.objects.contains_key(&self.key) {
            return Err(BlobError::AlreadyExists { key: self.key.clone() });
        }
        object.modified = world.store_wall();
        object.at = world.now();
        let meta = meta(&self.key, &object)?;
        if let Some(before) = world.store.objects.insert(self.key.clone(), object.clone())
            && before.body != object.body
        {
            world.violated(format!("I4: the object {} was overwritten", self.key));
        }
        world.stored(&self.key, &object.body);
        Ok(meta)
    }
}

impl Drop for Effect<'_> {
    fn drop(&mut self) {
        if self.object.is_some() && self.store.world.lock().store.rng.percent(40) {
            // The bytes were under way when their sender was gone; whatever comes of it, nobody is told.
            let _ = self.happen();
        }
    }
}

fn meta(key: &str, object: &Object) -> BlobResult<ObjectMeta> {
    Ok(ObjectMeta {
        key: ObjectKey::new(key)?,
        size: object.body.len() as u64,
        modified: object.modified,
        created: Some(object.created),
        etag: None,
    })
}

impl SimStore {
    pub fn new(world: &Shared, clock: &Arc<SimClock>, process: u32) -> Self {
        Self { world: world.clone(), clock: clock.clone(), process, sound: false }
    }

    /// A view of the objects as they are.
    pub fn sound(world: &Shared, clock: &Arc<SimClock>) -> Self {
        Self { world: world.clone(), clock: clock.clone(), process: JUDGE, sound: true }
    }

    fn draws(&self, trouble: Trouble) -> bool {
        let mut world = self.world.lock();
        let now = world.now();
        !self.sound && world.store.draws(trouble, now)
    }

    async fn pause(&self) {
        if self.sound {
            return;
        }
        let slow = self.draws(Trouble::Slow);
        let millis = {
            let mut world = self.world.lock();
            world.point(self.process);
            if slow { world.store.rng.between(200, 9000) } else { world.store.rng.between(1, 9) }
        };
        self.clock.wait(Duration::from_millis(millis)).await;
    }

    async fn begin(&self) -> BlobResult<()> {
        if self.draws(Trouble::Throttled) {
            self.world.lock().point(self.process);
            return Err(unavailable("slow down (503)"));
        }
        self.pause().await;
        if self.draws(Trouble::Refused) {
            return Err(unavailable("connection refused"));
        }
        Ok(())
    }

    /// All parts of a body but the last. They are nothing yet that anybody sees: when one of them fails, or whoever
    /// sends them is gone, no object comes of it.
    async fn send_parts(&self) -> BlobResult<()> {
        for _ in 0..3 {
            self.pause().await;
            if self.draws(Trouble::Torn) {
                return Err(unavailable("a part did not arrive"));
            }
        }
        Ok(())
    }

    fn object(&self, key: &ObjectKey) -> BlobResult<Object> {
        let found = self.world.lock().store.objects.get(key.as_str()).cloned();
        found.ok_or_else(|| BlobError::NotFound { key: key.to_string() })
    }

    fn listed(&self, prefix: &str) -> Vec<BlobResult<ObjectMeta>> {
        let (stale, short, broken) =
            (self.draws(Trouble::Stale), self.draws(Trouble::Short), self.draws(Trouble::Broken));
        let mut world = self.world.lock();
        let now = world.now();
        let world = &mut *world;
        let (rng, s3) = (&mut world.store.rng, world.store.s3);
        let age = Duration::from_millis(if stale { rng.between(1, 30_000) } else { 0 });
        let below = world.store.objects.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        let mut found: Vec<_> = below
            .clone()
            .filter(|(_, object)| !stale || object.at + age <= now)
            .map(|(key, object)| meta(key, object))
            // Listings of S3 show no metadata.
            .map(|meta| meta.map(|meta| ObjectMeta { created: meta.created.filter(|_| !s3), ..meta }))
            .collect();
        if short {
            found.truncate(rng.index(found.len() + 1));
        }
        let lies = found.len() < below.count() && world.engine == Some(self.process);
        world.lied |= lies;
        if broken {
            found.truncate(rng.index(found.len() + 1));
            found.push(Err(unavailable("the next page did not come")));
        }
        found
    }
}

#[async_trait]
impl BlobStore for SimStore {
    fn kind(&self) -> &'static str {
        if self.world.lock().store.s3 { "s3" } else { "memory" }
    }

    fn caps(&self) -> Caps {
        Caps { conditional_put: true, created_in_list: !self.world.lock().store.s3 }
    }

    fn location(&self) -> String {
        "sim://replica".to_owned()
    }

    async fn put(&self, key: &ObjectKey, body: Body, options: PutOptions) -> BlobResult<ObjectMeta> {
        let bytes = body.read(0..body.len()).await?;
        if self.draws(Trouble::Throttled) {
            return Err(unavailable("slow down (503)"));
        }
        if self.world.lock().manner.parts {
            self.send_parts().await?;
        }
        let (created, at) = (options.created, Duration::ZERO);
        let object = Some(Object { body: bytes, created, modified: created, at });
        let mut effect = Effect { store: self, key: key.to_string(), object, mode: options.mode };
        self.pause().await;
        if self.draws(Trouble::Refused) {
            effect.object = None;
            return Err(unavailable("connection refused"));
        }
        let answer = effect.happen();
        self.pause().await;
        if self.draws(Trouble::AnswerLost) {
            return Err(unavailable("connection reset"));
        }
        answer
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> BlobResult<Bytes> {
        self.begin().await?;
        let object = self.object(key)?;
        let len = object.body.len() as u64;
        let range = range.unwrap_or(0..len);
        let end = range.end.min(len);
        let mut bytes = object.body.slice(range.start.min(end) as usize..end as usize);
        if self.draws(Trouble::Cut) {
            let cut = self.world.lock().store.rng.index(bytes.len() + 1);
            bytes.truncate(cut);
        }
        Ok(bytes)
    }

    async fn head(&self, key: &ObjectKey) -> BlobResult<ObjectMeta> {
        self.begin().await?;
        meta(key.as_str(), &self.object(key)?)
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'_, BlobResult<ObjectMeta>> {
        let (prefix, after) = (prefix.to_owned(), start_after.map(str::to_owned));
        let items = async move {
            match self.begin().await {
                Err(error) => vec![Err(error)],
                Ok(()) => self.listed(&prefix),
            }
        };
        let beyond = move |item: &BlobResult<ObjectMeta>| match (item, &after) {
            (Ok(meta), Some(after)) => meta.key.as_str() > after.as_str(),
            _ => true,
        };
        stream::once(items).flat_map(stream::iter).filter(move |item| std::future::ready(beyond(item))).boxed()
    }

    async fn delete(&self, keys: &[ObjectKey]) -> BlobResult<()> {
        self.begin().await?;
        let mut world = self.world.lock();
        for key in keys {
            world.violated(format!("I7: the object {key} was deleted"));
        }
        Ok(())
    }
}

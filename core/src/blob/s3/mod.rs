//! Objects in an S3 bucket, through the AWS SDK.
//!
//! Works against AWS and everything that speaks its protocol; what providers do differently is a table
//! ([`provider`]). Nothing is asked of network, credential files or metadata services before the first use,
//! and nothing is ever written into the environment. A call tries a few times within seconds; whoever must
//! not give up (the shipper) repeats the call.
//!
//! An answer that is lost on its way can make a repeated [`PutMode::Create`](super::PutMode) see its own
//! object: [`BlobError::AlreadyExists`] then names bytes that are the caller's, who alone can tell.

mod client;
mod crowd;
mod delete;
mod failure;
mod list;
mod provider;
mod put;
mod stamp;
mod sweep;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::DateTime;
use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use tokio::sync::OnceCell;

pub(super) use self::client::Sockets;
use self::client::patience;
use self::failure::Doing;
use self::provider::Provider;
use super::{BlobError, BlobResult, BlobStore, Body, Caps, ObjectKey, ObjectMeta, PutOptions};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::S3Location;
use crate::error::{Error, ErrorKind, Result};

/// Times that a body which breaks off is asked for again, from where it broke.
const RESUMES: u32 = 3;

/// Longest silence inside the body of an answer.
const IDLE: Duration = Duration::from_secs(30);

/// Longer than any object can be.
const LONGEST: u64 = 1 << 50;

/// Most memory that is reserved on the word of an answer's length alone.
const TRUSTED_LENGTH: u64 = 16 << 20;

/// A prefix in a bucket.
#[derive(Debug)]
pub struct S3Store {
    location: S3Location,
    /// What stands before every key.
    root: String,
    provider: &'static Provider,
    http: client::Http,
    client: OnceCell<Client>,
    /// What the probe found out, once it ran.
    conditional: OnceCell<bool>,
    /// The last upload in parts, if an outage has interrupted it.
    interrupted: Mutex<Option<put::Interrupted>>,
    /// Folders in which abandoned uploads were looked for, and when.
    swept: Mutex<HashMap<String, Duration>>,
    clock: SystemClock,
}

impl S3Store {
    /// The store at this place. Reads the CA bundle that the environment names, and nothing else.
    pub fn new(location: S3Location) -> Result<Self> {
        Self::sharing(location, &Sockets::default())
    }

    /// The same with the sockets of other stores on the runtime where it will be used.
    pub(super) fn sharing(location: S3Location, sockets: &Sockets) -> Result<Self> {
        let root = if location.prefix.is_empty() { String::new() } else { format!("{}/", location.prefix) };
        Self::with_root(location, root, sockets)
    }

    /// The places where Litestream keeps a replica whose prefix is empty: it writes `.` or nothing before the slash,
    /// depending on how its URL ends. To be read only.
    pub(super) fn spellings(location: &S3Location) -> Result<Vec<Self>> {
        let roots: &[&str] = if location.prefix.is_empty() { &["./", "/"] } else { &[] };
        let sockets = Sockets::default();
        roots.iter().map(|root| Self::with_root(location.clone(), (*root).to_owned(), &sockets)).collect()
    }

    fn with_root(location: S3Location, root: String, sockets: &Sockets) -> Result<Self> {
        let provider = Provider::of(location.endpoint.as_deref());
        let http = sockets.get(location.endpoint.as_deref())?;
        Ok(Self {
            location,
            root,
            provider,
            http,
            client: OnceCell::new(),
            conditional: OnceCell::new(),
            interrupted: Mutex::default(),
            swept: Mutex::default(),
            clock: SystemClock::new(),
        })
    }

    async fn client(&self) -> BlobResult<&Client> {
        self.client.get_or_try_init(|| client::connect(&self.location, self.provider, &self.http)).await
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.root)
    }

    fn doing<'a>(&'a self, what: &'static str, key: Option<&'a ObjectKey>) -> Doing<'a> {
        Doing { what, bucket: &self.location.bucket, key: key.map(ObjectKey::as_str) }
    }

    /// Asks for a range once and appends what arrives; the error tells whether asking again can help.
    async fn fetch(&self, key: &ObjectKey, wanted: Option<&Range<u64>>, got: &mut Fetched) -> Result<(), Broken> {
        let client = self.client().await.map_err(Broken::For)?;
        let done = got.body.len() as u64;
        let range = match wanted {
            // Servers refuse numbers that no object can have.
            Some(range) if range.end <= LONGEST => Some(format!("bytes={}-{}", range.start + done, range.end - 1)),
            Some(range) => Some(format!("bytes={}-", range.start + done)),
            None if done > 0 => Some(format!("bytes={done}-")),
            None => None,
        };
        let sent = client
            .get_object()
            .bucket(&self.location.bucket)
            .key(self.full(key.as_str()))
            .set_range(range.clone())
            // The rest of another version would be a mixture.
            .set_if_match(got.etag.clone().filter(|_| done > 0))
            .customize()
            .config_override(patience(0))
            .send()
            .await;
        let answer = match sent {
            Ok(answer) => answer,
            Err(e) if failure::status(&e) == Some(416) => {
                got.end = Some(done);
                return Ok(());
            }
            Err(e) => return Err(Broken::For(self.doing("get", Some(key)).failed(e))),
        };
        let length = answer.content_length().and_then(|n| u64::try_from(n).ok());
        let whole = answer.content_range().is_none() && range.is_some();
        if whole && (done > 0 || wanted.is_some_and(|r| r.start > 0 || length.is_none_or(|n| n > r.end))) {
            let message = format!("the store ignores ranges key={key} {}", self.doing("get", None).place());
            return Err(Broken::For(Error::new(ErrorKind::Unsupported, message).into()));
        }
        got.etag = answer.e_tag().map(str::to_owned);
        if done == 0 {
            got.end = length;
            let reserve = length.unwrap_or(0).min(TRUSTED_LENGTH);
            got.body.reserve(usize::try_from(reserve).unwrap_or(0));
        }
        let mut stream = answer.body;
        loop {
            let next = tokio::select! {
                biased;
                next = stream.next() => next,
                () = self.clock.sleep(IDLE) => {
                    return Err(Broken::Off(format!("nothing for {} s", IDLE.as_secs())));
                }
            };
            let complete = got.end == Some(got.body.len() as u64);
            match next {
                Some(Ok(bytes)) => got.body.extend_from_slice(&bytes),
                Some(Err(e)) if !complete => return Err(Broken::Off(e.to_string())),
                None if got.end.is_some() && !complete => return Err(Broken::Off("the body ends early".into())),
                Some(Err(_)) | None => return Ok(()),
            }
        }
    }
}

/// What of a body has arrived.
#[derive(Default)]
struct Fetched {
    body: BytesMut,
    /// Its length, as the first answer told it.
    end: Option<u64>,
    etag: Option<String>,
}

/// How a fetch failed.
enum Broken {
    /// For good, or after the client's own attempts.
    For(BlobError),
    /// In the middle of a body.
    Off(String),
}

fn time(at: Option<&DateTime>) -> Timestamp {
    Timestamp(at.and_then(|t| t.to_millis().ok()).unwrap_or(0))
}

#[async_trait]
impl BlobStore for S3Store {
    fn kind(&self) -> &'static str {
        "s3"
    }

    /// Whether the store decides conditional puts is assumed until the first of them has probed it.
    fn caps(&self) -> Caps {
        let known = self.conditional.get().copied().or(self.provider.conditional_put);
        Caps { conditional_put: known.unwrap_or(true), created_in_list: false }
    }

    fn location(&self) -> String {
        self.location.to_string()
    }

    /// The answer to a put does not tell the store's own time: `modified` is the given timestamp.
    async fn put(&self, key: &ObjectKey, body: Body, options: PutOptions) -> BlobResult<ObjectMeta> {
        self.put_any(key, &body, options).await
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> BlobResult<Bytes> {
        if range.as_ref().is_some_and(|r| r.start >= r.end.min(LONGEST)) {
            return self.head(key).await.map(|_| Bytes::new());
        }
        let mut got = Fetched::default();
        let mut resumes = 0;
        loop {
            match self.fetch(key, range.as_ref(), &mut got).await {
                Ok(()) => return Ok(got.body.freeze()),
                Err(Broken::For(error)) => return Err(error),
                Err(Broken::Off(why)) if resumes == RESUMES => {
                    let place = self.doing("get", Some(key)).place();
                    let message = format!("the body of an object breaks off again and again: {why} {place}");
                    return Err(Error::new(ErrorKind::Unavailable, message).into());
                }
                Err(Broken::Off(why)) => {
                    resumes += 1;
                    tracing::debug!(%key, at = got.body.len(), why, "body broke off, asking for the rest");
                    self.clock.sleep(Duration::from_millis(100) * resumes).await;
                }
            }
        }
    }

    async fn head(&self, key: &ObjectKey) -> BlobResult<ObjectMeta> {
        let request = self.client().await?.head_object().bucket(&self.location.bucket).key(self.full(key.as_str()));
        let answer = request.customize().config_override(patience(0)).send().await;
        let answer = answer.map_err(|e| self.doing("head", Some(key)).failed(e))?;
        Ok(ObjectMeta {
            key: key.clone(),
            size: answer.content_length().and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
            modified: time(answer.last_modified()),
            created: answer.metadata().and_then(stamp::read),
            etag: answer.e_tag().map(str::to_owned),
        })
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'_, BlobResult<ObjectMeta>> {
        self.list_pages(prefix, start_after)
    }

    async fn delete(&self, keys: &[ObjectKey]) -> BlobResult<()> {
        self.delete_batches(keys).await
    }
}

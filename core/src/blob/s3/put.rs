//! Writing: one request below [`PART`], parts from there on, and the probe for conditional writes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::client::patience;
use super::{S3Store, failure, stamp};
use crate::blob::{BlobError, BlobResult, BlobStore, Body, ObjectKey, ObjectMeta, PutMode, PutOptions, read_exact};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind};

/// From this length on a body goes in parts, none of them smaller (but the last): the smallest that S3 takes, as each part
/// under way lies in memory.
const PART: u64 = 5 << 20;

/// Most parts of an upload (S3 limits).
const PARTS: u64 = 10_000;

/// The object of the probe. One name for all, so that a leftover answers the question at once.
pub(super) const PROBE: &str = ".replicate-conditional-put";

/// The length of each part but the last: whole mebibytes.
fn part_size(len: u64) -> u64 {
    PART.max(len.div_ceil(PARTS).next_multiple_of(1 << 20))
}

impl S3Store {
    pub(super) async fn put_any(&self, key: &ObjectKey, body: &Body, options: PutOptions) -> BlobResult<ObjectMeta> {
        let create = options.mode == PutMode::Create;
        let conditional = create && self.probe_conditional_put().await?;
        // Where the store decides, a first look only saves sending a long body in vain.
        if create && (!conditional || body.len() >= PART) {
            match self.head(key).await {
                Ok(_) => return Err(BlobError::AlreadyExists { key: key.to_string() }),
                Err(BlobError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let condition = conditional.then(|| "*".to_owned());
        let etag = if body.len() < PART {
            let bytes = read_exact(body, 0..body.len()).await?;
            self.put_whole(key, bytes, options.created, condition).await?
        } else {
            self.put_parts(key, body, options.created, condition).await?
        };
        Ok(ObjectMeta {
            key: key.clone(),
            size: body.len(),
            modified: options.created,
            created: Some(options.created),
            etag,
        })
    }

    async fn put_whole(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        created: Timestamp,
        condition: Option<String>,
    ) -> BlobResult<Option<String>> {
        let len = bytes.len() as u64;
        let conditional = condition.is_some();
        let request = self
            .client()
            .await?
            .put_object()
            .bucket(&self.location.bucket)
            .key(self.full(key.as_str()))
            .set_metadata(Some(stamp::write(created)?))
            .set_if_none_match(condition)
            .content_length(i64::try_from(len).map_err(|_| Error::internal("a part beyond all limits"))?)
            .body(ByteStream::from(bytes));
        match request.customize().config_override(patience(len)).send().await {
            Ok(answer) => Ok(answer.e_tag().map(str::to_owned)),
            Err(e) if conditional && is_taken(&e) => Err(BlobError::AlreadyExists { key: key.to_string() }),
            Err(e) => Err(self.doing("put", Some(key)).failed(e)),
        }
    }

    async fn put_parts(
        &self,
        key: &ObjectKey,
        body: &Body,
        created: Timestamp,
        condition: Option<String>,
    ) -> BlobResult<Option<String>> {
        let interrupted = self.interrupted.lock().unwrap_or_else(PoisonError::into_inner).take();
        let tag = body.tag();
        // Another one is aborted when it goes.
        let mut upload = match interrupted.filter(|it| it.is_of(&self.full(key.as_str()), body, created)) {
            Some(it) => it.upload,
            None => self.start_upload(key, created).await?,
        };
        let sent = self.send_parts(key, body, &upload).await;
        let done = match sent {
            Ok(parts) => self.complete(key, body.len(), created, condition, &upload, parts).await,
            Err(error) => Err(error),
        };
        // Not if it is the body that cannot be read: that may never pass, and the parts would be paid for.
        let passing =
            matches!(&done, Err(BlobError::Other(error)) if error.is_retryable() && error.kind() != ErrorKind::Disk);
        if let (true, Some(tag), false) = (passing, tag, upload.gone.load(Ordering::Relaxed)) {
            // What has arrived need not be sent again when the store is back.
            let interrupted = Interrupted { len: body.len(), tag, created, upload };
            *self.interrupted.lock().unwrap_or_else(PoisonError::into_inner) = Some(interrupted);
            return done;
        }
        upload.open = false;
        if done.is_err() {
            // A completion that was refused leaves its parts, too.
            upload.abort().await;
        }
        done
    }

    async fn start_upload(&self, key: &ObjectKey, created: Timestamp) -> BlobResult<Upload> {
        let client = self.client().await?;
        let full = self.full(key.as_str());
        self.sweep_uploads(&full).await;
        let started = client
            .create_multipart_upload()
            .bucket(&self.location.bucket)
            .key(&full)
            .set_metadata(Some(stamp::write(created)?))
            .customize()
            .config_override(patience(0))
            .send()
            .await
            .map_err(|e| self.doing("start upload", Some(key)).failed(e))?;
        let id = started.upload_id().ok_or_else(|| Error::internal("an upload without id"))?.to_owned();
        let mut upload = Upload::ended(client.clone(), &self.location.bucket, &full, &id);
        upload.open = true;
        Ok(upload)
    }

    async fn send_parts(&self, key: &ObjectKey, body: &Body, upload: &Upload) -> BlobResult<Vec<CompletedPart>> {
        let size = part_size(body.len());
        let send = |index: u64| async move {
            let number = i32::try_from(index + 1).map_err(|_| Error::internal("too many parts"))?;
            if upload.sent().contains_key(&number) {
                return Ok(());
            }
            let start = index * size;
            let bytes = read_exact(body, start..body.len().min(start + size)).await?;
            let len = bytes.len() as u64;
            let answer = upload
                .client
                .upload_part()
                .bucket(&upload.bucket)
                .key(&upload.key)
                .upload_id(&upload.id)
                .part_number(number)
                .content_length(i64::try_from(len).map_err(|_| Error::internal("a part beyond all limits"))?)
                .body(ByteStream::from(bytes))
                .customize()
                .config_override(patience(len))
                .send()
                .await;
            let answer = answer.map_err(|e| match upload.note_if_gone(&e) {
                true => self.lost_upload("put part", key),
                false => self.doing("put part", Some(key)).failed(e),
            })?;
            let part = CompletedPart::builder().part_number(number).set_e_tag(answer.e_tag().map(str::to_owned));
            upload.sent().insert(number, part.build());
            point!(PartPut);
            Ok::<_, BlobError>(())
        };
        let indexes = 0..body.len().div_ceil(size);
        stream::iter(indexes).map(send).buffer_unordered(self.provider.parts_at_once).try_collect::<()>().await?;
        Ok(upload.sent().values().cloned().collect())
    }

    /// Aborted by somebody's lifecycle rule; from the start it can succeed.
    fn lost_upload(&self, what: &'static str, key: &ObjectKey) -> BlobError {
        let message = format!("{what}: the store has lost the upload {}", self.doing("", Some(key)).place());
        Error::new(ErrorKind::Unavailable, message).into()
    }

    async fn complete(
        &self,
        key: &ObjectKey,
        len: u64,
        created: Timestamp,
        condition: Option<String>,
        upload: &Upload,
        parts: Vec<CompletedPart>,
    ) -> BlobResult<Option<String>> {
        let conditional = condition.is_some();
        let request = upload
            .client
            .complete_multipart_upload()
            .bucket(&upload.bucket)
            .key(&upload.key)
            .upload_id(&upload.id)
            .set_if_none_match(condition)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build());
        // Putting parts together takes large services long; they send blanks meanwhile.
        let error = match request.customize().config_override(patience(len / 16)).send().await {
            Ok(answer) => return Ok(answer.e_tag().map(str::to_owned)),
            Err(error) => error,
        };
        let gone = upload.note_if_gone(&error);
        // Repeated after a lost answer, a completion meets its own work.
        if gone
            && let Ok(there) = self.head(key).await
            && there.size == len
            && there.created == Some(created)
        {
            return Ok(there.etag);
        }
        if conditional && is_taken(&error) {
            return Err(BlobError::AlreadyExists { key: key.to_string() });
        }
        if gone {
            return Err(self.lost_upload("complete upload", key));
        }
        Err(self.doing("complete upload", Some(key)).failed(error))
    }

    /// Whether the store decides [`PutMode::Create`] itself. Asked once: of two conditional writes of one
    /// name it must refuse the second.
    pub async fn probe_conditional_put(&self) -> BlobResult<bool> {
        if let Some(known) = self.provider.conditional_put {
            return Ok(known);
        }
        self.conditional.get_or_try_init(|| self.probe()).await.copied()
    }

    async fn probe(&self) -> BlobResult<bool> {
        let key = ObjectKey::new(PROBE)?;
        for round in 0..2 {
            let request = self
                .client()
                .await?
                .put_object()
                .bucket(&self.location.bucket)
                .key(self.full(PROBE))
                .if_none_match("*")
                .content_length(0)
                .body(ByteStream::from_static(b""));
            let decided = match request.customize().config_override(patience(0)).send().await {
                Ok(_) if round == 0 => continue,
                Ok(_) => false,
                Err(e) if is_taken(&e) => true,
                // The header is not known there.
                Err(e) if failure::status(&e) == Some(501) => return Ok(false),
                Err(e) => return Err(self.doing("probe conditional writes", Some(&key)).failed(e)),
            };
            if round == 1 {
                // Only who made it removes it, so that nobody's second write meets an empty place. Left
                // behind it is harmless: the next probe is done after one request.
                if let Err(error) = self.delete_batches(std::slice::from_ref(&key)).await {
                    tracing::debug!(%error, "the probe's object stays");
                }
            }
            if !decided {
                tracing::warn!(store = %self.location, "the store ignores conditions on writes; a second writer is noticed late");
            }
            return Ok(decided);
        }
        Err(Error::internal("a probe without an answer").into())
    }
}

/// Whether a condition failed: the name is taken. That two were just trying for it (`ConditionalRequestConflict`) says
/// nothing about who has it, or whether anybody does.
fn is_taken<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    match failure::status(error) {
        Some(412) => true,
        Some(409) => error.code() != Some("ConditionalRequestConflict"),
        _ => false,
    }
}

/// An upload in parts, which must be completed or aborted: its parts are paid for until then.
pub(super) struct Upload {
    client: Client,
    bucket: String,
    key: String,
    id: String,
    /// The parts that the store has.
    sent: Mutex<BTreeMap<i32, CompletedPart>>,
    /// The store does not know it any more.
    gone: AtomicBool,
    open: bool,
}

/// An upload that can go on, and what it is of.
pub(super) struct Interrupted {
    len: u64,
    tag: u64,
    created: Timestamp,
    upload: Upload,
}

impl Interrupted {
    fn is_of(&self, key: &str, body: &Body, created: Timestamp) -> bool {
        (self.upload.key.as_str(), self.len, Some(self.tag), self.created) == (key, body.len(), body.tag(), created)
    }
}

impl fmt::Debug for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupted").field("key", &self.upload.key).field("len", &self.len).finish_non_exhaustive()
    }
}

impl Upload {
    /// One that only has to be aborted.
    pub(super) fn ended(client: Client, bucket: &str, key: &str, id: &str) -> Self {
        let (bucket, key, id) = (bucket.to_owned(), key.to_owned(), id.to_owned());
        Self { client, bucket, key, id, sent: Mutex::default(), gone: AtomicBool::new(false), open: false }
    }

    fn sent(&self) -> MutexGuard<'_, BTreeMap<i32, CompletedPart>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_if_gone<E: ProvideErrorMetadata>(&self, error: &SdkError<E, HttpResponse>) -> bool {
        let gone = error.as_service_error().and_then(|e| e.meta().code()) == Some("NoSuchUpload");
        self.gone.fetch_or(gone, Ordering::Relaxed);
        gone
    }

    pub(super) async fn abort(&self) {
        let request = self.client.abort_multipart_upload().bucket(&self.bucket).key(&self.key).upload_id(&self.id);
        if let Err(error) = request.customize().config_override(patience(0)).send().await {
            // The reason for the abort is the error to report; the bucket's lifecycle rule cleans up.
            tracing::debug!(key = self.key, error = %error, "an upload in parts stays");
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        // The put was cancelled.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let upload = Self {
                client: self.client.clone(),
                bucket: std::mem::take(&mut self.bucket),
                key: std::mem::take(&mut self.key),
                id: std::mem::take(&mut self.id),
                sent: Mutex::default(),
                gone: AtomicBool::new(false),
                open: false,
            };
            runtime.spawn(async move { upload.abort().await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_never_number_more_than_the_limit() {
        for len in [PART, PART + 1, PARTS * PART, PARTS * PART + 1, 1 << 40, 5 << 40] {
            let size = part_size(len);
            assert!(size >= PART && len.div_ceil(size) <= PARTS, "{len}");
        }
        assert_eq!(part_size(PART), PART);
    }
}

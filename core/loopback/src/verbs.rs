//! The S3 verbs that we, Litestream and boto use.

use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::*;
use s3s::{S3, S3Error, S3Request, S3Response, S3Result, s3_error};

use super::faults::Faults;
use super::folder::{Folder, Meta, Staged, Stored, Upload};

/// Bytes of a body that are read at a time.
const CHUNK: u64 = 256 << 10;

/// The smallest part but the last (S3 limits).
const SMALLEST_PART: u64 = 5 << 20;

const REGION: &str = "us-east-1";

pub(super) struct Verbs {
    folder: Folder,
    faults: Arc<Faults>,
}

type Answer<T> = S3Result<S3Response<T>>;

fn answer<T>(output: T) -> Answer<T> {
    Ok(S3Response::new(output))
}

fn broken(error: io::Error) -> S3Error {
    s3_error!(InternalError, "{error}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn size(len: u64) -> Option<i64> {
    i64::try_from(len).ok()
}

fn strong(etag: &str) -> Option<ETag> {
    Some(ETag::Strong(etag.to_owned()))
}

fn matches(condition: &ETagCondition, meta: &Meta) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(tag) => tag.value() == meta.etag,
    }
}

/// Whether a write may happen, given what is there.
fn allows(if_match: Option<&IfMatch>, if_none_match: Option<&IfNoneMatch>, there: Option<&Meta>) -> bool {
    if_match.is_none_or(|c| there.is_some_and(|meta| matches(c, meta)))
        && if_none_match.is_none_or(|c| !there.is_some_and(|meta| matches(c, meta)))
}

/// The checksums that a client sent with a body, in its headers or after it.
#[derive(Default)]
struct Sums {
    crc32: Option<String>,
    crc32c: Option<String>,
    crc64nvme: Option<String>,
    sha1: Option<String>,
    sha256: Option<String>,
}

macro_rules! sums {
    ($input:expr) => {
        Sums {
            crc32: $input.checksum_crc32.clone(),
            crc32c: $input.checksum_crc32c.clone(),
            crc64nvme: $input.checksum_crc64nvme.clone(),
            sha1: $input.checksum_sha1.clone(),
            sha256: $input.checksum_sha256.clone(),
        }
    };
}

/// A body that arrived whole.
struct Received {
    staged: Staged,
    md5: [u8; 16],
}

impl Verbs {
    pub(super) fn new(folder: Folder, faults: Arc<Faults>) -> Self {
        Self { folder, faults }
    }

    fn bucket(&self, name: &str) -> S3Result<()> {
        if self.folder.has_bucket(name) { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }

    fn stored(&self, bucket: &str, key: &str) -> S3Result<Stored> {
        self.bucket(bucket)?;
        self.folder.read(bucket, key).map_err(broken)?.ok_or_else(|| s3_error!(NoSuchKey))
    }

    async fn receive(
        &self,
        body: Option<StreamingBlob>,
        mut sums: Sums,
        trailers: Option<s3s::TrailingHeaders>,
    ) -> S3Result<Received> {
        let mut staged = self.folder.stage().map_err(broken)?;
        let mut md5 = Md5::new();
        let mut hasher = ChecksumHasher {
            crc32: Some(Default::default()),
            crc32c: sums.crc32c.as_ref().map(|_| Default::default()),
            sha1: sums.sha1.as_ref().map(|_| Default::default()),
            sha256: sums.sha256.as_ref().map(|_| Default::default()),
            crc64nvme: Some(Default::default()),
        };
        if let Some(mut body) = body {
            while let Some(bytes) = body.next().await {
                let bytes = bytes.map_err(|e| s3_error!(IncompleteBody, "{e}"))?;
                md5.update(&bytes);
                hasher.update(&bytes);
                staged.file.write_all(&bytes).map_err(broken)?;
            }
        }
        if let Some(trailers) = trailers.and_then(|trailers| trailers.take()) {
            let sent = |name: &str| trailers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            sums.crc32 = sums.crc32.or_else(|| sent("x-amz-checksum-crc32"));
            sums.crc64nvme = sums.crc64nvme.or_else(|| sent("x-amz-checksum-crc64nvme"));
        }
        let real = hasher.finalize();
        for (sent, real) in [
            (&sums.crc32, &real.checksum_crc32),
            (&sums.crc32c, &real.checksum_crc32c),
            (&sums.crc64nvme, &real.checksum_crc64nvme),
            (&sums.sha1, &real.checksum_sha1),
            (&sums.sha256, &real.checksum_sha256),
        ] {
            if sent.is_some() && sent != real {
                return Err(s3_error!(BadDigest));
            }
        }
        Ok(Received { staged, md5: md5.finalize() })
    }

    fn list(&self, bucket: &str, wanted: &Wanted<'_>) -> S3Result<Page> {
        self.bucket(bucket)?;
        let mut page = Page::default();
        let keys = self.folder.keys(bucket, wanted.prefix).map_err(broken)?;
        for key in keys {
            if key.as_str() <= wanted.after {
                continue;
            }
            let rest = &key[wanted.prefix.len()..];
            let folder =
                wanted.delimiter.and_then(|d| rest.find(d).map(|at| &key[..wanted.prefix.len() + at + d.len()]));
            if folder.is_some_and(|f| page.folders.last().is_some_and(|l| l == f) || wanted.after.starts_with(f)) {
                continue;
            }
            if page.objects.len() + page.folders.len() == wanted.max {
                page.more = true;
                break;
            }
            match folder {
                Some(folder) => {
                    folder.clone_into(&mut page.last);
                    page.folders.push(folder.to_owned());
                }
                None => {
                    // Removed since it was listed.
                    let Some(stored) = self.folder.read(bucket, &key).map_err(broken)? else { continue };
                    key.clone_into(&mut page.last);
                    page.objects.push((key, stored));
                }
            }
        }
        Ok(page)
    }

    fn upload(&self, id: &str) -> S3Result<Upload> {
        self.folder.upload(id).map_err(broken)?.ok_or_else(|| s3_error!(NoSuchUpload))
    }

    /// Puts the named parts into one body; its tag.
    fn join(&self, id: &str, parts: &[CompletedPart], staged: &mut Staged) -> S3Result<String> {
        let mut tags = Md5::new();
        let mut last = 0;
        for (index, part) in parts.iter().enumerate() {
            let number = part.part_number.unwrap_or(0);
            if number <= last {
                return Err(s3_error!(InvalidPartOrder));
            }
            last = number;
            let stored = self.folder.part(id, number).map_err(broken)?.ok_or_else(|| s3_error!(InvalidPart))?;
            if part.e_tag.as_ref().is_none_or(|tag| tag.value() != stored.meta.etag) {
                return Err(s3_error!(InvalidPart));
            }
            if stored.len < SMALLEST_PART && index + 1 < parts.len() {
                return Err(s3_error!(EntityTooSmall));
            }
            let digits = stored.meta.etag.as_bytes().chunks(2);
            let sum: Option<Vec<u8>> =
                digits.map(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok()).collect();
            tags.update(&sum.ok_or_else(|| s3_error!(InternalError))?);
            stored.copy_to(&mut staged.file).map_err(broken)?;
        }
        Ok(format!("{}-{}", hex(&tags.finalize()), parts.len()))
    }
}

/// What a listing asks for.
struct Wanted<'a> {
    prefix: &'a str,
    delimiter: Option<&'a str>,
    after: &'a str,
    max: usize,
}

#[derive(Default)]
struct Page {
    objects: Vec<(String, Stored)>,
    folders: Vec<String>,
    last: String,
    more: bool,
}

impl Page {
    fn contents(&self, encoding: &Encoding) -> Vec<Object> {
        let object = |(key, stored): &(String, Stored)| Object {
            key: Some(encoding.text(key)),
            size: size(stored.len),
            e_tag: strong(&stored.meta.etag),
            last_modified: Some(stored.modified.into()),
            storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
            ..Object::default()
        };
        self.objects.iter().map(object).collect()
    }

    fn common_prefixes(&self, encoding: &Encoding) -> Option<Vec<CommonPrefix>> {
        let prefix = |folder: &String| CommonPrefix { prefix: Some(encoding.text(folder)) };
        (!self.folders.is_empty()).then(|| self.folders.iter().map(prefix).collect())
    }
}

/// How keys are written in a listing.
struct Encoding(Option<EncodingType>);

impl Encoding {
    fn text(&self, key: &str) -> String {
        if self.0.is_none() {
            return key.to_owned();
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~/".contains(&b);
        key.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
    }
}

fn max_keys(asked: Option<i32>) -> usize {
    usize::try_from(asked.unwrap_or(1000)).unwrap_or(0).min(1000)
}

/// The body from an offset on, in chunks; where it is cut, it ends in an error.
fn body(stored: Stored, range: std::ops::Range<u64>, cut: Option<u64>) -> StreamingBlob {
    let file = Arc::new(stored.file);
    let stop = cut.map_or(range.end, |after| range.start + after);
    let chunks = stream::unfold(range.start, move |at| {
        let file = Arc::clone(&file);
        async move {
            if at >= range.end {
                return None;
            }
            if at >= stop {
                return Some((Err(io::Error::other("cut")), range.end));
            }
            let len = CHUNK.min(stop - at);
            let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
            Some((file.read_exact_at(&mut bytes, at).map(|()| Bytes::from(bytes)), at + len))
        }
    });
    StreamingBlob::wrap(chunks)
}

#[async_trait::async_trait]
impl S3 for Verbs {
    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> Answer<CreateBucketOutput> {
        let bucket = req.input.bucket;
        if self.folder.create_bucket(&bucket).map_err(broken)? {
            answer(CreateBucketOutput { location: Some(format!("/{bucket}")) })
        } else {
            Err(s3_error!(BucketAlreadyOwnedByYou))
        }
    }

    async fn delete_bucket(&self, req: S3Request<DeleteBucketInput>) -> Answer<DeleteBucketOutput> {
        self.bucket(&req.input.bucket)?;
        self.folder.remove_bucket(&req.input.bucket).map_err(|_| s3_error!(BucketNotEmpty))?;
        answer(DeleteBucketOutput::default())
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> Answer<HeadBucketOutput> {
        self.bucket(&req.input.bucket)?;
        answer(HeadBucketOutput { bucket_region: Some(REGION.to_owned()), ..HeadBucketOutput::default() })
    }

    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> Answer<ListBucketsOutput> {
        let bucket = |(name, made): (String, std::time::SystemTime)| Bucket {
            name: Some(name),
            creation_date: Some(made.into()),
            ..Bucket::default()
        };
        let buckets = self.folder.buckets().map_err(broken)?.into_iter().map(bucket).collect();
        answer(ListBucketsOutput { buckets: Some(buckets), ..ListBucketsOutput::default() })
    }

    async fn get_bucket_location(&self, req: S3Request<GetBucketLocationInput>) -> Answer<GetBucketLocationOutput> {
        self.bucket(&req.input.bucket)?;
        // us-east-1 is written as nothing.
        answer(GetBucketLocationOutput::default())
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        let mut input = req.input;
        self.bucket(&input.bucket)?;
        let received = self.receive(input.body.take(), sums!(input), req.trailing_headers).await?;
        let etag = hex(&received.md5);
        let meta = Meta {
            etag: etag.clone(),
            content_type: input.content_type.clone(),
            user: input.metadata.take().unwrap_or_default().into_iter().collect(),
        };
        let (if_match, if_none_match) = (input.if_match.as_ref(), input.if_none_match.as_ref());
        let ignored = self.faults.change(|plan| plan.ignore_conditions);
        let condition = |there: Option<&Meta>| ignored || allows(if_match, if_none_match, there);
        let done = self.folder.commit(received.staged, &meta, &input.bucket, &input.key, &condition);
        if !done.map_err(broken)? {
            return Err(s3_error!(PreconditionFailed));
        }
        answer(PutObjectOutput { e_tag: strong(&etag), ..PutObjectOutput::default() })
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        let input = req.input;
        let stored = self.stored(&input.bucket, &input.key)?;
        if input.if_match.as_ref().is_some_and(|c| !matches(c, &stored.meta)) {
            return Err(s3_error!(PreconditionFailed));
        }
        if input.if_none_match.as_ref().is_some_and(|c| matches(c, &stored.meta)) {
            return Err(s3_error!(NotModified));
        }
        let whole = stored.len;
        let range = match &input.range {
            Some(range) => range.check(whole)?,
            None => 0..whole,
        };
        let len = range.end - range.start;
        let meta = stored.meta.clone();
        answer(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: size(len),
            content_range: input.range.map(|_| format!("bytes {}-{}/{whole}", range.start, range.end - 1)),
            content_type: meta.content_type,
            e_tag: strong(&meta.etag),
            last_modified: Some(stored.modified.into()),
            metadata: Some(meta.user.into_iter().collect()),
            body: Some(body(stored, range, self.faults.cuts(len))),
            ..GetObjectOutput::default()
        })
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        let stored = self.stored(&req.input.bucket, &req.input.key)?;
        answer(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: size(stored.len),
            content_type: stored.meta.content_type,
            e_tag: strong(&stored.meta.etag),
            last_modified: Some(stored.modified.into()),
            metadata: Some(stored.meta.user.into_iter().collect()),
            ..HeadObjectOutput::default()
        })
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> Answer<DeleteObjectOutput> {
        let input = req.input;
        self.bucket(&input.bucket)?;
        let if_match = input.if_match.as_ref();
        let condition = |there: Option<&Meta>| there.is_none() || allows(if_match, None, there);
        if !self.folder.remove(&input.bucket, &input.key, &condition).map_err(broken)? {
            return Err(s3_error!(PreconditionFailed));
        }
        answer(DeleteObjectOutput::default())
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> Answer<DeleteObjectsOutput> {
        let input = req.input;
        self.bucket(&input.bucket)?;
        if input.delete.objects.is_empty() || input.delete.objects.len() > 1000 {
            return Err(s3_error!(MalformedXML));
        }
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for object in input.delete.objects {
            if self.faults.keeps_key() {
                errors.push(Error { key: Some(object.key), code: Some("AccessDenied".to_owned()), ..Error::default() });
                continue;
            }
            match self.folder.remove(&input.bucket, &object.key, &|_| true) {
                Ok(_) => deleted.push(DeletedObject { key: Some(object.key), ..DeletedObject::default() }),
                Err(e) => errors.push(Error {
                    key: Some(object.key),
                    code: Some("InternalError".to_owned()),
                    message: Some(e.to_string()),
                    ..Error::default()
                }),
            }
        }
        let deleted = (!input.delete.quiet.unwrap_or(false)).then_some(deleted);
        answer(DeleteObjectsOutput { deleted, errors: Some(errors), ..DeleteObjectsOutput::default() })
    }

    async fn list_objects(&self, req: S3Request<ListObjectsInput>) -> Answer<ListObjectsOutput> {
        let input = req.input;
        let wanted = Wanted {
            prefix: input.prefix.as_deref().unwrap_or(""),
            delimiter: input.delimiter.as_deref().filter(|d| !d.is_empty()),
            after: input.marker.as_deref().unwrap_or(""),
            max: max_keys(input.max_keys),
        };
        let page = self.list(&input.bucket, &wanted)?;
        let encoding = Encoding(input.encoding_type);
        answer(ListObjectsOutput {
            contents: Some(page.contents(&encoding)),
            common_prefixes: page.common_prefixes(&encoding),
            is_truncated: Some(page.more),
            next_marker: page.more.then(|| encoding.text(&page.last)),
            prefix: Some(encoding.text(wanted.prefix)),
            marker: input.marker.as_deref().map(|marker| encoding.text(marker)),
            delimiter: wanted.delimiter.map(|delimiter| encoding.text(delimiter)),
            max_keys: i32::try_from(wanted.max).ok(),
            encoding_type: encoding.0,
            name: Some(input.bucket),
            ..ListObjectsOutput::default()
        })
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> Answer<ListObjectsV2Output> {
        let input = req.input;
        let token = match &input.continuation_token {
            Some(token) => Some(from_token(token).ok_or_else(|| s3_error!(InvalidArgument, "not a token"))?),
            None => None,
        };
        let wanted = Wanted {
            prefix: input.prefix.as_deref().unwrap_or(""),
            delimiter: input.delimiter.as_deref().filter(|d| !d.is_empty()),
            after: token.as_deref().or(input.start_after.as_deref()).unwrap_or(""),
            max: max_keys(input.max_keys),
        };
        let page = self.list(&input.bucket, &wanted)?;
        let encoding = Encoding(input.encoding_type);
        answer(ListObjectsV2Output {
            contents: Some(page.contents(&encoding)),
            common_prefixes: page.common_prefixes(&encoding),
            is_truncated: Some(page.more),
            key_count: i32::try_from(page.objects.len() + page.folders.len()).ok(),
            next_continuation_token: page.more.then(|| hex(page.last.as_bytes())),
            prefix: Some(encoding.text(wanted.prefix)),
            delimiter: wanted.delimiter.map(|delimiter| encoding.text(delimiter)),
            start_after: input.start_after.as_deref().map(|after| encoding.text(after)),
            max_keys: i32::try_from(wanted.max).ok(),
            continuation_token: input.continuation_token,
            encoding_type: encoding.0,
            name: Some(input.bucket),
            ..ListObjectsV2Output::default()
        })
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        let input = req.input;
        self.bucket(&input.bucket)?;
        let meta = Meta {
            etag: String::new(),
            content_type: input.content_type,
            user: input.metadata.unwrap_or_default().into_iter().collect(),
        };
        let upload = Upload { bucket: input.bucket.clone(), key: input.key.clone(), meta };
        let id = self.folder.start_upload(&upload).map_err(broken)?;
        answer(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        })
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        let mut input = req.input;
        self.upload(&input.upload_id)?;
        let received = self.receive(input.body.take(), sums!(input), req.trailing_headers).await?;
        let etag = hex(&received.md5);
        let done = self.folder.commit_part(received.staged, &etag, &input.upload_id, input.part_number);
        if !done.map_err(broken)? {
            return Err(s3_error!(NoSuchUpload));
        }
        answer(UploadPartOutput { e_tag: strong(&etag), ..UploadPartOutput::default() })
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        let input = req.input;
        let upload = self.upload(&input.upload_id)?;
        let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        if parts.is_empty() {
            return Err(s3_error!(MalformedXML));
        }
        let mut staged = self.folder.stage().map_err(broken)?;
        let etag = self.join(&input.upload_id, &parts, &mut staged)?;
        let meta = Meta { etag: etag.clone(), ..upload.meta };
        let (if_match, if_none_match) = (input.if_match.as_ref(), input.if_none_match.as_ref());
        let ignored = self.faults.change(|plan| plan.ignore_conditions);
        let condition = |there: Option<&Meta>| ignored || allows(if_match, if_none_match, there);
        if !self.folder.commit(staged, &meta, &upload.bucket, &upload.key, &condition).map_err(broken)? {
            return Err(s3_error!(PreconditionFailed));
        }
        self.folder.end_upload(&input.upload_id).map_err(broken)?;
        answer(CompleteMultipartUploadOutput {
            bucket: Some(upload.bucket),
            key: Some(upload.key),
            e_tag: strong(&etag),
            ..CompleteMultipartUploadOutput::default()
        })
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        self.upload(&req.input.upload_id)?;
        self.folder.end_upload(&req.input.upload_id).map_err(broken)?;
        answer(AbortMultipartUploadOutput::default())
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> Answer<ListPartsOutput> {
        let input = req.input;
        let upload = self.upload(&input.upload_id)?;
        let mut parts = Vec::new();
        for number in self.folder.parts(&input.upload_id).map_err(broken)? {
            let Some(stored) = self.folder.part(&input.upload_id, number).map_err(broken)? else { continue };
            parts.push(Part {
                part_number: Some(number),
                size: size(stored.len),
                e_tag: strong(&stored.meta.etag),
                last_modified: Some(stored.modified.into()),
                ..Part::default()
            });
        }
        answer(ListPartsOutput {
            bucket: Some(upload.bucket),
            key: Some(upload.key),
            upload_id: Some(input.upload_id),
            parts: Some(parts),
            is_truncated: Some(false),
            ..ListPartsOutput::default()
        })
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> Answer<ListMultipartUploadsOutput> {
        let input = req.input;
        self.bucket(&input.bucket)?;
        let prefix = input.prefix.unwrap_or_default();
        let uploads = self.folder.uploads().map_err(broken)?.into_iter();
        let uploads = uploads.filter(|(_, upload)| upload.bucket == input.bucket && upload.key.starts_with(&prefix));
        let uploads = uploads.map(|(id, upload)| MultipartUpload {
            initiated: self.folder.begun(&id).ok().map(Into::into),
            key: Some(upload.key),
            upload_id: Some(id),
            ..MultipartUpload::default()
        });
        answer(ListMultipartUploadsOutput {
            uploads: Some(uploads.collect()),
            bucket: Some(input.bucket),
            prefix: Some(prefix),
            is_truncated: Some(false),
            ..ListMultipartUploadsOutput::default()
        })
    }
}

fn from_token(token: &str) -> Option<String> {
    let digits = token.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> = digits.map(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok()).collect();
    String::from_utf8(bytes?).ok()
}

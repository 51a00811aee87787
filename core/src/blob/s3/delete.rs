//! Deletion in batches. An answer of status 200 can hold a failure for each key; all are read.

use aws_sdk_s3::types::{Delete, Error as KeyError, ObjectIdentifier};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::client::patience;
use super::{S3Store, failure};
use crate::blob::{BlobError, BlobResult, ObjectKey};
use crate::error::Error;

/// Most keys of one request (S3 API, DeleteObjects).
const BATCH: usize = 1000;

/// Requests at a time where a service knows no batches.
const SINGLES: usize = 8;

impl S3Store {
    pub(super) async fn delete_batches(&self, keys: &[ObjectKey]) -> BlobResult<()> {
        for batch in keys.chunks(BATCH) {
            self.delete_batch(batch).await?;
        }
        Ok(())
    }

    async fn delete_batch(&self, keys: &[ObjectKey]) -> BlobResult<()> {
        let name = |key: &ObjectKey| {
            let identifier = ObjectIdentifier::builder().key(self.full(key.as_str())).build();
            identifier.map_err(|e| BlobError::from(Error::internal(format!("a batch deletion cannot be made: {e}"))))
        };
        let names = keys.iter().map(name).collect::<BlobResult<Vec<_>>>()?;
        let batch = Delete::builder().set_objects(Some(names)).quiet(true).build();
        let batch = batch.map_err(|e| Error::internal(format!("a batch deletion cannot be made: {e}")))?;
        let request = self.client().await?.delete_objects().bucket(&self.location.bucket).delete(batch);
        match request.customize().config_override(patience(0)).send().await {
            Ok(answer) => self.check(answer.errors()),
            // Not every service knows the batch.
            Err(e) if matches!(failure::status(&e), Some(405 | 501)) => self.delete_singly(keys).await,
            Err(e) => Err(self.doing("delete", None).failed(e)),
        }
    }

    fn check(&self, errors: &[KeyError]) -> BlobResult<()> {
        let mut failed = errors.iter().filter(|e| !matches!(e.code(), Some("NoSuchKey" | "NotFound")));
        let Some(first) = failed.next() else { return Ok(()) };
        let more = failed.count();
        // The status that each code goes with where it is an answer of its own.
        let status = match first.code() {
            Some("AccessDenied") => 403,
            Some("SlowDown" | "ServiceUnavailable") => 503,
            _ => 500,
        };
        let code = first.code();
        let error = Error::from(self.doing("delete", None).refused(status, code));
        Err(error.while_doing(format_args!("{} of a batch of objects stay", more + 1)).into())
    }

    async fn delete_singly(&self, keys: &[ObjectKey]) -> BlobResult<()> {
        let client = self.client().await?;
        let delete = |key: &ObjectKey| {
            let doing = (self.full(key.as_str()), key.clone());
            async move {
                let request = client.delete_object().bucket(&self.location.bucket).key(doing.0);
                match request.customize().config_override(patience(0)).send().await {
                    Ok(_) => Ok(()),
                    Err(e) => match self.doing("delete", Some(&doing.1)).failed(e) {
                        BlobError::NotFound { .. } => Ok(()),
                        other => Err(other),
                    },
                }
            }
        };
        stream::iter(keys).map(delete).buffer_unordered(SINGLES).try_collect().await
    }
}

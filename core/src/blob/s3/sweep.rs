//! Uploads in parts that were neither completed nor aborted, because the process was killed: their parts are paid
//! for and no listing of objects shows them. As temporary files of a folder store, they are removed by the first
//! put of their kind into their folder that comes a day later. Nothing depends on it: many keys may not list uploads,
//! and a lifecycle rule of the bucket does the same.

use std::sync::PoisonError;
use std::time::Duration;

use super::S3Store;
use super::client::patience;
use super::put::Upload;
use crate::blob::BlobResult;
use crate::clock::{Clock, Timestamp};

/// How old an upload must be: nothing takes that long, on whatever host it runs.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

impl S3Store {
    /// Aborts abandoned uploads beside this key, at most once a day for each folder.
    pub(super) async fn sweep_uploads(&self, key: &str) {
        let Some((folder, _)) = key.rsplit_once('/') else { return };
        let now = self.clock.monotonic();
        {
            let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
            if swept.get(folder).is_some_and(|at| now.saturating_sub(*at) < ABANDONED) {
                return;
            }
            swept.insert(folder.to_owned(), now);
        }
        if let Err(error) = self.abort_abandoned(&format!("{folder}/")).await {
            tracing::debug!(%error, folder, "abandoned uploads cannot be looked for");
        }
    }

    async fn abort_abandoned(&self, prefix: &str) -> BlobResult<()> {
        let client = self.client().await?;
        let request = client.list_multipart_uploads().bucket(&self.location.bucket).prefix(prefix);
        let answer = request.customize().config_override(patience(0)).send().await;
        let answer = answer.map_err(|e| self.doing("list uploads", None).failed(e))?;
        let age = i64::try_from(ABANDONED.as_millis()).unwrap_or(i64::MAX);
        let before = Timestamp(self.clock.now().0.saturating_sub(age));
        for upload in answer.uploads() {
            // Some services ignore the prefix.
            let Some(key) = upload.key().filter(|key| key.starts_with(prefix)) else { continue };
            let begun = upload.initiated().and_then(|at| at.to_millis().ok());
            if let (Some(id), Some(begun)) = (upload.upload_id(), begun.map(Timestamp))
                && begun < before
            {
                tracing::info!(key, "an abandoned upload is removed");
                Upload::ended(client.clone(), &self.location.bucket, key, id).abort().await;
            }
        }
        Ok(())
    }
}

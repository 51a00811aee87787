//! Listing: pages of up to a thousand objects, in order, each fetched when the one before is used up.

use std::collections::VecDeque;

use futures_util::stream::{self, BoxStream, StreamExt};

use super::client::patience;
use super::put::PROBE;
use super::{S3Store, time};
use crate::blob::{BlobResult, ObjectKey, ObjectMeta, check_prefix};
use crate::error::{Error, ErrorKind};

struct Pages {
    prefix: String,
    start_after: Option<String>,
    next: Next,
    ready: VecDeque<ObjectMeta>,
    /// The last key seen, with the store's prefix.
    last: String,
}

enum Next {
    First,
    Token(String),
    End,
}

impl S3Store {
    pub(super) fn list_pages(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'_, BlobResult<ObjectMeta>> {
        if let Err(error) = check_prefix(prefix) {
            return stream::iter([Err(error)]).boxed();
        }
        let pages = Pages {
            prefix: self.full(prefix),
            start_after: start_after.map(|key| self.full(key)),
            next: Next::First,
            ready: VecDeque::new(),
            last: String::new(),
        };
        stream::unfold(Some(pages), move |pages| async move {
            let mut pages = pages?;
            loop {
                if let Some(meta) = pages.ready.pop_front() {
                    return Some((Ok(meta), Some(pages)));
                }
                if matches!(pages.next, Next::End) {
                    return None;
                }
                if let Err(error) = self.next_page(&mut pages).await {
                    return Some((Err(error), None));
                }
            }
        })
        .boxed()
    }

    async fn next_page(&self, pages: &mut Pages) -> BlobResult<()> {
        let token = match &pages.next {
            Next::Token(token) => Some(token.clone()),
            _ => None,
        };
        let request = self
            .client()
            .await?
            .list_objects_v2()
            .bucket(&self.location.bucket)
            .prefix(&pages.prefix)
            .set_start_after(pages.start_after.clone().filter(|_| token.is_none()))
            .set_continuation_token(token.clone());
        let answer = request.customize().config_override(patience(0)).send().await;
        let answer = answer.map_err(|e| self.doing("list", None).failed(e))?;
        for object in answer.contents() {
            let Some(full) = object.key() else { continue };
            if full <= pages.last.as_str() {
                return Err(self.broken("keys out of order"));
            }
            pages.last = full.to_owned();
            if pages.start_after.as_deref().is_some_and(|after| full <= after) {
                return Err(self.broken("keys before those that were asked for"));
            }
            let below = full.strip_prefix(self.root.as_str());
            // A name that cannot be a key (the empty object that stands for a folder) is nobody's object here.
            let Some(Ok(key)) = below.filter(|key| *key != PROBE).map(ObjectKey::new) else { continue };
            pages.ready.push_back(ObjectMeta {
                key,
                size: object.size().and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
                modified: time(object.last_modified()),
                created: None,
                etag: object.e_tag().map(str::to_owned),
            });
        }
        pages.next = match (answer.is_truncated().unwrap_or(false), answer.next_continuation_token()) {
            (false, _) => Next::End,
            (true, Some(next)) if Some(next) != token.as_deref() => Next::Token(next.to_owned()),
            // Ending here would make a shorter list of it.
            (true, _) => return Err(self.broken("a page that says there is more, but not where")),
        };
        Ok(())
    }

    fn broken(&self, what: &str) -> crate::blob::BlobError {
        let place = self.doing("list", None).place();
        Error::new(ErrorKind::Unsupported, format!("list: the store answers with {what} {place}"))
            .with_hint("this service does not list as S3 does")
            .into()
    }
}

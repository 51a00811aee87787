//! The bytes of the planned files, in order, many requests ahead.
//!
//! Large files are cut into ranges, small ones come with one request. Requests run ahead of the consumer as far
//! as two limits allow: how many run at once, and how many bytes are under way or wait to be taken. A range
//! whose body ends early goes on at the byte where it ended; a failed one is tried again after a pause. It knows
//! nothing of what the bytes mean. Called by `run`.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use crate::blob::BlobError;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind};
use crate::store::{LtxInfo, LtxStore};

/// What bounds the requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Requests at the same time.
    pub(crate) parallelism: usize,
    /// Bytes requested and not yet taken.
    pub(crate) budget: u64,
    /// Bytes of one request.
    pub(crate) range: u64,
}

impl Limits {
    /// 16 MiB in ranges of 2 MiB: 800 MB/s at 20 ms. Twice as much was not faster, but allocators keep what was
    /// used, and a restore is to stay below 64 MiB.
    pub(crate) fn new(parallelism: usize) -> Self {
        Self { parallelism, budget: 16 << 20, range: 2 << 20 }
    }
}

/// What a waiting body costs beside its bytes; it keeps thousands of tiny files from piling up.
const OVERHEAD: u64 = 4096;

/// Pauses before the second, third and fourth attempt of one range.
const BACKOFF: [Duration; 3] = [Duration::from_millis(250), Duration::from_millis(500), Duration::from_millis(1000)];

/// Why a file did not come.
#[derive(Debug)]
pub(crate) enum FetchError {
    /// It was removed since it was listed.
    Gone {
        /// Its key.
        key: String,
    },
    /// Anything else.
    Failed(Error),
}

impl From<FetchError> for Error {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Gone { key } => Self::new(ErrorKind::Unavailable, format!("file was removed key={key}"))
                .with_hint("something prunes this replica; try again"),
            FetchError::Failed(error) => error,
        }
    }
}

/// Consecutive bytes of one file.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// The file, by its place in the list.
    pub(crate) file: usize,
    /// The bytes.
    pub(crate) bytes: Bytes,
    /// Whether the file ends with them.
    pub(crate) last: bool,
}

type Outcome = Result<Bytes, FetchError>;

/// Requests that run ahead. Dropping it ends them.
pub(crate) struct Fetcher<'a> {
    store: &'a LtxStore,
    clock: &'a dyn Clock,
    files: &'a [LtxInfo],
    limits: Limits,
    /// Where the next request starts: file and offset.
    next: (usize, u64),
    running: FuturesUnordered<BoxFuture<'a, (u64, Outcome)>>,
    /// What was requested and not yet taken, in order; the number of the first one is `taken`.
    requested: VecDeque<(usize, Range<u64>)>,
    taken: u64,
    ready: BTreeMap<u64, Outcome>,
    reserved: u64,
}

impl<'a> Fetcher<'a> {
    /// Fetches these files in this order. Nothing is requested before the first bytes are asked for.
    pub(crate) fn new(store: &'a LtxStore, clock: &'a dyn Clock, files: &'a [LtxInfo], limits: Limits) -> Self {
        Self {
            store,
            clock,
            files,
            limits,
            next: (0, 0),
            running: FuturesUnordered::new(),
            requested: VecDeque::new(),
            taken: 0,
            ready: BTreeMap::new(),
            reserved: 0,
        }
    }

    /// The next bytes; `None` after the last file.
    pub(crate) async fn next(&mut self) -> Result<Option<Piece>, FetchError> {
        loop {
            if let Some(piece) = self.next_ready()? {
                return Ok(Some(piece));
            }
            self.admit();
            if self.running.is_empty() {
                return Ok(None);
            }
            self.advance().await;
        }
    }

    /// The next bytes if they are there already.
    pub(crate) fn next_ready(&mut self) -> Result<Option<Piece>, FetchError> {
        let Some(outcome) = self.ready.remove(&self.taken) else {
            return Ok(None);
        };
        let (file, range) = self.requested.pop_front().expect("what is ready was requested");
        self.taken += 1;
        self.reserved -= cost(&range);
        let last = range.end == self.files[file].size;
        Ok(Some(Piece { file, bytes: outcome?, last }))
    }

    /// Waits for `work` and keeps the requests going meanwhile.
    pub(crate) async fn alongside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            self.admit();
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.advance(), if !self.running.is_empty() => {}
            }
        }
    }

    async fn advance(&mut self) {
        if let Some((number, outcome)) = self.running.next().await {
            self.ready.insert(number, outcome);
        }
    }

    fn admit(&mut self) {
        while self.running.len() < self.limits.parallelism {
            let (index, offset) = self.next;
            let Some(file) = self.files.get(index) else {
                return;
            };
            let range = offset..file.size.min(offset.saturating_add(self.limits.range));
            // One request is always allowed, or a small budget would stop everything.
            if !self.requested.is_empty() && self.reserved + cost(&range) > self.limits.budget {
                return;
            }
            self.next = if range.end == file.size { (index + 1, 0) } else { (index, range.end) };
            self.reserved += cost(&range);
            let number = self.taken + self.requested.len() as u64;
            self.requested.push_back((index, range.clone()));
            let (store, clock) = (self.store, self.clock);
            self.running.push(Box::pin(async move { (number, fetch(store, clock, file, range).await) }));
        }
    }
}

fn cost(range: &Range<u64>) -> u64 {
    range.end - range.start + OVERHEAD
}

async fn fetch(store: &LtxStore, clock: &dyn Clock, file: &LtxInfo, range: Range<u64>) -> Outcome {
    let mut parts = Vec::new();
    let mut at = range.start;
    let mut pauses = BACKOFF.iter();
    loop {
        let failure = match store.get(file, Some(at..range.end)).await {
            Ok(bytes) => {
                at += bytes.len() as u64;
                parts.push(bytes);
                match at.cmp(&range.end) {
                    std::cmp::Ordering::Equal => return Ok(join(parts)),
                    std::cmp::Ordering::Less => cut_short(file, at, &range),
                    std::cmp::Ordering::Greater => {
                        let message = format!("the store sent more than was asked for key={}", file.key());
                        return Err(FetchError::Failed(Error::internal(message)));
                    }
                }
            }
            Err(BlobError::NotFound { key }) => return Err(FetchError::Gone { key }),
            Err(other) => match Error::from(other) {
                error if error.is_retryable() => error,
                error => return Err(FetchError::Failed(error)),
            },
        };
        let Some(&pause) = pauses.next() else {
            return Err(FetchError::Failed(failure));
        };
        tracing::debug!(key = %file.key(), at, error = %failure, "fetching again");
        clock.sleep(pause + jitter(file, at, pause)).await;
    }
}

fn cut_short(file: &LtxInfo, at: u64, range: &Range<u64>) -> Error {
    let (end, size, key) = (range.end, file.size, file.key());
    let message = format!("the file ends before its listed size at={at} wanted={end} size={size} key={key}");
    Error::new(ErrorKind::Corrupt, message)
}

fn join(mut parts: Vec<Bytes>) -> Bytes {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|part| whole.extend_from_slice(part));
    whole.freeze()
}

/// Up to half of the pause: not all ranges that failed at once come back at once. Made from what is fetched
/// instead of by chance, so that a simulation repeats it.
fn jitter(file: &LtxInfo, at: u64, pause: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    (file.key().as_str(), at, pause).hash(&mut hasher);
    pause.mul_f64((hasher.finish() % 1024) as f64 / 2048.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::restore::testing::{block_on, busy_model};

    fn limits(parallelism: usize, budget: u64, range: u64) -> Limits {
        Limits { parallelism, budget, range }
    }

    #[test]
    fn pieces_come_in_order_and_whole_under_any_limits() {
        let (store, _) = busy_model(512).store();
        block_on(async {
            let files = store.list_all().await.expect("listed");
            let clock = SystemClock::new();
            for limits in [limits(1, 1, 7), limits(3, 10_000, 100), limits(64, 1 << 20, 1 << 20)] {
                let mut fetcher = Fetcher::new(&store, &clock, &files, limits);
                for (index, file) in files.iter().enumerate() {
                    let mut bytes = Vec::new();
                    loop {
                        let piece = fetcher.next().await.expect("fetched").expect("not the end");
                        assert_eq!(piece.file, index);
                        assert!(piece.bytes.len() as u64 <= limits.range);
                        bytes.extend_from_slice(&piece.bytes);
                        if piece.last {
                            break;
                        }
                    }
                    assert!(bytes == store.get(file, None).await.expect("there"), "{limits:?}");
                }
                assert!(fetcher.next().await.expect("fetched").is_none());
            }
        });
    }

    #[test]
    fn small_files_keep_all_requests_busy_and_the_budget_bounds_what_waits() {
        let (store, blob) = busy_model(512).store();
        let most = block_on(async {
            let files: Vec<_> = store.list_all().await.expect("listed").into_iter().cycle().take(500).collect();
            let clock = SystemClock::new();
            let longest = files.iter().map(|f| f.size).max().expect("files");
            let budget = 40 * (OVERHEAD + longest);
            let mut fetcher = Fetcher::new(&store, &clock, &files, limits(8, budget, 1 << 20));
            let (mut most_running, mut most_waiting) = (0, 0);
            while fetcher.next().await.expect("fetched").is_some() {
                most_running = most_running.max(fetcher.running.len());
                // A consumer at work: nothing is taken, but requests go on until the budget is used.
                let work = async {
                    for _ in 0..200 {
                        tokio::task::yield_now().await;
                    }
                };
                fetcher.alongside(work).await;
                most_waiting = most_waiting.max(fetcher.ready.len());
                assert!(fetcher.reserved <= budget && fetcher.running.len() <= 8);
            }
            (most_running, most_waiting)
        });
        assert!(most.0 >= 7 && most.1 >= 40, "{most:?}");
        assert_eq!(blob.log.lock().expect("not poisoned").gets.len(), 500);
    }
}

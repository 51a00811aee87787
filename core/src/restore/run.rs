//! One restore from the first listing to the database under its name.
//!
//! Choose files, fetch them newest first, write their pages into a scratch file, make that durable, check it, and
//! only then touch the target. Whatever fails before leaves the target as it was and the scratch file removed. A
//! file that is gone when it is fetched, or a gap in the listing, can be the doing of a compaction that runs at the same
//! time: then the replica is listed again, once. Called by `auto`, `fleet` and `ensure`.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;

use super::fetch::{FetchError, Fetcher, Limits};
use super::plan::{Plan, PlanTarget, plan};
use super::scratch::{Existing, Scratch, refuse_existing, tidy};
use super::sink::Sink;
use super::time::resolve_time;
use super::verify::verify;
use super::write::{Batch, PageWriter, Shape, Step};
use super::{Cancel, Progress, RestoreOptions, RestoreReport, Target};
use crate::clock::{Clock, SharedClock};
use crate::disk::{DiskFile, SharedDisk};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::Blocking;
use crate::store::LtxStore;

/// What a restore works with.
#[derive(Clone, Debug)]
pub(crate) struct RestoreEnv {
    /// Where the database is written.
    pub(crate) disk: SharedDisk,
    /// Time for pauses between attempts.
    pub(crate) clock: SharedClock,
    /// How blocking work is run.
    pub(crate) blocking: Blocking,
}

/// How often a running restore looks whether it was cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// Bytes handed to the page writer at once.
const FEED: usize = 2 << 20;

/// Restores a database. `progress` is called in this task, with rising figures; the last ones are equal. An output
/// that is a link stands for the file it leads to, whether there is one or not.
pub(crate) async fn run(
    store: &LtxStore,
    options: &RestoreOptions,
    env: &RestoreEnv,
    progress: &(dyn Fn(Progress) + Send + Sync),
    cancel: &Cancel,
) -> Result<RestoreReport> {
    let started = env.clock.monotonic();
    if options.output.file_name().is_none() {
        let message = format!("the output names no file path={}", options.output.display());
        return Err(Error::new(ErrorKind::Config, message));
    }
    if !(1..=64).contains(&options.parallelism) {
        let message = format!("parallelism is not valid: {}: out of range, 1 to 64", options.parallelism);
        return Err(Error::new(ErrorKind::Config, message));
    }
    let options = &RestoreOptions { output: resolve(&options.output, env).await?, ..options.clone() };
    let mut meter = Meter { progress, done: 0, total: 0 };
    let built = cancellable(env.clock.as_ref(), cancel, build(store, options, env, &mut meter)).await?;
    let Built { scratch, plan, shape } = built;

    let (existing, now) = (existing(options), env.clock.now());
    env.blocking.run(move || scratch.place(existing, now)).await?;
    meter.end();
    let report = RestoreReport {
        txid: plan.txid(),
        timestamp: shape.timestamp,
        pages: shape.commit.into(),
        bytes: shape.bytes(),
        files: plan.files().len(),
        fetched: meter.done,
        checked: options.check,
        elapsed: env.clock.monotonic().saturating_sub(started),
    };
    let (db, txid, bytes) = (options.output.display(), report.txid, report.bytes);
    tracing::info!(%db, %txid, bytes, elapsed = ?report.elapsed, "restored");
    Ok(report)
}

fn existing(options: &RestoreOptions) -> Existing {
    match (options.overwrite, options.fill) {
        (true, _) => Existing::Replace,
        (false, true) => Existing::Fill,
        (false, false) => Existing::Refuse,
    }
}

/// Where SQLite would make the database.
pub(super) async fn resolve(path: &Path, env: &RestoreEnv) -> Result<PathBuf> {
    let (disk, at) = (env.disk.clone(), path.to_path_buf());
    let resolved = env.blocking.run(move || disk.resolve(&at)).await;
    resolved.map_err(|e| Error::disk("follow the link", path, e))
}

/// A database that is whole, durable and checked, but has no name yet.
struct Built {
    scratch: Scratch,
    plan: Plan,
    shape: Shape,
}

async fn build(store: &LtxStore, options: &RestoreOptions, env: &RestoreEnv, meter: &mut Meter<'_>) -> Result<Built> {
    let (disk, output, existing) = (env.disk.clone(), options.output.clone(), existing(options));
    let look = move || {
        tidy(disk.as_ref(), &output);
        refuse_existing(disk.as_ref(), &output, existing)
    };
    env.blocking.run(look).await?;
    let plan = match choose(store, options).await {
        Err(error) if may_be_stale(&error, options.target) => {
            tracing::debug!(%error, "listing the replica again");
            choose(store, options).await?
        }
        other => other?,
    };
    let failure = match build_from(store, &plan, options, env, meter).await {
        Ok((scratch, shape)) => return Ok(Built { scratch, plan, shape }),
        Err(failure) => failure,
    };
    match &failure {
        FetchError::Gone { key } => {
            tracing::debug!(key, "a file was removed while it was to be restored, choosing again")
        }
        // Files get new headers while they are rewrapped: parts of both do not fit. Of what has changed the new
        // version tells; what has not is damaged.
        FetchError::Failed(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Keys) => {
            tracing::debug!(%error, "files may have changed while they were restored, choosing again");
        }
        FetchError::Failed(_) => return Err(failure.into()),
    }
    let again = choose(store, options).await?;
    if matches!(failure, FetchError::Failed(_)) && again.files() == plan.files() {
        return Err(failure.into());
    }
    let (scratch, shape) = build_from(store, &again, options, env, meter).await?;
    Ok(Built { scratch, plan: again, shape })
}

/// Whether a listing made while files were merged and removed can be to blame. Not for an empty replica.
fn may_be_stale(error: &Error, target: Target) -> bool {
    error.kind() == ErrorKind::Corrupt || (error.kind() == ErrorKind::NoBackup && target != Target::Latest)
}

async fn choose(store: &LtxStore, options: &RestoreOptions) -> Result<Plan> {
    let files = store.list_all().await?;
    let target = match options.target {
        Target::Latest => PlanTarget::Latest,
        Target::Txid(txid) => PlanTarget::Exactly(txid),
        Target::Time(time) => PlanTarget::Exactly(resolve_time(store, &files, time).await?),
    };
    let plan = plan(&files, target)?;
    match options.min_txid {
        Some(least) if plan.txid() < least => {
            let message = format!("the replica has lost its end wanted={least} reached={}", plan.txid());
            Err(Error::new(ErrorKind::Diverged, message).with_hint(
                "somebody removed newer files, or it is another replica; without min_txid the rest is restored",
            ))
        }
        _ => Ok(plan),
    }
}

async fn build_from(
    store: &LtxStore,
    plan: &Plan,
    options: &RestoreOptions,
    env: &RestoreEnv,
    meter: &mut Meter<'_>,
) -> Result<(Scratch, Shape), FetchError> {
    meter.start(plan.bytes());
    let (disk, output, now) = (env.disk.clone(), options.output.clone(), env.clock.now());
    let (scratch, file) = env.blocking.run(move || Scratch::create(disk, &output, now)).await?;
    let file: Arc<dyn DiskFile> = file.into();
    let newest_first: Vec<_> = plan.files().iter().rev().cloned().collect();
    let limits = Limits::new(options.parallelism);
    let fetcher = Fetcher::new(store, env.clock.as_ref(), &newest_first, limits);
    let sink = Sink::new(file.clone(), scratch.path(), env.blocking);
    let writer = PageWriter::new(newest_first.clone(), store.opening());
    let shape = write_pages(fetcher, writer, sink, env.blocking, meter).await?;

    let synced = env.blocking.run(move || file.sync());
    let (path, check) = (scratch.path().to_path_buf(), options.check);
    let checked = env.blocking.run(move || verify(&path, check));
    // Both read and write nothing of each other, and each takes as long as the database is large.
    let (synced, checked) = join(synced, checked).await;
    synced.map_err(|e| Error::disk("make durable", scratch.path(), e))?;
    checked?;
    Ok((scratch, shape))
}

/// Fetches, decodes and writes side by side until all files are read.
async fn write_pages(
    mut fetcher: Fetcher<'_>,
    mut writer: PageWriter,
    mut sink: Sink<'_>,
    blocking: Blocking,
    meter: &mut Meter<'_>,
) -> Result<Shape, FetchError> {
    let mut sized = false;
    loop {
        let decoding = blocking.run(move || {
            let step = writer.step();
            (writer, step)
        });
        let (back, step) = fetcher.alongside(sink.alongside(decoding)).await;
        writer = back;
        let step = step?;
        if let (false, Some(shape)) = (sized, writer.shape()) {
            // The lock page is never written: it is zeros by this.
            sink.set_len(shape.bytes()).await?;
            sized = true;
        }
        if step == Step::Hungry {
            sink.alongside(feed(&mut fetcher, &mut writer, meter)).await?;
            continue;
        }
        let full = writer.swap_batch(Batch::default());
        let empty = fetcher.alongside(sink.write(full)).await?;
        writer.swap_batch(empty);
        if step == Step::Done {
            break;
        }
    }
    sink.finish().await?;
    Ok(writer.finish()?)
}

/// Hands over what is there, at least one piece.
async fn feed(fetcher: &mut Fetcher<'_>, writer: &mut PageWriter, meter: &mut Meter<'_>) -> Result<(), FetchError> {
    let Some(mut piece) = fetcher.next().await? else {
        return Err(Error::internal("a restore wants more than its files hold").into());
    };
    let mut fed = 0;
    loop {
        fed += piece.bytes.len();
        meter.add(piece.bytes.len() as u64);
        writer.feed(piece);
        if fed >= FEED {
            return Ok(());
        }
        match fetcher.next_ready()? {
            Some(next) => piece = next,
            None => return Ok(()),
        }
    }
}

impl From<Error> for FetchError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Counts fetched bytes for the caller. Figures never fall, also when the files are chosen anew.
struct Meter<'a> {
    progress: &'a (dyn Fn(Progress) + Send + Sync),
    done: u64,
    total: u64,
}

impl Meter<'_> {
    fn start(&mut self, bytes: u64) {
        self.total = self.total.max(self.done + bytes);
        self.tell();
    }

    fn add(&mut self, bytes: u64) {
        self.done += bytes;
        // The last figure is told when the database has its name.
        if self.done < self.total {
            self.tell();
        }
    }

    fn end(&mut self) {
        self.total = self.total.max(self.done);
        (self.progress)(Progress { done: self.total, total: self.total });
    }

    fn tell(&self) {
        (self.progress)(Progress { done: self.done, total: self.total });
    }
}

/// The result of `work`, unless it is cancelled before; then `work` is dropped.
pub(crate) async fn cancellable<T>(
    clock: &dyn Clock,
    cancel: &Cancel,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut work = pin!(work);
    loop {
        cancel.check()?;
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = clock.sleep(CANCEL_POLL) => {}
        }
    }
}

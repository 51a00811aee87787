//! The blocking face of the library: `auto_replicate`, the handle, restore.
//!
//! Nothing here decides anything about replication; it turns options into parts, runs them on the private
//! runtime, and waits without entering it.

mod handle;
mod runtime;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::{self, StreamExt};

use crate::blob;
use crate::clock::SystemClock;
use crate::config::{Config, ConfigKey, Options, RestorePolicy, StoreLocation};
use crate::disk::RealDisk;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::Blocking;
use crate::fleet::Env;
use crate::restore::{self, Cancel, Progress, RestoreEnv, RestoreOptions, RestoreReport};
use crate::seal::Keys;
use crate::spool::state_folder;
use crate::sqlite::SqliteAttach;
use crate::store::{LtxInfo, LtxStore};

pub(crate) use self::handle::stop_all;
pub use self::handle::{Events, Handle};

/// Files that get a new header at the same time.
const REWRAPS: usize = 8;

/// Replicates a database with the options of the environment (`REPLICATE_*`).
///
/// Without `REPLICATE_S3_ENDPOINT` and `REPLICATE_URL` the handle is disabled: it answers everything and does
/// nothing. Names that begin with `REPLICATE_` and mean nothing are logged as a warning, also those of an S3
/// service that is not named.
///
/// # Errors
/// Those of [`Handle::start`]; a bad value is an error, never a default.
pub fn auto_replicate(path: impl AsRef<Path>) -> Result<Handle> {
    auto_replicate_with(path, &Cancel::new())
}

/// [`auto_replicate`] that another thread can end while it restores.
///
/// # Errors
/// Those of [`Handle::start_with`].
pub fn auto_replicate_with(path: impl AsRef<Path>, cancel: &Cancel) -> Result<Handle> {
    for complaint in environment_complaints() {
        tracing::warn!("{complaint}");
    }
    Handle::start_or_disabled(path, Options::from_env().0.check()?, cancel)
}

/// What is odd about the environment's options without being an error.
pub(crate) fn environment_complaints() -> Vec<String> {
    let (options, unknown) = Options::from_env();
    let unknown = unknown.into_iter().map(|name| format!("unknown variable {name}, ignored"));
    let idle = options.without_place().into_iter().map(|key| {
        let (name, url, endpoint) = (key.env(), ConfigKey::Url.env(), ConfigKey::Endpoint.env());
        format!("{name} is set, but neither {endpoint} nor {url}: nothing is replicated")
    });
    unknown.chain(idle).collect()
}

/// Restores a database. Blocks; `progress` is called on this thread.
///
/// # Errors
/// [`NoBackup`](ErrorKind::NoBackup) if nothing reaches the target, [`Exists`](ErrorKind::Exists) if the output
/// is there, [`Corrupt`](ErrorKind::Corrupt) if the files or the result are damaged. The output is untouched
/// then.
pub fn restore(
    options: &RestoreOptions,
    config: &Config,
    cancel: &Cancel,
    progress: &mut dyn FnMut(Progress),
) -> Result<RestoreReport> {
    let env = environment()?;
    let place = located(config)?;
    let (options, cancel) = (options.clone(), cancel.clone());
    telling(progress, |latest| async move {
        let note = |progress| latest.note(progress);
        let store = restore::cancellable(env.clock.as_ref(), &cancel, readable(&place, &env)).await?;
        restore::run(&store, &options, &restore_env(&env), &note, &cancel).await
    })
}

/// How far the engine is; the thread that waits for it tells.
#[derive(Clone, Debug, Default)]
struct Latest(Arc<Mutex<Option<Progress>>>);

impl Latest {
    fn note(&self, progress: Progress) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }

    fn take(&self) -> Option<Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Runs what notes how far it is, and tells on this thread.
fn telling<T, W>(progress: &mut dyn FnMut(Progress), work: impl FnOnce(Latest) -> W) -> Result<T>
where
    T: Send + 'static,
    W: Future<Output = Result<T>> + Send + 'static,
{
    let latest = Latest::default();
    runtime::block_on(work(latest.clone()), || latest.take().into_iter().for_each(&mut *progress))?
}

/// Restores the newest state if the database does not exist; whether it did. No backup is not an error: then
/// there is nothing to restore and the answer is `false`. Safe when several threads and processes call it at
/// once: one restores, the others wait. `cancel` ends it from another thread; nothing is left behind then.
///
/// # Errors
/// Those of [`restore`], except that an existing database and an empty replica are none.
pub fn ensure_exists(path: impl AsRef<Path>, config: &Config, cancel: &Cancel) -> Result<bool> {
    let env = environment()?;
    let (path, place) = (path.as_ref(), located(config)?);
    Ok(!is_there(path, &env)? && restore_missing(path, &place, &env, cancel)?.is_some())
}

/// What [`rewrap`] has done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct RewrapReport {
    /// Files that have a new header.
    pub rewrapped: u64,
    /// Files that are not sealed and were left as they are.
    pub plain: u64,
}

/// Gives every file of a replica a new header for the recipients of `config`, without touching its content: after a
/// change of keys, so that the new private key opens what is old, and the old one does not any more. (Whoever has
/// kept a copy of the old files, or of what was in them, still has it.) Needs identities that open the files.
///
/// May run beside a replicator of this replica that seals to the same recipients, and again after a failure: a file
/// has either header, whole. What does not open stays as it is and keeps no other file from its new header.
/// `progress` is told after each file. Who has made a file stays in it; needs the `auth_key` only to see that it is true.
///
/// # Errors
/// [`Config`](ErrorKind::Config) without recipients or identities; and, once everything was tried, the first of those
/// files that do not open: [`Keys`](ErrorKind::Keys) or [`Corrupt`](ErrorKind::Corrupt), as for [`restore`].
pub fn rewrap(config: &Config, progress: &mut dyn FnMut(Progress)) -> Result<RewrapReport> {
    if config.keys.recipients().is_none() || !config.keys.can_open() {
        return Err(Error::new(ErrorKind::Config, "rewrapping needs an age recipient and an age identity")
            .with_hint("the recipients are the new ones; the identity opens what is there"));
    }
    let env = environment()?;
    let place = located(config)?;
    telling(progress, |latest| async move {
        let store = readable(&place, &env).await?;
        let files = store.list_all().await?;
        let total = files.len() as u64;
        let mut report = RewrapReport::default();
        let rewrap_one = |file: LtxInfo| {
            let store = store.clone();
            async move { store.rewrap(&file).await }
        };
        let mut done = stream::iter(files).map(rewrap_one).buffer_unordered(REWRAPS);
        let (mut failed, mut first) = (0, None);
        while let Some(one) = done.next().await {
            match one {
                Ok(true) => report.rewrapped += 1,
                Ok(false) => report.plain += 1,
                Err(error) if matches!(error.kind(), ErrorKind::Keys | ErrorKind::Corrupt) => {
                    failed += 1;
                    first.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
            latest.note(Progress { done: report.rewrapped + report.plain + failed, total });
        }
        let left = format!("{failed} of {total} files are left as they are, {} have a new header", report.rewrapped);
        first.map_or(Ok(report), |error| Err(error.while_doing(left)))
    })
}

/// The files of a replica, by level and id.
///
/// # Errors
/// What the store answers.
pub fn list(config: &Config) -> Result<Vec<LtxInfo>> {
    let env = environment()?;
    let place = located(config)?;
    let work = async move { readable(&place, &env).await?.list_all().await };
    runtime::block_on(work, || ())?
}

/// Where a replica is, and with which keys it is written and read.
#[derive(Clone, Debug)]
struct Place {
    location: StoreLocation,
    keys: Arc<Keys>,
}

fn located(config: &Config) -> Result<Place> {
    let location = config.location.clone().ok_or_else(|| {
        Error::new(ErrorKind::Config, "no replica is named")
            .with_hint("give a URL, or set REPLICATE_URL or REPLICATE_S3_ENDPOINT")
    })?;
    Ok(Place { location, keys: config.keys.clone() })
}

/// The real parts.
fn environment() -> Result<RealEnv> {
    runtime::not_forked()?;
    Ok(RealEnv { clock: Arc::new(SystemClock::new()), disk: Arc::new(RealDisk) })
}

#[derive(Clone, Debug)]
struct RealEnv {
    clock: crate::clock::SharedClock,
    disk: crate::disk::SharedDisk,
}

impl RealEnv {
    fn for_database(&self, path: &Path) -> Env {
        Env {
            clock: self.clock.clone(),
            disk: self.disk.clone(),
            blocking: Blocking::Pool,
            attach: Arc::new(SqliteAttach::new(state_folder(path))),
            spread: u64::from(std::process::id()),
            megabyte: 1 << 20,
        }
    }
}

fn restore_env(env: &RealEnv) -> RestoreEnv {
    RestoreEnv { disk: env.disk.clone(), clock: env.clock.clone(), blocking: Blocking::Pool }
}

fn open_store(place: &Place, env: &RealEnv) -> Result<LtxStore> {
    let blob = blob::open_sharing(&place.location, env.disk.clone(), runtime::sockets()?)?;
    Ok(LtxStore::new(blob, place.keys.clone()))
}

/// The store that holds the replica of a place: under another spelling of the place if there is none at the place.
async fn readable(place: &Place, env: &RealEnv) -> Result<LtxStore> {
    let store = open_store(place, env)?;
    if blob::spellings(&place.location)?.is_empty() || !store.list_all().await?.is_empty() {
        return Ok(store);
    }
    Ok(spelled_otherwise(place).await?.unwrap_or(store))
}

async fn spelled_otherwise(place: &Place) -> Result<Option<LtxStore>> {
    for blob in blob::spellings(&place.location)? {
        let store = LtxStore::new(blob, place.keys.clone());
        match store.list_all().await {
            Ok(files) if files.is_empty() => {}
            Ok(_) => {
                tracing::warn!(store = %place.location, "reading a replica whose keys begin with a dot or a slash");
                return Ok(Some(store));
            }
            Err(error) if error.is_retryable() => return Err(error),
            // Some services refuse such keys, so there are none.
            Err(error) => tracing::debug!(%error, "another spelling of the place is refused"),
        }
    }
    Ok(None)
}

/// What must be right before replication starts; tells of a database that was missing and is restored now.
fn prepare(
    path: &Path,
    config: &Config,
    place: &Place,
    env: &RealEnv,
    cancel: &Cancel,
) -> Result<Option<RestoreReport>> {
    if is_there(path, env)? {
        let is_database = crate::sqlite::is_database(path)?;
        if !is_database {
            return Err(Error::new(ErrorKind::Database, format!("not a SQLite database path={}", path.display())));
        }
        let folder = state_folder(path);
        env.disk.create_dir_all(&folder).map_err(|e| Error::disk("make the state folder", &folder, e))?;
        return crate::sqlite::probe(&folder, path).map(|()| None);
    }
    if config.restore == RestorePolicy::Never {
        return Ok(None);
    }
    let restored = restore_missing(path, place, env, cancel)?;
    if let Some(report) = &restored {
        tracing::info!(db = %path.display(), txid = %report.txid, "restored the missing database");
    }
    Ok(restored)
}

/// Whether there is a database, where SQLite would look for it.
fn is_there(path: &Path, env: &RealEnv) -> Result<bool> {
    let wrap = |e| Error::disk("look at the database", path, e);
    let path = &env.disk.resolve(path).map_err(wrap)?;
    restore::is_there(env.disk.as_ref(), path).map_err(wrap)
}

fn restore_missing(path: &Path, place: &Place, env: &RealEnv, cancel: &Cancel) -> Result<Option<RestoreReport>> {
    let (path, place, env, cancel) = (path.to_owned(), place.clone(), env.clone(), cancel.clone());
    let work = async move {
        let (store, parts) = (open_store(&place, &env)?, restore_env(&env));
        if let Some(report) = restore::ensure_exists(&store, &path, &parts, &cancel).await? {
            return Ok(Some(report));
        }
        match restore::cancellable(env.clock.as_ref(), &cancel, spelled_otherwise(&place)).await? {
            Some(store) => restore::ensure_exists(&store, &path, &parts, &cancel).await,
            None => Ok(None),
        }
    };
    runtime::block_on(work, || ())?
}

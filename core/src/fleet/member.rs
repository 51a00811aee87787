//! One database under replication: waits for its turn on this host, then captures and ships until it is told
//! to stop. The only module that sees both ends of the way, database and store.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use replicate_format::{Level, PageSize, Txid};

use super::hostlock::HostLock;
use super::relay::{ANSWER_POLL, Ask};
use super::schedule::is_final;
use super::shared::{Part, Shared};
use crate::blob::{Body, BodySource};
use crate::capture::{Basis, Capture, CaptureConfig, StartOver, Watch};
use crate::clock::{Pulse, SharedClock};
use crate::config::Config;
use crate::disk::SharedDisk;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, RebaseReason, State};
use crate::exec::Blocking;
use crate::restore::is_restorable;
use crate::seal::Link;
use crate::ship::{Backoff, Reconciled, RemoteChain, reconcile, refuse_mixing, ship_file};
use crate::spool::{Spool, SpoolFile, state_folder};
use crate::sqlite::{self, Attach};
use crate::store::{LtxInfo, LtxStore, Sealed};

/// A store that neither answers nor takes anything for so long is told of as one that does not answer.
pub(super) const SILENCE: Duration = Duration::from_secs(20);

/// How often a stand-by asks for the lock.
const STANDBY_POLL: Duration = Duration::from_millis(500);

/// What a member works with.
#[derive(Clone, Debug)]
pub(crate) struct Env {
    pub(crate) clock: SharedClock,
    pub(crate) disk: SharedDisk,
    pub(crate) blocking: Blocking,
    pub(crate) attach: Arc<dyn Attach>,
    /// Makes waits between attempts differ from those of other processes.
    pub(crate) spread: u64,
    /// What a megabyte is to the limits of capture.
    pub(crate) megabyte: u64,
}

/// A body that tells when the store takes the next part of it.
#[derive(Debug)]
struct Watched {
    body: Body,
    pulse: Arc<Pulse>,
}

#[async_trait]
impl BodySource for Watched {
    fn len(&self) -> u64 {
        self.body.len()
    }

    fn tag(&self) -> Option<u64> {
        self.body.tag()
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.pulse.beat(SILENCE);
        self.body.read(range).await
    }
}

/// One database and its replica.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) env: Env,
    pub(crate) config: Config,
    pub(crate) store: LtxStore,
    pub(crate) shared: Arc<Shared>,
    pub(crate) watch: Arc<dyn Watch>,
}

/// Why the work ends before it is told to.
#[derive(Debug)]
pub(super) enum Halt {
    /// Trying again cannot cure it.
    Failed(Error),
    /// The lock is not where others look for it any more.
    LockLost,
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The capture engine and the spool, shared by the two loops. Locked only for the time of local work.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) capture: Arc<Mutex<Capture>>,
    pub(super) spool: Arc<Mutex<Spool>>,
}

impl Work {
    /// Bytes captured after `txid`.
    pub(super) fn pending_bytes(&self, txid: Txid) -> u64 {
        self.spool(|spool| spool.pending_bytes(txid))
    }

    /// The same without the first file.
    pub(super) fn waiting_bytes(&self, txid: Txid) -> u64 {
        self.spool(|spool| {
            let first = spool.pending(txid).next().map_or(0, |file| file.size);
            spool.pending_bytes(txid).saturating_sub(first)
        })
    }

    fn spool<T>(&self, f: impl FnOnce(&mut Spool) -> T) -> T {
        f(&mut self.spool.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs local work on the capture engine where blocking is allowed.
    pub(super) async fn capture<T: Send + 'static>(
        &self,
        blocking: Blocking,
        f: impl FnOnce(&mut Capture) -> T + Send + 'static,
    ) -> T {
        let capture = self.capture.clone();
        blocking.run(move || f(&mut capture.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}

impl Member {
    /// Runs until stopped; then the report is in `shared`.
    pub(crate) async fn run(self) {
        let error = match self.serve().await {
            Ok(error) => error,
            Err(error) => {
                tracing::error!(db = %self.shared.path().display(), %error, "replication has ended");
                self.shared.ended_by(&error);
                self.shared.stop_requested().await;
                Some(error)
            }
        };
        self.shared.finish(error);
    }

    async fn serve(&self) -> Result<Option<Error>> {
        loop {
            let Some(lock) = self.take_lock().await? else { return Ok(None) };
            match self.hold(lock).await {
                Err(Halt::LockLost) => {
                    // What is in memory belongs to the folder that is gone, and what is in the new one to whoever holds its
                    // lock now.
                    tracing::warn!(db = %self.shared.path().display(), "the state folder was moved or removed, beginning anew");
                    self.shared.begin_anew();
                }
                Err(Halt::Failed(error)) => return Err(error),
                Ok(error) => return Ok(error),
            }
        }
    }

    /// Replicates under this lock.
    async fn hold(&self, lock: HostLock) -> Result<Option<Error>, Halt> {
        let lock = Arc::new(lock);
        let work = tokio::select! {
            biased;
            opened = self.open() => opened?,
            () = self.stop_deadline() => return Ok(Some(self.late())),
        };
        let outcome = self.work(&work, &lock).await;
        if matches!(outcome, Err(Halt::LockLost)) {
            return outcome;
        }
        let closed = work
            .capture(self.env.blocking, |capture| {
                let closed = capture.close();
                // Descriptors that nobody can be hurt by any more.
                sqlite::sweep_all();
                closed
            })
            .await;
        if let Err(error) = closed {
            // As after a kill: the next start compares the database.
            tracing::warn!(db = %self.shared.path().display(), %error, "local state is not up to date");
        }
        outcome
    }

    pub(super) fn folder(&self) -> PathBuf {
        state_folder(self.shared.path())
    }

    /// Waits for the host's lock; `None` if stopped meanwhile. Until then requests go to whoever holds it.
    async fn take_lock(&self) -> Result<Option<HostLock>> {
        let mut asking: Option<Ask> = None;
        let lock = loop {
            let (folder, disk) = (self.folder(), self.env.disk.clone());
            let taken = self.env.blocking.run(move || {
                disk.create_dir_all(&folder).map_err(|e| Error::disk("make the state folder", &folder, e))?;
                HostLock::try_take(disk.as_ref(), &folder)
            });
            match taken.await {
                Ok(Some(lock)) => {
                    self.shared.works(Part::Capture);
                    self.shared.set_state(State::Starting);
                    break Some(lock);
                }
                Ok(None) => {
                    self.shared.set_state(State::Standby);
                    match self.ask_holder(&mut asking).await {
                        Ok(()) => self.shared.works(Part::Capture),
                        Err(error) => self.shared.failed(Part::Capture, &error, STANDBY_POLL),
                    }
                }
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => self.shared.failed(Part::Capture, &error, STANDBY_POLL),
            }
            let waits_for_answer = asking.is_some() && !self.shared.is_failing(Part::Capture);
            tokio::select! {
                biased;
                () = self.shared.stop_requested() => break None,
                () = self.shared.capture.notified(), if asking.is_none() => {}
                () = self.env.clock.sleep(if waits_for_answer { ANSWER_POLL } else { STANDBY_POLL }) => {}
            }
        };
        if let Some(ask) = asking {
            // The capture that begins now answers it.
            let disk = self.env.disk.clone();
            self.env.blocking.run(move || ask.withdraw(disk.as_ref())).await;
        }
        Ok(lock)
    }

    /// Passes requests on to the process that replicates, one at a time, and answers on to the handles.
    async fn ask_holder(&self, asking: &mut Option<Ask>) -> Result<()> {
        if asking.is_none() && self.shared.is_requested() {
            *asking = Some(Ask::new(&self.folder(), self.shared.requests()));
        }
        let Some(ask) = asking.clone() else { return Ok(()) };
        let (disk, requests) = (self.env.disk.clone(), ask.requests);
        if let Some(answer) = self.env.blocking.run(move || ask.advance(disk.as_ref())).await? {
            self.shared.relayed(requests, answer.local(), answer.remote(), answer.last_sync());
            *asking = None;
        }
        Ok(())
    }

    /// Opens the local state, as often as it takes.
    async fn open(&self) -> Result<Work> {
        let mut backoff = Backoff::new(self.env.spread);
        loop {
            let seen = self.shared.requested();
            match self.try_open().await {
                Err(error) if !is_final(&error) => self.capture_failed(&error, &mut backoff, seen).await,
                opened => return opened,
            }
        }
    }

    async fn try_open(&self) -> Result<Work> {
        let (env, folder, shared) = (self.env.clone(), self.folder(), self.shared.clone());
        let config = CaptureConfig {
            database: shared.path().to_owned(),
            replica: self.store.location(),
            page_encoding: self.config.page_encoding,
            checkpoint_pages: self.config.checkpoint_pages,
            megabyte: self.env.megabyte,
            pulse: shared.pulse.clone(),
            sealed_to: self.store.keys().sealed_to(),
        };
        self.env
            .blocking
            .run(move || {
                let spool = Arc::new(Mutex::new(Spool::open(env.disk.clone(), &folder)?));
                let capture = Capture::open(env.disk, env.clock, env.attach, &folder, spool.clone(), config)?;
                Ok(Work { capture: Arc::new(Mutex::new(capture)), spool })
            })
            .await
    }

    /// Resolves at the time by which everything must have ended.
    async fn stop_deadline(&self) {
        self.shared.stop_requested().await;
        while let Some(by) = self.shared.stop_by() {
            let now = self.env.clock.monotonic();
            if now >= by {
                return;
            }
            // A later stop may shorten the time: look again now and then.
            self.env.clock.sleep((by - now).min(Duration::from_millis(100))).await;
        }
    }

    async fn work(&self, work: &Work, lock: &Arc<HostLock>) -> Result<Option<Error>, Halt> {
        let loops = async {
            let ship = async { self.ship_loop(work).await.map_err(Halt::from) };
            tokio::try_join!(self.capture_loop(work, lock), ship)?;
            Ok(None)
        };
        tokio::select! {
            biased;
            ended = loops => ended,
            // It never ends; what it has not answered at the end, the next holder answers.
            ended = self.answer_others() => Ok(ended.map(|()| None)?),
            () = self.stop_deadline() => Ok(Some(self.late())),
        }
    }

    fn late(&self) -> Error {
        let status = self.shared.status();
        let message =
            format!("stop: not everything arrived in time local={} remote={}", status.local_txid, status.remote_txid);
        let error = Error::new(ErrorKind::Timeout, message).with_hint("the rest is shipped at the next start");
        match status.last_error {
            Some(cause) => error.with_source(cause),
            None => error,
        }
    }

    /// Ships what lies in the spool, in order, until stopped and empty.
    async fn ship_loop(&self, work: &Work) -> Result<()> {
        let mut backoff = Backoff::new(self.env.clock.now().0.unsigned_abs() ^ self.env.spread);
        let mut watermark = self.reconcile(work, &mut backoff).await?;
        // Until the store has taken something, what the spool had before may be there although no listing shows it.
        let chain = work.capture(self.env.blocking, |capture| capture.chain()).await;
        let mut before = chain.newest;
        // What is being put, sealed once: a repeated put must bring the same bytes.
        let mut ready: Option<(SpoolFile, Sealed)> = None;
        // The last id that was shipped, and the link of its file.
        let mut last = chain.link.map(|(txid, link)| (Txid(txid), Link::new(link)));
        loop {
            let next = work.spool(|spool| {
                // Files that do not follow on what is there are left overs of a spool that has lost some.
                let mut waiting =
                    spool.pending(watermark).filter(|file| file.txids.extends(watermark) || mutant!(ShippedOutOfOrder));
                let next = if mutant!(ShippedOutOfOrder) { waiting.last() } else { waiting.next() }.cloned();
                next.map(|file| (spool.body(&file, self.env.blocking), file))
            });
            let Some((body, file)) = next else {
                if self.shared.is_drained() {
                    self.shared.set_shipped();
                    return Ok(());
                }
                self.shared.ship.notified().await;
                continue;
            };
            let seen = self.shared.requested();
            if mutant!(AcknowledgedEarly) {
                self.shared.set_remote(file.txids.max(), 0, None);
            }
            self.shared.ship_pulse.beat(SILENCE);
            let body: Body = Arc::new(Watched { body, pulse: self.shared.ship_pulse.clone() });
            let shipped = self.ship(&mut ready, &mut last, &file, body).await;
            self.shared.ship_pulse.rest();
            match shipped {
                Ok(size) => {
                    backoff.reset();
                    (watermark, before, ready) = (file.txids.max(), Txid::ZERO, None);
                    self.shipped(work, &file, size, last.and_then(|(_, link)| link.bytes())).await;
                }
                Err(error)
                    if error.kind() == ErrorKind::Diverged
                        && file.txids.max() <= before
                        && !self.store.can_compare() =>
                {
                    // As when it is met at start, see `RemoteChain::foreign`.
                    tracing::warn!(txids = %file.txids, "the replica holds a file that no listing had shown");
                    (before, ready) = (Txid::ZERO, None);
                    let newest = work.capture(self.env.blocking, |capture| capture.chain().newest).await;
                    let after = newest.max(file.txids.max()).max(self.newest(&mut backoff).await);
                    let arrived = self.shared.status().remote_txid;
                    let over = StartOver { after, reason: RebaseReason::RemoteAhead, snapshot: true, basis: None };
                    self.start_over(work, over, &mut backoff).await?;
                    self.shared.set_remote(arrived, 0, None);
                    self.shared.capture.notify_one();
                    watermark = after;
                }
                Err(error) if error.kind() == ErrorKind::Diverged => return Err(error),
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    ready = None;
                    let wait = self.wait_after_failure(&mut backoff);
                    self.shared.failed(Part::Ship, &error, wait);
                    let reason = RebaseReason::SpoolDamaged;
                    // Whether an attempt before this one had its effect, only the store can tell.
                    let there = self.newest(&mut backoff).await;
                    watermark = watermark.max(there);
                    // Not the watermark: ids that were given before everything was forgotten need not have arrived.
                    let arrived = self.shared.status().remote_txid.max(there);
                    // Everything is stored again: as a snapshot it needs nothing of what is there, also no page size.
                    let over = StartOver { after: watermark, reason, snapshot: true, basis: None };
                    self.start_over(work, over, &mut backoff).await?;
                    self.shared.set_remote(arrived, 0, None);
                    // A disk that changes whatever it is given would have everything sent for ever.
                    self.back_off(wait, &mut backoff, seen).await;
                }
                Err(error) => self.pause(&error, &mut backoff, seen).await,
            }
        }
    }

    /// Seals and puts a file; sealed anew only if it is another one than the last time. Its size in the store.
    async fn ship(
        &self,
        ready: &mut Option<(SpoolFile, Sealed)>,
        last: &mut Option<(Txid, Link)>,
        file: &SpoolFile,
        body: Body,
    ) -> Result<u64> {
        let sealed = match ready {
            Some((known, sealed)) if known == file => sealed.clone(),
            _ => {
                let previous = match last {
                    _ if file.level != Level::L0 => Link::NONE,
                    Some((txid, link)) if txid.next() == file.txids.min() => *link,
                    _ => self.store.link_before(file.txids.min()).await?,
                };
                let sealed = self.store.seal_after(previous, file.level, file.txids, body)?;
                ready.insert((file.clone(), sealed)).1.clone()
            }
        };
        *last = None;
        let as_sealed = ship_file(&self.store, file, &sealed).await?;
        *last = as_sealed.then(|| (file.txids.max(), sealed.link()));
        Ok(sealed.size())
    }

    async fn shipped(&self, work: &Work, file: &SpoolFile, size: u64, link: Option<[u8; 32]>) {
        let txid = file.txids.max();
        let pending = work.spool(|spool| spool.pending_bytes(txid));
        self.shared.works(Part::Ship);
        self.shared.set_flowing();
        self.shared.set_remote(txid, pending, Some(self.env.clock.now()));
        self.shared.tell(&Event::Shipped { txid, bytes: size });
        tracing::debug!(%txid, bytes = size, "shipped");
        let file = file.clone();
        let books = work.capture(self.env.blocking, move |capture| capture.shipped(&file, size, link)).await;
        // A failure is made good in quiet, which the capture task waits for.
        let failed = books.is_err() && !self.note_books(books);
        if failed || self.shared.is_paused() {
            self.shared.capture.notify_one();
        }
    }

    async fn pause(&self, error: &Error, backoff: &mut Backoff, seen: u64) {
        let wait = self.wait_after_failure(backoff);
        tracing::warn!(db = %self.shared.path().display(), %error, ?wait, "store not reached, trying again");
        self.shared.failed(Part::Ship, error, wait);
        self.back_off(wait, backoff, seen).await;
    }

    /// Has everything captured anew after `after`, however often that must be tried.
    async fn start_over(&self, work: &Work, over: StartOver, backoff: &mut Backoff) -> Result<()> {
        loop {
            let seen = self.shared.requested();
            match self.try_start_over(work, over).await {
                Ok(()) => break,
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => self.pause(&error, backoff, seen).await,
            }
        }
        self.shared.works(Part::Ship);
        Ok(())
    }

    /// No request that was served before counts any more.
    async fn try_start_over(&self, work: &Work, over: StartOver) -> Result<()> {
        self.shared.unserve();
        let shared = self.shared.clone();
        work.capture(self.env.blocking, move |capture| {
            let started = capture.start_over(over);
            // A step that was under way may have served a request from what is gone now.
            shared.unserve();
            shared.set_local(over.after, 0);
            started
        })
        .await
    }

    /// Compares what this host remembers with what the store holds, as often as it takes to get an answer.
    async fn reconcile(&self, work: &Work, backoff: &mut Backoff) -> Result<Txid> {
        let (remote, decided, page_size) = loop {
            let seen = self.shared.requested();
            self.shared.ship_pulse.beat(SILENCE);
            let compared = self.compare(work).await;
            self.shared.ship_pulse.rest();
            match compared {
                Ok(compared) => break compared,
                Err(error) if matches!(error.kind(), ErrorKind::Diverged | ErrorKind::Keys) => return Err(error),
                Err(error) => self.pause(&error, backoff, seen).await,
            }
        };
        backoff.reset();
        self.shared.works(Part::Ship);
        let end = remote.end();
        let watermark = match decided {
            Reconciled::Continue { watermark, .. } => {
                loop {
                    let seen = self.shared.requested();
                    match work.capture(self.env.blocking, move |capture| capture.stand_on(end)).await {
                        Ok(()) => break,
                        Err(error) if is_final(&error) => return Err(error),
                        Err(error) => self.pause(&error, backoff, seen).await,
                    }
                }
                self.shared.works(Part::Ship);
                watermark
            }
            Reconciled::StartOver { after, reason, snapshot } => {
                let basis = Basis { object: end.filter(|_| after == remote.newest), page_size };
                let over = StartOver { after, reason, snapshot, basis: Some(basis) };
                self.start_over(work, over, backoff).await?;
                after
            }
        };
        let pending = work.spool(|spool| spool.pending_bytes(watermark));
        self.shared.set_remote(watermark.min(remote.newest), pending, None);
        self.shared.set_reconciled();
        self.shared.capture.notify_one();
        Ok(watermark)
    }

    /// The last id that is taken in the store, asked for until there is an answer.
    async fn newest(&self, backoff: &mut Backoff) -> Txid {
        loop {
            let seen = self.shared.requested();
            match self.store.list_all().await {
                Ok(files) => return RemoteChain::of(&files, true).newest,
                Err(error) => self.pause(&error, backoff, seen).await,
            }
        }
    }

    /// One try of that: what is there, how to go on, and the page size there if an image is to continue it.
    async fn compare(&self, work: &Work) -> Result<(RemoteChain, Reconciled, Option<PageSize>)> {
        let mut files = self.store.list_all().await?;
        if !is_restorable(&files) {
            // They may have been merged and removed while they were listed.
            files = self.store.list_all().await?;
        }
        let local = work.capture(self.env.blocking, |capture| capture.chain()).await;
        // It is sealed to something else now: to nothing.
        refuse_mixing(&self.store, &files, local.rekeyed && !local.sealed).await?;
        let remote = RemoteChain::of(&files, is_restorable(&files));
        if !remote.whole {
            tracing::error!(replica = self.store.location(), "files are missing in the replica, storing a snapshot");
        }
        let mut decided = reconcile(&local, &remote)?;
        if let Reconciled::Continue { prove, .. } = &decided
            && !self.are_ours(work, &files, prove).await?
        {
            decided = remote.foreign(&local);
        }
        let mut page_size = None;
        if let Reconciled::StartOver { snapshot: snapshot @ false, .. } = &mut decided
            && let Some(end) = files.iter().max_by_key(|file| file.txids.max())
        {
            match self.store.header(end).await {
                Ok(header) => page_size = Some(header.page_size),
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Keys) => *snapshot = true,
                Err(error) => return Err(error),
            }
        }
        Ok((remote, decided, page_size))
    }

    /// Whether the store holds these files of the spool.
    async fn are_ours(&self, work: &Work, there: &[LtxInfo], prove: &[SpoolFile]) -> Result<bool> {
        for file in prove {
            let there = there.iter().find(|there| (there.level, there.txids) == (file.level, file.txids));
            let body = work.spool(|spool| spool.body(file, self.env.blocking));
            let ours = match there {
                Some(there) => {
                    let sealed = self.store.seal(file.level, file.txids, body)?;
                    self.store.holds(there.key(), &sealed).await
                }
                None => Ok(false),
            };
            match ours {
                Ok(true) => {}
                // A file that cannot be read proves nothing.
                Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
                Ok(false) | Err(_) => {
                    tracing::warn!(txids = %file.txids, "the replica holds another file than the spool");
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

//! What sealing costs: bytes in bulk and small objects in this process, beside the Go program `age` on the same bytes; and
//! the whole of replicating small commits, sealed beside plain.
//!
//! All figures are CPU time, because the machine may be shared. It has a table of its own.

use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use replicate::blob::{BlobError, BlobResult, BlobStore, Body, Caps, ObjectKey, ObjectMeta, PutOptions};
use replicate::seal::{Identities, IdentityKind, KeysBuilder, Recipients, generate_identity};
use replicate::store::LtxStore;
use replicate::{Level, Timestamp, Txid, TxidRange};
use replicate_sim::peers::{Outcome, Pace, Place, Side, wait_until};
use rustix::time::{ClockId, clock_gettime};

use crate::table::{OURS, Table, number, quantile};
use crate::writer::{Committer, make};
use crate::{Bench, Case, Store, tell, tidy};

/// Bytes sealed and opened in bulk, and the parts in which a store takes them.
const BULK: usize = 256 << 20;
const PART: u64 = 8 << 20;
/// A small object, and how many of them are one sample.
const SMALL: usize = 4096;
const SMALLS: u32 = 500;
/// What is replicated: commits, each an object of its own.
const COMMITS: u32 = 400;
const MIB: u64 = 1 << 20;

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("sealing", measure)]
}

fn measure(bench: &Bench<'_>, table: &mut Table) -> Outcome {
    let age = std::env::var_os("REPLICATE_AGE").ok_or("REPLICATE_AGE is not set; run this by cargo xtask")?;
    let folder = bench.scratch.join("sealing");
    std::fs::create_dir_all(&folder).map_err(|e| format!("create {}: {e}", folder.display()))?;
    let rounds = bench.sizes.rounds.max(3);
    let mut rows = Vec::new();
    for kind in [IdentityKind::X25519, IdentityKind::PostQuantum] {
        tell(&format!("sealing {}", kind.name()));
        in_process(kind, Path::new(&age), &folder, rounds, &mut rows)?;
    }
    replicated(bench, &folder, rounds, &mut rows)?;
    table.add_other(format!(
        "| sealing | unit | replicate | Go `age` |\n|---|---|---|---|\n{}\n\n\
         CPU time, medians of {rounds} rounds. `age` is a program: its figures hold its start and its file.\n",
        rows.join("\n"),
    ));
    tidy(&folder);
    Ok(())
}

fn line(what: &str, unit: &str, ours: &[f64], theirs: &[f64]) -> String {
    let cell = |samples: &[f64]| quantile(samples, 0.5).map_or_else(|| "–".to_owned(), number);
    format!("| {what} | {unit} | {} | {} |", cell(ours), cell(theirs))
}

fn in_process(kind: IdentityKind, age: &Path, folder: &Path, rounds: usize, rows: &mut Vec<String>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|e| e.to_string())?;
    let made = generate_identity(kind).map_err(|e| e.to_string())?;
    let keys = KeysBuilder {
        recipients: Some(Recipients::parse(&made.recipient).map_err(|e| e.to_string())?),
        identities: Some(Identities::parse(&made.identity).map_err(|e| e.to_string())?),
        ..KeysBuilder::default()
    };
    let blob = Arc::new(OneObject::default());
    let store = LtxStore::new(blob.clone(), Arc::new(keys.build().map_err(|e| e.to_string())?));
    let plain: Bytes = (0..BULK).map(|i| (i * 31 + i / 4093) as u8).collect::<Vec<_>>().into();
    let (plain_file, sealed_file, key_file) = (folder.join("plain"), folder.join("sealed"), folder.join("key"));
    std::fs::write(&plain_file, &plain).map_err(|e| e.to_string())?;
    std::fs::write(&key_file, format!("{}\n", *made.identity)).map_err(|e| e.to_string())?;

    let [mut seal, mut open, mut go_seal, mut go_open, mut seal_small, mut open_small] = [const { Vec::new() }; 6];
    for _ in 0..rounds {
        blob.keeps.store(false, Ordering::Relaxed);
        seal.push(gigabytes(cpu_of(|| runtime.block_on(put(&store, plain.clone())))?));
        blob.keeps.store(true, Ordering::Relaxed);
        runtime.block_on(put(&store, plain.clone()))?;
        open.push(gigabytes(cpu_of(|| runtime.block_on(read(&store, &plain)))?));
        let mut encrypt = Command::new(age);
        encrypt.arg("-r").arg(&made.recipient).arg("-o").arg(&sealed_file).arg(&plain_file);
        go_seal.push(gigabytes(cpu_of_program(&mut encrypt)?));
        let mut decrypt = Command::new(age);
        decrypt.args(["-d", "-o", "/dev/null", "-i"]).arg(&key_file).arg(&sealed_file);
        go_open.push(gigabytes(cpu_of_program(&mut decrypt)?));
        let small = plain.slice(..SMALL);
        let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(SMALLS);
        let repeated = |work: &dyn Fn() -> Outcome| (0..SMALLS).try_for_each(|_| work());
        seal_small.push(each(cpu_of(|| repeated(&|| runtime.block_on(put(&store, small.clone()))))?));
        open_small.push(each(cpu_of(|| repeated(&|| runtime.block_on(read(&store, &small))))?));
    }
    let named = |what: &str| format!("{what}, {}", kind.name());
    if kind == IdentityKind::X25519 {
        rows.push(line("seal 256 MiB", "GB/s", &seal, &go_seal));
        rows.push(line("open 256 MiB", "GB/s", &open, &go_open));
    }
    rows.push(line(&named("seal an object of 4 KiB"), "µs", &seal_small, &[]));
    rows.push(line(&named("open an object of 4 KiB"), "µs", &open_small, &[]));
    Ok(())
}

fn gigabytes(time: Duration) -> f64 {
    BULK as f64 / 1e9 / time.as_secs_f64()
}

/// CPU time of this thread.
fn cpu_of(work: impl FnOnce() -> Outcome) -> Outcome<Duration> {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    let start = now();
    work()?;
    Ok(now() - start)
}

/// CPU time of a program from its start to its end.
fn cpu_of_program(command: &mut Command) -> Outcome<Duration> {
    let of_children = || -> Outcome<u64> {
        let stat = std::fs::read_to_string("/proc/self/stat").map_err(|e| e.to_string())?;
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
        ticks(13).zip(ticks(14)).map(|(user, system)| user + system).ok_or_else(|| "/proc is unreadable".to_owned())
    };
    let before = of_children()?;
    let status = command.stdin(Stdio::null()).status().map_err(|e| format!("{command:?}: {e}"))?;
    if !status.success() {
        return Err(format!("{command:?}: {status}"));
    }
    // Hundredths of a second.
    Ok(Duration::from_millis(10 * (of_children()? - before)))
}

fn txids() -> Outcome<TxidRange> {
    TxidRange::single(Txid(7)).ok_or_else(|| "a transaction".to_owned())
}

async fn put(store: &LtxStore, plain: Bytes) -> Outcome {
    let sealed = store.seal(Level::L0, txids()?, Arc::new(plain)).map_err(|e| e.to_string())?;
    store.put(&sealed, Timestamp(1)).await.map(drop).map_err(|e| e.to_string())
}

/// Reads what was put last, as parts.
async fn read(store: &LtxStore, expected: &Bytes) -> Outcome {
    let files = store.list(Level::L0, Txid::ZERO).await.map_err(|e| e.to_string())?;
    let file = files.first().ok_or("nothing was put")?;
    let open = store.open(file).await.map_err(|e| e.to_string())?;
    let (mut at, mut last) = (0, Bytes::new());
    while at < open.size() {
        last = open.read(at..at + PART).await.map_err(|e| e.to_string())?;
        at += PART;
    }
    if expected.ends_with(&last) { Ok(()) } else { Err("other bytes came back".to_owned()) }
}

/// Takes objects part by part, as a client of S3 does, and keeps only one that is put while it is told to.
#[derive(Debug, Default)]
struct OneObject {
    keeps: AtomicBool,
    object: Mutex<Option<(ObjectMeta, Bytes)>>,
}

impl OneObject {
    fn object(&self, key: &str) -> BlobResult<(ObjectMeta, Bytes)> {
        let object = self.object.lock().unwrap_or_else(PoisonError::into_inner).clone();
        object.ok_or_else(|| BlobError::NotFound { key: key.to_owned() })
    }
}

#[async_trait]
impl BlobStore for OneObject {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn caps(&self) -> Caps {
        Caps { conditional_put: true, created_in_list: true }
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }

    async fn put(&self, key: &ObjectKey, body: Body, options: PutOptions) -> BlobResult<ObjectMeta> {
        let keeps = self.keeps.load(Ordering::Relaxed);
        let (mut whole, mut at) = (Vec::new(), 0);
        while at < body.len() {
            let end = body.len().min(at + PART);
            let part = body.read(at..end).await?;
            if keeps {
                whole.extend_from_slice(&part);
            }
            at = end;
        }
        let (key, created) = (key.clone(), options.created);
        let meta = ObjectMeta { key, size: body.len(), modified: created, created: Some(created), etag: None };
        if keeps {
            *self.object.lock().unwrap_or_else(PoisonError::into_inner) = Some((meta.clone(), whole.into()));
        }
        Ok(meta)
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> BlobResult<Bytes> {
        let (meta, bytes) = self.object(key.as_str())?;
        let range = range.unwrap_or(0..meta.size);
        Ok(bytes.slice(range.start as usize..range.end as usize))
    }

    async fn head(&self, key: &ObjectKey) -> BlobResult<ObjectMeta> {
        self.object(key.as_str()).map(|(meta, _)| meta)
    }

    fn list(&self, prefix: &str, _: Option<&str>) -> BoxStream<'_, BlobResult<ObjectMeta>> {
        let found = self.object(prefix).ok().map(|(meta, _)| meta);
        stream::iter(found.filter(|meta| meta.key.as_str().starts_with(prefix)).map(Ok)).boxed()
    }

    async fn delete(&self, _: &[ObjectKey]) -> BlobResult<()> {
        *self.object.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }
}

/// Small commits, each shipped as an object of its own to S3; plain, and sealed to either kind of key.
fn replicated(bench: &Bench<'_>, folder: &Path, rounds: usize, rows: &mut Vec<String>) -> Outcome {
    let kinds = [None, Some(IdentityKind::X25519), Some(IdentityKind::PostQuantum)];
    let mut samples = [const { Vec::new() }; 3];
    for round in 0..rounds {
        for (kind, samples) in kinds.into_iter().zip(&mut samples) {
            tell(&format!("small commits, {}, round {}", kind.map_or("plain", IdentityKind::name), round + 1));
            let place = bench.place(Store::S3, &format!("sealing-{round}-{kind:?}"));
            samples.push(small_commits(&bench.contenders[OURS].side, kind, &place, &folder.join("run"))?);
            tidy(place.folder());
        }
    }
    let median = |samples: &[f64]| quantile(samples, 0.5).unwrap_or(f64::NAN);
    let plain = median(&samples[0]);
    for (kind, samples) in kinds.into_iter().zip(&samples) {
        let what = match kind {
            None => "replicate a commit of one page to S3, plain".to_owned(),
            Some(kind) => {
                let more = (median(samples) / plain - 1.0) * 100.0;
                format!("the same sealed, {} ({more:+.0} %)", kind.name())
            }
        };
        rows.push(line(&what, "µs", samples, &[]));
    }
    Ok(())
}

/// CPU time of the replicator for each object, in microseconds.
fn small_commits(ours: &Side, kind: Option<IdentityKind>, place: &Place, folder: &Path) -> Outcome<f64> {
    let _left = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder).map_err(|e| format!("create {}: {e}", folder.display()))?;
    let database = folder.join("app.db");
    make(&database, MIB)?;
    let side = match kind {
        Some(kind) => {
            let made = generate_identity(kind).map_err(|e| e.to_string())?;
            ours.clone().with("REPLICATE_AGE_RECIPIENT", &made.recipient)
        }
        None => ours.clone(),
    };
    let running = side.replicate(&database, place, Pace::Lowest, folder)?;
    let arrives = |more_than: u64| {
        wait_until("an object arrives", Duration::from_secs(60), || {
            let last = place.last()?;
            Ok((last > more_than).then_some(last))
        })
    };
    let mut last = arrives(0)?;
    let mut committer = Committer::start(&database)?;
    // What is done once at the start is no cost of an object.
    for _ in 0..20 {
        committer.commit()?;
        last = arrives(last)?;
    }
    let (before, first) = (running.usage()?, last);
    for _ in 0..COMMITS {
        committer.commit()?;
        last = arrives(last)?;
    }
    let cpu = running.usage()?.cpu.saturating_sub(before.cpu);
    drop(committer);
    running.stop()?;
    Ok(cpu.as_secs_f64() * 1e6 / (last - first) as f64)
}

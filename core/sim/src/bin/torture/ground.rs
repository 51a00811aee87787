//! The place of one case: a folder with a database and its notes, a replica, and how both are compared.

use std::path::{Path, PathBuf};
use std::time::Duration;

use replicate::{Cancel, Check, RestoreOptions, Target, Txid};
use replicate_sim::peers::Outcome;
use replicate_sim::servers::{ACCESS_KEY, SECRET_KEY};

use crate::actor::{Replicating, Script, Writing, config};
use crate::chain::{self, Chain, Shape};
use crate::child::{Child, Life};

/// A database, its replica and what was acknowledged of it.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    pub(crate) folder: PathBuf,
    pub(crate) db: PathBuf,
    /// Options of the replicator, without those of opening.
    pub(crate) options: Vec<(String, String)>,
    /// Options that only a restore has: private keys.
    pub(crate) opening: Vec<(String, String)>,
    pub(crate) autocheckpoint: u32,
}

/// The path with something behind its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A replica in a folder.
pub(crate) fn on_file(folder: &Path) -> Vec<(String, String)> {
    vec![option("url", &format!("file://{}", folder.display()))]
}

/// A replica on an S3 server.
pub(crate) fn on_s3(endpoint: &str, bucket: &str, prefix: &str) -> Vec<(String, String)> {
    vec![
        option("url", &format!("s3://{bucket}/{prefix}?endpoint={endpoint}&region=us-east-1&force-path-style=true")),
        option("access_key", ACCESS_KEY),
        option("secret_key", SECRET_KEY),
    ]
}

pub(crate) fn option(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

impl Ground {
    /// Makes the database in a folder that is there.
    pub(crate) fn create(folder: &Path, replica: Vec<(String, String)>, shape: Shape) -> Outcome<Self> {
        let db = folder.join("app.db");
        chain::create(&db, shape)?;
        let (folder, opening) = (folder.to_owned(), Vec::new());
        Ok(Self { folder, db, options: replica, opening, autocheckpoint: 1000 })
    }

    /// The same with an option.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.options.push(option(name, value));
        self
    }

    /// A writer that commits every few milliseconds.
    pub(crate) fn writing(&self, id: i64) -> Writing {
        Writing {
            id,
            autocheckpoint: self.autocheckpoint,
            pause: Duration::from_millis(2),
            row: 3000,
            checkpoints: 3,
            reconnects: 20,
            tolerant: false,
            notes: self.folder.join("notes"),
        }
    }

    /// An engine that syncs all the time and notes what it was told.
    pub(crate) fn replicating(&self) -> Replicating {
        let stored = Some(self.folder.join("stored"));
        Replicating { options: self.options.clone(), stored, pause: Duration::from_millis(10) }
    }

    /// A script for this database, without anybody in it.
    pub(crate) fn script(&self, seed: u64) -> Script {
        Script { db: self.db.clone(), seed, ..Script::default() }
    }

    /// The script of an engine alone.
    pub(crate) fn engine(&self, seed: u64) -> Script {
        Script { engine: Some(self.replicating()), ..self.script(seed) }
    }

    /// The script of an application alone.
    pub(crate) fn application(&self, seed: u64, writers: Vec<Writing>) -> Script {
        Script { writers, ..self.script(seed) }
    }

    /// Starts a child that must begin.
    pub(crate) fn start(&self, name: &str, script: &Script) -> Outcome<Child> {
        let mut child = Child::start(script, &self.folder.join(format!("{name}.log")), None)?;
        match child.ready()? {
            Life::Runs => Ok(child),
            other => Err(format!("{name} did not begin: {other:?}")),
        }
    }

    /// The rows that `sync` has acknowledged, with the captures, oldest first.
    pub(crate) fn stored(&self) -> Vec<(i64, u64)> {
        let text = std::fs::read_to_string(self.folder.join("stored")).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)))
            .collect()
    }

    /// The newest row that `sync` has acknowledged.
    pub(crate) fn acknowledged(&self) -> i64 {
        self.stored().iter().map(|(row, _)| *row).max().unwrap_or(0)
    }

    /// The newest row that SQLite has told a writer to be committed.
    pub(crate) fn committed(&self) -> i64 {
        let text = std::fs::read_to_string(self.folder.join("notes")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).max().unwrap_or(0)
    }

    /// The source, which must hold all that SQLite has told its writers.
    pub(crate) fn source(&self, keep_wal: bool) -> Outcome<Chain> {
        // Before: somebody may write on.
        let committed = self.committed();
        let chain = chain::read(&self.db, keep_wal)?;
        if chain.len() < committed {
            return Err(format!("the database itself has lost rows {} to {committed}", chain.len() + 1));
        }
        Ok(chain)
    }

    /// Restores and reads; the engine's own check is left out, ours is stricter.
    pub(crate) fn restored(&self, txid: Option<u64>) -> Outcome<Chain> {
        let path = self.folder.join("restored.db");
        let target = txid.map_or(Target::Latest, |txid| Target::Txid(Txid(txid)));
        for suffix in ["", "-wal", "-shm"] {
            let _absent = std::fs::remove_file(beside(&path, suffix));
        }
        let options = RestoreOptions::new(&path).target(target).check(Check::None);
        let config = config(&[self.options.clone(), self.opening.clone()].concat())?;
        replicate::restore(&options, &config, &Cancel::new(), &mut |_| {})
            .map_err(|e| format!("restore of {target:?}: {e:?}"))?;
        chain::read(&path, false)
    }

    /// What the replica holds is the source, as it is.
    pub(crate) fn must_equal(&self, source: &Chain, what: &str) -> Outcome {
        let restored = self.restored(None).map_err(|why| format!("{what}: {why}"))?;
        restored.equals(source).map_err(|why| format!("{what}: {why}"))?;
        restored.begins(source, self.acknowledged()).map_err(|why| format!("{what}: {why}"))
    }

    /// Removes the local state.
    pub(crate) fn forget(&self) {
        let _absent = std::fs::remove_dir_all(self.folder.join(".app.db-replicate"));
    }
}

//! One round: a database, who works on it, the replica, and what the database was at each step.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use replicate::seal::{GeneratedIdentity, IdentityKind, generate_identity};
use replicate::{Cancel, ConfigKey, Options, RestoreOptions, Target, Txid, restore};
use rusqlite::Connection;

use super::actor::{Actor, Answer, Ask, PATIENCE, open};
use super::sql::{self, Rng};

/// Connections of each actor.
const CONNECTIONS: u8 = 2;
/// A database that has grown beyond this gets smaller again, so that a round stays short.
const LARGE: usize = 6 << 20;
/// Ids that are restored at the end of a round beside the newest.
const RESTORED: u64 = 8;

/// How much was done, to see that it was enough.
#[derive(Debug, Default)]
pub struct Tally {
    pub steps: u64,
    pub refused: u64,
    /// Times that everything had arrived and was compared.
    pub compared: u64,
    /// Ids restored that were not the newest any more.
    pub earlier: u64,
    pub ids: u64,
    pub engines: u64,
    pub kills: u64,
    pub alone: u64,
    pub bytes: u64,
}

/// What a connection is at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum At {
    Rest,
    Reading,
    Writing,
}

pub struct Round<'a> {
    rng: Rng,
    child_test: &'static str,
    folder: tempfile::TempDir,
    database: PathBuf,
    actors: Vec<Actor>,
    connections: BTreeMap<(usize, u8), At>,
    /// Who replicates, or stands by.
    engines: BTreeSet<usize>,
    keys: Option<GeneratedIdentity>,
    /// Each state that a reader has seen, in their order.
    images: Vec<Vec<u8>>,
    /// Which of them an id is that was the newest when everything had arrived.
    arrived: BTreeMap<u64, usize>,
    /// Every commit was looked at, so an id that never was the newest must be one of them too.
    seamless: bool,
    pub story: Vec<String>,
    tally: &'a mut Tally,
}

type Outcome = Result<(), String>;

impl<'a> Round<'a> {
    pub fn new(seed: u64, sealed: bool, child_test: &'static str, tally: &'a mut Tally) -> Self {
        let mut rng = Rng::new(seed);
        let folder = tempfile::tempdir().expect("a folder");
        let database = folder.path().join("app.db");
        let mut actors = vec![Actor::here(&database)];
        actors.extend((0..rng.between(1, 2)).map(|_| Actor::elsewhere(&database, child_test)));
        let keys = sealed.then(|| {
            let kinds = IdentityKind::ALL;
            generate_identity(kinds[rng.below(kinds.len() as u64) as usize]).expect("keys")
        });
        let seamless = rng.percent(60);
        Self {
            rng,
            child_test,
            folder,
            database,
            actors,
            connections: BTreeMap::new(),
            engines: BTreeSet::new(),
            keys,
            images: Vec::new(),
            arrived: BTreeMap::new(),
            seamless,
            story: Vec::new(),
            tally,
        }
    }

    pub fn play(&mut self, steps: u64) -> Outcome {
        self.create()?;
        for _ in 0..steps {
            self.tally.steps += 1;
            self.step()?;
            if self.seamless {
                self.look()?;
            }
        }
        self.rest()?;
        self.start(0)?;
        self.sync()?;
        self.restore_earlier()?;
        self.stop_all()?;
        let connection = open(&self.database).map_err(|e| e.to_string())?;
        let check: String =
            connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).map_err(|e| e.to_string())?;
        if check == "ok" { Ok(()) } else { Err(format!("the database itself is damaged: {check}")) }
    }

    fn create(&mut self) -> Outcome {
        self.connect(0, 0)?;
        let (size, vacuum) = (self.rng.pick(&sql::SIZES), self.rng.pick(&["NONE", "FULL", "INCREMENTAL"]));
        let mode = if self.rng.percent(85) { "PRAGMA journal_mode = WAL; " } else { "" };
        let tables = sql::tables();
        let text = format!("PRAGMA page_size = {size}; PRAGMA auto_vacuum = {vacuum}; {mode}BEGIN; {tables} COMMIT");
        self.sql(0, 0, &text)?;
        if mode.is_empty() {
            // An engine that is to switch it to WAL needs it for a moment alone.
            self.close(0, 0)?;
        }
        self.look()
    }

    fn step(&mut self) -> Outcome {
        match self.rng.below(100) {
            0..=41 => self.write(),
            42..=47 => self.begin_or_end(),
            48..=53 => self.on_some(sql::checkpoint),
            54..=57 => self.on_some(sql::setting),
            58..=61 => self.leave(),
            62..=68 if self.engines.len() < 2 => {
                let actor = self.any_actor();
                if self.engines.contains(&actor) { Ok(()) } else { self.start(actor) }
            }
            69..=71 => self.stop_one(),
            72..=75 => self.kill(),
            76..=78 => self.alone(),
            79..=82 if !self.seamless => self.burst(),
            83..=96 => self.sync(),
            97 | 98 => self.restore_one(),
            _ => Ok(()),
        }
    }

    fn any_actor(&mut self) -> usize {
        self.rng.below(self.actors.len() as u64) as usize
    }

    fn tell(&mut self, line: String) {
        self.story.push(line);
    }

    /// Asks and takes the answer.
    fn ask(&mut self, actor: usize, ask: &Ask) -> Result<Answer, String> {
        self.tell(format!("{actor}: {ask:?}"));
        self.actors[actor].ask(ask);
        self.take_answer(actor)
    }

    fn take_answer(&mut self, actor: usize) -> Result<Answer, String> {
        let answer = self.actors[actor].answer();
        match &answer {
            Answer::Done => {}
            Answer::Broken(what) => return Err(format!("actor {actor}: {what}")),
            other => {
                self.tally.refused += u64::from(matches!(other, Answer::Refused(_)));
                self.tell(format!("    {actor}: {other:?}"));
            }
        }
        Ok(answer)
    }

    fn connect(&mut self, actor: usize, number: u8) -> Outcome {
        if !self.connections.contains_key(&(actor, number)) {
            self.ask(actor, &Ask::Open(number))?;
            self.connections.insert((actor, number), At::Rest);
        }
        Ok(())
    }

    fn close(&mut self, actor: usize, number: u8) -> Outcome {
        if self.connections.remove(&(actor, number)).is_some() {
            self.ask(actor, &Ask::Close(number))?;
        }
        Ok(())
    }

    /// Whether it was done.
    fn sql(&mut self, actor: usize, number: u8, text: &str) -> Result<bool, String> {
        let answer = self.ask(actor, &Ask::Sql(number, text.to_owned()))?;
        Ok(answer == Answer::Done)
    }

    /// A connection that is in no transaction, opened if there is none; nothing if this one is at something.
    fn some_connection(&mut self) -> Result<Option<(usize, u8)>, String> {
        let (actor, number) = (self.any_actor(), self.rng.below(CONNECTIONS.into()) as u8);
        self.connect(actor, number)?;
        Ok((self.connections[&(actor, number)] == At::Rest).then_some((actor, number)))
    }

    fn on_some(&mut self, text: impl FnOnce(&mut Rng) -> String) -> Outcome {
        if let Some((actor, number)) = self.some_connection()? {
            let text = text(&mut self.rng);
            self.sql(actor, number, &text)?;
        }
        Ok(())
    }

    fn write(&mut self) -> Outcome {
        let large = self.images.last().is_some_and(|image| image.len() > LARGE);
        self.on_some(|rng| match large {
            true => "BEGIN IMMEDIATE; DELETE FROM a; DELETE FROM b; DELETE FROM c WHERE id % 2; COMMIT".to_owned(),
            false => sql::transaction(rng),
        })
    }

    /// A transaction that stays open over other steps, or the end of one.
    fn begin_or_end(&mut self) -> Outcome {
        let open: Vec<_> =
            self.connections.iter().filter(|(_, at)| **at != At::Rest).map(|(c, at)| (*c, *at)).collect();
        if !open.is_empty() && self.rng.percent(60) {
            let ((actor, number), at) = open[self.rng.below(open.len() as u64) as usize];
            let end = if at == At::Writing && self.rng.percent(30) { "ROLLBACK" } else { "COMMIT" };
            let more =
                if at == At::Writing && self.rng.percent(50) { sql::changes(&mut self.rng, 3) } else { String::new() };
            self.sql(actor, number, &format!("{more}{end}"))?;
            self.connections.insert((actor, number), At::Rest);
            return Ok(());
        }
        if !self.in_wal_mode() {
            // There a transaction that lasts keeps everybody out, engines too.
            return Ok(());
        }
        let Some((actor, number)) = self.some_connection()? else { return Ok(()) };
        let (text, at) = match self.rng.percent(50) {
            true => ("BEGIN; SELECT count(*) FROM sqlite_schema".to_owned(), At::Reading),
            false => (format!("BEGIN IMMEDIATE; {}", sql::changes(&mut self.rng, 30)), At::Writing),
        };
        if self.sql(actor, number, &text)? {
            self.connections.insert((actor, number), at);
        }
        Ok(())
    }

    /// Somebody closes a connection, or all are closed: the last one copies the WAL back and removes it.
    fn leave(&mut self) -> Outcome {
        let open: Vec<_> = self.connections.keys().copied().collect();
        if open.is_empty() {
            return Ok(());
        }
        if self.rng.percent(30) {
            return self.leave_all();
        }
        let (actor, number) = open[self.rng.below(open.len() as u64) as usize];
        self.close(actor, number)
    }

    fn leave_all(&mut self) -> Outcome {
        for (actor, number) in self.connections.keys().copied().collect::<Vec<_>>() {
            self.close(actor, number)?;
        }
        Ok(())
    }

    /// Everybody ends what transaction is open.
    fn rest(&mut self) -> Outcome {
        let open: Vec<_> = self.connections.iter().filter(|(_, at)| **at != At::Rest).map(|(c, _)| *c).collect();
        for (actor, number) in open {
            self.sql(actor, number, "COMMIT")?;
            self.connections.insert((actor, number), At::Rest);
        }
        Ok(())
    }

    fn start(&mut self, actor: usize) -> Outcome {
        if self.engines.contains(&actor) {
            return Ok(());
        }
        let mut options = vec![
            ("url".to_owned(), format!("file://{}", self.folder.path().join("replica").display())),
            ("sync_interval".to_owned(), self.rng.pick(&["10ms", "10ms", "50ms"]).to_owned()),
            ("checkpoint_pages".to_owned(), self.rng.pick(&["64", "64", "300", "1000"]).to_owned()),
            ("page_encoding".to_owned(), self.rng.pick(&["frame", "block"]).to_owned()),
        ];
        if let Some(keys) = &self.keys {
            options.push(("age_recipient".to_owned(), keys.recipient.to_string()));
        }
        self.ask(actor, &Ask::Start(options))?;
        self.engines.insert(actor);
        self.tally.engines += 1;
        // It switches to WAL mode, which is a commit that is to be looked at before the next one.
        if self.seamless && !self.in_wal_mode() { self.sync() } else { Ok(()) }
    }

    fn stop(&mut self, actor: usize) -> Outcome {
        if self.engines.remove(&actor) {
            self.ask(actor, &Ask::Stop)?;
        }
        Ok(())
    }

    fn stop_one(&mut self) -> Outcome {
        match self.engines.iter().copied().nth(self.rng.below(2) as usize) {
            Some(actor) => self.stop(actor),
            None => Ok(()),
        }
    }

    fn stop_all(&mut self) -> Outcome {
        while let Some(actor) = self.engines.first().copied() {
            self.stop(actor)?;
        }
        Ok(())
    }

    /// A process is killed with its connections, and its engine if it has one; another takes its place.
    fn kill(&mut self) -> Outcome {
        let actor = self.any_actor();
        if self.actors[actor].is_here() {
            return Ok(());
        }
        self.tell(format!("{actor}: killed"));
        self.actors[actor].kill();
        self.actors[actor] = Actor::elsewhere(&self.database, self.child_test);
        self.connections.retain(|(a, _), _| *a != actor);
        self.engines.remove(&actor);
        self.tally.kills += 1;
        Ok(())
    }

    /// Nobody else has the database open, no engine runs.
    fn alone(&mut self) -> Outcome {
        self.leave_all()?;
        self.stop_all()?;
        self.tally.alone += 1;
        let actor = self.any_actor();
        match self.rng.below(8) {
            // What waits for the store is in the database too.
            0 => {
                self.tell("the local state is removed".to_owned());
                std::fs::remove_dir_all(self.folder.path().join(".app.db-replicate")).or_else(missing)?;
            }
            1 => self.replace()?,
            2 if !self.arrived.is_empty() => {
                // It all has arrived; the next start brings it back.
                self.start(actor)?;
                self.sync()?;
                self.stop_all()?;
                self.tell("the database is removed".to_owned());
                for suffix in ["", "-wal", "-shm"] {
                    std::fs::remove_file(self.folder.path().join(format!("app.db{suffix}"))).or_else(missing)?;
                }
                let known = self.images.len();
                self.start_with_keys(actor)?;
                self.look()?;
                if self.images.len() != known {
                    return Err("what the start has restored is not what was there".to_owned());
                }
            }
            _ => {
                self.connect(actor, 0)?;
                let text = sql::alone(&mut self.rng);
                self.sql(actor, 0, &text)?;
                self.close(actor, 0)?;
            }
        }
        self.look()
    }

    /// A start that may have to open what is sealed.
    fn start_with_keys(&mut self, actor: usize) -> Outcome {
        let mut options = vec![("url".to_owned(), format!("file://{}", self.folder.path().join("replica").display()))];
        if let Some(keys) = &self.keys {
            options.push(("age_recipient".to_owned(), keys.recipient.to_string()));
            options.push(("age_identity".to_owned(), keys.identity.as_str().to_owned()));
        }
        self.ask(actor, &Ask::Start(options))?;
        self.engines.insert(actor);
        self.tally.engines += 1;
        Ok(())
    }

    /// Another database is put in the place of this one.
    fn replace(&mut self) -> Outcome {
        let other = self.folder.path().join("other.db");
        let size = self.rng.pick(&sql::SIZES);
        let text = format!(
            "PRAGMA page_size = {size}; PRAGMA journal_mode = WAL; {} BEGIN; {}COMMIT",
            sql::tables(),
            sql::changes(&mut self.rng, 9)
        );
        self.tell(format!("replaced by {text}"));
        let made = Connection::open(&other).and_then(|connection| connection.execute_batch(&text));
        made.map_err(|e| format!("another database: {e}"))?;
        for suffix in ["-wal", "-shm"] {
            std::fs::remove_file(self.folder.path().join(format!("app.db{suffix}"))).or_else(missing)?;
        }
        std::fs::rename(&other, &self.database).map_err(|e| e.to_string())
    }

    /// All write at once, as fast as they can, while an engine may start, stop, or be asked.
    fn burst(&mut self) -> Outcome {
        let mut asked = Vec::new();
        for actor in 0..self.actors.len() {
            self.connect(actor, 0)?;
            if self.connections[&(actor, 0)] == At::Rest && !self.actors[actor].is_here() {
                let count = self.rng.between(1, 25);
                let text: Vec<_> = (0..count).map(|_| sql::transaction(&mut self.rng)).collect();
                let ask = Ask::Sql(0, text.join(";"));
                self.tell(format!("{actor} at the same time: {ask:?}"));
                self.actors[actor].ask(&ask);
                asked.push(actor);
            }
        }
        // This process is free meanwhile.
        match self.rng.below(4) {
            0 if !self.engines.contains(&0) => self.start(0)?,
            0 | 1 if self.engines.contains(&0) => self.stop(0)?,
            2 if self.engines.contains(&0) => drop(self.ask(0, &Ask::Sync)?),
            _ => self.on_this_process()?,
        }
        for actor in asked {
            self.take_answer(actor)?;
        }
        Ok(())
    }

    fn on_this_process(&mut self) -> Outcome {
        self.connect(0, 1)?;
        if self.connections[&(0, 1)] != At::Rest {
            return Ok(());
        }
        let text = if self.rng.percent(50) { sql::checkpoint(&mut self.rng) } else { sql::transaction(&mut self.rng) };
        self.sql(0, 1, &text).map(drop)
    }

    /// What the header says of reading it, when it was looked at last.
    fn in_wal_mode(&self) -> bool {
        self.images.last().is_none_or(|image| image[19] == 2)
    }

    /// Looks at every page as a reader sees it now. Nobody writes meanwhile.
    fn look(&mut self) -> Outcome {
        let image = image(&self.database).map_err(|e| format!("reading the database: {e}"))?;
        if self.images.last() != Some(&image) {
            self.images.push(image);
        }
        Ok(())
    }

    /// Everything arrives; then the replica is what a reader sees.
    fn sync(&mut self) -> Outcome {
        let engines: Vec<_> = self.engines.iter().copied().collect();
        if engines.is_empty() {
            return Ok(());
        }
        let actor = engines[self.rng.below(engines.len() as u64) as usize];
        let Answer::Arrived(id) = self.ask(actor, &Ask::Sync)? else { return Err("sync did not answer".to_owned()) };
        self.look()?;
        let newest = self.images.len() - 1;
        self.compare(Target::Latest, id, newest)?;
        self.tally.compared += 1;
        match self.arrived.insert(id, newest) {
            Some(before) if self.images[before] != self.images[newest] => Err(format!("id {id} was another state")),
            _ => Ok(()),
        }
    }

    /// Restores and compares every byte.
    fn compare(&mut self, target: Target, id: u64, expected: usize) -> Outcome {
        let (reached, restored) = self.restore(target)?;
        if reached != id {
            return Err(format!("{target:?} restores id {reached} where {id} was told to have arrived"));
        }
        self.tally.bytes += restored.len() as u64;
        differ(&self.images[expected], &restored).map_or(Ok(()), |what| Err(format!("id {id} restored: {what}")))
    }

    fn restore(&mut self, target: Target) -> Result<(u64, Vec<u8>), String> {
        self.tell(format!("restore {target:?}"));
        let output = self.folder.path().join("restored.db");
        let mut options =
            Options::new().with(ConfigKey::Url, format!("file://{}", self.folder.path().join("replica").display()));
        if let Some(keys) = &self.keys {
            options = options.with(ConfigKey::AgeIdentity, keys.identity.as_str());
        }
        let config = options.check().map_err(|e| e.to_string())?;
        let wish = RestoreOptions::new(&output).target(target).overwrite(true);
        let report = restore(&wish, &config, &Cancel::new(), &mut |_| ()).map_err(|e| format!("restore: {e:?}"))?;
        let bytes = std::fs::read(&output).map_err(|e| e.to_string())?;
        Ok((report.txid.0, bytes))
    }

    /// Some id that has arrived, the newest or an older one.
    fn restore_one(&mut self) -> Outcome {
        let Some(newest) = self.arrived.keys().next_back().copied() else { return Ok(()) };
        let id = self.rng.between(1, newest);
        self.restore_id(id)
    }

    fn restore_id(&mut self, id: u64) -> Outcome {
        let target = Target::Txid(Txid(id));
        self.tally.earlier += 1;
        if let Some(image) = self.arrived.get(&id).copied() {
            return self.compare(target, id, image);
        }
        let (reached, restored) = self.restore(target)?;
        if reached != id {
            return Err(format!("id {id} asked for, restored {reached}"));
        }
        // Its pages were checked by the restore; that it is a state that there was, only a seamless round knows.
        if self.seamless && !self.images.contains(&restored) {
            let close = self.images.iter().filter_map(|image| differ(image, &restored)).min();
            return Err(format!("id {id} restores to something that the database never was, close: {close:?}"));
        }
        Ok(())
    }

    /// At the end: states that had arrived, and some of those between them.
    fn restore_earlier(&mut self) -> Outcome {
        let ids: Vec<u64> = self.arrived.keys().copied().collect();
        let newest = ids.last().copied().unwrap_or_default();
        self.tally.ids += newest;
        for _ in 0..RESTORED {
            let id = match self.rng.percent(70) {
                true => ids[self.rng.below(ids.len() as u64) as usize],
                false => self.rng.between(1, newest),
            };
            self.restore_id(id)?;
        }
        Ok(())
    }
}

fn missing(error: std::io::Error) -> Outcome {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error.to_string()) }
}

/// Every page that a reader sees, byte for byte: `sqlite3_serialize` copies them from the pager, under one read
/// transaction. (The backup API would count itself as a change of the header. The file itself must not be opened
/// here: closing it would drop SQLite's locks in this process.)
fn image(database: &Path) -> rusqlite::Result<Vec<u8>> {
    let mut connection = Connection::open(database)?;
    connection.busy_timeout(PATIENCE)?;
    // Before it has read something a connection does not know the page size.
    connection.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")?;
    let image = connection.serialize("main")?.to_vec();
    connection.execute_batch("COMMIT")?;
    Ok(image)
}

/// Where they differ, if they do.
fn differ(expected: &[u8], found: &[u8]) -> Option<String> {
    if expected == found {
        return None;
    }
    if expected.len() != found.len() {
        return Some(format!("{} bytes instead of {}", found.len(), expected.len()));
    }
    let size = match u16::from_be_bytes([expected[16], expected[17]]) {
        1 => 65536,
        size => usize::from(size),
    };
    let mut pages = expected.chunks(size).zip(found.chunks(size)).zip(1..);
    let wrong: Vec<u32> = pages.by_ref().filter(|((a, b), _)| a != b).map(|(_, pgno)| pgno).collect();
    let at = expected.iter().zip(found).position(|(a, b)| a != b)?;
    Some(format!("{} pages differ, {:?}, the first byte at {at}", wrong.len(), &wrong[..wrong.len().min(10)]))
}

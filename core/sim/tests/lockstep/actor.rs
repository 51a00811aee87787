//! Who works on the database: this process, and processes that it starts, each with some connections and maybe
//! an engine. All do what they are asked, one thing at a time; a process can be killed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use replicate::{ConfigKey, Handle, Options};
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::{Batch, Connection, ErrorCode};
use serde::{Deserialize, Serialize};

/// A busy machine may take its time; only something that hangs takes longer.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a statement waits for a lock that another step may hold for good.
const LOCK: Duration = Duration::from_millis(200);
/// Names the database to a child.
const DATABASE: &str = "REPLICATE_LOCKSTEP_DATABASE";

/// What an actor is asked to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Open a connection under this number.
    Open(u8),
    /// Close it, whatever it is at.
    Close(u8),
    /// Run statements; after a failure the transaction is rolled back.
    Sql(u8, String),
    /// Start replicating with these options.
    Start(Vec<(String, String)>),
    /// Return when everything has arrived.
    Sync,
    /// Ship everything and end.
    Stop,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    Done,
    /// SQLite would not, for a reason that is part of life: a lock, a constraint.
    Refused(String),
    /// Something that must not happen.
    Broken(String),
    /// Everything up to this id has arrived.
    Arrived(u64),
}

/// Does what is asked, in whatever process it lives.
struct Player {
    path: PathBuf,
    connections: BTreeMap<u8, Connection>,
    handle: Option<Handle>,
}

fn broken(what: &str, error: impl std::fmt::Display) -> Answer {
    Answer::Broken(format!("{what}: {error}"))
}

impl Player {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), connections: BTreeMap::new(), handle: None }
    }

    fn play(&mut self, ask: &Ask) -> Answer {
        match ask {
            Ask::Open(number) => match open(&self.path) {
                Ok(connection) => {
                    self.connections.insert(*number, connection);
                    Answer::Done
                }
                Err(error) => broken("open", error),
            },
            Ask::Close(number) => {
                self.connections.remove(number);
                Answer::Done
            }
            Ask::Sql(number, text) => {
                let Some(connection) = self.connections.get(number) else { return broken("sql", "not open") };
                match run(connection, text) {
                    Ok(()) => Answer::Done,
                    Err(error) => {
                        if !connection.is_autocommit() {
                            let _ = connection.execute_batch("ROLLBACK");
                        }
                        judge(&error)
                    }
                }
            }
            Ask::Start(options) => {
                let options = options.iter().fold(Options::new(), |options, (key, value)| {
                    options.with(ConfigKey::from_name(key).expect("an option"), value.as_str())
                });
                match options.check().and_then(|config| Handle::start(&self.path, config)) {
                    Ok(handle) => {
                        self.handle = Some(handle);
                        Answer::Done
                    }
                    Err(error) => broken("start", error),
                }
            }
            Ask::Sync => match self.handle.as_ref().map(|handle| handle.sync(PATIENCE)) {
                // Not whether it is in sync: another process may be writing meanwhile.
                Some(Ok(status)) => Answer::Arrived(status.remote_txid.0),
                Some(Err(error)) => broken("sync", format!("{error:?}")),
                None => broken("sync", "no engine"),
            },
            Ask::Stop => match self.handle.take().map(|handle| handle.stop(PATIENCE)) {
                Some(Ok(report)) if report.error.is_none() => Answer::Done,
                Some(Ok(report)) => broken("stop", format!("{report:?}")),
                Some(Err(error)) => broken("stop", format!("{error:?}")),
                None => broken("stop", "no engine"),
            },
        }
    }
}

/// A connection as applications have them.
pub fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(LOCK)?;
    Ok(connection)
}

/// Runs statements, each to its last row: some do a page of their work a row.
fn run(connection: &Connection, text: &str) -> rusqlite::Result<()> {
    let mut batch = Batch::new(connection, text);
    while let Some(mut statement) = batch.next()? {
        let mut rows = statement.raw_query();
        while rows.next()?.is_some() {}
    }
    Ok(())
}

fn judge(error: &rusqlite::Error) -> Answer {
    let text = error.to_string();
    let wrong = ["syntax error", "no such function", "no such column", "malformed"].iter().any(|w| text.contains(w));
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::ConstraintViolation
            | ErrorCode::SchemaChanged
            | ErrorCode::Unknown,
        ) if !wrong => Answer::Refused(text),
        _ => Answer::Broken(text),
    }
}

/// An actor, here or in a process of its own.
pub enum Actor {
    Here(Box<Here>),
    Elsewhere(Elsewhere),
}

pub struct Here {
    player: Player,
    answer: Option<Answer>,
}

pub struct Elsewhere {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Actor {
    pub fn here(path: &Path) -> Self {
        Self::Here(Box::new(Here { player: Player::new(path), answer: None }))
    }

    /// Starts this program again, as a child that does nothing but run [`serve`] in the test of that name.
    pub fn elsewhere(path: &Path, test: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", test, "--nocapture"]).env(DATABASE, path);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
        let asks = child.stdin.take().expect("a pipe");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        Self::Elsewhere(Elsewhere { child, asks, answers })
    }

    pub fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }

    /// Asks without waiting for the answer; here it is done at once.
    pub fn ask(&mut self, ask: &Ask) {
        match self {
            Self::Here(here) => here.answer = Some(here.player.play(ask)),
            Self::Elsewhere(elsewhere) => {
                let line = serde_json::to_string(ask).expect("text");
                writeln!(elsewhere.asks, "{line}").and_then(|()| elsewhere.asks.flush()).expect("the child listens");
            }
        }
    }

    /// The answer to what was asked.
    pub fn answer(&mut self) -> Answer {
        match self {
            Self::Here(here) => here.answer.take().expect("it was asked"),
            Self::Elsewhere(elsewhere) => loop {
                let mut line = String::new();
                if elsewhere.answers.read_line(&mut line).expect("the child answers") == 0 {
                    return Answer::Broken(format!("the child is gone: {:?}", elsewhere.child.wait()));
                }
                // The test runner of the child says a few lines of its own.
                if let Some(answer) = line.find("@@").and_then(|at| serde_json::from_str(&line[at + 2..]).ok()) {
                    return answer;
                }
            },
        }
    }

    /// Kills the process (`SIGKILL`), with all that is open in it.
    pub fn kill(&mut self) {
        if let Self::Elsewhere(elsewhere) = self {
            elsewhere.child.kill().expect("killed");
            elsewhere.child.wait().expect("ended");
        }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        if let Some(handle) = self.player.handle.take() {
            let _ = handle.stop(Duration::ZERO);
        }
    }
}

/// What a child does, until its parent is gone. At once nothing in a process that is no child.
pub fn serve() {
    let Some(path) = std::env::var_os(DATABASE) else { return };
    let mut player = Player::new(Path::new(&path));
    for line in std::io::stdin().lines() {
        let Ok(line) = line else { break };
        let ask = serde_json::from_str(&line).expect("an ask");
        println!("@@{}", serde_json::to_string(&player.play(&ask)).expect("text"));
    }
}

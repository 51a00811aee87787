//! The application: a process of its own that writes as told and says what it felt.
//!
//! `writer load DB SECONDS AUTOCHECKPOINT RATE` writes, as fast as it can or at a rate, and prints its
//! figures. `writer commits DB` commits one row for each line it reads and prints when.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use replicate_sim::peers::Outcome;
use rusqlite::{Connection, params};

/// Bytes of a row's body; two rows fill a page.
const BODY: usize = 1900;

/// The wall clock, the same in every process of the machine.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn sql(error: rusqlite::Error) -> String {
    format!("sqlite: {error}")
}

fn open(path: &Path) -> Outcome<Connection> {
    let connection = Connection::open(path).map_err(sql)?;
    connection
        .execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=60000")
        .map_err(sql)?;
    Ok(connection)
}

/// Half of it cannot be compressed.
fn body(random: &mut u64, text: &mut [u8]) {
    for chunk in text[..BODY / 2].chunks_mut(8) {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bytes = (*random ^ (*random >> 29)).to_le_bytes();
        chunk.copy_from_slice(&bytes[..chunk.len()]);
    }
}

/// Makes a database of about this size.
pub(crate) fn make(path: &Path, bytes: u64) -> Outcome {
    let mut connection = open(path)?;
    connection.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)").map_err(sql)?;
    let (mut random, mut text) = (bytes, vec![0; BODY]);
    let transaction = connection.transaction().map_err(sql)?;
    {
        let mut insert = transaction.prepare("INSERT INTO t (body) VALUES (?)").map_err(sql)?;
        for _ in 0..bytes / 2048 {
            body(&mut random, &mut text);
            insert.execute([&text]).map_err(sql)?;
        }
    }
    transaction.commit().map_err(sql)?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(sql)?;
    connection.close().map_err(|(_, e)| sql(e))
}

/// What a writer felt.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Felt {
    /// Transactions a second.
    pub(crate) rate: f64,
    /// The longest transaction, in milliseconds.
    pub(crate) longest_ms: f64,
    /// Bytes of WAL it has written.
    pub(crate) wal_bytes: f64,
}

/// What a writer is told.
#[derive(Clone, Copy)]
pub(crate) struct Task {
    /// How long.
    pub(crate) time: Duration,
    /// Whether SQLite checkpoints by itself.
    pub(crate) autocheckpoint: bool,
    /// Transactions a second; 0 is as fast as it can.
    pub(crate) rate: u32,
}

/// Starts the writer and waits for what it felt.
pub(crate) fn write(database: &Path, task: Task) -> Outcome<Felt> {
    let seconds = task.time.as_secs_f64().to_string();
    let program = std::env::current_exe().map_err(|e| format!("this program: {e}"))?;
    let output = Command::new(program)
        .args(["writer", "load"])
        .arg(database)
        .args([&seconds, &u8::from(task.autocheckpoint).to_string(), &task.rate.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("start the writer: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [rate, longest_ms, wal_bytes] if output.status.success() => Ok(Felt { rate, longest_ms, wal_bytes }),
        _ => Err(format!("the writer failed: {text}")),
    }
}

/// A writer that commits when it is told to.
pub(crate) struct Committer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Committer {
    pub(crate) fn start(database: &Path) -> Outcome<Self> {
        let program = std::env::current_exe().map_err(|e| format!("this program: {e}"))?;
        let mut child = Command::new(program)
            .args(["writer", "commits"])
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("start the writer: {e}"))?;
        let (input, output) = child.stdin.take().zip(child.stdout.take()).ok_or("the writer has no pipes")?;
        Ok(Self { child, input, output: BufReader::new(output) })
    }

    /// Commits a row; the time (as [`now`]) at which the commit was done.
    pub(crate) fn commit(&mut self) -> Outcome<Duration> {
        let mut line = String::new();
        self.input.write_all(b"\n").map_err(|e| format!("tell the writer: {e}"))?;
        self.output.read_line(&mut line).map_err(|e| format!("hear the writer: {e}"))?;
        line.trim().parse().map(Duration::from_nanos).map_err(|_| "the writer has failed".to_owned())
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        // It may have ended already; killing it then changes nothing.
        let _ended = self.child.kill();
        let _waited = self.child.wait();
    }
}

/// The writer's own main.
pub(crate) fn main(arguments: &[String]) -> Outcome {
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["load", database, seconds, autocheckpoint, rate] => {
            let seconds = seconds.parse().map_err(|_| "seconds")?;
            let rate = rate.parse().map_err(|_| "rate")?;
            let task = Task { time: Duration::from_secs_f64(seconds), autocheckpoint: autocheckpoint == "1", rate };
            let felt = load(Path::new(database), task)?;
            println!("{} {} {}", felt.rate, felt.longest_ms, felt.wal_bytes);
            Ok(())
        }
        ["commits", database] => commits(Path::new(database)),
        _ => Err("writer load|commits".to_owned()),
    }
}

/// Each transaction rewrites two rows, so two pages.
fn load(database: &Path, task: Task) -> Outcome<Felt> {
    let mut connection = open(database)?;
    let pages = if task.autocheckpoint { 1000 } else { 0 };
    connection.execute_batch(&format!("PRAGMA wal_autocheckpoint={pages}")).map_err(sql)?;
    let rows: i64 = connection.query_row("SELECT max(id) FROM t", [], |row| row.get(0)).map_err(sql)?;
    let rows = u64::try_from(rows).unwrap_or(1);
    let (mut random, mut text) = (7, vec![0; BODY]);
    let (start, mut count, mut longest) = (Instant::now(), 0_u32, Duration::ZERO);
    while start.elapsed() < task.time {
        if task.rate > 0 {
            let due = start + Duration::from_secs(1) * count / task.rate;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        body(&mut random, &mut text);
        let first = random % rows + 1;
        let begun = Instant::now();
        let transaction = connection.transaction().map_err(sql)?;
        for id in [first, (first + rows / 2) % rows + 1] {
            let mut update = transaction.prepare_cached("UPDATE t SET body = ? WHERE id = ?").map_err(sql)?;
            update.execute(params![text, i64::try_from(id).unwrap_or(1)]).map_err(sql)?;
        }
        transaction.commit().map_err(sql)?;
        longest = longest.max(begun.elapsed());
        count += 1;
    }
    let elapsed = start.elapsed().as_secs_f64();
    // Two frames of a header and a page.
    let wal_bytes = f64::from(count) * 2.0 * (24.0 + 4096.0);
    Ok(Felt { rate: f64::from(count) / elapsed, longest_ms: longest.as_secs_f64() * 1e3, wal_bytes })
}

fn commits(database: &Path) -> Outcome {
    let connection = open(database)?;
    let (mut random, mut text) = (11, vec![0; BODY]);
    for line in std::io::stdin().lines() {
        line.map_err(|e| format!("read: {e}"))?;
        body(&mut random, &mut text);
        connection.execute("INSERT INTO t (body) VALUES (?)", [&text]).map_err(sql)?;
        println!("{}", now().as_nanos());
    }
    Ok(())
}

//! What the machine lets a writer at full speed keep when nothing is replicated, but one thing that a replicator
//! cannot do without goes on beside it. These are the floors to read the rows of [`crate::load`] with.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use replicate_sim::peers::{Outcome, Process};
use rusqlite::Connection;

use crate::load::{MIB, watched};
use crate::table::{number, quantile};
use crate::writer::{Felt, Task, make, write};
use crate::{Bench, Case, tell, tidy};

/// What goes on beside the writer.
#[derive(Clone, Copy, Debug)]
enum Beside {
    Nothing,
    /// A loop that touches no memory and no disk.
    Busy,
    /// Half of the bytes of the WAL (what LZ4 leaves of these pages) are written and synced, and once more.
    Twice,
    /// Another process copies the WAL back and has it begin anew.
    Checkpoints,
}

/// Bytes that [`Beside::Twice`] writes in a second to each of two files: half of a WAL of some 65 MB a second.
const WRITTEN: usize = 34 << 20;
/// Frames (16 MiB) at which [`Beside::Checkpoints`] has the WAL begin anew.
const LONG: i64 = 4096;

const CONTROLS: [(&str, bool, Beside); 5] = [
    ("alone", true, Beside::Nothing),
    ("beside one busy processor", true, Beside::Busy),
    ("beside half of its WAL written and synced twice", true, Beside::Twice),
    ("alone, application never checkpoints", false, Beside::Nothing),
    ("the same, another process keeps the WAL short", false, Beside::Checkpoints),
];

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("control", |bench, table| {
        let mut samples = [const { Vec::new() }; CONTROLS.len()];
        for round in 0..bench.sizes.rounds.max(3) {
            for ((name, autocheckpoint, beside), samples) in CONTROLS.iter().zip(&mut samples) {
                tell(&format!("control, round {}: {name}", round + 1));
                samples.push(one(bench, *autocheckpoint, *beside)?);
            }
        }
        table.add_other(shown(&samples));
        Ok(())
    })]
}

/// What one round showed.
struct Sample {
    felt: Felt,
    wal_bytes: u64,
    /// CPU of what went on beside it.
    cpu: Duration,
}

fn one(bench: &Bench<'_>, autocheckpoint: bool, beside: Beside) -> Outcome<Sample> {
    let folder = bench.scratch.join("control");
    std::fs::create_dir_all(&folder).map_err(|e| format!("create {}: {e}", folder.display()))?;
    let database = folder.join("app.db");
    make(&database, bench.sizes.load_bytes)?;
    let mut other = start(beside, &folder)?;
    let task = Task { time: bench.sizes.writing, autocheckpoint, rate: 0 };
    let (felt, wal_bytes) = watched(&folder.join("app.db-wal"), || write(&database, task))?;
    let cpu = match &mut other {
        Some(other) => other.still_runs().and_then(|()| other.usage())?.cpu,
        None => Duration::ZERO,
    };
    drop(other);
    tidy(&folder);
    Ok(Sample { felt: felt?, wal_bytes, cpu })
}

fn shown(samples: &[Vec<Sample>]) -> String {
    let mut text =
        "| writer at full speed, nothing replicated | tx/s | of alone | longest transaction, ms | longest WAL, MiB | \
                    CPU of what is beside, ms a MB of WAL |\n|---|---|---|---|---|---|\n"
            .to_owned();
    let mut alone = 0.0;
    for ((name, _, beside), samples) in CONTROLS.iter().zip(samples) {
        let median =
            |of: fn(&Sample) -> f64| quantile(&samples.iter().map(of).collect::<Vec<_>>(), 0.5).unwrap_or_default();
        let rate = median(|sample| sample.felt.rate);
        if matches!(beside, Beside::Nothing) {
            alone = rate;
        }
        let cells = [
            rate,
            rate / alone,
            median(|sample| sample.felt.longest_ms),
            median(|sample| sample.wal_bytes as f64 / MIB),
            median(|sample| sample.cpu.as_secs_f64() * 1e3 / (sample.felt.wal_bytes / 1e6)),
        ];
        text.push_str(&format!("| {name} | {} |\n", cells.map(number).join(" | ")));
    }
    text
}

fn start(beside: Beside, folder: &Path) -> Outcome<Option<Process>> {
    let word = match beside {
        Beside::Nothing => return Ok(None),
        Beside::Busy => "busy",
        Beside::Twice => "twice",
        Beside::Checkpoints => "checkpoints",
    };
    let program = std::env::current_exe().map_err(|e| format!("this program: {e}"))?;
    let mut command = Command::new(program);
    command.args(["control", word]).arg(folder);
    Process::start(word, &mut command, &folder.join("beside.log")).map(Some)
}

/// The other's own main; it goes on until it is killed.
pub(crate) fn main(arguments: &[String]) -> Outcome {
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["busy", _] => loop {
            std::hint::spin_loop();
        },
        ["twice", folder] => twice(Path::new(folder)).map_err(|e| format!("write in {folder}: {e}")),
        ["checkpoints", folder] => checkpoints(Path::new(folder)).map_err(|e| format!("sqlite: {e}")),
        _ => Err("control busy|twice|checkpoints FOLDER".to_owned()),
    }
}

fn twice(folder: &Path) -> std::io::Result<()> {
    let block: Vec<u8> = (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    loop {
        let begun = Instant::now();
        for name in ["once", "twice"] {
            let mut file = File::create(folder.join(name))?;
            for _ in 0..WRITTEN >> 20 {
                file.write_all(&block)?;
            }
            file.sync_data()?;
        }
        std::thread::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed()));
    }
}

fn checkpoints(folder: &Path) -> rusqlite::Result<()> {
    let connection = Connection::open(folder.join("app.db"))?;
    connection.busy_timeout(Duration::from_secs(60))?;
    let checkpoint = |mode| {
        let frames = |row: &rusqlite::Row<'_>| row.get::<_, i64>(1);
        connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], frames)
    };
    loop {
        // What was copied without the writer's lock need not be copied with it.
        if checkpoint("PASSIVE")? > LONG {
            checkpoint("RESTART")?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

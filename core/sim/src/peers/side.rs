//! The two programs that are compared, behind one way to start them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use super::{Outcome, Place, Process, Usage};

const RESTORE_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// The programs, as the caller's environment names them.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Our command.
    pub ours: PathBuf,
    /// The oldest Litestream 0.5.
    pub litestream_old: Option<PathBuf>,
    /// The newest Litestream 0.5.
    pub litestream_new: PathBuf,
    /// The S3 server.
    pub versitygw: PathBuf,
    /// The Go program `age`, with `age-keygen` beside it.
    pub age: Option<PathBuf>,
}

impl Tools {
    /// Reads `REPLICATE_BIN` (the folder of our command; default: that of this program),
    /// `REPLICATE_LITESTREAM_OLD`, `REPLICATE_LITESTREAM_NEW`, `REPLICATE_VERSITYGW` and `REPLICATE_AGE`.
    pub fn from_env() -> Outcome<Self> {
        let find = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let need = |name: &str| find(name).ok_or_else(|| format!("{name} is not set; run this by cargo xtask"));
        let here = || std::env::current_exe().ok().and_then(|p| p.parent().map(Path::to_owned));
        let folder = find("REPLICATE_BIN").or_else(here).ok_or("REPLICATE_BIN is not set")?;
        let ours = folder.join("replicate");
        if !ours.exists() {
            return Err(format!("there is no {}; build the command first", ours.display()));
        }
        Ok(Self {
            ours,
            litestream_old: find("REPLICATE_LITESTREAM_OLD"),
            litestream_new: need("REPLICATE_LITESTREAM_NEW")?,
            versitygw: need("REPLICATE_VERSITYGW")?,
            age: find("REPLICATE_AGE"),
        })
    }
}

/// How eagerly a program replicates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pace {
    /// As it comes.
    Default,
    /// With the shortest intervals it allows.
    Lowest,
    /// With short intervals, and merging levels every second or two, so that a short run meets merged files.
    Merging,
}

/// A program that replicates and restores.
#[derive(Clone, Debug)]
pub struct Side {
    /// Its name in reports.
    pub name: String,
    program: PathBuf,
    litestream: bool,
    environment: Vec<(String, String)>,
}

impl Side {
    /// Ours.
    #[must_use]
    pub fn ours(program: &Path) -> Self {
        let (name, program) = ("replicate".to_owned(), program.to_owned());
        Self { name, program, litestream: false, environment: Vec::new() }
    }

    /// Litestream, under the name that it gives itself and what it is to us.
    pub fn litestream(role: &str, program: &Path) -> Outcome<Self> {
        let output = command(program).arg("version").output().map_err(|e| format!("{}: {e}", program.display()))?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let shown = if version.starts_with('v') { version } else { role.to_owned() };
        let (name, program) = (format!("litestream {shown}"), program.to_owned());
        Ok(Self { name, program, litestream: true, environment: Vec::new() })
    }

    /// The same with this variable in its environment.
    #[must_use]
    pub fn with(mut self, variable: &str, value: &str) -> Self {
        self.environment.push((variable.to_owned(), value.to_owned()));
        self
    }

    /// Whether it is Litestream.
    #[must_use]
    pub fn is_litestream(&self) -> bool {
        self.litestream
    }

    /// Starts replicating; `scratch` takes its log and configuration.
    pub fn replicate(&self, database: &Path, place: &Place, pace: Pace, scratch: &Path) -> Outcome<Running> {
        fs::create_dir_all(scratch).map_err(|e| format!("create {}: {e}", scratch.display()))?;
        let mut command = self.command();
        command.arg("replicate");
        if self.litestream {
            command.arg("-config").arg(configure(database, place, pace, scratch)?);
        } else {
            command.args(["--json", "--verbose"]).arg(database).arg(place.url()).envs(place.environment());
            if pace != Pace::Default {
                command.args(["--sync-interval", "10ms"]);
            }
        }
        let log = scratch.join(format!("{}.log", self.name.replace(' ', "-")));
        Ok(Running { process: Process::start(&self.name, &mut command, &log)? })
    }

    /// Starts replicating many databases in one process. Only for Litestream: our command has one.
    pub fn replicate_all(&self, databases: &[(PathBuf, Place)], scratch: &Path) -> Outcome<Running> {
        let mut command = self.command();
        command.arg("replicate").arg("-config").arg(configure_all(databases, Pace::Default, scratch)?);
        let log = scratch.join(format!("{}.log", self.name.replace(' ', "-")));
        Ok(Running { process: Process::start(&self.name, &mut command, &log)? })
    }

    /// Restores to a file that must not exist; how long it took and what it used.
    pub fn restore(&self, place: &Place, output: &Path, scratch: &Path) -> Outcome<(Duration, Usage)> {
        self.restore_with(place, output, scratch, &[])
    }

    /// The same with further arguments.
    pub fn restore_with(
        &self,
        place: &Place,
        output: &Path,
        scratch: &Path,
        arguments: &[&str],
    ) -> Outcome<(Duration, Usage)> {
        fs::create_dir_all(scratch).map_err(|e| format!("create {}: {e}", scratch.display()))?;
        let mut command = self.command();
        command.arg("restore").args(arguments).arg("-o").arg(output);
        if self.litestream {
            // Only named in the configuration: it is not touched.
            let database = scratch.join("not-there.db");
            command.arg("-config").arg(configure(&database, place, Pace::Default, scratch)?).arg(&database);
        } else {
            command.arg(place.url()).envs(place.environment());
        }
        let start = Instant::now();
        let mut process = Process::start(&self.name, &mut command, &scratch.join("restore.log"))?;
        let (status, usage) = process.wait_used(RESTORE_LIMIT)?;
        let elapsed = start.elapsed();
        if !status.success() {
            return Err(process.failure(&format!("restore failed ({status})")));
        }
        Ok((elapsed, usage))
    }

    fn command(&self) -> Command {
        let mut command = command(&self.program);
        command.envs(self.environment.iter().map(|(variable, value)| (variable, value)));
        command
    }
}

/// The program without anything of the caller's environment that means something to it. A certificate bundle
/// makes Litestream refuse every S3 store, and there is no TLS here.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["REPLICATE_", "AWS_", "LITESTREAM_"].iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}

fn configure(database: &Path, place: &Place, pace: Pace, scratch: &Path) -> Outcome<PathBuf> {
    configure_all(&[(database.to_owned(), place.clone())], pace, scratch)
}

fn configure_all(databases: &[(PathBuf, Place)], pace: Pace, scratch: &Path) -> Outcome<PathBuf> {
    let mut text = String::new();
    if pace == Pace::Merging {
        text.push_str("levels:\n  - interval: 1s\n  - interval: 2s\n");
    }
    text.push_str("dbs:\n");
    databases.iter().for_each(|(database, place)| describe(database, place, pace, &mut text));
    let path = scratch.join("litestream.yml");
    fs::write(&path, text).map_err(|e| format!("write {}: {e}", path.display()))?;
    Ok(path)
}

fn describe(database: &Path, place: &Place, pace: Pace, text: &mut String) {
    text.push_str(&format!("  - path: {}\n", database.display()));
    let interval = match pace {
        Pace::Default => None,
        Pace::Lowest => Some("1ms"),
        // Once its WAL is long the old one makes a transaction of its own at every interval, without end: between two of
        // them a reader must see quiet.
        Pace::Merging => Some("700ms"),
    };
    text.extend(interval.map(|time| format!("    monitor-interval: {time}\n")));
    text.push_str("    replica:\n");
    text.extend(interval.map(|time| format!("      sync-interval: {time}\n")));
    for line in place.yaml() {
        text.push_str(&format!("      {line}\n"));
    }
}

/// A program that replicates.
#[derive(Debug)]
pub struct Running {
    process: Process,
}

impl Running {
    /// An error if it has ended already.
    pub fn still_runs(&mut self) -> Outcome {
        self.process.still_runs()
    }

    /// CPU time and peak memory so far.
    pub fn usage(&self) -> Outcome<Usage> {
        self.process.usage()
    }

    /// What it has written so far.
    #[must_use]
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Ends it in order.
    pub fn stop(self) -> Outcome<ExitStatus> {
        self.process.stop(STOP_LIMIT)
    }
}

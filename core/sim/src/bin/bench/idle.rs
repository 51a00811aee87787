//! What databases cost that nobody writes to, many in one process.
//!
//! Litestream has them in its configuration. Ours are handles of the library in a process of their own (`host`), as a
//! program has them that uses the library.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use replicate::{ConfigKey, Handle, Options};
use replicate_sim::peers::{Outcome, Place, Process, Usage, wait_until};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::goal::Goal;
use crate::load::{MEMORY_MIB, MIB};
use crate::proxy::Proxy;
use crate::table::{OURS, Row, THEIRS, Table};
use crate::writer::make;
use crate::{Bench, Case, Store, tell, tidy};

const ARRIVAL: Duration = Duration::from_secs(240);
/// Until everything that follows a start is done, and our poll has slowed down.
const REST: Duration = Duration::from_secs(25);
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn cases() -> Vec<Case> {
    let case = |at: usize| {
        Case::new(format!("idle {}", ["one", "hundred", "thousand"][at]), move |b: &Bench<'_>, t: &mut Table| {
            let (count, time) = b.sizes.idle[at];
            measure(b, count, time, t)
        })
    };
    [0, 1, 2].map(case).into()
}

fn measure(bench: &Bench<'_>, count: usize, time: Duration, table: &mut Table) -> Outcome {
    let row = |what: &str, unit| Row::new(&format!("idle, {count} databases: {what}"), "S3", unit);
    let cpu = row("CPU", "%");
    let memory = row("memory", "MiB");
    let mut rows = [
        if count == 1 { cpu.goal(Goal::AtMost(0.05)) } else { cpu },
        if count == 1 { memory.goal(Goal::AtMost(MEMORY_MIB)) } else { memory },
        row("descriptors", ""),
        row("threads", ""),
        row("requests a minute", "").goal(Goal::AtMost(0.0)),
    ];
    for column in [OURS, THEIRS] {
        tell(&format!("idle, {count} databases: {}", bench.contenders[column].side.name));
        let folder = bench.scratch.join(format!("idle-{count}-{column}"));
        let proxy = Proxy::start(bench.gateway.address(), Duration::ZERO)?;
        let databases = databases(bench, &folder, count, &proxy)?;
        let (before, after, requests) = if column == OURS {
            let mut host = start_host(&folder, &databases)?;
            let seen = idle(&databases, &proxy, time, || {
                host.still_runs()?;
                host.usage()
            })?;
            host.stop(PATIENCE)?;
            seen
        } else {
            let mut running = bench.contenders[column].side.replicate_all(&databases, &folder)?;
            let seen = idle(&databases, &proxy, time, || {
                running.still_runs()?;
                running.usage()
            })?;
            running.stop()?;
            seen
        };
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64() / time.as_secs_f64() * 100.0;
        let (mib, minutes) = (after.bytes as f64 / MIB, time.as_secs_f64() / 60.0);
        let figures = [cpu, mib, after.descriptors as f64, after.threads as f64, requests as f64 / minutes];
        rows.iter_mut().zip(figures).for_each(|(row, figure)| row.add(column, figure));
        tidy(&folder);
        databases.iter().for_each(|(_, place)| tidy(place.folder()));
    }
    rows.into_iter().for_each(|row| table.add(row));
    Ok(())
}

/// So many small databases, each with a place that is reached through the proxy.
fn databases(bench: &Bench<'_>, folder: &Path, count: usize, proxy: &Proxy) -> Outcome<Vec<(PathBuf, Place)>> {
    let template = folder.join("template.db");
    std::fs::create_dir_all(folder).map_err(|e| format!("create {}: {e}", folder.display()))?;
    make(&template, 64 << 10)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let one = |number: usize| {
        let home = folder.join(format!("{number}"));
        let database = home.join("app.db");
        let copy = std::fs::create_dir(&home).and_then(|()| std::fs::copy(&template, &database));
        copy.map_err(|e| format!("make {}: {e}", database.display()))?;
        Ok((database, bench.place(Store::S3, &format!("{name}-{number}")).through(proxy.endpoint())))
    };
    (0..count).map(one).collect()
}

/// Waits until all have arrived and it is quiet; then what was used before and after the time, and requests in it.
fn idle(
    databases: &[(PathBuf, Place)],
    proxy: &Proxy,
    time: Duration,
    mut usage: impl FnMut() -> Outcome<Usage>,
) -> Outcome<(Usage, Usage, u64)> {
    let mut missing = databases.iter().map(|(_, place)| place).peekable();
    wait_until("every first image arrives", ARRIVAL, || {
        while let Some(place) = missing.peek() {
            if place.last()? == 0 {
                return Ok(None);
            }
            missing.next();
        }
        Ok(Some(()))
    })?;
    std::thread::sleep(REST);
    let (before, requests) = (usage()?, proxy.requests());
    std::thread::sleep(time);
    Ok((before, usage()?, proxy.requests() - requests))
}

/// Starts the process that has all of them.
fn start_host(folder: &Path, databases: &[(PathBuf, Place)]) -> Outcome<Process> {
    let program = std::env::current_exe().map_err(|e| format!("this program: {e}"))?;
    let mut command = Command::new(program);
    command.arg("host");
    for (database, place) in databases {
        command.arg(database).arg(place.url()).envs(place.environment());
    }
    Process::start("host", &mut command, &folder.join("host.log"))
}

/// The host's own main: starts every database it is told, and then does nothing until it is ended.
pub(crate) fn host(arguments: &[String]) -> Outcome {
    // Two descriptors and more for each; a host with so many databases has to allow for them.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).map_err(|e| format!("descriptors: {e}"))?;
    let mut handles = Vec::new();
    for pair in arguments.chunks_exact(2) {
        let mut options = Options::new().with(ConfigKey::Url, pair[1].as_str());
        for key in [ConfigKey::AccessKey, ConfigKey::SecretKey] {
            if let Ok(value) = std::env::var(key.env()) {
                options.set_key(key, value);
            }
        }
        let config = options.check().map_err(|e| e.to_string())?;
        handles.push(Handle::start(Path::new(&pair[0]), config).map_err(|e| e.to_string())?);
    }
    for handle in &handles {
        handle.sync(ARRIVAL).map_err(|e| e.to_string())?;
    }
    loop {
        std::thread::park();
    }
}

//! One started program: its end, its use of the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::Outcome;

/// Clock ticks a second in `/proc`; fixed on Linux for every program that asks.
const TICKS: f64 = 100.0;

/// A program that runs until its owner ends it. Both its streams go to one log.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time of all its threads.
    pub cpu: Duration,
    /// The most memory it ever held.
    pub peak_bytes: u64,
    /// Memory that it holds now.
    pub bytes: u64,
    /// Threads now.
    pub threads: u64,
    /// Descriptors open now.
    pub descriptors: u64,
    /// Bytes it has read, from wherever.
    pub read_bytes: u64,
}

impl Process {
    /// Starts it.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Outcome<Self> {
        let file = fs::File::create(log).map_err(|e| format!("create {}: {e}", log.display()))?;
        let errors = file.try_clone().map_err(|e| format!("share {}: {e}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .map_err(|e| format!("start {name} ({}): {e}", command.get_program().to_string_lossy()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Everything it has written.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// An error if it has ended already.
    pub fn still_runs(&mut self) -> Outcome {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failure(&format!("ended too early ({status})"))),
            Err(e) => Err(self.failure(&format!("cannot be waited for: {e}"))),
        }
    }

    /// Its end, by itself, within the time.
    pub fn wait(&mut self, limit: Duration) -> Outcome<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
                Ok(None) => return Err(self.failure(&format!("did not end within {limit:?}"))),
                Err(e) => return Err(self.failure(&format!("cannot be waited for: {e}"))),
            }
        }
    }

    /// Its end, by itself, within the time, and what it has used: the CPU time is exact, the peak as it was seen within
    /// a few milliseconds of the end.
    pub fn wait_used(&mut self, limit: Duration) -> Outcome<(ExitStatus, Usage)> {
        let deadline = Instant::now() + limit;
        let mut usage = Usage::default();
        loop {
            usage = self.usage().unwrap_or(usage);
            // The kernel tells of the times of a process that has ended until somebody has waited for it.
            let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
            let ended = waitid(WaitId::Pid(self.pid()), ended).map_err(|e| self.failure(&format!("is lost: {e}")))?;
            if ended.is_some() {
                let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
                usage.cpu = parse_cpu(&stat).unwrap_or(usage.cpu);
                return Ok((self.wait(Duration::from_secs(1))?, usage));
            }
            if Instant::now() > deadline {
                return Err(self.failure(&format!("did not end within {limit:?}")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends SIGTERM and waits for an orderly end.
    pub fn stop(mut self, limit: Duration) -> Outcome<ExitStatus> {
        self.still_runs()?;
        let pid = self.pid();
        kill_process(pid, Signal::TERM).map_err(|e| self.failure(&format!("cannot be stopped: {e}")))?;
        self.wait(limit)
    }

    /// What it has used so far.
    pub fn usage(&self) -> Outcome<Usage> {
        let folder = format!("/proc/{}", self.child.id());
        let read = |file: &str| {
            let path = format!("{folder}/{file}");
            fs::read_to_string(&path).map_err(|e| self.failure(&format!("{path}: {e}")))
        };
        let usage = parse_usage(&read("stat")?, &read("status")?, &read("io")?);
        let mut usage = usage.ok_or_else(|| self.failure("/proc is unreadable"))?;
        usage.descriptors = fs::read_dir(format!("{folder}/fd")).map_or(0, |entries| entries.count() as u64);
        Ok(usage)
    }

    /// An error of this process with the end of its log.
    #[must_use]
    pub fn failure(&self, what: &str) -> String {
        let output = self.output();
        let lines: Vec<_> = output.lines().collect();
        let tail = lines[lines.len().saturating_sub(5)..].join("\n    ");
        format!("{} {what}; its last lines:\n    {tail}", self.name)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, which is what is wanted.
        let _ended = self.child.kill();
        let _waited = self.child.wait();
    }
}

fn parse_cpu(stat: &str) -> Option<Duration> {
    // The second field is the name in parentheses and may hold spaces; user and system time are 14 and 15.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_secs_f64(ticks as f64 / TICKS))
}

fn parse_usage(stat: &str, status: &str, io: &str) -> Option<Usage> {
    let number = |text: &str, name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some(Usage {
        cpu: parse_cpu(stat)?,
        peak_bytes: number(status, "VmHWM:")? * 1024,
        bytes: number(status, "VmRSS:")? * 1024,
        threads: number(status, "Threads:")?,
        descriptors: 0,
        read_bytes: number(io, "rchar:")?,
    })
}

/// Asks until the answer is there or the time has passed.
pub fn wait_until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Outcome<Option<T>>) -> Outcome<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            return Err(format!("{what}: not within {limit:?}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_whatever_the_name_of_the_program() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 25 75 0 0 20 0 1 0 100 1 1";
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t7\n";
        let usage = parse_usage(stat, status, "rchar: 5\nwchar: 6\n").expect("parsed");
        assert_eq!((usage.cpu, usage.peak_bytes, usage.bytes), (Duration::from_secs(1), 2 << 20, 1 << 20));
        assert_eq!((usage.threads, usage.read_bytes), (7, 5));
    }

    #[test]
    fn what_a_process_has_used_is_known_after_its_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut work = Command::new("sh");
        work.args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]);
        let mut process = Process::start("worker", &mut work, &folder.path().join("log")).expect("starts");
        let (status, usage) = process.wait_used(Duration::from_secs(60)).expect("ends");
        assert!(status.success() && !usage.cpu.is_zero() && usage.peak_bytes > 0, "{usage:?}");
    }

    #[test]
    fn a_process_that_does_not_end_is_killed_and_reported() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut process =
            Process::start("sleeper", Command::new("sleep").arg("60"), &folder.path().join("log")).expect("starts");
        assert!(process.wait(Duration::from_millis(20)).expect_err("runs").contains("sleeper did not end"));
        let status = process.stop(Duration::from_secs(10)).expect("stops");
        assert!(!status.success());
    }
}

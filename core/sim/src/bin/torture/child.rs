//! The parent's end of a child process: its script, its answers, its end.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use replicate_sim::peers::Outcome;
use serde_json::Value;

use crate::actor::Script;

/// How long a child may take for an answer that needs nobody else.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// How long a child may take until everything has arrived at the store.
pub(crate) const LATE: Duration = Duration::from_secs(150);

/// The deliberate defect that every engine has, for proof that the program would find it.
pub(crate) static MUTANT: OnceLock<String> = OnceLock::new();

/// How a child stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Life {
    Runs,
    /// By SIGKILL.
    Killed,
    /// In order.
    Ended,
}

/// A running child. It is killed when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    process: Process,
    input: ChildStdin,
    answers: Receiver<Value>,
    log: PathBuf,
}

impl Child {
    /// Starts this program again with a script. `preload` is a library to be loaded first, with its rules.
    pub(crate) fn start(script: &Script, log: &Path, preload: Option<(&Path, &Path)>) -> Outcome<Self> {
        let program = std::env::current_exe().map_err(|e| format!("this program: {e}"))?;
        let mut command = Command::new(program);
        command.arg("actor");
        if let Some((library, rules)) = preload {
            command.env("LD_PRELOAD", library).env("REPLICATE_FAULTS", rules);
        }
        let mut options = std::fs::OpenOptions::new();
        let file = options.append(true).create(true).open(log).map_err(|e| format!("create {}: {e}", log.display()))?;
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .map_err(|e| format!("start a child: {e}"))?;
        let (input, output) = process.stdin.take().zip(process.stdout.take()).ok_or("a child has no pipes")?;
        let (tell, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if tell.send(value).is_err() {
                    return;
                }
            }
        });
        let mut child = Self { process, input, answers, log: log.to_owned() };
        let script = Script { mutant: MUTANT.get().cloned(), ..script.clone() };
        let text = serde_json::to_string(&script).map_err(|e| format!("the script: {e}"))?;
        // One that dies at once is noticed by whoever waits for its answer.
        let _ = writeln!(child.input, "{text}");
        Ok(child)
    }

    /// Whether it has said that it began, or how it has ended before that.
    pub(crate) fn ready(&mut self) -> Outcome<Life> {
        match self.answer(SOON)? {
            Some(_) => Ok(Life::Runs),
            None => self.life(),
        }
    }

    /// Gives a command and waits for the answer; `None` if the child was killed meanwhile.
    pub(crate) fn try_ask(&mut self, command: &str, limit: Duration) -> Outcome<Option<Value>> {
        self.tell(command);
        self.answer(limit)
    }

    /// The same for a child that nobody kills.
    pub(crate) fn ask(&mut self, command: &str, limit: Duration) -> Outcome<Value> {
        self.try_ask(command, limit)?.ok_or_else(|| self.failure("was killed"))
    }

    /// Gives a command and waits for nothing.
    pub(crate) fn tell(&mut self, command: &str) {
        // One that is gone is noticed by whoever waits for its answer.
        let _ = writeln!(self.input, "{command}");
    }

    /// The next answer; `None` if the child was killed.
    pub(crate) fn answer(&mut self, limit: Duration) -> Outcome<Option<Value>> {
        match self.answers.recv_timeout(limit) {
            Ok(value) => Ok(Some(value)),
            Err(RecvTimeoutError::Timeout) => Err(self.failure(&format!("gave no answer within {limit:?}"))),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.process.wait().map_err(|e| format!("wait for a child: {e}"))?;
                self.judge(status).map(|_| None)
            }
        }
    }

    /// Whether it still runs.
    pub(crate) fn life(&mut self) -> Outcome<Life> {
        match self.process.try_wait().map_err(|e| format!("wait for a child: {e}"))? {
            None => Ok(Life::Runs),
            Some(status) => self.judge(status),
        }
    }

    /// How it stands as soon as it has ended, or after so long.
    pub(crate) fn life_within(&mut self, time: Duration) -> Outcome<Life> {
        let until = Instant::now() + time;
        loop {
            let life = self.life()?;
            if life != Life::Runs || Instant::now() >= until {
                return Ok(life);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills it. It may be gone already.
    pub(crate) fn kill(&mut self) -> Outcome {
        let _ = self.process.kill();
        self.process.wait().map_err(|e| format!("wait for a child: {e}")).map(drop)
    }

    /// Ends it in order; the last status.
    pub(crate) fn stop(mut self) -> Outcome<Value> {
        let status = self.ask("stop", LATE)?;
        if let Some(why) = status["failure"].as_str() {
            return Err(self.failure(why));
        }
        let ended = self.process.wait().map_err(|e| format!("wait for a child: {e}"))?;
        if ended.success() { Ok(status) } else { Err(self.failure(&format!("ended with {ended}"))) }
    }

    /// Everything that is committed has arrived at the store.
    pub(crate) fn sync(&mut self) -> Outcome<u64> {
        let answer = self.ask("sync", LATE)?;
        match answer["ok"].as_bool() {
            Some(true) => Ok(answer["txid"].as_u64().unwrap_or(0)),
            _ => Err(format!("sync failed: {answer}")),
        }
    }

    /// The status; an error if a writer or the loop of syncs has failed.
    pub(crate) fn status(&mut self) -> Outcome<Value> {
        let status = self.ask("status", SOON)?;
        match status["failure"].as_str() {
            Some(why) => Err(self.failure(why)),
            None => Ok(status),
        }
    }

    /// Polls the status until it fits.
    pub(crate) fn until(&mut self, what: &str, limit: Duration, fits: impl Fn(&Value) -> bool) -> Outcome<Value> {
        let until = Instant::now() + limit;
        loop {
            let status = self.status()?;
            if fits(&status) {
                return Ok(status);
            }
            if Instant::now() >= until {
                return Err(format!("{what}: not within {limit:?}: {status}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for so many more commits.
    pub(crate) fn goes_on(&mut self, commits: u64) -> Outcome<Value> {
        let before = self.status()?["commits"].as_u64().unwrap_or(0);
        self.until("the application commits", SOON, |status| status["commits"].as_u64() >= Some(before + commits))
    }

    fn judge(&self, status: ExitStatus) -> Outcome<Life> {
        match status.signal() {
            Some(9) => Ok(Life::Killed),
            None if status.success() => Ok(Life::Ended),
            _ => Err(self.failure(&format!("ended by itself ({status})"))),
        }
    }

    fn failure(&self, what: &str) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        format!(
            "{}: {what}; its last lines: {}",
            self.log.file_stem().unwrap_or_default().to_string_lossy(),
            lines[lines.len().saturating_sub(5)..].join(" | ")
        )
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended already, which is what is wanted.
        let _ = self.kill();
    }
}

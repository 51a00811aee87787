//! Running the command, bounded in time, with nothing of this process's environment in its options.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// What a run of the command left.
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The command with these arguments and an environment without options.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_replicate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("REPLICATE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

/// Runs it to its end.
pub fn replicate(arguments: &[&str]) -> Run {
    Run::of(&command(arguments).output().expect("the command starts"))
}

/// A running `replicate replicate --json`.
pub struct Replicating {
    child: Child,
    lines: Receiver<String>,
    diary: Vec<Value>,
}

impl Replicating {
    /// Returns when it has said that it started.
    pub fn start(database: &str, url: &str) -> Self {
        Self::start_as(database, url, |_| ())
    }

    /// The same, prepared by the caller.
    pub fn start_as(database: &str, url: &str, prepare: impl FnOnce(&mut Command)) -> Self {
        Self::with(&[database, url], prepare)
    }

    /// The same with these arguments.
    pub fn with(arguments: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = command(&[&["replicate", "--json"], arguments].concat());
        prepare(&mut command);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the command starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (to_test, lines) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| to_test.send(line)));
        let mut running = Self { child, lines, diary: Vec::new() };
        let line = running.next().expect("it starts");
        assert_eq!(line["event"], "started", "{line}");
        running
    }

    fn next(&mut self) -> Option<Value> {
        match self.lines.recv_timeout(LIMIT) {
            Ok(line) => {
                let line: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
                self.diary.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line within {LIMIT:?}: {:?}", self.diary),
        }
    }

    /// Sends SIGTERM and returns its exit code and everything it has said.
    pub fn stop(mut self) -> (i32, Vec<Value>) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs");
        assert!(sent.success());
        while self.next().is_some() {}
        let code = self.child.wait().expect("it ends").code().unwrap_or(-1);
        (code, std::mem::take(&mut self.diary))
    }
}

impl Drop for Replicating {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

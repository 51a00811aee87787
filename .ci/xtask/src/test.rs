//! `cargo xtask test`: every test of the repository, in parts.
//!
//! [`PARTS`] is the list of parts and the place each one tests. All parts whose place exists run; one that
//! fails does not keep the others from running. The summary counts what the test runners themselves report.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::fuzz;
use crate::readme;
use crate::sh;
use crate::tools;
use crate::wheel;

struct Part {
    name: &'static str,
    /// The part runs where this path exists in the tree.
    tests: &'static str,
    run: fn(filters: &[String], counts: &mut Counts) -> Outcome,
}

const PARTS: &[Part] = &[
    Part { name: "rust", tests: "Cargo.toml", run: rust },
    Part { name: "docs", tests: "Cargo.toml", run: doc_tests },
    Part { name: "locks", tests: "core/locklab/test_locks.py", run: |_, counts| locks_into(counts) },
    Part { name: "python", tests: "py/tests", run: |_, counts| python(counts) },
    Part { name: "readme", tests: "README.md", run: |_, counts| readme::run(counts) },
    Part { name: "fuzz", tests: "core/fuzz", run: |_, counts| fuzz::each(counts) },
];

/// Tests as their runners counted them.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

struct Row {
    name: &'static str,
    counts: Counts,
    time: Duration,
    outcome: Outcome,
}

/// The command.
pub(crate) fn run(words: &[String]) -> Outcome {
    if let Some(flag) = words.iter().find(|w| w.starts_with('-')) {
        return Err(format!("unknown flag {flag:?}; words select parts or Rust tests"));
    }
    let (selected, filters) = select(words);
    let absent = selected.iter().filter(|p| !sh::root().join(p.tests).exists());
    let absent: Vec<String> = absent.map(|p| format!("{} ({})", p.name, p.tests)).collect();
    let rows: Vec<Row> =
        selected.into_iter().filter(|p| sh::root().join(p.tests).exists()).map(|p| run_part(p, &filters)).collect();
    summary(&rows, &absent)
}

/// The parts to run and the names of Rust tests to run: without words everything; with words the parts that
/// are named, and the Rust tests if there are words that name no part.
fn select(words: &[String]) -> (Vec<&'static Part>, Vec<String>) {
    let (named, filters): (Vec<_>, Vec<_>) = words.iter().cloned().partition(|w| PARTS.iter().any(|p| p.name == w));
    let wanted =
        |p: &&Part| words.is_empty() || named.iter().any(|n| n == p.name) || (p.name == "rust" && !filters.is_empty());
    (PARTS.iter().filter(wanted).collect(), filters)
}

fn run_part(part: &Part, filters: &[String]) -> Row {
    println!("== {}", part.name);
    let start = Instant::now();
    let mut counts = Counts::default();
    let outcome = (part.run)(filters, &mut counts);
    if let Err(message) = &outcome {
        println!("{}: {message}", part.name);
    }
    Row { name: part.name, counts, time: start.elapsed(), outcome }
}

fn summary(rows: &[Row], absent: &[String]) -> Outcome {
    println!("\n{:<10}{:>8}{:>8}{:>9}{:>9}", "part", "passed", "failed", "skipped", "seconds");
    for row in rows {
        let Counts { passed, failed, skipped } = row.counts;
        let mark = if row.outcome.is_err() { "  FAILED" } else { "" };
        println!("{:<10}{passed:>8}{failed:>8}{skipped:>9}{:>9.1}{mark}", row.name, row.time.as_secs_f64());
    }
    if !absent.is_empty() {
        println!("not in this tree: {}", absent.join(", "));
    }
    let sum = |of: fn(&Counts) -> u64| rows.iter().map(|r| of(&r.counts)).sum::<u64>();
    let (passed, failed, skipped) = (sum(|c| c.passed), sum(|c| c.failed), sum(|c| c.skipped));
    let broken: Vec<&str> = rows.iter().filter(|r| r.outcome.is_err()).map(|r| r.name).collect();
    let skips = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
    println!("{passed} passed, {failed} failed{skips}");
    match (broken.is_empty(), failed, passed) {
        (false, ..) => Err(format!("failed parts: {}", broken.join(", "))),
        (true, 1.., _) => Err("a runner reported failures but no error".to_owned()),
        (true, 0, 0) => Err("no test ran".to_owned()),
        (true, 0, _) => Ok(()),
    }
}

/// The Rust tests of the workspace. The Python module is left out: it is tested as an installed wheel, and
/// linking it into a test program would need a Python to link against.
fn rust(filters: &[String], counts: &mut Counts) -> Outcome {
    tools::c_compiler()?;
    let versitygw = tools::versitygw()?;
    build()?;
    let mut command = sh::cargo(&["test", "--quiet", "--locked", "--workspace", "--exclude", "replicate-py"]);
    command.args(["--no-fail-fast", "--lib", "--bins", "--tests", "--"]).args(filters);
    let (text, outcome) = sh::tee(command.env("REPLICATE_VERSITYGW", versitygw));
    counts.add_cargo(&text);
    outcome
}

/// Binaries and the lock laboratory's library are what some tests start. They are built as `cargo test` builds them: any
/// other choice of packages and targets has other features, and builds the S3 client once more.
fn build() -> Outcome {
    let arguments = ["build", "--quiet", "--locked", "--workspace", "--exclude", "replicate-py", "--all-targets"];
    sh::run(&mut sh::cargo(&arguments))
}

fn doc_tests(_: &[String], counts: &mut Counts) -> Outcome {
    let arguments =
        ["test", "--quiet", "--locked", "--workspace", "--exclude", "replicate-py", "--no-fail-fast", "--doc"];
    let (text, outcome) = sh::tee(&mut sh::cargo(&arguments));
    counts.add_cargo(&text);
    outcome
}

/// The command `locks`.
pub(crate) fn locks() -> Outcome {
    locks_into(&mut Counts::default())
}

/// Loads that the lock tests put on a database, one after the other: how often connections are reopened.
const STRESS_LOADS: u64 = 3;

/// What the command `stress` is asked for.
#[derive(Debug, Eq, PartialEq)]
struct Stress {
    /// Seconds of load on the laboratory library, and as many on the wheel.
    seconds: u64,
    /// How often a process with the wheel is killed.
    kills: u64,
}

/// The command `stress`: the loads of the lock tests, which share the time given, then host and wheel in one process
/// for that time, then kills.
pub(crate) fn stress(arguments: &[String]) -> Outcome {
    let Stress { seconds, kills } = stress_arguments(arguments)?;
    let mut command = lock_tests()?;
    command.args(["-k", "test_stress_loses_nothing", "-s"]);
    command.env("REPLICATE_STRESS_SECS", (seconds / STRESS_LOADS).max(1).to_string());
    let laboratory = sh::run(&mut command);
    let (_, mut command) = wheel_tests("stress", &["py/tests/test_host_safety.py", "py/tests/test_sigkill.py"])?;
    command.env("REPLICATE_STRESS_SECS", seconds.to_string()).env("REPLICATE_KILL_ROUNDS", kills.to_string());
    laboratory.and(sh::run(command.args(["-s", "-v"])))
}

fn stress_arguments(arguments: &[String]) -> Outcome<Stress> {
    let mut wanted = Stress { seconds: 600, kills: 50 };
    for pair in arguments.chunks(2) {
        match pair {
            [flag, time] if flag == "--for" => wanted.seconds = seconds(time)?,
            [flag, number] if flag == "--kills" => {
                let rounds = number.parse().ok().filter(|n| *n > 0);
                wanted.kills = rounds.ok_or_else(|| format!("{number:?} is no number of kills"))?;
            }
            other => return Err(format!("unexpected arguments {other:?}; usage: stress [--for 10m] [--kills 50]")),
        }
    }
    Ok(wanted)
}

/// `90s` or `10m`, in seconds.
pub(crate) fn seconds(text: &str) -> Outcome<u64> {
    let bad = || format!("{text:?} is no time such as 90s or 10m");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(bad)?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        _ => return Err(bad()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).filter(|n| *n > 0).ok_or_else(bad)
}

/// Host SQLite and engine SQLite in one process: Python is the host, the laboratory library the engine.
fn locks_into(counts: &mut Counts) -> Outcome {
    let (text, outcome) = sh::tee(&mut lock_tests()?);
    counts.add_pytest(&text);
    outcome
}

fn lock_tests() -> Outcome<Command> {
    tools::c_compiler()?;
    tools::symbol_lister()?;
    build()?;
    let library = sh::target().join("debug/libreplicate_locklab.so");
    let mut command = sh::cmd(tools::python_tool("python")?);
    command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "core/locklab/test_locks.py"]);
    command.env("REPLICATE_LOCKLAB", library).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

/// The wheel in a fresh environment: its tests, and its types.
fn python(counts: &mut Counts) -> Outcome {
    let (python, mut command) = wheel_tests("test", &["py/tests"])?;
    let (text, tests) = sh::tee(&mut command);
    counts.add_pytest(&text);
    let types = types(&python);
    tests.and(types)
}

/// A fresh environment with the wheel, and the command that runs these tests in it.
fn wheel_tests(venv: &str, tests: &[&str]) -> Outcome<(PathBuf, Command)> {
    tools::symbol_lister()?;
    let python = wheel::fresh_venv(venv, &[tools::PYTEST])?;
    let versitygw = tools::versitygw()?;
    let mut command = sh::cmd(&python);
    command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]).args(tests);
    command.env("REPLICATE_VERSITYGW", versitygw).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok((python, command))
}

/// A program as users write it, and the package itself, under `mypy --strict`; and the stubs of the native module
/// against the module.
fn types(python: &Path) -> Outcome {
    let cache = sh::target().join("mypy");
    let mypy = |arguments: &[&str]| {
        let mut command = sh::cmd(tools::python_tool("mypy")?);
        command.arg("--strict").arg("--python-executable").arg(python).arg("--cache-dir").arg(&cache);
        sh::run(command.args(arguments))
    };
    mypy(&["py/tests/typing_consumer.py"])?;
    // `replicate` only gives the same modules a second name.
    mypy(&["py/python/sqlite_replicate"])?;
    // It imports the module, so that must be found beside mypy, in the interpreter of the tools.
    let packages = sh::quiet(sh::cmd(python).args(["-c", "import sysconfig; print(sysconfig.get_path('platlib'))"]))?;
    let mut stubtest = sh::cmd(tools::python_tool("stubtest")?);
    stubtest.env("PYTHONPATH", packages.trim()).env("PYTHONDONTWRITEBYTECODE", "1").env("MYPY_CACHE_DIR", &cache);
    sh::run(stubtest.args(["--concise", "sqlite_replicate._native"]))
}

impl Counts {
    /// Adds the `test result:` lines of cargo's runner.
    fn add_cargo(&mut self, output: &str) {
        for line in output.lines().filter(|l| l.starts_with("test result:")) {
            self.add_words(line, &["ignored"]);
        }
    }

    /// Adds pytest's last line.
    fn add_pytest(&mut self, output: &str) {
        let is_total =
            |l: &&str| l.contains(" in ") && (l.contains(" passed") || l.contains(" failed") || l.contains(" error"));
        if let Some(line) = output.lines().rfind(is_total) {
            self.add_words(line, &["skipped", "xfailed", "deselected"]);
        }
    }

    /// Adds every `N word` of a line.
    fn add_words(&mut self, line: &str, skipped: &[&str]) {
        let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
        for pair in words.windows(2) {
            let Ok(n) = pair[0].parse::<u64>() else {
                continue;
            };
            match pair[1] {
                "passed" => self.passed += n,
                "failed" | "error" | "errors" => self.failed += n,
                other if skipped.contains(&other) => self.skipped += n,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn all_parts_run_without_words_and_only_the_named_ones_with_words() {
        let names = |w: &str| select(&words(w)).0.iter().map(|p| p.name).collect::<Vec<_>>();
        assert_eq!(names("").len(), PARTS.len());
        assert_eq!(names("python"), ["python"]);
        assert_eq!(names("some_test_name"), ["rust"]);
        assert_eq!(names("some_test_name readme"), ["rust", "readme"]);
        assert_eq!(select(&words("python a b")).1, ["a", "b"]);
    }

    #[test]
    fn an_unknown_flag_is_an_error() {
        assert!(run(&words("--frobnicate")).is_err());
    }

    #[test]
    fn times_are_seconds_or_minutes_and_nothing_else() {
        assert_eq!((seconds("90s"), seconds("10m")), (Ok(90), Ok(600)));
        for bad in ["", "m", "10", "10h", "-1s", "0s", "1.5m", "1é"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn stress_takes_a_time_and_a_number_of_kills() {
        assert_eq!(stress_arguments(&[]), Ok(Stress { seconds: 600, kills: 50 }));
        assert_eq!(stress_arguments(&words("--kills 7 --for 90s")), Ok(Stress { seconds: 90, kills: 7 }));
        for bad in ["--for", "--kills 0", "--kills x", "--for 1m extra", "90s"] {
            assert!(stress_arguments(&words(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn counts_come_from_the_lines_of_both_runners() {
        let mut counts = Counts::default();
        counts.add_cargo(
            "test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.1s\n\
             test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n",
        );
        assert_eq!(counts, Counts { passed: 9, failed: 4, skipped: 1 });
        counts.add_pytest("2 failed, 5 passed, 1 skipped, 1 error in 3.20s\n");
        assert_eq!(counts, Counts { passed: 14, failed: 7, skipped: 2 });
    }

    #[test]
    fn a_failed_part_or_an_empty_run_fails_the_whole() {
        let row = |passed, outcome| Row {
            name: "x",
            counts: Counts { passed, ..Counts::default() },
            time: Duration::ZERO,
            outcome,
        };
        assert!(summary(&[row(3, Ok(()))], &[]).is_ok());
        assert!(summary(&[row(3, Ok(())), row(1, Err("broken".to_owned()))], &[]).is_err());
        assert!(summary(&[row(0, Ok(()))], &[]).is_err());
    }
}

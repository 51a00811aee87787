//! `cargo xtask fuzz`: the targets of `core/fuzz` under libFuzzer, two at a time.
//!
//! Driven from here, not by cargo-fuzz, which wants a nightly compiler: the coverage that guides the fuzzer comes from
//! a pass of LLVM that every compiler has. What a nightly would add, the address sanitizer, finds little where nearly
//! all code is safe. Each target starts from the committed corpus; what it finds beyond that stays in the output
//! folder and is where the next run goes on. `--keep` puts what covers more into the corpus.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use crate::Outcome;
use crate::sh;
use crate::test::{Counts, seconds};
use crate::tools;

const USAGE: &str = "usage: fuzz [target …] [--for 30s] [--keep] [--input FILE]";

/// Coverage for libFuzzer: counters and program counters at edges, and what is compared with what.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// How long each target runs unless asked otherwise.
const SECONDS: u64 = 30;
/// Targets that run at the same time.
const PARALLEL: usize = 2;
/// Megabytes of memory above which an input counts as a failure.
const MEMORY: u64 = 1024;
/// Seconds above which one input counts as a hang, on a busy machine too.
const HANG: u64 = 60;
/// Inputs of the corpus are no longer than this: it stays small.
const LONGEST_KEPT: u64 = 4096;

#[derive(Debug, Default, Eq, PartialEq)]
struct Wanted {
    targets: Vec<String>,
    seconds: u64,
    keep: bool,
    input: Option<PathBuf>,
    /// From the committed corpus alone, with a seed that is always the same: a test of a commit depends on no luck.
    repeatable: bool,
}

/// The command.
pub(crate) fn run(arguments: &[String]) -> Outcome {
    let wanted = arguments_of(arguments, &targets()?)?;
    let programs = build()?;
    match (&wanted.input, wanted.targets.as_slice()) {
        (Some(input), [target]) => sh::run(sh::cmd(programs.join(target)).arg(input)),
        (Some(_), _) => Err(format!("an input is for one target; {USAGE}")),
        (None, _) => all(&programs, &wanted, &mut Counts::default()),
    }
}

/// Every target for half a minute, from what is committed: a part of the tests.
pub(crate) fn each(counts: &mut Counts) -> Outcome {
    all(&build()?, &Wanted { repeatable: true, ..arguments_of(&[], &targets()?)? }, counts)
}

fn arguments_of(arguments: &[String], known: &[String]) -> Outcome<Wanted> {
    let mut wanted = Wanted { seconds: SECONDS, ..Wanted::default() };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value; {USAGE}"));
        match word.as_str() {
            "--for" => wanted.seconds = seconds(value()?)?,
            "--input" => wanted.input = Some(PathBuf::from(value()?)),
            "--keep" => wanted.keep = true,
            target if known.iter().any(|name| name == target) => wanted.targets.push(target.to_owned()),
            other => return Err(format!("{other:?} is no target; {USAGE}; the targets are {}", known.join(", "))),
        }
    }
    if wanted.targets.is_empty() {
        wanted.targets = known.to_vec();
    }
    Ok(wanted)
}

fn folder() -> PathBuf {
    sh::root().join("core/fuzz")
}

/// The names of the targets: those of their files.
pub(crate) fn targets() -> Outcome<Vec<String>> {
    let folder = folder().join("fuzz_targets");
    let entries = std::fs::read_dir(&folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()));
    let mut names: Vec<_> = names.collect();
    names.sort();
    Ok(names)
}

/// Builds every target; the folder of the programs.
fn build() -> Outcome<PathBuf> {
    tools::c_compiler()?;
    tools::cxx_compiler()?;
    let host = host()?;
    let target = sh::target().join("fuzz");
    // With a target named, the flags are for the product and not for what runs while building.
    let mut command = sh::cargo(&["build", "--quiet", "--locked", "--release", "--manifest-path"]);
    command.arg(folder().join("Cargo.toml")).args(["--bins", "--target", &host, "--target-dir"]).arg(&target);
    sh::run(command.env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\u{1f}")).env_remove("RUSTFLAGS"))?;
    Ok(target.join(host).join("release"))
}

/// The machine that we are on, as the compiler names it.
fn host() -> Outcome<String> {
    let told = sh::quiet(sh::cmd(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("-vV"))?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| format!("the compiler does not say what it is for: {told}"))
}

/// What one run came to.
struct Ran {
    target: String,
    seconds: f64,
    figures: Figures,
    outcome: Outcome,
}

/// What the fuzzer tells at its end.
#[derive(Debug, Default, Eq, PartialEq)]
struct Figures {
    executions: u64,
    /// Edges that were reached.
    covered: u64,
    /// Inputs that are kept.
    inputs: u64,
    /// Peak, in megabytes.
    memory: u64,
}

fn all(programs: &Path, wanted: &Wanted, counts: &mut Counts) -> Outcome {
    let queue = Mutex::new(wanted.targets.iter());
    let ran = Mutex::new(Vec::new());
    println!("{:<14}{:>12}{:>9}{:>8}{:>6}{:>9}", "target", "executions", "covered", "inputs", "MB", "seconds");
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("nobody panics with it").next();
                    let Some(target) = next else { break };
                    let one = one(programs, target, wanted);
                    println!("{}", row(&one));
                    ran.lock().expect("nobody panics with it").push(one);
                }
            });
        }
    });
    let ran = ran.into_inner().expect("nobody panicked with it");
    let failed: Vec<&str> = ran.iter().filter(|one| one.outcome.is_err()).map(|one| one.target.as_str()).collect();
    counts.failed += failed.len() as u64;
    counts.passed += (ran.len() - failed.len()) as u64;
    if failed.is_empty() { Ok(()) } else { Err(format!("failed targets: {}", failed.join(", "))) }
}

fn row(ran: &Ran) -> String {
    let Figures { executions, covered, inputs, memory } = ran.figures;
    let mut row = format!("{:<14}{executions:>12}{covered:>9}{inputs:>8}{memory:>6}{:>9.1}", ran.target, ran.seconds);
    if let Err(why) = &ran.outcome {
        row += &format!("  FAILED\n{why}");
    }
    row
}

fn one(programs: &Path, target: &str, wanted: &Wanted) -> Ran {
    let start = Instant::now();
    let mut figures = Figures::default();
    let fuzzed = fuzz(programs, target, wanted, &mut figures);
    let outcome = fuzzed.and_then(|()| if wanted.keep { keep(programs, target) } else { Ok(()) });
    Ran { target: target.to_owned(), seconds: start.elapsed().as_secs_f64(), figures, outcome }
}

fn fuzz(programs: &Path, target: &str, wanted: &Wanted, figures: &mut Figures) -> Outcome {
    let (seconds, artifacts) = (wanted.seconds, folder().join("artifacts").join(target));
    let found = if wanted.repeatable { sh::target().join("fuzz/tested").join(target) } else { found(target) };
    if wanted.repeatable {
        sh::fresh_dir(&found)?;
    }
    let committed = folder().join("corpus").join(target);
    let logs = sh::target().join("fuzz/logs");
    [&found, &artifacts, &logs].into_iter().try_for_each(|folder| sh::make_dir(folder))?;
    if !committed.exists() {
        return Err(format!("{} is missing", committed.display()));
    }
    let mut command = sh::cmd(programs.join(target));
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-rss_limit_mb={MEMORY}"));
    command.arg(format!("-timeout={HANG}")).arg(format!("-report_slow_units={HANG}"));
    command.arg("-print_final_stats=1").arg(format!("-artifact_prefix={}/", artifacts.display()));
    if wanted.repeatable {
        command.arg("-seed=1");
    }
    command.arg(&found).arg(committed);
    let (text, outcome) = logged(&mut command, &logs.join(format!("{target}.log")))?;
    *figures = figures_of(&text);
    if outcome.is_err() {
        return Err(failure(target, &text));
    }
    if figures.executions == 0 { Err("nothing was executed".to_owned()) } else { Ok(()) }
}

/// Inputs that were found on this machine.
fn found(target: &str) -> PathBuf {
    sh::target().join("fuzz/found").join(target)
}

/// Runs a program with its output in a file; what it said.
fn logged(command: &mut Command, log: &Path) -> Outcome<(String, Outcome)> {
    let wrong = |e: std::io::Error| format!("cannot write {}: {e}", log.display());
    let file = std::fs::File::create(log).map_err(wrong)?;
    let outcome = sh::run(command.stdout(Stdio::null()).stderr(file));
    let text = std::fs::read(log).map_err(|e| format!("cannot read {}: {e}", log.display()))?;
    Ok((String::from_utf8_lossy(&text).into_owned(), outcome))
}

fn figures_of(text: &str) -> Figures {
    let after = |line: &str, name: &str| {
        let rest = line.split_once(name)?.1.trim_start();
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let last = |name: &str| text.lines().rev().find_map(|line| after(line, name)).unwrap_or(0);
    Figures {
        executions: last("stat::number_of_executed_units:"),
        covered: last(" cov:"),
        inputs: last(" corp:"),
        memory: last("stat::peak_rss_mb:"),
    }
}

/// What was found, and how to see it again.
fn failure(target: &str, text: &str) -> String {
    let artifact = text.lines().rev().find_map(|line| line.split_once("Test unit written to ").map(|(_, path)| path));
    let end: Vec<&str> = text.lines().rev().take(40).collect();
    let mut told = end.into_iter().rev().collect::<Vec<_>>().join("\n");
    if let Some(path) = artifact {
        let shown = Path::new(path).strip_prefix(sh::root()).unwrap_or(Path::new(path)).display().to_string();
        told += &format!("\nrepeat: cargo xtask fuzz {target} --input {shown}");
    }
    told
}

/// Takes the smallest inputs that cover what the corpus does not into it.
fn keep(programs: &Path, target: &str) -> Outcome {
    let (found, committed) = (found(target), folder().join("corpus").join(target));
    let short = sh::target().join("fuzz/short").join(target);
    sh::fresh_dir(&short)?;
    let entries = std::fs::read_dir(&found).map_err(|e| format!("cannot list {}: {e}", found.display()))?;
    for entry in entries.filter_map(Result::ok) {
        if entry.metadata().is_ok_and(|meta| meta.len() <= LONGEST_KEPT) {
            std::fs::copy(entry.path(), short.join(entry.file_name())).map_err(|e| format!("cannot copy: {e}"))?;
        }
    }
    let mut command = sh::cmd(programs.join(target));
    // What counts is code that is reached, not how often: each loop would keep an input for every power of two.
    command.args(["-set_cover_merge=1", "-use_counters=0"]).arg(committed).arg(short);
    let (text, outcome) = logged(&mut command, &sh::target().join("fuzz/logs").join(format!("{target}.merge.log")))?;
    outcome.map_err(|e| format!("{e}\n{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn without_words_every_target_runs_for_half_a_minute() {
        let wanted = arguments_of(&[], &words("a b")).expect("fine");
        assert_eq!(wanted, Wanted { targets: words("a b"), seconds: 30, ..Wanted::default() });
        let wanted = arguments_of(&words("b --for 10m --keep"), &words("a b")).expect("fine");
        assert_eq!(wanted, Wanted { targets: words("b"), seconds: 600, keep: true, ..Wanted::default() });
        for bad in ["c", "--for", "--for x", "--input", "--frobnicate"] {
            assert!(arguments_of(&words(bad), &words("a b")).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_target_has_a_corpus_that_is_small() {
        let mut bytes = 0;
        for target in targets().expect("the folder of targets") {
            let folder = folder().join("corpus").join(&target);
            let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
            let lengths: Vec<u64> = entries.map(|entry| entry.unwrap().metadata().unwrap().len()).collect();
            assert!(!lengths.is_empty(), "{target}");
            bytes += lengths.iter().sum::<u64>();
        }
        assert!(bytes < 2 << 20, "{bytes}");
    }

    #[test]
    fn figures_are_the_last_ones_told() {
        let text = "#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 40Mb\n\
                    #99\tNEW    cov: 120 ft: 311 corp: 31/12Kb lim: 4 exec/s: 0 rss: 41Mb\n\
                    stat::number_of_executed_units: 12345\n\
                    stat::peak_rss_mb:              77\n";
        let expected = Figures { executions: 12345, covered: 120, inputs: 31, memory: 77 };
        assert_eq!(figures_of(text), expected);
    }

    #[test]
    fn a_failure_says_how_to_repeat_it() {
        let path = folder().join("artifacts/x/crash-1");
        let text =
            format!("thread panicked\nartifact_prefix='a/'; Test unit written to {}\nBase64: AA==\n", path.display());
        let told = failure("x", &text);
        assert!(told.contains("thread panicked"));
        assert!(told.ends_with("repeat: cargo xtask fuzz x --input core/fuzz/artifacts/x/crash-1"), "{told}");
    }
}

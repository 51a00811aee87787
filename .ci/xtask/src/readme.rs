//! The code blocks of the README, run as a reader would run them.
//!
//! `python` blocks run with the wheel installed in a fresh environment, `sh` blocks with that environment
//! and the `replicate` command on the path; each in an empty folder of its own, whose name has a space and a letter
//! that URLs escape. `rust` blocks are doc tests
//! of the crate `examples/rust`. A block that cannot run here (an installation from a registry) carries
//! `no-run` after its language and is listed.

use std::path::Path;
use std::process::Command;

use crate::Outcome;
use crate::sh;
use crate::test::Counts;
use crate::wheel;

/// A fenced block.
#[derive(Debug, Eq, PartialEq)]
struct Block<'a> {
    language: &'a str,
    runs: bool,
    /// Line of its first line, from 1.
    line: usize,
    text: String,
}

/// Languages that need not be run.
const PROSE: &[&str] = &["text", ""];

/// Runs all blocks.
pub(crate) fn run(counts: &mut Counts) -> Outcome {
    let text = sh::read(&sh::root().join("README.md"))?;
    let blocks = blocks(&text)?;
    sh::run(&mut sh::cargo(&["build", "--quiet", "--locked", "--package", "replicate-cli"]))?;
    let python = wheel::fresh_venv("readme", &[])?;
    let mut failed = Vec::new();
    for block in blocks.iter().filter(|b| !PROSE.contains(&b.language)) {
        let place = format!("README.md:{} ({})", block.line, block.language);
        match run_block(block, &python)? {
            Some(true) => counts.passed += 1,
            Some(false) => failed.push(place.clone()),
            None => {
                println!("{place}: not run here");
                continue;
            }
        }
        println!("{place}: {}", if failed.contains(&place) { "failed" } else { "ok" });
    }
    counts.failed += failed.len() as u64;
    if failed.is_empty() { Ok(()) } else { Err(failed.join(", ")) }
}

/// Whether the block succeeded; `None` if it is not for us to run.
fn run_block(block: &Block<'_>, python: &Path) -> Outcome<Option<bool>> {
    let folder = sh::target().join("readme").join(format!("übung, line {}", block.line));
    let mut command = match (block.language, block.runs) {
        (_, false) | ("rust", _) => return Ok(None),
        ("python", _) => interpreter(python.as_os_str(), &["block"]),
        ("sh", _) => interpreter("bash".as_ref(), &["-euo", "pipefail", "block"]),
        (other, _) => {
            return Err(format!("README.md:{}: nothing runs blocks of language {other:?}", block.line));
        }
    };
    sh::fresh_dir(&folder)?;
    sh::write(&folder.join("block"), &block.text)?;
    let bins = [python.parent().unwrap_or(Path::new("/")).to_path_buf(), sh::target().join("debug")];
    let old = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(bins.into_iter().chain(std::env::split_paths(&old)));
    let path = path.map_err(|e| format!("cannot extend PATH: {e}"))?;
    let outcome = sh::quiet(command.current_dir(&folder).env("PATH", path).env("HOME", &folder));
    if let Err(message) = &outcome {
        println!("{message}");
    }
    Ok(Some(outcome.is_ok()))
}

fn interpreter(program: &std::ffi::OsStr, arguments: &[&str]) -> Command {
    let mut command = sh::cmd(program);
    command.args(arguments);
    // What the caller's shell has set must not make a block work that fails for a reader.
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("REPLICATE_")) {
        command.env_remove(name);
    }
    command
}

/// All fenced blocks of a Markdown text.
fn blocks(text: &str) -> Outcome<Vec<Block<'_>>> {
    let mut found = Vec::new();
    let mut open: Option<Block<'_>> = None;
    for (number, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(info), None) => {
                let mut words = info.split([' ', ',']).filter(|w| !w.is_empty());
                let language = words.next().unwrap_or_default();
                open = Some(Block {
                    language,
                    runs: !words.any(|w| w.starts_with("no")),
                    line: number + 2,
                    text: String::new(),
                });
            }
            (Some(_), Some(done)) => found.push(done),
            (None, Some(mut block)) => {
                block.text += line;
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    match open {
        None => Ok(found),
        Some(block) => Err(format!("the block at line {} is never closed", block.line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_carry_their_language_line_and_whether_they_run() {
        let text = "a\n```python\nx = 1\n```\n\n```sh no-run\npip install x\n```\n";
        let found = blocks(text).expect("closed");
        assert_eq!(found[0], Block { language: "python", runs: true, line: 3, text: "x = 1\n".to_owned() });
        assert_eq!((found[1].language, found[1].runs, found[1].line), ("sh", false, 7));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn an_open_block_is_an_error() {
        assert!(blocks("```python\nx = 1\n").is_err());
    }
}

//! `cargo xtask check`: what must hold before a commit. All steps run; the command fails if one does.

use std::process::Command;
use std::time::Instant;

use crate::Outcome;
use crate::fuzz;
use crate::layers;
use crate::links;
use crate::options;
use crate::sh;
use crate::tools;

struct Step {
    name: &'static str,
    run: fn() -> Outcome,
}

const STEPS: &[Step] = &[
    Step { name: "format", run: || sh::run(&mut sh::cargo(&["fmt", "--all", "--check"])) },
    Step { name: "layers and cycles", run: layers::verify },
    Step { name: "option table", run: options::verify },
    Step { name: "links", run: links::verify },
    Step { name: "banned calls are denied", run: bans_are_denied },
    Step { name: "banned calls are known (canary)", run: canary },
    Step { name: "clippy", run: clippy },
    Step { name: "fuzz targets", run: fuzz_targets },
    Step { name: "documents", run: documents },
    Step { name: "licences and sources", run: deny },
];

/// Crates whose `lib.rs` must deny the calls of `.ci/clippy.toml`.
const SIMULATED: &[&str] = &["core/src/lib.rs", "core/format/src/lib.rs"];

/// The attribute by which they do. Their tests may call what they like.
const DENIES: &str = "#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_macros))]";

/// The command.
pub(crate) fn run(arguments: &[String]) -> Outcome {
    sh::no_arguments(arguments)?;
    let mut failed = Vec::new();
    for step in STEPS {
        let start = Instant::now();
        let outcome = (step.run)();
        let mark = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("{:<34}{mark:<8}{:>6.1} s", step.name, start.elapsed().as_secs_f64());
        if let Err(message) = outcome {
            println!("{message}");
            failed.push(step.name);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}

/// The command `msrv`: everything compiles with the compiler of `rust-version`.
pub(crate) fn msrv(arguments: &[String]) -> Outcome {
    sh::no_arguments(arguments)?;
    let manifest = sh::read(&sh::root().join("Cargo.toml"))?;
    let version = oldest_rust(&manifest).ok_or("Cargo.toml promises no rust-version")?;
    let toolchain = ["run", version];
    if sh::quiet(sh::cmd("rustup").args(toolchain).args(["rustc", "--version"])).is_err() {
        return Err(format!("Rust {version} is missing; rustup toolchain install {version} --profile minimal"));
    }
    let check = ["cargo", "check", "--quiet", "--locked", "--workspace", "--all-targets", "--target-dir"];
    // Cargo tells programs that it starts which compiler it uses; the other one must not hear of it.
    let mut command = sh::cmd("rustup");
    command.args(toolchain).args(check).arg(sh::target().join("msrv"));
    sh::run(command.env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN"))
}

fn oldest_rust(manifest: &str) -> Option<&str> {
    let line = manifest.lines().find_map(|line| line.strip_prefix("rust-version = \""))?;
    line.split('"').next().filter(|version| !version.is_empty())
}

fn clippy() -> Outcome {
    let arguments = ["clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
    sh::run(&mut sh::cargo(&arguments))
}

fn bans_are_denied() -> Outcome {
    for file in SIMULATED {
        if !sh::read(&sh::root().join(file))?.lines().any(|l| l == DENIES) {
            return Err(format!("{file} lacks the line {DENIES}"));
        }
    }
    Ok(())
}

/// Clippy must report every path of its list on the canary, which calls each of them.
fn canary() -> Outcome {
    let list = sh::read(&sh::root().join(".ci/clippy.toml"))?;
    let folder = sh::target().join("canary");
    let of_canary = ["--quiet", "--manifest-path", ".ci/canary/Cargo.toml", "--target-dir"];
    // Clippy says nothing about a crate that it has checked before and that has not changed; what the canary
    // depends on may stay.
    sh::run(sh::cargo(&["clean", "--package", "canary"]).args(of_canary).arg(&folder))?;
    let reports = clippy_reports(sh::cargo(&["clippy", "--locked"]).args(of_canary).arg(&folder))?;
    let missing: Vec<String> = paths(&list).into_iter().filter(|p| !reports.contains(&format!("`{p}`"))).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("clippy does not report these calls of .ci/canary: {}", missing.join(", ")))
    }
}

fn clippy_reports(command: &mut Command) -> Outcome<String> {
    let output = command.output().map_err(|e| format!("cannot run clippy on the canary: {e}"))?;
    if output.status.success() {
        return Err("clippy found nothing in .ci/canary: .ci/clippy.toml is not loaded".to_owned());
    }
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The paths of the list.
fn paths(list: &str) -> Vec<String> {
    let paths = list.lines().filter_map(|l| l.split_once("path = \"")?.1.split_once('"').map(|(path, _)| path));
    paths.map(str::to_owned).collect()
}

/// The fuzz targets compile, and every file of theirs is one. `cargo xtask fuzz` runs them.
fn fuzz_targets() -> Outcome {
    let manifest = sh::read(&sh::root().join("core/fuzz/Cargo.toml"))?;
    for name in fuzz::targets()? {
        let path = format!("path = \"fuzz_targets/{name}.rs\"");
        if !manifest.contains(&path) {
            return Err(format!("core/fuzz/Cargo.toml lacks a target with {path}"));
        }
    }
    let mut command = sh::cargo(&["check", "--quiet", "--locked", "--manifest-path", "core/fuzz/Cargo.toml"]);
    // Nothing is linked, so the fuzzer's own C++ need not be compiled.
    command.env("CUSTOM_LIBFUZZER_PATH", "/nowhere/libfuzzer.a");
    sh::run(command.arg("--target-dir").arg(sh::target().join("fuzz/check")))
}

/// Our own documents, with every broken link an error.
fn documents() -> Outcome {
    let mut command = sh::cargo(&["doc", "--quiet", "--locked", "--no-deps", "--lib"]);
    command.args(["--package", "sqlite-replicate", "--package", "replicate-format"]);
    sh::run(command.env("RUSTDOCFLAGS", "-D warnings"))
}

fn deny() -> Outcome {
    let deny = tools::cargo_deny()?;
    let config = ["--locked", "--config", ".ci/deny.toml", "check", "--hide-inclusion-graph"];
    sh::quiet(sh::cmd(&deny).args(config).args(["licenses", "bans", "sources"]))?;
    advisories(&deny)
}

/// Known vulnerabilities. Their database is fetched from its own host; where that cannot be reached (a closed
/// network) this says so and goes on, because nothing can be known then. A database that is there decides.
fn advisories(deny: &std::path::Path) -> Outcome {
    let fetched = sh::cmd(deny).args(["--config", ".ci/deny.toml", "fetch", "db"]).output();
    match fetched {
        Ok(done) if done.status.success() => {
            let config = ["--locked", "--config", ".ci/deny.toml", "check", "--disable-fetch", "advisories"];
            sh::quiet(sh::cmd(deny).args(config)).map(drop)
        }
        Ok(done) => {
            let reason = String::from_utf8_lossy(&done.stderr).trim().lines().last().unwrap_or_default().to_owned();
            println!("advisories not checked, their database cannot be fetched: {reason}");
            Ok(())
        }
        Err(e) => Err(format!("cannot run {}: {e}", deny.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_rust_is_read_from_the_manifest() {
        assert_eq!(oldest_rust("[a]\nrust-version = \"1.94.1\" # why\n"), Some("1.94.1"));
        assert_eq!(oldest_rust("rust-version.workspace = true\n"), None);
    }

    #[test]
    fn every_path_of_the_list_is_asked_of_the_canary() {
        let list = "    { path = \"std::fs::read\", reason = \"x\" },\n    { path = \"tokio::time::sleep\", reason = \"y\" },\n";
        assert_eq!(paths(list), ["std::fs::read", "tokio::time::sleep"]);
    }
}

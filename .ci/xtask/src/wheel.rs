//! The Python wheel: built by maturin, put into fresh environments.

use std::path::{Path, PathBuf};

use crate::Outcome;
use crate::sh;
use crate::tools;

/// Builds the wheel with the profile that tests use, so that it shares their compiled dependencies.
pub(crate) fn build_dev() -> Outcome<PathBuf> {
    // It is used on this machine only: no check against older systems.
    build(&["--profile", "dev", "--compatibility", "linux"], &sh::target().join("wheels-dev"))
}

/// Makes a fresh environment with the development wheel and what else is asked for; returns its `python`.
pub(crate) fn fresh_venv(name: &str, also: &[&str]) -> Outcome<PathBuf> {
    let wheel = build_dev()?;
    let wheel = wheel.to_str().ok_or("the path of the wheel is not Unicode")?;
    let venv = sh::target().join("venvs").join(name);
    sh::make_dir(&sh::target().join("venvs"))?;
    tools::fresh_venv(&venv, &[&[wheel], also].concat())
}

/// The command `dist`: the release wheel under `target/dist`.
pub(crate) fn dist(arguments: &[String]) -> Outcome {
    sh::no_arguments(arguments)?;
    let wheel = build(&["--release"], &sh::target().join("dist"))?;
    println!("{}", wheel.display());
    Ok(())
}

fn build(arguments: &[&str], folder: &Path) -> Outcome<PathBuf> {
    tools::c_compiler()?;
    let maturin = tools::python_tool("maturin")?;
    sh::fresh_dir(folder)?;
    sh::quiet(
        sh::cmd(maturin)
            .args(["build", "--quiet", "--locked", "--manifest-path", "py/Cargo.toml"])
            .args(arguments)
            .arg("--out")
            .arg(folder),
    )?;
    the_one_wheel(folder)
}

fn the_one_wheel(folder: &Path) -> Outcome<PathBuf> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
    let mut wheels: Vec<PathBuf> =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|x| x == "whl")).collect();
    match (wheels.pop(), wheels.len()) {
        (Some(wheel), 0) => Ok(wheel),
        (_, more) => Err(format!("expected one wheel in {}, found {}", folder.display(), more)),
    }
}

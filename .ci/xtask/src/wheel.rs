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
    venv_with(&build_dev()?, name, also)
}

fn venv_with(wheel: &Path, name: &str, also: &[&str]) -> Outcome<PathBuf> {
    let wheel = wheel.to_str().ok_or("the path of the wheel is not Unicode")?;
    let venv = sh::target().join("venvs").join(name);
    sh::make_dir(&sh::target().join("venvs"))?;
    tools::fresh_venv(&venv, &[&[wheel], also].concat())
}

/// The oldest C library that the release wheel runs with, as its tag names it: that of 2012 and later.
const OLDEST_LIBC: &str = "manylinux_2_17";

/// The command `dist`: the release wheel under `target/dist`, for every Linux with this machine's processor, and tested
/// as it will be installed.
pub(crate) fn dist(arguments: &[String]) -> Outcome {
    sh::no_arguments(arguments)?;
    let zig = tools::zig()?;
    let wheel =
        build_with(&["--release", "--zig", "--compatibility", OLDEST_LIBC], &sh::target().join("dist"), Some(&zig))?;
    let name = wheel.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !name.contains(OLDEST_LIBC) {
        return Err(format!("the wheel is not for {OLDEST_LIBC}: {name}"));
    }
    let python = venv_with(&wheel, "dist", &[tools::PYTEST])?;
    let mut tests = sh::cmd(&python);
    tests.args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "py/tests/test_names.py", "py/tests/test_api.py"]);
    sh::run(tests.env("PYTHONDONTWRITEBYTECODE", "1"))?;
    println!("{}", wheel.display());
    Ok(())
}

fn build(arguments: &[&str], folder: &Path) -> Outcome<PathBuf> {
    build_with(arguments, folder, None)
}

/// The same with more programs to be found.
fn build_with(arguments: &[&str], folder: &Path, programs: Option<&Path>) -> Outcome<PathBuf> {
    tools::c_compiler()?;
    sh::fresh_dir(folder)?;
    let mut maturin = sh::cmd(tools::python_tool("maturin")?);
    maturin.args(["build", "--quiet", "--locked", "--manifest-path", "py/Cargo.toml"]).args(arguments);
    if let Some(programs) = programs {
        let old = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([programs.to_path_buf()].into_iter().chain(std::env::split_paths(&old)));
        maturin.env("PATH", path.map_err(|e| format!("cannot extend PATH: {e}"))?);
    }
    sh::quiet(maturin.arg("--out").arg(folder))?;
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

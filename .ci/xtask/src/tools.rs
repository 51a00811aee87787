//! Every program from outside that a task needs: found, or installed in a pinned version under
//! `target/tools`. What cannot be installed from here (Go, Python, a C compiler) is an error that says what
//! to install; nothing is ever skipped for want of a tool.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::Outcome;
use crate::sh;

/// A program from the Go module proxy.
struct GoTool {
    name: &'static str,
    package: &'static str,
    version: &'static str,
}

/// The real S3 server of the tests: checks signatures, honours every condition on writes, keeps metadata.
const VERSITYGW: GoTool =
    GoTool { name: "versitygw", package: "github.com/versity/versitygw/cmd/versitygw", version: "v1.8.0" };

/// The oldest 0.5 release in the module proxy's list. Older ones: 0.5.0 is served by its name and restores what we write,
/// but stops shipping in the middle of our cases when it is the writer; 0.5.1 and 0.5.2 are not served;
/// `v0.5.3-beta3` is a pre-release. It reads LZ4 frames only, so it judges our default page encoding.
const LITESTREAM_OLD: GoTool = litestream("v0.5.3");

/// The newest 0.5 release: it writes LZ4 blocks, which the old one cannot read.
const LITESTREAM_NEW: GoTool = litestream("v0.5.18");

const fn litestream(version: &'static str) -> GoTool {
    GoTool { name: "litestream", package: "github.com/benbjohnson/litestream/cmd/litestream", version }
}

/// The original age program and its key maker: judges of what is sealed.
const AGE: GoTool = GoTool { name: "age", package: "filippo.io/age/cmd/age", version: "v1.3.2" };
const AGE_KEYGEN: GoTool = GoTool { name: "age-keygen", package: "filippo.io/age/cmd/age-keygen", version: "v1.3.2" };

/// Tools from PyPI, all in one environment.
const PYTHON_TOOLS: &[&str] = &["pip==25.3", "maturin==1.16.0", "mypy==1.18.2", PYTEST];

/// The test runner, also installed beside the wheel it tests.
pub(crate) const PYTEST: &str = "pytest==8.4.2";

/// The compiler that links against an old C library; only a release needs it.
const ZIG: &str = "ziglang==0.17.1";

const CARGO_DENY: (&str, &str) = ("cargo-deny", "0.20.2");

/// The oldest Python that the wheel supports.
const PYTHON_MIN: (u32, u32) = (3, 9);

fn dir() -> PathBuf {
    sh::target().join("tools")
}

/// The S3 server `versitygw`.
pub(crate) fn versitygw() -> Outcome<PathBuf> {
    VERSITYGW.installed()
}

/// The oldest Litestream 0.5.
pub(crate) fn litestream_old() -> Outcome<PathBuf> {
    LITESTREAM_OLD.installed()
}

/// The newest Litestream 0.5.
pub(crate) fn litestream_new() -> Outcome<PathBuf> {
    LITESTREAM_NEW.installed()
}

/// The program `age` under that name, with `age-keygen` beside it.
pub(crate) fn age() -> Outcome<PathBuf> {
    let folder = dir().join(format!("age-{}", AGE.version));
    sh::make_dir(&folder)?;
    for tool in [AGE, AGE_KEYGEN] {
        let (program, path) = (tool.installed()?, folder.join(tool.name));
        if !path.exists() {
            std::fs::copy(&program, &path).map_err(|e| format!("cannot copy {}: {e}", program.display()))?;
        }
    }
    Ok(folder.join(AGE.name))
}

impl GoTool {
    fn installed(&self) -> Outcome<PathBuf> {
        let path = dir().join("bin").join(format!("{}-{}", self.name, self.version));
        if path.exists() {
            return Ok(path);
        }
        present("go", &["version"], "install Go 1.26 or later (https://go.dev/dl)")?;
        // Staged and renamed, so that an interrupted installation never looks finished.
        let stage = dir().join(format!("stage-{}-{}", self.name, self.version));
        sh::fresh_dir(&stage)?;
        sh::make_dir(&dir().join("bin"))?;
        installing(&format!("{} {}", self.name, self.version), || {
            let what = format!("{}@{}", self.package, self.version);
            // Outside the repository's folder, so that no module file of ours is consulted.
            sh::quiet(sh::cmd("go").args(["install", &what]).env("GOBIN", &stage).current_dir(&stage))
        })?;
        move_file(&stage.join(self.name), &path)?;
        let _ = std::fs::remove_dir(&stage); // an empty folder left over harms nobody
        Ok(path)
    }
}

/// A program of the tools' Python environment, `python` included.
pub(crate) fn python_tool(name: &str) -> Outcome<PathBuf> {
    let venv = dir().join("venv");
    let stamp = venv.join("installed");
    let wanted = PYTHON_TOOLS.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(venv.join("bin").join(name));
    }
    installing("maturin, pytest, mypy", || {
        sh::quiet(Command::new(python()?).args(["-m", "venv", "--clear"]).arg(&venv).stdin(Stdio::null()))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        sh::quiet(sh::cmd(venv.join("bin/python")).args(pip).args(PYTHON_TOOLS))
    })?;
    sh::write(&stamp, &wanted)?;
    Ok(venv.join("bin").join(name))
}

/// The folder of programs in which a build finds `python3 -m ziglang`.
pub(crate) fn zig() -> Outcome<PathBuf> {
    let python = python_tool("python")?;
    let there = sh::cmd(&python).args(["-c", "import ziglang"]).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", ZIG];
        installing(ZIG, || sh::quiet(sh::cmd(&python).args(pip)))?;
    }
    Ok(dir().join("venv/bin"))
}

/// Makes a fresh Python environment that holds these requirements and nothing else; returns its `python`.
pub(crate) fn fresh_venv(venv: &Path, requirements: &[&str]) -> Outcome<PathBuf> {
    let pip = python_tool("pip")?;
    sh::quiet(sh::cmd(python()?).args(["-m", "venv", "--clear", "--without-pip"]).arg(venv))?;
    let python = venv.join("bin/python");
    let install = ["install", "--quiet", "--disable-pip-version-check"];
    sh::quiet(sh::cmd(pip).arg("--python").arg(&python).args(install).args(requirements))?;
    Ok(python)
}

/// The licence and source checker.
pub(crate) fn cargo_deny() -> Outcome<PathBuf> {
    let (name, version) = CARGO_DENY;
    let root = dir().join(format!("{name}-{version}"));
    let path = root.join("bin").join(name);
    if path.exists() {
        return Ok(path);
    }
    installing(&format!("{name} {version}"), || {
        let install = ["install", "--quiet", "--locked", name, "--version", version];
        // Its own build folder: features of its dependencies are not ours.
        sh::quiet(sh::cargo(&install).arg("--root").arg(&root).arg("--target-dir").arg(root.join("build")))
    })?;
    std::fs::remove_dir_all(root.join("build")).map_err(|e| format!("cannot remove the build of {name}: {e}"))?;
    Ok(path)
}

/// Fails early where the bundled SQLite could not be compiled.
pub(crate) fn c_compiler() -> Outcome {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    present(&compiler, &["--version"], "install a C compiler (Debian: apt-get install build-essential)")
}

/// Fails early where libFuzzer could not be compiled.
pub(crate) fn cxx_compiler() -> Outcome {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    present(&compiler, &["--version"], "install a C++ compiler (Debian: apt-get install build-essential)")
}

/// What shows which symbols a library exports.
pub(crate) fn symbol_lister() -> Outcome {
    present("nm", &["--version"], "install binutils (Debian: apt-get install binutils)")
}

/// A Python that can make environments.
fn python() -> Outcome<PathBuf> {
    let (major, minor) = PYTHON_MIN;
    let way_out = format!("install Python {major}.{minor} or later with venv (Debian: apt-get install python3-venv)");
    // `ensurepip` is what Debian splits off into python3-venv.
    let probe = format!(
        "import sys, venv, ensurepip; assert sys.version_info >= ({major}, {minor}), sys.version; print(sys.executable)"
    );
    let output = sh::cmd("python3").args(["-c", &probe]).output();
    match output {
        Ok(done) if done.status.success() => Ok(PathBuf::from(String::from_utf8_lossy(&done.stdout).trim())),
        Ok(done) => {
            let text = String::from_utf8_lossy(&done.stderr).trim().lines().last().unwrap_or_default().to_owned();
            Err(format!("python3 will not do ({text}); {way_out}"))
        }
        Err(e) => Err(format!("python3 does not run ({e}); {way_out}")),
    }
}

fn present(program: &str, arguments: &[&str], way_out: &str) -> Outcome {
    match sh::cmd(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program} does not work ({status}); {way_out}")),
        Err(e) => Err(format!("{program} does not run ({e}); {way_out}")),
    }
}

/// Says what is being installed and how long it took: the first run is the slow one, and should not look stuck.
fn installing<T>(what: &str, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    eprintln!("installing {what} into target/tools …");
    let start = Instant::now();
    let done = work().map_err(|e| format!("cannot install {what}: {e}"))?;
    eprintln!("installed {what} in {:.0} s", start.elapsed().as_secs_f64());
    Ok(done)
}

fn move_file(from: &Path, to: &Path) -> Outcome {
    std::fs::rename(from, to).map_err(|e| format!("cannot move {} to {}: {e}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_an_error_that_names_the_way_out() {
        let error = present("no-such-program-anywhere", &[], "install it").expect_err("missing");
        assert!(error.contains("no-such-program-anywhere") && error.contains("install it"), "{error}");
    }

    #[test]
    fn every_python_tool_is_pinned() {
        assert!(PYTHON_TOOLS.iter().chain([&ZIG]).all(|t| t.contains("==")));
    }
}

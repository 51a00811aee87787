//! The commands that start a program of `core/sim` and hand it the tools it needs.
//!
//! Tools travel as environment variables with absolute paths; the programs look for nothing themselves.

use std::path::PathBuf;

use crate::Outcome;
use crate::sh;
use crate::tools;

/// What a program needs, as variable and finder.
type Tool = (&'static str, fn() -> Outcome<PathBuf>);

const VERSITYGW: Tool = ("REPLICATE_VERSITYGW", tools::versitygw);
const LITESTREAM_OLD: Tool = ("REPLICATE_LITESTREAM_OLD", tools::litestream_old);
const LITESTREAM_NEW: Tool = ("REPLICATE_LITESTREAM_NEW", tools::litestream_new);
const AGE: Tool = ("REPLICATE_AGE", tools::age);

struct Launch {
    name: &'static str,
    release: bool,
    tools: &'static [Tool],
}

const LAUNCHES: &[Launch] = &[
    // Figures are of what is shipped, so of a release build.
    Launch { name: "bench", release: true, tools: &[VERSITYGW, LITESTREAM_NEW, AGE] },
    Launch { name: "interop", release: false, tools: &[VERSITYGW, LITESTREAM_OLD, LITESTREAM_NEW, AGE] },
    Launch { name: "sim", release: false, tools: &[] },
    Launch { name: "torture", release: false, tools: &[VERSITYGW] },
];

/// Builds and runs the program of this name; all arguments are its own.
pub(crate) fn run(name: &str, arguments: &[String]) -> Outcome {
    let launch = LAUNCHES.iter().find(|l| l.name == name).ok_or_else(|| format!("no program {name:?} is known"))?;
    tools::c_compiler()?;
    let bins = sh::root().join("core/sim/src/bin");
    if !bins.join(format!("{name}.rs")).exists() && !bins.join(name).join("main.rs").exists() {
        return Err(format!("this tree has no program core/sim/src/bin/{name}.rs"));
    }
    // The command is what the programs start beside themselves. What is not released is built
    // with all that the tests build: another choice of packages has other features, and builds the S3 client again.
    let build: &[&str] = match launch.release {
        true => &["--release", "--package", "replicate-cli", "--package", "replicate-sim"],
        false => &["--workspace", "--exclude", "replicate-py", "--all-targets"],
    };
    sh::run(sh::cargo(&["build", "--quiet", "--locked"]).args(build))?;
    let folder = sh::target().join(if launch.release { "release" } else { "debug" });
    let mut command = sh::cmd(folder.join(name));
    for (variable, find) in launch.tools {
        command.env(variable, find()?);
    }
    sh::run(command.env("REPLICATE_BIN", &folder).args(arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_in_the_list_is_an_error() {
        assert!(run("frobnicate", &[]).is_err());
    }
}

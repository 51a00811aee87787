//! The table in the document, with what one must know to read it.

use std::path::{Path, PathBuf};
use std::process::Command;

use replicate_sim::peers::{Outcome, Tools};

use crate::sizes::Sizes;

const BEGIN: &str = "<!-- bench -->";
const END: &str = "<!-- /bench -->";

/// Where and when a run was made.
pub(crate) struct Conditions {
    date: String,
    machine: String,
    load: String,
    server: String,
    begun: std::time::Instant,
}

impl Conditions {
    /// As they are at the start.
    pub(crate) fn now(tools: &Tools, scratch: &Path) -> Self {
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = meminfo.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0);
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, m)| m);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let kernel = kernel.trim().split('-').next().unwrap_or_default();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let system = file_system(&mounts, scratch);
        let (model, gib) = (model.unwrap_or("unknown"), kib / f64::from(1 << 20));
        Self {
            date: said(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"])),
            machine: format!("{cores} cores ({model}), {gib:.0} GiB, Linux {kernel}, {system}"),
            load: std::fs::read_to_string("/proc/loadavg").unwrap_or_default(),
            // It is installed with its version in its name.
            server: tools.versitygw.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            begun: std::time::Instant::now(),
        }
    }

    /// The table with the conditions before it and the legend after it.
    pub(crate) fn text(&self, table: &str, others: &str, arguments: &[String], sizes: &Sizes) -> String {
        let command = ["cargo xtask bench"].into_iter().chain(arguments.iter().map(String::as_str));
        let command: Vec<_> = command.collect();
        let load = self.load.split_whitespace().next().unwrap_or("unknown");
        let minutes = self.begun.elapsed().as_secs_f64() / 60.0;
        format!(
            "{}, `{}` (sizes {}, {} rounds, of first snapshots and of idling one, {minutes:.0} minutes). {}; load before \
             the start {load}. S3 is {} on loopback, `+ 20 ms` through a proxy that delays every request. 4 KiB \
             pages, release build, both programs with their defaults unless said otherwise.\n\n\
             {table}\n\
             Medians over the rounds; of memory, the longest transaction and the longest WAL the worst. Floor: the PUT \
             alone, the writer alone, or `cp` and sync. Ratio: replicate by Litestream. The goal comes after \
             what was reached, in bold where it is missed.\n\n{others}",
            self.date,
            command.join(" "),
            sizes.name,
            sizes.rounds,
            self.machine,
            self.server,
        )
    }
}

/// The kind of the file system that a folder lies on.
fn file_system(mounts: &str, folder: &Path) -> String {
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?, words.next()?))
    });
    let under = mounts.filter(|(at, _)| folder.starts_with(at));
    // The last of several at one place is the one that is seen.
    under.max_by_key(|(at, _)| at.len()).map_or("unknown", |(_, kind)| kind).to_owned()
}

/// What a program prints; nothing if it cannot be asked.
fn said(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}

/// Puts it between the marks of the document.
pub(crate) fn write(text: &str) -> Outcome {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/PERFORMANCE.md");
    let old = std::fs::read_to_string(&path).map_err(|e| format!("read {}: {e}", path.display()))?;
    let new = between(&old, text).ok_or_else(|| format!("{} has no place for the table", path.display()))?;
    std::fs::write(&path, new).map_err(|e| format!("write {}: {e}", path.display()))
}

fn between(old: &str, text: &str) -> Option<String> {
    let (before, rest) = old.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{text}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_that_of_the_nearest_mount() {
        let mounts = "/dev/vda / ext4 rw 0 0\nproc /proc proc rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n";
        assert_eq!(file_system(mounts, Path::new("/tmp/a")), "tmpfs");
        assert_eq!(file_system(mounts, Path::new("/var/tmp")), "ext4");
    }

    #[test]
    fn only_what_lies_between_the_marks_is_replaced() {
        let old = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(between(&old, "new"), Some(format!("a\n{BEGIN}\nnew\n{END}\nb\n")));
        assert_eq!(between("no marks", "new"), None);
    }
}

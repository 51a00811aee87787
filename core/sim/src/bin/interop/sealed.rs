//! Sealed replicas and the Go program `age`: it opens every object of ours, Litestream restores what is left, we
//! restore what it sealed, and the script for restoring by hand restores with nothing else.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use replicate_sim::peers::{App, Outcome, Pace, Place, Side, compare, wait_until};

/// A kind of key.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    made: Made,
    /// Files prove who has made them, and are for a second key as well.
    signed: bool,
}

/// Who has made a key.
#[derive(Clone, Copy)]
enum Made {
    Us,
    /// `age-keygen` with these arguments.
    Age(&'static [&'static str]),
    /// `ssh-keygen`, once: the one of the test vectors.
    Ssh,
}

const SSH_KEY: &str = include_str!("../../../../tests/data/age/keys/ssh_ed25519");
const SSH_PUBLIC: &str = include_str!("../../../../tests/data/age/keys/ssh_ed25519.pub");

/// The shared secret of files that prove it.
const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// Every kind that `age` knows, made by either side.
pub(super) const KINDS: [Kind; 7] = [
    Kind { name: "x25519", made: Made::Us, signed: false },
    Kind { name: "pq", made: Made::Us, signed: false },
    Kind { name: "x25519", made: Made::Age(&[]), signed: false },
    Kind { name: "pq", made: Made::Age(&["-pq"]), signed: false },
    Kind { name: "x25519", made: Made::Us, signed: true },
    Kind { name: "pq", made: Made::Age(&["-pq"]), signed: true },
    Kind { name: "ssh", made: Made::Ssh, signed: false },
];

/// One database, one key.
pub(super) struct Trial<'a> {
    pub(super) ours: &'a Path,
    pub(super) litestreams: &'a [&'a Side],
    pub(super) age: &'a Path,
    pub(super) scratch: &'a Path,
}

impl Trial<'_> {
    pub(super) fn run(&self, kind: Kind) -> Outcome<String> {
        // Two kinds of one name follow each other.
        let _before = std::fs::remove_dir_all(self.scratch);
        make_dir(self.scratch)?;
        let key = self.scratch.join("key");
        let public = self.keygen(kind, &key)?;
        let database = self.scratch.join("app.db");
        let mut app = App::create(&database, 4096)?;
        app.live(|| Ok(()))?;
        let sealed = Place::file(self.scratch.join("sealed"));
        let second = self.scratch.join("second");
        let mut writer = Side::ours(self.ours).with("REPLICATE_AGE_RECIPIENT", &public);
        if kind.signed {
            let file = self.scratch.join("recipients");
            std::fs::write(&file, format!("# a spare key\n{}\n", self.keygen(kind, &second)?))
                .map_err(|e| e.to_string())?;
            writer = writer.with("REPLICATE_AGE_RECIPIENTS_FILE", &file.to_string_lossy());
            writer = writer.with("REPLICATE_AUTH_KEY", SECRET);
        }
        let mut running = writer.replicate(&database, &sealed, Pace::Lowest, &self.scratch.join("run"))?;
        wait_until("the first image arrives", Duration::from_secs(40), || {
            running.still_runs()?;
            Ok((sealed.last()? > 0).then_some(()))
        })?;
        app.live(|| Ok(()))?;
        let status = running.stop()?;
        if !status.success() {
            return Err(format!("we ended with {status}"));
        }
        app.close()?;

        let (stripped, resealed) =
            (Place::file(self.scratch.join("stripped")), Place::file(self.scratch.join("resealed")));
        let objects = objects(sealed.folder())?;
        for object in &objects {
            let name = object.strip_prefix(sealed.folder()).map_err(|e| e.to_string())?;
            let (plain, again) = (stripped.folder().join(name), resealed.folder().join(name));
            let begins = std::fs::read(object).map_err(|e| format!("read an object: {e}"))?;
            if !begins.starts_with(b"age-encryption.org/v1\n") {
                return Err(format!("{} is not sealed", object.display()));
            }
            let identity = ["-d".as_ref(), "-i".as_ref(), key.as_os_str()];
            call(Command::new(self.age).args(identity).arg("-o").arg(within(&plain)?).arg(object))?;
            if kind.signed {
                let opened = self.scratch.join("opened");
                call(Command::new(self.age).args(["-d", "-i"]).arg(&second).arg("-o").arg(&opened).arg(object))?;
                if std::fs::read(&opened).ok() != std::fs::read(&plain).ok() {
                    return Err(format!("{} opens differently with the second key", object.display()));
                }
            }
            call(Command::new(self.age).args(["-e", "-r", &public, "-o"]).arg(within(&again)?).arg(&plain))?;
        }
        for (place, side) in self.litestreams.iter().map(|side| (&stripped, *side)) {
            self.check(side, place, &database)?;
        }
        let reader = Side::ours(self.ours).with("REPLICATE_AGE_IDENTITY_FILE", &key.to_string_lossy());
        let demanding = reader.clone().with("REPLICATE_AUTH_KEY", SECRET);
        self.check(if kind.signed { &demanding } else { &reader }, &sealed, &database)?;
        self.check(&reader, &resealed, &database)?;
        // To a new file: one that exists would be refused for that alone.
        let foreign = demanding.restore(&resealed, &self.scratch.join("foreign.db"), &self.scratch.join("restore"));
        if !foreign.as_ref().is_err_and(|e| e.contains("not authenticated")) {
            return Err(format!("files of somebody else are not refused as such: {foreign:?}"));
        }
        self.by_hand(sealed.folder(), &key, &database)?;
        self.not_by_hand(&objects, &key, stripped.folder(), sealed.folder())?;
        let by = match kind.made {
            Made::Us => "us",
            Made::Age(_) => "age",
            Made::Ssh => "ssh-keygen",
        };
        Ok(format!("{} objects, key by {by}{}", objects.len(), if kind.signed { ", signed, two keys" } else { "" }))
    }

    /// The script refuses a file in the place of another one, and a plain one; and leaves nothing behind.
    fn not_by_hand(&self, objects: &[PathBuf], key: &Path, stripped: &Path, sealed: &Path) -> Outcome {
        let [.., before, last] = objects else { return Err("too few objects".to_owned()) };
        let name = last.strip_prefix(sealed).map_err(|e| e.to_string())?;
        let (output, good) = (self.scratch.join("not-by-hand.db"), std::fs::read(last).map_err(|e| e.to_string())?);
        for (other, why) in [(before.clone(), "another file than its name says"), (stripped.join(name), "not sealed")] {
            std::fs::copy(&other, last).map_err(|e| e.to_string())?;
            let refused = self.script(sealed, key, &output);
            if !refused.as_ref().is_err_and(|e| e.contains(why)) {
                return Err(format!("by hand, {} is not refused as {why}: {refused:?}", other.display()));
            }
            if output.exists() || output.with_extension("db.part").exists() {
                return Err(format!("by hand, something is left behind of {}", other.display()));
            }
        }
        std::fs::write(last, good).map_err(|e| e.to_string())
    }

    /// Makes a key pair; the public half.
    fn keygen(&self, kind: Kind, key: &Path) -> Outcome<String> {
        match kind.made {
            Made::Age(arguments) => {
                let keygen = self.age.with_file_name("age-keygen");
                call(Command::new(keygen).args(arguments).arg("-o").arg(key))?;
            }
            Made::Us => drop(call(Command::new(self.ours).args(["keygen", "--kind", kind.name, "-o"]).arg(key))?),
            Made::Ssh => std::fs::write(key, SSH_KEY).map_err(|e| format!("write the key: {e}"))?,
        }
        let public = call(Command::new(self.ours).args(["keygen", "-y"]).arg(key))?;
        let theirs = match kind.made {
            // With a comment behind it.
            Made::Ssh => format!("{}\n", SSH_PUBLIC.rsplit_once(' ').map_or(SSH_PUBLIC, |(key, _)| key)),
            _ => call(Command::new(self.age.with_file_name("age-keygen")).arg("-y").arg(key))?,
        };
        if public == theirs { Ok(public.trim().to_owned()) } else { Err("two public keys for one private".to_owned()) }
    }

    fn check(&self, side: &Side, place: &Place, database: &Path) -> Outcome {
        let name = place.folder().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let output = self.scratch.join(format!("{name}-by-{}.db", side.name.replace(' ', "-")));
        side.restore(place, &output, &self.scratch.join("restore"))?;
        compare(database, &output, true).map_err(|e| format!("{name} restored by {}: {e}", side.name))
    }

    /// The script, with `age` alone on its path.
    fn by_hand(&self, folder: &Path, key: &Path, database: &Path) -> Outcome {
        let output = self.scratch.join("by-hand.db");
        self.script(folder, key, &output)?;
        compare(database, &output, true).map_err(|e| format!("restored by hand: {e}"))
    }

    fn script(&self, folder: &Path, key: &Path, output: &Path) -> Outcome {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/python/restore_by_hand.py");
        let path = std::env::join_paths([self.age.parent().unwrap_or(Path::new("/")), "/usr/bin".as_ref()]);
        let path = path.map_err(|e| e.to_string())?;
        call(Command::new("python3").arg(script).arg(folder).arg(key).arg(output).env("PATH", path)).map(drop)
    }
}

/// Runs a program to its end; its output.
fn call(command: &mut Command) -> Outcome<String> {
    let done = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&done.stderr).trim())),
    }
}

fn make_dir(path: &Path) -> Outcome {
    std::fs::create_dir_all(path).map_err(|e| format!("create {}: {e}", path.display()))
}

/// The path, in a folder that is there.
fn within(path: &Path) -> Outcome<&Path> {
    path.parent().map_or(Ok(()), make_dir)?;
    Ok(path)
}

fn objects(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let wrap = |e: std::io::Error| format!("list {}: {e}", folder.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(wrap)? {
        let path = entry.map_err(wrap)?.path();
        match path.is_dir() {
            true => found.extend(objects(&path)?),
            false if path.extension().is_some_and(|x| x == "ltx") => found.push(path),
            false => {}
        }
    }
    found.sort();
    Ok(found)
}

//! Which module of the library may know which: `.ci/layers.toml` against the text of `core/src`.
//!
//! Every reference to another top-level module is an edge. An edge that the table does not allow fails, and
//! so does a cycle, whatever the table says. Comments and test modules do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::Outcome;
use crate::sh;

/// What each module may use.
type Table = BTreeMap<String, BTreeSet<String>>;

/// What each module uses, and one place for each use.
type Edges = BTreeMap<(String, String), String>;

/// Fails with every forbidden edge and the first cycle.
pub(crate) fn verify() -> Outcome {
    let table = parse_table(&sh::read(&sh::root().join(".ci/layers.toml"))?)?;
    let edges = scan(&sh::root().join("core/src"), &table)?;
    judge(&table, &edges)
}

/// Reads `module = ["other", …]` lines; nothing else of TOML is used.
fn parse_table(text: &str) -> Outcome<Table> {
    let mut table = Table::new();
    for line in text.lines().map(|l| l.split('#').next().unwrap_or_default().trim()).filter(|l| !l.is_empty()) {
        let bad = || format!("layers.toml: cannot read {line:?}");
        let (name, list) = line.split_once('=').ok_or_else(bad)?;
        let list = list.trim().strip_prefix('[').and_then(|l| l.strip_suffix(']')).ok_or_else(bad)?;
        let uses = list.split(',').map(|w| w.trim().trim_matches('"').to_owned()).filter(|w| !w.is_empty()).collect();
        if table.insert(name.trim().to_owned(), uses).is_some() {
            return Err(format!("layers.toml: {} is listed twice", name.trim()));
        }
    }
    match table.values().flatten().find(|used| !table.contains_key(*used)) {
        Some(unknown) => Err(format!("layers.toml: {unknown} is used but not listed")),
        None => Ok(table),
    }
}

fn scan(folder: &Path, table: &Table) -> Outcome<Edges> {
    let exports = exports(&sh::read(&folder.join("lib.rs"))?);
    let mut edges = Edges::new();
    for path in rust_files(folder)? {
        let inside = path.strip_prefix(folder).expect("listed below the folder");
        if inside == Path::new("lib.rs") {
            continue;
        }
        let module = inside.iter().next().expect("not empty").to_string_lossy().trim_end_matches(".rs").to_owned();
        if !table.contains_key(&module) {
            return Err(format!("core/src/{} is in no layer; add {module} to .ci/layers.toml", inside.display()));
        }
        for (line, used) in references(&sh::read(&path)?, depth(inside)) {
            // A module and a function of one name (`restore`): inside the module it is the module.
            let used = if used == module { used } else { exports.get(&used).cloned().unwrap_or(used) };
            if used != module && table.contains_key(&used) {
                let place = format!("core/src/{}:{line}", inside.display());
                edges.entry((module.clone(), used)).or_insert(place);
            }
        }
    }
    Ok(edges)
}

/// How many `super::` lead from a file to the root of the crate.
fn depth(inside: &Path) -> usize {
    let folders = inside.iter().count();
    if inside.file_name().is_some_and(|n| n == "mod.rs") { folders - 1 } else { folders }
}

/// Names that the root re-exports, and the module each comes from.
fn exports(root: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for statement in
        without_comments(root).split(';').filter_map(|s| s.rsplit_once("pub use ").map(|(_, s)| s.to_owned()))
    {
        let path = statement.trim().trim_start_matches("self::").trim_start_matches("crate::");
        let Some((module, names)) = path.split_once("::") else {
            continue;
        };
        for name in names.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|n| !n.is_empty()) {
            found.insert(name.to_owned(), module.to_owned());
        }
    }
    found
}

/// The first path segments after `crate::` (or the same written with `super::`), with their lines.
fn references(source: &str, depth: usize) -> Vec<(usize, String)> {
    let text = without_comments(without_tests(source));
    let up = "super::".repeat(depth);
    let mut found = Vec::new();
    for start in ["crate::", up.as_str()] {
        for (at, _) in text.match_indices(start) {
            let before = text[..at].chars().next_back();
            // `$crate::` in a macro is the same; `other_crate::` and a longer `super::` chain are not.
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let line = text[..at].matches('\n').count() + 1;
            found.extend(heads(&text[at + start.len()..]).into_iter().map(|name| (line, name)));
        }
    }
    found
}

/// The first segment of a path, or of each path of a `{…}` group.
fn heads(rest: &str) -> Vec<String> {
    let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = rest.strip_prefix('{') else {
        return vec![word(rest)];
    };
    let mut level = 0;
    let mut names = vec![String::new()];
    for c in group.chars() {
        match c {
            '{' => level += 1,
            '}' if level == 0 => break,
            '}' => level -= 1,
            ',' if level == 0 => names.push(String::new()),
            c => names.last_mut().expect("never empty").push(c),
        }
    }
    names.iter().map(|n| word(n.trim())).filter(|n| !n.is_empty() && n != "self").collect()
}

/// The part before the test module, which by our order of a file comes last.
fn without_tests(source: &str) -> &str {
    source.find("\n#[cfg(test)]\nmod ").map_or(source, |at| &source[..at])
}

/// The source with comments blanked; lines stay where they are. A `//` inside a text (a URL) cuts that line
/// short, which hides no path: paths are not written after URLs.
fn without_comments(source: &str) -> String {
    let lines = source.lines().map(|l| l.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn rust_files(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let error = |e: std::io::Error| format!("cannot list {}: {e}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(error)? {
        let path = entry.map_err(error)?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|x| x == "rs") && path.file_name().is_some_and(|n| n != "tests.rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn judge(table: &Table, edges: &Edges) -> Outcome {
    let allowed = |from: &String, to: &String| table.get(from).is_some_and(|uses| uses.contains(to));
    let mut wrong: Vec<String> = edges
        .iter()
        .filter(|((from, to), _)| !allowed(from, to))
        .map(|((from, to), place)| format!("{place}: {from} must not use {to}"))
        .collect();
    if let Some(cycle) = cycle(edges) {
        wrong.push(format!("cycle: {}", cycle.join(" -> ")));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// A cycle of modules, if there is one: what is left when modules that use nothing unfinished are taken away.
fn cycle(edges: &Edges) -> Option<Vec<String>> {
    let mut left: BTreeSet<&String> = edges.keys().flat_map(|(from, to)| [from, to]).collect();
    loop {
        let done = left.iter().copied().find(|m| !edges.keys().any(|(from, to)| from == *m && left.contains(to)));
        match done {
            Some(module) => left.remove(module),
            None => break,
        };
    }
    // Each module left uses another one left, so walking on must come back to a module seen before.
    let mut path = vec![*left.first()?];
    loop {
        let here = *path.last().expect("never empty");
        let next = edges.keys().find(|(from, to)| from == here && left.contains(to)).map(|(_, to)| to)?;
        if let Some(start) = path.iter().position(|m| *m == next) {
            path.push(next);
            return Some(path[start..].iter().map(|m| (*m).clone()).collect());
        }
        path.push(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(source: &str, depth: usize) -> Vec<String> {
        references(source, depth).into_iter().map(|(_, name)| name).collect()
    }

    fn edges(list: &[(&str, &str)]) -> Edges {
        list.iter().map(|(a, b)| ((a.to_string(), b.to_string()), format!("{a}.rs:1"))).collect()
    }

    #[test]
    fn references_are_found_in_groups_macros_and_by_super() {
        assert_eq!(names("use crate::error::{Error, Result};", 1), ["error"]);
        assert_eq!(names("use crate::{blob::{self, Body}, clock::Clock, Error};", 1), ["blob", "clock", "Error"]);
        assert_eq!(names("$crate::event::Event", 1), ["event"]);
        assert_eq!(names("use super::super::store::Store;", 2), ["store"]);
        assert_eq!(names("use super::sibling::Thing;", 2), Vec::<String>::new());
    }

    #[test]
    fn comments_and_test_modules_do_not_count() {
        assert!(names("//! See [`crate::Handle`].\nfn f() {} // crate::fleet\n", 1).is_empty());
        assert!(names("fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use crate::fleet::Fleet;\n}\n", 1).is_empty());
    }

    #[test]
    fn a_reexport_of_the_root_counts_as_its_module() {
        let found = exports("pub mod error;\npub use error::{Error, ErrorKind};\npub use crate::auto::Handle;\n");
        assert_eq!(found.get("Error").map(String::as_str), Some("error"));
        assert_eq!(found.get("Handle").map(String::as_str), Some("auto"));
    }

    #[test]
    fn a_forbidden_edge_fails_and_names_its_place() {
        let table = parse_table("error = []\nblob = [\"error\"]\nship = [\"blob\", \"error\"]\n").expect("valid");
        assert_eq!(judge(&table, &edges(&[("ship", "blob"), ("blob", "error")])), Ok(()));
        let error = judge(&table, &edges(&[("blob", "ship")])).expect_err("forbidden");
        assert!(error.contains("blob.rs:1: blob must not use ship"), "{error}");
    }

    #[test]
    fn a_cycle_fails_even_where_the_table_allows_its_edges() {
        let table = parse_table("a = [\"b\"]\nb = [\"c\"]\nc = [\"a\"]\nd = [\"a\"]\n").expect("valid");
        let error = judge(&table, &edges(&[("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")])).expect_err("cycle");
        assert_eq!(error, "cycle: a -> b -> c -> a");
    }

    #[test]
    fn a_seeded_violation_in_a_tree_is_found() {
        let folder = sh::target().join("layers-test");
        sh::fresh_dir(&folder.join("blob/s3")).expect("made");
        sh::write(&folder.join("lib.rs"), "pub mod blob;\npub mod ship;\n").expect("written");
        sh::write(&folder.join("ship.rs"), "use crate::blob::Body;\n").expect("written");
        sh::write(&folder.join("blob/mod.rs"), "pub struct Body;\n").expect("written");
        sh::write(&folder.join("blob/s3/put.rs"), "\nuse crate::ship::Shipper;\n").expect("written");
        let table = parse_table("blob = []\nship = [\"blob\"]\n").expect("valid");
        let found = scan(&folder, &table).expect("scanned");
        let error = judge(&table, &found).expect_err("seeded");
        assert!(error.contains("core/src/blob/s3/put.rs:2: blob must not use ship"), "{error}");
        sh::write(&folder.join("other.rs"), "").expect("written");
        assert!(scan(&folder, &table).is_err(), "a module without a layer must fail");
        std::fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn a_table_that_cannot_be_read_is_an_error() {
        for bad in ["error", "error = x", "a = []\na = []", "a = [\"missing\"]"] {
            assert!(parse_table(bad).is_err(), "{bad}");
        }
    }
}

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
            // A module and a function of one name (`restore`): before `::`, and inside the module, it is the module.
            let used = match used.strip_suffix("::") {
                Some(start) if table.contains_key(start) => start.to_owned(),
                start => {
                    let name = start.unwrap_or(&used);
                    if name == module { name.to_owned() } else { exports.get(name).cloned().unwrap_or(name.to_owned()) }
                }
            };
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
    let text = without_tests(&without_comments(source));
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

/// The first segment of a path, or of each path of a `{…}` group; with its `::` where more follows.
fn heads(rest: &str) -> Vec<String> {
    let word = |s: &str| {
        let end = s.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(s.len());
        let more = end > 0 && s[end..].starts_with("::");
        s[..end + if more { 2 } else { 0 }].to_owned()
    };
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

/// The source, without comments, with test modules blanked; lines stay where they are. A test module in a file of its
/// own (`mod tests;`) hides nothing of this one.
fn without_tests(source: &str) -> String {
    let mut text = source.to_owned();
    let mut from = 0;
    while let Some(found) = text[from..].find("#[cfg(test)]") {
        let start = from + found;
        from = start + "#[cfg(test)]".len();
        let item = text[from..].trim_start().trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
        let head = item.find(['{', ';']).map_or("", |end| &item[..=end]);
        if !head.starts_with("mod ") || !head.ends_with('{') {
            continue;
        }
        let open = text.len() - item.len() + head.len() - 1;
        let end = closing(&text, open).unwrap_or(text.len());
        let blank: String = text[start..end].chars().filter(|c| *c == '\n').collect();
        text.replace_range(start..end, &blank);
        from = start + blank.len();
    }
    text
}

/// Behind the brace that closes the one at `open`. Braces in texts and characters do not count.
fn closing(text: &str, open: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut level, mut at) = (0, open);
    while at < bytes.len() {
        match bytes[at] {
            b'{' => level += 1,
            b'}' if level == 1 => return Some(at + 1),
            b'}' => level -= 1,
            b'r' if starts_raw(&bytes[at..]) && !at.checked_sub(1).is_some_and(|i| is_word(bytes[i])) => {
                let hashes = bytes[at + 1..].iter().take_while(|b| **b == b'#').count();
                let end = format!("\"{}", "#".repeat(hashes));
                let inside = at + 2 + hashes;
                at = inside + text[inside..].find(&end)? + end.len() - 1;
            }
            b'"' => {
                at += 1;
                while bytes.get(at).is_some_and(|b| *b != b'"') {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            // A character; what is not closed like one is a lifetime.
            b'\'' if bytes.get(at + 1) == Some(&b'\\') => at += 2 + text[at + 2..].find('\'')?.max(1),
            b'\'' if bytes.get(at + 2) == Some(&b'\'') => at += 2,
            _ => {}
        }
        at += 1;
    }
    None
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn starts_raw(rest: &[u8]) -> bool {
    let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
    rest.get(1 + hashes) == Some(&b'"')
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
        references(source, depth).into_iter().map(|(_, name)| name.trim_end_matches("::").to_owned()).collect()
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
    fn what_follows_a_test_module_counts() {
        let declared = "//! Doc.\n\n#[cfg(test)]\nmod tests;\n\nuse crate::fleet::Member;\n";
        assert_eq!(references(declared, 1), [(6, "fleet::".to_owned())]);
        let texts = r###"let a = "}"; let b = '}'; let c = r#"" } "#; let d = '\''; let e: &'static str = "\"}";"###;
        let inside = format!(
            "#[cfg(test)]\nmod tests {{\n    use crate::auto::Handle;\n    fn f() {{ {texts} }}\n}}\nuse crate::ship::Ship;\n"
        );
        assert_eq!(references(&inside, 1), [(6, "ship::".to_owned())]);
        let function = "#[cfg(test)]\nfn f() {}\nuse crate::ship::Ship;\n";
        assert_eq!(names(function, 1), ["ship"]);
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
        let put = "//! Puts.\n\n#[cfg(test)]\nmod tests;\n\nuse crate::ship::Shipper;\n";
        sh::write(&folder.join("blob/s3/put.rs"), put).expect("written");
        let table = parse_table("blob = []\nship = [\"blob\"]\n").expect("valid");
        let found = scan(&folder, &table).expect("scanned");
        let error = judge(&table, &found).expect_err("seeded");
        assert!(error.contains("core/src/blob/s3/put.rs:6: blob must not use ship"), "{error}");
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

//! The option table of the README, made from the one table in the source.
//!
//! The source is read as text, so that this crate does not have to build the product first.

use std::path::PathBuf;

use crate::Outcome;
use crate::sh;

const BEGIN: &str = "<!-- options -->";
const END: &str = "<!-- /options -->";

/// The command `docs`.
pub(crate) fn rewrite(arguments: &[String]) -> Outcome {
    sh::no_arguments(arguments)?;
    let old = sh::read(&readme())?;
    let new = with_table(&old, &table()?)?;
    if new == old { Ok(()) } else { sh::write(&readme(), &new) }
}

/// Fails if the README's table is not the one of the source.
pub(crate) fn verify() -> Outcome {
    let old = sh::read(&readme())?;
    if with_table(&old, &table()?)? == old {
        Ok(())
    } else {
        Err("the option table of README.md is not that of core/src/config/key.rs; run `cargo xtask docs`".to_owned())
    }
}

fn readme() -> PathBuf {
    sh::root().join("README.md")
}

fn table() -> Outcome<String> {
    Ok(render(&parse(&sh::read(&sh::root().join("core/src/config/key.rs"))?)?))
}

/// One row: keyword, variable, default, meaning.
type Row = [String; 4];

/// The rows of the `keys! { … }` call: `Variant: "name", "ENV", "default", secret, "doc";` each.
fn parse(source: &str) -> Outcome<Vec<Row>> {
    let start = source.find("\nkeys! {").ok_or("key.rs has no `keys! {` table")?;
    let rest = &source[start..];
    let body = &rest[..rest.find("\n}").ok_or("the `keys!` table of key.rs is never closed")?];
    let mut strings = literals(body)?.into_iter();
    let mut rows = Vec::new();
    while let Some(name) = strings.next() {
        let mut next = || strings.next().ok_or_else(|| format!("the entry {name:?} of key.rs lacks a text"));
        let (env, default, doc) = (next()?, next()?, next()?);
        if !env.starts_with("REPLICATE_") {
            return Err(format!("the entry {name:?} of key.rs has the variable {env:?}"));
        }
        rows.push([name, env, default, doc]);
    }
    if rows.is_empty() { Err("the `keys!` table of key.rs is empty".to_owned()) } else { Ok(rows) }
}

/// The string literals of a piece of Rust source without raw strings.
fn literals(source: &str) -> Outcome<Vec<String>> {
    let mut found = Vec::new();
    let mut chars = source.chars();
    while chars.by_ref().any(|c| c == '"') {
        let mut text = String::new();
        loop {
            match chars.next() {
                Some('"') => break,
                Some('\\') => match chars.next() {
                    Some(c @ ('"' | '\\')) => text.push(c),
                    other => {
                        return Err(format!("unexpected escape {other:?} in a text of key.rs"));
                    }
                },
                Some(c) => text.push(c),
                None => return Err("a text of key.rs is never closed".to_owned()),
            }
        }
        found.push(text);
    }
    Ok(found)
}

fn render(rows: &[Row]) -> String {
    let mut text = String::from("| variable | keyword | default | meaning |\n|---|---|---|---|\n");
    for [name, env, default, doc] in rows {
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        text += &format!("| `{env}` | `{name}` | {default} | {} |\n", doc.replace('|', "\\|"));
    }
    text
}

fn with_table(readme: &str, table: &str) -> Outcome<String> {
    let missing = || format!("README.md lacks the markers {BEGIN} and {END}");
    let (before, rest) = readme.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "macro_rules! keys { }\n\nkeys! {\n    Url: \"url\", \"REPLICATE_URL\", \"\", false,\n        \
                          \"The `a|b` replica.\";\n    Key: \"key\", \"REPLICATE_KEY\", \"1s\", true,\n        \"A \\\"key\\\".\";\n}\n";

    #[test]
    fn rows_come_from_the_source_in_order() {
        let rows = parse(SOURCE).expect("valid");
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[1], ["key", "REPLICATE_KEY", "1s", "A \"key\"."].map(str::to_owned));
        assert!(render(&rows).contains("| `REPLICATE_URL` | `url` |  | The `a\\|b` replica. |"));
    }

    #[test]
    fn an_entry_that_lost_a_text_is_an_error() {
        assert!(parse(&SOURCE.replace("\"1s\", ", "")).is_err());
        assert!(parse("keys").is_err());
    }

    #[test]
    fn the_table_is_replaced_between_the_markers_only() {
        let readme = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(with_table(&readme, "new\n").expect("markers"), format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert!(with_table("no markers", "new\n").is_err());
    }
}

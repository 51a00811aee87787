//! Links between the documents of the repository: every relative one must lead to a file.
//!
//! Links to the web are not followed; a check must not depend on other people's servers.

use std::path::Path;

use crate::Outcome;
use crate::sh;

/// Fails with every link to a file that is not there.
pub(crate) fn verify() -> Outcome {
    let listed = sh::quiet(sh::cmd("git").args(["ls-files", "*.md"]))?;
    let mut broken = Vec::new();
    for file in listed.lines() {
        let path = sh::root().join(file);
        let folder = path.parent().expect("a file lies in a folder");
        let text = sh::read(&path)?;
        broken.extend(broken_links(&text, folder).into_iter().map(|link| format!("{file}: {link}")));
    }
    if broken.is_empty() { Ok(()) } else { Err(format!("links that lead nowhere:\n{}", broken.join("\n"))) }
}

fn broken_links(text: &str, folder: &Path) -> Vec<String> {
    let links = text.match_indices("](").filter_map(|(at, _)| {
        let rest = &text[at + 2..];
        rest.split_once(')').map(|(link, _)| link)
    });
    let relative = links.filter(|l| !l.contains("://") && !l.starts_with('#') && !l.contains(char::is_whitespace));
    let file = |link: &str| link.split('#').next().unwrap_or_default().to_owned();
    relative.filter(|link| !folder.join(file(link)).exists()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_a_missing_file_is_found_and_others_are_not() {
        let text = "[a](README.md) [b](https://example.org/x) [c](#here) [d](core/docs) [e](missing.md#x)";
        assert_eq!(broken_links(text, &sh::root()), ["missing.md#x"]);
    }
}

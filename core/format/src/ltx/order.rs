//! Which page may follow which in a file. The encoder and the decoder hold every page against the same rules.

use crate::Pgno;
use crate::error::{FormatError, Result};
use crate::ltx::header::Header;

/// Checks that page `pgno` may follow page `last`.
pub(crate) fn check_next(header: &Header, last: Option<Pgno>, pgno: Pgno, at: u64) -> Result<()> {
    let lock_page = header.page_size.lock_page();
    let bad = |expected: String| Err(FormatError::invalid("ltx page number", at, expected, pgno));
    if pgno.get() > header.commit {
        return bad(format!("at most {}", header.commit));
    }
    if pgno == lock_page {
        return bad("no lock page".to_owned());
    }
    if header.is_snapshot() {
        let next = following(last, lock_page);
        if next != Some(pgno) {
            return bad(format!("{} next in a snapshot", next.map_or(0, Pgno::get)));
        }
    } else if last.is_some_and(|last| pgno <= last) {
        return bad(format!("more than {}", last.map_or(0, Pgno::get)));
    }
    Ok(())
}

/// Checks that the pages may end after `last`: a snapshot holds them all.
pub(crate) fn check_complete(header: &Header, last: Option<Pgno>, at: u64) -> Result<()> {
    let expected = header.last_page();
    if header.is_snapshot() && last != expected {
        let found = last.map_or(0, Pgno::get);
        let expected = format!("{} last in a snapshot", expected.map_or(0, Pgno::get));
        return Err(FormatError::invalid("ltx page number", at, expected, found));
    }
    Ok(())
}

fn following(last: Option<Pgno>, lock_page: Pgno) -> Option<Pgno> {
    let next = last.map_or(1, |last| last.get().saturating_add(1));
    Pgno::new(if next == lock_page.get() { next + 1 } else { next })
}

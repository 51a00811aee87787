//! A way of SQLite to its files that reads ahead, for the check of a restored database.
//!
//! SQLite reads page by page, which is a system call each: three quarters of the time that a check takes. It goes through
//! a table twice, first from its end to its start. Reading what follows on the last read, or comes before it, in larger
//! pieces is as fast as a memory map, and a disk that fails then is an error, where under a map it is a signal that ends
//! the host. Only for files that nobody changes. Called by `check`.
//!
//! It is SQLite's usual VFS (<https://sqlite.org/vfs.html>) with another `xRead`: files have their usual form, and a table
//! of methods of their own, behind which lies what was read ahead.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ops::Range;
use std::ptr;
use std::sync::OnceLock;

use rusqlite::ffi;

/// Most bytes of one read.
const MOST: usize = 256 << 10;
const NAME: &CStr = c"replicate-ahead";

/// The VFS to open a database with; an error of SQLite's if there is none.
pub(super) fn vfs() -> rusqlite::Result<&'static CStr> {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    match *REGISTERED.get_or_init(register) {
        ffi::SQLITE_OK => Ok(NAME),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

fn register() -> c_int {
    // SAFETY: the default is SQLite's own and never goes. Its copy keeps the functions and what they work on, and is
    // leaked because SQLite keeps it.
    unsafe {
        let usual = ffi::sqlite3_vfs_find(ptr::null());
        if usual.is_null() {
            return ffi::SQLITE_NOTFOUND;
        }
        let mut vfs = usual.read();
        vfs.zName = NAME.as_ptr();
        vfs.pNext = ptr::null_mut();
        vfs.xOpen = Some(open);
        ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0)
    }
}

/// What a file's methods are part of.
#[repr(C)]
struct Methods {
    /// First, so that a pointer to it points to all.
    own: ffi::sqlite3_io_methods,
    usual: *const ffi::sqlite3_io_methods,
    ahead: Ahead,
}

impl Methods {
    /// # Safety
    /// The file is one that [`open`] has opened, and nobody else uses it for as long as the reference lives.
    unsafe fn of<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Self {
        // SAFETY: its methods were put there by `open`, as the first of this.
        unsafe { &mut *(*file).pMethods.cast_mut().cast::<Self>() }
    }
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    // SAFETY: all is passed on as SQLite gives it. A file that is open has methods, which stay where they are.
    unsafe {
        let usual = ffi::sqlite3_vfs_find(ptr::null());
        let Some(usual_open) = usual.as_ref().and_then(|usual| usual.xOpen) else { return ffi::SQLITE_CANTOPEN };
        let code = usual_open(usual, name, file, flags, flags_out);
        if let (ffi::SQLITE_OK, Some(usual)) = (code, (*file).pMethods.as_ref()) {
            let mut len = 0;
            let known = usual.xFileSize.is_some_and(|size| size(file, &raw mut len) == ffi::SQLITE_OK);
            let ahead = Ahead { len: u64::try_from(len).ok().filter(|_| known).unwrap_or(0), ..Ahead::default() };
            let own = ffi::sqlite3_io_methods { xRead: Some(read), xClose: Some(close), ..*usual };
            (*file).pMethods = Box::into_raw(Box::new(Methods { own, usual, ahead })).cast();
        }
        code
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file that is open, and once; the box was made by `open`.
    unsafe {
        let methods = Box::from_raw((*file).pMethods.cast_mut().cast::<Methods>());
        (*file).pMethods = methods.usual;
        (*methods.usual).xClose.map_or(ffi::SQLITE_IOERR_CLOSE, |close| close(file))
    }
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, len: c_int, offset: i64) -> c_int {
    // SAFETY: the file is open and one thread uses it; there is room for `len` bytes.
    unsafe {
        let methods = Methods::of(file);
        let Some(usual) = (*methods.usual).xRead else { return ffi::SQLITE_IOERR_READ };
        if let (Ok(from), Ok(len)) = (u64::try_from(offset), usize::try_from(len))
            && let Some(found) = methods.ahead.take(from, len, |start, piece| {
                let (to, len) = (piece.as_mut_ptr().cast(), piece.len() as c_int);
                usual(file, to, len, start.cast_signed()) == ffi::SQLITE_OK
            })
        {
            ptr::copy_nonoverlapping(found.as_ptr(), to.cast(), len);
            return ffi::SQLITE_OK;
        }
        usual(file, to, len, offset)
    }
}

/// What was read ahead, and of how much.
#[derive(Debug, Default)]
struct Ahead {
    /// Bytes of the file.
    len: u64,
    start: u64,
    piece: Vec<u8>,
    /// The last read.
    last: Range<u64>,
}

impl Ahead {
    /// These bytes, if they were read ahead, or are now: where they are neighbours of the last ones, `fill` reads twice as
    /// many at once as the last time, in the same direction. `None` if they are to be read alone.
    fn take(&mut self, from: u64, len: usize, fill: impl FnOnce(u64, &mut [u8]) -> bool) -> Option<&[u8]> {
        let wanted = from..from.checked_add(len as u64)?;
        let last = std::mem::replace(&mut self.last, wanted.clone());
        if self.place(&wanted).is_none() {
            let more = MOST.min(2 * self.piece.len().max(len)) as u64;
            let ahead = match () {
                () if wanted.start == last.end => wanted.start..self.len.min(wanted.start.saturating_add(more)),
                () if wanted.end == last.start => wanted.end.saturating_sub(more)..wanted.end,
                () => 0..0,
            };
            self.start = ahead.start;
            self.piece.resize(usize::try_from(ahead.end.saturating_sub(ahead.start)).ok()?, 0);
            if self.place(&wanted).is_none() || !fill(self.start, &mut self.piece) {
                self.piece.clear();
                return None;
            }
        }
        let place = self.place(&wanted)?;
        self.piece.get(place)
    }

    /// Where these bytes lie in the piece.
    fn place(&self, wanted: &Range<u64>) -> Option<Range<usize>> {
        let index = |offset: u64| usize::try_from(offset.checked_sub(self.start)?).ok();
        let (start, end) = (index(wanted.start)?, index(wanted.end)?);
        (end <= self.piece.len()).then_some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 10_000 * 512;

    /// Reads a page; the length of the piece that it took, 0 where it was there, and `None` if it is to be read alone.
    fn take(ahead: &mut Ahead, page: u64) -> Option<usize> {
        let mut read = 0;
        let found = ahead.take(page * 512, 512, |start, piece| {
            assert!(start + piece.len() as u64 <= LEN, "not beyond the end");
            piece.chunks_mut(512).zip(start / 512..).for_each(|(bytes, page)| bytes.fill(page as u8));
            read = piece.len();
            true
        });
        assert_eq!(found?, [page as u8; 512]);
        Some(read)
    }

    #[test]
    fn pieces_grow_while_reads_follow_on_each_other_in_either_direction() {
        let mut ahead = Ahead { len: LEN, ..Ahead::default() };
        for pages in [Vec::from_iter(41..48), Vec::from_iter((33..40).rev())] {
            assert_eq!(take(&mut ahead, 5000), None, "elsewhere");
            assert_eq!(take(&mut ahead, 40), None, "what was there is forgotten");
            let sizes: Vec<_> = pages.into_iter().map(|page| take(&mut ahead, page).expect("ahead")).collect();
            assert_eq!(sizes, [1024, 0, 2048, 0, 0, 0, 4096]);
        }
        let pieces = |ahead: &mut Ahead, pages: &mut dyn Iterator<Item = u64>| {
            Vec::from_iter(pages.map(|page| take(ahead, page).expect("ahead")).filter(|&len| len > 0))
        };
        take(&mut ahead, 0);
        let there = pieces(&mut ahead, &mut (1..10_000));
        let back = pieces(&mut ahead, &mut (0..10_000).rev());
        for pieces in [there, back] {
            assert!(pieces.len() < 35 && pieces.contains(&MOST), "{pieces:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_ahead_is_left_to_a_read_of_its_own() {
        let mut ahead = Ahead { len: 1024, ..Ahead::default() };
        assert!(ahead.take(0, 512, |_, _| false).is_none(), "the disk fails");
        assert!(ahead.take(512, 512, |_, piece| piece.len() == 512).is_some(), "as much as is there");
        assert!(ahead.take(1024, 512, |_, _| unreachable!("beyond the end")).is_none());
        assert!(ahead.take(u64::MAX - 4, 4, |_, _| unreachable!("beyond all ends")).is_none());
        assert!(ahead.take(u64::MAX, 512, |_, _| unreachable!("no place")).is_none());
    }
}

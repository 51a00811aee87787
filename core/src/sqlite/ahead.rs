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

/// SQLite's own, whatever the program has made the default.
pub(super) fn usual() -> Option<*mut ffi::sqlite3_vfs> {
    // SAFETY: the name is a terminated string.
    let vfs = unsafe { ffi::sqlite3_vfs_find(c"unix".as_ptr()) };
    // It is static in SQLite: once found it is always there.
    (!vfs.is_null()).then_some(vfs)
}

fn register() -> c_int {
    // SAFETY: the copy keeps the functions and what they work on, and is leaked because SQLite keeps it.
    unsafe {
        let Some(usual) = usual() else { return ffi::SQLITE_NOTFOUND };
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
    const READ_ONLY: c_int = ffi::SQLITE_OPEN_MAIN_DB | ffi::SQLITE_OPEN_READONLY;
    // SAFETY: all is passed on as SQLite gives it. A file that is open has methods, which stay where they are.
    unsafe {
        let Some(usual) = usual() else { return ffi::SQLITE_CANTOPEN };
        let Some(usual_open) = (*usual).xOpen else { return ffi::SQLITE_CANTOPEN };
        let code = usual_open(usual, name, file, flags, flags_out);
        // Scratch files of queries are written too.
        if let (ffi::SQLITE_OK, READ_ONLY, Some(usual)) = (code, flags & READ_ONLY, (*file).pMethods.as_ref()) {
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
    use rusqlite::{Connection, OpenFlags};

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

    /// The file behind the connection.
    fn file(connection: &Connection) -> *mut ffi::sqlite3_file {
        let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
        let (command, to) = (ffi::SQLITE_FCNTL_FILE_POINTER, (&raw mut file).cast());
        // SAFETY: the command writes a pointer, and there is room for one.
        let code = unsafe { ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), command, to) };
        assert_eq!(code, ffi::SQLITE_OK);
        file
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "databases of the test")]
    fn sqlite_reads_through_it_what_it_reads_without_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let rows = "SELECT count(*), sum(length(b)), group_concat(substr(b, -4)) FROM (SELECT b FROM t ORDER BY b)";
        let told = |connection: &Connection, sql: &str| {
            connection.query_row(sql, [], |row| Ok(format!("{:?}", (0..3).map(|n| row.get_ref(n)).collect::<Vec<_>>())))
        };
        let usual = Connection::open(&path).unwrap();
        let insert = "CREATE TABLE t(b);
            INSERT INTO t WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 5000)
            SELECT printf('%0300d', x * 7919 % 5000) FROM n;
            CREATE INDEX i ON t(b);";
        usual.execute_batch(insert).unwrap();
        let ahead =
            || Connection::open_with_flags_and_vfs(&path, OpenFlags::SQLITE_OPEN_READ_ONLY, vfs().unwrap()).unwrap();
        let connection = ahead();
        // SAFETY: the connection is open, and idle while the reference lives.
        let ahead_of = || unsafe { Methods::of(file(&connection)).ahead.piece.len() };
        assert_eq!(told(&connection, rows).unwrap(), told(&usual, rows).unwrap());
        let check = connection.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
        assert_eq!(check.unwrap(), "ok");
        connection.query_row("SELECT sum(length(b)) FROM t NOT INDEXED", [], |_| Ok(())).unwrap();
        assert!(ahead_of() > 4096, "the pages of a table are neighbours");
        drop(connection);

        // A file that ends early is damage, not an error of the disk.
        let len = std::fs::metadata(&path).unwrap().len();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len / 2 + 100).unwrap();
        let (without, with) = (told(&Connection::open(&path).unwrap(), rows), told(&ahead(), rows));
        assert_eq!(with.unwrap_err().to_string(), without.unwrap_err().to_string());
    }
}

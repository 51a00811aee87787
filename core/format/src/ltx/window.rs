//! A stretch of the input held in memory: the decoder looks at frames in place and moves on.
//!
//! Memory is fixed by the page size, whatever lengths the input declares. Reads are as large as the free part
//! allows, so an unbuffered reader below is fine.

use std::io::{ErrorKind, Read};

use crate::error::{FormatError, Result};

/// Room of a window before the page size is known, and the least it has: large enough for cheap reads, small
/// enough for a merge of hundreds of files.
pub(crate) const MIN_ROOM: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Window<R> {
    input: R,
    buf: Vec<u8>,
    start: usize,
    end: usize,
    /// Offset in the input of the first byte held.
    at: u64,
}

impl<R: Read> Window<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, buf: vec![0; MIN_ROOM], start: 0, end: 0, at: 0 }
    }

    /// Makes room for `room` bytes at once.
    pub(crate) fn reserve(&mut self, room: usize) {
        if self.buf.len() < room {
            self.buf.resize(room, 0);
        }
    }

    /// Offset in the input of the next byte.
    pub(crate) const fn at(&self) -> u64 {
        self.at
    }

    /// The next `len` bytes, read if need be.
    pub(crate) fn peek(&mut self, len: usize, what: &'static str) -> Result<&[u8]> {
        if self.end - self.start < len {
            self.fill(len)?;
            let found = self.end - self.start;
            if found < len {
                return Err(FormatError::truncated(what, self.at, len as u64, found as u64));
            }
        }
        Ok(&self.buf[self.start..self.start + len])
    }

    /// The bytes a `peek` of that length would give; they are there already.
    pub(crate) fn held(&self, len: usize) -> &[u8] {
        &self.buf[self.start..self.start + len]
    }

    /// Moves over bytes that were peeked.
    pub(crate) fn consume(&mut self, len: usize) {
        debug_assert!(len <= self.end - self.start, "only peeked bytes are consumed");
        self.start += len;
        self.at += len as u64;
    }

    /// Whether the input ends here.
    pub(crate) fn at_end(&mut self) -> Result<bool> {
        if self.start == self.end {
            self.fill(1)?;
        }
        Ok(self.start == self.end)
    }

    fn fill(&mut self, len: usize) -> Result<()> {
        assert!(len <= self.buf.len(), "no part is longer than the window");
        if self.start + len > self.buf.len() || self.start == self.end {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        while self.end - self.start < len {
            match self.input.read(&mut self.buf[self.end..]) {
                Ok(0) => return Ok(()),
                Ok(read) => self.end += read,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

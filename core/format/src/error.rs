//! What is wrong with bytes: where, what was expected and what was found.
//!
//! Every decoder and encoder of this crate returns these. Failures of the caller's `Read` or `Write` are
//! kept apart as [`FormatError::Io`]: they say nothing about the bytes, and a retry may cure them, while
//! the other variants stay true however often the same bytes are read.

use std::borrow::Cow;
use std::fmt;
use std::io;

/// The result of reading or writing a format.
pub type Result<T, E = FormatError> = std::result::Result<T, E>;

/// Why bytes were refused, or why an encoder refused to write them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// A field has a value that its format does not allow.
    #[error("invalid {what}: expected {expected} found {found} at={at}")]
    Invalid {
        /// The field.
        what: &'static str,
        /// Offset of the field from the start of the file or slice, 0 where it has none.
        at: u64,
        /// What the format allows there.
        expected: Cow<'static, str>,
        /// What was there.
        found: Cow<'static, str>,
    },
    /// The input ends before the format does.
    #[error("truncated {what}: needed {needed} bytes found {found} at={at}")]
    Truncated {
        /// The part that is cut.
        what: &'static str,
        /// Offset at which that part starts.
        at: u64,
        /// Bytes the part has at least.
        needed: u64,
        /// Bytes that were there.
        found: u64,
    },
    /// A checksum does not fit the bytes it covers.
    #[error("{what} mismatch: expected {expected:016x} found {found:016x}")]
    Checksum {
        /// The checksum.
        what: &'static str,
        /// The value stored in the input.
        expected: u64,
        /// The value computed from the bytes.
        found: u64,
    },
    /// The caller broke a rule of the interface; the bytes are not at fault.
    #[error("wrong use of {what}: {why}")]
    Misuse {
        /// The encoder, decoder or function.
        what: &'static str,
        /// The rule.
        why: &'static str,
    },
    /// The reader or writer below failed.
    #[error("input or output failed: {0}")]
    Io(#[from] io::Error),
}

impl FormatError {
    /// A field with a value outside its format.
    pub(crate) fn invalid(
        what: &'static str,
        at: u64,
        expected: impl Into<Cow<'static, str>>,
        found: impl fmt::Display,
    ) -> Self {
        Self::Invalid { what, at, expected: expected.into(), found: Cow::Owned(found.to_string()) }
    }

    /// An input that ends too early.
    pub(crate) const fn truncated(what: &'static str, at: u64, needed: u64, found: u64) -> Self {
        Self::Truncated { what, at, needed, found }
    }

    /// Whether the input ended before the format did.
    #[must_use]
    pub const fn is_truncated(&self) -> bool {
        matches!(self, Self::Truncated { .. })
    }

    /// Whether the reader or writer failed, rather than the bytes.
    #[must_use]
    pub const fn is_io(&self) -> bool {
        matches!(self, Self::Io(_))
    }
}

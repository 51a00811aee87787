//! The one error type of the public API, and the one table of its kinds.
//!
//! A kind says what the caller must do, not where it happened. Modules inside may have small enums of their
//! own; they become an [`Error`] here or in their `From` implementation, once.

use std::borrow::Cow;
use std::fmt;

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal, $retryable:literal;)*) => {
        /// What kind of failure it is, hence what the caller should do.
        ///
        /// The numbers are stable: they are the return codes of the C interface and the exit codes of the
        /// command are derived from them.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum ErrorKind { $($(#[$doc])* $name = $code,)* }

        impl ErrorKind {
            /// Every kind, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name in every language: upper case, words joined by `_`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whether trying again later, without changing anything, can help.
            #[must_use]
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$name => $retryable,)* }
            }
        }
    };
}

kinds! {
    /// An option, URL, key or interval is wrong. Nothing was done. Correct it.
    Config = 1, "CONFIG", false;
    /// SQLite refused: the database is damaged, not a database, or cannot be opened.
    Database = 2, "DATABASE", false;
    /// The store or the network failed in a way that often passes.
    Unavailable = 3, "UNAVAILABLE", true;
    /// There is no backup, or none that reaches the wanted transaction or time.
    NoBackup = 4, "NO_BACKUP", false;
    /// The caller cancelled.
    Cancelled = 5, "CANCELLED", false;
    /// The time given ran out; the work goes on where it belongs to the engine.
    Timeout = 6, "TIMEOUT", true;
    /// The handle was stopped.
    Closed = 7, "CLOSED", false;
    /// The process was forked after replication started; start again in the child.
    Forked = 8, "FORKED", false;
    /// Something else holds what is needed: a lock, another replicator, an open database.
    Busy = 9, "BUSY", true;
    /// No key opens it, or a key is wrong.
    Keys = 10, "KEYS", false;
    /// Bytes of a backup are damaged or not what their name says.
    Corrupt = 11, "CORRUPT", false;
    /// The output exists and overwriting was not asked for.
    Exists = 12, "EXISTS", false;
    /// This platform, file system or mode cannot be served safely.
    Unsupported = 13, "UNSUPPORTED", false;
    /// The store refuses: wrong credentials or no permission.
    Denied = 14, "DENIED", false;
    /// Another writer has written to this replica, or the replica is not the one this database belongs to.
    Diverged = 15, "DIVERGED", false;
    /// The local disk is full or fails.
    Disk = 16, "DISK", true;
    /// A defect of this library; please report it.
    Internal = 99, "INTERNAL", false;
}

/// What failed, in a form to act on ([`kind`](Self::kind)), to show ([`Display`](fmt::Display)) and to log.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    reason: Option<&'static str>,
    source: Option<std::sync::Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of this kind. The message is lower case, one line, without secrets, with facts as `key=value`.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), hint: None, reason: None, source: None }))
    }

    /// The same with a sentence that tells the way out.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The same with the name of its reason.
    #[must_use]
    pub fn with_reason(mut self, reason: &'static str) -> Self {
        self.0.reason = Some(reason);
        self
    }

    /// The same with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(std::sync::Arc::new(source));
        self
    }

    /// The same with a few words before the message that say what was being done.
    #[must_use]
    pub fn while_doing(mut self, what: impl fmt::Display) -> Self {
        self.0.message = format!("{what}: {}", self.0.message).into();
        self
    }

    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The stable number of the kind.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.0.kind as u16
    }

    /// Whether trying again later, unchanged, can help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.kind.is_retryable()
    }

    /// The message without hint and causes.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The way out, where there is one to name.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Which reason of its kind it is, where programs may want to tell them apart: upper case, words joined by `_`, the
    /// same in every language. For what does not open: [`SealError::name`](crate::seal::SealError::name).
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        self.0.reason
    }

    /// A failure of a local file, told apart by what the system answered.
    pub fn disk(what: impl fmt::Display, path: &std::path::Path, error: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let message = format!("{what}: {error} path={}", path.display());
        let made = Self::new(ErrorKind::Disk, message).with_source(error);
        match made.0.source.as_ref().and_then(|s| s.downcast_ref::<std::io::Error>()).map(std::io::Error::kind) {
            Some(Io::StorageFull | Io::QuotaExceeded) => {
                made.with_hint("free space on this disk; replication resumes by itself")
            }
            Some(Io::PermissionDenied | Io::ReadOnlyFilesystem) => {
                made.with_hint("the folder of the database must be writable for the user that runs this program")
            }
            _ => made,
        }
    }

    /// What calls answer in a process that was forked from one that replicates.
    #[must_use]
    pub fn forked() -> Self {
        Self::new(ErrorKind::Forked, "this process was forked after replication had started").with_hint(
            "start replication in the child itself, after the fork (post-fork hook), or use spawn instead of fork",
        )
    }

    /// A defect of this library.
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind.name(), self)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|s| s as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_unique_numbers_and_names() {
        for (i, a) in ErrorKind::ALL.iter().enumerate() {
            for b in &ErrorKind::ALL[i + 1..] {
                assert_ne!(*a as u16, *b as u16);
                assert_ne!(a.name(), b.name());
            }
        }
    }

    #[test]
    fn a_full_disk_says_so() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = Error::disk("write spool", std::path::Path::new("x"), full);
        assert_eq!(error.kind(), ErrorKind::Disk);
        assert!(error.hint().is_some_and(|h| h.contains("free space")));
    }
}

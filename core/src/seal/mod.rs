//! Sealing: age files that the standard `age` program opens, with keys that last.
//!
//! Bytes in, bytes out: nothing here reads a file or asks a store. `store` seals what it puts and opens what it
//! gets, and nothing reaches a bucket by another way.
//!
//! Key pairs and their text are in `recipients` and `identities` (private ones in `classic`, `hybrid` and `ssh`); what a file
//! looks like is in `header` and `payload`; `opener` reads one as it arrives. `Keys` is what one replica is
//! sealed to and opened with. How a file is put together is in `core/docs/SEALING.md`.

mod auth;
mod bech32;
mod classic;
mod crypto;
mod header;
mod hybrid;
mod identities;
mod keys;
mod list;
mod opener;
mod payload;
mod recipients;
mod ssh;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod vectors;

use crate::error::{Error, ErrorKind};

pub use self::identities::{GeneratedIdentity, Identities, IdentityKind, generate_identity, recipient_of};
pub use self::keys::{Keys, KeysBuilder};
pub use self::recipients::Recipients;

pub(crate) use self::auth::{Chain, Link, Place};
pub(crate) use self::header::{Header, HeaderParser, LONGEST as LONGEST_HEADER, MAGIC_START};
pub(crate) use self::keys::RewrapError;
pub(crate) use self::opener::Opener;
pub(crate) use self::payload::{CHUNK, Geometry, NONCE, PayloadKey, SEALED_CHUNK};
use self::recipients::is_low_order;

/// Why a sealed file does not open. The source of the [`Error`] that is returned for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Private keys are set and it is not sealed at all.
    #[error("not sealed: it is no age file")]
    NotAge,
    /// Its header is malformed or cut.
    #[error("malformed header: {0}")]
    Header(&'static str),
    /// It is sealed, to none of the private keys at hand.
    #[error("sealed to other keys")]
    NoMatch,
    /// A key opens it, but its header was changed.
    #[error("its header was changed")]
    BadMac,
    /// A chunk was changed, or the file was cut or lengthened.
    #[error("sealed data is damaged: {why} chunk={chunk}")]
    Payload {
        /// Which chunk, from 0.
        chunk: u64,
        /// What about it.
        why: &'static str,
    },
    /// It is sealed, and there is no private key at hand.
    #[error("sealed, and no age identity is set")]
    NoIdentity,
    /// An authentication key is set, and the file does not prove that its holder made it, for this place.
    #[error("not authenticated: {0}")]
    Forged(&'static str),
}

impl SealError {
    /// The name of the reason in every language: [`Error::reason`].
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NotAge => "NOT_AGE",
            Self::Header(_) => "HEADER",
            Self::NoMatch => "NO_MATCH",
            Self::BadMac => "BAD_MAC",
            Self::Payload { .. } => "PAYLOAD",
            Self::NoIdentity => "NO_IDENTITY",
            Self::Forged(_) => "FORGED",
        }
    }

    /// The public error, with what it is about.
    pub(crate) fn into_error(self, about: impl std::fmt::Display) -> Error {
        let kind = match self {
            Self::NoMatch | Self::NoIdentity | Self::NotAge => ErrorKind::Keys,
            Self::Header(_) | Self::BadMac | Self::Payload { .. } | Self::Forged(_) => ErrorKind::Corrupt,
        };
        let error = Error::new(kind, format!("{self} {about}")).with_reason(self.name()).with_source(self);
        match self {
            Self::NotAge => {
                error.with_hint("if this replica was written unsealed once, allow it by age_allow_plaintext")
            }
            Self::NoIdentity => error.with_hint("set REPLICATE_AGE_IDENTITY or REPLICATE_AGE_IDENTITY_FILE"),
            Self::NoMatch => error.with_hint("give the private key that belongs to the public key it was sealed to"),
            _ => error,
        }
    }
}

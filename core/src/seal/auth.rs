//! Who made a file: an extra stanza that only holders of a shared secret can write, for one file at one place.
//!
//! age says nothing of senders: whoever knows the public key can make a file that opens. The stanza
//! `-> replicate/auth hmac-sha256` holds an HMAC over the file's place and a commitment to its file key. Only
//! those who know the file key can make chunks that open, so it covers the payload; the header's own code keeps
//! it in place. Other programs skip it, as they must.

use age_core::format::{FileKey, Stanza};
use age_core::secrecy::ExposeSecret;
use replicate_format::{Level, TxidRange};

use super::SealError;
use super::crypto::{self, Secret32};

const TAG: &str = "replicate/auth";
const METHOD: &str = "hmac-sha256";

/// Which file of a replica a file is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    /// Its level.
    pub(crate) level: Level,
    /// What it covers.
    pub(crate) txids: TxidRange,
}

/// The shared secret.
pub(super) struct AuthKey(Box<Secret32>);

impl AuthKey {
    pub(super) fn new(key: Box<Secret32>) -> Self {
        Self(key)
    }

    /// Sixteen hex digits that change when the secret does, and tell nothing of it.
    pub(super) fn id(&self) -> String {
        let digest = crypto::hmac(self.0.as_slice(), &[b"replicate/auth v1 id"]);
        digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Version 1 of the message; the stream id is empty and there is no previous tag (`core/docs/SEALING.md`).
    fn tag(&self, file_key: &FileKey, place: Place) -> Secret32 {
        let commitment = crypto::hkdf(file_key.expose_secret(), &[], b"replicate/auth v1 commitment");
        let (min, max) = (place.txids.min().0.to_be_bytes(), place.txids.max().0.to_be_bytes());
        let stream_len = 0u16.to_be_bytes();
        crypto::hmac(
            self.0.as_slice(),
            &[b"replicate/auth v1\0", &stream_len, &[place.level.get()], &min, &max, &[0; 32], commitment.as_ref()],
        )
    }

    pub(super) fn stanza(&self, file_key: &FileKey, place: Place) -> Stanza {
        Stanza { tag: TAG.to_owned(), args: vec![METHOD.to_owned()], body: self.tag(file_key, place).to_vec() }
    }

    pub(super) fn check(&self, stanzas: &[Stanza], file_key: &FileKey, place: Place) -> Result<(), SealError> {
        let mut found = stanzas.iter().filter(|stanza| stanza.tag == TAG);
        let (Some(stanza), None) = (found.next(), found.next()) else {
            return Err(SealError::Forged("it bears no authentication, or several"));
        };
        let tag: [u8; 32] = match stanza.args.as_slice() {
            [method] if method == METHOD => stanza.body.as_slice().try_into().ok(),
            _ => None,
        }
        .ok_or(SealError::Forged("its authentication is malformed"))?;
        match crypto::same(&tag, &self.tag(file_key, place)) {
            true => Ok(()),
            false => Err(SealError::Forged("made with another key, or for another place")),
        }
    }
}

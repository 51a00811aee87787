//! What one replica is sealed to and opened with.

use std::fmt;

use age_core::format::{FileKey, Stanza};
use zeroize::Zeroizing;

use super::auth::{AuthKey, Chain, Link, Place};
use super::header::Header;
use super::identities::Identities;
use super::payload::{NONCE, PayloadKey};
use super::recipients::Recipients;
use super::{MAGIC_START, SealError};
use super::{auth, crypto};
use crate::error::{Error, ErrorKind, Result};

/// Keys of one replica: checked, frozen, wiped when the last holder is gone.
pub struct Keys {
    recipients: Option<Recipients>,
    identities: Option<Identities>,
    auth: Option<AuthKey>,
    allow_plaintext: bool,
}

/// What keys are made from. Everything is optional.
#[derive(Default)]
pub struct KeysBuilder {
    /// Whom new objects are sealed to. Without it they are written plain.
    pub recipients: Option<Recipients>,
    /// What sealed objects are opened with. Needed only for reading.
    pub identities: Option<Identities>,
    /// The secret that new objects are authenticated with, and that is then demanded of what is read.
    pub auth_key: Option<Box<Zeroizing<[u8; 32]>>>,
    /// Objects that are not sealed are read although there are keys, and sealed and plain objects may mix
    /// in one replica. For a replica that was written plain before.
    pub allow_plaintext: bool,
    /// Sealing to keys that none of the identities opens is not an error.
    pub allow_foreign: bool,
}

impl KeysBuilder {
    /// Checks that they go together.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config): the identities open nothing that is sealed to the recipients (a backup that
    /// nobody here can read), or authentication without recipients or identities.
    pub fn build(self) -> Result<Keys> {
        if let (Some(recipients), Some(identities), false) = (&self.recipients, &self.identities, self.allow_foreign)
            && !identities.open_those_of(recipients)?
        {
            let message = "none of the age identities opens what is sealed to the age recipients";
            return Err(Error::new(ErrorKind::Config, message)
                .with_hint("give keys that belong together, or set age_allow_foreign"));
        }
        if self.auth_key.is_some() && self.recipients.is_none() && self.identities.is_none() {
            let message = "an authentication key is set, but nothing is sealed";
            return Err(Error::new(ErrorKind::Config, message).with_hint("set an age recipient or identity, too"));
        }
        let auth = self.auth_key.map(AuthKey::new);
        let (recipients, identities, allow_plaintext) = (self.recipients, self.identities, self.allow_plaintext);
        Ok(Keys { recipients, identities, auth, allow_plaintext })
    }
}

impl fmt::Debug for KeysBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeysBuilder")
            .field("recipients", &self.recipients)
            .field("identities", &self.identities)
            .finish_non_exhaustive()
    }
}

/// Why a file got no other header.
pub(crate) enum RewrapError {
    /// It does not open.
    Seal(SealError),
    /// Anything else.
    Other(Error),
}

impl From<SealError> for RewrapError {
    fn from(error: SealError) -> Self {
        Self::Seal(error)
    }
}

impl From<Error> for RewrapError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Keys {
    /// No keys: objects are written plain, and sealed ones cannot be read.
    #[must_use]
    pub fn none() -> Self {
        Self { recipients: None, identities: None, auth: None, allow_plaintext: false }
    }

    /// Whom new objects are sealed to.
    #[must_use]
    pub fn recipients(&self) -> Option<&Recipients> {
        self.recipients.as_ref()
    }

    /// Whether sealed objects can be opened.
    #[must_use]
    pub fn can_open(&self) -> bool {
        self.identities.is_some()
    }

    /// Whether sealed and plain objects may mix.
    #[must_use]
    pub fn allows_plaintext(&self) -> bool {
        self.allow_plaintext
    }

    /// What changes when new objects are sealed to other keys or authenticated otherwise: empty if they are not
    /// sealed. A reader who has only the new keys must need nothing that is older.
    pub(crate) fn sealed_to(&self) -> String {
        let recipients = self.recipients.as_ref().map(Recipients::set_id);
        match (recipients, &self.auth) {
            (Some(recipients), Some(auth)) => format!("{recipients}+{}", auth.id()),
            (recipients, _) => recipients.unwrap_or_default(),
        }
    }

    /// Whether there is a secret that files are authenticated with.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.auth.is_some()
    }

    /// Whether files are authenticated, and name those before them.
    pub(crate) fn authenticates(&self) -> bool {
        self.auth.is_some() && self.recipients.is_some()
    }

    /// The start of a new file, what seals its chunks, and its link; nothing if files are written plain. Every call
    /// gives other ones.
    pub(crate) fn start_file(&self, place: Place, previous: Link) -> Result<Option<(Vec<u8>, PayloadKey, Link)>> {
        let Some(recipients) = &self.recipients else { return Ok(None) };
        let chance = crypto::random::<16>()?;
        let file_key = FileKey::init_with_mut(|key| key.copy_from_slice(chance.as_ref()));
        let nonce = crypto::random::<NONCE>()?;
        let auth = self.auth.as_ref().map(|auth| auth.stanza(&file_key, place, previous));
        let header = header(recipients, &file_key, auth)?;
        let start = [header.bytes(), nonce.as_ref()].concat();
        Ok(Some((start, PayloadKey::new(&file_key, &nonce), Link::of(header.stanzas()))))
    }

    /// Another start for a file at this place that begins with this header and nonce: it gives the file key to the
    /// recipients of these keys. What follows stays as it is, and so does who has made it: the key proves both.
    pub(crate) fn rewrap(
        &self,
        header: &Header,
        nonce: &[u8; NONCE],
        place: Place,
    ) -> Result<(Vec<u8>, PayloadKey), RewrapError> {
        let file_key = self.open_header(header, Some(place), &Chain::default())?;
        let recipients = self.recipients.as_ref().ok_or_else(|| Error::internal("there is nobody to wrap for"))?;
        let auth = auth::copy(header.stanzas());
        let start = [self::header(recipients, &file_key, auth)?.bytes(), nonce].concat();
        Ok((start, PayloadKey::new(&file_key, nonce)))
    }

    /// Whether a file that begins with these bytes is to be opened, or read as it is. Asked with its first bytes,
    /// at least as many as the format's name has, or all.
    ///
    /// With keys of either kind a plain file is refused: a host that can only write, and restores what is missing,
    /// must not take for its own what anybody may have put there. Where authentication is demanded it is never read.
    pub(crate) fn must_open(&self, start: &[u8]) -> Result<bool, SealError> {
        let sealed = start.starts_with(MAGIC_START);
        // Bytes that only begin to be the name are all there is: a file that was cut.
        let plain = self.allow_plaintext && self.auth.is_none();
        let cut = MAGIC_START.starts_with(start) && !plain;
        match &self.identities {
            Some(_) if sealed || cut => Ok(true),
            None if sealed => Err(SealError::NoIdentity),
            identities if (identities.is_some() || self.recipients.is_some()) && !plain => Err(SealError::NotAge),
            _ => Ok(false),
        }
    }

    /// The file key of a file at this place, among those that were read before.
    pub(crate) fn open_header(
        &self,
        header: &Header,
        place: Option<Place>,
        chain: &Chain,
    ) -> Result<FileKey, SealError> {
        let identities = self.identities.as_ref().ok_or(SealError::NoIdentity)?;
        let file_key = header.open(identities)?;
        if let (Some(auth), Some(place)) = (&self.auth, place) {
            auth.check(header.stanzas(), &file_key, place, chain)?;
        }
        Ok(file_key)
    }
}

/// The header that gives this file key to the recipients, with what tells who has made it.
fn header(recipients: &Recipients, file_key: &FileKey, auth: Option<Stanza>) -> Result<Header> {
    let mut stanzas = recipients.wrap(file_key)?;
    stanzas.extend(auth);
    Ok(Header::new(file_key, stanzas))
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("recipients", &self.recipients)
            .field("identities", &self.identities)
            .field("authenticated", &self.auth.is_some())
            .field("allow_plaintext", &self.allow_plaintext)
            .finish()
    }
}

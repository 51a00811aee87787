//! Private keys: what opens objects.

use std::fmt;

use age::DecryptError;
use age::Identity as _;
use age_core::format::{FileKey, Stanza};
use zeroize::Zeroizing;

use super::SealError;
use super::classic::ClassicIdentity;
use super::crypto::wipe_stack;
use super::hybrid::{HybridIdentity, Spelling};
use super::list::{KeyList, key_lines};
use super::recipients::{Recipient, Recipients};
use super::ssh::{self, SshIdentity};
use crate::error::{Error, ErrorKind, Result};

/// A kind of key pair.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum IdentityKind {
    /// `age1pq1…`, the standard hybrid of ML-KEM-768 and X25519: also safe from a future quantum computer. Costs
    /// 1.6 KB an object. The default.
    #[default]
    PostQuantum,
    /// `age1…`: understood by every age program since 2019. Costs 0.2 KB an object.
    X25519,
    /// `age1xw1…`: the same keys as [`PostQuantum`](Self::PostQuantum) in the spelling of one fork of age.
    XWing,
}

impl IdentityKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::PostQuantum, Self::X25519, Self::XWing];

    /// Its name in options and commands.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PostQuantum => "pq",
            Self::X25519 => "x25519",
            Self::XWing => "xw",
        }
    }
}

impl std::str::FromStr for IdentityKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            Error::new(ErrorKind::Config, "unknown kind of key").with_hint("the kinds are pq, x25519 and xw")
        })
    }
}

/// Boxed, so that a list that grows moves no secrets about.
enum Identity {
    X25519(Box<ClassicIdentity>),
    Hybrid(Box<HybridIdentity>),
    Ssh(Box<SshIdentity>),
}

// Never inlined, so that what they leave on the stack lies where `wipe_stack` reaches.
impl Identity {
    /// The text of a new one, and its public half.
    #[inline(never)]
    fn generate(kind: IdentityKind) -> Result<(Zeroizing<String>, Recipient)> {
        let hybrid = |spelling| {
            let key = Box::new(HybridIdentity::generate(spelling)?);
            Ok((key.text(), Recipient::Hybrid(Box::new(key.recipient()))))
        };
        match kind {
            IdentityKind::X25519 => {
                let key = Box::new(ClassicIdentity::generate()?);
                Ok((key.text(), Recipient::X25519(key.recipient())))
            }
            IdentityKind::PostQuantum => hybrid(Spelling::Pq),
            IdentityKind::XWing => hybrid(Spelling::Xw),
        }
    }

    #[inline(never)]
    fn parse(text: &str) -> Result<Self, &'static str> {
        if text.starts_with("AGE-SECRET-KEY-XW-1") {
            return Ok(Self::Hybrid(Box::new(HybridIdentity::parse(Spelling::Xw, text)?)));
        }
        if text.starts_with("AGE-SECRET-KEY-PQ-1") {
            return Ok(Self::Hybrid(Box::new(HybridIdentity::parse(Spelling::Pq, text)?)));
        }
        if text.starts_with("AGE-SECRET-KEY-1") {
            return Ok(Self::X25519(Box::new(ClassicIdentity::parse(text)?)));
        }
        Err(match text {
            _ if text.starts_with("age1") => "a public key where a private one belongs",
            _ if text.starts_with("AGE-PLUGIN-") => "plugins are not supported",
            _ if text.starts_with("ssh-") => "a public key where a private one belongs",
            _ if text.starts_with("-----BEGIN") => ssh::OTHER_KIND,
            _ => "not a private key (AGE-SECRET-KEY-…)",
        })
    }

    #[inline(never)]
    fn parse_ssh(lines: &[&str]) -> Result<Self, &'static str> {
        Ok(Self::Ssh(Box::new(SshIdentity::parse(lines.iter().copied())?)))
    }

    #[inline(never)]
    fn recipient(&self) -> Recipient {
        match self {
            Self::X25519(key) => Recipient::X25519(key.recipient()),
            Self::Hybrid(key) => Recipient::Hybrid(Box::new(key.recipient())),
            Self::Ssh(key) => Recipient::Ssh(Box::new(key.recipient())),
        }
    }

    #[inline(never)]
    fn unwrap(&self, stanzas: &[Stanza]) -> Option<Result<FileKey, DecryptError>> {
        match self {
            Self::X25519(key) => key.unwrap_stanzas(stanzas),
            Self::Hybrid(key) => key.unwrap_stanzas(stanzas),
            Self::Ssh(key) => key.unwrap_stanzas(stanzas),
        }
    }
}

/// The private keys that may open objects: at least one, tried in order. Wiped from memory when dropped; never
/// shown, not even for debugging.
pub struct Identities(Vec<Identity>);

impl Identities {
    /// Parses a list: one key a line, an SSH key in the lines that `ssh-keygen` writes; empty lines and lines that begin
    /// with `#` are skipped.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) with the number of the line and the reason, never with its text.
    pub fn parse(text: &str) -> Result<Self> {
        let mut keys = Vec::new();
        let mut lines = key_lines(text, KeyList::Identities)?;
        while let Some((number, line)) = lines.next() {
            let key = match line {
                ssh::BEGIN => {
                    let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != ssh::END);
                    Identity::parse_ssh(&inside.collect::<Vec<_>>())
                }
                _ => Identity::parse(line),
            };
            wipe_stack();
            keys.push(key.map_err(|why| KeyList::Identities.wrong_line(number, why))?);
        }
        if keys.is_empty() {
            return Err(KeyList::Identities.wrong("it holds no key"));
        }
        Ok(Self(keys))
    }

    /// This list and another one as one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether one of them opens what is sealed to all of these.
    pub(super) fn open_those_of(&self, recipients: &Recipients) -> Result<bool> {
        let file_key = FileKey::new(Box::new(*super::crypto::random()?));
        Ok(self.unwrap(&recipients.wrap(&file_key)?).is_ok())
    }

    /// The file key, from the first of them that finds its stanza.
    pub(super) fn unwrap(&self, stanzas: &[Stanza]) -> Result<FileKey, SealError> {
        let found = self.0.iter().find_map(|key| key.unwrap(stanzas));
        wipe_stack();
        match found {
            Some(Ok(file_key)) => Ok(file_key),
            Some(Err(_)) => Err(SealError::Header("a key stanza is malformed")),
            None => Err(SealError::NoMatch),
        }
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({})", self.0.len())
    }
}

/// A new key pair as text.
pub struct GeneratedIdentity {
    /// The private key, `AGE-SECRET-KEY-…`. Wiped when dropped. Whoever has it can read every backup.
    pub identity: Zeroizing<String>,
    /// The public key, `age1…`.
    pub recipient: String,
}

impl fmt::Debug for GeneratedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GeneratedIdentity").field("recipient", &self.recipient).finish_non_exhaustive()
    }
}

/// Makes a key pair.
///
/// ```
/// let keys = replicate::seal::generate_identity(Default::default())?;
/// assert!(keys.recipient.starts_with("age1pq1"));
/// # Ok::<(), replicate::Error>(())
/// ```
///
/// # Errors
/// [`Internal`](ErrorKind::Internal) if the system gives no random bytes.
pub fn generate_identity(kind: IdentityKind) -> Result<GeneratedIdentity> {
    let made = Identity::generate(kind);
    wipe_stack();
    let (identity, recipient) = made?;
    Ok(GeneratedIdentity { identity, recipient: Recipients::from(recipient).to_texts().concat() })
}

/// The public keys of private ones, given as text in the form of [`Identities::parse`].
///
/// # Errors
/// As for [`Identities::parse`].
pub fn recipient_of(identities: &str) -> Result<Vec<String>> {
    let keys = Identities::parse(identities)?;
    let recipients = keys.0.iter().flat_map(|key| Recipients::from(key.recipient()).to_texts()).collect();
    wipe_stack();
    Ok(recipients)
}

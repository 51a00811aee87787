//! Public keys: whom an object is sealed to.

use std::fmt;

use age::Recipient as _;
use age_core::format::{FileKey, Stanza};

use super::bech32;
use super::crypto;
use super::hybrid::{HybridRecipient, Spelling};
use super::identities::IdentityKind;
use super::list::{KeyList, key_lines};
use super::ssh::SshRecipient;
use crate::error::{Error, ErrorKind, Result};

/// The longest line that can hold a public key.
const LONGEST: usize = 8 << 10;

#[derive(Clone)]
pub(super) enum Recipient {
    X25519(age::x25519::Recipient),
    Hybrid(Box<HybridRecipient>),
    Ssh(Box<SshRecipient>),
}

impl Recipient {
    fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > LONGEST {
            return Err("too long for a public key");
        }
        if text.starts_with("age1xw1") {
            return Ok(Self::Hybrid(Box::new(HybridRecipient::parse(Spelling::Xw, text)?)));
        }
        if text.starts_with("age1pq1") {
            return Ok(Self::Hybrid(Box::new(HybridRecipient::parse(Spelling::Pq, text)?)));
        }
        if text.starts_with("age1") {
            let key: age::x25519::Recipient = text.parse().map_err(|_| "not well-formed, or mistyped")?;
            return if is_low_order_text(text) { Err("a point that gives no secret") } else { Ok(Self::X25519(key)) };
        }
        if text.starts_with("ssh-") {
            return Ok(Self::Ssh(Box::new(SshRecipient::parse(text)?)));
        }
        Err(match text {
            _ if text.starts_with("AGE-SECRET-KEY-") => "a private key where a public one belongs",
            _ => "not a public key (age1…, age1pq1…, age1xw1…, ssh-ed25519)",
        })
    }

    fn text(&self) -> String {
        match self {
            Self::X25519(key) => key.to_string(),
            Self::Hybrid(key) => key.text(),
            Self::Ssh(key) => key.text(),
        }
    }

    fn is_post_quantum(&self) -> bool {
        matches!(self, Self::Hybrid(_))
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::X25519(_) => IdentityKind::X25519.name(),
            Self::Hybrid(key) => key.kind().name(),
            Self::Ssh(_) => "ssh",
        }
    }

    fn wrap(&self, file_key: &FileKey) -> Result<Vec<Stanza>> {
        let wrapped = match self {
            Self::X25519(key) => key.wrap_file_key(file_key),
            Self::Hybrid(key) => key.wrap_file_key(file_key),
            Self::Ssh(key) => key.wrap_file_key(file_key),
        };
        wrapped
            .map(|(stanzas, _)| stanzas)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("wrap a file key: {e}")))
    }
}

/// The public keys that objects are sealed to: at least one, and either all classic (`age1…`, `ssh-ed25519 …`) or all
/// post-quantum (`age1pq1…`, `age1xw1…`), so that nothing is weaker than its strongest key promises.
#[derive(Clone)]
pub struct Recipients(Vec<Recipient>);

impl Recipients {
    /// Parses a list: one key a line; empty lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) with the number of the line and the reason, never with its text.
    pub fn parse(text: &str) -> Result<Self> {
        let mut keys = Vec::new();
        for (number, line) in key_lines(text, KeyList::Recipients)? {
            keys.push(Recipient::parse(line).map_err(|why| KeyList::Recipients.wrong_line(number, why))?);
        }
        Self::new(keys)
    }

    pub(super) fn new(keys: Vec<Recipient>) -> Result<Self> {
        if keys.is_empty() {
            return Err(KeyList::Recipients.wrong("it holds no key"));
        }
        // A header must stay below what readers accept (`header::MOST_STANZAS`).
        if keys.len() > 32 {
            return Err(KeyList::Recipients.wrong("more than 32 keys"));
        }
        let post_quantum = keys.iter().filter(|key| key.is_post_quantum()).count();
        if post_quantum != 0 && post_quantum != keys.len() {
            return Err(KeyList::Recipients
                .wrong("classic and post-quantum keys are mixed")
                .with_hint("an object is as weak as its weakest key: use age1pq1… keys only, or none of them"));
        }
        Ok(Self(keys))
    }

    /// This list and another one as one.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse): classic and post-quantum keys do not mix.
    pub fn and(mut self, other: Self) -> Result<Self> {
        self.0.extend(other.0);
        Self::new(self.0)
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether all of them are post-quantum keys; otherwise none is.
    #[must_use]
    pub fn is_post_quantum(&self) -> bool {
        self.0.iter().all(Recipient::is_post_quantum)
    }

    /// The keys as text, in the order of the list.
    #[must_use]
    pub fn to_texts(&self) -> Vec<String> {
        self.0.iter().map(Recipient::text).collect()
    }

    /// For each key its kind and eight hex digits that tell it from others: `pq:1a2b3c4d`.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<String> {
        let digits = |key: &Recipient| hex(&crypto::sha256(&[key.text().as_bytes()])[..4]);
        self.0.iter().map(|key| format!("{}:{}", key.kind(), digits(key))).collect()
    }

    /// Sixteen hex digits that change when the set of keys does, not when their order does.
    pub(crate) fn set_id(&self) -> String {
        let mut texts = self.to_texts();
        texts.sort();
        texts.dedup();
        hex(&crypto::sha256(&[texts.join("\n").as_bytes()])[..8])
    }

    /// The stanzas that give the file key to each of them.
    pub(super) fn wrap(&self, file_key: &FileKey) -> Result<Vec<Stanza>> {
        let wrapped: Result<Vec<_>> = self.0.iter().map(|key| key.wrap(file_key)).collect();
        Ok(wrapped?.into_iter().flatten().collect())
    }
}

impl From<Recipient> for Recipients {
    fn from(key: Recipient) -> Self {
        Self(vec![key])
    }
}

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Recipients").field(&self.fingerprints()).finish()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_low_order_text(text: &str) -> bool {
    bech32::decode("age", text).map_or(true, |point| is_low_order(&point))
}

/// The X25519 points that give everybody the same shared secret, zero. The `age` crate panics on sealing to one.
const LOW_ORDER: [[u8; 32]; 7] = [
    low_order(0, 0, 0),
    low_order(1, 0, 0),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
        0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
        0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    low_order(0xec, 0xff, 0x7f),
    low_order(0xed, 0xff, 0x7f),
    low_order(0xee, 0xff, 0x7f),
];

const fn low_order(first: u8, between: u8, last: u8) -> [u8; 32] {
    let mut point = [between; 32];
    point[0] = first;
    point[31] = last;
    point
}

/// Whether this point is one of those; the highest bit does not count.
pub(super) fn is_low_order(point: &[u8]) -> bool {
    let Ok(mut point) = <[u8; 32]>::try_from(point) else { return true };
    point[31] &= 0x7f;
    LOW_ORDER.contains(&point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_that_would_make_the_sealer_panic_are_refused() {
        for mut point in LOW_ORDER {
            for high in [0, 0x80] {
                point[31] |= high;
                let text = bech32::encode("age", &point);
                assert!(Recipients::parse(&text).is_err(), "{point:x?}");
                let raw: age::x25519::Recipient = text.parse().expect("the crate takes it");
                let file_key = FileKey::new(Box::new([7; 16]));
                assert!(std::panic::catch_unwind(|| raw.wrap_file_key(&file_key).is_ok()).is_err(), "{point:x?}");
            }
        }
    }
}

//! Private keys of the oldest kind, X25519, which every age program opens files with.
//!
//! Files are sealed to them by the `age` crate. Its own type for the private half leaves the key behind in memory when it
//! reads or writes the text of one, so opening is here, as a type of its traits.

use age::DecryptError;
use age_core::format::{FileKey, Stanza};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::bech32;
use super::crypto;

const STANZA: &str = "X25519";
const INFO: &[u8] = b"age-encryption.org/v1/X25519";
const PREFIX: &str = "AGE-SECRET-KEY-";
const RECIPIENT_PREFIX: &str = "age";

/// A private key.
pub(super) struct ClassicIdentity(StaticSecret);

impl ClassicIdentity {
    pub(super) fn generate() -> crate::error::Result<Self> {
        Ok(Self(StaticSecret::from(*crypto::random::<32>()?)))
    }

    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let bytes = bech32::decode(PREFIX, text)?;
        let key: &[u8; 32] = bytes.as_slice().try_into().map_err(|_| "a key of another length")?;
        Ok(Self(StaticSecret::from(*key)))
    }

    pub(super) fn text(&self) -> Zeroizing<String> {
        bech32::encode(PREFIX, self.0.as_bytes())
    }

    pub(super) fn recipient(&self) -> age::x25519::Recipient {
        let text = bech32::encode(RECIPIENT_PREFIX, PublicKey::from(&self.0).as_bytes());
        text.parse().expect("made from a key")
    }

    fn unwrap(&self, stanza: &Stanza) -> Result<Option<FileKey>, DecryptError> {
        let [argument] = stanza.args.as_slice() else { return Err(DecryptError::InvalidHeader) };
        let share = crypto::x25519_share(argument, &stanza.body).ok_or(DecryptError::InvalidHeader)?;
        let shared = self.0.diffie_hellman(&PublicKey::from(share));
        if !shared.was_contributory() {
            return Err(DecryptError::InvalidHeader);
        }
        let salt = [share, PublicKey::from(&self.0).to_bytes()].concat();
        let key = crypto::hkdf(shared.as_bytes(), &salt, INFO);
        // Whose stanza it is shows only here.
        Ok(crypto::unwrap(&key, [0; 12], &stanza.body))
    }
}

impl age::Identity for ClassicIdentity {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        (stanza.tag == STANZA).then(|| self.unwrap(stanza).transpose()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use age::secrecy::ExposeSecret as _;
    use age::{Identity as _, Recipient as _};

    #[test]
    fn keys_are_those_of_the_age_crate_and_open_what_it_seals() {
        for _ in 0..32 {
            let ours = ClassicIdentity::generate().expect("made");
            let theirs: age::x25519::Identity = ours.text().parse().expect("a key");
            assert_eq!(theirs.to_string().expose_secret(), &**ours.text());
            assert_eq!(theirs.to_public(), ours.recipient());
            let file_key = FileKey::new(Box::new([7; 16]));
            let (stanzas, _) = ours.recipient().wrap_file_key(&file_key).expect("wrapped");
            let opened = ours.unwrap_stanzas(&stanzas).expect("ours").expect("opened");
            assert_eq!(opened.expose_secret(), file_key.expose_secret());
            let other = ClassicIdentity::generate().expect("made");
            assert!(other.unwrap_stanzas(&stanzas).is_none());
        }
    }
}

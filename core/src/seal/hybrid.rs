//! Keys that a future quantum computer does not break: X-Wing (ML-KEM-768 and X25519), in its two spellings.
//!
//! | key | stanza | how the file key is wrapped |
//! |---|---|---|
//! | `age1pq1…` | `mlkem768x25519` | HPKE (RFC 9180), as in the age specification |
//! | `age1xw1…` | `xwing` | HKDF over the shared secret, as one fork of age does |
//!
//! Both have the same seed and the same public key. They are types of the `age` crate's traits, which knows
//! neither.

use std::collections::HashSet;

use age::{DecryptError, EncryptError};
use age_core::format::{FileKey, Stanza};
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use x_wing::{
    CIPHERTEXT_SIZE, Ciphertext, DecapsulationKeyRejectNonContrib, Decapsulator, ENCAPSULATION_RANDOMNESS_SIZE,
    EncapsulationKey, KeyExport, TryDecapsulate,
};
use zeroize::{Zeroize, Zeroizing};

use super::bech32;
use super::crypto::{self, Secret32, WRAPPED};
use super::identities::IdentityKind;

/// Which spelling.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Spelling {
    /// The standard one.
    Pq,
    /// The fork's.
    Xw,
}

impl Spelling {
    fn recipient_prefix(self) -> &'static str {
        match self {
            Self::Pq => "age1pq",
            Self::Xw => "age1xw",
        }
    }

    fn identity_prefix(self) -> &'static str {
        match self {
            Self::Pq => "AGE-SECRET-KEY-PQ-",
            Self::Xw => "AGE-SECRET-KEY-XW-",
        }
    }

    fn stanza(self) -> &'static str {
        match self {
            Self::Pq => "mlkem768x25519",
            Self::Xw => "xwing",
        }
    }

    /// Key and nonce that wrap the file key.
    fn wrap_key(self, shared: &[u8], ciphertext: &[u8]) -> (Secret32, [u8; 12]) {
        match self {
            Self::Pq => hpke_key(shared),
            Self::Xw => (crypto::hkdf(shared, ciphertext, b"age-encryption.org/v1/xwing"), [0; 12]),
        }
    }
}

/// Suite: X-Wing, HKDF-SHA256, ChaCha20-Poly1305.
const SUITE: &[u8] = b"HPKE\x64\x7a\x00\x01\x00\x03";
const INFO: &[u8] = b"age-encryption.org/mlkem768x25519";

fn labeled_extract(salt: &[u8], label: &[u8], secret: &[u8]) -> Secret32 {
    crypto::hmac(salt, &[b"HPKE-v1", SUITE, label, secret])
}

fn labeled_expand(secret: &[u8], label: &[u8], context: &[u8], len: u16) -> Secret32 {
    crypto::hmac(secret, &[&len.to_be_bytes(), b"HPKE-v1", SUITE, label, context, &[1]])
}

/// The key schedule of HPKE's base mode for the one message that there is.
fn hpke_key(shared: &[u8]) -> (Secret32, [u8; 12]) {
    let mut context = [0; 65];
    context[1..33].copy_from_slice(labeled_extract(&[], b"psk_id_hash", &[]).as_ref());
    context[33..].copy_from_slice(labeled_extract(&[], b"info_hash", INFO).as_ref());
    let secret = labeled_extract(shared, b"secret", &[]);
    let key = labeled_expand(secret.as_ref(), b"key", &context, 32);
    let mut nonce = [0; 12];
    nonce.copy_from_slice(&labeled_expand(secret.as_ref(), b"base_nonce", &context, 12)[..12]);
    (key, nonce)
}

/// A public key.
#[derive(Clone, Debug)]
pub(super) struct HybridRecipient {
    spelling: Spelling,
    key: EncapsulationKey,
}

impl HybridRecipient {
    pub(super) fn parse(spelling: Spelling, text: &str) -> Result<Self, &'static str> {
        let bytes = bech32::decode(spelling.recipient_prefix(), text)?;
        if bytes.len() != x_wing::ENCAPSULATION_KEY_SIZE {
            return Err("a key of another length");
        }
        let key = EncapsulationKey::try_from(bytes.as_slice()).map_err(|_| "not a point of ML-KEM")?;
        if super::is_low_order(&bytes[1184..]) {
            return Err("a point that gives no secret");
        }
        Ok(Self { spelling, key })
    }

    pub(super) fn text(&self) -> String {
        bech32::encode(self.spelling.recipient_prefix(), &self.key.to_bytes()).to_string()
    }

    pub(super) fn kind(&self) -> IdentityKind {
        match self.spelling {
            Spelling::Pq => IdentityKind::PostQuantum,
            Spelling::Xw => IdentityKind::XWing,
        }
    }

    fn wrap(&self, file_key: &FileKey, chance: &[u8; ENCAPSULATION_RANDOMNESS_SIZE]) -> Stanza {
        let (ciphertext, mut shared) = self.key.encapsulate_deterministic(chance.into());
        let (key, nonce) = self.spelling.wrap_key(&shared, &ciphertext);
        shared.zeroize();
        let body = crypto::wrap(&key, nonce, file_key);
        let args = vec![BASE64_STANDARD_NO_PAD.encode(ciphertext)];
        Stanza { tag: self.spelling.stanza().to_owned(), args, body }
    }
}

impl age::Recipient for HybridRecipient {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        let chance = crypto::random().map_err(|e| EncryptError::Io(std::io::Error::other(e)))?;
        Ok((vec![self.wrap(file_key, &chance)], HashSet::from(["postquantum".to_owned()])))
    }
}

/// A private key.
pub(super) struct HybridIdentity {
    spelling: Spelling,
    key: DecapsulationKeyRejectNonContrib,
}

impl HybridIdentity {
    pub(super) fn generate(spelling: Spelling) -> crate::error::Result<Self> {
        Ok(Self { spelling, key: (*crypto::random::<32>()?).into() })
    }

    pub(super) fn parse(spelling: Spelling, text: &str) -> Result<Self, &'static str> {
        let bytes = bech32::decode(spelling.identity_prefix(), text)?;
        let mut seed: [u8; 32] = bytes.as_slice().try_into().map_err(|_| "a key of another length")?;
        let key = seed.into();
        seed.zeroize();
        Ok(Self { spelling, key })
    }

    pub(super) fn text(&self) -> Zeroizing<String> {
        let mut seed = self.key.to_bytes();
        let text = bech32::encode(self.spelling.identity_prefix(), &seed);
        seed.zeroize();
        text
    }

    pub(super) fn recipient(&self) -> HybridRecipient {
        HybridRecipient { spelling: self.spelling, key: self.key.encapsulation_key().clone() }
    }

    fn unwrap(&self, stanza: &Stanza) -> Result<Option<FileKey>, DecryptError> {
        let [argument] = stanza.args.as_slice() else { return Err(DecryptError::InvalidHeader) };
        let ciphertext = BASE64_STANDARD_NO_PAD.decode(argument).map_err(|_| DecryptError::InvalidHeader)?;
        if ciphertext.len() != CIPHERTEXT_SIZE || stanza.body.len() != WRAPPED {
            return Err(DecryptError::InvalidHeader);
        }
        let ciphertext = Ciphertext::try_from(ciphertext.as_slice()).map_err(|_| DecryptError::InvalidHeader)?;
        let mut shared = self.key.try_decapsulate(&ciphertext).map_err(|_| DecryptError::InvalidHeader)?;
        let (key, nonce) = self.spelling.wrap_key(&shared, &ciphertext);
        shared.zeroize();
        // ML-KEM rejects implicitly: a file for somebody else shows here.
        Ok(crypto::unwrap(&key, nonce, &stanza.body))
    }
}

impl age::Identity for HybridIdentity {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        (stanza.tag == self.spelling.stanza()).then(|| self.unwrap(stanza).transpose()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use age::Identity as _;
    use age_core::secrecy::ExposeSecret;

    /// Known answers, `core/tests/data/age/kat.json`.
    #[test]
    fn both_wraps_give_the_known_answers() {
        let kat: serde_json::Value = serde_json::from_str(include_str!("../../tests/data/age/kat.json")).expect("JSON");
        let text = |name: &str| kat[name].as_str().expect("text").to_owned();
        let bytes = |name: &str| super::super::testing::hex(&text(name));
        let file_key = || FileKey::init_with_mut(|key| key.copy_from_slice(&bytes("file_key")));
        let chance: [u8; 64] = bytes("encapsulation_seed").try_into().expect("64 bytes");
        for (spelling, name) in [(Spelling::Pq, "pq"), (Spelling::Xw, "xw")] {
            let recipient = HybridRecipient::parse(spelling, &text(&format!("recipient_{name}"))).expect("a recipient");
            let stanza = recipient.wrap(&file_key(), &chance);
            assert_eq!(stanza.args, [text("kem_ciphertext_b64")]);
            assert_eq!(BASE64_STANDARD_NO_PAD.encode(&stanza.body), text(&format!("{name}_stanza_body_b64")));
            let identity = HybridIdentity::parse(spelling, &text(&format!("identity_{name}"))).expect("an identity");
            assert_eq!(identity.recipient().text(), recipient.text());
            assert_eq!(*identity.text(), text(&format!("identity_{name}")));
            let opened = identity.unwrap_stanza(&stanza).expect("ours").expect("opened");
            assert_eq!(opened.expose_secret(), file_key().expose_secret());
        }
        let (key, nonce) = hpke_key(&bytes("kem_shared_secret"));
        assert_eq!((key.to_vec(), nonce.to_vec()), (bytes("pq_hpke_key"), bytes("pq_hpke_base_nonce")));
    }
}

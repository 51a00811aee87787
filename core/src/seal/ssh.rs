//! SSH keys of the kind `ssh-ed25519`, as the age specification uses them: their curve taken as that of X25519.
//!
//! The `age` crate has them too, behind one feature with RSA keys and their known timing leak, so they are here, as types
//! of its traits. A private key is read from what `ssh-keygen` writes (`openssh-key-v1`), without a passphrase: there
//! is nobody who could be asked for one.

use std::collections::HashSet;

use age::{DecryptError, EncryptError};
use age_core::format::{FileKey, Stanza};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use curve25519_dalek::edwards::CompressedEdwardsY;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::crypto;

/// The name of the kind: in public keys, in private ones, and of the stanza.
const KIND: &str = "ssh-ed25519";
const INFO: &[u8] = b"age-encryption.org/v1/ssh-ed25519";
/// What the private part is filled up to.
const BLOCK: usize = 8;

pub(super) const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
pub(super) const END: &str = "-----END OPENSSH PRIVATE KEY-----";
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// Why another SSH key is refused.
pub(super) const OTHER_KIND: &str = "of SSH keys only ssh-ed25519 is supported (the code for RSA leaks keys by its timing); `replicate keygen` makes a key";
const MALFORMED: &str = "not a well-formed SSH key";

/// Reads the fields of a key.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(MALFORMED)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32, &'static str> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn string(&mut self) -> Result<&'a [u8], &'static str> {
        let len = usize::try_from(self.number()?).map_err(|_| MALFORMED)?;
        self.take(len)
    }

    fn bytes<const N: usize>(&mut self) -> Result<&'a [u8; N], &'static str> {
        self.string()?.try_into().map_err(|_| MALFORMED)
    }

    fn end(&self) -> Result<(), &'static str> {
        if self.0.is_empty() { Ok(()) } else { Err(MALFORMED) }
    }
}

/// A public key.
#[derive(Clone, Debug)]
pub(super) struct SshRecipient {
    /// As SSH writes it.
    wire: Vec<u8>,
    /// The same point on the curve of X25519.
    point: PublicKey,
}

impl SshRecipient {
    /// `ssh-ed25519 AAAA… comment`, the comment being optional.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut words = text.splitn(3, ' ');
        if words.next() != Some(KIND) {
            return Err(OTHER_KIND);
        }
        Self::from_wire(&BASE64_STANDARD.decode(words.next().unwrap_or_default()).map_err(|_| MALFORMED)?)
    }

    fn from_wire(wire: &[u8]) -> Result<Self, &'static str> {
        let mut fields = Fields(wire);
        if fields.string()? != KIND.as_bytes() {
            return Err(OTHER_KIND);
        }
        let key = *fields.bytes::<32>()?;
        fields.end()?;
        let point = CompressedEdwardsY(key).decompress().ok_or("not a point of the curve")?.to_montgomery().to_bytes();
        if super::is_low_order(&point) {
            return Err("a point that gives no secret");
        }
        Ok(Self { wire: wire.to_vec(), point: PublicKey::from(point) })
    }

    /// Without a comment.
    pub(super) fn text(&self) -> String {
        format!("{KIND} {}", BASE64_STANDARD.encode(&self.wire))
    }

    /// What a stanza names it by.
    fn name(&self) -> String {
        BASE64_STANDARD_NO_PAD.encode(&crypto::sha256(&[&self.wire])[..4])
    }

    /// What both sides make the wrapping key of: the secret they share, bound to the whole public key.
    fn wrap_key(&self, shared: &[u8; 32], share: &PublicKey) -> Zeroizing<[u8; 32]> {
        let tweak = StaticSecret::from(*crypto::hkdf(&[], &self.wire, INFO));
        let shared = tweak.diffie_hellman(&PublicKey::from(*shared));
        crypto::hkdf(shared.as_bytes(), &[share.to_bytes(), self.point.to_bytes()].concat(), INFO)
    }
}

impl age::Recipient for SshRecipient {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        let drawn = crypto::random().map_err(|e| EncryptError::Io(std::io::Error::other(e)))?;
        let ephemeral = StaticSecret::from(*drawn);
        let share = PublicKey::from(&ephemeral);
        let key = self.wrap_key(ephemeral.diffie_hellman(&self.point).as_bytes(), &share);
        let body = crypto::wrap(&key, [0; 12], file_key);
        let args = vec![self.name(), BASE64_STANDARD_NO_PAD.encode(share.as_bytes())];
        Ok((vec![Stanza { tag: KIND.to_owned(), args, body }], HashSet::new()))
    }
}

/// A private key.
pub(super) struct SshIdentity {
    secret: StaticSecret,
    recipient: SshRecipient,
}

impl SshIdentity {
    /// The lines between [`BEGIN`] and [`END`].
    pub(super) fn parse<'a>(lines: impl Iterator<Item = &'a str> + Clone) -> Result<Self, &'static str> {
        let letters: usize = lines.clone().map(str::len).sum();
        let mut text = Zeroizing::new(String::with_capacity(letters));
        lines.for_each(|line| text.push_str(line));
        let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(letters)]);
        let len = BASE64_STANDARD.decode_slice(text.as_bytes(), &mut bytes).map_err(|_| MALFORMED)?;
        Self::from_bytes(&bytes[..len])
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut fields = Fields(bytes.strip_prefix(MAGIC).ok_or(MALFORMED)?);
        let (cipher, derivation, _) = (fields.string()?, fields.string()?, fields.string()?);
        if fields.number()? != 1 {
            return Err("several SSH keys in one");
        }
        let recipient = SshRecipient::from_wire(fields.string()?)?;
        let private = fields.string()?;
        if (cipher, derivation) != (b"none", b"none") {
            return Err("an SSH key under a passphrase: `ssh-keygen -p` on a copy takes it off");
        }
        fields.end()?;
        let mut fields = Fields(private);
        if fields.number()? != fields.number()? || fields.string()? != KIND.as_bytes() {
            return Err(MALFORMED);
        }
        let (public, pair, _comment) = (fields.bytes::<32>()?, fields.bytes::<64>()?, fields.string()?);
        if fields.0.len() >= BLOCK || !fields.0.iter().zip(1..).all(|(filling, number)| *filling == number) {
            return Err(MALFORMED);
        }
        let mut scalar = Zeroizing::new([0; 32]);
        scalar.copy_from_slice(&crypto::sha512(&pair[..32])[..32]);
        let secret = StaticSecret::from(*scalar);
        // A key that is not the half of the other would open nothing.
        if !recipient.wire.ends_with(public) || !pair.ends_with(public) || PublicKey::from(&secret) != recipient.point {
            return Err("an SSH key whose halves do not belong together");
        }
        Ok(Self { secret, recipient })
    }

    pub(super) fn recipient(&self) -> SshRecipient {
        self.recipient.clone()
    }

    fn unwrap(&self, stanza: &Stanza) -> Result<Option<FileKey>, DecryptError> {
        let [name, share] = stanza.args.as_slice() else { return Err(DecryptError::InvalidHeader) };
        let share = crypto::x25519_share(share, &stanza.body).ok_or(DecryptError::InvalidHeader)?;
        if *name != self.recipient.name() {
            return Ok(None);
        }
        let share = PublicKey::from(share);
        let shared = self.secret.diffie_hellman(&share);
        if !shared.was_contributory() {
            return Err(DecryptError::InvalidHeader);
        }
        let key = self.recipient.wrap_key(shared.as_bytes(), &share);
        // The name is short: two keys may have the same.
        Ok(crypto::unwrap(&key, [0; 12], &stanza.body))
    }
}

impl age::Identity for SshIdentity {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        (stanza.tag == KIND).then(|| self.unwrap(stanza).transpose()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::data;
    use super::*;
    use age::{Identity as _, Recipient as _};
    use age_core::secrecy::ExposeSecret;

    fn file(name: &str) -> String {
        String::from_utf8(data(&format!("keys/{name}"))).expect("text")
    }

    fn identity() -> (SshIdentity, Vec<u8>) {
        let text = file("ssh_ed25519");
        let lines = || text.lines().filter(|line| !line.starts_with('-'));
        let bytes = BASE64_STANDARD.decode(lines().collect::<String>()).expect("base64");
        (SshIdentity::parse(lines()).expect("a key"), bytes)
    }

    #[test]
    fn the_halves_of_a_key_of_ssh_keygen_belong_together() {
        let (identity, _) = identity();
        let public = file("ssh_ed25519.pub");
        let recipient = SshRecipient::parse(public.trim_end()).expect("a key");
        assert_eq!(identity.recipient().text(), recipient.text());
        assert!(public.starts_with(&recipient.text()));
        let file_key = FileKey::new(Box::new([7; 16]));
        let (stanzas, labels) = recipient.wrap_file_key(&file_key).expect("wrapped");
        assert!(labels.is_empty());
        let opened = identity.unwrap_stanzas(&stanzas).expect("ours").expect("opened");
        assert_eq!(opened.expose_secret(), file_key.expose_secret());
        // One for another key, one of that name for another key, and malformed ones.
        let with = |change: &dyn Fn(&mut Stanza)| {
            let Stanza { tag, args, body } = &stanzas[0];
            let mut stanza = Stanza { tag: tag.clone(), args: args.clone(), body: body.clone() };
            change(&mut stanza);
            identity.unwrap_stanza(&stanza)
        };
        assert!(with(&|_| ()).is_some_and(|opened| opened.is_ok()));
        assert!(with(&|s| s.tag = "X25519".to_owned()).is_none());
        assert!(with(&|s| s.args[0] = "AAAAAA".to_owned()).is_none());
        assert!(with(&|s| s.body[3] ^= 1).is_none());
        let malformed: [&dyn Fn(&mut Stanza); 4] =
            [&|s| s.args.truncate(1), &|s| s.args[1] = "AAAA".to_owned(), &|s| s.body.truncate(31), &|s| {
                s.args[1] = BASE64_STANDARD_NO_PAD.encode([0; 32])
            }];
        for change in malformed {
            assert!(with(change).is_some_and(|opened| opened.is_err()));
        }
    }

    #[test]
    fn no_other_bytes_are_taken_for_a_private_key() {
        let (_, bytes) = identity();
        assert!(SshIdentity::from_bytes(&bytes).is_ok());
        for len in 0..bytes.len() {
            assert!(SshIdentity::from_bytes(&bytes[..len]).is_err(), "{len}");
        }
        // What the comment says, and how long it is, is nobody's secret.
        let comment = bytes.windows(4).rposition(|four| four == b"test").expect("the comment");
        for at in (0..bytes.len()).filter(|at| !(comment - 1..comment + 4).contains(at)) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(SshIdentity::from_bytes(&changed).is_err(), "{at}");
        }
        let why = |text: &str| SshRecipient::parse(text).expect_err("refused");
        assert_eq!(why(file("ssh_rsa2048.pub").trim_end()), OTHER_KIND);
        for wrong in
            ["ssh-ed25519", "ssh-ed25519 ", "ssh-ed25519 AAAA", "ssh-ed25519  AAAA", "ssh-ed25519 hushhush me@here"]
        {
            assert_eq!(why(wrong), MALFORMED, "{wrong}");
        }
        // Points that give no secret: of low order on this curve.
        let mut wire = [&[0, 0, 0, 11], KIND.as_bytes(), &[0, 0, 0, 32], &[0; 32]].concat();
        for y in [0_u8, 1] {
            wire[19] = y;
            let text = format!("{KIND} {}", BASE64_STANDARD.encode(&wire));
            assert_eq!(why(&text), "a point that gives no secret", "{y}");
        }
    }
}

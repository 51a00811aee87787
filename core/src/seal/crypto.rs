//! The primitives that the age format is made of, on `ring`: HMAC-SHA-256, HKDF, ChaCha20-Poly1305, chance.
//!
//! `ring` does not wipe its own key types, so none of them is kept: they are made from wiped bytes where they
//! are used, which costs nothing that can be measured.

use age_core::format::FileKey;
use age_core::secrecy::ExposeSecret;
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::rand::SecureRandom;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Error, ErrorKind, Result};

/// More than what the calls that handle private keys use of it.
const STACK_BYTES: usize = 48 << 10;

/// Overwrites what the calls before this one have left on the stack: values that were moved leave copies behind, and what
/// is built there next may take them along to where nothing is wiped.
#[inline(never)]
pub(super) fn wipe_stack() {
    // Wiping is a store that is never left out for each element, so the largest ones are the cheapest.
    let mut left = [0_u64; STACK_BYTES / 8];
    left.as_mut_slice().zeroize();
    std::hint::black_box(&left);
}

/// Bytes that authenticate a piece of sealed data.
pub(super) const TAG: usize = 16;

/// A secret of 32 bytes, wiped when dropped.
pub(crate) type Secret32 = Zeroizing<[u8; 32]>;

/// Unpredictable bytes.
pub(super) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    let drawn = ring::rand::SystemRandom::new().fill(bytes.as_mut());
    drawn.map_err(|_| Error::new(ErrorKind::Internal, "the system gives no random bytes"))?;
    Ok(bytes)
}

/// HMAC-SHA-256 over the parts in a row.
pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> Secret32 {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
    let mut context = ring::hmac::Context::with_key(&key);
    parts.iter().for_each(|part| context.update(part));
    let mut out = Zeroizing::new([0; 32]);
    out.copy_from_slice(context.sign().as_ref());
    out
}

/// Whether two authenticators are the same, in constant time.
pub(super) fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |differs, (a, b)| std::hint::black_box(differs | (a ^ b))) == 0
}

/// HKDF-SHA-256 with 32 bytes out.
pub(super) fn hkdf(secret: &[u8], salt: &[u8], info: &[u8]) -> Secret32 {
    let extracted = hmac(salt, &[secret]);
    hmac(extracted.as_ref(), &[info, &[1]])
}

/// SHA-256.
pub(super) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// SHA-512.
pub(super) fn sha512(bytes: &[u8]) -> Zeroizing<[u8; 64]> {
    let mut out = Zeroizing::new([0; 64]);
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA512, bytes).as_ref());
    out
}

fn aead(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).expect("32 bytes are a key"))
}

/// Seals in place; the tag belongs behind it.
pub(super) fn seal(key: &[u8; 32], nonce: [u8; 12], data: &mut [u8]) -> [u8; TAG] {
    let sealed = aead(key).seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), data);
    let mut tag = [0; TAG];
    tag.copy_from_slice(sealed.expect("far below the limit of the cipher").as_ref());
    tag
}

/// Opens data with its tag in place; the length of the plain data in front. What is left in `data` after a
/// failure is worthless.
pub(super) fn open(key: &[u8; 32], nonce: [u8; 12], data: &mut [u8]) -> Option<usize> {
    let opened = aead(key).open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), data);
    opened.ok().map(|plain| plain.len())
}

/// Bytes of a file key as a stanza holds it.
pub(super) const WRAPPED: usize = 16 + TAG;

/// A file key as a stanza holds it, under a key of this one stanza.
pub(super) fn wrap(key: &[u8; 32], nonce: [u8; 12], file_key: &FileKey) -> Vec<u8> {
    let mut body = file_key.expose_secret().to_vec();
    let tag = seal(key, nonce, &mut body);
    body.extend_from_slice(&tag);
    body
}

/// The file key in a stanza of [`WRAPPED`] bytes; none if it is under another key.
pub(super) fn unwrap(key: &[u8; 32], nonce: [u8; 12], body: &[u8]) -> Option<FileKey> {
    let mut body = Zeroizing::new(body.to_vec());
    let len = open(key, nonce, &mut body)?;
    Some(FileKey::init_with_mut(|file_key| file_key.copy_from_slice(&body[..len])))
}

/// The share of an X25519 stanza, whose body has this length.
pub(super) fn x25519_share(argument: &str, body: &[u8]) -> Option<[u8; 32]> {
    let share = BASE64_STANDARD_NO_PAD.decode(argument).ok()?;
    share.try_into().ok().filter(|_| body.len() == WRAPPED)
}

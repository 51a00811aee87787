//! The options about sealing: keys as text or in files, and what is allowed of them.
//!
//! An empty value is the same as none; blanks alone, or a list of comments alone, are an error: whoever sets a key
//! means to have one. Errors name the option and the line, never what is in it.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use super::{ConfigKey, Options};
use crate::error::{Error, ErrorKind, Result};
use crate::seal::{Identities, Keys, KeysBuilder, Recipients};

/// The longest file of keys.
const LONGEST_FILE: u64 = 16 << 20;

impl Options {
    /// What objects are sealed to and opened with.
    pub(super) fn keys(&self) -> Result<Keys> {
        use ConfigKey as K;
        let inline = self.list(K::AgeRecipient, Recipients::parse)?;
        let recipients = match (inline, self.list(K::AgeRecipientsFile, Recipients::parse)?) {
            (Some(one), Some(two)) => Some(one.and(two)?),
            (one, two) => one.or(two),
        };
        let inline = self.list(K::AgeIdentity, Identities::parse)?;
        let identities = match (inline, self.list(K::AgeIdentityFile, Identities::parse)?) {
            (Some(one), Some(two)) => Some(one.and(two)),
            (one, two) => one.or(two),
        };
        let (allow_plaintext, allow_foreign) = (self.truth(K::AgeAllowPlaintext)?, self.truth(K::AgeAllowForeign)?);
        KeysBuilder { recipients, identities, auth_key: self.auth_key()?, allow_plaintext, allow_foreign }.build()
    }

    /// A list of keys, from a text or a file.
    fn list<T>(&self, key: ConfigKey, parse: impl Fn(&str) -> Result<T>) -> Result<Option<T>> {
        let Some(value) = self.values.get(&key).filter(|value| !value.is_empty()) else { return Ok(None) };
        let list = match key {
            ConfigKey::AgeRecipientsFile | ConfigKey::AgeIdentityFile => parse(&read(key, value.trim())?),
            // Secret stores add line ends.
            _ => parse(value.trim_matches(|c: char| c.is_ascii_whitespace())),
        };
        list.map(Some).map_err(|e| e.while_doing(format_args!("option {} ({})", key.name(), key.env())))
    }

    fn auth_key(&self) -> Result<Option<Box<Zeroizing<[u8; 32]>>>> {
        let key = ConfigKey::AuthKey;
        let Some(value) = self.values.get(&key).filter(|value| !value.is_empty()) else { return Ok(None) };
        let mut bytes = Zeroizing::new([0; 36]);
        let decoded = BASE64_STANDARD.decode_slice(value.trim(), bytes.as_mut());
        match decoded {
            Ok(32) => {
                // Boxed, so that handing it on leaves no copies behind.
                let mut key = Box::new(Zeroizing::new([0; 32]));
                key.copy_from_slice(&bytes[..32]);
                Ok(Some(key))
            }
            _ => Err(Error::new(ErrorKind::Config, format!("option {} ({}) is not valid", key.name(), key.env()))
                .with_hint("expected 32 bytes in base64, such as `openssl rand -base64 32` prints")),
        }
    }

    /// An option that is `true` or `false`.
    pub(super) fn truth(&self, key: ConfigKey) -> Result<bool> {
        self.parsed(key, |text| match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err("expected true or false".into()),
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "a file that the user names, read before anything starts")]
fn read(key: ConfigKey, path: &str) -> Result<Zeroizing<String>> {
    use std::io::Read;
    let wrong = |why: &dyn std::fmt::Display| {
        let path = super::without_secrets(path);
        Error::new(ErrorKind::Config, format!("option {} ({}): {why} path={path:?}", key.name(), key.env()))
    };
    let mut file = std::fs::File::open(path).map_err(|e| wrong(&e))?.take(LONGEST_FILE + 1);
    let (mut text, mut piece) = (Zeroizing::new(Vec::new()), Zeroizing::new([0; 4096]));
    loop {
        let read = match file.read(piece.as_mut()) {
            Ok(0) => break,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read.map_err(|e| wrong(&e))?,
        };
        if text.capacity() - text.len() < read {
            // A vector that grows by itself gives back what it held, keys and all.
            let mut longer = Zeroizing::new(Vec::with_capacity(2 * text.capacity() + piece.len()));
            longer.extend_from_slice(&text);
            text = longer;
        }
        text.extend_from_slice(&piece[..read]);
    }
    // The error about the encoding could show the text.
    String::from_utf8(std::mem::take(&mut *text)).map(Zeroizing::new).map_err(|e| {
        drop(Zeroizing::new(e.into_bytes()));
        wrong(&"not a text")
    })
}

//! The header of an age file: strict, bounded, and the same however its bytes arrive.
//!
//! Grammar and limits are in `core/docs/SEALING.md`. A byte is looked at once when it arrives and once when its
//! line is complete, so hostile input costs time in proportion to its length, and no more than
//! [`LONGEST`] bytes of it are taken in.

use age_core::format::{FileKey, Stanza};
use age_core::secrecy::ExposeSecret;
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;

use super::SealError;
use super::auth::Link;
use super::crypto;
use super::identities::Identities;
use crate::error::Result;
use replicate_format::Level;

/// The first line.
pub(crate) const MAGIC: &[u8] = b"age-encryption.org/v1\n";
/// What every version of the format begins with.
pub(crate) const MAGIC_START: &[u8] = b"age-encryption.org/";
/// The most bytes of a header. (The Go program: 2 MiB.)
pub(crate) const LONGEST: usize = 64 << 10;
/// The most stanzas. (The Go program: 1024.)
const MOST_STANZAS: usize = 64;
/// The most words on the line of a stanza.
const MOST_WORDS: usize = 128;
/// Base64 characters of a full line of a stanza's body.
const COLUMNS: usize = 64;
/// Bytes of the last line, `--- ` and the code.
const END_LEN: usize = 4 + 43;

/// A whole header.
#[derive(Debug)]
pub(crate) struct Header {
    bytes: Vec<u8>,
    stanzas: Vec<Stanza>,
    mac: [u8; 32],
}

impl Header {
    /// A header that gives this file key to those for whom the stanzas are.
    pub(crate) fn new(file_key: &FileKey, stanzas: Vec<Stanza>) -> Self {
        let mut bytes = Self::written(&stanzas);
        let mac = *header_mac(file_key, &bytes);
        push_code(&mut bytes, &mac);
        Self { bytes, stanzas, mac }
    }

    /// Everything before the code.
    fn written(stanzas: &[Stanza]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for stanza in stanzas {
            bytes.extend_from_slice(b"-> ");
            bytes.extend_from_slice(stanza.tag.as_bytes());
            for arg in &stanza.args {
                bytes.push(b' ');
                bytes.extend_from_slice(arg.as_bytes());
            }
            bytes.push(b'\n');
            let body = BASE64_STANDARD_NO_PAD.encode(&stanza.body);
            for line in body.as_bytes().chunks(COLUMNS) {
                bytes.extend_from_slice(line);
                bytes.push(b'\n');
            }
            // The last line is shorter than the others, if need be empty.
            if body.len() % COLUMNS == 0 {
                bytes.push(b'\n');
            }
        }
        bytes.extend_from_slice(b"---");
        bytes
    }

    /// Its bytes with the last line feed.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// For fuzzing: the bytes of a header with the same stanzas and the same code.
    #[cfg(feature = "testing")]
    pub(crate) fn rebuilt(&self) -> Vec<u8> {
        let mut bytes = Self::written(&self.stanzas);
        push_code(&mut bytes, &self.mac);
        bytes
    }

    /// By which the next file names the one with this header; whether it is true is not looked at.
    pub(crate) fn name(&self, level: Level) -> Link {
        Link::name_of(&self.stanzas, level)
    }

    /// Its stanzas.
    pub(crate) fn stanzas(&self) -> &[Stanza] {
        &self.stanzas
    }

    /// The file key, for whoever has an identity that opens it.
    pub(crate) fn open(&self, identities: &Identities) -> Result<FileKey, SealError> {
        let file_key = identities.unwrap(&self.stanzas)?;
        let authenticated = &self.bytes[..self.bytes.len() - (END_LEN + 1) + 3];
        if !crypto::same(&header_mac(&file_key, authenticated), &self.mac) {
            return Err(SealError::BadMac);
        }
        Ok(file_key)
    }
}

fn push_code(bytes: &mut Vec<u8>, mac: &[u8; 32]) {
    bytes.push(b' ');
    bytes.extend_from_slice(BASE64_STANDARD_NO_PAD.encode(mac).as_bytes());
    bytes.push(b'\n');
}

fn header_mac(file_key: &FileKey, bytes: &[u8]) -> crypto::Secret32 {
    let key = crypto::hkdf(file_key.expose_secret(), &[], b"header");
    crypto::hmac(key.as_ref(), &[bytes])
}

/// Where in the grammar a parser is.
#[derive(Debug, Eq, PartialEq)]
enum Expect {
    Magic,
    StanzaOrEnd,
    Body,
}

/// Takes a header in, in pieces of any length.
#[derive(Debug)]
pub(crate) struct HeaderParser {
    bytes: Vec<u8>,
    /// Where the current line starts, and up to where it holds no line feed.
    line: usize,
    looked: usize,
    expect: Expect,
    stanzas: Vec<Stanza>,
    body: Vec<u8>,
}

impl HeaderParser {
    pub(crate) fn new() -> Self {
        let (bytes, stanzas, body) = (Vec::new(), Vec::new(), Vec::new());
        Self { bytes, line: 0, looked: 0, expect: Expect::Magic, stanzas, body }
    }

    /// Takes the next bytes. The header, once it is whole, and how many of these bytes belong to it.
    pub(crate) fn feed(&mut self, input: &[u8]) -> Result<Option<(Header, usize)>, SealError> {
        let before = self.bytes.len();
        self.bytes.extend_from_slice(&input[..input.len().min(LONGEST + 1 - before)]);
        while let Some(found) = self.bytes[self.looked..].iter().position(|byte| *byte == b'\n') {
            let end = self.looked + found;
            let mac = self.take_line(self.line..end)?;
            (self.line, self.looked) = (end + 1, end + 1);
            if end >= LONGEST {
                break;
            }
            if let Some(mac) = mac {
                let mut bytes = std::mem::take(&mut self.bytes);
                bytes.truncate(end + 1);
                let taken = bytes.len() - before;
                return Ok(Some((Header { bytes, stanzas: std::mem::take(&mut self.stanzas), mac }, taken)));
            }
        }
        self.looked = self.bytes.len();
        let magic = self.bytes.len().min(MAGIC.len());
        if self.bytes[..magic] != MAGIC[..magic] {
            return Err(SealError::NotAge);
        }
        if self.bytes.len() > LONGEST {
            return Err(SealError::Header("longer than 64 KiB"));
        }
        Ok(None)
    }

    /// What it means that the file ends here.
    pub(crate) fn ended(&self) -> SealError {
        SealError::Header("the file ends within it")
    }

    /// Takes a line without its line feed. The code, if it was the last one.
    fn take_line(&mut self, line: std::ops::Range<usize>) -> Result<Option<[u8; 32]>, SealError> {
        let line = &self.bytes[line];
        match self.expect {
            Expect::Magic if line == &MAGIC[..MAGIC.len() - 1] => self.expect = Expect::StanzaOrEnd,
            Expect::Magic => return Err(SealError::NotAge),
            Expect::StanzaOrEnd => match line.strip_prefix(b"-> ") {
                Some(words) if self.stanzas.len() < MOST_STANZAS => {
                    self.stanzas.push(parse_words(words)?);
                    self.expect = Expect::Body;
                }
                Some(_) => return Err(SealError::Header("more than 64 stanzas")),
                None => return self.end(line).map(Some),
            },
            Expect::Body => {
                if line.len() > COLUMNS {
                    return Err(SealError::Header("a line of a stanza is too long"));
                }
                self.body.extend_from_slice(line);
                if line.len() < COLUMNS {
                    let stanza = self.stanzas.last_mut().expect("a body belongs to a stanza");
                    stanza.body = BASE64_STANDARD_NO_PAD
                        .decode(&self.body)
                        .map_err(|_| SealError::Header("a body of a stanza is not base64"))?;
                    self.body.clear();
                    self.expect = Expect::StanzaOrEnd;
                }
            }
        }
        Ok(None)
    }

    fn end(&self, line: &[u8]) -> Result<[u8; 32], SealError> {
        let code = line.strip_prefix(b"--- ").ok_or(SealError::Header("a line is neither stanza nor end"))?;
        if self.stanzas.is_empty() {
            return Err(SealError::Header("it has no stanza"));
        }
        if self.stanzas.len() > 1 && self.stanzas.iter().any(|stanza| stanza.tag == "scrypt") {
            return Err(SealError::Header("a passphrase stanza is not the only one"));
        }
        let malformed = || SealError::Header("its code is malformed");
        if line.len() != END_LEN {
            return Err(malformed());
        }
        let mac = BASE64_STANDARD_NO_PAD.decode(code).map_err(|_| malformed())?;
        mac.try_into().map_err(|_| malformed())
    }
}

fn parse_words(words: &[u8]) -> Result<Stanza, SealError> {
    let mut texts = Vec::new();
    for word in words.split(|byte| *byte == b' ') {
        if word.is_empty() || word.iter().any(|byte| !(33..=126).contains(byte)) || texts.len() == MOST_WORDS {
            return Err(SealError::Header("the line of a stanza is malformed"));
        }
        texts.push(word.iter().copied().map(char::from).collect::<String>());
    }
    let mut texts = texts.into_iter();
    let tag = texts.next().ok_or(SealError::Header("the line of a stanza is malformed"))?;
    Ok(Stanza { tag, args: texts.collect(), body: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8], piece: usize) -> Result<Option<usize>, SealError> {
        let mut parser = HeaderParser::new();
        let mut at = 0;
        for part in bytes.chunks(piece) {
            if let Some((header, taken)) = parser.feed(part)? {
                assert_eq!(header.bytes().len(), at + taken);
                return Ok(Some(at + taken));
            }
            at += part.len();
        }
        Ok(None)
    }

    fn header(stanzas: usize, body: usize) -> Vec<u8> {
        let stanza = |_| Stanza { tag: "x".into(), args: vec!["y".into()], body: vec![0; body] };
        let file_key = FileKey::new(Box::new([1; 16]));
        Header::new(&file_key, (0..stanzas).map(stanza).collect()).bytes().to_vec()
    }

    #[test]
    fn the_result_does_not_depend_on_how_bytes_arrive() {
        for body in [0, 1, 47, 48, 49, 96] {
            let mut bytes = header(3, body);
            let len = bytes.len();
            bytes.extend_from_slice(b"the rest\n of the file");
            for piece in [1, 2, 7, 64, 65, len, 4096] {
                assert_eq!(parse(&bytes, piece), Ok(Some(len)), "body={body} piece={piece}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn damaged_headers_end_the_same_however_they_arrive(
            damage in prop::collection::vec((0.0_f64..1.0, any::<u8>(), any::<bool>()), 0..4),
            piece in 1_usize..80,
        ) {
            let mut bytes = header(2, 60);
            bytes.extend_from_slice(b"payload");
            for (at, value, insert) in damage {
                let at = (at * bytes.len() as f64) as usize;
                if insert { bytes.insert(at, value) } else { bytes[at] = value }
            }
            prop_assert_eq!(parse(&bytes, piece), parse(&bytes, bytes.len()));
        }
    }

    #[test]
    fn hostile_headers_end_soon() {
        let mut endless = MAGIC.to_vec();
        endless.extend_from_slice(b"-> x\n");
        endless.resize(10 << 20, b'A');
        let mut lines = MAGIC.to_vec();
        lines.extend_from_slice(b"-> x\n");
        lines.extend(
            std::iter::repeat_n(*b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n", 99999)
                .flatten(),
        );
        for bytes in [endless, lines, header(65, 10), header(40, 2000), header(0, 0)] {
            for piece in [1, 1000, bytes.len()] {
                assert!(matches!(parse(&bytes, piece), Err(SealError::Header(_))), "{:?}", parse(&bytes, piece));
            }
        }
        assert_eq!(parse(&header(64, 600), 1000), Ok(Some(header(64, 600).len())));
    }
}

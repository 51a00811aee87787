//! What tests of sealing share: the vectors of `core/tests/data/age`.

use std::path::PathBuf;
use std::sync::Arc;

use age_core::format::FileKey;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::crypto::sha256;
use super::payload::{Geometry, NONCE, PayloadKey};
use super::{Identities, Keys, KeysBuilder, SealError};

/// Bytes from hex digits.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hex")).collect()
}

/// SHA-256, as the kit tells it.
pub(crate) fn digest(bytes: &[u8]) -> Vec<u8> {
    sha256(&[bytes]).to_vec()
}

/// A file of the vectors.
pub(crate) fn data(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/age").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Keys that open what one of these lists opens.
pub(crate) fn keys_of(lists: &[String]) -> Arc<Keys> {
    let texts: Vec<_> = lists.iter().map(|list| String::from_utf8(data(list)).expect("text")).collect();
    keys(&texts.join("\n"))
}

/// Keys that open with these identities.
pub(crate) fn keys(identities: &str) -> Arc<Keys> {
    let identities = Some(Identities::parse(identities).expect("identities"));
    Arc::new(KeysBuilder { identities, ..KeysBuilder::default() }.build().expect("keys"))
}

/// A file that must open.
pub(crate) struct Good {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) plain: Vec<u8>,
    /// Lists of identities, each of which opens it.
    pub(crate) identities: Vec<Vec<String>>,
}

/// A file that must be refused.
pub(crate) struct Bad {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) identities: Vec<String>,
    /// The class of the refusal, as [`class`] names it.
    pub(crate) class: String,
    /// Plain bytes that a streaming reader gives out before.
    pub(crate) released: usize,
}

/// The name of a refusal in the vectors.
pub(crate) fn class(error: SealError) -> &'static str {
    match error {
        SealError::NotAge => "NotAge",
        SealError::Header(_) => "Header",
        SealError::NoMatch => "NoMatch",
        SealError::BadMac => "BadMac",
        SealError::Payload { .. } => "Payload",
        SealError::NoIdentity => "NoIdentity",
        SealError::Forged(_) => "Forged",
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().expect("a list").iter().map(text).collect()
}

fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().expect("a number")).expect("small")
}

pub(crate) fn vectors() -> Value {
    serde_json::from_slice(&data("vectors.json")).expect("JSON")
}

fn plain(name: &str) -> Vec<u8> {
    match name {
        "plain/empty.bin" => Vec::new(),
        "plain/hello.bin" => b"Hello, replicate!\n".to_vec(),
        _ => match name.strip_prefix("plain/c").and_then(|rest| rest.strip_suffix(".bin")?.parse::<usize>().ok()) {
            Some(len) => (0..len).map(|i| u8::try_from((131 * i + 7 * (i / 256) + 3) % 256).expect("a byte")).collect(),
            None => data(name),
        },
    }
}

/// Every file that must open. That its bytes are those of the original is checked.
pub(crate) fn good() -> Vec<Good> {
    let good: Vec<_> = vectors()["positive"].as_array().expect("a list").iter().map(one_good).collect();
    // Whoever goes through them all must not go through none.
    let lists: usize = good.iter().map(|file| file.identities.len()).sum();
    assert_eq!((good.len(), lists), (32, 39));
    assert!(good.iter().all(|file| !file.identities.is_empty()));
    good
}

fn one_good(entry: &Value) -> Good {
    let plain = plain(&text(&entry["plain"]));
    let mut bytes = BASE64_STANDARD.decode(text(&entry["head"])).expect("base64");
    assert_eq!(bytes.len(), number(&entry["header_len"]) + NONCE);
    let file_key = FileKey::init_with_mut(|key| key.copy_from_slice(&hex(&text(&entry["file_key"]))));
    let nonce = bytes[bytes.len() - NONCE..].try_into().expect("a nonce");
    let key = PayloadKey::new(&file_key, nonce);
    let geometry = Geometry::of_plain(number(&entry["header_len"]) as u64, plain.len() as u64);
    for chunk in 0..geometry.chunks {
        let range = geometry.plain_range(chunk);
        let mut sealed = plain[range.start as usize..range.end as usize].to_vec();
        let tag = key.seal(chunk, geometry.is_last(chunk), &mut sealed);
        bytes.extend_from_slice(&sealed);
        bytes.extend_from_slice(&tag);
    }
    let name = text(&entry["file"]);
    assert_eq!(bytes.len(), number(&entry["size"]), "{name}");
    assert_eq!(sha256(&[&bytes]).as_slice(), hex(&text(&entry["sha256"])), "{name}");
    assert_eq!(sha256(&[&plain]).as_slice(), hex(&text(&entry["plain_sha256"])), "{name}");
    let mut identities = vec![texts(&entry["identities"])];
    identities.extend(entry["also_identities"].as_array().expect("a list").iter().map(texts));
    Good { name, bytes, plain, identities }
}

/// Every file that must be refused.
pub(crate) fn bad() -> Vec<Bad> {
    let good = good();
    let one = |entry: &Value| {
        let name = text(&entry["file"]);
        let base = good.iter().find(|file| file.name == text(&entry["base"])).expect("a base");
        let mut bytes = Vec::new();
        for part in entry["parts"].as_array().expect("a list") {
            match part.get("bytes") {
                Some(literal) => bytes.extend(BASE64_STANDARD.decode(text(literal)).expect("base64")),
                None => bytes.extend_from_slice(&base.bytes[number(&part["from"])..][..number(&part["len"])]),
            }
        }
        assert_eq!(sha256(&[&bytes]).as_slice(), hex(&text(&entry["sha256"])), "{name}");
        let (identities, class) = (texts(&entry["identities"]), text(&entry["error"]));
        Bad { name, bytes, identities, class, released: number(&entry["released_plain_bytes"]) }
    };
    let bad: Vec<_> = vectors()["negative"].as_array().expect("a list").iter().map(one).collect();
    assert_eq!(bad.len(), 43);
    bad
}

/// A case of the public test kit.
pub(crate) struct KitCase {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) identity: String,
    /// `success` or the kind of failure.
    pub(crate) expect: String,
    /// SHA-256 of what comes out, also before a failure.
    pub(crate) payload: Option<Vec<u8>>,
}

/// Every case of the kit that is about files of ours.
pub(crate) fn kit() -> Vec<KitCase> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/age/cctv");
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    names.into_iter().map(kit_case).collect()
}

fn kit_case(name: String) -> KitCase {
    let raw = data(&format!("cctv/{name}"));
    let head = raw.windows(2).position(|two| two == b"\n\n").expect("a head");
    let fields = String::from_utf8(raw[..head].to_vec()).expect("text");
    let field = |key: &str| fields.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
    let body = &raw[head + 2..];
    let bytes = match field("compressed: ").as_deref() {
        None => body.to_vec(),
        Some("zlib") => miniz_oxide::inflate::decompress_to_vec_zlib(body).expect("zlib"),
        Some(other) => panic!("{name}: {other}"),
    };
    // Some cases have several identities, some none: then any will do.
    let identities: Vec<_> = fields.lines().filter_map(|line| line.strip_prefix("identity: ")).collect();
    let identity = match identities.is_empty() {
        true => String::from_utf8(data("keys/x25519_a.txt")).expect("text"),
        false => identities.join("\n"),
    };
    let expect = field("expect: ").expect("an expectation");
    KitCase { name, bytes, identity, expect, payload: field("payload: ").map(|digits| hex(&digits)) }
}

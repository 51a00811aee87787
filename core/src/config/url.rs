//! Where a replica is: the grammar of replica URLs, in one place for every caller.
//!
//! | URL | place |
//! |---|---|
//! | `s3://bucket/prefix` | AWS, or the service that `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` names; the region comes from the environment or is looked up |
//! | `s3://bucket.s3.REGION.amazonaws.com/prefix` and the hosts of [`HOSTS`] | that provider |
//! | `s3://bucket.host:port/prefix` | `http://host:port`, bucket in the path, region `us-east-1` |
//! | `s3://arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/prefix` | an access point |
//! | `s3://bucket/prefix?endpoint=…&region=…&force-path-style=true` | any S3 service |
//! | `file:///folder` | a folder |
//! | `memory://name` | this process only |
//!
//! What Litestream accepts names the same place here, with these differences: an unknown query parameter, a truth
//! value that is none, a query on `file:`, a host in `file:` (it is folded into the path there) and secrets anywhere
//! in a URL are errors; and percent escapes are decoded in `file:` too (RFC 8089), where it keeps them as they are.
//! Errors never repeat a URL as a whole: it could hold a secret.

use std::fmt;
use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};

/// A checked place of a replica.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum StoreLocation {
    /// A folder.
    File(PathBuf),
    /// A bucket and a prefix.
    S3(S3Location),
    /// In this process only, by name; for tests.
    Memory(String),
}

/// An S3 bucket, a prefix in it, and how to reach it.
#[derive(Clone, Eq, PartialEq)]
pub struct S3Location {
    /// The bucket.
    pub bucket: String,
    /// The prefix of all keys, without slashes at its ends; may be empty.
    pub prefix: String,
    /// The service, `https://host` or `http://host:port`; AWS itself if unset.
    pub endpoint: Option<String>,
    /// The region to sign for.
    pub region: Option<String>,
    /// Bucket in the path instead of in the host name; decided from endpoint and provider if unset.
    pub path_style: Option<bool>,
    /// Static keys; the AWS chain if unset.
    pub credentials: Option<S3Credentials>,
}

/// Static keys.
#[derive(Clone, Eq, PartialEq)]
pub struct S3Credentials {
    /// Access key.
    pub access_key: String,
    /// Secret key.
    pub secret_key: String,
    /// Session token of temporary keys.
    pub session_token: Option<String>,
}

/// A host name in a URL that names bucket and service together: what follows the bucket's label, with
/// `{}` for the one label that varies.
struct HostForm {
    tail: &'static str,
    /// The service; `None` is AWS itself.
    endpoint: Option<&'static str>,
    /// The region; `{}` is the label that varies, `None` is not known from the name.
    region: Option<&'static str>,
    path_style: Option<bool>,
}

const fn host(
    tail: &'static str,
    endpoint: Option<&'static str>,
    region: Option<&'static str>,
    path_style: Option<bool>,
) -> HostForm {
    HostForm { tail, endpoint, region, path_style }
}

/// Every host form.
const HOSTS: &[HostForm] = &[
    host("s3.{}.amazonaws.com", None, Some("{}"), None),
    host("s3.amazonaws.com", None, None, None),
    host("{}.digitaloceanspaces.com", Some("https://{}.digitaloceanspaces.com"), Some("{}"), Some(false)),
    host("s3.{}.backblazeb2.com", Some("https://s3.{}.backblazeb2.com"), Some("{}"), Some(true)),
    host("s3.filebase.com", Some("https://s3.filebase.com"), Some("us-east-1"), Some(true)),
    host("s3.{}.scw.cloud", Some("https://s3.{}.scw.cloud"), Some("{}"), Some(false)),
    host("{}.your-objectstorage.com", Some("https://{}.your-objectstorage.com"), Some("{}"), None),
    host("{}.r2.cloudflarestorage.com", Some("https://{}.r2.cloudflarestorage.com"), Some("auto"), None),
    host("fly.storage.tigris.dev", Some("https://fly.storage.tigris.dev"), Some("auto"), None),
    host("t3.storage.dev", Some("https://t3.storage.dev"), Some("auto"), None),
];

impl StoreLocation {
    /// Parses a replica URL. It holds no credentials, so the place it gives has none either.
    pub fn parse(url: &str) -> Result<Self> {
        let url = url.trim();
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(config("a replica URL begins with a scheme and ://").with_hint(KNOWN_SCHEMES));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "s3" => Ok(Self::S3(parse_s3(rest)?)),
            "file" => Ok(Self::File(parse_file(rest)?)),
            "memory" if rest.is_empty() || rest.contains(['?', '#']) => {
                Err(config("memory:// is followed by a name and nothing else"))
            }
            "memory" => Ok(Self::Memory(rest.to_owned())),
            _ => Err(config(format!("unknown scheme {scheme:?} in a replica URL")).with_hint(KNOWN_SCHEMES)),
        }
    }

    /// The scheme of its URL.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::S3(_) => "s3",
            Self::Memory(_) => "memory",
        }
    }
}

const KNOWN_SCHEMES: &str = "known are s3://bucket/prefix, file:///folder and memory://name";

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(folder) => write!(f, "file://{}", encode(&folder.to_string_lossy())),
            Self::S3(s3) => s3.fmt(f),
            Self::Memory(name) => write!(f, "memory://{name}"),
        }
    }
}

impl S3Location {
    /// A bucket and a prefix; slashes at the ends of the prefix do not count.
    pub fn new(bucket: &str, prefix: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let arn = bucket.starts_with("arn:") && bucket.chars().all(|c| plain(c) || matches!(c, ':' | '/'));
        if bucket.is_empty() {
            return Err(config("bucket required").with_hint("s3://bucket/prefix"));
        }
        if !arn && (!bucket.chars().all(plain) || bucket.len() > 255) {
            return Err(config(format!("not a bucket name: {bucket:?}")));
        }
        let prefix = clean(prefix);
        if prefix.contains(['\0', '\\', '\n', '\r']) {
            return Err(config(format!("not a prefix of object keys: {prefix:?}")));
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix,
            endpoint: None,
            region: None,
            path_style: None,
            credentials: None,
        })
    }

    /// Sets the service. Without a scheme it is `http` for a host of the local network and `https` for
    /// every other.
    pub fn set_endpoint(&mut self, endpoint: &str) -> Result<()> {
        self.endpoint = Some(normal_endpoint(endpoint)?);
        Ok(())
    }
}

/// As a URL, without credentials.
impl fmt::Display for S3Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)?;
        match &self.endpoint {
            Some(endpoint) => write!(f, "?endpoint={endpoint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for S3Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Location")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("path_style", &self.path_style)
            .field("credentials", &self.credentials)
            .finish()
    }
}

/// Names no part of a key: even an access key is enough to look its owner up.
impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("S3Credentials(***)")
    }
}

fn config(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Config, message)
}

fn parse_file(rest: &str) -> Result<PathBuf> {
    if rest.contains(['?', '#']) {
        return Err(config("a file:// URL has no query"));
    }
    let path = rest.strip_prefix("localhost").filter(|p| p.starts_with('/')).unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(config("a file:// URL needs an absolute path").with_hint("three slashes: file:///folder"));
    }
    let path = clean(&decode(path)?);
    if path.is_empty() || path.contains('\0') {
        return Err(config("a file:// URL needs a folder").with_hint("file:///folder"));
    }
    Ok(PathBuf::from(format!("/{path}")))
}

fn parse_s3(rest: &str) -> Result<S3Location> {
    if rest.contains('#') {
        return Err(config("an s3:// URL has no fragment").with_hint("write # in a prefix as %23"));
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut location = match place.strip_prefix("arn:") {
        Some(_) => parse_arn(place)?,
        None => {
            let (host, path) = place.split_once('/').unwrap_or((place, ""));
            if host.contains('@') {
                return Err(config("credentials do not belong into a URL").with_hint(KEYS_HINT));
            }
            parse_host(host, &decode(path)?)?
        }
    };
    let mut seen = Vec::new();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        // `forcePathStyle` and `force-path-style` are one name.
        let plain: String = name.chars().filter(|c| !matches!(c, '-' | '_')).collect::<String>().to_ascii_lowercase();
        if seen.contains(&plain) {
            return Err(config(format!("parameter {name:?} is given twice")));
        }
        match plain.as_str() {
            "endpoint" => location.set_endpoint(&value)?,
            "region" if value.is_empty() => return Err(config("parameter \"region\" is empty")),
            "region" => location.region = Some(value.into_owned()),
            "forcepathstyle" => location.path_style = Some(parse_bool(&name, &value)?),
            _ if ["key", "secret", "token", "password"].iter().any(|s| plain.contains(s)) => {
                return Err(config(format!("parameter {name:?} does not belong into a URL")).with_hint(KEYS_HINT));
            }
            _ => {
                return Err(config(format!("unknown parameter {name:?} in an s3:// URL"))
                    .with_hint("known are endpoint, region and force-path-style"));
            }
        }
        seen.push(plain);
    }
    Ok(location)
}

const KEYS_HINT: &str = "give keys as options, in the environment or in the AWS configuration";

/// Whether an `s3:` URL names only a bucket, so that the environment may say of which service.
pub(super) fn leaves_service_open(url: &str) -> bool {
    let host = url.trim().split_once("://").and_then(|(_, rest)| rest.split(['/', '?']).next()).unwrap_or("");
    !host.starts_with("arn:") && !host.to_ascii_lowercase().ends_with(".amazonaws.com")
}

fn parse_bool(name: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "t" | "yes" => Ok(true),
        "false" | "0" | "f" | "no" => Ok(false),
        _ => Err(config(format!("parameter {name:?} is true or false"))),
    }
}

/// `arn:PARTITION:s3:REGION:ACCOUNT:accesspoint/NAME/prefix`.
fn parse_arn(place: &str) -> Result<S3Location> {
    let mut segments = place.splitn(3, '/');
    let (kind, name, prefix) = (segments.next().unwrap_or(""), segments.next().unwrap_or(""), segments.next());
    let fields: Vec<_> = kind.split(':').collect();
    let [_, _, "s3", region, _, "accesspoint"] = fields[..] else {
        return Err(config("only ARNs of S3 access points are known")
            .with_hint("s3://arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/prefix"));
    };
    if name.is_empty() {
        return Err(config("the ARN names no access point"));
    }
    let mut location = S3Location::new(&format!("{kind}/{name}"), &decode(prefix.unwrap_or(""))?)?;
    location.region = (!region.is_empty()).then(|| region.to_owned());
    Ok(location)
}

fn parse_host(host: &str, prefix: &str) -> Result<S3Location> {
    let bucket_required = || config("bucket required").with_hint("s3://bucket/prefix?endpoint=host");
    if let Some((name, port)) = host.rsplit_once(':') {
        if port.parse::<u16>().is_err() || name.contains(':') {
            return Err(config("not a port number in the host of an s3:// URL"));
        }
        // An address has dots, but none of its numbers is a bucket.
        let is_address = name.parse::<std::net::Ipv4Addr>().is_ok();
        let Some((bucket, service)) = name.split_once('.').filter(|_| !is_address) else {
            return Err(bucket_required());
        };
        let mut location = S3Location::new(bucket, prefix)?;
        location.set_endpoint(&format!("http://{service}:{port}"))?;
        location.region = Some("us-east-1".into());
        location.path_style = Some(true);
        return Ok(location);
    }
    for form in HOSTS {
        let Some((bucket, varying)) = match_tail(host, form.tail) else { continue };
        if bucket.is_empty() {
            return Err(bucket_required());
        }
        let mut location = S3Location::new(bucket, prefix)?;
        location.endpoint = form.endpoint.map(|e| e.replace("{}", varying));
        location.region = form.region.map(|r| r.replace("{}", varying));
        location.path_style = form.path_style;
        return Ok(location);
    }
    S3Location::new(host, prefix)
}

/// What stands before the tail in a host name, and the label that varies.
fn match_tail<'a>(host: &'a str, tail: &str) -> Option<(&'a str, &'a str)> {
    let mut rest = host;
    let mut varying = "";
    for label in tail.rsplit('.') {
        let (before, last) = rest.rsplit_once('.').unwrap_or(("", rest));
        match label {
            "{}" if last.is_empty() => return None,
            "{}" => varying = last,
            _ if !last.eq_ignore_ascii_case(label) => return None,
            _ => {}
        }
        rest = before;
    }
    Some((rest, varying))
}

fn normal_endpoint(endpoint: &str) -> Result<String> {
    let endpoint = endpoint.trim().trim_end_matches('/');
    let wrong =
        |why: &str| config(format!("the endpoint is not valid: {why}")).with_hint("https://host or http://host:port");
    let full = match endpoint.split_once("://") {
        Some(_) => endpoint.to_owned(),
        None if is_local(endpoint) => format!("http://{endpoint}"),
        None => format!("https://{endpoint}"),
    };
    let parsed = url::Url::parse(&full).map_err(|e| wrong(&e.to_string()))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(wrong("neither http nor https"));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(wrong("it holds credentials").with_hint(KEYS_HINT));
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(wrong("it has a query"));
    }
    if parsed.host_str().is_none_or(str::is_empty) {
        return Err(wrong("it names no host"));
    }
    Ok(parsed.as_str().trim_end_matches('/').to_owned())
}

/// Whether this host (with or without port) is in the local network, where TLS is rare.
fn is_local(endpoint: &str) -> bool {
    let host = endpoint.split('/').next().unwrap_or("");
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(""),
        None => host.rsplit_once(':').map_or(host, |(h, _)| h),
    };
    match host.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(v4)) => v4.is_loopback() || v4.is_private(),
        Ok(std::net::IpAddr::V6(v6)) => v6.is_loopback(),
        Err(_) => {
            let host = host.to_ascii_lowercase();
            host == "localhost" || host.ends_with(".local") || host.ends_with(".localhost")
        }
    }
}

/// A path without empty segments and dots; `..` takes back the segment before it.
fn clean(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    segments.join("/")
}

/// The text with escapes for what would not be read back as it is, or not as one word.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '%' | '?' | '#') || c.is_whitespace() || c.is_control() {
            c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| encoded.push_str(&format!("%{byte:02X}")));
        } else {
            encoded.push(c);
        }
    }
    encoded
}

fn decode(text: &str) -> Result<String> {
    let wrong = || config("a % in a replica URL is followed by two hexadecimal digits of UTF-8");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let digits = after.get(..2).and_then(|d| std::str::from_utf8(d).ok()).ok_or_else(wrong)?;
            if !digits.bytes().all(|d| d.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
            rest = &after[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// URL, bucket, prefix, endpoint, region, path style.
    type Row<'a> = (&'a str, &'a str, &'a str, Option<&'a str>, Option<&'a str>, Option<bool>);

    const S3: &[Row<'_>] = &[
        ("s3://bkt", "bkt", "", None, None, None),
        ("s3://bkt/", "bkt", "", None, None, None),
        ("S3://bkt/a", "bkt", "a", None, None, None),
        (" s3://bkt/a ", "bkt", "a", None, None, None),
        ("s3://my.dotted.bkt/a/b", "my.dotted.bkt", "a/b", None, None, None),
        ("s3://bkt//a///b/", "bkt", "a/b", None, None, None),
        ("s3://bkt/a/../b/./c", "bkt", "b/c", None, None, None),
        ("s3://bkt/../../b", "bkt", "b", None, None, None),
        ("s3://bkt/a%20b%2Fc", "bkt", "a b/c", None, None, None),
        ("s3://bkt.s3.eu-west-1.amazonaws.com/p", "bkt", "p", None, Some("eu-west-1"), None),
        ("s3://my.bkt.s3.eu-west-1.amazonaws.com/p", "my.bkt", "p", None, Some("eu-west-1"), None),
        ("s3://bkt.s3.amazonaws.com/p", "bkt", "p", None, None, None),
        ("s3://bkt.localhost:9000/p", "bkt", "p", Some("http://localhost:9000"), Some("us-east-1"), Some(true)),
        ("s3://bkt.127.0.0.1:9000", "bkt", "", Some("http://127.0.0.1:9000"), Some("us-east-1"), Some(true)),
        ("s3://bkt.minio.lan:1/p", "bkt", "p", Some("http://minio.lan:1"), Some("us-east-1"), Some(true)),
        (
            "s3://bkt.nyc3.digitaloceanspaces.com/p",
            "bkt",
            "p",
            Some("https://nyc3.digitaloceanspaces.com"),
            Some("nyc3"),
            Some(false),
        ),
        (
            "s3://bkt.s3.us-west-002.backblazeb2.com/p",
            "bkt",
            "p",
            Some("https://s3.us-west-002.backblazeb2.com"),
            Some("us-west-002"),
            Some(true),
        ),
        ("s3://bkt.s3.filebase.com/p", "bkt", "p", Some("https://s3.filebase.com"), Some("us-east-1"), Some(true)),
        (
            "s3://bkt.s3.fr-par.scw.cloud/p",
            "bkt",
            "p",
            Some("https://s3.fr-par.scw.cloud"),
            Some("fr-par"),
            Some(false),
        ),
        (
            "s3://bkt.abc123.r2.cloudflarestorage.com/p",
            "bkt",
            "p",
            Some("https://abc123.r2.cloudflarestorage.com"),
            Some("auto"),
            None,
        ),
        ("s3://bkt.fly.storage.tigris.dev/p", "bkt", "p", Some("https://fly.storage.tigris.dev"), Some("auto"), None),
        (
            "s3://bkt.fsn1.your-objectstorage.com/p",
            "bkt",
            "p",
            Some("https://fsn1.your-objectstorage.com"),
            Some("fsn1"),
            None,
        ),
        (
            "s3://arn:aws:s3:us-east-2:123456789012:accesspoint/name/p/q",
            "arn:aws:s3:us-east-2:123456789012:accesspoint/name",
            "p/q",
            None,
            Some("us-east-2"),
            None,
        ),
        (
            "s3://arn:aws:s3:us-east-2:123456789012:accesspoint/name?region=eu-west-1",
            "arn:aws:s3:us-east-2:123456789012:accesspoint/name",
            "",
            None,
            Some("eu-west-1"),
            None,
        ),
        ("s3://bkt/p?region=eu-west-3", "bkt", "p", None, Some("eu-west-3"), None),
        ("s3://bkt?endpoint=localhost:9000", "bkt", "", Some("http://localhost:9000"), None, None),
        ("s3://bkt?endpoint=192.168.1.2:9000", "bkt", "", Some("http://192.168.1.2:9000"), None, None),
        ("s3://bkt?endpoint=172.32.0.1", "bkt", "", Some("https://172.32.0.1"), None, None),
        ("s3://bkt?endpoint=nas.local", "bkt", "", Some("http://nas.local"), None, None),
        ("s3://bkt?endpoint=%5B::1%5D:9000", "bkt", "", Some("http://[::1]:9000"), None, None),
        ("s3://bkt/p?endpoint=s3.example.com", "bkt", "p", Some("https://s3.example.com"), None, None),
        ("s3://bkt/p?endpoint=http://s3.example.com/", "bkt", "p", Some("http://s3.example.com"), None, None),
        (
            "s3://bkt?endpoint=https://x.supabase.co/storage/v1/s3",
            "bkt",
            "",
            Some("https://x.supabase.co/storage/v1/s3"),
            None,
            None,
        ),
        ("s3://bkt?forcePathStyle=false&endpoint=h.example", "bkt", "", Some("https://h.example"), None, Some(false)),
        ("s3://bkt?force-path-style=t", "bkt", "", None, None, Some(true)),
        ("s3://bkt?force_path_style=yes", "bkt", "", None, None, Some(true)),
    ];

    #[test]
    fn s3_urls_name_bucket_prefix_service_region_and_style() {
        for (url, bucket, prefix, endpoint, region, path_style) in S3 {
            let StoreLocation::S3(s3) = StoreLocation::parse(url).unwrap_or_else(|e| panic!("{url}: {e}")) else {
                panic!("{url}: not S3")
            };
            let got = (s3.bucket.as_str(), s3.prefix.as_str(), s3.endpoint.as_deref(), s3.region.as_deref());
            assert_eq!(got, (*bucket, *prefix, *endpoint, *region), "{url}");
            assert_eq!(s3.path_style, *path_style, "{url}");
            assert_eq!(s3.credentials, None, "{url}");
        }
    }

    #[test]
    fn file_and_memory_urls_name_their_place() {
        for (url, path) in [
            ("file:///var/lib/app", "/var/lib/app"),
            ("file://localhost/var", "/var"),
            ("file:///a//b/../c/", "/a/c"),
            ("FILE:///a%20b", "/a b"),
            ("file:///a b", "/a b"),
            ("file:///My%20Project/%C3%BCben", "/My Project/üben"),
            ("file:///My Project/üben", "/My Project/üben"),
            ("file:///a/%2e%2e/b", "/b"),
            ("file:///100%25%3F%23", "/100%?#"),
            ("file:///a%E2%80%83", "/a\u{2003}"),
        ] {
            let place = StoreLocation::parse(url).expect(url);
            assert_eq!(place, StoreLocation::File(PathBuf::from(path)));
            assert_eq!(StoreLocation::parse(&place.to_string()).expect(url), place, "{place}");
        }
        assert_eq!(StoreLocation::parse("memory://x").expect("fine"), StoreLocation::Memory("x".into()));
    }

    proptest::proptest! {
        #[test]
        fn any_folder_is_shown_as_a_url_of_itself(path in "(/[^/\0]{1,8}){1,3}") {
            let folder = StoreLocation::File(PathBuf::from(format!("/{}", clean(&path))));
            proptest::prop_assume!(!clean(&path).is_empty());
            proptest::prop_assert_eq!(StoreLocation::parse(&folder.to_string()).ok(), Some(folder));
        }
    }

    #[test]
    fn what_is_no_place_is_refused_with_the_reason() {
        for (url, named) in [
            ("", "scheme"),
            ("/var/lib", "scheme"),
            ("file:a/b", "scheme"),
            ("gcs://bkt/p", "known are s3://"),
            ("https://host/p", "\"https\""),
            ("file://a/b", "file:///"),
            ("file:///", "folder"),
            ("file:///a?x=1", "no query"),
            ("file:///100%", "%"),
            ("file:///a%ff", "%"),
            ("file:///a%00b", "folder"),
            ("memory://", "name"),
            ("s3://", "bucket required"),
            ("s3:///p", "bucket required"),
            ("s3://localhost:9000/p", "bucket required"),
            ("s3://127.0.0.1:9000/p", "bucket required"),
            ("s3://s3.filebase.com/p", "bucket required"),
            ("s3://bkt.host:x/p", "port"),
            ("s3://b kt/p", "not a bucket name"),
            ("s3://bkt/%zz", "%"),
            ("s3://bkt/%ff", "%"),
            ("s3://bkt/%2", "%"),
            ("s3://bkt/a%0ab", "prefix"),
            ("s3://bkt/a#b", "fragment"),
            ("s3://arn:aws:sqs:us-east-2:1:name/p", "access point"),
            ("s3://bkt?colour=red", "\"colour\""),
            ("s3://bkt?skipVerify=true", "\"skipVerify\""),
            ("s3://bkt?region=a&region=b", "twice"),
            ("s3://bkt?forcePathStyle=a&force-path-style=b", "true or false"),
            ("s3://bkt?region=", "empty"),
            ("s3://bkt?endpoint=ftp://h", "http"),
            ("s3://bkt?endpoint=", "endpoint"),
            ("s3://bkt?endpoint=https://h/?x=1", "query"),
        ] {
            let error = StoreLocation::parse(url).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(error.to_string().contains(named), "{url}: {error}");
        }
    }

    #[test]
    fn a_secret_in_a_url_is_refused_and_not_repeated() {
        for url in [
            "s3://AKIA:hush@bkt/p",
            "s3://bkt?secret-access-key=hush",
            "s3://bkt?accessKeyId=hush",
            "s3://bkt?sseCustomerKey=hush",
            "s3://bkt?endpoint=https://u:hush@host",
        ] {
            let error = StoreLocation::parse(url).expect_err(url);
            assert!(!format!("{error} {error:?}").contains("hush"), "{url}: {error}");
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let mut s3 = S3Location::new("bkt", "/p/").expect("fine");
        s3.set_endpoint("localhost:1").expect("fine");
        s3.credentials = Some(S3Credentials {
            access_key: "hush".into(),
            secret_key: "hush".into(),
            session_token: Some("hush".into()),
        });
        let shown = format!("{s3:?} {s3} {:?} {}", s3.credentials, StoreLocation::S3(s3.clone()));
        assert!(!shown.contains("hush"), "{shown}");
        assert_eq!(StoreLocation::S3(s3).to_string(), "s3://bkt/p?endpoint=http://localhost:1");
    }
}

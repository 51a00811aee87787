//! Options: one table, one parser, checked whole before anything starts.
//!
//! Environment variables, keyword arguments, URL queries and command flags all end in [`Options::set`] with
//! a key of the table and a text; [`Options::check`] turns them into a frozen [`Config`] or an error that
//! names the key. An empty value is the same as no value.

mod key;
mod seal;
mod url;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use replicate_format::PageEncoding;
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::seal::Keys;

pub use self::key::ConfigKey;
pub use self::url::{S3Credentials, S3Location, StoreLocation};
pub use self::value::{parse_duration, parse_size};

/// Options as the caller gave them.
#[derive(Clone, Default)]
pub struct Options {
    values: BTreeMap<ConfigKey, Zeroizing<String>>,
    /// Given in bytes that are no text.
    unreadable: BTreeSet<ConfigKey>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown =
            |key: &ConfigKey, value: &str| if key.is_secret() { "***".to_owned() } else { without_secrets(value) };
        f.debug_map().entries(self.values.iter().map(|(k, v)| (k.name(), shown(k, v)))).finish()
    }
}

impl Options {
    /// No options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The options of the environment, and the names that begin with `REPLICATE_` but mean nothing.
    ///
    /// The environment is read once and never written.
    #[must_use]
    pub fn from_env() -> (Self, Vec<String>) {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
        let variables = std::env::vars_os();
        Self::from_variables(variables)
    }

    fn from_variables(variables: impl Iterator<Item = (OsString, OsString)>) -> (Self, Vec<String>) {
        let mut options = Self::new();
        let mut unknown = Vec::new();
        // A name that is no text is none of ours, and shown as well as it can be.
        let ours = variables.map(|(name, value)| (name.to_string_lossy().into_owned(), value));
        for (name, value) in ours.filter(|(name, _)| name.starts_with("REPLICATE_")) {
            match (ConfigKey::from_env(&name), value.into_string()) {
                (Some(key), Ok(value)) => options.set_key(key, value),
                (Some(key), Err(_)) => drop(options.unreadable.insert(key)),
                (None, _) => unknown.push(name),
            }
        }
        unknown.sort();
        (options, unknown)
    }

    /// Sets an option by its name.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> Result<()> {
        let key = ConfigKey::from_name(name).ok_or_else(|| {
            let known: Vec<_> = ConfigKey::ALL.iter().map(|k| k.name()).collect();
            Error::new(ErrorKind::Config, format!("unknown option {name:?}"))
                .with_hint(format!("the options are {}", known.join(", ")))
        })?;
        self.set_key(key, value);
        Ok(())
    }

    /// Sets an option.
    pub fn set_key(&mut self, key: ConfigKey, value: impl Into<String>) {
        self.unreadable.remove(&key);
        self.values.insert(key, Zeroizing::new(value.into()));
    }

    /// The same with this option.
    #[must_use]
    pub fn with(mut self, key: ConfigKey, value: impl Into<String>) -> Self {
        self.set_key(key, value);
        self
    }

    fn given(&self, key: ConfigKey) -> Option<&str> {
        self.values.get(&key).map(|v| v.trim()).filter(|v| !v.is_empty())
    }

    fn text(&self, key: ConfigKey) -> &str {
        self.given(key).unwrap_or(key.default())
    }

    /// Those that are given and mean nothing, because they belong to an S3 service and no place is named.
    #[must_use]
    pub fn without_place(&self) -> Vec<ConfigKey> {
        if self.given(ConfigKey::Url).or(self.given(ConfigKey::Endpoint)).is_some() {
            return Vec::new();
        }
        let of_s3 = ConfigKey::ALL.iter().copied().filter(|key| key.env().starts_with("REPLICATE_S3_"));
        of_s3.filter(|key| self.given(*key).is_some()).collect()
    }

    /// Checks everything and freezes it.
    pub fn check(&self) -> Result<Config> {
        if let Some(key) = self.unreadable.first() {
            return Err(Error::new(ErrorKind::Config, format!("{} is not valid: it is no UTF-8 text", key.env())));
        }
        Ok(Config {
            keys: Arc::new(self.keys()?),
            age_required: self.truth(ConfigKey::AgeRequired)?,
            location: self.location()?,
            sync_interval: self.parsed(ConfigKey::SyncInterval, |text| {
                let interval = parse_duration(text)?;
                in_range(interval, Duration::from_millis(10), Duration::from_secs(24 * 3600), "10ms to 24h")
            })?,
            restore: self.parsed(ConfigKey::Restore, |text| match text {
                "missing" => Ok(RestorePolicy::Missing),
                "never" => Ok(RestorePolicy::Never),
                _ => Err("expected missing or never".into()),
            })?,
            page_encoding: self.parsed(ConfigKey::PageEncoding, |text| match text {
                "frame" => Ok(PageEncoding::Frame),
                "block" => Ok(PageEncoding::Block),
                _ => Err("expected frame or block".into()),
            })?,
            checkpoint_pages: self.parsed(ConfigKey::CheckpointPages, |text| {
                let pages = text.parse::<u32>().map_err(|e| e.to_string())?;
                in_range(pages, 64, 1_000_000, "64 to 1000000")
            })?,
            spool_limit: self.parsed(ConfigKey::SpoolLimit, |text| {
                in_range(parse_size(text)?, 16 << 20, u64::MAX, "16MiB or more")
            })?,
        })
    }

    fn parsed<T>(&self, key: ConfigKey, parse: impl Fn(&str) -> Result<T, String>) -> Result<T> {
        let text = self.text(key);
        parse(text).map_err(|why| {
            Error::new(ErrorKind::Config, format!("{} is not valid: {:?}: {why}", key.name(), without_secrets(text)))
                .with_hint(format!("option {} or variable {}", key.name(), key.env()))
        })
    }

    fn location(&self) -> Result<Option<StoreLocation>> {
        use ConfigKey as K;
        let credentials = match (self.given(K::AccessKey), self.given(K::SecretKey)) {
            (Some(access), Some(secret)) => Some(S3Credentials {
                access_key: access.to_owned(),
                secret_key: secret.to_owned(),
                session_token: self.given(K::SessionToken).map(str::to_owned),
            }),
            (None, None) if self.given(K::SessionToken).is_none() => None,
            _ => {
                return Err(Error::new(ErrorKind::Config, "access key and secret key belong together")
                    .with_hint("set both, or neither to use the AWS credential chain"));
            }
        };
        let Some(given_url) = self.given(K::Url) else {
            let Some(endpoint) = self.given(K::Endpoint) else { return Ok(None) };
            let prefix = self.given(K::Prefix).map_or_else(host_name, |p| Ok(p.to_owned()))?;
            let mut location = S3Location::new(self.text(K::Bucket), &prefix)?;
            location.set_endpoint(endpoint)?;
            location.path_style = Some(true);
            location.region = Some(self.text(K::Region).to_owned());
            location.credentials = credentials;
            return Ok(Some(StoreLocation::S3(location)));
        };
        for key in [K::Bucket, K::Prefix] {
            if self.given(key).is_some() {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("{} and {} name two replicas", K::Url.name(), key.name()),
                )
                .with_hint("give the whole place in the URL"));
            }
        }
        let mut location = StoreLocation::parse(given_url)?;
        match &mut location {
            StoreLocation::S3(s3) => {
                if let (None, Some(endpoint)) = (&s3.endpoint, self.given(K::Endpoint)) {
                    s3.set_endpoint(endpoint)?;
                } else if s3.endpoint.is_none() && url::leaves_service_open(given_url) {
                    use_aws_endpoint(s3, aws_variable)?;
                }
                if s3.region.is_none() {
                    s3.region = self.given(K::Region).map(str::to_owned);
                }
                s3.credentials = credentials;
            }
            _ => {
                for key in [K::Endpoint, K::Region, K::AccessKey] {
                    if self.given(key).is_some() {
                        let message = format!("{} does not go with {}", key.name(), location.scheme());
                        return Err(Error::new(ErrorKind::Config, message));
                    }
                }
            }
        }
        Ok(Some(location))
    }
}

fn aws_variable(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    std::env::var(name).ok()
}

/// Takes the service from the variables that all AWS tools know, and with it their region.
fn use_aws_endpoint(s3: &mut S3Location, variable: impl Fn(&str) -> Option<String>) -> Result<()> {
    let given = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
    let ignored = given("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_some_and(|v| v.trim().eq_ignore_ascii_case("true"));
    let Some(name) = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].into_iter().find(|name| given(name).is_some()) else {
        return Ok(());
    };
    if ignored {
        return Ok(());
    }
    s3.set_endpoint(&given(name).unwrap_or_default()).map_err(|e| e.while_doing(name))?;
    s3.region = s3.region.take().or_else(|| given("AWS_REGION")).or_else(|| given("AWS_DEFAULT_REGION"));
    Ok(())
}

/// A text as messages show it: without words that look like a private key of age, like 32 bytes in base64 or like a line of
/// an SSH key. Each may stand where something else belongs.
#[must_use]
pub fn without_secrets(text: &str) -> String {
    // Of a whole SSH key also the end of the last line, which may be short.
    if text.contains("PRIVATE KEY") {
        return "***".to_owned();
    }
    let in_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '-' | '_');
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c| !in_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        shown.push_str(if is_secret(word) { "***" } else { word });
        let next = after.find(in_word).unwrap_or(after.len());
        shown.push_str(&after[..next]);
        rest = &after[next..];
    }
    shown
}

/// Letters of a line that is taken for one of an SSH key; those have 70 but for the last one.
const SSH_LINE: usize = 60;

fn is_secret(word: &str) -> bool {
    let base64 = |word: &str| word.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
    word.to_ascii_uppercase().contains("SECRET-KEY")
        || (word.len() == 44 && BASE64_STANDARD.decode(word).is_ok())
        || (word.len() >= SSH_LINE && base64(word))
}

fn in_range<T: PartialOrd>(value: T, min: T, max: T, range: &str) -> Result<T, String> {
    if value < min || value > max { Err(format!("out of range, {range}")) } else { Ok(value) }
}

fn host_name() -> Result<String> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() {
        return Err(Error::new(ErrorKind::Config, "this host has no name to use as path")
            .with_hint(format!("set {}", ConfigKey::Prefix.env())));
    }
    Ok(name)
}

/// What happens when the database does not exist at start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RestorePolicy {
    /// It is restored from the replica before the call returns; a store that cannot be asked is an error.
    Missing,
    /// It starts empty, with transaction ids above those of the replica.
    Never,
}

/// Options that were checked; they do not change any more.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Where the replica is; `None`: replication is disabled.
    pub location: Option<StoreLocation>,
    /// Shortest time between two objects under load.
    pub sync_interval: Duration,
    /// What to do about a missing database.
    pub restore: RestorePolicy,
    /// How pages are written.
    pub page_encoding: PageEncoding,
    /// WAL length, in pages, from which it is copied back.
    pub checkpoint_pages: u32,
    /// Bytes that may wait in the spool.
    pub spool_limit: u64,
    /// What objects are sealed to and opened with.
    pub keys: Arc<Keys>,
    /// Whether replication without a key to seal to is refused.
    pub age_required: bool,
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn check(pairs: &[(&str, &str)]) -> Result<Config> {
        let variables = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        let (options, unknown) = Options::from_variables(variables);
        assert!(unknown.is_empty(), "{unknown:?}");
        options.check()
    }

    #[test]
    fn without_endpoint_and_url_replication_is_disabled() {
        assert_eq!(check(&[]).expect("fine").location, None);
        assert_eq!(check(&[("REPLICATE_S3_ENDPOINT", " ")]).expect("fine").location, None);
    }

    #[test]
    fn the_variables_of_the_seed_system_have_its_defaults() {
        let config = check(&[("REPLICATE_S3_ENDPOINT", "http://127.0.0.1:9000")]).expect("fine");
        let Some(StoreLocation::S3(s3)) = config.location else { panic!("not S3") };
        assert_eq!((s3.bucket.as_str(), s3.region.as_deref()), ("replicate", Some("us-central1")));
        assert_eq!(s3.prefix, host_name().expect("a name"));
        assert_eq!(config.sync_interval, Duration::from_secs(1));
    }

    #[test]
    fn what_is_wrong_is_an_error_that_names_the_key() {
        for (pairs, named) in [
            (vec![("REPLICATE_SYNC_INTERVAL", "fast")], "sync_interval"),
            (vec![("REPLICATE_SYNC_INTERVAL", "0s")], "sync_interval"),
            (vec![("REPLICATE_RESTORE", "always")], "restore"),
            (vec![("REPLICATE_AGE_RECIPIENT", "age1xyz")], "age_recipient"),
            (vec![("REPLICATE_AGE_IDENTITY", "AGE-SECRET-KEY-1")], "age_identity"),
            (vec![("REPLICATE_URL", "file:///x"), ("REPLICATE_S3_BUCKET", "b")], "bucket"),
            (vec![("REPLICATE_URL", "file:///x"), ("REPLICATE_S3_ENDPOINT", "http://h:1")], "endpoint"),
            (vec![("REPLICATE_S3_ENDPOINT", "http://h:1"), ("REPLICATE_S3_ACCESS_KEY", "a")], "secret key"),
        ] {
            let error = check(&pairs).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(named), "{error}");
            assert!(!error.to_string().contains("AGE-SECRET"), "{error}");
        }
    }

    #[test]
    fn the_variables_of_aws_tools_name_the_service_of_a_url_that_leaves_it_open() {
        for (variables, endpoint, region) in [
            (&[][..], None, None),
            (&[("AWS_REGION", "eu-west-1")], None, None),
            (&[("AWS_ENDPOINT_URL", "http://h:1/")], Some("http://h:1"), None),
            (
                &[("AWS_ENDPOINT_URL", "http://h:1"), ("AWS_ENDPOINT_URL_S3", "http://h:2"), ("AWS_REGION", "r")],
                Some("http://h:2"),
                Some("r"),
            ),
            (&[("AWS_ENDPOINT_URL", "http://h:1"), ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")], None, None),
            (&[("AWS_ENDPOINT_URL", " ")], None, None),
        ] {
            let mut s3 = S3Location::new("b", "p").expect("fine");
            let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            use_aws_endpoint(&mut s3, variable).expect("fine");
            assert_eq!((s3.endpoint.as_deref(), s3.region.as_deref()), (endpoint, region), "{variables:?}");
        }
        let mut s3 = S3Location::new("b", "p").expect("fine");
        let error = use_aws_endpoint(&mut s3, |name| (name == "AWS_ENDPOINT_URL").then(|| "ftp://h".to_owned()));
        assert!(error.expect_err("refused").to_string().contains("AWS_ENDPOINT_URL"));
    }

    #[test]
    fn unknown_names_are_told_and_unknown_options_refused() {
        let variables = [("REPLICATE_S3_BUKET".into(), "x".into()), ("OTHER".into(), "y".into())];
        let (_, unknown) = Options::from_variables(variables.into_iter());
        assert_eq!(unknown, ["REPLICATE_S3_BUKET"]);
        assert!(Options::new().set("buket", "x").is_err());
        assert!(Options::new().set("sync-interval", "x").is_ok());
    }

    #[test]
    fn a_value_that_is_no_text_is_an_error_and_never_left_out() {
        let raw = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let place = || ("REPLICATE_URL".into(), "file:///x".into());
        let bad = ("REPLICATE_RESTORE".into(), raw(b"never\xff"));
        let (options, unknown) = Options::from_variables([place(), bad].into_iter());
        assert!(unknown.is_empty());
        let error = options.check().expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("REPLICATE_RESTORE"), "{error}");
        assert!(options.with(ConfigKey::Restore, "never").check().is_ok(), "what the caller gives takes its place");

        let (options, unknown) = Options::from_variables([place(), (raw(b"REPLICATE_\xff"), "x".into())].into_iter());
        assert_eq!(unknown, ["REPLICATE_\u{fffd}"]);
        assert!(options.check().is_ok());
    }

    #[test]
    fn options_of_s3_without_a_place_are_told() {
        let named = |pairs: &[(&str, &str)]| {
            let (options, _) = Options::from_variables(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())));
            options.without_place()
        };
        let bucket = ("REPLICATE_S3_BUCKET", "b");
        assert_eq!(named(&[bucket, ("REPLICATE_S3_PATH", "p")]), [ConfigKey::Bucket, ConfigKey::Prefix]);
        assert_eq!(named(&[bucket, ("REPLICATE_S3_ENDPOINT", "http://h:1")]), []);
        assert_eq!(named(&[bucket, ("REPLICATE_URL", "s3://b")]), []);
        assert_eq!(named(&[("REPLICATE_S3_BUCKET", " "), ("REPLICATE_SYNC_INTERVAL", "1s")]), []);
    }

    #[test]
    fn secrets_do_not_show() {
        let options = Options::new().with(ConfigKey::SecretKey, "hush").with(ConfigKey::AgeIdentity, "hush");
        assert!(!format!("{options:?}").contains("hush"));
        // Nor where they do not belong.
        for key in ConfigKey::ALL {
            let line = "HUSH/+".repeat(12);
            let ssh = format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{line}\nHUSH==\n-----END OPENSSH PRIVATE KEY-----");
            for secret in [
                "AGE-SECRET-KEY-1HUSH",
                "c3://AGE-SECRET-KEY-1HUSH",
                "HUSHHUSHHUSHHUSHHUSHHUSHHUSHHUSHHUSHHUSHHUE=",
                &line,
                &ssh,
            ] {
                let options = Options::new().with(*key, secret);
                let error = options.check().and_then(|c| c.location.ok_or_else(|| Error::internal("none"))).err();
                assert!(!format!("{options:?} {error:?}").contains("HUSH"), "{} {error:?}", key.name());
            }
        }
    }
}

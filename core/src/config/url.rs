//! Where a replica is: the grammar of replica URLs.

use std::path::PathBuf;

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

//! The option table.

macro_rules! keys {
    ($($variant:ident: $name:literal, $env:literal, $default:expr, $secret:literal, $doc:literal;)*) => {
        /// An option. The table of the documentation is made from this one.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[non_exhaustive]
        pub enum ConfigKey { $(#[doc = $doc] $variant,)* }

        impl ConfigKey {
            /// Every option, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in code, command flags (with `-`) and URL queries.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Its environment variable.
            #[must_use]
            pub const fn env(self) -> &'static str {
                match self { $(Self::$variant => $env,)* }
            }

            /// Its default, as text; empty where there is none.
            #[must_use]
            pub const fn default(self) -> &'static str {
                match self { $(Self::$variant => $default,)* }
            }

            /// Whether its value must never be shown.
            #[must_use]
            pub const fn is_secret(self) -> bool {
                match self { $(Self::$variant => $secret,)* }
            }

            /// What it does.
            #[must_use]
            pub const fn doc(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }
        }
    };
}

keys! {
    Url: "url", "REPLICATE_URL", "", false,
        "The replica: `s3://bucket/prefix`, `file:///folder`. Takes the place of endpoint, bucket and prefix.";
    Endpoint: "endpoint", "REPLICATE_S3_ENDPOINT", "", false,
        "URL of an S3 service. Without it (and without a replica URL) replication is disabled.";
    Bucket: "bucket", "REPLICATE_S3_BUCKET", "replicate", false,
        "Bucket.";
    Prefix: "prefix", "REPLICATE_S3_PATH", "", false,
        "Prefix of the object keys. Default: the host name.";
    Region: "region", "REPLICATE_S3_REGION", "us-central1", false,
        "Region that requests are signed for. The default goes with the endpoint option. With a replica URL it is the URL's; without one there `us-east-1` at an endpoint, and at AWS that of its configuration or of the bucket.";
    AccessKey: "access_key", "REPLICATE_S3_ACCESS_KEY", "", false,
        "Access key. Without it the AWS credential chain is used.";
    SecretKey: "secret_key", "REPLICATE_S3_SECRET_KEY", "", true,
        "Secret key.";
    SessionToken: "session_token", "REPLICATE_S3_SESSION_TOKEN", "", true,
        "Session token that belongs to temporary keys.";
    SyncInterval: "sync_interval", "REPLICATE_SYNC_INTERVAL", "1s", false,
        "Shortest time between two objects under load (`500ms`, `1m30s`; 10ms to 24h). After quiet a commit ships at once; under load a commit waits for at most so long.";
    Restore: "restore", "REPLICATE_RESTORE", "missing", false,
        "`missing`: a database that does not exist is restored before the call returns. `never`: it starts empty.";
    AgeRecipient: "age_recipient", "REPLICATE_AGE_RECIPIENT", "", false,
        "Public age keys to seal every object to (`age1pq1…`, `age1…`, `age1xw1…`, `ssh-ed25519 …`), one a line. Without it objects are written as they are.";
    AgeRecipientsFile: "age_recipients_file", "REPLICATE_AGE_RECIPIENTS_FILE", "", false,
        "A file with such keys; those of both are used.";
    AgeIdentity: "age_identity", "REPLICATE_AGE_IDENTITY", "", true,
        "Private age keys to open objects with, one a line (an SSH key as its file has it). Only restoring needs them.";
    AgeIdentityFile: "age_identity_file", "REPLICATE_AGE_IDENTITY_FILE", "", false,
        "A file with such keys; those of both are used.";
    AgeRequired: "age_required", "REPLICATE_AGE_REQUIRED", "false", false,
        "`true`: replication does not start without an age recipient, so that an empty variable cannot mean unsealed.";
    AgeAllowPlaintext: "age_allow_plaintext", "REPLICATE_AGE_ALLOW_PLAINTEXT", "false", false,
        "`true`: sealed and plain objects may mix in one replica, for the change from one to the other.";
    AgeAllowForeign: "age_allow_foreign", "REPLICATE_AGE_ALLOW_FOREIGN", "false", false,
        "`true`: sealing to keys that none of the private keys given opens is not an error.";
    AuthKey: "auth_key", "REPLICATE_AUTH_KEY", "", true,
        "32 bytes in base64, shared by who writes and who restores: objects that do not prove to be made with it, for their place, are refused.";
    PageEncoding: "page_encoding", "REPLICATE_PAGE_ENCODING", "frame", false,
        "`frame`: every Litestream 0.5 reads it. `block`: Litestream 0.5.16 and later.";
    CheckpointPages: "checkpoint_pages", "REPLICATE_CHECKPOINT_PAGES", "1000", false,
        "WAL length in pages of up to 4 KiB, larger ones count for more, from which it is copied back into the database (64 to 1000000).";
    SpoolLimit: "spool_limit", "REPLICATE_SPOOL_LIMIT", "1GiB", false,
        "Bytes of captured commits kept beside the database while the store cannot be reached (from 16MiB). At the limit capture pauses and says so; later it compares pages and goes on.";
}

impl ConfigKey {
    /// The option of this name, written with `_` or `-`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.replace('-', "_");
        Self::ALL.iter().copied().find(|key| key.name() == name)
    }

    /// The option of this environment variable.
    #[must_use]
    pub fn from_env(variable: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| key.env() == variable)
    }
}

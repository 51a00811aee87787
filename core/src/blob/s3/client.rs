//! The client: sockets and trust, credentials, region, patience.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsString;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::{RetryConfig, RetryPartition, TokenBucket};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider as Tls, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::crowd::Bounded;
use super::failure::Doing;
use super::provider::{Provider, Ways};
use crate::blob::BlobResult;
use crate::config::S3Location;
use crate::error::{Error, ErrorKind, Result};

/// The region that is signed for where it means nothing.
const ANY_REGION: &str = "us-east-1";

/// Attempts within one call. More would only hide from the caller, who waits longer and tells why.
const ATTEMPTS: u32 = 3;

const CONNECT: Duration = Duration::from_secs(5);

/// The longest that an answer to a small request may take.
const ANSWER: Duration = Duration::from_secs(30);

/// The slowest line that still is one.
const BYTES_A_SECOND: u64 = 64 * 1024;

/// Shorter than what servers and load balancers allow, so that they do not close a connection as it is used.
const KEEP_IDLE: Duration = Duration::from_secs(20);

/// Sockets: one pool for data and credentials.
#[derive(Clone, Debug)]
pub(super) struct Http(SharedHttpClient);

/// The sockets of stores that live on one runtime, one pool for all that trust the same. A pool of its own costs each
/// store its own copy of the system's roots, a few hundred kilobytes and as many milliseconds as there are
/// hundreds of certificates: that counts where a process has a thousand databases.
#[derive(Debug, Default)]
pub(crate) struct Sockets(Mutex<HashMap<Trust, Http>>);

/// What sockets are made for: a CA bundle, and whether no proxy may stand between.
type Trust = (Option<OsString>, bool);

impl Sockets {
    /// Those for this endpoint; a bundle is read when it is first met.
    pub(super) fn get(&self, endpoint: Option<&str>) -> Result<Http> {
        let trust = (bundle(), endpoint.is_some_and(is_loopback));
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.entry(trust) {
            Entry::Occupied(known) => Ok(known.get().clone()),
            Entry::Vacant(slot) => Ok(slot.insert(Http::new(endpoint)?).clone()),
        }
    }
}

fn bundle() -> Option<OsString> {
    #[expect(clippy::disallowed_methods, reason = "the variables of TLS and AWS tools are not options of ours")]
    std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty())
}

impl Http {
    /// For this endpoint (AWS if none). Trust is `AWS_CA_BUNDLE` alone where it is set; else the system's roots,
    /// for which `SSL_CERT_FILE` and `SSL_CERT_DIR` count. Proxies come from the environment, but none stands
    /// between a process and its own host.
    pub(super) fn new(endpoint: Option<&str>) -> Result<Self> {
        let trust = match bundle() {
            Some(path) => read_bundle(Path::new(&path))?,
            None => TrustStore::default(),
        };
        let context = TlsContext::builder().with_trust_store(trust).build();
        let context = context.map_err(|e| Error::internal(format!("TLS cannot be set up: {e}")))?;
        let direct = endpoint.is_some_and(is_loopback);
        let connector = move |settings: Option<&_>, components: Option<&aws_sdk_s3::config::RuntimeComponents>| {
            let proxy = if direct { ProxyConfig::disabled() } else { ProxyConfig::from_env() };
            let mut builder = Connector::builder();
            builder.set_connector_settings(settings.cloned());
            builder.set_sleep_impl(components.and_then(aws_sdk_s3::config::RuntimeComponents::sleep_impl));
            builder
                .enable_tcp_nodelay(true)
                .pool_idle_timeout(KEEP_IDLE)
                .proxy_config(proxy)
                .tls_provider(Tls::Rustls(CryptoMode::Ring))
                .tls_context(context.clone())
                .build()
        };
        Ok(Self(SharedHttpClient::new(Bounded::new(Builder::new().build_with_connector_fn(connector)))))
    }
}

fn is_loopback(endpoint: &str) -> bool {
    match url::Url::parse(endpoint).ok().as_ref().and_then(url::Url::host) {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// The certificates of a bundle that are usable as roots. The HTTP client would panic on any other.
fn read_bundle(path: &Path) -> Result<TrustStore> {
    let wrong = |why: String| {
        Error::new(ErrorKind::Config, format!("the CA bundle is not usable: {why} path={}", path.display()))
            .with_hint("AWS_CA_BUNDLE names it: a file of certificates in PEM form")
    };
    #[expect(clippy::disallowed_methods, reason = "neither a database nor a file of ours")]
    let bytes = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    let mut roots = rustls::RootCertStore::empty();
    let mut trust = TrustStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|e| wrong(e.to_string()))?;
        if roots.add(certificate.clone()).is_ok() {
            trust.add_pem_certificate(pem(&certificate));
        }
    }
    if roots.is_empty() { Err(wrong("no certificate in it".into())) } else { Ok(trust) }
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = aws_smithy_types::base64::encode(certificate);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let body: String = lines.map(|line| format!("{line}\n")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n")
}

/// The client for a place. The credential chain is only put together; it is asked at the first request.
pub(super) async fn connect(location: &S3Location, provider: &'static Provider, http: &Http) -> BlobResult<Client> {
    let region = match (&location.region, &location.endpoint) {
        (Some(region), _) => Some(region.clone()),
        (None, Some(_)) => Some(ANY_REGION.to_owned()),
        (None, None) => None,
    };
    let mut config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http.0.clone())
        .force_path_style(location.path_style.unwrap_or(provider.path_style))
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(ATTEMPTS)
                .with_initial_backoff(Duration::from_millis(100))
                .with_max_backoff(Duration::from_secs(1)),
        )
        // The SDK's bucket would be empty after an outage, and the first hiccup afterwards an error.
        .retry_partition(RetryPartition::custom("replicate").token_bucket(TokenBucket::unlimited()).build())
        .timeout_config(timeouts(0))
        // It takes a reader that pauses for a broken line.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .interceptor(Ways(provider));
    if let Some(endpoint) = &location.endpoint {
        // Anything else is sent as a trailer of a chunked body, which most services refuse.
        config = config
            .endpoint_url(endpoint)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    }
    if let Some(keys) = &location.credentials {
        let token = keys.session_token.clone();
        config =
            config.credentials_provider(Credentials::new(&keys.access_key, &keys.secret_key, token, None, "replicate"));
    }
    let mut region = region.map(Region::new);
    if location.credentials.is_none() || region.is_none() {
        let chain = aws_config::defaults(BehaviorVersion::latest()).http_client(http.0.clone());
        // A region that is given keeps the chain from asking the metadata service for one.
        let chain = region.iter().fold(chain, |chain, region| chain.region(region.clone()));
        let chain = chain.load().await;
        if let (None, Some(provider)) = (&location.credentials, chain.credentials_provider()) {
            config = config.credentials_provider(provider);
        }
        region = region.or_else(|| chain.region().cloned());
    }
    let region = match region {
        Some(region) => region,
        None => Region::new(bucket_region(location, config.clone()).await?),
    };
    tracing::debug!(store = %location, provider = provider.name, %region, "client is set up");
    Ok(Client::from_conf(config.region(region).build()))
}

async fn bucket_region(location: &S3Location, config: aws_sdk_s3::config::Builder) -> BlobResult<String> {
    let client = Client::from_conf(config.region(Region::new(ANY_REGION)).build());
    let answer = client.get_bucket_location().bucket(&location.bucket).send().await;
    let doing = Doing { what: "find the region", bucket: &location.bucket, key: None };
    let answer = answer.map_err(|e| doing.failed(e))?;
    Ok(match answer.location_constraint().map(|l| l.as_str()) {
        None | Some("") => ANY_REGION.to_owned(),
        Some("EU") => "eu-west-1".to_owned(),
        Some(region) => region.to_owned(),
    })
}

fn timeouts(bytes: u64) -> TimeoutConfig {
    let attempt = ANSWER + Duration::from_secs(bytes / BYTES_A_SECOND);
    TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(attempt).build()
}

/// How long an attempt may take that sends so many bytes.
pub(super) fn patience(bytes: u64) -> aws_sdk_s3::config::Builder {
    aws_sdk_s3::Config::builder().timeout_config(timeouts(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_bundle_that_is_none_is_an_error_and_no_panic() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("bundle.pem");
        for text in [
            "",
            "garbage",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\nAAAA\n",
        ] {
            #[expect(clippy::disallowed_methods, reason = "a file of the test")]
            std::fs::write(&path, text).expect("written");
            let error = read_bundle(&path).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains("AWS_CA_BUNDLE"), "{error}");
        }
        assert!(read_bundle(&folder.path().join("missing")).is_err());
    }

    #[test]
    fn only_this_host_is_reached_without_a_proxy() {
        for (endpoint, is) in [
            ("http://127.0.0.1:9000", true),
            ("http://127.9.9.9", true),
            ("http://[::1]:9000", true),
            ("http://localhost:1", true),
            ("http://10.0.0.1", false),
            ("https://localhost.example.org", false),
        ] {
            assert_eq!(is_loopback(endpoint), is, "{endpoint}");
        }
    }
}

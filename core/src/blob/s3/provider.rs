//! What S3 services do differently, as a table by host name, and the one place that changes requests for it.

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use md5::{Digest, Md5};

/// How a service is recognised by the host of its endpoint.
enum Host {
    Is(&'static str),
    EndsWith(&'static str),
}

/// A service and its ways.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) name: &'static str,
    /// Bucket in the path, where the location does not say.
    pub(super) path_style: bool,
    /// Whether batch deletions carry Content-MD5 in place of the SDK's own checksum.
    content_md5: bool,
    /// A header for every request.
    header: Option<(&'static str, &'static str)>,
    /// Whether it changes `Accept-Encoding` on the way, so that it must not be signed.
    drop_accept_encoding: bool,
    /// Parts of one upload that are sent at a time.
    pub(super) parts_at_once: usize,
    /// Whether it decides conditional puts; `None` is found out.
    pub(super) conditional_put: Option<bool>,
}

/// Any service that is not in the table, and the base of those that are.
const OTHER: Provider = Provider {
    name: "s3",
    path_style: true,
    content_md5: true,
    header: None,
    drop_accept_encoding: false,
    parts_at_once: 3,
    conditional_put: None,
};

static UNKNOWN: Provider = OTHER;

/// AWS itself: no endpoint is given. The SDK's checksums are its native ones.
static AWS: Provider =
    Provider { name: "aws", path_style: false, content_md5: false, conditional_put: Some(true), ..OTHER };

static TABLE: &[(Host, Provider)] = {
    use Host::{EndsWith, Is};
    const TIGRIS: Provider =
        Provider { name: "tigris", content_md5: false, header: Some(("x-tigris-consistent", "true")), ..OTHER };
    &[
        (EndsWith(".amazonaws.com"), Provider { name: "aws", content_md5: false, ..OTHER }),
        (Is("fly.storage.tigris.dev"), TIGRIS),
        (Is("t3.storage.dev"), TIGRIS),
        (EndsWith(".r2.cloudflarestorage.com"), Provider { name: "r2", parts_at_once: 2, ..OTHER }),
        (EndsWith(".backblazeb2.com"), Provider { name: "backblaze", ..OTHER }),
        (EndsWith(".digitaloceanspaces.com"), Provider { name: "digitalocean", ..OTHER }),
        (EndsWith(".scw.cloud"), Provider { name: "scaleway", ..OTHER }),
        (EndsWith(".your-objectstorage.com"), Provider { name: "hetzner", ..OTHER }),
        (Is("s3.filebase.com"), Provider { name: "filebase", ..OTHER }),
        (EndsWith(".supabase.co"), Provider { name: "supabase", ..OTHER }),
        (EndsWith("storage.googleapis.com"), Provider { name: "gcs", drop_accept_encoding: true, ..OTHER }),
    ]
};

impl Provider {
    /// The service at an endpoint; AWS if there is none.
    pub(super) fn of(endpoint: Option<&str>) -> &'static Self {
        let Some(endpoint) = endpoint else { return &AWS };
        let host = url::Url::parse(endpoint).ok().and_then(|u| u.host_str().map(str::to_ascii_lowercase));
        let host = host.unwrap_or_default();
        let found = TABLE.iter().find(|(form, _)| match form {
            Host::Is(name) => host == *name,
            Host::EndsWith(tail) => host.ends_with(tail),
        });
        found.map_or(&UNKNOWN, |(_, provider)| provider)
    }

    fn change(&self, request: &mut aws_sdk_s3::config::http::HttpRequest) {
        if let Some((name, value)) = self.header {
            request.headers_mut().insert(name, value);
        }
        if self.drop_accept_encoding {
            request.headers_mut().remove("accept-encoding");
        }
        if self.content_md5
            && let Some(sum) = batch_deletion(request).map(|body| aws_smithy_types::base64::encode(Md5::digest(body)))
        {
            request.headers_mut().insert("content-md5", sum);
            // Services from before 2025 know Content-MD5 alone and some refuse the rest.
            for name in ["x-amz-checksum-crc32", "x-amz-sdk-checksum-algorithm"] {
                request.headers_mut().remove(name);
            }
        }
    }
}

/// The body of a request that deletes a batch.
fn batch_deletion(request: &aws_sdk_s3::config::http::HttpRequest) -> Option<&[u8]> {
    let query = request.uri().split_once('?').map_or("", |(_, query)| query);
    let deletes = query.split('&').any(|p| p == "delete" || p.starts_with("delete="));
    (request.method() == "POST" && deletes).then(|| request.body().bytes()).flatten()
}

/// Changes every request before it is signed.
#[derive(Debug)]
pub(super) struct Ways(pub(super) &'static Provider);

impl Intercept for Ways {
    fn name(&self) -> &'static str {
        "provider"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), aws_sdk_s3::error::BoxError> {
        self.0.change(context.request_mut());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_known_by_their_host() {
        for (endpoint, name) in [
            ("https://fly.storage.tigris.dev", "tigris"),
            ("https://T3.storage.dev", "tigris"),
            ("https://abc.r2.cloudflarestorage.com", "r2"),
            ("https://s3.us-west-002.backblazeb2.com", "backblaze"),
            ("https://nyc3.digitaloceanspaces.com", "digitalocean"),
            ("https://s3.fr-par.scw.cloud", "scaleway"),
            ("https://fsn1.your-objectstorage.com", "hetzner"),
            ("https://s3.filebase.com", "filebase"),
            ("https://x.supabase.co/storage/v1/s3", "supabase"),
            ("https://storage.googleapis.com", "gcs"),
            ("https://s3.eu-west-1.amazonaws.com", "aws"),
            ("http://127.0.0.1:9000", "s3"),
            ("https://r2.cloudflarestorage.com.example.org", "s3"),
        ] {
            assert_eq!(Provider::of(Some(endpoint)).name, name, "{endpoint}");
        }
        assert!(!Provider::of(None).path_style);
        assert!(!Provider::of(Some("https://t3.storage.dev")).content_md5);
    }

    #[test]
    fn batch_deletions_carry_the_md5_of_their_body() {
        let request = |method: &str, uri: &str| {
            let mut request =
                aws_sdk_s3::config::http::HttpRequest::new(aws_sdk_s3::primitives::SdkBody::from("hello"));
            request.set_method(method).expect("a method");
            request.set_uri(uri).expect("a URI");
            request.headers_mut().insert("x-amz-checksum-crc32", "AAAA");
            request
        };
        let other = Provider::of(Some("http://127.0.0.1:9000"));
        let mut deletion = request("POST", "http://127.0.0.1:9000/bkt/?delete");
        other.change(&mut deletion);
        assert_eq!(deletion.headers().get("content-md5"), Some("XUFAKrxLKna5cZ2REBfFkg=="));
        assert_eq!(deletion.headers().get("x-amz-checksum-crc32"), None);
        for (provider, method, uri) in [
            (other, "PUT", "http://127.0.0.1:9000/bkt/delete"),
            (other, "POST", "http://127.0.0.1:9000/bkt/a?uploads"),
            (Provider::of(Some("https://t3.storage.dev")), "POST", "https://t3.storage.dev/bkt?delete"),
            (Provider::of(None), "POST", "https://bkt.s3.amazonaws.com/?delete"),
        ] {
            let mut request = request(method, uri);
            provider.change(&mut request);
            assert_eq!(request.headers().get("content-md5"), None, "{uri}");
            assert_eq!(request.headers().get("x-amz-checksum-crc32"), Some("AAAA"), "{uri}");
        }
    }
}

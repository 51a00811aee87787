//! What the SDK's errors mean to a caller: one table of statuses and codes, with the way out of each.
//!
//! Messages carry the status and the code of the answer. Not its text, its headers or the request: those
//! can hold what was signed.

use std::error::Error as StdError;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::blob::BlobError;
use crate::error::{Error, ErrorKind};

/// What was being done when it failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doing<'a> {
    pub(super) what: &'static str,
    pub(super) bucket: &'a str,
    pub(super) key: Option<&'a str>,
}

const KEYS: &str = "check access key and secret key";
const POLICY: &str =
    "the keys need s3:ListBucket on the bucket and s3:GetObject, s3:PutObject, s3:DeleteObject on its objects";
const CLOCK: &str = "the clock of this machine is wrong";
const REGION: &str = "give the region of the bucket";
const CA: &str = "the certificate is not trusted: name its CA in AWS_CA_BUNDLE or SSL_CERT_FILE";
const NO_KEYS: &str = "no credentials: give an access key and a secret key, or set up the AWS credential chain";

/// The status of an answer that is an error.
pub(super) fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

impl Doing<'_> {
    /// Where, as facts of a message.
    pub(super) fn place(&self) -> String {
        match self.key {
            Some(key) => format!("bucket={} key={key}", self.bucket),
            None => format!("bucket={}", self.bucket),
        }
    }

    /// The SDK's error in our words.
    pub(super) fn failed<E>(&self, error: SdkError<E, HttpResponse>) -> BlobError
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        match &error {
            SdkError::ServiceError(answer) => self.refused(answer.raw().status().as_u16(), answer.err().code()),
            SdkError::ResponseError(answer) => {
                let status = answer.raw().status().as_u16();
                if status >= 300 {
                    self.refused(status, None)
                } else {
                    self.lost("an answer that cannot be read", None)
                }
            }
            SdkError::TimeoutError(_) => self.lost("no answer in time", None),
            other => self.unsent(other),
        }
    }

    /// An answer that says no.
    pub(super) fn refused(&self, status: u16, code: Option<&str>) -> BlobError {
        let (kind, hint) = match (status, code.unwrap_or("")) {
            (_, "NoSuchBucket") => (ErrorKind::Config, Some("create the bucket or correct its name")),
            // A 404 of another code says that something else is missing, and that is no answer about the object.
            (_, "NoSuchKey") | (404, "" | "NotFound") if self.key.is_some() => {
                return BlobError::NotFound { key: self.key.unwrap_or_default().to_owned() };
            }
            (_, "RequestTimeTooSkewed") => (ErrorKind::Denied, Some(CLOCK)),
            (_, "AccessDenied") => (ErrorKind::Denied, Some(POLICY)),
            (_, "ExpiredToken" | "TokenRefreshRequired") => (ErrorKind::Denied, Some("the session token has expired")),
            (_, "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException") => {
                (ErrorKind::Config, Some(REGION))
            }
            (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "NotSignedUp" | "InvalidToken") | (401, _) => {
                (ErrorKind::Denied, Some(KEYS))
            }
            (404, _) => (ErrorKind::Config, Some("check bucket, endpoint and path style")),
            (403, _) => {
                (ErrorKind::Denied, Some("check the keys, the policy of the bucket and the clock of this machine"))
            }
            (300..=399, _) => (ErrorKind::Config, Some(REGION)),
            (_, "ConditionalRequestConflict" | "OperationAborted") => (ErrorKind::Unavailable, None),
            (_, "SlowDown" | "RequestTimeout" | "InternalError" | "ServiceUnavailable")
            | (408 | 425 | 429 | 500 | 502.., _) => (ErrorKind::Unavailable, None),
            _ => (ErrorKind::Unsupported, Some("the store does not understand this request")),
        };
        let code = code.map(|c| format!(" code={}", printable(c))).unwrap_or_default();
        let message = format!("{}: the store refused status={status}{code} {}", self.what, self.place());
        let error = Error::new(kind, message);
        hint.map_or(error.clone(), |hint| error.with_hint(hint)).into()
    }

    fn lost(&self, why: &str, hint: Option<&'static str>) -> BlobError {
        let error = Error::new(ErrorKind::Unavailable, format!("{}: {why} {}", self.what, self.place()));
        hint.map_or(error.clone(), |hint| error.with_hint(hint)).into()
    }

    /// A request that never got an answer, or was never sent.
    fn unsent<E: StdError + 'static>(&self, error: &SdkError<E, HttpResponse>) -> BlobError {
        let chain = causes(error);
        let about = |words: &[&str]| chain.iter().any(|text| words.iter().any(|w| text.contains(w)));
        if about(&["credentials", "Credentials", "identity"]) {
            let message = format!("{}: no credentials were found {}", self.what, self.place());
            return Error::new(ErrorKind::Denied, message).with_hint(NO_KEYS).into();
        }
        let deepest = chain.last().map_or("no connection", String::as_str);
        if about(&["certificate", "UnknownIssuer"]) {
            return self.lost(&format!("no trusted connection: {}", printable(deepest)), Some(CA));
        }
        if matches!(error, SdkError::ConstructionFailure(_)) {
            let message = format!("{}: the request cannot be made: {} {}", self.what, printable(deepest), self.place());
            return Error::new(ErrorKind::Config, message).into();
        }
        self.lost(&format!("no connection: {}", printable(deepest)), None)
    }
}

/// The texts of the causes, the deepest last.
fn causes(error: &(dyn StdError + 'static)) -> Vec<String> {
    let mut texts = Vec::new();
    let mut at = error.source();
    while let Some(cause) = at {
        texts.push(cause.to_string());
        at = cause.source();
    }
    texts
}

/// One short line whatever came over the network.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_codes_have_one_meaning_each() {
        use ErrorKind as K;
        for (status, code, kind) in [
            (301, Some("PermanentRedirect"), K::Config),
            (307, None, K::Config),
            (400, Some("AuthorizationHeaderMalformed"), K::Config),
            (400, Some("ExpiredToken"), K::Denied),
            (400, Some("RequestTimeout"), K::Unavailable),
            (400, Some("MalformedXML"), K::Unsupported),
            (401, None, K::Denied),
            (403, Some("SignatureDoesNotMatch"), K::Denied),
            (403, Some("RequestTimeTooSkewed"), K::Denied),
            (403, Some("AccessDenied"), K::Denied),
            (403, None, K::Denied),
            (404, Some("NoSuchBucket"), K::Config),
            (404, None, K::Config),
            (408, None, K::Unavailable),
            (429, None, K::Unavailable),
            (500, Some("InternalError"), K::Unavailable),
            (501, Some("NotImplemented"), K::Unsupported),
            (503, Some("SlowDown"), K::Unavailable),
            (504, None, K::Unavailable),
        ] {
            let BlobError::Other(error) = (Doing { what: "list", bucket: "bkt", key: None }).refused(status, code)
            else {
                panic!("{status} {code:?}")
            };
            assert_eq!(error.kind(), kind, "{status} {code:?}");
            assert!(error.to_string().contains(&format!("status={status}")), "{error}");
            assert!(error.kind() == K::Unavailable || error.hint().is_some(), "{error}");
        }
    }

    #[test]
    fn a_missing_object_is_not_found_but_a_missing_bucket_is_a_mistake() {
        let doing = Doing { what: "get", bucket: "bkt", key: Some("a") };
        assert!(matches!(doing.refused(404, None), BlobError::NotFound { .. }));
        assert!(matches!(doing.refused(404, Some("NotFound")), BlobError::NotFound { .. }));
        assert!(matches!(doing.refused(404, Some("Other")), BlobError::Other(e) if e.kind() == ErrorKind::Config));
        assert!(matches!(doing.refused(404, Some("NoSuchKey")), BlobError::NotFound { .. }));
        assert!(
            matches!(doing.refused(404, Some("NoSuchBucket")), BlobError::Other(e) if e.kind() == ErrorKind::Config)
        );
    }
}

//! Bounds the requests that are under way to one service, for all databases of a process.
//!
//! A thousand databases that start together ask for ten listings each. Every request that finds no free connection opens
//! one, and the descriptors of the host would be gone: its own files could not be opened any more. Those beyond the bound
//! wait their turn, within the time that their attempt has. A request counts until its answer begins; bodies that are
//! still read then are bounded by who reads them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_s3::config::{RuntimeComponents, SharedHttpClient};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use tokio::sync::Semaphore;

/// Most requests under way to one host and port.
pub(super) const MOST: usize = 256;

/// A client whose requests are bounded.
#[derive(Debug)]
pub(super) struct Bounded {
    inner: SharedHttpClient,
    crowds: Crowds,
}

/// For each host and port, who may go.
type Crowds = Arc<Mutex<HashMap<String, Arc<Semaphore>>>>;

impl Bounded {
    pub(super) fn new(inner: SharedHttpClient) -> Self {
        Self { inner, crowds: Crowds::default() }
    }
}

impl HttpClient for Bounded {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let inner = self.inner.http_connector(settings, components);
        SharedHttpConnector::new(BoundedConnector { inner, crowds: self.crowds.clone() })
    }
}

#[derive(Debug)]
struct BoundedConnector {
    inner: SharedHttpConnector,
    crowds: Crowds,
}

impl HttpConnector for BoundedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let crowd = {
            let mut crowds = self.crowds.lock().unwrap_or_else(PoisonError::into_inner);
            let place = authority(request.uri()).to_owned();
            crowds.entry(place).or_insert_with(|| Arc::new(Semaphore::new(MOST))).clone()
        };
        let inner = self.inner.clone();
        HttpConnectorFuture::new(async move {
            // It is never closed.
            let _turn = crowd.acquire_owned().await;
            inner.call(request).await
        })
    }
}

/// Host and port of a URL.
fn authority(uri: &str) -> &str {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    rest.split(['/', '?']).next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aws_smithy_runtime_api::client::result::ConnectorError;
    use aws_smithy_types::body::SdkBody;

    use super::*;

    /// Counts who is under way, and at most was; answers when it is told to.
    #[derive(Clone, Debug)]
    struct Counting {
        now: Arc<AtomicUsize>,
        most: Arc<AtomicUsize>,
        gate: Arc<Semaphore>,
    }

    impl HttpConnector for Counting {
        fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
            let this = self.clone();
            HttpConnectorFuture::new(async move {
                this.most.fetch_max(this.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                this.gate.acquire().await.expect("open").forget();
                this.now.fetch_sub(1, Ordering::SeqCst);
                Err(ConnectorError::user("no service".into()))
            })
        }
    }

    #[tokio::test]
    async fn requests_beyond_the_bound_wait_their_turn_and_those_to_others_do_not() {
        let gate = Arc::new(Semaphore::new(0));
        let inner = Counting { now: Arc::default(), most: Arc::default(), gate: gate.clone() };
        let bounded = BoundedConnector { inner: SharedHttpConnector::new(inner.clone()), crowds: Crowds::default() };
        let call = |uri: &str| {
            let mut request = HttpRequest::new(SdkBody::empty());
            request.set_uri(uri).expect("a URI");
            tokio::spawn(bounded.call(request))
        };
        let mut calls: Vec<_> = (0..MOST * 2).map(|n| call(&format!("http://a:1/{n}"))).collect();
        let under_way = async |count| {
            let wait = async {
                while inner.now.load(Ordering::SeqCst) < count {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.expect("in time");
        };
        under_way(MOST).await;
        calls.push(call("http://b:1/"));
        under_way(MOST + 1).await;
        gate.add_permits(calls.len());
        for call in calls {
            assert!(call.await.expect("no panic").is_err());
        }
        assert_eq!(inner.most.load(Ordering::SeqCst), MOST + 1);
    }

    #[test]
    fn requests_to_one_host_and_port_are_one_crowd() {
        for (uri, place) in [
            ("http://127.0.0.1:9000/bucket/key?a=b", "127.0.0.1:9000"),
            ("https://bucket.s3.eu-west-1.amazonaws.com/?list-type=2", "bucket.s3.eu-west-1.amazonaws.com"),
            ("https://host?x", "host"),
            ("host/path", "host"),
        ] {
            assert_eq!(authority(uri), place);
        }
    }
}

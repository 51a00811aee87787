//! Our own S3 server on the loopback network: a real S3 front over a folder, for the demo, the tests of the
//! bindings and failures on demand.
//!
//! The protocol (signatures, chunked bodies, XML) is the crate `s3s`; the verbs ([`verbs`]) and the folder
//! ([`folder`]) are here. It checks signatures, decides conditional writes atomically, shows an object only
//! when it is whole, and keeps metadata over a restart. It does not sync to the disk and is no store to keep
//! anything in.
//!
//! [`LoopbackS3`] owns a thread with a runtime of its own, so it starts, stops and drops anywhere.

mod faults;
mod folder;
mod verbs;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::auth::{S3Auth, SecretKey};
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::sync::oneshot;

pub use self::faults::Refusal;
use self::faults::{Faults, Gate};
use self::folder::Folder;
use self::verbs::Verbs;

/// A running server; it stops when dropped.
#[derive(Debug)]
pub struct LoopbackS3 {
    root: PathBuf,
    address: SocketAddr,
    access_key: String,
    secret_key: String,
    faults: Arc<Faults>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    /// Dropping it stops the server.
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl LoopbackS3 {
    /// Starts a server over this folder, on a free port.
    pub fn start(root: impl AsRef<Path>, access_key: &str, secret_key: &str) -> io::Result<Self> {
        Self::start_at(0, root, access_key, secret_key)
    }

    /// Starts a server over this folder, on this port (0: a free one).
    pub fn start_at(port: u16, root: impl AsRef<Path>, access_key: &str, secret_key: &str) -> io::Result<Self> {
        let mut server = Self {
            root: root.as_ref().to_owned(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            faults: Arc::default(),
            running: None,
        };
        server.restart()?;
        Ok(server)
    }

    /// Its URL.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes a bucket; fine if it exists.
    pub fn create_bucket(&self, name: &str) -> io::Result<()> {
        Folder::open(&self.root)?.create_bucket(name).map(drop)
    }

    /// Stops it: the port is closed and every connection cut when this returns.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            drop(running.stop);
            // It panicked if this fails; there is nothing to stop then.
            let _ = running.thread.join();
        }
    }

    /// Starts it again, on the same port and folder.
    pub fn restart(&mut self) -> io::Result<()> {
        self.stop();
        let listener = TcpListener::bind(self.address)?;
        listener.set_nonblocking(true)?;
        self.address = listener.local_addr()?;
        let verbs = Verbs::new(Folder::open(&self.root)?, Arc::clone(&self.faults));
        let mut service = S3ServiceBuilder::new(verbs);
        service.set_auth(Keys { access_key: self.access_key.clone(), secret_key: self.secret_key.clone() });
        service.set_access(Gate(Arc::clone(&self.faults)));
        let (service, faults) = (service.build(), Arc::clone(&self.faults));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            runtime.block_on(async move {
                tokio::select! {
                    biased;
                    _ = stopped => {}
                    () = accept(listener, service, faults) => {}
                }
            });
            runtime.shutdown_timeout(Duration::from_secs(5));
        };
        let thread = std::thread::Builder::new().name("loopback-s3".to_owned()).spawn(serve)?;
        self.running = Some(Running { stop, thread });
        Ok(())
    }

    /// Lets every request wait first.
    pub fn set_latency(&self, latency: Duration) {
        self.faults.change(|plan| plan.latency = latency);
    }

    /// Refuses the next requests of an operation (`PutObject`, …; all if `None`), or every one until
    /// [`clear_faults`](Self::clear_faults) if `times` is `None`.
    pub fn refuse(&self, refusal: Refusal, operation: Option<&str>, times: Option<u64>) {
        self.faults.change(|plan| plan.refuse = Some((refusal, operation.map(str::to_owned), times)));
    }

    /// Cuts the connection after so many bytes of the body, in the next answers that have a longer one.
    pub fn cut_bodies(&self, after: u64, times: u64) {
        self.faults.change(|plan| plan.cut = Some((after, times)));
    }

    /// Does what the next requests of a writing operation ask (`PutObject`, `UploadPart`, `DeleteObjects`,
    /// `CreateMultipartUpload`, `CompleteMultipartUpload`), but cuts the connection instead of answering.
    pub fn lose_answers_of(&self, operation: &str, times: u64) {
        self.faults.change(|plan| plan.lose = Some((operation.to_owned(), times)));
    }

    /// Writes whatever a condition says, as older services do.
    pub fn ignore_conditions(&self) {
        self.faults.change(|plan| plan.ignore_conditions = true);
    }

    /// Answers a batch deletion with `AccessDenied` for the next keys of it.
    pub fn keep_keys(&self, times: u64) {
        self.faults.change(|plan| plan.keep_keys = times);
    }

    /// Uploads in parts that are neither completed nor aborted.
    pub fn open_uploads(&self) -> io::Result<usize> {
        Ok(Folder::open(&self.root)?.uploads()?.len())
    }

    /// Removes them, as a lifecycle rule does.
    pub fn forget_uploads(&self) -> io::Result<()> {
        let folder = Folder::open(&self.root)?;
        folder.uploads()?.iter().try_for_each(|(id, _)| folder.end_upload(id))
    }

    /// Ends every fault.
    pub fn clear_faults(&self) {
        self.faults.change(|plan| *plan = faults::Plan::default());
    }

    /// How many requests of an operation arrived with a valid signature, refused ones included.
    #[must_use]
    pub fn requests(&self, operation: &str) -> u64 {
        self.request_counts().get(operation).copied().unwrap_or(0)
    }

    /// The same for every operation.
    #[must_use]
    pub fn request_counts(&self) -> BTreeMap<String, u64> {
        self.faults.counts()
    }
}

impl Drop for LoopbackS3 {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The one pair of keys.
struct Keys {
    access_key: String,
    secret_key: String,
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> s3s::S3Result<SecretKey> {
        if access_key == self.access_key {
            Ok(self.secret_key.clone().into())
        } else {
            Err(s3s::s3_error!(InvalidAccessKeyId))
        }
    }
}

async fn accept(listener: TcpListener, service: S3Service, faults: Arc<Faults>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener that does not block");
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, or a client that is gone already: others may fare better.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // Only slower without.
        let _ = stream.set_nodelay(true);
        let (service, faults) = (service.clone(), Arc::clone(&faults));
        let answer = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let (service, faults) = (service.clone(), Arc::clone(&faults));
            async move {
                faults.wait().await;
                let operation = writing_operation(request.method().as_str(), request.uri().query().unwrap_or(""));
                let answer = hyper::service::Service::call(&service, request).await.map_err(|e| format!("{e:?}"))?;
                if faults.loses_answer(operation) { Err("the answer is lost".to_owned()) } else { Ok(answer) }
            }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new());
        // A connection that breaks is the client's to notice.
        tokio::spawn(async move { drop(http.serve_connection(TokioIo::new(stream), answer).await) });
    }
}

/// The operation that a request asks for, as far as it writes; the front tells it only before it is done.
fn writing_operation(method: &str, query: &str) -> &'static str {
    let has = |name: &str| query.split('&').any(|p| p.split('=').next() == Some(name));
    match method {
        "PUT" if has("partNumber") => "UploadPart",
        "PUT" => "PutObject",
        "POST" if has("uploadId") => "CompleteMultipartUpload",
        "POST" if has("uploads") => "CreateMultipartUpload",
        "POST" if has("delete") => "DeleteObjects",
        _ => "",
    }
}

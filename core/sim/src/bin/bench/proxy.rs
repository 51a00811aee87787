//! A way to the S3 server that is longer, and counts.
//!
//! What a client sends arrives so much later, in order and without a limit on what is under way, so every request
//! takes that time more, as over a longer line. What the server answers passes at once. Requests are counted where they
//! begin: the first bytes after an answer that start with a method.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use replicate_sim::peers::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::Instant;

const METHODS: [&[u8]; 5] = [b"GET ", b"PUT ", b"POST ", b"HEAD ", b"DELETE "];
/// Bytes moved at a time.
const PIECE: usize = 256 << 10;
/// Pieces of one connection that wait for their time. More than a socket's buffer, so the delay limits no rate.
const UNDER_WAY: usize = 4096;

/// A running proxy; its connections end when it is dropped.
pub(crate) struct Proxy {
    endpoint: String,
    requests: Arc<AtomicU64>,
    _runtime: Runtime,
}

impl Proxy {
    /// Starts one on a free port before the server at `target` (host and port).
    pub(crate) fn start(target: &str, delay: Duration) -> Outcome<Self> {
        let failed = |e: std::io::Error| format!("start a proxy: {e}");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).map_err(failed)?;
        let endpoint = format!("http://{}", listener.local_addr().map_err(failed)?);
        let requests = Arc::new(AtomicU64::new(0));
        let (target, count) = (target.to_owned(), requests.clone());
        runtime.spawn(async move {
            loop {
                // Out of descriptors, or a client that is gone already: others may fare better.
                let Ok((client, _)) = listener.accept().await else { continue };
                tokio::spawn(connection(client, target.clone(), delay, count.clone()));
            }
        });
        Ok(Self { endpoint, requests, _runtime: runtime })
    }

    /// Its URL.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn connection(client: TcpStream, target: String, delay: Duration, requests: Arc<AtomicU64>) {
    // A connection that cannot be made is cut: that is for the client to notice.
    let Ok(server) = TcpStream::connect(target).await else { return };
    // Only slower without.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let answered = Arc::new(AtomicU64::new(1));
    tokio::join!(up(from_client, to_server, delay, requests, answered.clone()), down(from_server, to_client, answered));
}

/// From the client to the server.
async fn up(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    delay: Duration,
    requests: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
) {
    let (sender, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let read = async move {
        let mut buffer = vec![0; PIECE];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let piece = &buffer[..read];
            let follows_answer = answered.swap(0, Ordering::SeqCst) > 0;
            if follows_answer && METHODS.iter().any(|method| piece.starts_with(method)) {
                requests.fetch_add(1, Ordering::SeqCst);
            }
            if sender.send((Instant::now() + delay, piece.to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = waiting.recv().await {
            if !delay.is_zero() {
                tokio::time::sleep_until(due).await;
            }
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        // Dropping the half tells the server that nothing follows.
    };
    tokio::join!(read, write);
}

/// From the server to the client.
async fn down(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, answered: Arc<AtomicU64>) {
    let mut buffer = vec![0; PIECE];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        answered.store(1, Ordering::SeqCst);
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn requests_are_counted_once_and_arrive_later() {
        let server = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let target = server.local_addr().expect("an address").to_string();
        let delay = Duration::from_millis(30);
        let proxy = Proxy::start(&target, delay).expect("started");
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().expect("a client");
            for _ in 0..2 {
                let mut request = [0; 16];
                stream.read_exact(&mut request).expect("a request");
                stream.write_all(b"answer").expect("sent");
            }
        });
        let address = proxy.endpoint().trim_start_matches("http://").to_owned();
        let mut client = std::net::TcpStream::connect(address).expect("connected");
        for _ in 0..2 {
            let start = std::time::Instant::now();
            client.write_all(b"PUT 567").expect("sent");
            client.write_all(b"PUT 89012").expect("sent");
            client.read_exact(&mut [0; 6]).expect("answered");
            assert!(start.elapsed() >= delay);
        }
        serving.join().expect("served");
        assert_eq!(proxy.requests(), 2);
    }
}

//! What stands between the engine and a real S3 server and goes wrong: slow, throttling, denying, cutting bodies,
//! losing answers, lying about deletions.
//!
//! One request for each connection: it is read up to its head, judged, and then bytes go both ways until the server
//! closes. Host and signature are the client's and untouched.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use replicate_sim::peers::Outcome;
use replicate_sim::sim::Rng;

/// What goes wrong from now on. Shares are of a hundred requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Each request waits first.
    pub(crate) delay: Duration,
    /// Status, S3 code and share of requests that are refused.
    pub(crate) refuse: Option<(u16, &'static str, u64)>,
    /// Bodies of answers end after so many bytes, in this share.
    pub(crate) cut_get: Option<(usize, u64)>,
    /// Bodies of requests end after so many bytes, in this share.
    pub(crate) cut_put: Option<(usize, u64)>,
    /// What was asked is done, and the answer lost, in this share of writing requests.
    pub(crate) lose_answers: u64,
    /// Deletions are confirmed and not done.
    pub(crate) lie_about_deletes: bool,
    /// Nothing is ever answered.
    pub(crate) hang: bool,
    /// Bytes a second of each body.
    pub(crate) rate: Option<u64>,
}

/// A running proxy; it ends with the process, or when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    faults: Mutex<Faults>,
    rng: Mutex<Rng>,
    /// Requests that met a fault.
    met: AtomicU64,
    requests: AtomicU64,
    ended: AtomicBool,
}

impl Proxy {
    /// Starts one in front of this endpoint.
    pub(crate) fn start(endpoint: &str, seed: u64) -> Outcome<Self> {
        let server = endpoint.trim_start_matches("http://").parse().map_err(|e| format!("{endpoint}: {e}"))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| format!("listen: {e}"))?;
        let address = listener.local_addr().map_err(|e| format!("listen: {e}"))?;
        let shared = Arc::new(Shared {
            server,
            faults: Mutex::default(),
            rng: Mutex::new(Rng::new(seed)),
            met: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if serving.ended.load(Ordering::Relaxed) {
                    return;
                }
                let shared = serving.clone();
                // A connection that breaks is what this is for.
                std::thread::spawn(move || drop(shared.serve(client)));
            }
        });
        Ok(Self { address, shared })
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on.
    pub(crate) fn set(&self, faults: Faults) {
        self.shared.met.store(0, Ordering::Relaxed);
        *self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Requests that met a fault since they were set.
    pub(crate) fn met(&self) -> u64 {
        self.shared.met.load(Ordering::Relaxed)
    }

    /// Whether it answers nobody.
    pub(crate) fn hangs(&self) -> bool {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner).hang
    }

    /// All requests.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes it up; if nobody listens any more, that is what is wanted.
        let _ = TcpStream::connect(self.address);
    }
}

/// The head of a request.
struct Head {
    method: String,
    target: String,
    length: u64,
    /// As it goes to the server: it shall close after its answer.
    text: Vec<u8>,
    /// What was read of the body with it.
    rest: Vec<u8>,
    waits: bool,
}

impl Head {
    fn read(client: &mut TcpStream) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            let mut some = [0; 4096];
            let read = client.read(&mut some)?;
            if read == 0 {
                return Ok(None);
            }
            bytes.extend_from_slice(&some[..read]);
        };
        let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let mut words = first.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (mut length, mut waits, mut out) = (0, false, format!("{first}\r\nConnection: close\r\n"));
        for line in lines {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            match name.to_ascii_lowercase().as_str() {
                "connection" => continue,
                "content-length" => length = value.trim().parse().unwrap_or(0),
                "expect" => waits = true,
                _ => {}
            }
            out.push_str(line);
            out.push_str("\r\n");
        }
        out.push_str("\r\n");
        Ok(Some(Self { method, target, length, text: out.into_bytes(), rest: bytes[end + 4..].to_vec(), waits }))
    }

    fn deletes(&self) -> bool {
        self.method == "DELETE" || (self.method == "POST" && self.target.contains("?delete"))
    }
}

impl Shared {
    fn share(&self, of_hundred: u64) -> bool {
        let met = self.rng.lock().unwrap_or_else(PoisonError::into_inner).percent(of_hundred);
        self.met.fetch_add(u64::from(met), Ordering::Relaxed);
        met
    }

    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let Some(head) = Head::read(&mut client)? else { return Ok(()) };
        self.requests.fetch_add(1, Ordering::Relaxed);
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone();
        std::thread::sleep(faults.delay);
        if faults.hang {
            self.met.fetch_add(1, Ordering::Relaxed);
            // Until the client is tired of it.
            return io::copy(&mut client, &mut io::sink()).map(drop);
        }
        if let Some((status, code, share)) = faults.refuse
            && self.share(share)
        {
            let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as told</Message></Error>");
            return answer(&mut client, &head, status, &body);
        }
        if faults.lie_about_deletes && head.deletes() {
            self.met.fetch_add(1, Ordering::Relaxed);
            return match head.method.as_str() {
                "DELETE" => answer(&mut client, &head, 204, ""),
                _ => answer(&mut client, &head, 200, "<?xml version=\"1.0\"?><DeleteResult/>"),
            };
        }
        self.forward(client, head, &faults)
    }

    fn forward(&self, mut client: TcpStream, head: Head, faults: &Faults) -> io::Result<()> {
        let mut server = TcpStream::connect(self.server)?;
        server.write_all(&head.text)?;
        let writes = matches!(head.method.as_str(), "PUT" | "POST");
        let mut left = head.length.saturating_sub(head.rest.len() as u64);
        let cut = faults.cut_put.filter(|(after, share)| writes && head.length > *after as u64 && self.share(*share));
        if let Some((after, _)) = cut {
            server.write_all(&head.rest[..head.rest.len().min(after)])?;
            return Ok(());
        }
        server.write_all(&head.rest)?;
        let (mut from, mut to, rate) = (client.try_clone()?, server.try_clone()?, faults.rate);
        let body = std::thread::spawn(move || -> io::Result<()> {
            while left > 0 {
                let done = copy_some(&mut from, &mut to, left, rate)?;
                if done == 0 {
                    // The client is gone; so is the request.
                    return to.shutdown(std::net::Shutdown::Both);
                }
                left -= done;
            }
            Ok(())
        });
        if writes && self.share(faults.lose_answers) {
            io::copy(&mut server, &mut io::sink())?;
            return client.shutdown(std::net::Shutdown::Both);
        }
        let cut = faults.cut_get.filter(|(_, share)| head.method == "GET" && self.share(*share));
        match cut {
            // The head of an answer has some hundred bytes.
            Some((after, _)) => drop(io::copy(&mut server.take(600 + after as u64), &mut client)?),
            None => while copy_some(&mut server, &mut client, u64::MAX, rate)? > 0 {},
        }
        client.shutdown(std::net::Shutdown::Both)?;
        // Its failure is the client's to notice.
        let _ = body.join();
        Ok(())
    }
}

/// Up to 16 KiB, at a rate.
fn copy_some(from: &mut TcpStream, to: &mut TcpStream, most: u64, rate: Option<u64>) -> io::Result<u64> {
    let mut some = [0; 16 << 10];
    let most = usize::try_from(most).unwrap_or(usize::MAX).min(some.len());
    let read = from.read(&mut some[..most])?;
    to.write_all(&some[..read])?;
    if let Some(rate) = rate {
        std::thread::sleep(Duration::from_secs_f64(read as f64 / rate as f64));
    }
    Ok(read as u64)
}

fn answer(client: &mut TcpStream, head: &Head, status: u16, body: &str) -> io::Result<()> {
    if !head.waits {
        // Or the client finds the connection reset instead of an answer.
        let left = head.length.saturating_sub(head.rest.len() as u64);
        io::copy(&mut Read::by_ref(client).take(left), &mut io::sink())?;
    }
    let length = if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let text = format!("HTTP/1.1 {status} Told\r\nContent-Type: application/xml\r\n{length}Connection: close\r\n\r\n");
    client.write_all(text.as_bytes())?;
    if head.method != "HEAD" {
        client.write_all(body.as_bytes())?;
    }
    client.shutdown(std::net::Shutdown::Write)?;
    // Until the client has it.
    io::copy(client, &mut io::sink()).map(drop)
}

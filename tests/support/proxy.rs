//! What stands between a client and the server and does it wrong: cuts, stays silent, says that it
//! is busy, changes a byte. Every deed is decided by the test, for each request of a blob.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::http::Connection;

/// What to do with the answer to one request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Deed {
    /// Answer this instead: status and `Retry-After`.
    pub busy: Option<(u16, &'static str)>,
    /// Hide the range from the server, so that it answers from the beginning.
    pub without_range: bool,
    /// End the connection after so many body bytes, in order.
    pub cut_after: Option<u64>,
    /// The same, but throw away what the client has not read yet.
    pub reset_after: Option<u64>,
    /// Send nothing more after so many body bytes, and do not close.
    pub stall_after: Option<u64>,
    /// Change this byte of the body.
    pub flip_at: Option<u64>,
}

/// A request for a blob as the client sent it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub range: Option<String>,
    pub if_range: Option<String>,
    pub at: Instant,
}

pub struct Proxy {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    body_bytes: Arc<AtomicU64>,
}

struct Work {
    upstream: SocketAddr,
    /// A manifest's digest, and the tag of another one that is sent in its place.
    instead: Option<(String, String)>,
    deed: Box<dyn Fn(usize) -> Deed + Send + Sync>,
    tls: Option<Arc<rustls::ServerConfig>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    body_bytes: Arc<AtomicU64>,
}

impl Proxy {
    /// `deed` is asked with the number of the request for a blob, from 0.
    pub fn start(
        upstream: SocketAddr,
        deed: impl Fn(usize) -> Deed + Send + Sync + 'static,
    ) -> Proxy {
        Proxy::start_with(upstream, None, None, deed)
    }

    /// The same behind TLS.
    pub fn start_tls(upstream: SocketAddr, tls: Arc<rustls::ServerConfig>) -> Proxy {
        Proxy::start_with(upstream, Some(tls), None, |_| Deed::default())
    }

    /// Sends the manifest `tag` wherever the one with `digest` should come, and says that it is
    /// the latter.
    pub fn start_instead(upstream: SocketAddr, digest: &str, tag: &str) -> Proxy {
        let instead = Some((digest.to_owned(), tag.to_owned()));
        Proxy::start_with(upstream, None, instead, |_| Deed::default())
    }

    fn start_with(
        upstream: SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
        instead: Option<(String, String)>,
        deed: impl Fn(usize) -> Deed + Send + Sync + 'static,
    ) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let work = Arc::new(Work {
            upstream,
            instead,
            deed: Box::new(deed),
            tls,
            seen: Arc::default(),
            body_bytes: Arc::default(),
        });
        let (seen, body_bytes) = (work.seen.clone(), work.body_bytes.clone());
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let work = work.clone();
                // A client that leaves is part of the game.
                std::thread::spawn(move || drop(work.serve(stream)));
            }
        });
        Proxy {
            address,
            seen,
            body_bytes,
        }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no test panics there").clone()
    }

    /// Body bytes of blobs given to the kernel for the client.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes.load(Ordering::Relaxed)
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Work {
    /// One request, one answer, one connection.
    fn serve(&self, socket: TcpStream) -> io::Result<()> {
        let handle = socket.try_clone()?;
        let mut client: Box<dyn Stream> = match &self.tls {
            None => Box::new(socket),
            Some(config) => {
                let session =
                    rustls::ServerConnection::new(config.clone()).map_err(io::Error::other)?;
                Box::new(rustls::StreamOwned::new(session, socket))
            }
        };
        let head = read_request(&mut client)?;
        let mut lines = head.split("\r\n");
        let target = lines.next().and_then(|line| line.split(' ').nth(1));
        let target = target.unwrap_or_default().to_owned();
        let header = |name: &str| {
            let mut lines = head.split("\r\n").filter_map(|line| line.split_once(": "));
            let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_owned())
        };
        let is_blob = target.contains("/blobs/");
        let deed = if is_blob {
            let mut seen = self.seen.lock().expect("no test panics there");
            seen.push(Seen {
                range: header("range"),
                if_range: header("if-range"),
                at: Instant::now(),
            });
            (self.deed)(seen.len() - 1)
        } else {
            Deed::default()
        };
        if let Some((status, retry_after)) = deed.busy {
            let answer = format!(
                "HTTP/1.1 {status} Later\r\nRetry-After: {retry_after}\r\nContent-Length: 0\r\n\
                 Connection: close\r\n\r\n"
            );
            return client.write_all(answer.as_bytes());
        }
        let kept: Vec<(String, String)> = ["accept", "authorization", "range", "if-range"]
            .iter()
            .filter(|name| !(deed.without_range && name.ends_with("range")))
            .filter_map(|name| Some(((*name).to_owned(), header(name)?)))
            .collect();
        let kept: Vec<(&str, &str)> = kept.iter().map(|(n, v)| (&n[..], &v[..])).collect();
        let mut upstream = Connection::try_open(self.upstream)?;
        let answer = match (&self.instead, target.split_once("/manifests/")) {
            (Some((digest, tag)), Some((before, _))) => {
                upstream.send_head("GET", &format!("{before}/manifests/{tag}"), &kept)?;
                let mut answer = upstream.read_head()?;
                for (name, value) in &mut answer.headers {
                    if name.eq_ignore_ascii_case("docker-content-digest") {
                        value.clone_from(digest);
                    }
                }
                answer
            }
            _ => {
                upstream.send_head("GET", &target, &kept)?;
                upstream.read_head()?
            }
        };
        let mut head = format!("HTTP/1.1 {} Answer\r\nConnection: close\r\n", answer.status);
        for (name, value) in &answer.headers {
            if !name.eq_ignore_ascii_case("connection") {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        head.push_str("\r\n");
        client.write_all(head.as_bytes())?;

        let ends = [deed.cut_after, deed.reset_after, deed.stall_after];
        let end = ends.into_iter().flatten().min().unwrap_or(u64::MAX);
        let (mut sent, mut failed) = (0, None);
        upstream.read_body(&answer, |piece| {
            if sent >= end || failed.is_some() {
                return;
            }
            let mut piece = piece[..(piece.len() as u64).min(end - sent) as usize].to_vec();
            if let Some(at) = deed.flip_at
                && (sent..sent + piece.len() as u64).contains(&at)
            {
                piece[(at - sent) as usize] ^= 1;
            }
            match client.write_all(&piece) {
                Ok(()) => sent += piece.len() as u64,
                Err(error) => failed = Some(error),
            }
            if is_blob {
                self.body_bytes
                    .fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
        })?;
        client.flush()?;
        if deed.stall_after.is_some_and(|after| sent >= after) {
            // Until the client has had enough.
            handle.set_read_timeout(Some(Duration::from_secs(60)))?;
            let _ = (&handle).read(&mut [0]);
        }
        if deed.reset_after.is_some_and(|after| sent >= after) {
            rustix::net::sockopt::set_socket_linger(&handle, Some(Duration::ZERO))?;
        }
        Ok(())
    }
}

fn read_request(client: &mut dyn Stream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        let count = client.read(&mut piece)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&piece[..count]);
    }
    String::from_utf8(head).map_err(io::Error::other)
}

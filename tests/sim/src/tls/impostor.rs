//! Servers that a careful client must not talk to.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Identity, Versions, builder};

/// A server that presents a copied certificate without having its key.
///
/// A client that only compares fingerprints talks to it; one that checks the handshake's signature
/// does not.
pub struct Impostor {
    port: u16,
    handshakes: Arc<AtomicUsize>,
    heard: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Stolen(Arc<CertifiedKey>);

impl ResolvesServerCert for Stolen {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl Impostor {
    /// Listens on 127.0.0.1 with the leaf certificate of `victim` and a key of its own.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start(victim: &Identity, versions: Versions) -> Result<Self> {
        let other = Identity::new(&["localhost"])?;
        let signer = rustls::crypto::ring::sign::any_supported_type(&other.key())
            .context("load the impostor's key")?;
        let stolen = CertifiedKey::new(vec![victim.certificate.clone()], signer);
        let config = builder(versions)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Stolen(Arc::new(stolen))));
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
        let impostor = Self {
            port: listener.local_addr().context("own address")?.port(),
            handshakes: Arc::default(),
            heard: Arc::default(),
            stop: Arc::default(),
        };
        let (handshakes, heard) = (impostor.handshakes.clone(), impostor.heard.clone());
        let stop = impostor.stop.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                handshakes.fetch_add(1, Ordering::SeqCst);
                // The test expects the client to close during the handshake.
                if let Ok(count) = listen(stream, &config)
                    && count > 0
                {
                    heard.store(true, Ordering::SeqCst);
                }
            }
        });
        Ok(impostor)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many clients have connected.
    pub fn connections(&self) -> usize {
        self.handshakes.load(Ordering::SeqCst)
    }

    /// Whether a client continued after the handshake and sent any byte of a request.
    pub fn heard_request(&self) -> bool {
        self.heard.load(Ordering::SeqCst)
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", self.port)) {
            drop(stream);
        }
    }
}

fn listen(tcp: TcpStream, config: &Arc<ServerConfig>) -> Result<usize> {
    tcp.set_read_timeout(Some(Duration::from_secs(2))).context("set a time limit")?;
    let connection = rustls::ServerConnection::new(config.clone()).context("start TLS")?;
    let mut stream = rustls::StreamOwned::new(connection, tcp);
    let mut request = [0; 1024];
    let count = stream.read(&mut request).context("read the request")?;
    stream.sock.shutdown(Shutdown::Both).context("hang up")?;
    if count == 0 {
        bail!("the client said nothing");
    }
    Ok(count)
}

/// A server that only speaks TLS 1.1: it answers every hello with that version and closes.
pub struct OldServer {
    port: u16,
    stop: Arc<AtomicBool>,
}

impl OldServer {
    /// Listens on 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
        let port = listener.local_addr().context("own address")?.port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                // A client that closes first has refused as well.
                if let Err(error) = old_hello(&mut stream) {
                    eprintln!("TLS 1.1 server: {error:#}");
                }
            }
        });
        Ok(Self { port, stop })
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for OldServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", self.port)) {
            drop(stream);
        }
    }
}

fn old_hello(stream: &mut TcpStream) -> Result<()> {
    let limit = Some(Duration::from_secs(2));
    stream.set_read_timeout(limit).context("set a time limit")?;
    let mut hello = [0; 4096];
    let count = stream.read(&mut hello).context("read the hello")?;
    if count == 0 {
        bail!("the client said nothing");
    }
    // Version 3.2, a random number, no session, RSA with AES-128-CBC and SHA, no compression.
    let mut body = vec![3, 2];
    body.extend_from_slice(&[0x5a; 32]);
    body.extend_from_slice(&[0, 0x00, 0x2f, 0]);
    let length = body.len() as u8;
    let mut record = vec![22, 3, 2, 0, length + 4, 2, 0, 0, length];
    record.extend_from_slice(&body);
    stream.write_all(&record).context("answer the hello")?;
    // Gives the client time to send its alert.
    let count = stream.read(&mut hello).context("read the answer")?;
    if count == 0 {
        return Ok(());
    }
    stream.shutdown(Shutdown::Both).context("hang up")
}

//! A local TLS server for tests, which gives set answers and records what it receives.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use rcgen::KeyPair;
use rustls::crypto::ring::{self, sign::any_supported_type};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ALL_VERSIONS, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};

/// A certificate and the party that presents it: the holder of its key, or an impostor.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certificate: CertificateDer<'static>,
    key: Arc<KeyPair>,
}

impl Identity {
    pub fn new(certificate: CertificateDer<'static>, key: KeyPair) -> Identity {
        let key = Arc::new(key);
        Identity { certificate, key }
    }

    pub fn self_signed() -> Identity {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        Identity::new(made.cert.der().clone(), made.signing_key)
    }

    /// An impostor: the copied certificate with another key.
    pub fn impostor(&self) -> Identity {
        Identity::new(self.certificate.clone(), KeyPair::generate().unwrap())
    }
}

/// `with_single_cert` would notice that an impostor's key does not match.
#[derive(Debug)]
struct Presents(Arc<CertifiedKey>);

impl ResolvesServerCert for Presents {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

pub struct TestServer {
    pub port: u16,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    requests: Vec<String>,
    connections: usize,
    handshakes: usize,
}

impl TestServer {
    /// Serves TLS 1.2 and 1.3. `answer` receives a whole request (headers and body) and returns the
    /// whole answer.
    pub fn start(
        identity: &Identity,
        answer: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> TestServer {
        TestServer::start_with(identity, ALL_VERSIONS, answer)
    }

    pub fn start_with(
        identity: &Identity,
        versions: &[&'static SupportedProtocolVersion],
        answer: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> TestServer {
        let key = PrivateKeyDer::try_from(identity.key.serialize_der()).unwrap();
        let key = any_supported_type(&key).unwrap();
        let presented = Arc::new(CertifiedKey::new(vec![identity.certificate.clone()], key));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Presents(presented)));
        let (config, answer) = (Arc::new(config), Arc::new(answer));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = Arc::new(Mutex::new(Log::default()));
        let server = TestServer { port, log: log.clone() };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                log.lock().unwrap().connections += 1;
                let (config, answer, log) = (config.clone(), answer.clone(), log.clone());
                thread::spawn(move || {
                    let tls = ServerConnection::new(config).unwrap();
                    converse(StreamOwned::new(tls, stream), &*answer, &log);
                });
            }
        });
        server
    }

    pub fn requests(&self) -> Vec<String> {
        self.log.lock().unwrap().requests.clone()
    }

    pub fn connections(&self) -> usize {
        self.log.lock().unwrap().connections
    }

    /// How many handshakes the client has completed.
    pub fn handshakes(&self) -> usize {
        self.log.lock().unwrap().handshakes
    }
}

fn converse(
    mut tls: StreamOwned<ServerConnection, TcpStream>,
    answer: &(dyn Fn(&str) -> String + Send + Sync),
    log: &Mutex<Log>,
) {
    while tls.conn.is_handshaking() {
        if tls.conn.complete_io(&mut tls.sock).is_err() {
            return;
        }
    }
    log.lock().unwrap().handshakes += 1;
    let mut reader = BufReader::new(tls);
    while let Some(request) = read_request(&mut reader) {
        log.lock().unwrap().requests.push(request.clone());
        let text = answer(&request);
        let tls = reader.get_mut();
        if tls.write_all(text.as_bytes()).is_err() || tls.flush().is_err() {
            return;
        }
        if text.contains("connection: close") {
            tls.conn.send_close_notify();
            let _ = tls.flush();
            return;
        }
        if text.contains("connection: cut") {
            return;
        }
    }
}

/// One request with its body, None at the end of the connection.
pub fn read_request(reader: &mut impl BufRead) -> Option<String> {
    let mut request = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().ok()?;
            }
            _ => {}
        }
        request.push_str(&line);
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    request.push_str(std::str::from_utf8(&body).ok()?);
    Some(request)
}

/// An answer with a length.
pub fn answer(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}")
}

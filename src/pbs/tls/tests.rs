use std::io::Write;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

use super::*;
use crate::pbs::Error as PbsError;
use crate::sys::http::testserver::{Identity, TestServer, answer};
use crate::sys::http::{Client, Limit, Method, Request};

const TOKEN: &str = "PBSAPIToken=felhom@pbs!n100:the-secret";

fn ask(config: Arc<ClientConfig>, host: &str, port: u16) -> Result<u16, PbsError> {
    let request = Request {
        method: Method::Get,
        path: "/api2/json/version",
        headers: &[("Authorization", TOKEN)],
        form: None,
        json: None,
    };
    let limit = Limit { deadline: Instant::now() + Duration::from_secs(60), body: 1000 };
    let answer = Client::tls(host, port, config).send(&request, limit)?;
    Ok(answer.status)
}

fn pin(identity: &Identity) -> Arc<ClientConfig> {
    pinned(Fingerprint::of(&identity.certificate)).unwrap()
}

fn serve(identity: &Identity, version: &'static SupportedProtocolVersion) -> TestServer {
    TestServer::start_with(identity, &[version], |_| answer("200 OK", "{}"))
}

#[track_caller]
fn refusal(result: Result<u16, PbsError>) -> String {
    match result {
        Err(PbsError::Unreachable { reason, unsent }) => {
            assert!(unsent, "{reason}");
            reason
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn the_pinned_server_is_accepted() {
    let identity = Identity::self_signed();
    for version in [&TLS12, &TLS13] {
        let server = serve(&identity, version);
        assert_eq!(ask(pin(&identity), "127.0.0.1", server.port).unwrap(), 200);
        assert!(server.requests()[0].contains("the-secret"));
    }
}

#[test]
fn another_certificate_is_refused_and_both_fingerprints_are_named() {
    let (expected, other) = (Identity::self_signed(), Identity::self_signed());
    for version in [&TLS12, &TLS13] {
        let server = serve(&other, version);
        let reason = refusal(ask(pin(&expected), "127.0.0.1", server.port));
        assert!(reason.contains("wrong fingerprint"), "{reason}");
        for identity in [&expected, &other] {
            let fingerprint = Fingerprint::of(&identity.certificate).to_string();
            assert!(reason.contains(&fingerprint), "{reason}");
        }
        assert_eq!((server.handshakes(), server.requests().len()), (0, 0));
    }
}

#[test]
fn the_right_certificate_without_its_key_is_refused_and_sees_nothing() {
    let identity = Identity::self_signed();
    for version in [&TLS12, &TLS13] {
        let impostor = serve(&identity.impostor(), version);
        let reason = refusal(ask(pin(&identity), "127.0.0.1", impostor.port));
        assert!(reason.contains("without holding its key"), "{reason}");
        assert_eq!((impostor.handshakes(), impostor.requests().len()), (0, 0));
    }
}

/// A root certificate of our own, and a certificate that it issued.
fn issued(change: impl Fn(&mut CertificateParams)) -> (Arc<ClientConfig>, Identity) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    let name = "a root of our own";
    authority.distinguished_name.push(DnType::CommonName, name);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let root = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);

    let mut server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    change(&mut server);
    let key = KeyPair::generate().unwrap();
    let certificate = server.signed_by(&key, &issuer).unwrap();

    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone()).unwrap();
    let identity = Identity::new(certificate.der().clone(), key);
    (rooted(roots).unwrap(), identity)
}

#[test]
fn without_a_pin_the_root_and_the_name_decide() {
    let (config, identity) = issued(|_| ());
    let server = serve(&identity, &TLS13);
    assert_eq!(ask(config.clone(), "localhost", server.port).unwrap(), 200);

    let reason = refusal(ask(config.clone(), "127.0.0.1", server.port));
    assert!(reason.contains("wrong name"), "{reason}");

    let impostor = serve(&identity.impostor(), &TLS13);
    let reason = refusal(ask(config.clone(), "localhost", impostor.port));
    assert!(reason.contains("without holding its key"), "{reason}");
    assert_eq!(impostor.handshakes(), 0);

    // Issued by another root certificate with the same name as ours.
    let forged = serve(&issued(|_| ()).1, &TLS13);
    let reason = refusal(ask(config.clone(), "localhost", forged.port));
    assert!(reason.contains("forged"), "{reason}");

    let stranger = serve(&Identity::self_signed(), &TLS13);
    let reason = refusal(ask(config, "localhost", stranger.port));
    assert!(reason.contains("unknown issuer"), "{reason}");
}

#[test]
fn without_a_pin_the_dates_decide() {
    let (config, identity) = issued(|server| server.not_after = date_time_ymd(2020, 1, 1));
    let server = serve(&identity, &TLS13);
    let reason = refusal(ask(config, "localhost", server.port));
    assert!(reason.contains("the server's certificate has expired"), "{reason}");

    let (config, identity) = issued(|server| server.not_before = date_time_ymd(3000, 1, 1));
    let server = serve(&identity, &TLS13);
    let reason = refusal(ask(config, "localhost", server.port));
    assert!(reason.contains("not valid yet"), "{reason}");
}

#[test]
fn a_self_signed_certificate_needs_its_pin() {
    let identity = Identity::self_signed();
    let server = serve(&identity, &TLS13);
    let reason = refusal(ask(system_roots().unwrap(), "localhost", server.port));
    assert!(reason.contains("set the storage's fingerprint"), "{reason}");
    assert_eq!(server.handshakes(), 0);

    // As `openssl req -x509` makes them.
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let identity = Identity::new(params.self_signed(&key).unwrap().der().clone(), key);
    let server = serve(&identity, &TLS13);
    let reason = refusal(ask(system_roots().unwrap(), "localhost", server.port));
    assert!(reason.contains("set the storage's fingerprint"), "{reason}");
    let pin = Fingerprint::of(&identity.certificate);
    assert_eq!(ask(pinned(pin).unwrap(), "localhost", server.port).unwrap(), 200);
}

/// A server that sends `bytes` whatever it receives.
fn saying(bytes: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let held: Vec<_> = listener
            .incoming()
            .flatten()
            .map(|mut stream| {
                let _ = stream.write_all(bytes);
                stream
            })
            .collect();
        drop(held);
    });
    port
}

#[test]
fn plain_http_is_named() {
    let port = saying(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let reason = refusal(ask(pin(&Identity::self_signed()), "127.0.0.1", port));
    assert!(reason.contains("does not speak TLS"), "{reason}");
}

#[test]
fn a_version_that_is_too_old_is_named() {
    // A fatal alert protocol_version, and a ServerHello of TLS 1.1.
    let alert = b"\x15\x03\x01\x00\x02\x02\x46";
    let hello = b"\x16\x03\x02\x00\x2a\x02\x00\x00\x26\x03\x02\
        0123456789abcdef0123456789abcdef\x00\xc0\x14\x00";
    for bytes in [&alert[..], &hello[..]] {
        let port = saying(bytes);
        let reason = refusal(ask(pin(&Identity::self_signed()), "127.0.0.1", port));
        assert!(reason.contains("TLS 1.2 or 1.3"), "{reason}");
    }
}

#[test]
fn fingerprints_are_read_as_proxmox_writes_them() {
    let text = "05:53:55:a0:46:61:81:d8:ad:5b:34:fe:5e:3d:db:c8:\
                7e:4d:40:47:ff:be:64:2b:1e:e0:10:70:fb:e7:4b:5e";
    let fingerprint: Fingerprint = text.parse().unwrap();
    assert_eq!(fingerprint.to_string(), text.to_ascii_uppercase());
    assert_eq!(text.to_ascii_uppercase().parse(), Ok(fingerprint));
    for wrong in [
        "",
        "05",
        &text[3..],
        &format!("{text}:00"),
        &text.replace(':', ""),
        &text.replace("05", "0x"),
        &text.replace("05", "+5"),
        &text.replace("05", "5"),
    ] {
        assert_eq!(wrong.parse::<Fingerprint>(), Err(NoFingerprint), "{wrong}");
    }
}

#[test]
fn the_fingerprint_is_the_sha_256_of_the_certificate() {
    // SHA-256 of "abc", from FIPS 180-2.
    let known = "BA:78:16:BF:8F:01:CF:EA:41:41:40:DE:5D:AE:22:23:B0:03:61:A3:96:17:7A:9C:B4:10:FF:61:F2:00:15:AD";
    let fingerprint = Fingerprint::of(&CertificateDer::from(b"abc".to_vec()));
    assert_eq!(fingerprint.to_string(), known);
}

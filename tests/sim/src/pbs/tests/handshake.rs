//! Certificates, protocol versions, and impostors.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

use super::{client, get, pbs, send, talk};
use crate::tls::{Identity, Impostor, OldServer, Versions};

/// A client that compares the certificate but does not check signatures.
#[derive(Debug)]
struct Gullible(CertificateDer<'static>);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        assert_eq!(leaf, &self.0);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = rustls::crypto::ring::default_provider();
        provider.signature_verification_algorithms.supported_schemes()
    }
}

#[test]
fn only_a_gullible_client_talks_to_the_impostor() {
    for versions in [Versions::Only12, Versions::Only13] {
        let identity = Identity::new(&["localhost"]).unwrap();
        let impostor = Impostor::start(&identity, versions).unwrap();
        let error = talk(impostor.port(), client(&identity), "GET / HTTP/1.1\r\n\r\n");
        let error = error.unwrap_err().to_string();
        assert!(error.contains("BadSignature"), "{error}");
        assert!(!impostor.heard_request());
        let mut gullible = client(&identity);
        let verifier = Gullible(identity.certificate().clone());
        gullible.dangerous().set_certificate_verifier(Arc::new(verifier));
        // The impostor closes the connection without an answer; what counts is what it received.
        drop(talk(impostor.port(), gullible, "GET / HTTP/1.1\r\n\r\n"));
        for _ in 0..100 {
            if impostor.heard_request() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(impostor.heard_request());
        assert_eq!(impostor.connections(), 2);
    }
}

#[test]
fn certificates_expire_and_old_versions_are_refused() {
    let pbs = pbs();
    for versions in [Versions::Only12, Versions::Only13, Versions::Both] {
        let identity = Identity::new(&["localhost"]).unwrap();
        pbs.use_identity(&identity, versions).unwrap();
        assert!(get(&pbs, "/version").starts_with("HTTP/1.1 200"));
        assert_eq!(pbs.fingerprint(), identity.fingerprint());
        assert_eq!(pbs.fingerprint().len(), 95);
    }
    let expired = Identity::valid_for_days(&["localhost"], -3).unwrap();
    pbs.use_identity(&expired, Versions::Both).unwrap();
    let error = send(&pbs, "GET /api2/json/version", "").unwrap_err();
    assert!(error.to_string().contains("certificate expired"), "{error}");
    let old = OldServer::start().unwrap();
    let error = talk(old.port(), client(&expired), "").unwrap_err();
    assert!(error.to_string().contains("Tls12"), "{error}");
}

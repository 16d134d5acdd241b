//! Which servers to accept: the holder of the key of the certificate with the pinned fingerprint;
//! or, without a fingerprint, one with a certificate from the system's root certificates
//! (FACTS-PBS.md, Certificates).

use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, InvalidMessage,
    OtherError, RootCertStore, SignatureScheme,
};

use super::Certificate;
use crate::sys::sha256::Sha256;

/// The SHA-256 of a certificate. Proxmox writes it as `AA:BB:...`, in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Fingerprint {
        Fingerprint(Sha256::of(certificate).0)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let colon = if at == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

/// The text is not a fingerprint.
#[derive(Debug, PartialEq, Eq)]
pub struct NoFingerprint;

impl fmt::Display for NoFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a fingerprint is 32 pairs of hexadecimal digits with colons between: AA:BB:...",
        )
    }
}

impl Error for NoFingerprint {}

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Fingerprint, NoFingerprint> {
        let mut bytes = [0; 32];
        let mut pairs = text.trim().split(':');
        for byte in &mut bytes {
            let pair = pairs.next().ok_or(NoFingerprint)?;
            if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(NoFingerprint);
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NoFingerprint)?;
        }
        match pairs.next() {
            None => Ok(Fingerprint(bytes)),
            Some(_) => Err(NoFingerprint),
        }
    }
}

/// Accepts exactly the server whose certificate has this fingerprint, whatever its names and dates
/// are: the default certificate of a backup server is self-signed and does not name its address.
///
/// # Errors
/// If the TLS library cannot be set up.
pub fn pinned(fingerprint: Fingerprint) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    with_verifier(provider.clone(), Pin { expected: fingerprint, provider })
}

/// Accepts a server with a valid certificate for its name, issued by one of the system's root
/// certificates.
///
/// # Errors
/// As [`pinned`]. Root certificates that cannot be read count as missing.
pub fn system_roots() -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    rooted(roots)
}

/// Accepts no server, and remembers its certificate: for looking at an untrusted server.
///
/// # Errors
/// As [`pinned`].
pub fn looking(seen: &Arc<Mutex<Option<Certificate>>>) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    with_verifier(provider.clone(), Look { seen: seen.clone(), provider })
}

fn with_verifier(
    provider: Arc<CryptoProvider>,
    verifier: impl ServerCertVerifier + 'static,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn rooted(roots: RootCertStore) -> Result<Arc<ClientConfig>, rustls::Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A certificate is public: anybody who has connected once can present it. Only the signature over
/// the handshake shows that the server has its key, so the provider checks it.
#[derive(Debug)]
struct Pin {
    expected: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let seen = Fingerprint::of(certificate);
        if seen == self.expected {
            return Ok(ServerCertVerified::assertion());
        }
        let expected = self.expected;
        let wrong = OtherError(Arc::new(WrongFingerprint { seen, expected }));
        Err(CertificateError::Other(wrong).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}

impl Pin {
    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }
}

/// Ends every handshake once it has seen the certificate.
#[derive(Debug)]
struct Look {
    seen: Arc<Mutex<Option<Certificate>>>,
    provider: Arc<CryptoProvider>,
}

impl Look {
    fn enough<T>() -> Result<T, rustls::Error> {
        Err(rustls::Error::General("only a look at the certificate".to_owned()))
    }
}

impl ServerCertVerifier for Look {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Some(Certificate::of(certificate));
        Look::enough()
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Look::enough()
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Look::enough()
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct WrongFingerprint {
    seen: Fingerprint,
    expected: Fingerprint,
}

impl fmt::Display for WrongFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WrongFingerprint { seen, expected } = self;
        write!(
            f,
            "wrong fingerprint: the server's certificate has {seen}, the storage expects {expected}"
        )
    }
}

impl Error for WrongFingerprint {}

/// A sentence that an admin can act on, for failures with a single cause.
pub fn explain(error: &rustls::Error) -> String {
    use rustls::Error as Tls;
    let text = match error {
        Tls::InvalidCertificate(certificate) => return explain_certificate(certificate),
        Tls::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the server does not speak TLS on this port (plain HTTP?)"
        }
        Tls::PeerIncompatible(_)
        | Tls::AlertReceived(
            AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure,
        ) => "no TLS version and cipher in common: the server must offer TLS 1.2 or 1.3",
        _ => return format!("TLS failed: {error}"),
    };
    text.to_owned()
}

fn explain_certificate(error: &CertificateError) -> String {
    use CertificateError as C;
    let text = match error {
        C::BadSignature => {
            "bad signature: the server presents a certificate without holding its key, or a forged one; \
             whoever answers there is not your backup server"
        }
        C::Expired | C::ExpiredContext { .. } => "the server's certificate has expired",
        C::NotValidYet | C::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet (is the clock of this node right?)"
        }
        C::UnknownIssuer => {
            "unknown issuer: no root certificate of this system vouches for the server's certificate; \
             set the storage's fingerprint to pin it"
        }
        C::NotValidForName | C::NotValidForNameContext { .. } => {
            "wrong name: the server's certificate is not for the name in the storage's settings; \
             set the storage's fingerprint to pin it"
        }
        C::Other(OtherError(wrong)) if wrong.is::<WrongFingerprint>() => return wrong.to_string(),
        // Mainly a self-signed certificate that is an authority itself (`CaUsedAsEndEntity`).
        C::Other(OtherError(why)) => {
            return format!(
                "the server's certificate is not valid ({why}); set the storage's fingerprint to pin it"
            );
        }
        _ => return format!("the server's certificate is not valid: {error}"),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests;

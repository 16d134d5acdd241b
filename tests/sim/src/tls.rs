//! Server certificates like those of a backup server, and impostors.

mod impostor;

use std::sync::Arc;

use anyhow::{Context, Result};
use chrono::{Datelike, TimeDelta, Utc};
use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, SupportedProtocolVersion};

pub use impostor::{Impostor, OldServer};

/// A self-signed certificate and its key.
#[derive(Clone)]
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

/// Which protocol versions a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// TLS 1.2 and 1.3, as the real server does.
    Both,
    /// TLS 1.2 and nothing else.
    Only12,
    /// TLS 1.3 and nothing else.
    Only13,
}

impl Versions {
    fn list(self) -> Vec<&'static SupportedProtocolVersion> {
        match self {
            Versions::Both => vec![&rustls::version::TLS12, &rustls::version::TLS13],
            Versions::Only12 => vec![&rustls::version::TLS12],
            Versions::Only13 => vec![&rustls::version::TLS13],
        }
    }
}

impl Identity {
    /// A certificate for these DNS names, valid for years.
    ///
    /// # Errors
    /// If a name is no DNS name.
    pub fn new(names: &[&str]) -> Result<Self> {
        Self::valid_for_days(names, 3650)
    }

    /// A certificate that expires this many days from now; a negative number means that it has
    /// expired.
    ///
    /// # Errors
    /// If a name is no DNS name.
    pub fn valid_for_days(names: &[&str], days: i64) -> Result<Self> {
        let params = params(names, days.min(0) - 30, days)?;
        let key = KeyPair::generate().context("generate a key")?;
        let certificate = params.self_signed(&key).context("sign the certificate")?;
        Ok(Self { certificate: certificate.der().clone(), key: key.serialize_der() })
    }

    /// A certificate from another issuer, valid for `lifetime` days, of which `left` remain.
    ///
    /// # Errors
    /// If a name is no DNS name.
    pub fn issued(names: &[&str], lifetime: i64, left: i64) -> Result<Self> {
        let mut authority = params(&[], -400, 4000)?;
        authority.distinguished_name.push(DnType::OrganizationName, "Example Home");
        let issuer_key = KeyPair::generate().context("generate a key")?;
        let issuer = Issuer::new(authority, issuer_key);
        let key = KeyPair::generate().context("generate a key")?;
        let leaf = params(names, left - lifetime, left)?;
        let certificate = leaf.signed_by(&key, &issuer).context("sign the certificate")?;
        Ok(Self { certificate: certificate.der().clone(), key: key.serialize_der() })
    }

    /// The leaf certificate, DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The certificate as PEM, as `proxmox-backup-manager cert info` users save it.
    pub fn pem(&self) -> String {
        let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
        let encoded = base64(&self.certificate);
        for line in encoded.as_bytes().chunks(64) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text + "-----END CERTIFICATE-----\n"
    }

    /// SHA-256 of the leaf, as `storage.cfg` writes it: `AA:BB:...`.
    pub fn fingerprint(&self) -> String {
        let hex = sha256(&self.certificate).map(|byte| format!("{byte:02X}"));
        hex.join(":")
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()))
    }

    /// A server's settings with this certificate.
    ///
    /// # Errors
    /// If certificate and key do not match.
    pub fn server_config(&self, versions: Versions) -> Result<Arc<ServerConfig>> {
        let config = builder(versions)?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key())
            .context("use the server certificate")?;
        Ok(Arc::new(config))
    }
}

/// The certificate parameters of a backup server, valid between two days counted from today.
fn params(names: &[&str], from: i64, until: i64) -> Result<CertificateParams> {
    let names = names.iter().map(|name| (*name).to_owned());
    let mut params =
        CertificateParams::new(names.collect::<Vec<_>>()).context("certificate names")?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "Proxmox Backup Server");
    params.distinguished_name = subject;
    let (year, month, date) = day(from)?;
    params.not_before = rcgen::date_time_ymd(year, month, date);
    let (year, month, date) = day(until)?;
    params.not_after = rcgen::date_time_ymd(year, month, date);
    Ok(params)
}

fn day(days: i64) -> Result<(i32, u8, u8)> {
    let date = Utc::now() + TimeDelta::days(days);
    let month = u8::try_from(date.month()).context("month")?;
    let day = u8::try_from(date.day()).context("day")?;
    Ok((date.year(), month, day))
}

fn builder(
    versions: Versions,
) -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions.list())
        .context("choose TLS versions")
}

/// SHA-256 from a cipher suite, so that no extra crate is needed.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let hash = match suite {
        rustls::SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider.hash(bytes),
        rustls::SupportedCipherSuite::Tls12(suite) => suite.common.hash_provider.hash(bytes),
    };
    let mut digest = [0; 32];
    digest.copy_from_slice(hash.as_ref());
    digest
}

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0_u32, |word, byte| (word << 8) | u32::from(*byte));
        let word = word << (8 * (3 - group.len()));
        for place in 0..4 {
            if place <= group.len() {
                let index = (word >> (18 - 6 * place)) & 63;
                text.push(char::from(ALPHABET[index as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

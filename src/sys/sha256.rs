//! SHA-256, by the TLS library's own code: no crate is needed for this one hash.

use std::fmt;
use std::str::FromStr;

use rustls::SupportedCipherSuite;
use rustls::crypto::hash::{Context, Hash};
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use serde::{Deserialize, Serialize};

/// A SHA-256, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The hash of all of `bytes`.
    pub fn of(bytes: &[u8]) -> Sha256 {
        Sha256::from_slice(provider().hash(bytes).as_ref())
    }

    fn from_slice(bytes: &[u8]) -> Sha256 {
        let mut hash = [0; 32];
        for (to, from) in hash.iter_mut().zip(bytes) {
            *to = *from;
        }
        Sha256(hash)
    }
}

fn provider() -> &'static dyn Hash {
    match TLS13_AES_128_GCM_SHA256 {
        SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider,
        SupportedCipherSuite::Tls12(suite) => suite.common.hash_provider,
    }
}

/// The hash of something that comes in pieces.
pub struct Hasher(Box<dyn Context>);

impl Hasher {
    /// With nothing taken in yet.
    pub fn new() -> Hasher {
        Hasher(provider().start())
    }

    /// Takes in the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all pieces.
    pub fn finish(self) -> Sha256 {
        Sha256::from_slice(self.0.finish().as_ref())
    }
}

impl Default for Hasher {
    fn default() -> Hasher {
        Hasher::new()
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<Sha256> for String {
    fn from(hash: Sha256) -> String {
        hash.to_string()
    }
}

impl TryFrom<String> for Sha256 {
    type Error = NoSha256;

    fn try_from(text: String) -> Result<Sha256, NoSha256> {
        text.parse()
    }
}

/// A text is not 64 hexadecimal digits.
#[derive(Debug, PartialEq, Eq)]
pub struct NoSha256;

impl fmt::Display for NoSha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a SHA-256 is 64 hexadecimal digits")
    }
}

impl std::error::Error for NoSha256 {}

impl FromStr for Sha256 {
    type Err = NoSha256;

    fn from_str(text: &str) -> Result<Sha256, NoSha256> {
        if text.len() != 64 {
            return Err(NoSha256);
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digit = |at: usize| pair.get(at).and_then(|it| char::from(*it).to_digit(16));
            let (high, low) = digit(0).zip(digit(1)).ok_or(NoSha256)?;
            *byte = u8::try_from(16 * high + low).map_err(|_| NoSha256)?;
        }
        Ok(Sha256(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_standard() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Sha256::of(b"abc").to_string(), abc);
        let mut pieces = Hasher::new();
        pieces.update(b"a");
        pieces.update(b"bc");
        assert_eq!(pieces.finish(), abc.parse().unwrap());
        assert_eq!("abc".parse::<Sha256>(), Err(NoSha256));
        assert_eq!(abc.replace('b', "g").parse::<Sha256>(), Err(NoSha256));
    }
}

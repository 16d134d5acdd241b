//! How long a server's certificate is valid, and who issued it, read from its DER (RFC 5280).

use chrono::{DateTime, NaiveDateTime, Utc};
use rustls::pki_types::CertificateDer;

use super::tls::Fingerprint;

/// The certificate that a server presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate {
    pub fingerprint: Fingerprint,
    /// Start of its validity; `None` if it cannot be read.
    pub not_before: Option<DateTime<Utc>>,
    /// The last second of its validity; `None` if it cannot be read.
    pub not_after: Option<DateTime<Utc>>,
    /// It names itself as its issuer, as the certificate that a backup server makes itself. One
    /// that cannot be read counts as issued by somebody else, so that no advice replaces it.
    pub self_signed: bool,
}

impl Certificate {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Certificate {
        let fields = Fields::of(certificate.as_ref());
        Certificate {
            fingerprint: Fingerprint::of(certificate),
            not_before: fields.as_ref().and_then(|fields| time(fields.from)),
            not_after: fields.as_ref().and_then(|fields| time(fields.until)),
            self_signed: fields.as_ref().is_some_and(|fields| fields.issuer == fields.subject),
        }
    }
}

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, which holds the version.
const VERSION: u8 = 0xa0;

/// Fields of a certificate, as DER.
struct Fields<'a> {
    issuer: &'a [u8],
    from: (u8, &'a [u8]),
    until: (u8, &'a [u8]),
    subject: &'a [u8],
}

impl Fields<'_> {
    /// `Certificate { TBSCertificate { [0] version, serial, signature, issuer, Validity { from,
    /// until }, subject, ... }, ... }`
    fn of(certificate: &[u8]) -> Option<Fields<'_>> {
        let (_, whole, _) = element(certificate, Some(SEQUENCE))?;
        let (_, mut rest, _) = element(whole, Some(SEQUENCE))?;
        if rest.first() == Some(&VERSION) {
            rest = element(rest, None)?.2;
        }
        for _serial_signature in 0..2 {
            rest = element(rest, None)?.2;
        }
        let (_, issuer, rest) = element(rest, Some(SEQUENCE))?;
        let (_, validity, rest) = element(rest, Some(SEQUENCE))?;
        let (_, subject, _) = element(rest, Some(SEQUENCE))?;
        let (kind_from, from, until) = element(validity, None)?;
        let (kind_until, until, _) = element(until, None)?;
        Some(Fields { issuer, from: (kind_from, from), until: (kind_until, until), subject })
    }
}

fn time((kind, text): (u8, &[u8])) -> Option<DateTime<Utc>> {
    let text = std::str::from_utf8(text).ok()?;
    let text = match kind {
        // Two digits of a year: 50 and above mean the last century.
        UTC_TIME if text.get(..2)? >= "50" => format!("19{text}"),
        UTC_TIME => format!("20{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    NaiveDateTime::parse_from_str(&text, "%Y%m%d%H%M%SZ").ok().map(|time| time.and_utc())
}

/// The tag and content of the first element, and the rest.
fn element(bytes: &[u8], expected: Option<u8>) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let digits;
        (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if digits.is_empty() || digits.len() > 4 {
            return None;
        }
        length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
    }
    let (content, rest) = rest.split_at_checked(length)?;
    expected.is_none_or(|expected| expected == tag).then_some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn made(year: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2001, 2, 3);
        params.not_after = date_time_ymd(year, 11, 22);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn the_last_day_is_read_in_either_form() {
        for year in [2026, 2049, 2050, 3026] {
            let certificate = Certificate::of(&made(year));
            let until = certificate.not_after.unwrap().to_rfc3339();
            assert_eq!(until, format!("{year}-11-22T00:00:00+00:00"));
            let from = certificate.not_before.unwrap().to_rfc3339();
            assert_eq!(from, "2001-02-03T00:00:00+00:00");
            assert!(certificate.self_signed);
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_last_day() {
        let whole = made(2026);
        for end in 0..whole.len() {
            assert!(Fields::of(&whole[..end]).is_none());
        }
        for odd in [&b"\x30\x84\xff\xff\xff\xff"[..], b"\x30\x80", b"\x30\x00", b"x"] {
            assert!(Fields::of(odd).is_none());
        }
    }
}

//! Whether it is the right backup server, whether it accepts the storage's login, and whether its
//! clock is right.

use chrono::{DateTime, TimeDelta, Utc};

use super::check::Check;
use super::storage_rights;
use super::storage_subject::Subject;
use crate::pbs::tls::Fingerprint;
use crate::pbs::{Certificate, Error, SECOND_FACTOR};
use crate::pve::storage::Target;
use crate::sys::clock;

/// A self-signed certificate is renewed by hand.
const RENEW: TimeDelta = TimeDelta::days(30);
/// An issued certificate is renewed automatically with 30 days left (ACME) or a third of its
/// lifetime; with fewer days left, that has failed.
const RENEW_ISSUED: TimeDelta = TimeDelta::days(20);
/// A larger difference between the clocks is reported.
const CLOCK: TimeDelta = TimeDelta::seconds(10);

const READ: &str = "on the backup server: proxmox-backup-manager cert info | grep Fingerprint";
/// The proxy reads its certificate when it starts.
const RELOAD: &str = "on the backup server: systemctl reload proxmox-backup-proxy";

/// Whether the server presents the certificate that the storage expects, and other problems with
/// it.
pub fn certificate(
    about: Subject<'_>,
    target: &Target,
    seen: Result<Certificate, Error>,
) -> (bool, Vec<Check>) {
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => return (false, vec![unreachable(about, target, &error)]),
    };
    let pinned = target.fingerprint.as_deref().and_then(|text| text.parse::<Fingerprint>().ok());
    let set = format!("pvesm set {} --fingerprint FINGERPRINT", about.id);
    let mut checks = vec![match pinned {
        Some(pinned) if pinned == seen.fingerprint => {
            about.ok("fingerprint", "the server presents the certificate that the storage expects")
        }
        Some(pinned) => {
            let text = format!(
                "wrong fingerprint: the server's certificate has {}, the storage expects {pinned}",
                seen.fingerprint
            );
            return (false, vec![compare(about, about.fail("fingerprint", text), &seen)]);
        }
        None => about
            .warn(
                "fingerprint",
                "the storage has no fingerprint: any certificate from an issuer that this system \
                 trusts is accepted",
            )
            .fix(READ)
            .fix(set.clone()),
    }];
    checks.extend(expiry(about, seen, pinned.is_some(), &set));
    (true, checks)
}

/// How an admin finds out whether the server has a new certificate, or somebody is in between.
fn compare(about: Subject<'_>, check: Check, seen: &Certificate) -> Check {
    check
        .fix(format!("{READ}   # on its own console, not through this network"))
        .fix(format!(
            "pvesm set {} --fingerprint {}   # only if the console shows this same fingerprint",
            about.id, seen.fingerprint
        ))
        .fix(format!(
            "{RELOAD}   # if the console shows a third fingerprint: the server does not present \
             it yet"
        ))
}

fn expiry(about: Subject<'_>, seen: Certificate, pinned: bool, set: &str) -> Option<Check> {
    let until = seen.not_after?;
    let left = until - clock::now();
    if left > warning(&seen, until) {
        return None;
    }
    let day = until.format("%Y-%m-%d");
    let text = match (left < TimeDelta::zero(), pinned) {
        (true, true) => format!(
            "the server's certificate has expired on {day}; backups go on, because only the \
             fingerprint counts here"
        ),
        (true, false) => format!("the server's certificate has expired on {day}"),
        (false, true) => format!(
            "the server's certificate expires on {day}; backups stop when it is renewed, until the storage has the new fingerprint"
        ),
        (false, false) => format!("the server's certificate expires on {day}"),
    };
    let check = about.warn("certificate", text);
    let check = match seen.self_signed {
        // Without the reload the proxy keeps the old certificate, and its fingerprint would be read
        // too early.
        true => check
            .fix("on the backup server: proxmox-backup-manager cert update --force true")
            .fix(RELOAD),
        // `cert update` would replace it by a self-signed one, which clients that check the issuer
        // do not trust.
        false => check
            .fix("on the backup server, where it comes from ACME: proxmox-backup-manager acme cert order")
            .fix("otherwise have its issuer renew it; never use `proxmox-backup-manager cert \
                  update`"),
    };
    Some(if pinned { check.fix(READ).fix(set) } else { check })
}

/// How long before its end to warn of a certificate.
fn warning(seen: &Certificate, until: DateTime<Utc>) -> TimeDelta {
    if seen.self_signed {
        return RENEW;
    }
    let quarter = seen.not_before.map(|from| (until - from) / 4);
    quarter.map_or(RENEW_ISSUED, |quarter| quarter.min(RENEW_ISSUED))
}

/// `192.0.2.7:8007`, `[2001:db8::7]:8007`
fn authority(server: &str, port: u16) -> String {
    match server.trim_start_matches('[').trim_end_matches(']') {
        address if address.contains(':') => format!("[{address}]:{port}"),
        name => format!("{name}:{port}"),
    }
}

fn unreachable(about: Subject<'_>, target: &Target, error: &Error) -> Check {
    about
        .fail("server", error)
        .fix(format!(
            "openssl s_client -brief -connect {} </dev/null   # from this node",
            authority(&target.server, target.port)
        ))
        .fix("on the backup server: systemctl status proxmox-backup-proxy")
}

/// Whether the server accepts the storage's login, and how far its clock is from ours.
pub fn login(
    about: Subject<'_>,
    target: &Target,
    ahead: Result<Option<TimeDelta>, Error>,
) -> Vec<Check> {
    let username = &target.username;
    let ahead = match ahead {
        Ok(ahead) => ahead,
        Err(Error::Denied { .. } | Error::Refused { status: 400, .. }) if !has_realm(username) => {
            let text = format!(
                "{username} names no realm: a login is named USER@REALM or USER@REALM!TOKEN, such as backup@pbs!node"
            );
            let set = format!("pvesm set {} --username 'USER@REALM!TOKEN' --password", about.id);
            return vec![about.fail("login", text).fix(set)];
        }
        Err(Error::Denied { reason, .. }) if reason.contains(SECOND_FACTOR) => {
            let text = format!(
                "the server asks {username} for a second factor, which a storage cannot give: use \
                 an API token"
            );
            return vec![storage_rights::token_instead(about, target, about.fail("login", text))];
        }
        Err(error @ Error::Denied { .. }) => {
            let text = format!("the server rejects {username} with the stored secret: {error}");
            let (user, token) = username.split_once('!').unwrap_or((username, ""));
            let check = about.fail("login", text).fix(format!(
                "on the backup server: proxmox-backup-manager user list-tokens {user}"
            ));
            let check = match token {
                "" => check,
                token => check.fix(format!(
                    "on the backup server, where {token} is not in that list: \
                     proxmox-backup-manager user generate-token {user} {token}"
                )),
            };
            return vec![
                check.fix(format!("pvesm set {} --password   # asks for the secret", about.id)),
            ];
        }
        Err(error) => return vec![unreachable(about, target, &error)],
    };
    let mut checks = vec![about.ok("login", format!("the server accepts {username}"))];
    checks.extend(ahead.map(|ahead| clocks(about, ahead)));
    checks
}

fn has_realm(username: &str) -> bool {
    username.split('!').next().is_some_and(|user| user.contains('@'))
}

fn clocks(about: Subject<'_>, ahead: TimeDelta) -> Check {
    if ahead.abs() <= CLOCK {
        return about.ok("clock", "the server's clock and this node's agree");
    }
    let seconds = ahead.num_seconds();
    let direction = if seconds > 0 { "ahead of" } else { "behind" };
    let text = format!(
        "the server's clock is {} s {direction} this node's: times of backups and verifies cannot \
         be compared",
        seconds.abs()
    );
    about
        .warn("clock", text)
        .fix("timedatectl   # on both: which one is not synchronised?")
        .fix("systemctl enable --now chrony   # on that one")
}

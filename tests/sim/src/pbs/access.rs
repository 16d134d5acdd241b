//! Users, tokens, tickets, and their rights.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::http::{Request, percent_decode};
use crate::tls::{base64, sha256};

const DATASTORE: &[&str] = &[
    "Datastore.Audit",
    "Datastore.Backup",
    "Datastore.Modify",
    "Datastore.Prune",
    "Datastore.Read",
    "Datastore.Verify",
];

const SUPERUSER: &[&str] = &[
    "Datastore.Allocate",
    "Datastore.Audit",
    "Datastore.Backup",
    "Datastore.Modify",
    "Datastore.Prune",
    "Datastore.Read",
    "Datastore.Verify",
    "Permissions.Modify",
    "Realm.Allocate",
    "Remote.Audit",
    "Remote.DatastoreModify",
    "Remote.Modify",
    "Remote.Prune",
    "Remote.Read",
    "Sys.Audit",
    "Sys.Console",
    "Sys.Modify",
    "Sys.PowerManagement",
    "Tape.Audit",
    "Tape.Modify",
    "Tape.Read",
    "Tape.Write",
];

/// The lifetime of a ticket, in seconds.
const TICKET_LIFETIME: i64 = 7200;

fn privileges(role: &str) -> &'static [&'static str] {
    match role {
        "Admin" => SUPERUSER,
        "Audit" => &["Datastore.Audit", "Remote.Audit", "Sys.Audit", "Tape.Audit"],
        "DatastoreAdmin" => DATASTORE,
        "DatastoreReader" => &["Datastore.Audit", "Datastore.Read", "Datastore.Verify"],
        "DatastoreBackup" => &["Datastore.Backup"],
        "DatastorePowerUser" => &["Datastore.Backup", "Datastore.Prune"],
        "DatastoreAudit" => &["Datastore.Audit"],
        _ => &[],
    }
}

/// The user of a token id; for a user's id, the id itself.
pub fn user_of(auth_id: &str) -> &str {
    auth_id.split('!').next().unwrap_or(auth_id)
}

/// Whether `auth_id` is the owner, or the user that the owning token belongs to.
pub fn owns(auth_id: &str, owner: &str) -> bool {
    auth_id == owner || (owner.contains('!') && user_of(owner) == auth_id)
}

#[derive(Debug, Clone)]
struct Secret {
    text: String,
    enabled: bool,
}

/// All logins, and the access control list.
#[derive(Debug, Clone, Default)]
pub struct Access {
    passwords: BTreeMap<String, Secret>,
    tokens: BTreeMap<String, Secret>,
    acl: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
    /// Users that need a second factor besides their password.
    pub second_factors: BTreeSet<String>,
}

impl Access {
    /// A user with a password, such as `root@pam`.
    pub fn add_user(&mut self, user: &str, password: &str) {
        let secret = Secret { text: password.to_owned(), enabled: true };
        self.passwords.insert(user.to_owned(), secret);
    }

    /// A token `USER@REALM!NAME` with its secret.
    pub fn add_token(&mut self, token: &str, secret: &str) {
        let secret = Secret { text: secret.to_owned(), enabled: true };
        self.tokens.insert(token.to_owned(), secret);
    }

    /// Disables or enables a user or token; a disabled one looks like an unknown one.
    pub fn enable(&mut self, auth_id: &str, enabled: bool) {
        for secrets in [&mut self.passwords, &mut self.tokens] {
            if let Some(secret) = secrets.get_mut(auth_id) {
                secret.enabled = enabled;
            }
        }
    }

    /// Gives a user or a token a role on a path and below it. A token never has more rights than
    /// its user.
    pub fn grant(&mut self, path: &str, auth_id: &str, role: &str) {
        self.acl
            .entry(path.to_owned())
            .or_default()
            .entry(auth_id.to_owned())
            .or_default()
            .insert(role.to_owned());
    }

    /// The same role for a token and for its user.
    pub fn grant_both(&mut self, path: &str, token: &str, role: &str) {
        self.grant(path, token, role);
        self.grant(path, user_of(token), role);
    }

    /// Empties the access control list.
    pub fn revoke_all(&mut self) {
        self.acl.clear();
    }

    /// The privileges on a path: the deepest entry counts, and a token's are limited to its user's.
    pub fn privileges(&self, auth_id: &str, path: &str) -> BTreeSet<&'static str> {
        if auth_id == "root@pam" {
            return SUPERUSER.iter().copied().collect();
        }
        let mut own = BTreeSet::new();
        for prefix in prefixes(path) {
            if let Some(roles) = self.acl.get(&prefix).and_then(|node| node.get(auth_id)) {
                own = roles.iter().flat_map(|role| privileges(role).iter().copied()).collect();
            }
        }
        if auth_id.contains('!') {
            let users = self.privileges(user_of(auth_id), path);
            own.retain(|privilege| users.contains(privilege));
        }
        own
    }

    /// Whether the login has one of these privileges on the path.
    pub fn has_any(&self, auth_id: &str, path: &str, any: &[&str]) -> bool {
        let held = self.privileges(auth_id, path);
        any.iter().any(|privilege| held.contains(privilege))
    }

    /// Whether the login has one of these privileges somewhere below the path.
    pub fn has_any_below(&self, auth_id: &str, path: &str, any: &[&str]) -> bool {
        let below = format!("{path}/");
        self.acl
            .keys()
            .filter(|known| known.starts_with(&below))
            .any(|known| self.has_any(auth_id, known, any))
    }

    /// The answer of `GET /access/permissions`: for one path, or for every known path.
    pub fn permissions(&self, auth_id: &str, path: Option<&str>, stores: &[String]) -> Value {
        let paths: BTreeSet<String> = match path {
            Some(path) => [normal(path)].into(),
            None => ["/", "/access", "/datastore", "/remote", "/system"]
                .iter()
                .map(|path| (*path).to_owned())
                .chain(stores.iter().map(|store| format!("/datastore/{store}")))
                .chain(self.acl.keys().cloned())
                .collect(),
        };
        let mut answer = Map::new();
        for path in paths {
            let held = self.privileges(auth_id, &path);
            if !held.is_empty() {
                let held = held.into_iter().map(|name| (name.to_owned(), Value::from(true)));
                answer.insert(path, Value::Object(held.collect()));
            }
        }
        Value::Object(answer)
    }

    /// The login of this request; `None` is a 401.
    pub fn authenticate(&self, request: &Request, now: i64) -> Option<String> {
        if let Some(ticket) = cookie(request) {
            let user = self.check_ticket(&ticket, now)?;
            if request.method != "GET" {
                let token = request.header("csrfpreventiontoken")?;
                let stamp = token.split(':').next()?;
                if token != self.csrf(&user, stamp) || !fresh(stamp, now) {
                    return None;
                }
            }
            return Some(user);
        }
        let value = request.header("authorization")?;
        let value = value.strip_prefix("PBSAPIToken")?;
        let (id, secret) = value.strip_prefix(['=', ' '])?.split_once(':')?;
        let known = self.tokens.get(id)?;
        let user = self.passwords.get(user_of(id));
        let enabled = known.enabled && user.is_none_or(|user| user.enabled);
        (enabled && known.text == percent_decode(secret, false)).then(|| id.to_owned())
    }

    /// Logs a user in with a password, or with a valid ticket.
    pub fn log_in(&self, user: &str, password: &str, now: i64) -> Option<Value> {
        let known = self.passwords.get(user).filter(|known| known.enabled)?;
        let renewed = self.check_ticket(password, now);
        if known.text != password && renewed.as_deref() != Some(user) {
            return None;
        }
        let stamp = format!("{now:08X}");
        if self.second_factors.contains(user) && renewed.is_none() {
            let ticket = format!(
                "PBS:!tfa!%7B%22totp%22%3Atrue%7D:{stamp}::{}",
                self.sign("PBS", user, &stamp)
            );
            return Some(serde_json::json!({
                "CSRFPreventionToken": "invalid",
                "ticket": ticket,
                "username": user,
            }));
        }
        Some(serde_json::json!({
            "CSRFPreventionToken": self.csrf(user, &stamp),
            "ticket": self.ticket(user, &stamp),
            "username": user,
        }))
    }

    fn sign(&self, purpose: &str, user: &str, stamp: &str) -> String {
        let password = self.passwords.get(user).map(|known| known.text.as_str());
        let text = format!("{purpose}:{user}:{stamp}:{}", password.unwrap_or_default());
        base64(&sha256(text.as_bytes()))
    }

    fn ticket(&self, user: &str, stamp: &str) -> String {
        format!("PBS:{user}:{stamp}::{}", self.sign("PBS", user, stamp))
    }

    fn csrf(&self, user: &str, stamp: &str) -> String {
        format!("{stamp}:{}", self.sign("CSRF", user, stamp))
    }

    fn check_ticket(&self, ticket: &str, now: i64) -> Option<String> {
        let (head, _) = ticket.strip_prefix("PBS:")?.split_once("::")?;
        let (user, stamp) = head.rsplit_once(':')?;
        let known = self.passwords.get(user)?;
        (known.enabled && fresh(stamp, now) && ticket == self.ticket(user, stamp))
            .then(|| user.to_owned())
    }
}

fn fresh(stamp: &str, now: i64) -> bool {
    let issued = i64::from_str_radix(stamp, 16).unwrap_or_default();
    (-300..TICKET_LIFETIME).contains(&(now - issued))
}

fn cookie(request: &Request) -> Option<String> {
    let cookies = request.header("cookie")?;
    let value = cookies.split(';').find_map(|cookie| {
        let (name, value) = cookie.trim().split_once('=')?;
        matches!(name, "PBSAuthCookie" | "__Host-PBSAuthCookie").then_some(value)
    })?;
    Some(percent_decode(value, false))
}

fn normal(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    format!("/{}", parts.join("/"))
}

/// `/`, `/datastore`, `/datastore/STORE`, ...
fn prefixes(path: &str) -> Vec<String> {
    let mut prefixes = vec!["/".to_owned()];
    let mut so_far = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        so_far = format!("{so_far}/{part}");
        prefixes.push(so_far.clone());
    }
    prefixes
}

use std::fmt;
use std::str::FromStr;

/// A URL: `http` or `https`, host, port, path and query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Whether it is `https`.
    pub tls: bool,
    /// A name or an address, an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
    /// Begins with `/`.
    pub path: String,
    /// What follows the `?`, if anything does.
    pub query: Option<String>,
}

impl Url {
    /// The same URL with one more part at the end of its path.
    pub fn below(&self, part: &str) -> Url {
        let path = format!("{}/{part}", self.path.trim_end_matches('/'));
        Url { path, ..self.clone() }
    }

    /// Path and query, as in the request line.
    pub fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
}

/// What is wrong with a URL; the text follows the URL in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoUrl(&'static str);

impl fmt::Display for NoUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for NoUrl {}

impl FromStr for Url {
    type Err = NoUrl;

    fn from_str(text: &str) -> Result<Url, NoUrl> {
        let (tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err(NoUrl("it begins with neither https:// nor http://")),
        };
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NoUrl("it holds a character that has to be percent-encoded"));
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(NoUrl("a user and a password in it are not supported"));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(address) => {
                address.split_once(']').ok_or(NoUrl("the ] of its address is missing"))?
            }
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => {
                port.parse().map_err(|_| NoUrl("its port is not a number from 0 to 65535"))?
            }
            None if port.is_empty() => {
                if tls {
                    443
                } else {
                    80
                }
            }
            None => return Err(NoUrl("its port is not a number from 0 to 65535")),
        };
        if host.is_empty() {
            return Err(NoUrl("it has no host"));
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_string())),
            None => (target, None),
        };
        let path = if path.is_empty() { "/" } else { path };
        Ok(Url { tls, host: host.to_string(), port, path: path.to_string(), query })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart() {
        let url: Url = "https://hc.example.org/ping/0b0b?rid=1".parse().unwrap();
        assert_eq!((url.tls, url.host.as_str(), url.port), (true, "hc.example.org", 443));
        assert_eq!(url.target(), "/ping/0b0b?rid=1");
        assert_eq!(url.below("fail").target(), "/ping/0b0b/fail?rid=1");
        let url: Url = "http://[2001:db8::1]:8000".parse().unwrap();
        assert_eq!((url.tls, url.host.as_str(), url.port), (false, "2001:db8::1", 8000));
        assert_eq!((url.target().as_str(), url.below("fail").target().as_str()), ("/", "/fail"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "hc.example.org",
            "ftp://a/",
            "https://",
            "https:///x",
            "http://a:b/",
            "http://a:99999/",
            "http://[::1",
            "http://[::1]x/",
            "http://user:secret@a/",
            "http://a/b c",
            "http://a/\r\nx",
        ] {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
    }
}

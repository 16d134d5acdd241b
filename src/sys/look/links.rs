//! Follows the symbolic links of a path as text: to compare places, not to open them.

use std::collections::VecDeque;
use std::io;

/// As many as the kernel follows.
const MOST_LINKS: usize = 40;

/// The kernel's limit of a path's length.
const LONGEST: usize = 4096;

/// Follows the links of an absolute path. `..` above the root stays at the root. `target` returns
/// the content of the link at a path whose parents are no links, or `None` if it is no link. A path
/// that does not exist is returned unchanged.
///
/// # Errors
/// If the links form a circle or the path gets too long, and the errors of `target`.
pub fn followed(
    path: &str,
    target: impl Fn(&str) -> io::Result<Option<String>>,
) -> io::Result<String> {
    let mut left: VecDeque<String> = names(path).collect();
    let mut real = String::new();
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            real.truncate(real.rfind('/').unwrap_or(0));
            continue;
        }
        let here = format!("{real}/{name}");
        if here.len() > LONGEST {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        let Some(target) = target(&here)? else {
            real = here;
            continue;
        };
        links += 1;
        if links > MOST_LINKS {
            return Err(io::Error::other("too many symbolic links"));
        }
        if target.starts_with('/') {
            real.clear();
        }
        names(&target).collect::<Vec<_>>().into_iter().rev().for_each(|name| left.push_front(name));
    }
    Ok(if real.is_empty() { "/".to_string() } else { real })
}

fn names(path: &str) -> impl Iterator<Item = String> + '_ {
    path.split('/').filter(|name| !matches!(*name, "" | ".")).map(String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_within_the_root() {
        let link = |path: &str| {
            Ok(match path {
                "/opt/pg" => Some("/srv/pg".to_string()),
                "/opt/up" => Some("../../../etc".to_string()),
                "/srv/pg/data" => Some("./new".to_string()),
                "/loop" => Some("loop".to_string()),
                _ => None,
            })
        };
        for (path, real) in [
            ("/opt/pg", "/srv/pg"),
            ("/opt/pg/data/x", "/srv/pg/new/x"),
            ("/opt/up", "/etc"),
            ("/opt//./none/../pg/", "/srv/pg"),
            ("/", "/"),
            ("/../..", "/"),
        ] {
            assert_eq!(followed(path, link).unwrap(), real, "{path}");
        }
        assert!(followed("/loop", link).is_err());
        assert!(followed(&"/long".repeat(1000), link).is_err());
    }
}

//! Where a path leads once its symbolic links are followed, as text: for comparing places, not for opening them.

use std::collections::VecDeque;
use std::io;

/// As many as the kernel follows.
const MOST_LINKS: usize = 40;

/// A path is no longer for the kernel either.
const LONGEST: usize = 4096;

/// Follows the links of an absolute path; one that leads further up than the root stays there. `target` gives what is in
/// the link at a path that has no links on the way, `None` where there is no link: what is not there is taken as written.
///
/// # Errors
/// Where the links lead in a circle or the path gets too long, and those of `target`.
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

//! Which container takes the place of a removed one.

use chrono::{DateTime, Utc};

use crate::engine::{Container, Status};

/// Whether a container of the same compose service has taken a removed one's place since the run
/// began: it was created since, or it has the removed one's name. A replica that somebody had
/// stopped before, or a one-off with the service's labels, did not run in its place; starting it
/// would start what did not run.
///
/// `began` is when the run began, if that is known.
pub fn is_successor(container: &Container, name: &str, began: Option<DateTime<Utc>>) -> bool {
    let is_new = began.is_some_and(|began| container.is_younger_than(began));
    let had_ended = container.status == Status::Exited
        && began.is_none_or(|began| container.ended_before(began));
    (is_new || container.name == name && !had_ended) && !container.is_one_off()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn began() -> Option<DateTime<Utc>> {
        Some("2026-11-21T23:00:00Z".parse().unwrap())
    }

    fn container(status: Status, created: &str, finished: &str) -> Container {
        let json = br#"{"Id":"3b1f0c2d4e5f","Name":"/shop-web-2","State":{"Status":"exited"}}"#;
        let plain = Container::parse(json).unwrap();
        let time = |clock: &str| format!("2026-11-21T{clock}Z");
        Container { status, created: time(created), finished_at: time(finished), ..plain }
    }

    #[test]
    fn one_that_was_made_since_takes_the_place() {
        let made = container(Status::Created, "23:01:00", "00:00:00");
        assert!(is_successor(&made, "shop-web-1", began()));
        let ended = container(Status::Exited, "23:01:00", "23:01:05");
        assert!(is_successor(&ended, "shop-web-1", began()));
        assert!(!is_successor(&made, "shop-web-1", None));
        let never_ran = container(Status::Exited, "23:01:00", "00:00:00");
        assert!(is_successor(&never_ran, "shop-web-1", began()));
    }

    #[test]
    fn one_of_the_same_name_takes_the_place() {
        let old = container(Status::Running, "22:00:00", "22:30:00");
        assert!(is_successor(&old, "shop-web-2", began()));
        assert!(!is_successor(&old, "shop-web-1", began()));
    }

    #[test]
    fn what_had_ended_before_did_not_run() {
        let stopped = container(Status::Exited, "22:00:00", "22:30:00");
        assert!(!is_successor(&stopped, "shop-web-1", began()));
        assert!(!is_successor(&stopped, "shop-web-2", began()));
        assert!(!is_successor(&stopped, "shop-web-2", None));
    }

    #[test]
    fn a_one_off_takes_nobodys_place() {
        let mut made = container(Status::Running, "23:01:00", "00:00:00");
        made.labels.insert("com.docker.compose.oneoff".into(), "True".into());
        assert!(!is_successor(&made, "shop-web-1", began()));
        assert!(!is_successor(&made, "shop-web-2", began()));
    }
}

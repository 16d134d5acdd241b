//! Containers that end by themselves.

use super::container::{Restart, Status};
use super::{Inner, What, network};
use chrono::Utc;
use std::time::Duration;

/// When a container ends by itself.
#[derive(Debug, Clone)]
pub struct Ending {
    /// This long after its start,
    pub after: Duration,
    /// with this status,
    pub code: i64,
    /// unless this container is healthy then.
    pub unless_healthy: Option<String>,
}

/// Time between an end and the engine's next start, if the policy wants one.
const RESTARTS_AFTER: Duration = Duration::from_millis(100);

/// Ends containers whose time has come, and starts those again that their policy brings back.
pub(super) fn pass(inner: &Inner) {
    if inner.is_frozen() {
        return;
    }
    let mut state = inner.lock();
    if !state.up {
        return;
    }
    let mut changed = false;
    for at in 0..state.containers.len() {
        let container = &state.containers[at];
        let since = |time: Option<chrono::DateTime<Utc>>| {
            time.and_then(|time| (Utc::now() - time).to_std().ok()).unwrap_or_default()
        };
        match container.status {
            Status::Running if !container.judged && !container.stopping => {
                let Some(ending) = container.spec.ends.clone() else { continue };
                if since(container.started_at) < ending.after {
                    continue;
                }
                let needed = ending.unless_healthy.and_then(|name| state.find(&name));
                let spared = needed.is_some_and(|at| state.containers[at].is_healthy());
                state.containers[at].judged = true;
                if spared {
                    continue;
                }
                let again = match state.containers[at].spec.restart {
                    Restart::No => false,
                    Restart::OnFailure => {
                        ending.code != 0 && state.containers[at].spec.retries == 0
                    }
                    Restart::Always | Restart::UnlessStopped => true,
                };
                state.containers[at].ended(ending.code);
                if again {
                    state.containers[at].status = Status::Restarting;
                }
                let ended = state.containers[at].clone();
                state.record(&ended, What::Stopped(ending.code));
                changed = true;
            }
            Status::Restarting if since(container.finished_at) >= RESTARTS_AFTER => {
                if let Ok(lease) = network::lease(&state, container) {
                    state.containers[at].began();
                    state.containers[at].lease = lease;
                    let started = state.containers[at].clone();
                    state.record(&started, What::StartedByPolicy);
                    changed = true;
                }
            }
            _ => {}
        }
    }
    if changed {
        inner.changed.notify_all();
    }
}

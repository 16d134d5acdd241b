//! Whether Stillpoint is called when guests start: through a drop-in for all guests of the node, or
//! through each one's hookscript. A missing hookscript keeps its guest from starting.

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use super::Stacks;
use crate::config::Strategy;
use crate::doctor::check::Check;
use crate::doctor::leftovers::tool;
use crate::doctor::message::{Names, Values};
use crate::doctor::messages::{
    NO_IDENTITY, NO_OTHER_SNIPPET, NO_SNIPPET, NOT_LOOKED_AFTER, OTHER_HOOKSCRIPT, SNIPPET_UNKNOWN,
};
use crate::doctor::node::is_executable;
use crate::engine::{Container, Restart};
use crate::pve::{Config, Member, OnStart, drop_in_calls, is_our_snippet};
use crate::run::Step;
use crate::sys::{Root, program};
use crate::vzdump::GuestType;

/// pvesm is written in Perl, which takes a second to start.
const PVESM_LIMIT: Duration = Duration::from_secs(20);

/// What calls Stillpoint when guests start on this node.
pub struct Start {
    /// The drop-in for all guests.
    pub drop_in: bool,
    /// The hookscripts in use, by volume.
    snippets: HashMap<String, Snippet>,
}

enum Snippet {
    There,
    Missing,
    /// Cannot be determined.
    Unknown(String),
}

impl Start {
    /// For this node, with the hookscripts of these guests.
    pub fn of(root: &Root, members: &[Member]) -> Start {
        let mut snippets = HashMap::new();
        for member in members {
            let config = member.config().ok().flatten();
            if let Some(volume) = config.and_then(|config| config.hookscript) {
                snippets.entry(volume).or_insert_with_key(|volume| snippet(root, volume));
            }
        }
        Start { drop_in: drop_in_calls(root), snippets }
    }

    /// Whether the guest's hookscript exists, so that the guest can start.
    pub fn can_start(&self, member: &Member, config: &Config) -> Option<Check> {
        let script = config.hookscript.as_ref()?;
        let about = format!("guest.{}.hookscript", member.vmid);
        let tool = tool(member.guest_type);
        let known: Values<'_> = &[("script", script), ("vmid", &member.vmid), ("tool", &tool)];
        match self.snippets.get(script)? {
            Snippet::There => None,
            Snippet::Missing if is_our_snippet(script) => Some(NO_SNIPPET.check(about, known)),
            Snippet::Missing => Some(NO_OTHER_SNIPPET.check(about, known)),
            Snippet::Unknown(reason) => {
                Some(SNIPPET_UNKNOWN.check(about, &[known, &[("reason", reason)]].concat()))
            }
        }
    }

    /// Whether Stillpoint is called when a guest with these stacks starts.
    pub fn is_looked_after(&self, stacks: &Stacks<'_>) -> Option<Check> {
        let script = stacks.config.hookscript.as_deref();
        if OnStart::of(GuestType::Lxc, stacks.config, self.drop_in) != OnStart::None {
            return None;
        }
        let vmid = stacks.vmid;
        let about = format!("guest.{vmid}.start");
        if let Some(script) = script {
            return Some(OTHER_HOOKSCRIPT.check(about, &[("script", &script), ("vmid", &vmid)]));
        }
        let by_id = |step: &&Step| {
            let container = stacks.containers.iter().find(|container| container.id == step.id);
            container.is_some_and(|container| stays_down(step.action, container))
        };
        let down = stacks.plan.steps.iter().filter(by_id);
        let names = Names(down.map(|step| step.name.as_str()).collect());
        let message = if names.0.is_empty() { NO_IDENTITY } else { NOT_LOOKED_AFTER };
        Some(message.check(about, &[("names", &names), ("vmid", &vmid)]))
    }
}

/// Whether the engine leaves it down at the first start after a restore, given its state when its
/// data was copied.
fn stays_down(quiesced: Strategy, container: &Container) -> bool {
    match quiesced {
        Strategy::Stop => container.restart != Restart::Always,
        Strategy::Pause | Strategy::None => container.restart == Restart::No,
    }
}

fn snippet(root: &Root, volume: &str) -> Snippet {
    let mut pvesm = Command::new(root.path("/usr/sbin/pvesm"));
    pvesm.args(["path", volume]);
    match program::run(&mut pvesm, PVESM_LIMIT) {
        Err(error) => Snippet::Unknown(format!("pvesm path: {error:#}")),
        Ok(path) if is_executable(&root.path(path.trim())) => Snippet::There,
        Ok(_) => Snippet::Missing,
    }
}

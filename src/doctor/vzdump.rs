//! The script that vzdump calls: one for every backup of the node, in `/etc/vzdump.conf`.

use super::check::Check;
use super::messages::{NO_SCRIPT, NO_VZDUMP_CONF, OTHER_SCRIPT, SCRIPT};
use crate::pve::is_vzdump_hook;
use crate::pve::vzdump_conf::VzdumpConf;
use crate::sys::Root;

pub fn script(root: &Root) -> Vec<Check> {
    let about = "vzdump.script";
    let script = match VzdumpConf::read(root) {
        Err(error) => return vec![NO_VZDUMP_CONF.check(about, &[("reason", &error)])],
        Ok(conf) => conf.script,
    };
    vec![match script {
        None => NO_SCRIPT.check(about, &[]),
        Some(script) if is_vzdump_hook(root, &script) => SCRIPT.check(about, &[]),
        Some(script) => OTHER_SCRIPT.check(about, &[("script", &script)]),
    }]
}

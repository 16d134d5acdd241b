//! Services in a guest that use the replaced values: the guest's own init restarts them.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::guest::Guest;
use crate::sys::{Root, program};
use crate::vzdump::Vmid;

/// A guest that was just started may need this long until its init answers.
const INIT_LIMIT: Duration = Duration::from_secs(60);

/// The limit for one command in the guest; it only hands over a request.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

const LOOK: Duration = Duration::from_millis(250);

/// In the order that most distributions use.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// OpenRC's exit status for a service that is being started.
const STARTING: i32 = 8;

/// A service to restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The SSH server, for its host keys.
    Ssh,
    /// The DHCP client of systemd-networkd, which identifies itself by the machine-id. Others use
    /// the MAC.
    Network,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Init {
    Systemd,
    OpenRc,
}

/// The services of a running guest.
pub struct Services<'a> {
    pub root: &'a Root,
    pub vmid: Vmid,
    pub guest: &'a Guest,
}

impl Services<'_> {
    /// Restarts those that run already; one that starts later needs nothing.
    pub fn restart(&self, kinds: &[Kind]) -> Result<()> {
        let until = Instant::now() + INIT_LIMIT;
        let init = self.await_init(until)?;
        kinds.iter().try_for_each(|kind| match init {
            Init::Systemd => self.by_systemd(*kind),
            Init::OpenRc => self.by_openrc(*kind, until),
        })
    }

    fn await_init(&self, until: Instant) -> Result<Init> {
        loop {
            match self.init()? {
                Some(Init::Systemd)
                    if self.run(&["systemctl", "show", "--property=Version"])? =>
                {
                    return Ok(Init::Systemd);
                }
                Some(Init::OpenRc) => return Ok(Init::OpenRc),
                _ => {}
            }
            if Instant::now() >= until {
                anyhow::bail!("neither systemd nor OpenRC answers in it");
            }
            thread::sleep(LOOK);
        }
    }

    fn init(&self) -> Result<Option<Init>> {
        let tree = &self.guest.tree;
        if tree.is_directory("/run/systemd/system")? {
            return Ok(Some(Init::Systemd));
        }
        Ok(tree.is_directory("/run/openrc")?.then_some(Init::OpenRc))
    }

    fn by_systemd(&self, kind: Kind) -> Result<()> {
        let restart = |unit: &str| self.run(&["systemctl", "--no-block", "try-restart", unit]);
        match kind {
            Kind::Ssh => {
                if !restart("ssh.service")? && !restart("sshd.service")? {
                    anyhow::bail!("systemd in it knows neither ssh.service nor sshd.service");
                }
            }
            // If it does not exist, it is not in use.
            Kind::Network => {
                restart("systemd-networkd.service")?;
            }
        }
        Ok(())
    }

    fn by_openrc(&self, kind: Kind, until: Instant) -> Result<()> {
        if kind == Kind::Network {
            return Ok(());
        }
        while self.status(&["rc-service", "sshd", "status"])? == Some(STARTING)
            && Instant::now() < until
        {
            thread::sleep(LOOK);
        }
        if !self.run(&["rc-service", "--ifstarted", "sshd", "restart"])? {
            anyhow::bail!("rc-service sshd restart failed in it");
        }
        Ok(())
    }

    fn run(&self, command: &[&str]) -> Result<bool> {
        Ok(self.status(command)? == Some(0))
    }

    /// Runs a command in the guest as its root; `None` if a signal killed it.
    fn status(&self, command: &[&str]) -> Result<Option<i32>> {
        let mut attach = Command::new(self.root.path("/usr/bin/lxc-attach"));
        attach.args(["-n", &self.vmid.to_string(), "--clear-env", "-v", PATH, "--"]).args(command);
        let status = program::status(&mut attach, COMMAND_LIMIT)
            .with_context(|| format!("lxc-attach -n {} -- {}", self.vmid, command.join(" ")))?;
        Ok(status.code())
    }
}

//! The content of a guest's backup, and a guest restored from it.

use super::{Guest, GuestSpec, NAME, Node};
use crate::engine::container::Container;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Files in the guest that matter to a restore.
const FILES: [&str; 3] = ["etc/hostname", "etc/machine-id", "var/lib/stillpoint/quiesced.json"];

/// The state of a guest at one instant.
pub struct Image {
    vmid: u32,
    config: String,
    containers: Vec<Container>,
    files: Vec<(&'static str, Vec<u8>)>,
}

impl Image {
    /// The content of a backup taken now: no lock and no snapshot, because `pct restore` drops
    /// them.
    ///
    /// # Errors
    /// If the guest's files cannot be read.
    pub fn of(guest: &Guest) -> Result<Self> {
        let config = super::config::without_snapshot(&guest.config()?);
        let read =
            |path: &'static str| Some((path, fs::read(guest.dir().join("root").join(path)).ok()?));
        Ok(Self {
            vmid: guest.vmid,
            config: super::config::with_lock(&config, None),
            containers: guest.engine.as_ref().map(|engine| engine.containers()).unwrap_or_default(),
            files: FILES.into_iter().filter_map(read).collect(),
        })
    }
}

impl Node {
    /// What `pct restore VMID` does: everything is kept except the volumes, which are new; the
    /// guest is not started.
    ///
    /// # Errors
    /// If its files cannot be made.
    pub fn restore(&mut self, image: &Image, vmid: u32) -> Result<()> {
        let spec = GuestSpec { running: false, containers: Vec::new(), ..GuestSpec::lxc(vmid) };
        let guest = self.add_guest(spec)?;
        let volume = |vmid: u32| format!("vm-{vmid}-disk-");
        guest.set_config(&image.config.replace(&volume(image.vmid), &volume(vmid)))?;
        if let Some(engine) = &guest.engine {
            engine.hold(image.containers.clone());
        }
        for (path, content) in &image.files {
            let path = guest.dir().join("root").join(path);
            write(&path, content)?;
        }
        let now = chrono::Utc::now().timestamp();
        let task = format!("UPID:{NAME}:00006B5F:00A1B2C3:{now:08X}:vzrestore:{vmid}:root@pam:");
        let index = self.path("var/log/pve/tasks/index");
        let known = fs::read_to_string(&index).unwrap_or_default();
        write(&index, format!("{known}{task} {now:08X} OK\n").as_bytes())
    }

    /// What `pct start` does: LXC's configuration from PVE's, the hookscript, the files in the
    /// guest, the guest, the hookscript again. `call` receives each call of the hookscript and its
    /// output.
    ///
    /// # Errors
    /// If the guest does not start.
    pub fn start(&self, vmid: u32, call: &mut dyn FnMut(&str, &str)) -> Result<()> {
        let guest = self.guest(vmid)?;
        self.write(&format!("var/lib/lxc/{vmid}/config"), &lxc_config(&guest.config()?))?;
        call("pre-start", &self.hookscript(vmid, "pre-start")?);
        let config = guest.config()?;
        let hostname = value(&config, "hostname").unwrap_or("localhost");
        write(&guest.dir().join("root/etc/hostname"), format!("{hostname}\n").as_bytes())?;
        let systemd = guest.dir().join("root/run/systemd/system");
        fs::create_dir_all(&systemd).with_context(|| format!("making {}", systemd.display()))?;
        guest.set_marker("running", true)?;
        call("post-start", &self.hookscript(vmid, "post-start")?);
        Ok(())
    }

    fn hookscript(&self, vmid: u32, phase: &str) -> Result<String> {
        if !self.guest(vmid)?.has_hookscript()? {
            return Ok(String::new());
        }
        let output = Command::new(self.path("usr/libexec/stillpoint/guest-hook"))
            .args([&vmid.to_string(), phase])
            .env_clear()
            .env("STILLPOINT_ROOT", self.root())
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .context("running the hookscript")?;
        if !output.status.success() {
            bail!(
                "the hookscript ended with {} in {phase}: PVE does not start the guest",
                output.status
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// PVE's configuration of names and addresses, in LXC's format.
fn lxc_config(config: &str) -> String {
    let mut text = format!("lxc.uts.name = {}\n", value(config, "hostname").unwrap_or("CT"));
    let mac = value(config, "net0")
        .and_then(|net| net.split(',').find_map(|part| part.strip_prefix("hwaddr=")));
    if let Some(mac) = mac {
        text.push_str(&format!("lxc.net.0.type = veth\nlxc.net.0.hwaddr = {mac}\n"));
    }
    text
}

/// The value of a key in a guest's config.
pub fn value<'a>(config: &'a str, key: &str) -> Option<&'a str> {
    config.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    made.and_then(|()| fs::write(path, content))
        .with_context(|| format!("writing {}", path.display()))
}

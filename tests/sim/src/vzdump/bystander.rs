//! A worker of another job, which does nothing.

use crate::node::Node;
use crate::process;
use anyhow::{Context, Result};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A shell needs less time than this to start another program.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What a process's title says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Title {
    /// Its own pid and start time, as for every worker.
    True,
    /// The pid and start time of some other process: a forged title.
    MadeUp,
}

/// The process; dropping this ends it.
pub struct Bystander {
    child: Child,
    /// Its task id.
    pub upid: String,
}

impl Bystander {
    /// Starts it. Its task log on the node then has these lines.
    ///
    /// # Errors
    /// If it cannot be started or its log cannot be written.
    pub fn start(node: &Node, title: Title, log: &str) -> Result<Self> {
        // The title contains the pid and start time, which are known only once the process runs: so
        // its shell waits for the title.
        let script = "read -r title; exec -a \"$title\" /bin/sleep 600";
        let mut shell = Command::new("/bin/bash");
        let shell = shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::null());
        let child = shell.stderr(Stdio::null()).spawn().context("starting a bystander")?;
        let mut bystander = Self { child, upid: String::new() };
        let pid = bystander.child.id();
        let (pid, started) = match title {
            Title::True => (pid, process::start_time(pid)?),
            Title::MadeUp => (0xABCD, 0xABCD),
        };
        let now = chrono::Utc::now().timestamp();
        let upid = format!("UPID:sim:{pid:08X}:{started:08X}:{now:08X}:vzdump::root@pam:");
        let digit = &format!("{now:X}")[7..];
        node.write(&format!("var/log/pve/tasks/{digit}/{upid}"), log)?;
        bystander.upid = upid;
        bystander.take_title()?;
        Ok(bystander)
    }

    fn take_title(&mut self) -> Result<()> {
        use std::io::Write;
        let title = format!("task {}", self.upid);
        let mut input = self.child.stdin.take().context("a bystander without input")?;
        writeln!(input, "{title}").context("naming a bystander")?;
        let command_line = format!("/proc/{}/cmdline", self.child.id());
        let deadline = Instant::now() + START_LIMIT;
        while !std::fs::read(&command_line)?.starts_with(title.as_bytes()) {
            anyhow::ensure!(Instant::now() < deadline, "a bystander has not taken its title");
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When that cannot be determined.
    pub fn lives(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        // If it has ended by itself, it cannot be killed any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

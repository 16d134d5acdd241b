//! Programs of the node, run to their end within a limit.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// No program that Stillpoint calls says more than this.
const OUTPUT: u64 = 64 * 1024;

/// Runs a program and gives its standard output; past the limit it is killed and that is an error, as is any
/// exit status but 0. Standard input is at end of file, standard error is dropped.
///
/// Name programs by absolute path: vzdump leaves its hooks no PATH.
pub fn run(command: &mut Command, limit: Duration) -> Result<String> {
    run_with_input(command, b"", limit)
}

/// As [`run`], with a few kilobytes on standard input.
pub fn run_with_input(command: &mut Command, input: &[u8], limit: Duration) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("it could not be started")?;
    if let Some(mut stdin) = child.stdin.take() {
        // It fits into the pipe; a program that does not read it has no use for it.
        let _ = stdin.write_all(input);
    }
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().context("its end could not be awaited")? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill().context("it could not be killed")?;
            child.wait().context("its end could not be awaited")?;
            bail!("it did not end within {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(1));
    };
    if !status.success() {
        bail!("it ended with {status}");
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(OUTPUT).read_to_end(&mut output).context("its output could not be read")?;
    }
    Ok(String::from_utf8_lossy(&output).into_owned())
}

/// As [`run`], for a program that may hang in the kernel, where no signal reaches it: past the limit it is killed and
/// left behind, and nothing of the caller's stays open in it.
pub fn run_or_leave(command: &mut Command, limit: Duration) -> Result<String> {
    // SAFETY: between fork and exec only a system call is made, no memory is allocated, no lock is taken.
    unsafe {
        command.pre_exec(|| {
            let flags = nix::libc::CLOSE_RANGE_CLOEXEC as i32;
            match nix::libc::close_range(3, nix::libc::c_uint::MAX, flags) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("it could not be started")?;
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().context("its end could not be awaited")? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill().context("it could not be killed")?;
            bail!("it did not end within {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(1));
    };
    if !status.success() {
        bail!("it ended with {status}");
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(OUTPUT).read_to_end(&mut output).context("its output could not be read")?;
    }
    Ok(String::from_utf8_lossy(&output).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_killed() {
        let error = run(Command::new("/bin/sleep").arg("60"), Duration::from_millis(30));
        assert!(error.unwrap_err().to_string().contains("did not end"));
        let error = run_or_leave(Command::new("/bin/sleep").arg("60"), Duration::from_millis(30));
        assert!(error.unwrap_err().to_string().contains("did not end"));
    }

    #[test]
    fn status_and_output_are_told() {
        let limit = Duration::from_secs(60);
        assert_eq!(run(Command::new("/bin/echo").arg("42"), limit).unwrap(), "42\n");
        assert_eq!(run_or_leave(Command::new("/bin/echo").arg("42"), limit).unwrap(), "42\n");
        assert!(run_or_leave(&mut Command::new("/bin/false"), limit).is_err());
        assert!(run(&mut Command::new("/bin/false"), limit).is_err());
        assert!(run(&mut Command::new("/nowhere/program"), limit).is_err());
    }
}

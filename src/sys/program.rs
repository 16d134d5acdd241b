//! Runs programs of the node, with a time limit.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::text;

/// No program that Stillpoint calls prints more than this, the capacity of a pipe. One that does
/// blocks, and is killed at its limit.
const OUTPUT: u64 = 64 * 1024;

/// A killed program that does not wait in the kernel ends within milliseconds, even on a busy node.
const END: Duration = Duration::from_secs(1);

/// The search path for programs that our programs start. vzdump gives its hooks no PATH.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// What a child keeps of our environment: the directory of a simulated node, and in debug builds
/// the failpoint.
const KEPT: &[&str] = if cfg!(debug_assertions) {
    &["STILLPOINT_ROOT", "STILLPOINT_FAILPOINT"]
} else {
    &["STILLPOINT_ROOT"]
};

/// Runs a program and returns its standard output. It is an error if it is killed at the limit, or
/// if its exit status is not 0; the error has the last line of standard error. Standard input is
/// empty.
///
/// The program gets neither our environment nor our descriptors. Name programs by absolute path.
pub fn run(command: &mut Command, limit: Duration) -> Result<String> {
    run_with_input(command, b"", limit)
}

/// As [`run`], with `input` as standard input.
pub fn run_with_input(command: &mut Command, input: &[u8], limit: Duration) -> Result<String> {
    // Not pipes: nobody reads the first while the program runs, and a program that does not read
    // the second would block us.
    let errors = memfd_create(c"stderr", MFdFlags::MFD_CLOEXEC)
        .context("cannot create a file for its error output")?;
    let mut errors = File::from(errors);
    let stdin = memfd_create(c"stdin", MFdFlags::MFD_CLOEXEC)
        .context("cannot create a file for its input")?;
    let mut stdin = File::from(stdin);
    stdin
        .write_all(input)
        .and_then(|()| stdin.rewind())
        .context("cannot create a file for its input")?;
    let mut child = shielded(command)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(errors.try_clone().context("cannot create a file for its error output")?)
        .spawn()
        .context("it could not be started")?;
    let status = end_of(&mut child, limit)?;
    if !status.success() {
        match last_line(&mut errors) {
            Some(line) => bail!("it ended with {status}: {line}"),
            None => bail!("it ended with {status}"),
        }
    }
    said(&mut child)
}

/// As [`run`], for a program that may hang in the kernel, where no signal reaches it: after the
/// limit it is killed and left behind.
pub fn run_or_leave(command: &mut Command, limit: Duration) -> Result<String> {
    let mut child = shielded(command)
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
    said(&mut child)
}

/// Gives a child a minimal environment and no open descriptor except its standard streams. vzdump
/// leaks some descriptors into its hooks (FACTS-PVE.md, Process and pipes).
pub(super) fn shielded(command: &mut Command) -> &mut Command {
    let set: Vec<(OsString, OsString)> = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_os_string(), value?.to_os_string())))
        .collect();
    let kept = KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C").envs(kept).envs(set);
    // SAFETY: between fork and exec only a system call is made, no memory is allocated, no lock is
    // taken.
    unsafe {
        command.pre_exec(|| {
            let flags = nix::libc::CLOSE_RANGE_CLOEXEC as i32;
            match nix::libc::close_range(3, nix::libc::c_uint::MAX, flags) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        })
    }
}

/// What an ended program has written to its standard output: all of it is in the pipe. A process
/// that it left running may hold the other end open, so we do not read to the end of file.
fn said(child: &mut Child) -> Result<String> {
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        fcntl(&stdout, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .context("its output could not be read")?;
        match stdout.take(OUTPUT).read_to_end(&mut output) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                return Err(error).context("its output could not be read");
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(String::from_utf8_lossy(&output).into_owned())
}

/// The last line that is not empty.
fn last_line(errors: &mut File) -> Option<String> {
    errors.rewind().ok()?;
    let mut bytes = Vec::new();
    errors.take(OUTPUT).read_to_end(&mut bytes).ok()?;
    let said = String::from_utf8_lossy(&bytes);
    let line = said.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    Some(text::printable(line, 300))
}

/// Runs a program for its exit status only. It is an error if it is killed at the limit.
///
/// It has none of our standard streams, so a process that it leaves running does not delay anybody.
pub fn status(command: &mut Command, limit: Duration) -> Result<ExitStatus> {
    let mut child = shielded(command)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("it could not be started")?;
    end_of(&mut child, limit)
}

fn end_of(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().context("its end could not be awaited")? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill().context("it could not be killed")?;
            let end = Instant::now() + END;
            // A program that waits in the kernel is left behind.
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < end {
                thread::sleep(Duration::from_millis(1));
            }
            bail!("it did not end within {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_nothing_of_our_callers() {
        // As vzdump leaves a pipe open in its hooks.
        let leaked = memfd_create(c"leaked", MFdFlags::empty()).unwrap();
        let limit = Duration::from_secs(50);
        let mut printenv = Command::new("/usr/bin/printenv");
        let said = run(printenv.env("LOOK", "yes"), limit).unwrap();
        let mut names: Vec<&str> = said.lines().filter_map(|line| line.split('=').next()).collect();
        names.retain(|name| !KEPT.contains(name));
        names.sort_unstable();
        assert_eq!(names, ["LC_ALL", "LOOK", "PATH"]);
        let calls: [fn(&mut Command, Duration) -> Result<String>; 2] = [run, run_or_leave];
        for call in calls {
            // ls itself has the directory open.
            let open = call(Command::new("/bin/ls").arg("/proc/self/fd"), limit).unwrap();
            assert_eq!(open, "0\n1\n2\n3\n");
        }
        let mut count = Command::new("/bin/sh");
        let count = count.args(["-c", "[ $(ls /proc/self/fd | wc -l) = 4 ]"]);
        assert!(status(count, limit).unwrap().success());
        drop(leaked);
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let error = run(Command::new("/bin/sleep").arg("60"), Duration::from_millis(30));
        assert!(error.unwrap_err().to_string().contains("did not end"));
        let error = run_or_leave(Command::new("/bin/sleep").arg("60"), Duration::from_millis(30));
        assert!(error.unwrap_err().to_string().contains("did not end"));
    }

    #[test]
    fn a_program_that_says_too_much_is_killed_and_holds_up_nobody() {
        let (began, limit) = (Instant::now(), Duration::from_millis(300));
        for run in [run, run_or_leave] {
            let mut endless = Command::new("/bin/sh");
            endless.args(["-c", "while :; do echo 0123456789; done"]);
            assert!(run(&mut endless, limit).unwrap_err().to_string().contains("did not end"));
        }
        assert!(began.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn status_and_output_are_told() {
        let limit = Duration::from_secs(60);
        assert_eq!(run(Command::new("/bin/echo").arg("42"), limit).unwrap(), "42\n");
        assert_eq!(run_or_leave(Command::new("/bin/echo").arg("42"), limit).unwrap(), "42\n");
        assert!(run_or_leave(&mut Command::new("/bin/false"), limit).is_err());
        assert!(run(&mut Command::new("/bin/false"), limit).is_err());
        assert!(run(&mut Command::new("/nowhere/program"), limit).is_err());
        let mut locked = Command::new("/bin/sh");
        locked.args(["-c", "echo CT is locked >&2; echo >&2; exit 255"]);
        let error = run(&mut locked, limit).unwrap_err().to_string();
        assert!(error.ends_with(": CT is locked"), "{error}");
    }

    #[test]
    fn what_a_program_leaves_running_holds_up_nobody() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "sleep 60 & exit 3"]);
        let began = Instant::now();
        assert_eq!(status(&mut command, Duration::from_secs(50)).unwrap().code(), Some(3));
        let (limit, mut leaving) = (Duration::from_secs(50), Command::new("/bin/sh"));
        leaving.args(["-c", "sleep 60 & echo 42"]);
        assert_eq!(run(&mut leaving, limit).unwrap(), "42\n");
        assert_eq!(run_or_leave(&mut leaving, limit).unwrap(), "42\n");
        assert!(began.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn a_program_that_does_not_read_its_input_holds_up_nobody() {
        let input = vec![b'x'; 1 << 20];
        let began = Instant::now();
        let hung =
            run_with_input(Command::new("/bin/sleep").arg("60"), &input, Duration::from_millis(30));
        assert!(hung.unwrap_err().to_string().contains("did not end"));
        assert!(began.elapsed() < Duration::from_secs(50));
        let mut count = Command::new("/bin/sh");
        count.args(["-c", "wc -c"]);
        let read = run_with_input(&mut count, &input, Duration::from_secs(60)).unwrap();
        assert_eq!(read.trim(), "1048576");
    }
}

//! Requests to stop (the Stop button, Ctrl-C), as a flag that long work checks.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static ASKED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: nix::libc::c_int) {
    ASKED.store(true, Ordering::Relaxed);
}

/// From now on SIGTERM, SIGINT and SIGHUP do not end the process; they set the flag of
/// [`asked_to_stop`].
pub fn watch() -> std::io::Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// Whether one of the signals has arrived since [`watch`].
pub fn asked_to_stop() -> bool {
    ASKED.load(Ordering::Relaxed)
}

//! The guest's power switch: starts and stops the engine as the marker files say.

use super::container::Status;
use super::{Inner, What, actions, api, ending, network};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(3);

/// Runs until the simulation ends.
pub fn live(inner: &Arc<Inner>) {
    let mut listener = None;
    while !inner.ended.load(Ordering::SeqCst) {
        let on = inner.is_on();
        let up = inner.lock().up;
        if on && !up {
            listener = boot(inner);
        } else if up && !on {
            listener = None;
            power_cut(inner);
        } else if up && inner.dir.join("shutdown").exists() {
            shut_down(inner);
        }
        ending::pass(inner);
        match &listener {
            Some(listener) => accept(inner, listener),
            None => std::thread::sleep(TICK),
        }
    }
    drop(listener);
    power_cut(inner);
}

/// Starts containers by their restart policies, then opens the socket.
fn boot(inner: &Arc<Inner>) -> Option<UnixListener> {
    let takes = inner.config().boot_takes;
    let first = inner.lock().boots == 0;
    if !first && !actions::pass(inner, takes, |inner| inner.is_on()) {
        return None;
    }
    let listener = match listen(inner) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("the simulated engine cannot open its socket: {error}");
            std::thread::sleep(Duration::from_millis(100));
            return None;
        }
    };
    let mut state = inner.lock();
    for at in 0..state.containers.len() {
        if !first && state.containers[at].returns_at_boot() {
            let Ok(lease) = network::lease(&state, &state.containers[at]) else { continue };
            state.containers[at].began();
            state.containers[at].lease = lease;
            let container = state.containers[at].clone();
            state.record(&container, What::StartedByPolicy);
        }
    }
    state.up = true;
    state.boots += 1;
    inner.changed.notify_all();
    Some(listener)
}

/// Binds through the directory's descriptor: a socket's path may only be 108 bytes long.
fn listen(inner: &Inner) -> io::Result<UnixListener> {
    let path = &inner.socket;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let dir = File::open(path.parent().unwrap_or(path))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn accept(inner: &Arc<Inner>, listener: &UnixListener) {
    let mut wanted = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    match poll(&mut wanted, PollTimeout::from(TICK.as_millis() as u8)) {
        Ok(0) | Err(nix::errno::Errno::EINTR) => return,
        Ok(_) => {}
        Err(error) => eprintln!("the simulated engine cannot wait for clients: {error}"),
    }
    match listener.accept() {
        Ok((stream, _)) => serve(inner, stream),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => eprintln!("the simulated engine cannot accept a client: {error}"),
    }
}

fn serve(inner: &Arc<Inner>, stream: UnixStream) {
    // Connections accepted from a non-blocking listener must not be non-blocking themselves.
    let ready = stream.set_nonblocking(false).and_then(|()| stream.try_clone());
    let copy = match ready {
        Ok(copy) => copy,
        Err(error) => return eprintln!("the simulated engine loses a client: {error}"),
    };
    let number = copy.as_raw_fd();
    inner.lock().streams.push(copy);
    let inner = Arc::clone(inner);
    std::thread::spawn(move || {
        api::serve(&inner, &stream);
        // The clone would keep the connection open.
        let mut state = inner.lock();
        if let Some(at) = state.streams.iter().position(|copy| copy.as_raw_fd() == number) {
            hang_up(&state.streams.swap_remove(at));
        }
    });
}

fn hang_up(stream: &UnixStream) {
    match stream.shutdown(std::net::Shutdown::Both) {
        Err(error) if error.kind() != io::ErrorKind::NotConnected => {
            eprintln!("a simulated engine's client cannot be left: {error}");
        }
        _ => {}
    }
}

/// The state after a power cut, or after the end of the guest's init.
fn power_cut(inner: &Inner) {
    let mut state = inner.lock();
    state.up = false;
    for stream in state.streams.drain(..) {
        hang_up(&stream);
    }
    for at in 0..state.containers.len() {
        if state.containers[at].status.is_alive() {
            state.containers[at].ended(255);
            let container = state.containers[at].clone();
            state.record(&container, What::Stopped(255));
        }
    }
    inner.changed.notify_all();
    drop(state);
    match std::fs::remove_file(&inner.socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            eprintln!("the simulated engine's socket stays: {error}");
        }
        _ => {}
    }
}

/// Ends all containers at once, as a stopping engine does, then takes the guest down.
pub fn shut_down(inner: &Inner) {
    let scale = inner.config().time_scale;
    let mut state = inner.lock();
    let mut longest = Duration::ZERO;
    for container in &mut state.containers {
        if container.status == Status::Paused {
            container.status = Status::Running;
        }
        if container.status.is_alive() {
            container.stopping = true;
            longest = longest.max(actions::stop_time(container, None, scale).0);
        }
    }
    drop(state);
    actions::pass(inner, longest, |inner| inner.is_on());
    let mut state = inner.lock();
    let mut removed = Vec::new();
    for at in 0..state.containers.len() {
        if state.containers[at].status.is_alive() {
            let code = actions::stop_time(&state.containers[at], None, scale).1;
            state.containers[at].ended(code);
            let container = state.containers[at].clone();
            state.record(&container, What::Stopped(code));
            if container.spec.auto_remove {
                removed.push(container.id);
            }
        }
    }
    state.containers.retain(|c| !removed.contains(&c.id));
    drop(state);
    for marker in ["running", "shutdown"] {
        match std::fs::remove_file(inner.dir.join(marker)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                eprintln!("a simulated guest cannot go down: {error}");
            }
            _ => {}
        }
    }
    let deadline = Instant::now() + Duration::from_secs(2);
    while std::thread::current().name() != Some("guest")
        && inner.lock().up
        && Instant::now() < deadline
    {
        std::thread::sleep(TICK);
    }
}

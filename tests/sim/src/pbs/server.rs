//! The listening side: TCP, TLS, one thread for each connection.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::api::{self, Verdict};
use super::fault;
use super::state::State;
use crate::http::{Answer, Request, serve_connection};
use crate::tls::{Identity, Versions};

/// The server inside a `SimPbs`.
pub(super) struct Server {
    pub(super) state: Mutex<State>,
    identity: Mutex<(Identity, Arc<ServerConfig>)>,
    port: AtomicU16,
    hang: AtomicBool,
    up: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
    listener: Mutex<Option<JoinHandle<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    pub(super) fn start(
        state: State,
        identity: &Identity,
        versions: Versions,
        port: u16,
    ) -> Result<Arc<Self>> {
        let config = identity.server_config(versions)?;
        let server = Arc::new(Self {
            state: Mutex::new(state),
            identity: Mutex::new((identity.clone(), config)),
            port: AtomicU16::new(port),
            hang: AtomicBool::new(false),
            up: AtomicBool::new(false),
            connections: Mutex::default(),
            listener: Mutex::default(),
        });
        server.listen()?;
        Ok(server)
    }

    pub(super) fn port(&self) -> u16 {
        self.port.load(Ordering::SeqCst)
    }

    pub(super) fn identity(&self) -> Identity {
        lock(&self.identity).0.clone()
    }

    pub(super) fn set_identity(&self, identity: &Identity, versions: Versions) -> Result<()> {
        let config = identity.server_config(versions)?;
        *lock(&self.identity) = (identity.clone(), config);
        Ok(())
    }

    pub(super) fn hang(&self, hang: bool) {
        self.hang.store(hang, Ordering::SeqCst);
    }

    pub(super) fn listen(self: &Arc<Self>) -> Result<()> {
        if self.up.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let listener = TcpListener::bind(("127.0.0.1", self.port())).context("listen")?;
        let address = listener.local_addr().context("own address")?;
        self.port.store(address.port(), Ordering::SeqCst);
        let server = Arc::clone(self);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if !server.up.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let server = Arc::clone(&server);
                std::thread::spawn(move || server.serve(stream));
            }
        });
        *lock(&self.listener) = Some(thread);
        Ok(())
    }

    pub(super) fn stop(&self) {
        if !self.up.swap(false, Ordering::SeqCst) {
            return;
        }
        // Wakes the thread that waits in accept.
        let woken = TcpStream::connect(("127.0.0.1", self.port()));
        let thread = lock(&self.listener).take();
        if let (Ok(_), Some(thread)) = (woken, thread)
            && thread.join().is_err()
        {
            eprintln!("the simulated backup server's listener panicked");
        }
        self.break_connections();
    }

    pub(super) fn break_connections(&self) {
        for stream in lock(&self.connections).drain(..) {
            // If the client has closed the connection already, it is broken as wanted.
            if stream.shutdown(Shutdown::Both).is_err() {
                continue;
            }
        }
    }

    fn remember(&self, stream: &TcpStream) -> Result<()> {
        let copy = stream.try_clone().context("copy the connection")?;
        let mut connections = lock(&self.connections);
        connections.retain(|open| open.peer_addr().is_ok());
        connections.push(copy);
        Ok(())
    }

    fn serve(&self, stream: TcpStream) {
        // As the real server does; otherwise an answer would wait for the client's delayed
        // acknowledgement.
        if stream.set_nodelay(true).is_err() || self.remember(&stream).is_err() {
            return;
        }
        lock(&self.state).connections += 1;
        while self.hang.load(Ordering::SeqCst) {
            if !self.up.load(Ordering::SeqCst) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let config = Arc::clone(&lock(&self.identity).1);
        let Ok(connection) = ServerConnection::new(config) else {
            return;
        };
        let mut stream = StreamOwned::new(connection, stream);
        // It does not matter if a client disconnects; tests check what the client saw.
        if serve_connection(&mut stream, &|request| self.answer(request)).is_ok() {
            stream.conn.send_close_notify();
            if stream.conn.write_tls(&mut stream.sock).is_err() {
                return;
            }
        }
        if stream.sock.shutdown(Shutdown::Both).is_err() {
            drop(stream);
        }
    }

    fn answer(&self, request: &Request) -> Answer {
        let target = target(request);
        let (found, delay, now) = {
            let mut state = lock(&self.state);
            state.requests.push(target.clone());
            let found = state.take_fault(&target);
            (found, state.unauthorized_delay, state.now_millis())
        };
        let unauthorized = || {
            std::thread::sleep(delay);
            api::unauthorized("authentication failed")
        };
        let answer = fault::apply(found, request, unauthorized, |request| {
            let verdict = api::respond(&mut lock(&self.state), request);
            match verdict {
                Verdict::Answer(answer) => answer,
                Verdict::Unauthorized(answer) => {
                    std::thread::sleep(delay);
                    answer
                }
            }
        });
        let date = chrono::DateTime::from_timestamp_millis(now).unwrap_or_default();
        let date = date.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        answer.with_header("date", &date)
    }
}

fn target(request: &Request) -> String {
    let separator = if request.raw_query.is_empty() { "" } else { "?" };
    let (method, path) = (&request.method, &request.path);
    format!("{method} {path}{separator}{}", request.raw_query)
}

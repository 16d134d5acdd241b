//! A connection to a Unix socket whose other end may send open files along with its bytes.
//!
//! If such bytes are received, the files must be closed, and that may take for ever: a TCP
//! connection with unsent bytes and `SO_LINGER` waits for its own peer when its last descriptor is
//! closed. So it is checked first whether files come with the bytes. If they do, nothing is read,
//! and the connection stays open until the process ends, because that close does not wait.

use std::io::{self, IoSliceMut};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, recvmsg, shutdown};

/// A connected, non-blocking socket.
#[derive(Debug)]
pub(super) struct UnixSocket(ManuallyDrop<OwnedFd>);

/// More than the buffers of a socket hold, in pieces of 4 KiB.
const PIECES: usize = 1024;

impl From<OwnedFd> for UnixSocket {
    fn from(socket: OwnedFd) -> UnixSocket {
        UnixSocket(ManuallyDrop::new(socket))
    }
}

impl AsFd for UnixSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl UnixSocket {
    /// Reads what is there; `WouldBlock` if there is nothing yet.
    ///
    /// # Errors
    /// Also if the next bytes come with open files.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut place = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        // Without room for them: that there are any shows in the flags.
        let seen = recvmsg::<()>(self.0.as_raw_fd(), &mut place, None, flags)?;
        if seen.flags.contains(MsgFlags::MSG_CTRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it sends open files"));
        }
        let seen = seen.bytes;
        // No more than was seen: nothing can come in before that.
        let seen = buffer.get_mut(..seen).unwrap_or_default();
        if seen.is_empty() {
            return Ok(0);
        }
        Ok(recv(self.0.as_raw_fd(), seen, MsgFlags::MSG_DONTWAIT)?)
    }

    /// Whether nothing is left to read that would be dropped with the socket, now that nothing more
    /// can come in.
    fn is_drained(&self) -> bool {
        if shutdown(self.0.as_raw_fd(), Shutdown::Read).is_err() {
            return false;
        }
        let mut piece = [0; 4096];
        for _ in 0..PIECES {
            match self.read(&mut piece) {
                Ok(0) => return true,
                Err(error) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
                // What the other end has reset holds nothing.
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
                Ok(_) => {}
            }
        }
        false
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if self.is_drained() {
            // SAFETY: it is not used any more, and nobody else drops it.
            unsafe { ManuallyDrop::drop(&mut self.0) }
        }
    }
}

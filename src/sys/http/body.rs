use std::fmt;
use std::io::{self, Read};

use ureq::BodyReader;

use super::{Client, Failure, Stage};

/// The body of an answer, read as it arrives. After a failed read, [`Body::failure`] has the
/// reason.
pub struct Body {
    client: Client,
    reader: BodyReader<'static>,
    /// The limit in bytes, and how many of them are left.
    limit: usize,
    left: usize,
    failure: Option<Failure>,
}

impl Body {
    pub(super) fn new(client: Client, reader: BodyReader<'static>, limit: usize) -> Body {
        Body { client, reader, limit, left: limit, failure: None }
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn whole(mut self) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        match self.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(self.failure.take().unwrap_or_else(|| self.client.broken(error))),
        }
    }

    /// Why reading has failed, if it has; returned once.
    pub fn failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // One byte more than allowed shows that the body is too long.
        let room = buffer.len().min(self.left.saturating_add(1));
        let failure = match self.reader.read(buffer.get_mut(..room).unwrap_or_default()) {
            Ok(read) if read <= self.left => {
                self.left -= read;
                return Ok(read);
            }
            Ok(_) => self.client.too_large(self.limit),
            Err(error) => self.client.failure(error.into(), Stage::Body),
        };
        let text = failure.to_string();
        self.failure = Some(failure);
        Err(io::Error::other(text))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("limit", &self.limit).field("left", &self.left).finish()
    }
}

//! A connection's encrypted stream over a non-blocking socket.
//!
//! It looks like a socket to its connection: reads give plain bytes or "would block", writes take plain bytes while the encrypted ones before them are gone, so
//! that what waits here is bounded. The handshake happens inside reads, on the event loop: a slow peer holds up nobody.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};

use crate::name::common_name;

/// A socket and its TLS session.
#[derive(Debug)]
pub struct TlsStream<S> {
    socket: S,
    session: ServerConnection,
}

impl<S: Read + Write> TlsStream<S> {
    /// A stream over a socket that was just accepted. At most `waiting_max` encrypted bytes wait for it.
    ///
    /// # Errors
    /// The library cannot make a session.
    pub fn new(socket: S, config: Arc<ServerConfig>, waiting_max: usize) -> io::Result<Self> {
        let mut session = ServerConnection::new(config).map_err(io::Error::other)?;
        session.set_buffer_limit(Some(waiting_max));
        Ok(Self { socket, session })
    }

    /// The socket.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// The socket, to be registered with the event loop.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    /// Whether the handshake is not over.
    pub fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    /// Whether encrypted bytes wait for the socket.
    pub fn has_pending(&self) -> bool {
        self.session.wants_write()
    }

    /// The common name in the certificate the peer has shown, which was found good.
    pub fn common_name(&self) -> Option<&[u8]> {
        common_name(self.session.peer_certificates()?.first()?)
    }

    /// Says goodbye, as far as the socket takes it.
    pub fn close(&mut self) {
        self.session.send_close_notify();
        let _told = self.send().is_ok();
    }

    /// Sends what is encrypted.
    fn send(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

impl<S: Read + Write> Read for TlsStream<S> {
    /// Plain bytes; 0 at the peer's end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if would_block(&error) => {}
                // The peer closed without saying so within TLS. The family's protocols delimit their requests, so nothing was cut off unseen.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if self.session.read_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
            let outcome = self.session.process_new_packets();
            // Handshake messages, or the alert that tells the peer what was wrong.
            let sent = self.send();
            outcome.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            match sent {
                Err(error) if would_block(&error) => {}
                other => other?,
            }
        }
    }
}

impl<S: Read + Write> Write for TlsStream<S> {
    /// Takes plain bytes, unless encrypted ones wait.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send()?;
        let taken = self.session.writer().write(bytes)?;
        if taken == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match self.send() {
            Err(error) if !would_block(&error) => Err(error),
            _ => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

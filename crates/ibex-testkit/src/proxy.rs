//! A TCP proxy that misbehaves on purpose: between a client and a daemon it delays, hands over one byte at a time, cuts the line after so many bytes, shuts
//! one direction, or swallows everything. One thread per direction of a connection; it knows no protocol.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::Result;

/// Largest piece handed over at once, in bytes.
const PIECE_BYTES_MAX: usize = 16 << 10;

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nothing: bytes pass.
    #[default]
    None,
    /// Every piece waits this long before it goes on.
    Delay(Duration),
    /// Each byte is a write of its own.
    ByteAtATime,
    /// After this many bytes both directions are cut, without a goodbye to anyone.
    CutAfter(usize),
    /// After this many bytes this direction is shut (FIN); the other goes on.
    HalfCloseAfter(usize),
    /// Bytes are read and dropped: a peer that is there and says nothing.
    Swallow,
}

/// Faults of the two directions of every connection opened from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Client to daemon.
    pub up: Fault,
    /// Daemon to client.
    pub down: Fault,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<SocketAddr>,
    faults: Mutex<Faults>,
    is_refusing: AtomicBool,
    is_over: AtomicBool,
    accepted: AtomicUsize,
    streams: Mutex<Vec<TcpStream>>,
}

/// The proxy. Dropping it cuts every connection.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Listens on a free port of the loopback and passes everything to `target`.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            faults: Mutex::default(),
            is_refusing: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
            streams: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("proxy accept".to_owned())
            .spawn(move || accept(&listener, &accepting))?;
        Ok(Self { addr, shared })
    }

    /// Where clients connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes the faults of connections opened from now on.
    pub fn set(&self, faults: Faults) {
        *lock(&self.shared.faults) = faults;
    }

    /// Points new connections to another daemon (one that was started again on another port).
    pub fn retarget(&self, target: SocketAddr) {
        *lock(&self.shared.target) = target;
    }

    /// From now on new connections are closed at once, until told otherwise.
    pub fn refuse(&self, is_refusing: bool) {
        self.shared.is_refusing.store(is_refusing, Ordering::SeqCst);
    }

    /// Cuts every open connection; new ones are served.
    pub fn cut_all(&self) {
        for stream in lock(&self.shared.streams).drain(..) {
            cut(&stream);
        }
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.cut_all();
        // Wakes the accepting thread, which then sees that it is over.
        drop(TcpStream::connect(self.addr));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.is_over.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = stream else { return };
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        if shared.is_refusing.load(Ordering::SeqCst) {
            continue;
        }
        let target = *lock(&shared.target);
        let faults = *lock(&shared.faults);
        // A target that is away looks to the client like a connection closed at once.
        if let Err(error) =
            TcpStream::connect(target).and_then(|daemon| join(client, daemon, faults, shared))
        {
            eprintln!("proxy to {target}: {error}");
        }
    }
}

fn join(
    client: TcpStream,
    daemon: TcpStream,
    faults: Faults,
    shared: &Shared,
) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    daemon.set_nodelay(true)?;
    lock(&shared.streams).extend([client.try_clone()?, daemon.try_clone()?]);
    let (client_in, daemon_out) = (client.try_clone()?, daemon.try_clone()?);
    std::thread::Builder::new()
        .name("proxy up".to_owned())
        .spawn(move || pump(client_in, daemon_out, faults.up))?;
    std::thread::Builder::new()
        .name("proxy down".to_owned())
        .spawn(move || pump(daemon, client, faults.down))?;
    Ok(())
}

fn cut(stream: &TcpStream) {
    match stream.shutdown(Shutdown::Both) {
        // A stream that is already gone is as cut as it can be.
        Ok(()) | Err(_) => {}
    }
}

/// Moves bytes of one direction until it ends or the fault strikes.
fn pump(mut from: TcpStream, mut to: TcpStream, fault: Fault) {
    let mut buffer = vec![0; PIECE_BYTES_MAX];
    let mut passed = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => {
                cut(&to);
                return;
            }
        };
        match hand_over(&mut to, &buffer[..read], fault, passed) {
            Ok(Some(Shut::Both)) => {
                cut(&to);
                cut(&from);
                return;
            }
            Ok(Some(Shut::Here)) => break,
            Ok(None) => passed += read,
            Err(_) => {
                cut(&from);
                return;
            }
        }
    }
    if to.shutdown(Shutdown::Write).is_err() {
        cut(&from);
    }
}

/// How a fault ends a direction.
enum Shut {
    Both,
    Here,
}

fn hand_over(
    to: &mut TcpStream,
    bytes: &[u8],
    fault: Fault,
    passed: usize,
) -> std::io::Result<Option<Shut>> {
    match fault {
        Fault::None => to.write_all(bytes)?,
        Fault::Delay(delay) => {
            std::thread::sleep(delay);
            to.write_all(bytes)?;
        }
        Fault::ByteAtATime => {
            for byte in bytes {
                to.write_all(std::slice::from_ref(byte))?;
            }
        }
        Fault::CutAfter(limit) | Fault::HalfCloseAfter(limit) => {
            let room = limit.saturating_sub(passed).min(bytes.len());
            to.write_all(&bytes[..room])?;
            if passed + bytes.len() >= limit {
                return Ok(Some(if matches!(fault, Fault::CutAfter(_)) {
                    Shut::Both
                } else {
                    Shut::Here
                }));
            }
        }
        Fault::Swallow => {}
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that repeats what it reads until the other side shuts, and then says goodbye.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut reader = stream.try_clone().unwrap();
                    if std::io::copy(&mut reader, &mut stream).is_ok() {
                        drop(stream.write_all(b"bye"));
                    }
                });
            }
        });
        addr
    }

    fn say(proxy: &Proxy, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(proxy.addr()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream.write_all(bytes).unwrap();
        let mut got = Vec::new();
        let mut buffer = [0; 64];
        // Reads the echo first, so that a fault that cuts is not confused with our own goodbye.
        while got.len() < bytes.len() {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return got,
                Ok(read) => got.extend_from_slice(&buffer[..read]),
            }
        }
        stream.shutdown(Shutdown::Write).unwrap();
        drop(stream.read_to_end(&mut got));
        got
    }

    #[test]
    fn passes_all_bytes_also_one_by_one_and_late() {
        let proxy = Proxy::start(echo()).unwrap();
        assert_eq!(say(&proxy, b"hello"), b"hellobye");
        proxy.set(Faults {
            up: Fault::ByteAtATime,
            down: Fault::Delay(Duration::from_millis(1)),
        });
        assert_eq!(say(&proxy, b"hello"), b"hellobye");
        assert_eq!(proxy.accepted(), 2);
    }

    #[test]
    fn cuts_after_the_given_number_of_bytes() {
        let proxy = Proxy::start(echo()).unwrap();
        proxy.set(Faults {
            up: Fault::None,
            down: Fault::CutAfter(3),
        });
        assert_eq!(say(&proxy, b"hello"), b"hel");
    }

    #[test]
    fn half_close_ends_one_direction_only() {
        let proxy = Proxy::start(echo()).unwrap();
        proxy.set(Faults {
            up: Fault::HalfCloseAfter(3),
            down: Fault::None,
        });
        assert_eq!(say(&proxy, b"hello"), b"helbye");
    }

    #[test]
    fn a_refusing_proxy_closes_at_once() {
        let proxy = Proxy::start(echo()).unwrap();
        proxy.refuse(true);
        assert_eq!(say(&proxy, b""), b"");
    }
}

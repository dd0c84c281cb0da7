//! Scripts of bytes against a port, readable as text:
//!
//! ```text
//! # A key that was set is there for another connection.
//! c1 > set a 0 0 1\r\nx\r\n
//! c1 < STORED\r\n
//! c2 > get a\r\n
//! c2 < VALUE a 0 1\r\nx\r\nEND\r\n
//! c2 ~ VERSION *\r\n          a line that may vary where the stars are
//! c1 half                     no more bytes from us; we still read
//! c1 eof                      the daemon has closed and said nothing more
//! c2 close
//! ```
//!
//! A connection opens at its first mention. `>` sends, `<` reads exactly the expected bytes, `~` reads one line and compares it with a pattern. Escapes:
//! `\r \n \t \0 \\ \s` (space) and `\xNN`. Trailing spaces are cut; write `\s` where one matters. What follows two spaces and a `#` is *not* a comment.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use ibex_base::escape::Escaped;

use crate::Result;

/// Longest wait for expected bytes.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// Longest line `~` reads, in bytes.
const LINE_BYTES_MAX: usize = 1 << 20;

/// One step of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Line in the script, from 1.
    pub line: usize,
    /// Name of the connection.
    pub conn: String,
    /// What happens on it.
    pub act: Act,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// `>`: send these bytes.
    Send(Vec<u8>),
    /// `<`: read exactly these bytes.
    Expect(Vec<u8>),
    /// `~`: read up to a line end and match; `*` stands for any bytes.
    Match(Vec<u8>),
    /// `half`: shut our sending side.
    Half,
    /// `eof`: the peer has closed and sent nothing more.
    Eof,
    /// `close`: close the connection.
    Close,
}

/// Reads a script.
///
/// # Errors
/// Names the line that cannot be read.
pub fn parse(script: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for (index, line) in script.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = index + 1;
        steps.push(parse_line(number, line).with_context(|| format!("line {number}: {line}"))?);
    }
    Ok(steps)
}

fn parse_line(line: usize, text: &str) -> Result<Step> {
    let (conn, rest) = text.split_once(' ').context("want `<connection> <act>`")?;
    let (sign, argument) = rest.split_once(' ').unwrap_or((rest, ""));
    let act = match sign {
        ">" => Act::Send(unescape(argument)?),
        "<" => Act::Expect(unescape(argument)?),
        "~" => Act::Match(unescape(argument)?),
        "half" => Act::Half,
        "eof" => Act::Eof,
        "close" => Act::Close,
        other => bail!("unknown act {other:?}; want > < ~ half eof close"),
    };
    Ok(Step {
        line,
        conn: conn.to_owned(),
        act,
    })
}

/// Turns the escapes of a script into bytes.
///
/// # Errors
/// On an unknown or unfinished escape.
pub fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next().context("text ends in a backslash")? {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'0' => 0,
            b's' => b' ',
            b'\\' => b'\\',
            b'x' => {
                let digits = [rest.next(), rest.next()]
                    .map(|digit| digit.and_then(|digit| char::from(digit).to_digit(16)));
                let [Some(high), Some(low)] = digits else {
                    bail!("\\x wants two hexadecimal digits")
                };
                u8::try_from(high * 16 + low).context("two digits are a byte")?
            }
            other => bail!("unknown escape \\{}", char::from(other)),
        });
    }
    Ok(bytes)
}

/// Plays a script against `addr`.
///
/// # Errors
/// On the first step that does not go as written, with its line, what was expected and what came.
pub fn run(script: &str, addr: SocketAddr) -> Result<()> {
    let mut conns: BTreeMap<String, TcpStream> = BTreeMap::new();
    for step in parse(script)? {
        if !conns.contains_key(&step.conn) {
            conns.insert(step.conn.clone(), connect(addr)?);
        }
        let stream = conns
            .get_mut(&step.conn)
            .context("connection was just opened")?;
        play(stream, &step).with_context(|| format!("line {} ({})", step.line, step.conn))?;
        if step.act == Act::Close {
            conns.remove(&step.conn);
        }
    }
    Ok(())
}

/// Plays every `*.wire` file of a folder, in name order, each against the address `fresh` gives for it (a new daemon, or the same one).
///
/// # Errors
/// Names the script and the step that failed; a folder without scripts is an error too.
pub fn run_dir(dir: &Path, mut fresh: impl FnMut(&Path) -> Result<SocketAddr>) -> Result<usize> {
    let mut scripts = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("read folder {}", dir.display()))? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "wire")
        {
            scripts.push(path);
        }
    }
    scripts.sort();
    ensure!(!scripts.is_empty(), "no *.wire script in {}", dir.display());
    for path in &scripts {
        let script = std::fs::read_to_string(path)?;
        let addr = fresh(path)?;
        run(&script, addr).with_context(|| format!("script {}", path.display()))?;
    }
    Ok(scripts.len())
}

fn connect(addr: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(addr).with_context(|| format!("connect {addr}"))?;
    stream.set_read_timeout(Some(READ_DEADLINE))?;
    stream.set_write_timeout(Some(READ_DEADLINE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn play(stream: &mut TcpStream, step: &Step) -> Result<()> {
    match &step.act {
        Act::Send(bytes) => stream.write_all(bytes).context("send"),
        Act::Expect(want) => expect(stream, want),
        Act::Match(pattern) => {
            let line = read_line(stream)?;
            ensure!(
                matches(pattern, &line),
                "want a line like {}\ngot              {}",
                Escaped(pattern),
                Escaped(&line)
            );
            Ok(())
        }
        Act::Half => stream
            .shutdown(Shutdown::Write)
            .context("shut the sending side"),
        Act::Eof => expect_eof(stream),
        Act::Close => Ok(()),
    }
}

fn expect(stream: &mut TcpStream, want: &[u8]) -> Result<()> {
    let mut got = Vec::with_capacity(want.len());
    let mut buffer = vec![0; want.len()];
    while got.len() < want.len() {
        let room = want.len() - got.len();
        let why = match stream.read(&mut buffer[..room]) {
            Ok(0) => "the connection was closed".to_owned(),
            Ok(read) => {
                got.extend_from_slice(&buffer[..read]);
                if want.starts_with(&got) {
                    continue;
                }
                "other bytes came".to_owned()
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => error.to_string(),
        };
        bail!("{why}\nwant {}\ngot  {}", Escaped(want), Escaped(&got));
    }
    Ok(())
}

fn read_line(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") {
        ensure!(
            line.len() < LINE_BYTES_MAX,
            "line is longer than {LINE_BYTES_MAX} bytes"
        );
        match stream
            .read(&mut byte)
            .with_context(|| format!("read a line, so far {}", Escaped(&line)))?
        {
            0 => bail!("the connection was closed after {}", Escaped(&line)),
            _ => line.push(byte[0]),
        }
    }
    Ok(line)
}

fn expect_eof(stream: &mut TcpStream) -> Result<()> {
    let mut rest = [0; 256];
    match stream.read(&mut rest) {
        Ok(0) => Ok(()),
        Ok(read) => {
            let mut shown = String::new();
            write!(shown, "{}", Escaped(&rest[..read]))?;
            bail!("want the end of the connection, got {shown}")
        }
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error).context("want the end of the connection"),
    }
}

/// Whether `text` is `pattern`, where `*` stands for any bytes.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let mut pieces = pattern.split(|byte| *byte == b'*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut pieces: Vec<&[u8]> = pieces.collect();
    let Some(last) = pieces.pop() else {
        return rest.is_empty();
    };
    for piece in pieces {
        let Some(at) = find(rest, piece) else {
            return false;
        };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

fn find(text: &[u8], piece: &[u8]) -> Option<usize> {
    if piece.is_empty() {
        return Some(0);
    }
    text.windows(piece.len()).position(|window| window == piece)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, want) in [
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "acd", false),
            ("*", "", true),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("VERSION *\r\n", "VERSION 1.6\r\n", true),
            ("a*b*a", "aba", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                want,
                "{pattern} against {text}"
            );
        }
    }

    #[test]
    fn escapes_are_bytes() {
        assert_eq!(unescape(r"a\r\n\x00\xff\s\\").unwrap(), b"a\r\n\x00\xff \\");
        assert!(unescape(r"\q").is_err());
        assert!(unescape(r"\x1").is_err());
    }

    #[test]
    fn an_unknown_act_names_its_line() {
        let error = format!("{:#}", parse("# ok\nc1 > a\nc1 ? b\n").unwrap_err());
        assert!(error.contains("line 3"), "{error}");
    }

    /// A server that repeats what it reads until the other side shuts.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = stream.try_clone().unwrap();
                std::thread::spawn(move || std::io::copy(&mut reader, &mut stream).unwrap());
            }
        });
        addr
    }

    #[test]
    fn plays_two_connections_against_an_echo() {
        run(
            "c1 > one\\r\\n\nc2 > two\\n\nc2 ~ t*\\n\nc1 < one\\r\\n\nc1 half\nc1 eof\nc2 close\n",
            echo(),
        )
        .unwrap();
    }

    #[test]
    fn other_bytes_fail_with_both_texts() {
        let error = format!("{:#}", run("c > abc\nc < abd\n", echo()).unwrap_err());
        assert!(
            error.contains("want abd") && error.contains("got  abc"),
            "{error}"
        );
    }
}

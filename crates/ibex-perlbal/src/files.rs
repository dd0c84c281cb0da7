//! Files to clients: whole, in part, or not at all because nothing changed.
//!
//! Owns conditional requests, ranges and the sending of file bodies. Apart from the web server because X-REPROXY-FILE serves
//! files the same way. It opens files but decides no paths.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use ibex_perlbal_proto::forward::{ClientBody, response_head};
use ibex_perlbal_proto::head::Fields;
use ibex_perlbal_proto::range::{Part, Ranged, Validators, is_not_modified, range_applies, select};
use ibex_perlbal_proto::{date, reply};

use crate::backend::send_file;
use crate::client::{Client, Cut, Turn};
use crate::registry::State;

/// Files up to this size are read and written with the head by one system call instead of being sent by a second.
const SMALL_BYTES: u64 = 16 * 1024;

/// An open regular file.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) size: u64,
    pub(crate) modified: u64,
}

/// What a path leads to.
#[derive(Debug)]
pub(crate) enum Found {
    File(Opened),
    Directory,
    /// A device, a socket, something that is not to be served.
    Special,
}

/// Opens a path. With `beneath`, nothing outside of that directory is reached, not even through symbolic links.
pub(crate) fn open(path: &Path, beneath: Option<&Path>) -> io::Result<Found> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
    // Opening a FIFO for reading would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = match beneath {
        None => rustix::fs::open(path, flags, Mode::empty())?,
        Some(root) => {
            let root_fd = rustix::fs::openat(
                CWD,
                root,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let inside = path
                .strip_prefix(root)
                .map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
            let inside = if inside.as_os_str().is_empty() {
                Path::new(".")
            } else {
                inside
            };
            rustix::fs::openat2(
                root_fd,
                inside,
                flags,
                Mode::empty(),
                ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
            )?
        }
    };
    let file = File::from(fd);
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Ok(Found::Directory);
    }
    if !meta.is_file() {
        return Ok(Found::Special);
    }
    let modified = meta
        .modified()
        .ok()
        .and_then(|t| t.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |d| d.as_secs());
    Ok(Found::File(Opened {
        size: meta.len(),
        modified,
        file,
    }))
}

/// A file response before ranges are looked at.
#[derive(Debug)]
pub(crate) struct FileReply {
    pub(crate) opened: Opened,
    pub(crate) status: u16,
    pub(crate) reason: Vec<u8>,
    /// All fields but those about length and range.
    pub(crate) fields: Fields,
    pub(crate) content_type: String,
    pub(crate) max_ranges: usize,
}

/// Validators as the client sees them: the application's own, if it sent some, else the file's.
fn validators(reply: &FileReply) -> Validators {
    let mut validators = Validators::of_file(reply.opened.modified, reply.opened.size);
    if let Some(etag) = reply.fields.first("ETag") {
        validators.etag = String::from_utf8_lossy(etag).into_owned();
    }
    if let Some(modified) = reply
        .fields
        .first("Last-Modified")
        .and_then(|v| date::parse(v))
    {
        validators.modified = modified;
    }
    validators
}

/// Adds the validators of the file where the fields have none.
pub(crate) fn add_validators(fields: &mut Fields, opened: &Opened) {
    if !fields.has("Last-Modified") {
        fields.push(&b"Last-Modified"[..], date::format(opened.modified));
    }
    if !fields.has("ETag") {
        fields.push(
            &b"ETag"[..],
            Validators::of_file(opened.modified, opened.size).etag,
        );
    }
}

/// Sends a file to the client.
pub(crate) async fn serve(
    client: &mut Client,
    turn: &mut Turn,
    mut reply: FileReply,
) -> Result<(), Cut> {
    let validators = validators(&reply);
    let may_vary = turn.request.is_read() && reply.status == 200;
    if may_vary && is_not_modified(&turn.request.fields, &validators) {
        return send_head_only(client, turn, 304, &reply.fields, None).await;
    }
    let size = reply.opened.size;
    let range = turn
        .request
        .fields
        .first("Range")
        .cloned()
        .filter(|_| may_vary && range_applies(&turn.request.fields, &validators));
    let ranged = range.map_or(Ranged::Whole, |r| select(&r, size, reply.max_ranges));
    reply.fields.set("Accept-Ranges", &b"bytes"[..]);
    match ranged {
        Ranged::Whole => {
            reply.fields.set("Content-Type", reply.content_type.clone());
            let (status, reason) = (reply.status, std::mem::take(&mut reply.reason));
            send_parts(
                client,
                turn,
                &reply,
                (status, reason),
                vec![Piece::whole(size)],
            )
            .await
        }
        Ranged::Part(part) => {
            reply.fields.set("Content-Type", reply.content_type.clone());
            reply.fields.set("Content-Range", part.content_range(size));
            send_parts(
                client,
                turn,
                &reply,
                (206, reply::reason(206).into()),
                vec![Piece::part(part)],
            )
            .await
        }
        Ranged::Parts(parts) => {
            let boundary = client.balancer.request_id();
            reply.fields.set(
                "Content-Type",
                format!("multipart/byteranges; boundary={boundary}"),
            );
            let pieces = multipart(&parts, size, &boundary, &reply.content_type);
            send_parts(
                client,
                turn,
                &reply,
                (206, reply::reason(206).into()),
                pieces,
            )
            .await
        }
        Ranged::Unsatisfiable => {
            let mut fields = Client::own_fields(turn);
            fields.push(&b"Content-Range"[..], format!("bytes */{size}"));
            send_head_only(client, turn, 416, &fields, Some(0)).await
        }
    }
}

/// A stretch of a body: some text of ours, then some of the file.
struct Piece {
    text: String,
    offset: u64,
    count: u64,
}

impl Piece {
    fn whole(size: u64) -> Self {
        Self {
            text: String::new(),
            offset: 0,
            count: size,
        }
    }

    fn part(part: Part) -> Self {
        Self {
            text: String::new(),
            offset: part.first,
            count: part.length(),
        }
    }
}

fn multipart(parts: &[Part], size: u64, boundary: &str, content_type: &str) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::with_capacity(parts.len() + 1);
    for (index, part) in parts.iter().enumerate() {
        let line_end = if index == 0 { "" } else { "\r\n" };
        let text = format!(
            "{line_end}--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: {}\r\n\r\n",
            part.content_range(size)
        );
        pieces.push(Piece {
            text,
            ..Piece::part(*part)
        });
    }
    pieces.push(Piece {
        text: format!("\r\n--{boundary}--\r\n"),
        offset: 0,
        count: 0,
    });
    pieces
}

async fn send_head_only(
    client: &mut Client,
    turn: &mut Turn,
    status: u16,
    fields: &Fields,
    length: Option<u64>,
) -> Result<(), Cut> {
    turn.status = status;
    let policy = client.policy(turn, length.map_or(ClientBody::None, ClientBody::Length));
    let head = response_head(
        status,
        reply::reason(status).as_bytes(),
        fields,
        None,
        &policy,
    );
    client.wire.socket.write_all(&head, turn.entry.idle).await?;
    Ok(())
}

async fn send_parts(
    client: &mut Client,
    turn: &mut Turn,
    reply: &FileReply,
    (status, reason): (u16, Vec<u8>),
    pieces: Vec<Piece>,
) -> Result<(), Cut> {
    let total: u64 = pieces.iter().map(|p| p.text.len() as u64 + p.count).sum();
    turn.status = status;
    let length = Bytes::from(total.to_string());
    let (body, described) = if turn.request.is_head() {
        (ClientBody::None, Some(&length))
    } else {
        (ClientBody::Length(total), None)
    };
    let policy = client.policy(turn, body);
    let head = response_head(status, &reason, &reply.fields, described, &policy);
    client.info.set_state(State::XferDisk);
    let patience = turn.entry.idle;
    if turn.request.is_head() {
        client.wire.socket.write_all(&head, patience).await?;
        return Ok(());
    }
    let mut pending = head.to_vec();
    for piece in pieces {
        pending.extend_from_slice(piece.text.as_bytes());
        if piece.count > SMALL_BYTES {
            client.wire.socket.write_all(&pending, patience).await?;
            pending.clear();
            send_file(
                &client.wire.socket,
                &reply.opened.file,
                piece.offset,
                piece.count,
                patience,
            )
            .await?;
        } else {
            let start = pending.len();
            pending.resize(start + usize::try_from(piece.count).unwrap_or(0), 0);
            // A file that became shorter under us cannot be completed: the connection is cut.
            reply
                .opened
                .file
                .read_exact_at(pending.get_mut(start..).unwrap_or_default(), piece.offset)?;
        }
    }
    client.wire.socket.write_all(&pending, patience).await?;
    client
        .balancer
        .metrics
        .sent(usize::try_from(total).unwrap_or(usize::MAX));
    Ok(())
}

//! PUT and DELETE of the web server role.
//!
//! Owns writing uploads below the document root (spec part A9). Apart from `web` because nothing here reads. Directories
//! are made 0755 and files 0644 as in the original.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use ibex_perlbal_proto::framing::RequestBody;
use ibex_perlbal_proto::path::upload_path;
use md5::{Digest as _, Md5};
use tokio::io::AsyncWriteExt as _;

use crate::client::{BodyError, Client, Cut, Reply, Turn};
use crate::model::Settings;
use crate::route::Done;

/// What is wrong with an upload: status and text.
type Refused = (u16, String);

/// PUT.
pub(crate) async fn put(
    client: &mut Client,
    turn: &mut Turn,
    settings: &Settings,
) -> Result<Done, Cut> {
    let path = match check(turn, settings).await {
        Ok(path) => path,
        Err((status, text)) => return answer(client, turn, Reply::small(status, &text)).await,
    };
    let expected = turn
        .request
        .fields
        .first("Content-MD5")
        .filter(|_| settings.web.md5)
        .map(|v| String::from_utf8_lossy(v).trim_end_matches('=').to_owned());
    let is_indirect = expected.is_some() || settings.web.put_atomic;
    let written = if is_indirect {
        temporary_name(&path, client.info.id)
    } else {
        path.clone()
    };
    let outcome = write(client, turn, settings, &written).await;
    let digest = match outcome {
        Ok(digest) => digest,
        Err(error) => {
            if is_indirect {
                discard(&written).await;
            }
            return match error {
                WriteError::Body(error) => {
                    client.reply_body_error(turn, error).await?;
                    Ok(Done::Answered)
                }
                WriteError::TooLarge => answer_and_close(client, turn, Reply::small(413, "")).await,
                WriteError::Io(error) => {
                    tracing::error!(path = %written.display(), %error, "upload could not be written");
                    answer_and_close(client, turn, Reply::small(500, "")).await
                }
            };
        }
    };
    let actual = base64::engine::general_purpose::STANDARD_NO_PAD.encode(digest);
    if let Some(expected) = expected.as_ref().filter(|e| **e != actual) {
        discard(&written).await;
        return answer(
            client,
            turn,
            Reply::small(
                400,
                &format!("Content-MD5 mismatch, expected: {expected} actual: {actual}"),
            ),
        )
        .await;
    }
    if is_indirect && tokio::fs::rename(&written, &path).await.is_err() {
        discard(&written).await;
        return answer(client, turn, Reply::small(500, "")).await;
    }
    answer(
        client,
        turn,
        Reply::small(if expected.is_some() { 201 } else { 200 }, ""),
    )
    .await
}

async fn answer(client: &mut Client, turn: &mut Turn, reply: Reply) -> Result<Done, Cut> {
    client.reply(turn, reply).await?;
    Ok(Done::Answered)
}

async fn answer_and_close(client: &mut Client, turn: &mut Turn, reply: Reply) -> Result<Done, Cut> {
    turn.keep = false;
    answer(client, turn, reply).await
}

/// Checks everything that can be checked before the body, and makes missing directories.
async fn check(turn: &Turn, settings: &Settings) -> Result<PathBuf, Refused> {
    let docroot = settings
        .web
        .docroot
        .as_deref()
        .ok_or_else(|| (500, "Docroot unconfigured".to_owned()))?;
    let uri =
        upload_path(turn.request.path()).ok_or_else(|| (400, "Invalid filename".to_owned()))?;
    let limit = settings.web.put_max;
    match turn.body {
        RequestBody::Length(n) if limit > 0 && n > limit => {
            return Err((400, format!("Content-length of {n} is invalid.")));
        }
        RequestBody::None if !turn.request.fields.has("Content-Length") => {
            return Err((400, "Content-length of  is invalid.".to_owned()));
        }
        RequestBody::Length(_) | RequestBody::None | RequestBody::Chunked => {}
    }
    let directories: Vec<&str> = uri.split('/').skip(1).collect();
    let directories = directories
        .get(..directories.len().saturating_sub(1))
        .unwrap_or_default();
    let required = settings.web.put_directories;
    let Some(base) = directories.get(..required) else {
        return Err((
            400,
            "Does not meet minimum directory requirement".to_owned(),
        ));
    };
    if required > 0 && !docroot.join(base.join("/")).is_dir() {
        return Err((404, "Base directory does not exist".to_owned()));
    }
    let path = docroot.join(uri.trim_start_matches('/'));
    if let Some(parent) = path.parent().filter(|_| !directories.is_empty()) {
        tokio::fs::create_dir_all(parent)
            .await
            .map_err(|_| (500, String::new()))?;
    }
    Ok(path)
}

fn temporary_name(path: &Path, id: u64) -> PathBuf {
    let name = path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    path.with_file_name(format!(".{name}.{}.{id}.tmp", std::process::id()))
}

async fn discard(path: &Path) {
    if let Err(error) = tokio::fs::remove_file(path).await {
        tracing::debug!(path = %path.display(), %error, "temporary file not removed");
    }
}

enum WriteError {
    Body(BodyError),
    TooLarge,
    Io(std::io::Error),
}

/// Writes the body as it arrives; says its MD5.
async fn write(
    client: &mut Client,
    turn: &mut Turn,
    settings: &Settings,
    path: &Path,
) -> Result<Vec<u8>, WriteError> {
    let mut file = tokio::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)
        .await
        .map_err(WriteError::Io)?;
    let mut digest = Md5::new();
    let limit = settings.web.put_max;
    while let Some(piece) = client.next_body(turn).await.map_err(WriteError::Body)? {
        if limit > 0 && turn.body_received > limit {
            return Err(WriteError::TooLarge);
        }
        digest.update(&piece);
        file.write_all(&piece).await.map_err(WriteError::Io)?;
    }
    file.flush().await.map_err(WriteError::Io)?;
    if settings.web.put_atomic {
        file.sync_all().await.map_err(WriteError::Io)?;
    }
    Ok(digest.finalize().to_vec())
}

/// DELETE.
pub(crate) async fn delete(
    client: &mut Client,
    turn: &mut Turn,
    settings: &Settings,
) -> Result<Done, Cut> {
    let Some(docroot) = settings.web.docroot.as_deref() else {
        return answer(client, turn, Reply::small(500, "Docroot unconfigured")).await;
    };
    let Some(uri) = upload_path(turn.request.path()) else {
        return answer(client, turn, Reply::small(400, "Invalid filename")).await;
    };
    let reply = match tokio::fs::remove_file(docroot.join(uri.trim_start_matches('/'))).await {
        Ok(()) => Reply {
            status: 204,
            ..Reply::default()
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Reply::small(404, ""),
        Err(error) => Reply::small(400, &error.to_string()),
    };
    answer(client, turn, reply).await
}

//! The web server role: files below a document root.
//!
//! Owns GET and HEAD for files, directories and concatenations (spec part A9). PUT and DELETE are in `put`. Apart from
//! `files`, which sends what is found here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ibex_perlbal_proto::path::{BadPath, Concatenation, concatenation, file_path, percent_encode};
use ibex_perlbal_proto::reply::escape_html;
use ibex_perlbal_proto::{date, mime, range};

use crate::client::{Client, Cut, Reply, Turn};
use crate::files::{self, FileReply, Found, Opened};
use crate::model::Settings;
use crate::put;
use crate::registry::State;
use crate::route::Done;
use crate::service::{Service, count};

/// Names in one directory listing; a page with more is of no use to anybody.
const LISTING_MAX: usize = 10_000;

/// Serves one request.
pub(crate) async fn serve(
    client: &mut Client,
    turn: &mut Turn,
    service: &Arc<Service>,
    settings: &Arc<Settings>,
) -> Result<Done, Cut> {
    count(&service.counters.web_requests);
    let method = turn.request.method.clone();
    match &method[..] {
        b"GET" | b"HEAD" => get(client, turn, service, settings).await,
        b"PUT" if settings.web.put => put::put(client, turn, settings).await,
        b"DELETE" if settings.web.delete => put::delete(client, turn, settings).await,
        b"PUT" | b"DELETE" => answer(client, turn, Reply::small(403, "")).await,
        // DIFFERS(perlbal): 405 with strict_status; the original answers 400 to every other method.
        _ if settings.web.strict_status => {
            answer(
                client,
                turn,
                Reply::small(405, "").with("Allow", "GET, HEAD, PUT, DELETE"),
            )
            .await
        }
        _ => answer(client, turn, Reply::small(400, "")).await,
    }
}

async fn answer(client: &mut Client, turn: &mut Turn, reply: Reply) -> Result<Done, Cut> {
    client.reply(turn, reply).await?;
    Ok(Done::Answered)
}

async fn get(
    client: &mut Client,
    turn: &mut Turn,
    service: &Arc<Service>,
    settings: &Arc<Settings>,
) -> Result<Done, Cut> {
    client.info.set_state(State::WaitOpen);
    let Some(docroot) = settings.web.docroot.clone() else {
        return answer(client, turn, Reply::small(500, "Docroot unconfigured")).await;
    };
    if let Some(parsed) = concatenation(&turn.request.target) {
        return concatenated(client, turn, settings, &docroot, parsed).await;
    }
    let path = match file_path(turn.request.path()) {
        Ok(path) => path,
        Err(BadPath::Nul) => return answer(client, turn, Reply::small(400, "")).await,
        Err(BadPath::Bogus) => return answer(client, turn, Reply::small(403, "Bogus URL")).await,
    };
    let full = below(&docroot, &path);
    let root = settings.web.links_inside_only.then_some(docroot.as_path());
    match files::open(&full, root) {
        Ok(Found::File(opened)) if path.last() != Some(&b'/') => {
            if let Some(name) = newer_elsewhere(turn, settings, &opened) {
                return Ok(Done::HandOver(name));
            }
            count(&service.counters.files_sent);
            send(client, turn, settings, &full, opened).await
        }
        Ok(Found::Directory) => directory(client, turn, settings, &full, &path).await,
        Ok(Found::Special) => answer(client, turn, Reply::small(403, "")).await,
        Ok(Found::File(_)) | Err(_) => match &settings.web.fallback {
            Some(name) if *name != service.name => Ok(Done::HandOver(name.clone())),
            Some(_) | None => answer(client, turn, Reply::small(404, "")).await,
        },
    }
}

/// LazyCDN: `v=N` in the query newer than the file sends the request to the fallback service.
fn newer_elsewhere(turn: &Turn, settings: &Settings, opened: &Opened) -> Option<String> {
    let fallback = settings.web.fallback.clone()?;
    let query = turn.request.target.splitn(2, |b| *b == b'?').nth(1)?;
    let version = query
        .split(|b| *b == b'&')
        .find_map(|p| p.strip_prefix(b"v="))?;
    (ibex_base::ascii::parse_u64(version)? > opened.modified).then_some(fallback)
}

fn below(docroot: &Path, path: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    let relative = path.strip_prefix(b"/").unwrap_or(path);
    // Joining an absolute path would replace the root.
    let relative = relative
        .iter()
        .position(|b| *b != b'/')
        .map_or(&[][..], |at| &relative[at..]);
    docroot.join(std::ffi::OsStr::from_bytes(relative))
}

/// Content type of a file of this service.
fn content_type(client: &Client, settings: &Settings, path: &Path) -> String {
    let state = client.balancer.state.load();
    let found = state.model.mime.of(path.as_os_str().as_encoded_bytes());
    match &settings.web.charset {
        Some(charset) if found.starts_with("text/") => format!("{found}; charset={charset}"),
        Some(_) | None => found.to_owned(),
    }
}

async fn send(
    client: &mut Client,
    turn: &mut Turn,
    settings: &Settings,
    path: &Path,
    opened: Opened,
) -> Result<Done, Cut> {
    let mut fields = Client::own_fields(turn);
    files::add_validators(&mut fields, &opened);
    let content_type = content_type(client, settings, path);
    let reply = FileReply {
        opened,
        status: 200,
        reason: b"OK".to_vec(),
        fields,
        content_type,
        max_ranges: settings.max_ranges,
    };
    files::serve(client, turn, reply).await?;
    Ok(Done::Answered)
}

async fn directory(
    client: &mut Client,
    turn: &mut Turn,
    settings: &Settings,
    full: &Path,
    path: &[u8],
) -> Result<Done, Cut> {
    let root = settings
        .web
        .links_inside_only
        .then_some(settings.web.docroot.as_deref())
        .flatten();
    for name in &settings.web.index_files {
        let index = full.join(name);
        if let Ok(Found::File(opened)) = files::open(&index, root) {
            return send(client, turn, settings, &index, opened).await;
        }
    }
    if !settings.web.dirindexing {
        // COMPAT(perlbal): the status is 200 (ClientHTTPBase.pm, try_index_files).
        return answer(
            client,
            turn,
            Reply::small(200, "Directory listing disabled"),
        )
        .await;
    }
    let directory = full.to_path_buf();
    let listed = tokio::task::spawn_blocking(move || list_directory(&directory)).await;
    match listed {
        Ok(Ok(names)) => {
            answer(
                client,
                turn,
                Reply {
                    status: 200,
                    body: listing(path, &names).into(),
                    content_type: Some("text/html".into()),
                    ..Reply::default()
                },
            )
            .await
        }
        Ok(Err(_)) | Err(_) => answer(client, turn, Reply::small(403, "")).await,
    }
}

/// Names in a directory, sorted; directories end in `/`. Hidden files stay hidden.
fn list_directory(path: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)?.take(LISTING_MAX) {
        let entry = entry?;
        let mut name = entry.file_name().as_encoded_bytes().to_vec();
        if name.first() == Some(&b'.') {
            continue;
        }
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            name.push(b'/');
        }
        names.push(name);
    }
    names.sort();
    Ok(names)
}

// DIFFERS(perlbal): names are escaped, for HTML and for URLs.
fn listing(path: &[u8], names: &[Vec<u8>]) -> String {
    let base = if path.last() == Some(&b'/') {
        percent_encode(path)
    } else {
        format!("{}/", percent_encode(path))
    };
    let mut out = String::from("<html><head><meta charset=\"utf-8\"></head><body>\n");
    if path != b"/" {
        out.push_str(&format!("<a href='{base}../'>../</a><br />\n"));
    }
    for name in names {
        let link = percent_encode(name);
        let shown = escape_html(&String::from_utf8_lossy(name));
        let shown = if name.last() == Some(&b'/') {
            format!("<b>{shown}</b>")
        } else {
            shown
        };
        out.push_str(&format!("<a href='{base}{link}'>{shown}</a><br />\n"));
    }
    out.push_str("</body></html>\n");
    out
}

async fn concatenated(
    client: &mut Client,
    turn: &mut Turn,
    settings: &Settings,
    docroot: &Path,
    parsed: Result<Concatenation, (u16, &'static str)>,
) -> Result<Done, Cut> {
    if !settings.web.concatenate {
        return answer(
            client,
            turn,
            Reply::small(403, "Multiple file serving isn't enabled"),
        )
        .await;
    }
    let files = match parsed {
        Ok(files) => files,
        Err((status, text)) => return answer(client, turn, Reply::small(status, text)).await,
    };
    let root = settings.web.links_inside_only.then_some(docroot);
    if !matches!(
        files::open(&below(docroot, &files.base), root),
        Ok(Found::Directory)
    ) {
        return answer(
            client,
            turn,
            Reply::small(404, "Base directory not a directory"),
        )
        .await;
    }
    let mut opened: Vec<Opened> = Vec::with_capacity(files.names.len());
    let mut content_type = None;
    for name in &files.names {
        let path = below(docroot, &[&files.base[..], name].concat());
        match files::open(&path, root) {
            Ok(Found::File(file)) => opened.push(file),
            _ => {
                return answer(
                    client,
                    turn,
                    Reply::small(404, "One or more file does not exist"),
                )
                .await;
            }
        }
        let state = client.balancer.state.load();
        content_type = content_type.or_else(|| state.model.mime.known(name).map(str::to_owned));
    }
    let newest = opened.iter().map(|o| o.modified).max().unwrap_or(0);
    let validators = range::Validators {
        etag: String::new(),
        modified: newest,
        size: 0,
    };
    let modified = date::format(newest);
    if !turn.request.fields.has("If-None-Match")
        && range::is_not_modified(&turn.request.fields, &validators)
    {
        return answer(
            client,
            turn,
            Reply {
                status: 304,
                ..Reply::default()
            }
            .with("Last-Modified", modified),
        )
        .await;
    }
    let body = tokio::task::spawn_blocking(move || read_all(&opened)).await;
    let Ok(Ok(body)) = body else {
        return answer(
            client,
            turn,
            Reply::small(404, "One or more file does not exist"),
        )
        .await;
    };
    let content_type = content_type.unwrap_or_else(|| mime::DEFAULT_TYPE.to_owned());
    answer(
        client,
        turn,
        Reply {
            status: 200,
            body,
            content_type: Some(content_type),
            ..Reply::default()
        }
        .with("Last-Modified", modified),
    )
    .await
}

/// Bytes one concatenation may have: scripts and styles, not films.
const CONCATENATED_BYTES_MAX: u64 = 64 * 1024 * 1024;

fn read_all(files: &[Opened]) -> std::io::Result<Bytes> {
    use std::io::Read as _;
    if files.iter().map(|f| f.size).sum::<u64>() > CONCATENATED_BYTES_MAX {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    let mut out = Vec::new();
    for opened in files {
        (&opened.file)
            .take(CONCATENATED_BYTES_MAX)
            .read_to_end(&mut out)?;
    }
    Ok(BytesMut::from(&out[..]).freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let root = Path::new("/srv/www");
        assert_eq!(below(root, b"/a/b"), Path::new("/srv/www/a/b"));
        assert_eq!(
            below(root, b"//etc/passwd"),
            Path::new("/srv/www/etc/passwd")
        );
        assert_eq!(below(root, b"/"), Path::new("/srv/www/"));
    }

    #[test]
    fn listings_are_escaped() {
        let page = listing(b"/a b", &[b"<x>'.txt".to_vec(), b"dir/".to_vec()]);
        assert!(
            page.contains("<a href='/a%20b/%3Cx%3E%27.txt'>&lt;x&gt;&#39;.txt</a>"),
            "{page}"
        );
        assert!(
            page.contains("<a href='/a%20b/dir/'><b>dir/</b></a>"),
            "{page}"
        );
    }
}

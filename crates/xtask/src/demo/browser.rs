//! A browser without a screen: keeps cookies, follows redirects, reads forms from pages and sends them filled in. It knows no JavaScript, like the site.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use ibex_testkit::http::{Request, Response};

/// Redirects followed for one click.
const REDIRECTS_MAX: usize = 8;
/// Separates the parts of an upload; never occurs in what the demo uploads.
const BOUNDARY: &str = "----ibex-demo-9f1c27d0b6e84a35";

/// One visitor.
#[derive(Debug, Clone)]
pub(crate) struct Browser {
    addr: SocketAddr,
    cookies: BTreeMap<String, String>,
}

/// A page that was shown.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    /// Path and query it was at last fetched from.
    pub(crate) path: String,
    pub(crate) response: Response,
}

/// A form of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Form {
    action: String,
    is_post: bool,
    is_multipart: bool,
    fields: Vec<(String, String)>,
    files: Vec<(String, File)>,
    /// Values a radio button or a selection offers, by field.
    choices: Vec<(String, String)>,
}

/// A file chosen in a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) content_type: &'static str,
    pub(crate) bytes: Vec<u8>,
}

impl Browser {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            cookies: BTreeMap::new(),
        }
    }

    /// Opens an address and requires a page (status 200).
    pub(crate) fn open(&mut self, path: &str) -> Result<Page> {
        let page = self.get(path)?;
        ensure!(
            page.response.status == 200,
            "GET {path}: {} {}",
            page.response.status,
            cut(&page.text())
        );
        Ok(page)
    }

    /// Opens an address, whatever the answer.
    pub(crate) fn get(&mut self, path: &str) -> Result<Page> {
        self.send(Request::get(path), path)
    }

    fn send(&mut self, request: Request, path: &str) -> Result<Page> {
        let (mut request, mut path) = (request, path.to_owned());
        for _ in 0..REDIRECTS_MAX {
            let response = self
                .dress(request)
                .send(self.addr)
                .with_context(|| format!("ask for {path}"))?;
            self.keep_cookies(&response);
            if !matches!(response.status, 301 | 302 | 303 | 307 | 308) {
                return Ok(Page { path, response });
            }
            path = local(
                response
                    .header("location")
                    .context("a redirect without an address")?,
            );
            request = Request::get(&path);
        }
        bail!("{path}: more than {REDIRECTS_MAX} redirects")
    }

    fn dress(&self, request: Request) -> Request {
        let origin = format!("http://{}", self.addr);
        let mut request = request
            .header("user-agent", "ibex-demo")
            .header("accept", "text/html,*/*")
            .header("sec-fetch-site", "same-origin");
        request = request.header("origin", &origin);
        if !self.cookies.is_empty() {
            let cookies: Vec<String> = self
                .cookies
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            request = request.header("cookie", &cookies.join("; "));
        }
        request
    }

    fn keep_cookies(&mut self, response: &Response) {
        for line in response.headers("set-cookie") {
            let mut parts = line.split(';').map(str::trim);
            let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else {
                continue;
            };
            let is_gone =
                value.is_empty() || parts.any(|part| part.eq_ignore_ascii_case("max-age=0"));
            if is_gone {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    /// Sends a form and answers the page that follows; a page of status 400 and above is an error with its text.
    pub(crate) fn submit(&mut self, form: &Form) -> Result<Page> {
        let page = self.try_submit(form)?;
        ensure!(
            page.response.status < 400,
            "{}: {} {}",
            form.action,
            page.response.status,
            cut(&page.text())
        );
        Ok(page)
    }

    fn try_submit(&mut self, form: &Form) -> Result<Page> {
        if !form.is_post {
            let path = format!(
                "{}?{}",
                form.action.split('?').next().unwrap_or_default(),
                urlencoded(&form.fields)
            );
            return self.get(&path);
        }
        let request = if form.is_multipart {
            Request::post(
                &form.action,
                &format!("multipart/form-data; boundary={BOUNDARY}"),
                form.multipart(),
            )
        } else {
            Request::post(
                &form.action,
                "application/x-www-form-urlencoded",
                urlencoded(&form.fields),
            )
        };
        self.send(request, &form.action)
    }
}

impl Page {
    pub(crate) fn text(&self) -> String {
        self.response.text()
    }

    pub(crate) fn has(&self, text: &str) -> bool {
        self.text().contains(text)
    }

    /// The first form with a field called `field`.
    pub(crate) fn form_with(&self, field: &str) -> Result<Form> {
        let forms = forms(&self.text(), &self.path);
        let named = |form: &&Form| {
            form.fields.iter().any(|(name, _)| name == field)
                || form.files.iter().any(|(name, _)| name == field)
        };
        forms.iter().find(named).cloned().with_context(|| {
            let known: Vec<String> = forms
                .iter()
                .map(|form| format!("{} {:?}", form.action, form.fields))
                .collect();
            format!(
                "{}: no form with a field {field:?} among {known:?}",
                self.path
            )
        })
    }

    /// The first form sent to an address containing `action`.
    pub(crate) fn form_to(&self, action: &str) -> Result<Form> {
        let forms = forms(&self.text(), &self.path);
        let known: Vec<&str> = forms.iter().map(|form| form.action.as_str()).collect();
        let found = forms.iter().find(|form| form.action.contains(action));
        found
            .cloned()
            .with_context(|| format!("{}: no form to {action:?} among {known:?}", self.path))
    }

    /// The targets of all links and pictures, in order.
    pub(crate) fn links(&self) -> Vec<String> {
        let text = self.text();
        let tags = tags(&text);
        let wanted = tags.iter().filter_map(|tag| match tag.name {
            "a" | "link" => tag.attr("href"),
            "img" => tag.attr("src"),
            _ => None,
        });
        wanted.map(|target| local(&target)).collect()
    }
}

impl Form {
    /// Fills a field in (or adds it, as a button's name and value are added).
    pub(crate) fn fill(mut self, name: &str, value: &str) -> Self {
        match self.fields.iter_mut().find(|(field, _)| field == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.fields.push((name.to_owned(), value.to_owned())),
        }
        self
    }

    /// Chooses a file.
    pub(crate) fn choose(mut self, name: &str, file: File) -> Self {
        self.files.retain(|(field, _)| field != name);
        self.files.push((name.to_owned(), file));
        self
    }

    /// What a radio button or selection called `name` offers.
    pub(crate) fn choices(&self, name: &str) -> Vec<&str> {
        self.choices
            .iter()
            .filter(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    fn multipart(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (name, value) in &self.fields {
            body.extend(format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").into_bytes());
        }
        for (name, file) in &self.files {
            let head = format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{}\"\r\nContent-Type: {}\r\n\r\n",
                file.name, file.content_type
            );
            body.extend(head.into_bytes());
            body.extend(&file.bytes);
            body.extend(b"\r\n");
        }
        body.extend(format!("--{BOUNDARY}--\r\n").into_bytes());
        body
    }
}

/// One start tag.
#[derive(Debug)]
struct Tag<'a> {
    name: &'a str,
    attrs: &'a str,
    /// The text after it up to the next tag.
    text: &'a str,
}

impl Tag<'_> {
    fn attr(&self, wanted: &str) -> Option<String> {
        let mut rest = self.attrs;
        while let Some(start) = rest.find(|letter: char| !letter.is_whitespace() && letter != '/') {
            rest = &rest[start..];
            let end = rest
                .find(|letter: char| letter.is_whitespace() || letter == '=' || letter == '/')
                .unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            let after = after.trim_start();
            let (value, after) = match after.strip_prefix('=') {
                None => ("", after),
                Some(after) => attr_value(after.trim_start()),
            };
            if name.eq_ignore_ascii_case(wanted) {
                return Some(unescape(value));
            }
            rest = if end == 0 {
                rest.get(1..).unwrap_or_default()
            } else {
                after
            };
        }
        None
    }
}

fn attr_value(text: &str) -> (&str, &str) {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote) {
            return inner.split_once(quote).unwrap_or((inner, ""));
        }
    }
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    text.split_at(end)
}

/// All tags of a page; end tags have a name that begins with `/`.
fn tags(html: &str) -> Vec<Tag<'_>> {
    let mut tags = Vec::new();
    for piece in html.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').unwrap_or((piece, ""));
        let end = tag
            .find(|letter: char| letter.is_whitespace())
            .unwrap_or(tag.len());
        let (name, attrs) = tag.split_at(end);
        tags.push(Tag { name, attrs, text });
    }
    tags
}

fn forms(html: &str, path: &str) -> Vec<Form> {
    let mut forms: Vec<Form> = Vec::new();
    let mut is_inside = false;
    let mut select = None;
    for tag in tags(html) {
        match tag.name {
            "form" => {
                is_inside = true;
                forms.push(Form {
                    action: tag
                        .attr("action")
                        .filter(|action| !action.is_empty())
                        .map_or_else(|| path.to_owned(), |action| local(&action)),
                    is_post: tag
                        .attr("method")
                        .is_some_and(|method| method.eq_ignore_ascii_case("post")),
                    is_multipart: tag
                        .attr("enctype")
                        .is_some_and(|kind| kind == "multipart/form-data"),
                    fields: Vec::new(),
                    files: Vec::new(),
                    choices: Vec::new(),
                });
            }
            "/form" => is_inside = false,
            "/select" => select = None,
            _ => {
                if let (true, Some(form)) = (is_inside, forms.last_mut()) {
                    read_control(form, &tag, &mut select);
                }
            }
        }
    }
    forms
}

fn read_control(form: &mut Form, tag: &Tag<'_>, select: &mut Option<String>) {
    let name = tag.attr("name");
    match (tag.name, name) {
        ("input", Some(name)) => {
            let value = tag.attr("value").unwrap_or_default();
            match tag.attr("type").unwrap_or_default().as_str() {
                "file" => form.files.push((
                    name,
                    File {
                        name: String::new(),
                        content_type: "application/octet-stream",
                        bytes: Vec::new(),
                    },
                )),
                "submit" | "button" => {}
                "radio" | "checkbox" => {
                    form.choices.push((name.clone(), value.clone()));
                    if tag.attr("checked").is_some() {
                        form.fields.push((name, value));
                    }
                }
                _ => form.fields.push((name, value)),
            }
        }
        ("textarea", Some(name)) => form.fields.push((
            name,
            unescape(tag.text.strip_prefix('\n').unwrap_or(tag.text)),
        )),
        ("select", Some(name)) => *select = Some(name),
        ("option", _) => {
            let Some(name) = select.clone() else { return };
            let value = tag
                .attr("value")
                .unwrap_or_else(|| unescape(tag.text.trim()));
            form.choices.push((name.clone(), value.clone()));
            let is_first = !form.fields.iter().any(|(field, _)| *field == name);
            if is_first {
                form.fields.push((name, value));
            } else if tag.attr("selected").is_some()
                && let Some((_, old)) = form.fields.iter_mut().find(|(field, _)| *field == name)
            {
                *old = value;
            }
        }
        _ => {}
    }
}

/// Path and query of an address of the site; a fragment stays in the browser.
fn local(target: &str) -> String {
    let target = target.split('#').next().unwrap_or_default();
    match target.split_once("://") {
        Some((_, rest)) => rest
            .find('/')
            .map_or("/", |slash| &rest[slash..])
            .to_owned(),
        None => target.to_owned(),
    }
}

fn unescape(text: &str) -> String {
    let plain = text
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#34;", "\"")
        .replace("&#39;", "'")
        .replace("&#x27;", "'");
    plain
        .replace("&#x2f;", "/")
        .replace("&#47;", "/")
        .replace("&#60;", "<")
        .replace("&#62;", ">")
        .replace("&#38;", "&")
        .replace("&amp;", "&")
}

/// `application/x-www-form-urlencoded`.
pub(crate) fn urlencoded(fields: &[(String, String)]) -> String {
    let pairs = fields
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// Percent-encodes everything but the unreserved characters.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The beginning of a page, for a message.
fn cut(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(300)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HTML: &str = r#"<form method="post" action="/login?x=1&amp;y=2"><input type=hidden name="token" value="a&quot;b">
        <input name='user'><textarea name="body">
one &lt;two&gt;</textarea><select name="security"><option value="public">all<option value="friends" selected>friends</select>
        <input type="checkbox" name="keep" value="1" checked><input type="checkbox" name="not" value="1"><button>Go</button></form>
        <form enctype="multipart/form-data" method=POST><input type="file" name="picture"></form>"#;

    #[test]
    fn reads_every_kind_of_control() {
        let forms = forms(HTML, "/here");
        let form = &forms[0];
        assert_eq!(form.action, "/login?x=1&y=2");
        let fields: Vec<(&str, &str)> = form
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            fields,
            [
                ("token", "a\"b"),
                ("user", ""),
                ("body", "one <two>"),
                ("security", "friends"),
                ("keep", "1")
            ]
        );
        assert_eq!(form.choices("security"), ["public", "friends"]);
        assert_eq!(
            (
                forms[1].action.as_str(),
                forms[1].is_multipart,
                forms[1].is_post
            ),
            ("/here", true, true)
        );
    }

    #[test]
    fn addresses_of_the_site_become_paths() {
        assert_eq!(local("http://127.0.0.1:8080/a?b"), "/a?b");
        assert_eq!(local("http://127.0.0.1:8080"), "/");
        assert_eq!(local("/x#here"), "/x");
    }
}

//! A browser of sorts: keeps cookies, finds form tokens, follows nothing by itself.

use ibex_testkit::http::{Request, Response};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The password of every account of the tests.
pub(crate) const PASSWORD: &str = "correct horse";

#[derive(Debug, Clone)]
pub(crate) struct Browser {
    pub(crate) addr: SocketAddr,
    cookies: BTreeMap<String, String>,
}

impl Browser {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            cookies: BTreeMap::new(),
        }
    }

    /// The same person at another web process.
    pub(crate) fn at(&self, addr: SocketAddr) -> Self {
        Self {
            addr,
            cookies: self.cookies.clone(),
        }
    }

    /// A new account, logged in.
    pub(crate) fn sign_up(addr: SocketAddr, name: &str) -> Self {
        let mut browser = Self::new(addr);
        let email = format!("{name}@people.example");
        let answer = browser.submit(
            "/create",
            "/create",
            &[("user", name), ("email", &email), ("password", PASSWORD)],
        );
        assert_eq!(answer.status, 303, "{}", answer.text());
        browser
    }

    pub(crate) fn send(&mut self, request: Request) -> Response {
        let cookies: Vec<String> = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let request = if cookies.is_empty() {
            request
        } else {
            request.header("cookie", &cookies.join("; "))
        };
        let answer = request.send(self.addr).unwrap();
        for line in answer.headers("set-cookie") {
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            if line.contains("Max-Age=0;") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }

    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.send(Request::get(path))
    }

    /// The body of a page that must be there.
    pub(crate) fn page(&mut self, path: &str) -> String {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.text()
    }

    pub(crate) fn status(&mut self, path: &str) -> u16 {
        self.get(path).status
    }

    /// The form token on a page.
    pub(crate) fn token(&mut self, form: &str) -> String {
        let page = self.page(form);
        between(&page, "name=\"csrf\" value=\"", "\"")
            .unwrap_or_else(|| panic!("no form token on {form}: {page}"))
            .to_owned()
    }

    /// Fills in the form on the page `form` and sends it to `action`.
    pub(crate) fn submit(&mut self, form: &str, action: &str, fields: &[(&str, &str)]) -> Response {
        let token = self.token(form);
        self.post(action, &[&[("csrf", token.as_str())], fields].concat())
    }

    pub(crate) fn post(&mut self, action: &str, fields: &[(&str, &str)]) -> Response {
        self.send(Request::post(
            action,
            "application/x-www-form-urlencoded",
            encode(fields),
        ))
    }

    /// Posts an entry; its address.
    pub(crate) fn write(&mut self, subject: &str, security: &str) -> String {
        let answer = self.submit(
            "/update",
            "/update",
            &[
                ("subject", subject),
                ("event", &format!("Body of {subject}.")),
                ("security", security),
                ("tags", "all"),
            ],
        );
        assert_eq!(answer.status, 303, "{}", answer.text());
        answer.header("location").unwrap().to_owned()
    }

    /// Comments on an entry, or answers a comment (public number); the number of the new one.
    pub(crate) fn comment(&mut self, entry: &str, parent: &str, body: &str) -> String {
        let answer = self.submit(
            &format!("{entry}?replyto={parent}"),
            &format!("{entry}/reply"),
            &[("parent", parent), ("body", body)],
        );
        assert_eq!(answer.status, 303, "{}", answer.text());
        answer
            .header("location")
            .unwrap()
            .split("#cmt")
            .nth(1)
            .unwrap()
            .to_owned()
    }

    pub(crate) fn befriend(&mut self, name: &str) {
        let answer = self.submit(
            "/manage/circle",
            "/manage/circle",
            &[("action", "add"), ("user", name)],
        );
        assert_eq!(answer.status, 303, "{}", answer.text());
    }

    /// Uploads a file with a form of several parts.
    pub(crate) fn upload(&mut self, path: &str, file: &[u8], fields: &[(&str, &str)]) -> Response {
        let token = self.token(path);
        let mut body = Vec::new();
        for (name, value) in [&[("csrf", token.as_str())], fields].concat() {
            body.extend_from_slice(
                format!(
                    "--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
                )
                .as_bytes(),
            );
        }
        body.extend_from_slice(b"--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f.png\"\r\nContent-Type: image/png\r\n\r\n");
        body.extend_from_slice(file);
        body.extend_from_slice(b"\r\n--XX--\r\n");
        self.send(Request::post(
            path,
            "multipart/form-data; boundary=XX",
            body,
        ))
    }
}

pub(crate) fn between<'t>(text: &'t str, before: &str, after: &str) -> Option<&'t str> {
    text.split_once(before)?
        .1
        .split_once(after)
        .map(|(found, _)| found)
}

fn encode(fields: &[(&str, &str)]) -> String {
    let escape = |text: &str| {
        text.bytes().fold(String::new(), |out, byte| {
            if byte.is_ascii_alphanumeric() {
                out + &char::from(byte).to_string()
            } else {
                out + &format!("%{byte:02X}")
            }
        })
    };
    fields
        .iter()
        .map(|(name, value)| format!("{}={}", escape(name), escape(value)))
        .collect::<Vec<_>>()
        .join("&")
}

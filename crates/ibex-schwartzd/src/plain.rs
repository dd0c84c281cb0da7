//! The pages for people whose browser runs no scripts: what is there, what failed and why, and the few things one does about it.
//!
//! Apart from the dashboard because the daemon writes these pages itself: every text of a stranger is escaped here. Forms act only when the browser
//! says that one of these pages sent them; a browser asks its user for the token as a password.

use crate::api::access::{Origin, cross_site, origin};
use crate::api::{App, access, argument_out, parse_handle};
use crate::http::{Refusal, Reply, body_bytes, query_pairs, text};
use ::http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use ibex_schwartz::{Change, Handle, Query, State, When};
use serde_json::{Map, Value};
use std::fmt::Write as _;
use std::sync::Arc;

/// Rows of each list.
const ROWS_MAX: u32 = 50;
/// Characters of an argument that are shown.
const ARGUMENT_CHARS_MAX: usize = 20_000;

const POLICY: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
const HEAD: &str = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
     <title>Jobs – ibex-schwartzd</title>\n<link rel=\"stylesheet\" href=\"/dashboard.css\">\n<header><h1>Jobs</h1><nav><a href=\"/plain\">All</a> \
     <a href=\"/\">With scripts</a></nav></header>\n";

/// Text as it may stand in a page, in quotes too.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A page that is being written. Writing into a string cannot fail.
struct Page(String);

impl Page {
    fn new() -> Self {
        Self(HEAD.to_owned())
    }

    fn title(&mut self, text: &str) {
        self.raw(format_args!("<h2>{}</h2>\n", escaped(text)));
    }

    /// A table; cells are markup already.
    fn table(&mut self, columns: &[&str], rows: &[Vec<String>], none: &str) {
        if rows.is_empty() {
            self.raw(format_args!("<p class=\"empty\">{}</p>\n", escaped(none)));
            return;
        }
        self.0.push_str("<table><thead><tr>");
        for column in columns {
            self.raw(format_args!("<th>{}</th>", escaped(column)));
        }
        self.0.push_str("</tr></thead><tbody>\n");
        for row in rows {
            self.0.push_str("<tr>");
            for (column, cell) in columns.iter().zip(row) {
                self.raw(format_args!(
                    "<td data-l=\"{}\">{cell}</td>",
                    escaped(column)
                ));
            }
            self.0.push_str("</tr>\n");
        }
        self.0.push_str("</tbody></table>\n");
    }

    fn raw(&mut self, arguments: std::fmt::Arguments<'_>) {
        if self.0.write_fmt(arguments).is_err() {
            tracing::error!("a page cannot be written");
        }
    }

    fn reply(self, status: StatusCode) -> Reply {
        let mut reply = text("text/html; charset=utf-8", self.0);
        *reply.status_mut() = status;
        reply.headers_mut().insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(POLICY),
        );
        reply
    }
}

/// A button that does one thing.
fn form(action: &str, field: &str, value: &str) -> String {
    format!(
        "<form method=\"post\" action=\"/plain\"><input type=\"hidden\" name=\"{field}\" value=\"{}\"><button name=\"do\" value=\"{action}\">{action}</button></form> ",
        escaped(value)
    )
}

fn job_link(handle: &Handle) -> String {
    format!("<a href=\"/plain/{handle}\">{}</a>", handle.jobid())
}

/// `2026-11-25 19:00:00`, in UTC.
fn when(epoch: u64) -> String {
    let (days, second) = (epoch / 86_400, epoch % 86_400);
    // Civil from days, counted in eras of 400 years from the first of March of year 0.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let moon = (5 * day + 2) / 153;
    let (month, day) = (
        if moon < 10 { moon + 3 } else { moon - 9 },
        day - (153 * moon + 2) / 5 + 1,
    );
    let year = era * 400 + year + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

impl App {
    /// GET /plain, GET /plain/{handle}, POST /plain.
    pub(crate) async fn plain(
        self: &Arc<Self>,
        segments: &[&str],
        request: Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        if let Err(refusal) = access::token(&self.config.load(), &request, segments) {
            return Ok(refused(&refusal));
        }
        let outcome = match (request.method(), segments) {
            (&Method::GET, ["plain"]) => self.plain_all().await,
            (&Method::GET, ["plain", handle]) => match parse_handle(handle) {
                Ok(handle) => self.plain_job(&handle).await,
                Err(refusal) => Err(refusal),
            },
            (&Method::POST, ["plain"]) => self.plain_act(request).await,
            _ => Err(Refusal::not_found("no such page")),
        };
        Ok(outcome.unwrap_or_else(|refusal| refused(&refusal)))
    }

    async fn plain_all(&self) -> Result<Reply, Refusal> {
        let mut page = Page::new();
        page.title("Functions");
        let rows: Vec<Vec<String>> = self
            .client
            .counts()
            .await?
            .iter()
            .map(|count| {
                let (mark, turn) = match count.paused_until {
                    Some(_) => (" <b class=\"bad\">paused</b>", "resume"),
                    None => ("", "pause"),
                };
                vec![
                    format!("<span>{}{mark}</span>", escaped(&count.funcname)),
                    count.ready.to_string(),
                    count.grabbed.to_string(),
                    count.scheduled.to_string(),
                    count.blocked.to_string(),
                    count.oldest_ready_age.to_string(),
                    form(turn, "func", &count.funcname),
                ]
            })
            .collect();
        let columns = [
            "function",
            "ready",
            "running",
            "scheduled",
            "blocked",
            "oldest waits, s",
            "",
        ];
        page.table(&columns, &rows, "No function has been used yet.");
        page.title("Newest failures");
        let mut rows = Vec::new();
        for (handle, failure) in self.client.errors(None, 0, ROWS_MAX).await? {
            let func = self.client.func_of(&handle, failure.funcid).await?;
            rows.push(vec![
                when(failure.time),
                escaped(&func.unwrap_or_default()),
                job_link(&handle),
                escaped(&failure.message),
                form("retry", "handle", &handle.to_string()),
            ]);
        }
        let columns = ["time", "function", "job", "error", ""];
        page.table(&columns, &rows, "Nothing failed within a week.");
        page.title("Failed for good");
        let ended = self.client.ended("failed", None, ROWS_MAX).await?;
        let rows: Vec<Vec<String>> = ended
            .iter()
            .map(|job| {
                vec![
                    job_link(&job.handle),
                    escaped(&job.funcname),
                    job.attempts.to_string(),
                    when(job.finished_at),
                    form("retry", "handle", &job.handle.to_string()),
                ]
            })
            .collect();
        let columns = ["job", "function", "runs", "ended", ""];
        page.table(&columns, &rows, "No job has failed for good.");
        page.title("Oldest pending jobs");
        let query = Query {
            limit: ROWS_MAX,
            ..Query::default()
        };
        let jobs = self.client.list(&query).await?;
        let rows: Vec<Vec<String>> = jobs
            .iter()
            .map(|(handle, job, state)| {
                vec![
                    job_link(handle),
                    escaped(&job.funcname),
                    state.as_str().to_owned(),
                ]
            })
            .collect();
        page.table(&["job", "function", "state"], &rows, "There are no jobs.");
        Ok(page.reply(StatusCode::OK))
    }

    async fn plain_job(&self, handle: &Handle) -> Result<Reply, Refusal> {
        let status = self.client.status(handle).await?;
        let state = match (&status.pending, &status.ended, status.exit_status) {
            (Some((_, state)), ..) => state.as_str(),
            (None, Some(ended), _) => ended.state.as_str(),
            (None, None, Some(0)) => "completed",
            (None, None, Some(_)) => "failed",
            (None, None, None) => {
                return Err(Refusal::not_found("no such job, or nothing is kept of it"));
            }
        };
        let func = match (&status.pending, &status.ended) {
            (Some((job, _)), _) => job.funcname.as_str(),
            (None, Some(ended)) => ended.funcname.as_str(),
            (None, None) => "",
        };
        let name = handle.to_string();
        let mut page = Page::new();
        page.title(&format!("Job {}", handle.jobid()));
        page.raw(format_args!(
            "<dl><dt>handle</dt><dd>{name}</dd><dt>function</dt><dd>{}</dd><dt>state</dt><dd>{state}</dd></dl>\n<p>",
            escaped(func)
        ));
        match &status.pending {
            Some((_, State::Grabbed)) => {
                page.raw(format_args!("{}", form("cancel", "handle", &name)))
            }
            Some((_, State::Scheduled)) => page.raw(format_args!(
                "{}{}",
                form("retry", "handle", &name),
                form("cancel", "handle", &name)
            )),
            Some(_) => page.raw(format_args!("{}", form("cancel", "handle", &name))),
            None if state != "completed" => {
                page.raw(format_args!("{}", form("retry", "handle", &name)));
            }
            None => {}
        }
        page.raw(format_args!("</p>\n"));
        for failure in &status.failures {
            page.title(&format!("Failed {}", when(failure.time)));
            page.raw(format_args!("<pre>{}</pre>\n", escaped(&failure.message)));
        }
        let arg = match &status.pending {
            Some((job, _)) => Some(job.arg.clone()),
            None => self.client.ended_arg(handle).await?,
        };
        if let Some(arg) = arg {
            page.title("Argument");
            let shown: String = argument_text(&arg)
                .chars()
                .take(ARGUMENT_CHARS_MAX)
                .collect();
            page.raw(format_args!("<pre>{}</pre>\n", escaped(&shown)));
        }
        Ok(page.reply(StatusCode::OK))
    }

    async fn plain_act(self: &Arc<Self>, request: Request<Incoming>) -> Result<Reply, Refusal> {
        let authority = request.uri().authority().map(ToString::to_string);
        if origin(request.headers(), authority.as_deref()) != Origin::Own {
            return Err(cross_site());
        }
        let body = body_bytes(request.into_body()).await?;
        let fields = query_pairs(std::str::from_utf8(&body).ok());
        let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
        match field("do") {
            "pause" => {
                self.client.pause(field("func"), None).await?;
                tracing::info!(func = field("func"), "function paused");
            }
            "resume" => {
                self.client.resume(field("func")).await?;
                tracing::info!(func = field("func"), "function resumed");
            }
            "retry" => self.plain_retry(&parse_handle(field("handle"))?).await?,
            "cancel" => drop(self.cancel(parse_handle(field("handle"))?).await?),
            _ => {
                return Err(Refusal::bad_request(
                    "there is pause, resume, retry, cancel",
                ));
            }
        }
        self.look_now();
        let mut reply = text("text/plain", "done\n");
        *reply.status_mut() = StatusCode::SEE_OTHER;
        reply
            .headers_mut()
            .insert(header::LOCATION, HeaderValue::from_static("/plain"));
        Ok(reply)
    }

    /// A job that is over comes back; one that waits for its next run has it now.
    async fn plain_retry(&self, handle: &Handle) -> Result<(), Refusal> {
        if self.client.is_pending(handle).await? {
            let change = Change {
                run_after: Some(When::Now),
                ..Change::default()
            };
            Ok(self.client.change(handle, &change).await?)
        } else {
            Ok(self.client.retry(handle).await?)
        }
    }
}

/// The argument as people read it.
fn argument_text(arg: &[u8]) -> String {
    let mut out = Map::new();
    argument_out(arg, &mut out);
    match (out.get("args"), out.get("arg"), out.get("arg_b64")) {
        (Some(value), ..) => serde_json::to_string_pretty(value).unwrap_or_default(),
        (None, Some(Value::String(text)), _) => text.clone(),
        (None, _, Some(Value::String(text))) => format!("base64: {text}"),
        _ => String::new(),
    }
}

fn refused(refusal: &Refusal) -> Reply {
    let mut page = Page::new();
    page.raw(format_args!(
        "<p class=\"bad\">{}</p>\n",
        escaped(&refusal.message)
    ));
    let mut reply = page.reply(refusal.status);
    if matches!(refusal.status, StatusCode::UNAUTHORIZED) {
        reply.headers_mut().insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Basic realm=\"ibex-schwartzd: the token is the password\""),
        );
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_texts_are_no_markup() {
        assert_eq!(
            escaped("<b a='x' c=\"y\">&\u{0}\n"),
            "&lt;b a=&#39;x&#39; c=&quot;y&quot;&gt;&amp;\u{fffd}\n"
        );
        assert!(
            form("retry", "func", "\"><script>").contains("value=\"&quot;&gt;&lt;script&gt;\"")
        );
    }

    #[test]
    fn times_are_read_by_people() {
        assert_eq!(when(0), "1970-01-01 00:00:00");
        assert_eq!(when(951_782_399), "2000-02-28 23:59:59");
        assert_eq!(when(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(when(1_798_761_599), "2026-12-31 23:59:59");
        assert_eq!(when(4_294_967_295), "2106-02-07 06:28:15");
    }
}

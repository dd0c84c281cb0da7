//! The management port: commands in lines, answers in lines, and a few HTML pages for a browser.
//!
//! Owns the connection, the context of a session, and the commands that show or stop something. What changes the model is
//! `model::apply`'s; how listings look is `show`'s. No command is ever executed from HTTP.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ibex_kit::{Peer, Stream};
use ibex_perlbal_proto::command::{self, Command, Error, Listing};
use ibex_perlbal_proto::head::{Limits, Request, RequestParser};
use ibex_perlbal_proto::reply::{escape_html, reason};
use ibex_perlbal_proto::vhost::normal_host;

use crate::balancer::Balancer;
use crate::model::{Context, System, apply, expand_includes};
use crate::service::Service;
use crate::show;
use crate::socket::Socket;

/// Longest command line; no command comes near, and a peer that sends more is not an operator.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// A peer that does not read its answer for this long is closed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves one management connection.
pub(crate) async fn serve(
    balancer: Arc<Balancer>,
    service: Arc<Service>,
    stream: Stream,
    peer: Peer,
) {
    let draining = balancer.kit.draining();
    tracing::debug!(peer = %peer, "management connection");
    let mut session = Session {
        balancer,
        service,
        socket: Socket::from(stream),
        buffer: BytesMut::new(),
        context: Context::for_connection(),
    };
    tokio::select! {
        () = session.run() => {}
        () = draining.cancelled() => {}
    }
}

struct Session {
    balancer: Arc<Balancer>,
    service: Arc<Service>,
    socket: Socket,
    buffer: BytesMut,
    context: Context,
}

/// Whether a session goes on after a line.
enum Next {
    On,
    Ends,
}

impl Session {
    async fn run(&mut self) {
        if !self.fill().await {
            return;
        }
        while self.buffer.len() < 5
            && b"GET  HEAD POST "
                .chunks(5)
                .any(|m| is_prefix(&self.buffer, m.trim_ascii_end()))
        {
            if !self.fill().await {
                return;
            }
        }
        if [&b"GET "[..], b"HEAD ", b"POST "]
            .iter()
            .any(|m| self.buffer.starts_with(m))
        {
            return self.http().await;
        }
        loop {
            while let Some(end) = memchr::memchr(b'\n', &self.buffer) {
                let line = self.buffer.split_to(end + 1);
                let line = String::from_utf8_lossy(&line).into_owned();
                match self.line(&line).await {
                    Ok(Next::On) => {}
                    Ok(Next::Ends) | Err(_) => return,
                }
            }
            if self.buffer.len() > LINE_BYTES_MAX || !self.fill().await {
                return;
            }
        }
    }

    async fn fill(&mut self) -> bool {
        matches!(self.socket.read(&mut self.buffer).await, Ok(n) if n > 0)
    }

    async fn line(&mut self, line: &str) -> std::io::Result<Next> {
        if looks_like_http(line) {
            // DIFFERS(perlbal): a browser tricked into talking to this port gets no second line (DNS rebinding).
            self.send(&["ERROR: HTTP is not spoken in the middle of a session".to_owned()])
                .await?;
            return Ok(Next::Ends);
        }
        let parsed = command::prepare(line, &System)
            .and_then(|text| text.map(|t| command::parse(&t)).transpose());
        let command = match parsed {
            Ok(None) => return Ok(Next::On),
            Ok(Some(command)) => command,
            Err(error) => {
                self.send(&[format!("ERROR: {error}")]).await?;
                return Ok(Next::On);
            }
        };
        self.carry_out(command).await
    }

    async fn carry_out(&mut self, command: Command) -> std::io::Result<Next> {
        if command == Command::Quit {
            return Ok(Next::Ends);
        }
        if command == Command::Shutdown {
            self.balancer.kit.stop("shutdown command");
            self.balancer.cut.cancel();
            return Ok(Next::Ends);
        }
        if let Command::ShutdownGraceful(after) = command {
            self.ok().await?;
            shut_down(&self.balancer, after);
            return Ok(Next::On);
        }
        let outcome = execute(&self.balancer, &mut self.context, command).await;
        self.answer(outcome).await?;
        Ok(Next::On)
    }

    async fn answer(&self, outcome: Result<Answer, Error>) -> std::io::Result<()> {
        match outcome {
            Ok(Answer::Listing(lines)) => self.send(&lines).await,
            Ok(Answer::Done(lines)) => {
                self.send(&lines).await?;
                self.ok().await
            }
            // One line always, so that a script reads exactly one.
            Err(error) => {
                self.send(&[format!("ERROR: {}", error.0.replace(['\r', '\n'], " "))])
                    .await
            }
        }
    }

    async fn ok(&self) -> std::io::Result<()> {
        if self.context.verbose {
            self.send(&["OK".to_owned()]).await
        } else {
            Ok(())
        }
    }

    async fn send(&self, lines: &[String]) -> std::io::Result<()> {
        let mut text = String::new();
        for line in lines {
            text.push_str(line);
            text.push_str("\r\n");
        }
        self.socket.write_all(text.as_bytes(), PATIENCE).await
    }

    /// One page, then the connection closes.
    async fn http(&mut self) {
        let mut parser = RequestParser::default();
        let page = loop {
            match parser.parse(&mut self.buffer, &Limits::default()) {
                Ok(Some(request)) => break self.page(&request),
                Ok(None) if self.fill().await => {}
                Ok(None) => return,
                Err(refusal) => {
                    break Page {
                        status: refusal.status,
                        content_type: "text/plain",
                        body: refusal.text.to_owned(),
                    };
                }
            }
        };
        let head = format!(
            "HTTP/1.0 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            page.status,
            reason(page.status),
            page.content_type,
            page.body.len()
        );
        if self
            .socket
            .write_two(head.as_bytes(), page.body.as_bytes(), PATIENCE)
            .await
            .is_ok()
        {
            self.socket.shutdown_write();
        }
    }

    fn page(&self, request: &Request) -> Page {
        let plain = |status, body: &str| Page {
            status,
            content_type: "text/plain",
            body: body.to_owned(),
        };
        if !request.is_read() {
            return plain(405, "only GET and HEAD\n");
        }
        if !self.is_known_host(request) {
            return plain(403, "unknown Host (SET management_hosts)\n");
        }
        let (path, query) = match request.target.iter().position(|b| *b == b'?') {
            Some(at) => (
                &request.target[..at],
                String::from_utf8_lossy(&request.target[at + 1..]).to_ascii_lowercase(),
            ),
            None => (&request.target[..], String::new()),
        };
        let balancer = &self.balancer;
        let listing = |listing: Listing| {
            show::listing(balancer, &listing).unwrap_or_else(|e| vec![format!("ERROR: {e}")])
        };
        match path {
            b"/" => index(&listing(Listing::Services)),
            b"/socks" => html("socks", &listing(Listing::Socks { summary: false })),
            b"/obj" => html("obj", &listing(Listing::Nothing)),
            b"/service" => html("service", &listing(Listing::Service(query))),
            b"/healthz" => plain(200, "ok\n"),
            b"/readyz" if balancer.kit.draining().is_cancelled() => plain(503, "draining\n"),
            b"/readyz" => plain(200, "ok\n"),
            b"/status.json" => Page {
                status: 200,
                content_type: "application/json",
                body: show::status(balancer).to_string(),
            },
            _ => plain(404, "not found; metrics are on the admin port\n"),
        }
    }

    fn is_known_host(&self, request: &Request) -> bool {
        let host = normal_host(request.host().map(|h| &h[..]).unwrap_or_default());
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let settings = self.service.settings.load();
        host == "localhost"
            || bare.parse::<std::net::IpAddr>().is_ok()
            || settings
                .management_hosts
                .iter()
                .any(|h| h.eq_ignore_ascii_case(&host))
    }
}

fn is_prefix(buffer: &[u8], method: &[u8]) -> bool {
    !method.is_empty() && method.starts_with(buffer)
}

fn looks_like_http(line: &str) -> bool {
    let line = line.trim_end();
    line.ends_with(" HTTP/1.1")
        || line.ends_with(" HTTP/1.0")
        || line.split_once(": ").is_some_and(|(name, _)| {
            matches!(
                name.to_ascii_lowercase().as_str(),
                "host" | "user-agent" | "origin" | "referer" | "content-type"
            )
        })
}

struct Page {
    status: u16,
    content_type: &'static str,
    body: String,
}

fn html(title: &str, lines: &[String]) -> Page {
    let text = escape_html(&lines.join("\n"));
    Page {
        status: 200,
        content_type: "text/html; charset=utf-8",
        body: format!(
            "<html><head><title>perlbal {title}</title></head><body><h1>{title}</h1><pre>{text}</pre><a href='/'>back</a></body></html>\n"
        ),
    }
}

fn index(services: &[String]) -> Page {
    let names = services
        .iter()
        .filter_map(|l| l.split(' ').next())
        .filter(|n| *n != ".");
    let links: String = names
        .map(|n| format!("<li><a href='/service?{0}'>{0}</a></li>", escape_html(n)))
        .collect();
    let body = format!(
        "<html><head><title>perlbal</title></head><body><h1>perlbal management interface</h1><ul><li><a href='/socks'>Sockets</a></li><li><a href='/obj'>Perl Objects in use</a></li><li>Service Details<ul>{links}</ul></li></ul></body></html>\n"
    );
    Page {
        status: 200,
        content_type: "text/html; charset=utf-8",
        body,
    }
}

fn shut_down(balancer: &Arc<Balancer>, after: Option<u64>) {
    balancer.kit.stop("shutdown graceful command");
    if let Some(secs) = after {
        let cut = balancer.cut.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(secs)).await;
            cut.cancel();
        });
    }
}

/// What a command prints.
pub(crate) enum Answer {
    /// Lines of a listing, with their end.
    Listing(Vec<String>),
    /// Lines, then `OK`.
    Done(Vec<String>),
}

/// Carries out a command of a session.
pub(crate) async fn execute(
    balancer: &Arc<Balancer>,
    context: &mut Context,
    command: Command,
) -> Result<Answer, Error> {
    if let Command::List(listing) = &command {
        let lines = show::listing(balancer, listing)?;
        return Ok(if *listing == Listing::DumpConfig {
            Answer::Done(lines)
        } else {
            Answer::Listing(lines)
        });
    }
    if command == Command::ReloadConfig {
        return balancer
            .reload(None)
            .await
            .map(|()| Answer::Done(Vec::new()));
    }
    if let Command::Explain {
        host,
        method,
        target,
    } = &command
    {
        return show::explain(balancer, host, method, target).map(Answer::Listing);
    }
    if let Command::Include(patterns) = &command {
        return include(balancer, context, patterns)
            .await
            .map(|()| Answer::Done(Vec::new()));
    }
    // COMPAT(perlbal): these print their own line and no OK (Perlbal.pm, MANAGE_mime).
    let speaks_itself = matches!(command, Command::MimeSet(..) | Command::MimeRemove(_));
    let mut changed = context.clone();
    let lines = balancer
        .change(|model| apply(model, &mut changed, command))
        .await?;
    *context = changed;
    Ok(if speaks_itself {
        Answer::Listing(lines)
    } else {
        Answer::Done(lines)
    })
}

/// Runs the commands of files, all or none.
async fn include(
    balancer: &Arc<Balancer>,
    context: &Context,
    patterns: &[String],
) -> Result<(), Error> {
    let files = expand_includes(patterns).map_err(Error)?;
    let mut inner = Context {
        verbose: false,
        current: context.current.clone(),
    };
    balancer
        .change(|model| {
            for file in files {
                let text = std::fs::read_to_string(&file)
                    .map_err(|e| Error::new(format!("{}: {e}", file.display())))?;
                for (index, line) in text.lines().enumerate() {
                    let run = || -> Result<(), Error> {
                        let Some(text) = command::prepare(line, &System)? else {
                            return Ok(());
                        };
                        apply(model, &mut inner, command::parse(&text)?).map(drop)
                    };
                    let mut run = run;
                    run().map_err(|e| {
                        Error::new(format!("{}:{}: {e}", file.display(), index + 1))
                    })?;
                }
            }
            Ok(())
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_in_the_middle_is_recognised() {
        assert!(
            looks_like_http("GET / HTTP/1.1\r\n")
                && looks_like_http("Host: x\r\n")
                && looks_like_http("User-Agent: y")
        );
        assert!(!looks_like_http("show service") && !looks_like_http("HEADER s INSERT Host: x"));
    }
}

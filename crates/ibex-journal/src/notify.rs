//! Who is told about a comment, and the mail he gets: the functions behind the job queue.
//!
//! Apart from the worker, which calls them, so that they can be tested without one. Each may run more than once: the inbox row
//! decides whether somebody was told, and a mail's job exists once for each inbox row.

use crate::app::{App, Event};
use crate::circle::{self, Viewer};
use crate::entry::EntryRow;
use crate::error::{Error, Result};
use crate::user::{self, User};
use crate::{comment, entry, inbox, markup, queue};
use ibex_cluster::UserId;
use lettre::message::{Mailbox, MultiPart};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use std::time::Duration;

/// Argument of `journal.comment`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CommentPosted {
    /// Whose journal.
    pub journal: u32,
    /// Which entry.
    pub jitemid: i64,
    /// Which comment.
    pub jtalkid: i64,
}

/// Argument of `journal.mail`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mail {
    /// To whom.
    pub user: u32,
    /// Subject.
    pub subject: String,
    /// Body as text.
    pub text: String,
    /// Body as HTML.
    pub html: String,
}

/// Tells those concerned about a comment: the entry's author, the author of what it answers, the journal's owner. Not its own
/// author, nobody twice, and nobody who may not see it now. Returns how many were told.
///
/// # Errors
/// The databases'.
pub async fn comment_posted(app: &App, what: CommentPosted) -> Result<usize> {
    let journal = user::by_id(app, UserId(what.journal)).await?;
    let Some(row) = entry::rows(app, &[(journal.id, what.jitemid)])
        .await?
        .remove(&(journal.id, what.jitemid))
    else {
        return Ok(0);
    };
    let all = comment::all(app, journal.id, what.jitemid).await?;
    let Some(talk) = all.iter().find(|talk| talk.id == what.jtalkid).copied() else {
        return Ok(0);
    };
    let parent = all
        .iter()
        .find(|other| other.id == talk.parent && talk.parent != 0);
    let mut concerned = vec![row.poster];
    concerned.extend(parent.map(|parent| parent.poster));
    concerned.sort_unstable();
    concerned.dedup();
    let mut told = 0;
    for reader in concerned
        .into_iter()
        .filter(|reader| *reader != talk.poster && reader.0 != 0)
    {
        let account = user::by_id(app, reader).await?;
        let viewer = Viewer::load(app, account.clone()).await?;
        if circle::sees(Some(&viewer), &journal, row.security)
            && comment::sees(Some(&viewer), &row, &talk, &all)
        {
            let is_answer = parent.is_some_and(|parent| parent.poster == reader);
            told += usize::from(tell(app, &account, &journal, &row, &talk, is_answer).await?);
        }
    }
    Ok(told)
}

async fn tell(
    app: &App,
    reader: &User,
    journal: &User,
    row: &EntryRow,
    talk: &comment::Talk,
    is_answer: bool,
) -> Result<bool> {
    let texts = comment::texts(app, journal.id, &[talk.id]).await?;
    let text = texts.get(&talk.id).cloned().unwrap_or_default();
    let subject = entry::texts(app, &[(journal.id, row.jitemid)])
        .await?
        .remove(&(journal.id, row.jitemid))
        .unwrap_or_default()
        .subject;
    let poster = if talk.poster.0 == 0 {
        "Somebody".to_owned()
    } else {
        user::by_id(app, talk.poster).await?.name
    };
    let what = if is_answer {
        "answered your comment"
    } else {
        "commented on your entry"
    };
    let about = if subject.is_empty() {
        String::new()
    } else {
        format!(" \u{201c}{subject}\u{201d}")
    };
    let title = format!("{poster} {what}{about}");
    let path = comment_path(&journal.name, row, talk.id);
    let wants_mail = user::props(app, reader.id)
        .await?
        .get("mail_comments")
        .is_none_or(|value| value != "0");
    let eventkey = format!("comment:{}:{}", journal.id, talk.id);
    let mail = if wants_mail && user::email(app, reader.id).await?.is_some() {
        Some(mail_event(
            app, reader, &title, &path, &text.body, &eventkey,
        )?)
    } else {
        None
    };
    inbox::add(app, reader.id, &eventkey, &title, &path, mail).await
}

/// Address of a comment on the site.
#[must_use]
pub fn comment_path(journal: &str, row: &EntryRow, jtalkid: i64) -> String {
    let dtalkid = jtalkid * 256 + i64::from(row.anum);
    format!(
        "/users/{journal}/{}.html?thread={dtalkid}#cmt{dtalkid}",
        row.ditemid()
    )
}

fn mail_event(
    app: &App,
    reader: &User,
    title: &str,
    path: &str,
    body: &str,
    eventkey: &str,
) -> Result<Event> {
    let (site, url) = (&app.config.site.name, &app.config.site.url);
    let quoted = markup::comment(body);
    let plain = markup::plain(&quoted);
    let settings = format!("{url}/manage/settings");
    let mail = Mail {
        user: reader.id.0,
        subject: title.to_owned(),
        text: format!(
            "{title}:\n\n{plain}\n\nRead and answer it at {url}{path}\n\n-- \n{site}. To get no more such mails: {settings}\n"
        ),
        html: format!(
            "<p>{}:</p><blockquote>{quoted}</blockquote><p><a href=\"{url}{path}\">Read and answer it</a></p><p><small>{} · <a href=\"{settings}\">No \
            more such mails</a></small></p>",
            markup::escape(title),
            markup::escape(site)
        ),
    };
    Ok(Event {
        function: queue::MAIL.to_owned(),
        argument: serde_json::to_string(&mail).map_err(|error| Error::Bug(error.to_string()))?,
        unique: format!("mail:{}:{eventkey}", reader.id),
    })
}

/// Sends mail to the configured server.
#[derive(Debug)]
pub struct Mailer {
    transport: Option<AsyncSmtpTransport<Tokio1Executor>>,
    from: Mailbox,
    settings_url: String,
}

/// How long a mail server may take.
const SMTP_TIMEOUT: Duration = Duration::from_secs(20);

impl Mailer {
    /// A mailer for the configured server, which need not be up.
    ///
    /// # Errors
    /// An address that makes no sense.
    pub fn new(app: &App) -> Result<Self> {
        let config = &app.config.mail;
        let transport = if config.smtp.is_empty() {
            None
        } else {
            let (host, port) = config.smtp.rsplit_once(':').unwrap_or((&config.smtp, "25"));
            let port: u16 = port
                .parse()
                .map_err(|_| Error::Invalid(format!("mail.smtp: {:?} is no port", port)))?;
            Some(
                AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
                    .port(port)
                    .timeout(Some(SMTP_TIMEOUT))
                    .build(),
            )
        };
        let from = config
            .from
            .parse()
            .map_err(|error| Error::Invalid(format!("mail.from: {error}")))?;
        Ok(Self {
            transport,
            from,
            settings_url: format!("{}/manage/settings", app.config.site.url),
        })
    }

    /// Sends one mail, to the address its reader has now; one without an address is done with.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it can never be sent; [`Error::Jobs`] when it may be later.
    pub async fn send(&self, app: &App, mail: &Mail) -> Result<()> {
        let Some(address) = user::email(app, UserId(mail.user)).await? else {
            return Ok(());
        };
        let reader = user::by_id(app, UserId(mail.user)).await?;
        let address = address
            .parse()
            .map_err(|error| Error::Invalid(format!("address of {}: {error}", reader.name)))?;
        let message = lettre::Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(Some(reader.display), address))
            .subject(mail.subject.clone())
            .header(Unsubscribe(format!("<{}>", self.settings_url)))
            .multipart(MultiPart::alternative_plain_html(
                mail.text.clone(),
                mail.html.clone(),
            ))
            .map_err(|error| Error::Invalid(error.to_string()))?;
        let Some(transport) = &self.transport else {
            tracing::info!(subject = %mail.subject, "mail not sent, no server is configured");
            return Ok(());
        };
        match transport.send(message).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_permanent() => {
                Err(Error::Invalid(format!("mail refused: {error}")))
            }
            Err(error) => Err(Error::Jobs(format!("mail server: {error}"))),
        }
    }
}

/// `List-Unsubscribe`: where a reader stops these mails.
#[derive(Debug, Clone)]
struct Unsubscribe(String);

impl lettre::message::header::Header for Unsubscribe {
    fn name() -> lettre::message::header::HeaderName {
        lettre::message::header::HeaderName::new_from_ascii_str("List-Unsubscribe")
    }
    fn parse(text: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self(text.to_owned()))
    }
    fn display(&self) -> lettre::message::header::HeaderValue {
        lettre::message::header::HeaderValue::new(Self::name(), self.0.clone())
    }
}

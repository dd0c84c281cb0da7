//! Signing up, logging in and out, settings, keys and sessions, the inbox.
//!
//! Apart because it is about the person at the browser and not about what is written.

use super::ctx::{Ctx, FAST};
use super::view::Page;
use super::{Answer, own_path, see};
use crate::error::{Error, Result};
use crate::session::{self, COOKIE, Session, Which};
use crate::user::{self, SignUp};
use crate::{clock, inbox as notices};
use askama::Template;
use axum::Form;
use axum::extract::Query;
use axum::response::Response;

#[derive(Debug, Template)]
#[template(path = "create.html")]
struct Create {
    page: Page,
    error: String,
    user: String,
    email: String,
}

/// `GET /create`.
pub(super) async fn create_form(ctx: Ctx) -> Answer {
    let body = Create {
        page: ctx.page("Sign up", "create").await?,
        error: String::new(),
        user: String::new(),
        email: String::new(),
    };
    Ok(ctx.html(&body)?)
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct CreateInput {
    csrf: String,
    user: String,
    email: String,
    password: String,
    website: String,
}

/// `POST /create`.
pub(super) async fn create(ctx: Ctx, Form(input): Form<CreateInput>) -> Answer {
    ctx.check(&input.csrf)?;
    let form = SignUp {
        name: input.user.clone(),
        email: input.email.trim().to_owned(),
        password: input.password,
        ..SignUp::default()
    };
    let made = if input.website.is_empty() {
        user::sign_up(&ctx.app, form).await
    } else {
        Err(Error::invalid(
            "The field that people leave empty was filled in.",
        ))
    };
    match made {
        Ok(made) => {
            let session = session::begin(&ctx.app, made.id, true, &ctx.agent).await?;
            logged_in(&ctx, &session, "/update")
        }
        Err(Error::Invalid(error)) => {
            let page = ctx.page("Sign up", "create").await?;
            Ok(ctx.refused(&Create {
                page,
                error,
                user: input.user,
                email: input.email,
            })?)
        }
        Err(error) => Err(error.into()),
    }
}

#[derive(Debug, Template)]
#[template(path = "login.html")]
struct Login {
    page: Page,
    error: String,
    user: String,
    back: String,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct LoginInput {
    csrf: String,
    user: String,
    password: String,
    remember: String,
    back: String,
}

/// `GET /login`.
pub(super) async fn login_form(ctx: Ctx, Query(input): Query<LoginInput>) -> Answer {
    let body = Login {
        page: ctx.page("Log in", "login").await?,
        error: String::new(),
        user: String::new(),
        back: own_path(&input.back).to_owned(),
    };
    Ok(ctx.html(&body)?)
}

/// `POST /login`.
pub(super) async fn login(ctx: Ctx, Form(input): Form<LoginInput>) -> Answer {
    ctx.check(&input.csrf)?;
    let back = own_path(&input.back);
    match user::check_password(&ctx.app, &input.user, &input.password, &ctx.from).await {
        Ok(user) => {
            let session =
                session::begin(&ctx.app, user.id, !input.remember.is_empty(), &ctx.agent).await?;
            let read = format!("/users/{}/read", user.name);
            logged_in(&ctx, &session, if back == "/" { &read } else { back })
        }
        Err(Error::Invalid(error)) => {
            let page = ctx.page("Log in", "login").await?;
            Ok(ctx.refused(&Login {
                page,
                error,
                user: input.user.clone(),
                back: back.to_owned(),
            })?)
        }
        Err(error) => Err(error.into()),
    }
}

fn logged_in(ctx: &Ctx, session: &Session, to: &str) -> Answer {
    let mut response = see(to);
    ctx.set_cookie(&mut response, COOKIE, &session.cookie(), session.left())?;
    Ok(response)
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Token {
    csrf: String,
}

/// `POST /logout`.
pub(super) async fn logout(ctx: Ctx, Form(input): Form<Token>) -> Answer {
    ctx.check(&input.csrf)?;
    if let Some(session) = &ctx.session {
        session::end(&ctx.app, session.user, Which::One(session.id)).await?;
    }
    let mut response = see("/");
    for name in [COOKIE, FAST] {
        ctx.set_cookie(&mut response, name, "", 0)?;
    }
    Ok(response)
}

#[derive(Debug, Template)]
#[template(path = "settings.html")]
struct Settings {
    page: Page,
    saved: bool,
    error: String,
    form: SettingsForm,
}

/// The form as typed.
#[derive(Debug, Default, Clone, serde::Deserialize)]
#[serde(default)]
pub(super) struct SettingsForm {
    csrf: String,
    name: String,
    title: String,
    subtitle: String,
    bio: String,
    email: String,
    whocanreply: String,
    #[serde(deserialize_with = "checked")]
    mail_comments: bool,
}

fn checked<'de, D: serde::Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    let text: String = serde::Deserialize::deserialize(from)?;
    Ok(!text.is_empty())
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Saved {
    saved: String,
}

/// `GET /manage/settings`.
pub(super) async fn settings_form(ctx: Ctx, Query(query): Query<Saved>) -> Answer {
    let me = &ctx.must()?.user;
    let props = user::props(&ctx.app, me.id).await?;
    let prop = |name: &str| props.get(name).cloned().unwrap_or_default();
    let form = SettingsForm {
        csrf: String::new(),
        name: me.display.clone(),
        title: prop("title"),
        subtitle: prop("subtitle"),
        bio: prop("bio"),
        email: user::email(&ctx.app, me.id).await?.unwrap_or_default(),
        whocanreply: me.whocanreply.clone(),
        mail_comments: prop("mail_comments") != "0",
    };
    let body = Settings {
        page: ctx.page("Settings", "settings").await?,
        saved: !query.saved.is_empty(),
        error: String::new(),
        form,
    };
    Ok(ctx.html(&body)?)
}

/// `POST /manage/settings`.
pub(super) async fn settings(ctx: Ctx, Form(form): Form<SettingsForm>) -> Answer {
    ctx.check(&form.csrf)?;
    let me = &ctx.must()?.user;
    match save(&ctx, me.id, &form).await {
        Ok(()) => Ok(see("/manage/settings?saved=1")),
        Err(Error::Invalid(error)) => Ok(ctx.refused(&Settings {
            page: ctx.page("Settings", "settings").await?,
            saved: false,
            error,
            form,
        })?),
        Err(error) => Err(error.into()),
    }
}

async fn save(ctx: &Ctx, me: ibex_cluster::UserId, form: &SettingsForm) -> Result<()> {
    if form.name.trim().is_empty() {
        return Err(Error::invalid("Your name is empty."));
    }
    let short = |text: &str, letters: usize| text.trim().chars().take(letters).collect::<String>();
    user::set_email(&ctx.app, me, &form.email).await?;
    user::set_profile(&ctx.app, me, &form.name, &form.whocanreply).await?;
    let props = vec![
        ("title", short(&form.title, 80)),
        ("subtitle", short(&form.subtitle, 80)),
        ("bio", short(&form.bio, 20_000)),
        (
            "mail_comments",
            if form.mail_comments {
                String::new()
            } else {
                "0".to_owned()
            },
        ),
    ];
    user::set_props(&ctx.app, me, props).await
}

#[derive(Debug, Template)]
#[template(path = "keys.html")]
struct Keys {
    page: Page,
    fresh: String,
    keys: Vec<KeyView>,
    sessions: Vec<SessionView>,
}

#[derive(Debug)]
struct KeyView {
    keyid: i64,
    name: String,
    made: String,
}

#[derive(Debug)]
struct SessionView {
    agent: String,
    since: String,
    current: bool,
}

async fn keys_page(ctx: &Ctx, fresh: String) -> Result<Response> {
    let me = ctx.must()?.user.id;
    let current = ctx.session.as_ref().map(|session| session.id);
    let keys = session::keys_of(&ctx.app, me).await?;
    let sessions = session::all(&ctx.app, me).await?;
    let body = Keys {
        page: ctx.page("Keys and sessions", "settings").await?,
        fresh,
        keys: keys
            .into_iter()
            .map(|key| KeyView {
                keyid: key.id,
                name: key.name,
                made: clock::day(key.created),
            })
            .collect(),
        sessions: sessions
            .into_iter()
            .map(|session| SessionView {
                since: clock::human(session.created),
                current: current == Some(session.id),
                agent: if session.agent.is_empty() {
                    "A browser".to_owned()
                } else {
                    session.agent
                },
            })
            .collect(),
    };
    ctx.html(&body)
}

/// `GET /manage/keys`.
pub(super) async fn keys_form(ctx: Ctx) -> Answer {
    Ok(keys_page(&ctx, String::new()).await?)
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct KeysInput {
    csrf: String,
    action: String,
    name: String,
    keyid: i64,
}

/// `POST /manage/keys`.
pub(super) async fn keys(ctx: Ctx, Form(input): Form<KeysInput>) -> Answer {
    ctx.check(&input.csrf)?;
    let me = ctx.must()?.user.id;
    match (input.action.as_str(), &ctx.session) {
        ("make", _) => {
            let key = session::make_key(&ctx.app, me, &input.name).await?;
            return Ok(keys_page(&ctx, key).await?);
        }
        ("revoke", _) => session::revoke_key(&ctx.app, me, input.keyid).await?,
        ("logout_others", Some(session)) => {
            session::end(&ctx.app, me, Which::AllBut(session.id)).await?
        }
        _ => return Err(Error::NotFound.into()),
    }
    Ok(see("/manage/keys"))
}

#[derive(Debug, Template)]
#[template(path = "inbox.html")]
struct Inbox {
    page: Page,
    notices: Vec<NoticeView>,
}

#[derive(Debug)]
struct NoticeView {
    title: String,
    url: String,
    when: String,
    iso: String,
    unread: bool,
}

/// `GET /inbox`: shows the notices and marks them as seen.
pub(super) async fn inbox(ctx: Ctx) -> Answer {
    let me = ctx.must()?.user.id;
    let now = clock::now();
    let found = notices::newest(&ctx.app, me).await?;
    let has_unread = found.iter().any(|notice| notice.is_unread);
    let list = found
        .into_iter()
        .map(|notice| NoticeView {
            when: clock::ago(notice.created, now),
            iso: clock::iso(notice.created),
            unread: notice.is_unread,
            title: notice.title,
            url: notice.url,
        })
        .collect();
    let body = Inbox {
        page: ctx.page("Inbox", "inbox").await?,
        notices: list,
    };
    let response = ctx.html(&body)?;
    if has_unread {
        notices::mark_read(&ctx.app, me).await?;
    }
    Ok(response)
}

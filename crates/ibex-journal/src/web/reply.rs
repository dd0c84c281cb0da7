//! Commenting: the form, the post, and what may be done to a comment.
//!
//! Apart from the entry's page, which shows the outcome.

use super::ctx::Ctx;
use super::{Answer, journal, see, view};
use crate::circle;
use crate::comment::{self, Draft, State};
use crate::entry::{self, EntryRow};
use crate::error::{Error, Result};
use crate::markup;
use crate::notify;
use crate::user::User;
use axum::Form;
use axum::extract::Path;
use ibex_cluster::UserId;

/// The form under an entry.
#[derive(Debug)]
pub(super) struct ReplyForm {
    pub(super) headline: String,
    pub(super) parent: i64,
    pub(super) once: String,
    pub(super) subject: String,
    pub(super) body: String,
    pub(super) quoted_html: String,
    pub(super) error: String,
    pub(super) login_needed: bool,
}

/// A form to answer the entry (0) or a comment, given by its public number.
pub(super) async fn form(
    ctx: &Ctx,
    owner: &User,
    row: &EntryRow,
    parent: i64,
    draft: Draft,
    error: String,
) -> Result<ReplyForm> {
    let mut form = ReplyForm {
        headline: "Your comment".to_owned(),
        parent,
        once: crate::token::random(12),
        subject: draft.subject,
        body: draft.body,
        quoted_html: String::new(),
        error,
        login_needed: ctx.viewer.is_none() && owner.whocanreply != "all",
    };
    if parent != 0 {
        let id = parent_id(row, parent)?;
        let all = comment::all(&ctx.app, owner.id, row.jitemid).await?;
        let talk = all
            .iter()
            .find(|talk| talk.id == id && talk.state != State::Deleted)
            .ok_or(Error::NotFound)?;
        if !comment::sees(ctx.viewer.as_ref(), row, talk, &all) {
            return Err(Error::NotFound);
        }
        let text = comment::texts(&ctx.app, owner.id, &[id])
            .await?
            .remove(&id)
            .unwrap_or_default();
        form.quoted_html = markup::comment(&text.body);
        form.headline = "Your answer".to_owned();
        if form.subject.is_empty() && !text.subject.is_empty() {
            form.subject = if text.subject.starts_with("Re:") {
                text.subject
            } else {
                format!("Re: {}", text.subject)
            };
        }
    }
    Ok(form)
}

/// Number of a comment from its public one, which carries the random part of its entry.
fn parent_id(row: &EntryRow, public: i64) -> Result<i64> {
    let (id, anum) = entry::split_public(public);
    if anum == row.anum {
        Ok(id)
    } else {
        Err(Error::NotFound)
    }
}

#[derive(Debug, serde::Deserialize)]
pub(super) struct ReplyInput {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    parent: i64,
    #[serde(default)]
    once: String,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    website: String,
}

/// `POST /users/NAME/NNN.html/reply`.
pub(super) async fn reply(
    ctx: Ctx,
    Path((name, file)): Path<(String, String)>,
    Form(input): Form<ReplyInput>,
) -> Answer {
    ctx.check(&input.csrf)?;
    let (owner, row) = journal::entry_of(&ctx, &name, &file).await?;
    let draft = Draft {
        parent: 0,
        subject: input.subject,
        body: input.body,
    };
    let posted = post(
        &ctx,
        &owner,
        row,
        &draft,
        input.parent,
        &input.once,
        input.website.is_empty(),
    )
    .await;
    match posted {
        Ok(id) => Ok(see(&notify::comment_path(&owner.name, &row, id))),
        Err(Error::Invalid(why)) => {
            let form = form(&ctx, &owner, &row, input.parent, draft, why).await?;
            journal::entry_with_form(&ctx, &owner, row, form).await
        }
        Err(error) => Err(error.into()),
    }
}

async fn post(
    ctx: &Ctx,
    owner: &User,
    row: EntryRow,
    draft: &Draft,
    parent: i64,
    once: &str,
    is_human: bool,
) -> Result<i64> {
    let text = entry::texts(&ctx.app, &[(owner.id, row.jitemid)])
        .await?
        .remove(&(owner.id, row.jitemid))
        .unwrap_or_default();
    if let Some(why) = comment::closed(
        ctx.viewer.as_ref(),
        owner,
        &row,
        !text.prop("opt_nocomments").is_empty(),
    ) {
        return Err(Error::invalid(why));
    }
    if !is_human {
        return Err(Error::invalid(
            "The field that people leave empty was filled in.",
        ));
    }
    let parent = if parent == 0 {
        0
    } else {
        parent_id(&row, parent)?
    };
    let poster = ctx
        .viewer
        .as_ref()
        .map_or(UserId(0), |viewer| viewer.user.id);
    // The form was sent twice: the first one counts.
    let key = crate::keys::Key {
        by: owner.id.0,
        text: format!(
            "once:{}:{}:{}",
            owner.id,
            poster,
            crate::token::md5(once.as_bytes())
        ),
    };
    if !once.is_empty()
        && ctx
            .app
            .cache
            .count(&key, std::time::Duration::from_secs(3600))
            .await
            .is_some_and(|uses| uses > 1)
    {
        return Err(Error::invalid("This comment was posted already."));
    }
    comment::post(
        &ctx.app,
        row,
        poster,
        Draft {
            parent,
            ..draft.clone()
        },
    )
    .await
}

#[derive(Debug, serde::Deserialize)]
pub(super) struct ActInput {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    action: String,
}

/// `POST /users/NAME/NNN.html/comment/ID`: delete, screen, freeze and back.
pub(super) async fn act(
    ctx: Ctx,
    Path((name, file, public)): Path<(String, String, i64)>,
    Form(input): Form<ActInput>,
) -> Answer {
    ctx.check(&input.csrf)?;
    let reader = ctx.must()?.user.id;
    let (owner, row) = journal::entry_of(&ctx, &name, &file).await?;
    let id = parent_id(&row, public)?;
    let all = comment::all(&ctx.app, owner.id, row.jitemid).await?;
    let talk = all
        .iter()
        .find(|talk| talk.id == id && talk.state != State::Deleted)
        .ok_or(Error::NotFound)?;
    if !comment::sees(ctx.viewer.as_ref(), &row, talk, &all) {
        return Err(Error::NotFound.into());
    }
    let looks_after = circle::manages(ctx.viewer.as_ref(), owner.id) || reader == row.poster;
    let state = match (input.action.as_str(), looks_after) {
        ("delete", true) => State::Deleted,
        ("delete", false) if talk.poster == reader => State::Deleted,
        ("screen", true) => State::Screened,
        ("freeze", true) => State::Frozen,
        ("unscreen" | "thaw", true) => State::Active,
        _ => return Err(Error::Refused("This is not yours to change.").into()),
    };
    comment::set_state(&ctx.app, row, id, state).await?;
    let url = view::entry_url(&owner.name, row.ditemid());
    Ok(see(&format!("{url}?thread={public}#cmt{public}")))
}

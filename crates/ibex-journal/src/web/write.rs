//! Posting, editing and deleting entries.
//!
//! Apart from reading. An entry is changed by its author or by those who look after the journal.

use super::ctx::Ctx;
use super::view::{self, Page};
use super::{Answer, journal, see};
use crate::circle;
use crate::entry::{self, Draft, EntryRow};
use crate::error::{Error, Result};
use crate::user::{self, User};
use crate::visibility::{Kind, Security};
use askama::Template;
use axum::Form;
use axum::extract::{Path, Query};
use ibex_cluster::UserId;
use std::collections::BTreeMap;

#[derive(Debug, Template)]
#[template(path = "update.html")]
struct Update {
    page: Page,
    headline: &'static str,
    action: String,
    button: &'static str,
    editing: bool,
    error: String,
    journals: Vec<String>,
    form: EntryForm,
}

/// The form as typed.
#[derive(Debug, Default, Clone, serde::Deserialize)]
#[serde(default)]
pub(super) struct EntryForm {
    csrf: String,
    journal: String,
    subject: String,
    event: String,
    security: String,
    format: String,
    tags: String,
    mood: String,
    music: String,
    location: String,
    #[serde(deserialize_with = "checked")]
    nocomments: bool,
    delete: String,
}

fn checked<'de, D: serde::Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    let text: String = serde::Deserialize::deserialize(from)?;
    Ok(!text.is_empty())
}

impl EntryForm {
    fn empty() -> Self {
        Self {
            security: "public".to_owned(),
            format: "html".to_owned(),
            ..Self::default()
        }
    }

    fn of(row: &EntryRow, text: &entry::Text, journal: &str) -> Self {
        Self {
            journal: journal.to_owned(),
            subject: text.subject.clone(),
            event: text.body.clone(),
            security: row.security.word().to_owned(),
            format: if text.prop("editor") == "markdown" {
                "markdown"
            } else {
                "html"
            }
            .to_owned(),
            tags: text.tags.join(", "),
            mood: text.prop("current_mood").to_owned(),
            music: text.prop("current_music").to_owned(),
            location: text.prop("current_location").to_owned(),
            nocomments: !text.prop("opt_nocomments").is_empty(),
            ..Self::default()
        }
    }

    /// What is to be stored; properties that the form does not show stay as they were.
    fn draft(&self, old: Option<(&EntryRow, &entry::Text)>) -> Draft {
        let mut props: BTreeMap<String, String> =
            old.map(|(_, text)| text.props.clone()).unwrap_or_default();
        let mut set =
            |name: &str, value: &str| drop(props.insert(name.to_owned(), value.trim().to_owned()));
        set("current_mood", &self.mood);
        set("current_music", &self.music);
        set("current_location", &self.location);
        set(
            "editor",
            if self.format == "markdown" {
                "markdown"
            } else {
                ""
            },
        );
        set("opt_nocomments", if self.nocomments { "1" } else { "" });
        // A mask of groups is kept as long as the form still says "friends".
        let security = match (
            Security::from_word(&self.security),
            old.map(|(row, _)| row.security),
        ) {
            (Security::Mask(_), Some(old @ Security::Mask(_))) => old,
            (chosen, _) => chosen,
        };
        Draft {
            subject: self.subject.clone(),
            body: self.event.clone(),
            security,
            eventtime: None,
            props,
            tags: self.tags.split(',').map(str::to_owned).collect(),
        }
    }
}

/// Journals one may post to: one's own, and communities one belongs to.
async fn journals(ctx: &Ctx) -> Result<Vec<User>> {
    let viewer = ctx.must()?;
    let ids: Vec<UserId> = viewer.communities().collect();
    let mut found: Vec<User> = user::by_ids(&ctx.app, &ids)
        .await?
        .into_values()
        .filter(|user| user.kind == Kind::Community && user.is_visible())
        .collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found.insert(0, viewer.user.clone());
    Ok(found)
}

#[derive(Debug, Default, serde::Deserialize)]
pub(super) struct Preset {
    #[serde(default)]
    usejournal: String,
    #[serde(default)]
    event: String,
    #[serde(default)]
    subject: String,
}

/// `GET /update`.
pub(super) async fn update_form(ctx: Ctx, Query(preset): Query<Preset>) -> Answer {
    ctx.must()?;
    let form = EntryForm {
        journal: preset.usejournal,
        event: preset.event,
        subject: preset.subject,
        ..EntryForm::empty()
    };
    Ok(ctx.html(&update_page(&ctx, form, String::new()).await?)?)
}

async fn update_page(ctx: &Ctx, form: EntryForm, error: String) -> Result<Update> {
    let journals = journals(ctx).await?;
    let names = if journals.len() > 1 {
        journals.into_iter().map(|user| user.name).collect()
    } else {
        Vec::new()
    };
    let page = ctx.page("Post an entry", "update").await?;
    Ok(Update {
        page,
        headline: "New entry",
        action: "/update".to_owned(),
        button: "Post",
        editing: false,
        error,
        journals: names,
        form,
    })
}

/// `POST /update`.
pub(super) async fn update(ctx: Ctx, Form(form): Form<EntryForm>) -> Answer {
    ctx.check(&form.csrf)?;
    let poster = ctx.must()?.user.id;
    let journals = journals(&ctx).await?;
    let target = if form.journal.is_empty() {
        journals.first()
    } else {
        journals.iter().find(|user| user.name == form.journal)
    };
    let Some(target) = target else {
        return Err(Error::Refused("You may not post to that journal.").into());
    };
    match entry::post(&ctx.app, target.id, poster, form.draft(None)).await {
        Ok(row) => Ok(see(&view::entry_url(&target.name, row.ditemid()))),
        Err(Error::Invalid(why)) => Ok(ctx.refused(&update_page(&ctx, form, why).await?)?),
        Err(error) => Err(error.into()),
    }
}

/// The entry of an address, if the reader may change it.
async fn editable(ctx: &Ctx, name: &str, file: &str) -> Result<(User, EntryRow)> {
    let reader = ctx.must()?.user.id;
    let (owner, row) = journal::entry_of(ctx, name, file).await?;
    if row.poster == reader || circle::manages(ctx.viewer.as_ref(), owner.id) {
        Ok((owner, row))
    } else {
        Err(Error::Refused("This entry is not yours."))
    }
}

async fn text_of(ctx: &Ctx, row: &EntryRow) -> Result<entry::Text> {
    entry::texts(&ctx.app, &[(row.journal, row.jitemid)])
        .await?
        .remove(&(row.journal, row.jitemid))
        .ok_or(Error::NotFound)
}

/// `GET /users/NAME/NNN.html/edit`.
pub(super) async fn edit_form(ctx: Ctx, Path((name, file)): Path<(String, String)>) -> Answer {
    let (owner, row) = editable(&ctx, &name, &file).await?;
    let form = EntryForm::of(&row, &text_of(&ctx, &row).await?, &owner.name);
    Ok(ctx.html(&edit_page(&ctx, &owner, &row, form, String::new()).await?)?)
}

async fn edit_page(
    ctx: &Ctx,
    owner: &User,
    row: &EntryRow,
    form: EntryForm,
    error: String,
) -> Result<Update> {
    let action = format!("{}/edit", view::entry_url(&owner.name, row.ditemid()));
    let page = ctx.page("Edit entry", "").await?;
    Ok(Update {
        page,
        headline: "Edit entry",
        action,
        button: "Save",
        editing: true,
        error,
        journals: Vec::new(),
        form,
    })
}

#[derive(Debug, Template)]
#[template(path = "confirm.html")]
struct Confirm {
    page: Page,
    headline: &'static str,
    text: String,
    action: String,
    fields: Vec<(&'static str, &'static str)>,
    button: &'static str,
    back: String,
}

/// `POST /users/NAME/NNN.html/edit`: saves, or deletes after asking once more.
pub(super) async fn edit(
    ctx: Ctx,
    Path((name, file)): Path<(String, String)>,
    Form(form): Form<EntryForm>,
) -> Answer {
    ctx.check(&form.csrf)?;
    let (owner, row) = editable(&ctx, &name, &file).await?;
    let url = view::entry_url(&owner.name, row.ditemid());
    match form.delete.as_str() {
        "" => {}
        "sure" => {
            entry::delete(&ctx.app, owner.id, row.jitemid).await?;
            return Ok(see(&format!("/users/{}/", owner.name)));
        }
        _ => {
            let body = Confirm {
                page: ctx.page("Delete entry", "").await?,
                headline: "Delete this entry?",
                text: format!("It goes with its {} comments, for good.", row.replies),
                action: format!("{url}/edit"),
                fields: vec![("delete", "sure")],
                button: "Delete for good",
                back: url,
            };
            return Ok(ctx.html(&body)?);
        }
    }
    let old = text_of(&ctx, &row).await?;
    match entry::edit(
        &ctx.app,
        owner.id,
        row.jitemid,
        form.draft(Some((&row, &old))),
    )
    .await
    {
        Ok(()) => Ok(see(&url)),
        Err(Error::Invalid(why)) => {
            Ok(ctx.refused(&edit_page(&ctx, &owner, &row, form, why).await?)?)
        }
        Err(error) => Err(error.into()),
    }
}

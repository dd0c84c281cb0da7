//! Managing friends.
//!
//! Apart because one form serves three pages: the list here, the journal, the profile.

use super::ctx::Ctx;
use super::view::{Page, Person};
use super::{Answer, see};
use crate::circle as edges;
use crate::error::{Error, Result};
use crate::user;
use askama::Template;
use axum::Form;
use ibex_cluster::UserId;

#[derive(Debug, Template)]
#[template(path = "circle.html")]
struct Circle {
    page: Page,
    friends: Vec<Person>,
    error: String,
}

async fn page(ctx: &Ctx, error: String) -> Result<Circle> {
    let me = ctx.must()?.user.id;
    let ids: Vec<UserId> = edges::outgoing(&ctx.app, me)
        .await?
        .iter()
        .map(|edge| edge.other)
        .collect();
    let mut friends: Vec<Person> = user::by_ids(&ctx.app, &ids)
        .await?
        .values()
        .map(Person::of)
        .collect();
    friends.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Circle {
        page: ctx.page("Friends", "").await?,
        friends,
        error,
    })
}

/// `GET /manage/circle`.
pub(super) async fn form(ctx: Ctx) -> Answer {
    Ok(ctx.html(&page(&ctx, String::new()).await?)?)
}

#[derive(Debug, serde::Deserialize)]
pub(super) struct Input {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    action: String,
    #[serde(default)]
    user: String,
}

/// `POST /manage/circle`.
pub(super) async fn change(ctx: Ctx, Form(input): Form<Input>) -> Answer {
    ctx.check(&input.csrf)?;
    let me = &ctx.must()?.user;
    let outcome = match user::by_name(&ctx.app, &input.user).await {
        Ok(other) if input.action == "remove" => edges::remove(&ctx.app, me, &other).await,
        Ok(other) if other.is_visible() => edges::add(&ctx.app, me, &other).await,
        Ok(_) | Err(Error::NotFound) => Err(Error::invalid("There is nobody of that name.")),
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => Ok(see("/manage/circle")),
        Err(Error::Invalid(why)) => Ok(ctx.refused(&page(&ctx, why).await?)?),
        Err(error) => Err(error.into()),
    }
}

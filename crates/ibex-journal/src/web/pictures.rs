//! Icons and photos: upload, lists, and the files themselves.
//!
//! Apart because a file leaves in one of two ways (spec/journal.md §10): if the balancer in front says it can, it is told where the
//! file is (`X-REPROXY-URL`) and fetches it; else it is streamed from here. Either way after the check who asks.

use super::ctx::Ctx;
use super::view::Page;
use super::{Answer, journal, see};
use crate::app::App;
use crate::circle;
use crate::clock;
use crate::error::{Error, Result};
use crate::keys;
use crate::media::{self, Size};
use crate::picture;
use crate::user;
use crate::visibility::Security;
use askama::Template;
use axum::Form;
use axum::extract::{Multipart, Path};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use ibex_cluster::UserId;

#[derive(Debug, Template)]
#[template(path = "icons.html")]
struct Icons {
    page: Page,
    headline: String,
    error: String,
    own: bool,
    icons: Vec<Icon>,
}

#[derive(Debug)]
struct Icon {
    picid: i64,
    url: String,
    keyword: String,
    is_default: bool,
}

async fn icons_page(ctx: &Ctx, of: &user::User, own: bool, error: String) -> Result<Icons> {
    let icons = picture::all(&ctx.app, of.id).await?;
    let icons = icons
        .into_iter()
        .map(|icon| Icon {
            picid: icon.id,
            url: format!("/userpic/{}/{}", icon.id, of.id),
            is_default: icon.id == of.picid,
            keyword: icon.keyword,
        })
        .collect();
    let headline = if own {
        "Your icons".to_owned()
    } else {
        format!("Icons of {}", of.name)
    };
    Ok(Icons {
        page: ctx.page(headline.clone(), "").await?,
        headline,
        error,
        own,
        icons,
    })
}

/// `GET /users/NAME/icons`.
pub(super) async fn icons(ctx: Ctx, Path(name): Path<String>) -> Answer {
    let owner = journal::journal(&ctx, &name).await?;
    Ok(ctx.html(&icons_page(&ctx, &owner, false, String::new()).await?)?)
}

/// `GET /manage/icons`.
pub(super) async fn icons_form(ctx: Ctx) -> Answer {
    let me = ctx.must()?.user.clone();
    Ok(ctx.html(&icons_page(&ctx, &me, true, String::new()).await?)?)
}

/// An upload form as sent: the token, one file, short texts.
#[derive(Debug, Default)]
struct Upload {
    csrf: String,
    file: Bytes,
    texts: std::collections::BTreeMap<String, String>,
}

impl Upload {
    async fn read(mut form: Multipart) -> Result<Self> {
        let broken = |error: axum::extract::multipart::MultipartError| {
            Error::Invalid(format!("The upload broke off: {error}"))
        };
        let mut upload = Self::default();
        while let Some(field) = form.next_field().await.map_err(broken)? {
            let name = field.name().unwrap_or_default().to_owned();
            let content = field.bytes().await.map_err(broken)?;
            match name.as_str() {
                "file" => upload.file = content,
                "csrf" => upload.csrf = String::from_utf8_lossy(&content).into_owned(),
                _ => drop(upload.texts.insert(
                    name,
                    String::from_utf8_lossy(content.get(..1000).unwrap_or(&content)).into_owned(),
                )),
            }
        }
        Ok(upload)
    }

    fn text(&self, name: &str) -> &str {
        self.texts.get(name).map_or("", String::as_str)
    }
}

/// `POST /manage/icons`.
pub(super) async fn upload_icon(ctx: Ctx, form: Multipart) -> Answer {
    let upload = Upload::read(form).await?;
    ctx.check(&upload.csrf)?;
    let me = ctx.must()?.user.clone();
    match picture::upload(&ctx.app, me.id, upload.text("keyword"), upload.file.clone()).await {
        Ok(_) => Ok(see("/manage/icons")),
        Err(Error::Invalid(why)) => Ok(ctx.refused(&icons_page(&ctx, &me, true, why).await?)?),
        Err(error) => Err(error.into()),
    }
}

#[derive(Debug, serde::Deserialize)]
pub(super) struct Act {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    action: String,
    #[serde(default)]
    picid: i64,
    #[serde(default)]
    mediaid: i64,
}

/// `POST /manage/icons/act`.
pub(super) async fn act_icon(ctx: Ctx, Form(input): Form<Act>) -> Answer {
    ctx.check(&input.csrf)?;
    let me = ctx.must()?.user.id;
    match input.action.as_str() {
        "default" => picture::set_default(&ctx.app, me, input.picid).await?,
        "delete" => picture::delete(&ctx.app, me, input.picid).await?,
        _ => return Err(Error::NotFound.into()),
    }
    Ok(see("/manage/icons"))
}

#[derive(Debug, Template)]
#[template(path = "photos.html")]
struct Photos {
    page: Page,
    error: String,
    photos: Vec<PhotoView>,
}

#[derive(Debug)]
struct PhotoView {
    mediaid: i64,
    url: String,
    thumb: String,
    title: String,
    security: &'static str,
}

async fn photos_page(ctx: &Ctx, error: String) -> Result<Photos> {
    let me = &ctx.must()?.user;
    let photos = media::all(&ctx.app, me.id).await?;
    let photos = photos
        .iter()
        .map(|photo| {
            let url = format!("/photo/{}/{}", me.name, photo.public());
            PhotoView {
                mediaid: photo.id,
                thumb: format!("{url}/thumb"),
                url,
                title: photo.title.clone(),
                security: photo.security.word(),
            }
        })
        .collect();
    Ok(Photos {
        page: ctx.page("Photos", "photos").await?,
        error,
        photos,
    })
}

/// `GET /manage/photos`.
pub(super) async fn photos(ctx: Ctx) -> Answer {
    Ok(ctx.html(&photos_page(&ctx, String::new()).await?)?)
}

/// `POST /manage/photos`.
pub(super) async fn upload_photo(ctx: Ctx, form: Multipart) -> Answer {
    let upload = Upload::read(form).await?;
    ctx.check(&upload.csrf)?;
    let me = ctx.must()?.user.id;
    let security = Security::from_word(upload.text("security"));
    match media::upload(
        &ctx.app,
        me,
        upload.text("title"),
        security,
        upload.file.clone(),
    )
    .await
    {
        Ok(_) => Ok(see("/manage/photos")),
        Err(Error::Invalid(why)) => Ok(ctx.refused(&photos_page(&ctx, why).await?)?),
        Err(error) => Err(error.into()),
    }
}

/// `POST /manage/photos/act`.
pub(super) async fn act_photo(ctx: Ctx, Form(input): Form<Act>) -> Answer {
    ctx.check(&input.csrf)?;
    let me = ctx.must()?.user.id;
    if input.action != "delete" {
        return Err(Error::NotFound.into());
    }
    media::delete(&ctx.app, me, input.mediaid).await?;
    Ok(see("/manage/photos"))
}

/// `GET /userpic/PICID/USERID`: public, and never another picture under this address.
pub(super) async fn userpic(ctx: Ctx, Path((picid, userid)): Path<(i64, u32)>) -> Answer {
    let user = UserId(userid);
    let icon = picture::all(&ctx.app, user)
        .await?
        .into_iter()
        .find(|icon| icon.id == picid)
        .ok_or(Error::NotFound)?;
    let file = picture::file_key(user, picid);
    send(
        &ctx,
        &Outgoing {
            user,
            file,
            mime: &icon.mime,
            is_public: true,
            created: 0,
            etag: format!("\"{}\"", icon.md5),
        },
    )
    .await
}

/// `GET /photo/NAME/NUMBER`.
pub(super) async fn photo(ctx: Ctx, Path((name, number)): Path<(String, i64)>) -> Answer {
    send_photo(&ctx, &name, number, Size::Full).await
}

/// `GET /photo/NAME/NUMBER/thumb`.
pub(super) async fn photo_sized(
    ctx: Ctx,
    Path((name, number, size)): Path<(String, i64, String)>,
) -> Answer {
    if size != "thumb" {
        return Err(Error::NotFound.into());
    }
    send_photo(&ctx, &name, number, Size::Thumb).await
}

async fn send_photo(ctx: &Ctx, name: &str, number: i64, size: Size) -> Answer {
    let owner = journal::journal(ctx, name).await?;
    let photo = media::by_public(&ctx.app, owner.id, number).await?;
    if !circle::sees(ctx.viewer.as_ref(), &owner, photo.security) {
        return Err(Error::NotFound.into());
    }
    let file = media::file_key(owner.id, photo.id, size);
    let etag = format!("\"{}\"", crate::token::md5(file.as_bytes()));
    let is_public = photo.security == Security::Public;
    send(
        ctx,
        &Outgoing {
            user: owner.id,
            file,
            mime: &photo.mime,
            is_public,
            created: photo.created,
            etag,
        },
    )
    .await
}

/// A file on its way out, after the check.
struct Outgoing<'a> {
    user: UserId,
    file: String,
    mime: &'a str,
    is_public: bool,
    created: i64,
    etag: String,
}

/// Life of public files in browsers and between: they never change.
const PUBLIC_LIFE: &str = "public, max-age=31536000, immutable";
/// Protected ones are asked for again, since what one may see changes.
const PRIVATE_LIFE: &str = "private, no-cache";

async fn send(ctx: &Ctx, out: &Outgoing<'_>) -> Answer {
    if ctx.has(&out.etag, None) {
        return Ok(with_headers(StatusCode::NOT_MODIFIED.into_response(), out)?);
    }
    if ctx.may_reproxy {
        let places = places(&ctx.app, out).await;
        if !places.is_empty() {
            let mut response = with_headers(StatusCode::OK.into_response(), out)?;
            let urls = HeaderValue::from_str(&places.join(" "))
                .map_err(|error| Error::Bug(error.to_string()))?;
            response.headers_mut().insert("x-reproxy-url", urls);
            if out.is_public {
                response.headers_mut().insert(
                    "x-reproxy-cache-for",
                    HeaderValue::from_static("3600; Last-Modified Content-Type"),
                );
            }
            return Ok(response);
        }
    }
    match ctx.app.files.get(&out.file).await {
        Ok(Some(content)) => Ok(with_headers(content.into_response(), out)?),
        Ok(None) => Err(Error::NotFound.into()),
        Err(_) => Ok(placeholder()),
    }
}

/// Where the file is, remembered for some minutes; empty when that cannot be said now.
async fn places(app: &App, out: &Outgoing<'_>) -> Vec<String> {
    let load = || async {
        app.files
            .places(&out.file)
            .await
            .map(|places| (!places.is_empty()).then_some(places))
    };
    app.cache
        .one(keys::PATHS, keys::paths(out.user, &out.file), load)
        .await
        .ok()
        .flatten()
        .unwrap_or_default()
}

fn with_headers(mut response: Response, out: &Outgoing<'_>) -> Result<Response> {
    let value =
        |text: &str| HeaderValue::from_str(text).map_err(|error| Error::Bug(error.to_string()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, value(out.mime)?);
    headers.insert(header::ETAG, value(&out.etag)?);
    headers.insert(
        header::CACHE_CONTROL,
        value(if out.is_public {
            PUBLIC_LIFE
        } else {
            PRIVATE_LIFE
        })?,
    );
    if out.created > 0 {
        headers.insert(header::LAST_MODIFIED, value(&clock::http(out.created))?);
    }
    Ok(response)
}

/// A grey picture for a store that is away; asked for again soon.
fn placeholder() -> Response {
    let svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"100\" height=\"100\"><rect width=\"100\" height=\"100\" fill=\"#9994\"/></svg>";
    let head = [
        (header::CONTENT_TYPE, "image/svg+xml"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (StatusCode::SERVICE_UNAVAILABLE, head, svg).into_response()
}

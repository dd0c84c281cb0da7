//! Reading: the front page, journals, entries with their threads, friends pages, profiles, archives, feeds.
//!
//! Apart from writing. Each handler finds the journal, asks `circle::sees` about each thing it shows, and renders.

use super::ctx::Ctx;
use super::reply::{self, ReplyForm};
use super::view::{self, EntryView, FeedLink, FriendForm, JournalHead, Page, Person};
use super::{Answer, Refusal};
use crate::circle;
use crate::comment::{self, Placed, State as TalkState};
use crate::entry::{self, EntryRow};
use crate::error::{Error, Result};
use crate::feed as feeds;
use crate::reading::{self, PAGE, SKIP_MAX};
use crate::user::{self, User};
use crate::visibility::{Kind, Security};
use crate::{clock, keys, markup, picture, token};
use askama::Template;
use axum::extract::{OriginalUri, Path, Query};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Redirect};
use ibex_cluster::UserId;
use std::collections::{BTreeMap, BTreeSet};

/// Threads on one page of an entry.
const THREADS: usize = 25;

#[derive(Debug, Default, serde::Deserialize)]
pub(super) struct Paging {
    #[serde(default)]
    skip: usize,
    #[serde(default)]
    after: u32,
}

#[derive(Debug, Template)]
#[template(path = "home.html")]
struct Home {
    page: Page,
    entries: Vec<EntryView>,
    newest: Vec<Person>,
}

/// `GET /`.
pub(super) async fn home(ctx: Ctx) -> Answer {
    front(&ctx, 0, "").await
}

/// `GET /latest`.
pub(super) async fn latest(ctx: Ctx, Query(paging): Query<Paging>) -> Answer {
    front(&ctx, paging.skip, "latest").await
}

async fn front(ctx: &Ctx, skip: usize, here: &'static str) -> Answer {
    let page = reading::latest(&ctx.app, skip).await?;
    let entries = entry::with_texts(&ctx.app, &page.rows).await?;
    let newest = user::newest(&ctx.app, 24)
        .await?
        .iter()
        .map(Person::of)
        .collect();
    let body = Home {
        page: ctx.page("Latest entries", here).await?,
        entries: view::entries(ctx, &entries, false).await?,
        newest,
    };
    Ok(ctx.html(&body)?)
}

#[derive(Debug, Template)]
#[template(path = "people.html")]
struct People {
    page: Page,
    people: Vec<Person>,
    more: Option<String>,
}

/// `GET /people`.
pub(super) async fn people(ctx: Ctx, Query(paging): Query<Paging>) -> Answer {
    let users = user::page(&ctx.app, paging.after, 60).await?;
    let more = users
        .last()
        .filter(|_| users.len() == 60)
        .map(|last| format!("/people?after={}", last.id));
    let body = People {
        page: ctx.page("People", "people").await?,
        people: users.iter().map(Person::of).collect(),
        more,
    };
    Ok(ctx.html(&body)?)
}

/// Addresses of the original that are written otherwise: `/~NAME/…`, `/community/NAME/…`.
pub(super) async fn elsewhere(OriginalUri(uri): OriginalUri) -> Answer {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let rest = path
        .strip_prefix("/~")
        .or_else(|| path.strip_prefix("/community/"));
    match rest.filter(|rest| !rest.is_empty() && !rest.starts_with('/')) {
        Some(rest) => Ok(Redirect::permanent(&format!("/users/{rest}")).into_response()),
        None => Err(Refusal(Error::NotFound)),
    }
}

/// `/users/NAME` lacks its slash.
pub(super) async fn to_slash(Path(name): Path<String>) -> Answer {
    let name = user::canonical(&name).ok_or(Error::NotFound)?;
    Ok(Redirect::permanent(&format!("/users/{name}/")).into_response())
}

/// The journal of an address, if it may be shown at all.
pub(super) async fn journal(ctx: &Ctx, name: &str) -> Result<User> {
    let user = user::by_name(&ctx.app, name).await?;
    if user.is_visible() {
        Ok(user)
    } else {
        Err(Error::NotFound)
    }
}

fn links(user: &User) -> Vec<FeedLink> {
    let link = |mime, kind: &str| FeedLink {
        mime,
        title: format!("{} ({kind})", user.name),
        href: format!("/users/{}/data/{kind}", user.name),
    };
    vec![
        link("application/atom+xml", "atom"),
        link("application/rss+xml", "rss"),
    ]
}

fn friend_form(ctx: &Ctx, journal: &User, is_friend: bool) -> Option<FriendForm> {
    let reader = ctx
        .viewer
        .as_ref()
        .filter(|reader| reader.user.id != journal.id)?;
    let _: UserId = reader.user.id;
    let user = journal.name.clone();
    Some(match (journal.kind, is_friend) {
        (Kind::Community, false) => FriendForm {
            user,
            action: "add",
            headline: "Community",
            text: "Members read what is locked for members, and may post here.",
            button: "Join",
        },
        (Kind::Community, true) => FriendForm {
            user,
            action: "remove",
            headline: "Community",
            text: "You are a member.",
            button: "Leave",
        },
        (_, false) => FriendForm {
            user,
            action: "add",
            headline: "Friend?",
            text: "Friends may read what you lock for friends, and you read them on your friends page.",
            button: "Add as friend",
        },
        (_, true) => FriendForm {
            user,
            action: "remove",
            headline: "Friend",
            text: "This is a friend of yours.",
            button: "Remove",
        },
    })
}

async fn is_friend(ctx: &Ctx, journal: &User) -> Result<bool> {
    match &ctx.viewer {
        Some(reader) => Ok(circle::outgoing(&ctx.app, reader.user.id)
            .await?
            .iter()
            .any(|edge| edge.other == journal.id)),
        None => Ok(false),
    }
}

#[derive(Debug, Template)]
#[template(path = "journal.html")]
struct Journal {
    page: Page,
    journal: JournalHead,
    entries: Vec<EntryView>,
    tag: String,
    tags: Vec<String>,
    bio_html: String,
    friend_form: Option<FriendForm>,
    newer: Option<String>,
    older: Option<String>,
}

/// `GET /users/NAME/`.
pub(super) async fn recent(
    ctx: Ctx,
    Path(name): Path<String>,
    Query(paging): Query<Paging>,
) -> Answer {
    let owner = journal(&ctx, &name).await?;
    let skip = paging.skip.min(SKIP_MAX * 10);
    let (rows, has_more) = visible_rows(&ctx, &owner, skip).await?;
    let base = format!("/users/{}/", owner.name);
    let newer = (skip > 0).then(|| {
        if skip <= PAGE {
            base.clone()
        } else {
            format!("{base}?skip={}", skip - PAGE)
        }
    });
    let older = has_more.then(|| format!("{base}?skip={}", skip + PAGE));
    show(&ctx, &owner, &rows, String::new(), (newer, older)).await
}

/// One page of the entries a reader sees, newest first: the cached list first, deeper ones from the cluster.
async fn visible_rows(ctx: &Ctx, owner: &User, skip: usize) -> Result<(Vec<EntryRow>, bool)> {
    let reader = ctx.viewer.as_ref();
    let wanted = skip + PAGE + 1;
    let cached = entry::recent(&ctx.app, &[owner.id])
        .await?
        .0
        .remove(&owner.id);
    let cached = match cached {
        Some(cached) => cached,
        // Its cluster was late; ask it alone, and let its error be seen.
        None => entry::newest_of(&ctx.app, owner.id, entry::RECENT_MAX, 0).await?,
    };
    let mut offset = u32::try_from(cached.len()).unwrap_or(u32::MAX);
    let is_all = offset < entry::RECENT_MAX;
    let mut seen: Vec<EntryRow> = cached
        .into_iter()
        .filter(|row| circle::sees(reader, owner, row.security))
        .collect();
    let mut is_all = is_all;
    while seen.len() < wanted && !is_all {
        let more = entry::newest_of(&ctx.app, owner.id, 200, offset).await?;
        is_all = more.len() < 200;
        offset += 200;
        seen.extend(
            more.into_iter()
                .filter(|row| circle::sees(reader, owner, row.security)),
        );
    }
    let has_more = seen.len() > skip + PAGE;
    Ok((seen.into_iter().skip(skip).take(PAGE).collect(), has_more))
}

async fn show(
    ctx: &Ctx,
    owner: &User,
    rows: &[EntryRow],
    tag: String,
    (newer, older): (Option<String>, Option<String>),
) -> Answer {
    let entries = entry::with_texts(&ctx.app, rows).await?;
    let props = user::props(&ctx.app, owner.id).await?;
    let head = JournalHead::of(owner, &props);
    let here = if ctx
        .viewer
        .as_ref()
        .is_some_and(|reader| reader.user.id == owner.id)
    {
        "me"
    } else {
        ""
    };
    let mut page = ctx.page(head.title.clone(), here).await?;
    page.feeds = links(owner);
    let tags: BTreeSet<String> = entries
        .iter()
        .flat_map(|entry| entry.text.tags.iter().cloned())
        .collect();
    let body = Journal {
        page,
        journal: head,
        entries: view::entries(ctx, &entries, false).await?,
        tag,
        tags: tags.into_iter().collect(),
        bio_html: markup::comment(props.get("bio").map_or("", String::as_str)),
        friend_form: friend_form(ctx, owner, is_friend(ctx, owner).await?),
        newer,
        older,
    };
    Ok(ctx.html(&body)?)
}

/// `GET /users/NAME/tag/TAG`.
pub(super) async fn tagged(ctx: Ctx, Path((name, tag)): Path<(String, String)>) -> Answer {
    let owner = journal(&ctx, &name).await?;
    let tag = tag.to_lowercase();
    let rows = entry::tagged(&ctx.app, owner.id, &tag).await?;
    let rows: Vec<EntryRow> = rows
        .into_iter()
        .filter(|row| circle::sees(ctx.viewer.as_ref(), &owner, row.security))
        .take(50)
        .collect();
    show(&ctx, &owner, &rows, tag, (None, None)).await
}

#[derive(Debug, Template)]
#[template(path = "reading.html")]
struct Reading {
    page: Page,
    journal: JournalHead,
    entries: Vec<EntryView>,
    partial: bool,
    own: bool,
    newer: Option<String>,
    older: Option<String>,
}

/// `GET /users/NAME/read`.
pub(super) async fn reading(
    ctx: Ctx,
    Path(name): Path<String>,
    Query(paging): Query<Paging>,
) -> Answer {
    let owner = journal(&ctx, &name).await?;
    let own = ctx
        .viewer
        .as_ref()
        .is_some_and(|reader| reader.user.id == owner.id);
    let found = reading::friends(&ctx.app, ctx.viewer.as_ref(), &owner, paging.skip).await?;
    let entries = entry::with_texts(&ctx.app, &found.rows).await?;
    let props = user::props(&ctx.app, owner.id).await?;
    let base = format!("/users/{}/read", owner.name);
    let skip = paging.skip.min(SKIP_MAX);
    let body = Reading {
        page: ctx
            .page(
                format!("Friends of {}", owner.name),
                if own { "read" } else { "" },
            )
            .await?,
        journal: JournalHead::of(&owner, &props),
        partial: found.is_partial || entries.len() < found.rows.len(),
        entries: view::entries(&ctx, &entries, false).await?,
        own,
        newer: (skip > 0).then(|| format!("{base}?skip={}", skip.saturating_sub(PAGE))),
        older: found
            .has_more
            .then(|| format!("{base}?skip={}", skip + PAGE)),
    };
    Ok(ctx.html(&body)?)
}

#[derive(Debug, Template)]
#[template(path = "entry.html")]
struct EntryPage {
    page: Page,
    entry: EntryView,
    comments: Vec<CommentView>,
    previous: Option<String>,
    next: Option<String>,
    earlier_page: Option<String>,
    later_page: Option<String>,
    reply: Option<ReplyForm>,
}

/// A comment for one reader.
#[derive(Debug)]
struct CommentView {
    id: i64,
    depth: u8,
    poster: Option<Person>,
    by_author: bool,
    subject: String,
    body_html: String,
    when: String,
    iso: String,
    url: String,
    reply_url: String,
    gone: bool,
    screened: bool,
    frozen: bool,
    can_delete: bool,
    can_screen: bool,
}

#[derive(Debug, Default, serde::Deserialize)]
pub(super) struct EntryQuery {
    thread: Option<i64>,
    replyto: Option<i64>,
    page: Option<usize>,
}

/// The entry of an address, if the reader sees it.
pub(super) async fn entry_of(ctx: &Ctx, name: &str, file: &str) -> Result<(User, EntryRow)> {
    let number: i64 = file
        .strip_suffix(".html")
        .and_then(|number| number.parse().ok())
        .ok_or(Error::NotFound)?;
    let owner = journal(ctx, name).await?;
    let row = entry::by_public(&ctx.app, owner.id, number).await?;
    if circle::sees(ctx.viewer.as_ref(), &owner, row.security) {
        Ok((owner, row))
    } else {
        Err(Error::NotFound)
    }
}

/// `GET /users/NAME/NNN.html`.
pub(super) async fn entry(
    ctx: Ctx,
    Path((name, file)): Path<(String, String)>,
    Query(query): Query<EntryQuery>,
) -> Answer {
    let (owner, row) = entry_of(&ctx, &name, &file).await?;
    let form = match query.replyto {
        Some(parent) => Some(
            reply::form(
                &ctx,
                &owner,
                &row,
                parent,
                comment::Draft::default(),
                String::new(),
            )
            .await?,
        ),
        None => None,
    };
    let body = entry_page(&ctx, &owner, row, &query, form).await?;
    Ok(ctx.html(&body)?)
}

/// The entry's page again, with a form that was not taken.
pub(super) async fn entry_with_form(
    ctx: &Ctx,
    owner: &User,
    row: EntryRow,
    form: ReplyForm,
) -> Answer {
    let body = entry_page(ctx, owner, row, &EntryQuery::default(), Some(form)).await?;
    Ok(ctx.refused(&body)?)
}

async fn entry_page(
    ctx: &Ctx,
    owner: &User,
    row: EntryRow,
    query: &EntryQuery,
    reply: Option<ReplyForm>,
) -> Result<EntryPage> {
    let mut list = entry::with_texts(&ctx.app, &[row]).await?;
    let whole = list.pop().ok_or(Error::NotFound)?;
    let views = view::entries(ctx, &[whole], true).await?;
    let mut shown = views.into_iter().next().ok_or(Error::NotFound)?;
    let all = comment::all(&ctx.app, owner.id, row.jitemid).await?;
    let placed = comment::threads(&all, |talk| {
        comment::sees(ctx.viewer.as_ref(), &row, talk, &all)
    });
    let threads = placed.last().map_or(0, |last| last.thread + 1);
    let wanted = query.thread.map(|number| entry::split_public(number).0);
    let of_thread = wanted
        .and_then(|id| placed.iter().find(|placed| placed.talk.id == id))
        .map(|placed| placed.thread / THREADS);
    let number = of_thread.unwrap_or_else(|| query.page.unwrap_or(1).saturating_sub(1));
    let here: Vec<Placed> = placed
        .into_iter()
        .filter(|placed| placed.thread / THREADS == number)
        .collect();
    let comments = comments(ctx, owner, &row, &here, &shown.url).await?;
    shown.comments_open =
        shown.comments_open && comment::closed(ctx.viewer.as_ref(), owner, &row, false).is_none();
    let (previous, next) = neighbours(ctx, owner, &row).await?;
    let page_url = |page: usize| format!("{}?page={page}#comments", shown.url);
    Ok(EntryPage {
        page: ctx.page(shown.title().to_owned(), "").await?,
        earlier_page: (number > 0).then(|| page_url(number)),
        later_page: ((number + 1) * THREADS < threads).then(|| page_url(number + 2)),
        comments,
        previous,
        next,
        reply,
        entry: shown,
    })
}

async fn comments(
    ctx: &Ctx,
    owner: &User,
    row: &EntryRow,
    here: &[Placed],
    url: &str,
) -> Result<Vec<CommentView>> {
    let ids: Vec<i64> = here
        .iter()
        .filter(|placed| placed.talk.state != TalkState::Deleted)
        .map(|placed| placed.talk.id)
        .collect();
    let texts = comment::texts(&ctx.app, owner.id, &ids).await?;
    let posters: Vec<UserId> = here
        .iter()
        .map(|placed| placed.talk.poster)
        .filter(|poster| poster.0 != 0)
        .collect();
    let posters = user::by_ids(&ctx.app, &posters).await?;
    let reader = ctx.viewer.as_ref();
    let looks_after = circle::manages(reader, row.journal)
        || reader.is_some_and(|reader| reader.user.id == row.poster);
    let now = clock::now();
    Ok(here
        .iter()
        .map(|Placed { talk, depth, .. }| {
            let text = texts.get(&talk.id).cloned().unwrap_or_default();
            let public = talk.id * 256 + i64::from(row.anum);
            CommentView {
                id: public,
                depth: *depth,
                poster: posters.get(&talk.poster).map(Person::of),
                by_author: talk.poster == row.poster,
                subject: text.subject,
                body_html: markup::comment(&text.body),
                when: clock::ago(talk.time, now),
                iso: clock::iso(talk.time),
                url: format!("{url}?thread={public}#cmt{public}"),
                reply_url: format!("{url}?thread={public}&replyto={public}#reply"),
                gone: talk.state == TalkState::Deleted,
                screened: talk.state == TalkState::Screened,
                frozen: talk.state == TalkState::Frozen,
                can_delete: looks_after
                    || reader.is_some_and(|reader| reader.user.id == talk.poster),
                can_screen: looks_after,
            }
        })
        .collect())
}

/// The entries before and after, among the newest ones, as far as the reader sees them.
async fn neighbours(
    ctx: &Ctx,
    owner: &User,
    row: &EntryRow,
) -> Result<(Option<String>, Option<String>)> {
    let recent = entry::recent(&ctx.app, &[owner.id])
        .await?
        .0
        .remove(&owner.id)
        .unwrap_or_default();
    let seen: Vec<&EntryRow> = recent
        .iter()
        .filter(|other| circle::sees(ctx.viewer.as_ref(), owner, other.security))
        .collect();
    let url = |row: &&EntryRow| view::entry_url(&owner.name, row.ditemid());
    let Some(at) = seen.iter().position(|other| other.jitemid == row.jitemid) else {
        return Ok((None, None));
    };
    Ok((
        seen.get(at + 1).map(url),
        at.checked_sub(1)
            .and_then(|before| seen.get(before))
            .map(url),
    ))
}

#[derive(Debug, Template)]
#[template(path = "profile.html")]
struct Profile {
    page: Page,
    journal: JournalHead,
    bio_html: String,
    friends: Vec<Person>,
    friends_title: &'static str,
    friends_count: usize,
    friend_of: Vec<Person>,
    friend_of_title: &'static str,
    friend_of_count: usize,
    kind_words: &'static str,
    since: String,
    updated: String,
    entries_count: i64,
    icons_count: usize,
    friend_form: Option<FriendForm>,
}

/// People listed on a profile; the count beside the list says how many there are.
const LISTED: usize = 120;

/// `GET /users/NAME/profile`.
pub(super) async fn profile(ctx: Ctx, Path(name): Path<String>) -> Answer {
    let owner = journal(&ctx, &name).await?;
    let app = &ctx.app;
    let out: Vec<UserId> = circle::outgoing(app, owner.id)
        .await?
        .iter()
        .map(|edge| edge.other)
        .collect();
    let incoming: Vec<UserId> = circle::incoming(app, owner.id)
        .await?
        .edges
        .iter()
        .map(|edge| edge.other)
        .collect();
    let people = user::by_ids(app, &[&out[..], &incoming[..]].concat()).await?;
    let list = |ids: &[UserId]| {
        let mut list: Vec<Person> = ids
            .iter()
            .filter_map(|id| people.get(id))
            .filter(|user| user.is_visible())
            .map(Person::of)
            .collect();
        list.sort_by(|one, other| one.name.cmp(&other.name));
        list.truncate(LISTED);
        list
    };
    let props = user::props(app, owner.id).await?;
    let is_community = owner.kind == Kind::Community;
    let recent = entry::recent(app, &[owner.id])
        .await?
        .0
        .remove(&owner.id)
        .unwrap_or_default();
    let updated = recent
        .iter()
        .find(|row| row.security == Security::Public)
        .map_or_else(String::new, |row| clock::ago(row.logtime, clock::now()));
    let body = Profile {
        page: ctx.page(format!("Profile of {}", owner.name), "").await?,
        journal: JournalHead::of(&owner, &props),
        bio_html: markup::comment(props.get("bio").map_or("", String::as_str)),
        friends: list(&out),
        friends_title: if is_community { "Members" } else { "Friends" },
        friends_count: out.len(),
        friend_of: list(&incoming),
        friend_of_title: if is_community {
            "Watched by"
        } else {
            "Friend of"
        },
        friend_of_count: incoming.len(),
        kind_words: if is_community {
            "Community"
        } else {
            "Personal journal"
        },
        since: clock::day(owner.created),
        updated,
        entries_count: entry::count(app, owner.id).await?,
        icons_count: picture::all(app, owner.id).await?.len(),
        friend_form: friend_form(&ctx, &owner, is_friend(&ctx, &owner).await?),
    };
    Ok(ctx.html(&body)?)
}

#[derive(Debug, Template)]
#[template(path = "archive.html")]
struct Archive {
    page: Page,
    journal: JournalHead,
    months: Vec<Month>,
}

#[derive(Debug)]
struct Month {
    title: String,
    entries: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    day: String,
    url: String,
    title: String,
    security: &'static str,
}

/// `GET /users/NAME/archive`: the newest thousand by month.
pub(super) async fn archive(ctx: Ctx, Path(name): Path<String>) -> Answer {
    let owner = journal(&ctx, &name).await?;
    let rows = entry::newest_of(&ctx.app, owner.id, 1000, 0).await?;
    let rows: Vec<EntryRow> = rows
        .into_iter()
        .filter(|row| circle::sees(ctx.viewer.as_ref(), &owner, row.security))
        .collect();
    let ids: Vec<(UserId, i64)> = rows.iter().map(|row| (row.journal, row.jitemid)).collect();
    let texts = entry::texts(&ctx.app, &ids).await?;
    let mut months: BTreeMap<std::cmp::Reverse<String>, Month> = BTreeMap::new();
    for row in rows {
        let key = clock::date(row.eventtime)
            .get(..7)
            .unwrap_or_default()
            .to_owned();
        let subject = texts
            .get(&(row.journal, row.jitemid))
            .map_or("", |text| text.subject.as_str());
        let month = months
            .entry(std::cmp::Reverse(key))
            .or_insert_with(|| Month {
                title: clock::month(row.eventtime),
                entries: Vec::new(),
            });
        month.entries.push(Line {
            day: clock::human(row.eventtime),
            url: view::entry_url(&owner.name, row.ditemid()),
            title: if subject.is_empty() {
                "(no subject)".to_owned()
            } else {
                subject.to_owned()
            },
            security: row.security.word(),
        });
    }
    let props = user::props(&ctx.app, owner.id).await?;
    let head = JournalHead::of(&owner, &props);
    let body = Archive {
        page: ctx.page(format!("Archive of {}", owner.name), "").await?,
        journal: head,
        months: months.into_values().collect(),
    };
    Ok(ctx.html(&body)?)
}

/// `GET /users/NAME/data/{atom,rss}`. With a session it shows what that reader may see; for everybody else it is cached.
pub(super) async fn feed(ctx: Ctx, Path((name, kind)): Path<(String, String)>) -> Answer {
    let owner = journal(&ctx, &name).await?;
    let is_atom = match kind.as_str() {
        "atom" => true,
        "rss" => false,
        _ => return Err(Refusal(Error::NotFound)),
    };
    let xml = if ctx.viewer.is_some() {
        make_feed(&ctx, &owner, is_atom).await?
    } else {
        let made = || async { make_feed(&ctx, &owner, is_atom).await.map(Some) };
        ctx.app
            .cache
            .one(keys::FEED, keys::feed(owner.id, &kind), made)
            .await?
            .unwrap_or_default()
    };
    let etag = format!("\"{}\"", token::md5(xml.as_bytes()));
    let mime = "text/xml; charset=utf-8";
    let head = [(header::CONTENT_TYPE, mime), (header::ETAG, etag.as_str())];
    if ctx.has(&etag, None) {
        return Ok((StatusCode::NOT_MODIFIED, head).into_response());
    }
    Ok((head, xml).into_response())
}

async fn make_feed(ctx: &Ctx, owner: &User, is_atom: bool) -> Result<String> {
    let recent = match entry::recent(&ctx.app, &[owner.id])
        .await?
        .0
        .remove(&owner.id)
    {
        Some(recent) => recent,
        None => entry::newest_of(&ctx.app, owner.id, entry::RECENT_MAX, 0).await?,
    };
    let rows: Vec<EntryRow> = recent
        .into_iter()
        .filter(|row| circle::sees(ctx.viewer.as_ref(), owner, row.security))
        .take(feeds::ENTRIES)
        .collect();
    let entries = entry::with_texts(&ctx.app, &rows).await?;
    let posters: Vec<UserId> = entries.iter().map(|entry| entry.row.poster).collect();
    let users = user::by_ids(&ctx.app, &posters).await?;
    let posters: Vec<String> = posters
        .iter()
        .map(|id| {
            users
                .get(id)
                .map_or_else(String::new, |user| user.name.clone())
        })
        .collect();
    let props = user::props(&ctx.app, owner.id).await?;
    let title = JournalHead::of(owner, &props).title;
    let site = &ctx.app.config.site.url;
    let domain = site
        .split("://")
        .nth(1)
        .unwrap_or(site)
        .split([':', '/'])
        .next()
        .unwrap_or_default();
    let channel = feeds::Channel {
        site,
        domain,
        journal: owner,
        title: &title,
        posters: &posters,
    };
    Ok(if is_atom {
        feeds::atom(&channel, &entries)
    } else {
        feeds::rss(&channel, &entries)
    })
}

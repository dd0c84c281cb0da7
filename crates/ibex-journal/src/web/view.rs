//! What templates show: plain structs, made from the site's things for one reader.
//!
//! Apart so that templates hold no logic beyond "if" and "for", and handlers no HTML. Only [`Avatar`]'s own markup is made here.

use super::ctx::Ctx;
use crate::circle;
use crate::clock;
use crate::entry::Entry;
use crate::error::Result;
use crate::markup::{self, Cuts, Format};
use crate::user::{self, Props, User};
use crate::visibility::Kind;
use askama::Template;
use ibex_cluster::UserId;
use std::collections::HashMap;

/// What every page has.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) site: String,
    pub(super) title: String,
    pub(super) viewer: Option<Viewing>,
    pub(super) csrf: String,
    pub(super) notices: Vec<String>,
    pub(super) css: &'static str,
    pub(super) feeds: Vec<FeedLink>,
    pub(super) here: &'static str,
}

impl Page {
    /// A page about an error: for nobody in particular, so that it looks the same to everybody.
    pub(super) fn bare(title: &str) -> Self {
        Self {
            site: "Ibex Journal".to_owned(),
            title: title.to_owned(),
            viewer: None,
            csrf: String::new(),
            notices: Vec::new(),
            css: super::asset::css_url(),
            feeds: Vec::new(),
            here: "",
        }
    }
}

/// Who is logged in.
#[derive(Debug)]
pub(super) struct Viewing {
    pub(super) name: String,
    pub(super) avatar: Avatar,
    pub(super) unread: i64,
}

/// `<link rel=alternate>`.
#[derive(Debug)]
pub(super) struct FeedLink {
    pub(super) mime: &'static str,
    pub(super) title: String,
    pub(super) href: String,
}

/// A link with its text.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) href: String,
    pub(super) text: String,
}

/// The picture beside a name: his own, or his letter on a colour of his.
#[derive(Debug, Clone)]
pub(super) struct Avatar {
    url: Option<String>,
    letter: char,
    tint: u32,
}

impl Avatar {
    pub(super) fn of(user: &User) -> Self {
        let url = (user.picid != 0).then(|| format!("/userpic/{}/{}", user.picid, user.id));
        Self {
            url,
            letter: user.name.chars().next().unwrap_or('?'),
            tint: user.id.0 % 8,
        }
    }

    fn html(&self, class: &str, side: u32) -> String {
        match &self.url {
            Some(url) => format!(
                "<img class=\"avatar{class}\" src=\"{url}\" alt=\"\" width=\"{side}\" height=\"{side}\" loading=\"lazy\">"
            ),
            None => format!(
                "<span class=\"avatar{class} t{}\" aria-hidden=\"true\">{}</span>",
                self.tint,
                markup::escape(&self.letter.to_string())
            ),
        }
    }

    pub(super) fn small(&self) -> String {
        self.html(" small", 27)
    }

    pub(super) fn normal(&self) -> String {
        self.html("", 48)
    }

    pub(super) fn big(&self) -> String {
        self.html(" big", 88)
    }
}

/// An account by name.
#[derive(Debug, Clone)]
pub(super) struct Person {
    pub(super) name: String,
    pub(super) display: String,
    pub(super) avatar: Avatar,
    kind: Kind,
}

impl Person {
    pub(super) fn of(user: &User) -> Self {
        Self {
            name: user.name.clone(),
            display: user.display.clone(),
            avatar: Avatar::of(user),
            kind: user.kind,
        }
    }

    /// For a number whose account cannot be read now.
    fn unknown(id: UserId) -> Self {
        Self {
            name: format!("user{id}"),
            display: String::new(),
            avatar: Avatar {
                url: None,
                letter: '?',
                tint: 7,
            },
            kind: Kind::Person,
        }
    }

    pub(super) fn icon(&self) -> &'static str {
        match self.kind {
            Kind::Community => "community",
            Kind::Feed => "feed",
            Kind::Person | Kind::Identity => "person",
        }
    }
}

/// Head of the pages of one journal.
#[derive(Debug)]
pub(super) struct JournalHead {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) subtitle: String,
    pub(super) kind: &'static str,
    pub(super) avatar: Avatar,
}

impl JournalHead {
    pub(super) fn of(user: &User, props: &Props) -> Self {
        let title = props
            .get("title")
            .filter(|title| !title.is_empty())
            .cloned()
            .unwrap_or_else(|| user.display.clone());
        let subtitle = props.get("subtitle").cloned().unwrap_or_default();
        Self {
            name: user.name.clone(),
            title,
            subtitle,
            kind: user.kind.letter(),
            avatar: Avatar::of(user),
        }
    }
}

/// An entry for one reader.
#[derive(Debug)]
pub(super) struct EntryView {
    pub(super) url: String,
    subject: String,
    pub(super) body_html: String,
    pub(super) poster: Person,
    pub(super) journal: Person,
    pub(super) when: String,
    pub(super) iso: String,
    pub(super) security: &'static str,
    pub(super) mood: String,
    pub(super) music: String,
    pub(super) location: String,
    pub(super) tags: Vec<String>,
    pub(super) replies: i64,
    pub(super) can_edit: bool,
    pub(super) comments_open: bool,
}

impl EntryView {
    pub(super) fn title(&self) -> &str {
        if self.subject.is_empty() {
            "(no subject)"
        } else {
            &self.subject
        }
    }
    pub(super) fn in_other_journal(&self) -> bool {
        self.poster.name != self.journal.name
    }
    pub(super) fn has_meta(&self) -> bool {
        !(self.mood.is_empty()
            && self.music.is_empty()
            && self.location.is_empty()
            && self.tags.is_empty())
    }
    pub(super) fn reply_words(&self) -> String {
        match self.replies {
            0 => "No comments".to_owned(),
            1 => "1 comment".to_owned(),
            count => format!("{count} comments"),
        }
    }
}

/// Address of an entry.
pub(super) fn entry_url(journal: &str, ditemid: i64) -> String {
    format!("/users/{journal}/{ditemid}.html")
}

/// Entries as this reader sees them; he was found to see them before.
pub(super) async fn entries(ctx: &Ctx, list: &[Entry], is_single: bool) -> Result<Vec<EntryView>> {
    let ids: Vec<UserId> = list
        .iter()
        .flat_map(|entry| [entry.row.journal, entry.row.poster])
        .collect();
    let users = user::by_ids(&ctx.app, &ids).await?;
    Ok(list
        .iter()
        .map(|entry| entry_view(ctx, entry, &users, is_single))
        .collect())
}

fn entry_view(
    ctx: &Ctx,
    entry: &Entry,
    users: &HashMap<UserId, User>,
    is_single: bool,
) -> EntryView {
    let person = |id: UserId| {
        users
            .get(&id)
            .map_or_else(|| Person::unknown(id), Person::of)
    };
    let (journal, poster) = (person(entry.row.journal), person(entry.row.poster));
    let url = entry_url(&journal.name, entry.row.ditemid());
    let format = Format::of(
        entry.text.prop("editor"),
        entry.text.prop("opt_preformatted"),
    );
    let body_html = markup::entry(
        &entry.text.body,
        format,
        if is_single {
            Cuts::Show
        } else {
            Cuts::Fold(&url)
        },
    );
    let reader = ctx.viewer.as_ref();
    EntryView {
        subject: entry.text.subject.clone(),
        body_html,
        when: clock::human(entry.row.eventtime),
        iso: clock::iso(entry.row.eventtime),
        security: entry.row.security.word(),
        mood: entry.text.prop("current_mood").to_owned(),
        music: entry.text.prop("current_music").to_owned(),
        location: entry.text.prop("current_location").to_owned(),
        tags: entry.text.tags.clone(),
        replies: entry.row.replies,
        can_edit: circle::manages(reader, entry.row.journal)
            || reader.is_some_and(|reader| reader.user.id == entry.row.poster),
        comments_open: entry.text.prop("opt_nocomments").is_empty(),
        url,
        poster,
        journal,
    }
}

/// The button that adds or removes a friend.
#[derive(Debug)]
pub(super) struct FriendForm {
    pub(super) user: String,
    pub(super) action: &'static str,
    pub(super) headline: &'static str,
    pub(super) text: &'static str,
    pub(super) button: &'static str,
}

/// `message.html`.
#[derive(Debug, Template)]
#[template(path = "message.html")]
pub(super) struct Message {
    pub(super) page: Page,
    pub(super) headline: String,
    pub(super) text: String,
    pub(super) link: Option<Link>,
}

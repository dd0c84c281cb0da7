//! Atom and RSS of a journal: the newest entries a reader may see.
//!
//! Apart and pure: entries in, XML out. Characters that XML forbids are dropped, everything is escaped by the writer here.

use crate::entry::Entry;
use crate::user::User;
use crate::visibility::Security;
use crate::{clock, markup};

/// Entries of a feed.
pub const ENTRIES: usize = 25;

/// What a feed says about its journal.
#[derive(Debug, Clone)]
pub struct Channel<'a> {
    /// Address of the site, without a slash at the end.
    pub site: &'a str,
    /// Its domain, for the tags that name feeds and entries.
    pub domain: &'a str,
    /// The account.
    pub journal: &'a User,
    /// Its title.
    pub title: &'a str,
    /// Names of the posters of each entry, in order.
    pub posters: &'a [String],
}

/// Text inside an element or an attribute; what XML 1.0 forbids is dropped.
fn text(value: &str) -> String {
    let legal: String =
        value.chars().filter(|letter| matches!(letter, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)).collect();
    markup::escape(&legal)
}

fn body(entry: &Entry, url: &str) -> String {
    let format = markup::Format::of(
        entry.text.prop("editor"),
        entry.text.prop("opt_preformatted"),
    );
    markup::entry(&entry.text.body, format, markup::Cuts::Fold(url))
}

fn title_of(entry: &Entry, poster: &str) -> String {
    if entry.text.subject.is_empty() {
        format!("{poster} @ {}", clock::human(entry.row.eventtime))
    } else {
        entry.text.subject.clone()
    }
}

/// The newest change of any entry; the feed's own time.
#[must_use]
pub fn updated(channel: &Channel<'_>, entries: &[Entry]) -> i64 {
    entries
        .iter()
        .map(|entry| entry.row.edited.max(entry.row.logtime))
        .max()
        .unwrap_or(channel.journal.created)
}

/// Atom 1.0.
#[must_use]
pub fn atom(channel: &Channel<'_>, entries: &[Entry]) -> String {
    let name = &channel.journal.name;
    let home = format!("{}/users/{name}/", channel.site);
    let id = format!(
        "tag:{},{}:{}",
        channel.domain,
        clock::date(channel.journal.created),
        channel.journal.id
    );
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<feed xmlns=\"http://www.w3.org/2005/Atom\" \
        xmlns:lj=\"http://www.livejournal.org/rss/lj/1.0/\">\n<id>{}</id>\n\
         <title>{}</title>\n<link rel=\"alternate\" type=\"text/html\" href=\"{home}\"/>\n<link rel=\"self\" type=\"application/atom+xml\" \
         href=\"{home}data/atom\"/>\n\
         <updated>{}</updated>\n<author><name>{}</name></author>\n<lj:journal username=\"{}\" type=\"{}\"/>\n",
        text(&id),
        text(channel.title),
        clock::iso(updated(channel, entries)),
        text(&channel.journal.display),
        text(name),
        channel.journal.kind.letter(),
    );
    for (entry, poster) in entries.iter().zip(channel.posters) {
        let url = format!("{home}{}.html", entry.row.ditemid());
        out.push_str(&format!(
            "<entry>\n<id>{}:{}</id>\n<title>{}</title>\n<link rel=\"alternate\" type=\"text/html\" \
            href=\"{url}\"/>\n<published>{}</published>\n<updated>{}</updated>\n\
             <author><name>{}</name></author>\n",
            text(&id),
            entry.row.ditemid(),
            text(&title_of(entry, poster)),
            clock::iso(entry.row.logtime),
            clock::iso(entry.row.edited.max(entry.row.logtime)),
            text(poster),
        ));
        for tag in &entry.text.tags {
            out.push_str(&format!("<category term=\"{}\"/>\n", text(tag)));
        }
        out.push_str(&format!(
            "<content type=\"html\">{}</content>\n{}</entry>\n",
            text(&body(entry, &url)),
            extension(entry, poster, channel)
        ));
    }
    out.push_str("</feed>\n");
    out
}

/// RSS 2.0.
#[must_use]
pub fn rss(channel: &Channel<'_>, entries: &[Entry]) -> String {
    let name = &channel.journal.name;
    let home = format!("{}/users/{name}/", channel.site);
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<rss version=\"2.0\" xmlns:lj=\"http://www.livejournal.org/rss/lj/1.0/\" \
        xmlns:atom=\"http://www.w3.org/2005/Atom\">\n<channel>\n\
         <title>{}</title>\n<link>{home}</link>\n<description>{} - {}</description>\n<lastBuildDate>{}</lastBuildDate>\n<generator>Ibex Journal</generator>\n\
         <atom:link rel=\"self\" type=\"application/rss+xml\" href=\"{home}data/rss\"/>\n<lj:journal>{}</lj:journal>\n<lj:journaltype>{}</lj:journaltype>\n",
        text(channel.title),
        text(channel.title),
        text(&channel.journal.display),
        clock::http(updated(channel, entries)),
        text(name),
        if channel.journal.kind == crate::visibility::Kind::Community {
            "community"
        } else {
            "personal"
        },
    );
    for (entry, poster) in entries.iter().zip(channel.posters) {
        let url = format!("{home}{}.html", entry.row.ditemid());
        out.push_str(&format!(
            "<item>\n<guid isPermaLink=\"true\">{url}</guid>\n<pubDate>{}</pubDate>\n",
            clock::http(entry.row.logtime)
        ));
        if !entry.text.subject.is_empty() {
            out.push_str(&format!("<title>{}</title>\n", text(&entry.text.subject)));
        }
        out.push_str(&format!("<link>{url}</link>\n<description>{}</description>\n<comments>{url}#comments</comments>\n", text(&body(entry, &url))));
        for tag in &entry.text.tags {
            out.push_str(&format!("<category>{}</category>\n", text(tag)));
        }
        out.push_str(&extension(entry, poster, channel));
        out.push_str("</item>\n");
    }
    out.push_str("</channel>\n</rss>\n");
    out
}

/// The original's own elements.
fn extension(entry: &Entry, poster: &str, channel: &Channel<'_>) -> String {
    let mut out = String::new();
    let mut put = |name: &str, value: &str| {
        if !value.is_empty() {
            out.push_str(&format!("<lj:{name}>{}</lj:{name}>\n", text(value)));
        }
    };
    put("music", entry.text.prop("current_music"));
    put("mood", entry.text.prop("current_mood"));
    put(
        "security",
        if entry.row.security == Security::Public {
            "public"
        } else {
            "protected"
        },
    );
    if poster != channel.journal.name {
        put("poster", poster);
    }
    put("reply-count", &entry.row.replies.to_string());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{EntryRow, Text};
    use crate::visibility::Kind;
    use ibex_cluster::UserId;
    use quick_xml::events::Event;

    fn sample() -> (User, Vec<Entry>) {
        let user = User {
            id: UserId(7),
            name: "ada".to_owned(),
            kind: Kind::Person,
            statusvis: "V".to_owned(),
            display: "Ada <& \"L\"".to_owned(),
            picid: 0,
            whocanreply: "all".to_owned(),
            created: 1_000_000_000,
        };
        let row = EntryRow {
            journal: UserId(7),
            jitemid: 2,
            poster: UserId(7),
            eventtime: 1_700_000_000,
            logtime: 1_700_000_000,
            security: Security::Public,
            anum: 9,
            replies: 3,
            edited: 1_700_000_100,
        };
        let text = Text {
            subject: "a\u{1} <b>".to_owned(),
            body: "x < y & <i>z</i>\u{b}".to_owned(),
            tags: vec!["t&t".to_owned()],
            ..Text::default()
        };
        let untitled = Entry {
            row,
            text: Text {
                subject: String::new(),
                ..text.clone()
            },
        };
        (user, vec![Entry { row, text }, untitled])
    }

    /// Reads every event, so that anything ill-formed fails; returns the texts of the elements called `name`.
    fn texts(xml: &str, name: &str) -> Vec<String> {
        let mut reader = quick_xml::Reader::from_str(xml);
        let (mut out, mut inside) = (Vec::new(), false);
        loop {
            match reader.read_event().unwrap() {
                Event::Start(tag) => {
                    inside = tag.name().as_ref() == name;
                    if inside {
                        out.push(String::new());
                    }
                }
                Event::Text(text) if inside => out.last_mut().unwrap().push_str(&text),
                Event::GeneralRef(entity) if inside => {
                    out.last_mut().unwrap().push_str(&format!("&{};", &*entity))
                }
                Event::End(_) => inside = false,
                Event::Eof => return out,
                Event::Empty(_)
                | Event::Text(_)
                | Event::CData(_)
                | Event::Comment(_)
                | Event::Decl(_)
                | Event::PI(_)
                | Event::DocType(_)
                | Event::GeneralRef(_) => {}
            }
        }
    }

    #[test]
    fn feeds_are_well_formed_whatever_people_write() {
        let (user, entries) = sample();
        let posters = vec!["ada".to_owned(), "ada".to_owned()];
        let channel = Channel {
            site: "http://s",
            domain: "s",
            journal: &user,
            title: "A & B",
            posters: &posters,
        };
        let atom = atom(&channel, &entries);
        assert_eq!(
            texts(&atom, "title"),
            vec!["A &amp; B", "a &lt;b&gt;", "ada @ 14 November 2023, 22:13"]
        );
        assert_eq!(
            texts(&atom, "id")[1],
            format!("tag:s,2001-09-09:7:{}", 2 * 256 + 9)
        );
        assert!(atom.contains("<updated>2023-11-14T22:15:00Z</updated>"));
        let rss = rss(&channel, &entries);
        assert_eq!(texts(&rss, "guid"), vec!["http://s/users/ada/521.html"; 2]);
        assert_eq!(texts(&rss, "lj:reply-count"), vec!["3", "3"]);
        assert!(!rss.contains('\u{b}'));
    }
}

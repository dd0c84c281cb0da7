//! What people write, made safe to show: HTML or Markdown in, clean HTML out.
//!
//! Apart and pure. Ammonia removes everything that could act; links get `nofollow`; our own elements (`<cut>`, `<user>`, `@name`)
//! become plain HTML before that. Nothing from here is trusted by anybody but the template that shows it.

use pulldown_cmark::{Options, Parser, html};

/// How an author wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// HTML; line feeds become breaks.
    Html,
    /// HTML as it is.
    Preformatted,
    /// Markdown.
    Markdown,
}

impl Format {
    /// From the properties of an entry.
    #[must_use]
    pub fn of(editor: &str, preformatted: &str) -> Self {
        match (editor, preformatted) {
            ("markdown", _) => Self::Markdown,
            (_, "1") => Self::Preformatted,
            _ => Self::Html,
        }
    }
}

/// What becomes of `<cut>`: shown with an anchor, or folded behind a link to the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cuts<'a> {
    /// The entry's own page.
    Show,
    /// A list; the entry's address.
    Fold(&'a str),
}

/// Clean HTML of an entry's body.
#[must_use]
pub fn entry(body: &str, format: Format, cuts: Cuts<'_>) -> String {
    let text = users(&cut(body, cuts));
    let text = match format {
        Format::Html => breaks(&text),
        Format::Preformatted => text,
        Format::Markdown => markdown(&text),
    };
    clean(&text)
}

/// Clean HTML of a comment or a short text: HTML with breaks, no pictures.
#[must_use]
pub fn comment(body: &str) -> String {
    let text = breaks(&users(body));
    ammonia::Builder::default()
        .rm_tags(["img"])
        .link_rel(Some("nofollow noopener ugc"))
        .clean(&text)
        .to_string()
}

fn clean(text: &str) -> String {
    ammonia::Builder::default()
        .link_rel(Some("nofollow noopener ugc"))
        .add_tag_attributes("img", ["loading"])
        .add_generic_attributes(["id"])
        .id_prefix(Some("e-"))
        .clean(text)
        .to_string()
}

fn markdown(text: &str) -> String {
    let options =
        Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES;
    let mut out = String::with_capacity(text.len() * 3 / 2);
    html::push_html(&mut out, Parser::new_ext(text, options));
    out
}

/// Elements that stand on lines of their own: line feeds beside them are layout of the source and not of the text.
const BLOCKS: &[&str] = &[
    "blockquote",
    "p",
    "div",
    "ul",
    "ol",
    "li",
    "pre",
    "table",
    "tr",
    "td",
    "th",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "dl",
    "dt",
    "dd",
];

/// Line feeds become breaks, except inside `<pre>` and beside block elements.
fn breaks(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(start) = find(rest, "<pre") {
        let (before, from) = rest.split_at(start);
        lines(before, &mut out);
        let end = find(from, "</pre>").map_or(from.len(), |end| end + "</pre>".len());
        let (pre, after) = from.split_at(end);
        out.push_str(pre);
        rest = after;
    }
    lines(rest, &mut out);
    out
}

fn lines(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(at) = rest.find('\n') {
        let (line, from) = rest.split_at(at);
        out.push_str(line);
        let after = from.trim_start_matches('\n');
        let feeds = from.len() - after.len();
        if ends_block(out) || begins_block(after) {
            out.push('\n');
        } else {
            (0..feeds).for_each(|_| out.push_str("<br>\n"));
        }
        rest = after;
    }
    out.push_str(rest);
}

/// Whether the text ends with the tag of a block element.
fn ends_block(text: &str) -> bool {
    let text = text.trim_end_matches([' ', '\n']);
    text.ends_with('>')
        && text
            .rfind('<')
            .and_then(|at| text.get(at..))
            .is_some_and(begins_block)
}

/// Whether the text begins with the tag of a block element.
fn begins_block(text: &str) -> bool {
    let Some(tag) = text.trim_start().strip_prefix('<') else {
        return false;
    };
    let tag = tag.strip_prefix('/').unwrap_or(tag);
    let name = tag
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .next()
        .unwrap_or_default();
    BLOCKS.iter().any(|block| name.eq_ignore_ascii_case(block))
}

/// Position of an ASCII needle, without regard to case.
fn find(text: &str, needle: &str) -> Option<usize> {
    let (text, needle) = (text.as_bytes(), needle.as_bytes());
    text.windows(needle.len())
        .position(|window| window.eq_ignore_ascii_case(needle))
}

/// `<cut text="…">…</cut>` and `<lj-cut …>…</lj-cut>`.
fn cut(body: &str, cuts: Cuts<'_>) -> String {
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    let mut number = 0;
    while let Some((start, name)) = ["cut", "lj-cut"]
        .into_iter()
        .filter_map(|name| Some((find_tag(rest, name)?, name)))
        .min()
    {
        let (before, from) = rest.split_at(start);
        out.push_str(before);
        let Some(head) = from.find('>') else {
            rest = from;
            break;
        };
        number += 1;
        let (tag, inside) = from.split_at(head + 1);
        let label = attribute(tag, "text").unwrap_or_else(|| "Read more\u{2026}".to_owned());
        let closing = format!("</{name}>");
        let (folded, after) = match find(inside, &closing) {
            Some(end) => (&inside[..end], &inside[end + closing.len()..]),
            None => (inside, ""),
        };
        match cuts {
            Cuts::Show => out.push_str(&format!("<span id=\"cutid{number}\"></span>{folded}")),
            Cuts::Fold(url) => out.push_str(&format!(
                "<b>(<a href=\"{url}#e-cutid{number}\">{}</a>)</b>",
                escape(&label)
            )),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Position of `<name` followed by a space or `>`.
fn find_tag(text: &str, name: &str) -> Option<usize> {
    let needle = format!("<{name}");
    let mut from = 0;
    while let Some(at) = text.get(from..).and_then(|rest| find(rest, &needle)) {
        let end = from + at + needle.len();
        match text.as_bytes().get(end) {
            Some(b' ' | b'>' | b'\n' | b'/') => return Some(from + at),
            Some(_) | None => from = end,
        }
    }
    None
}

/// Value of an attribute, quoted or not.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let at = find(tag, &format!("{name}="))? + name.len() + 1;
    let value = tag.get(at..)?;
    let quoted = match value.chars().next()? {
        quote @ ('"' | '\'') => value.get(1..)?.split(quote).next()?,
        _ => value.split([' ', '>', '/']).next()?,
    };
    Some(
        quoted
            .replace("&quot;", "\"")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&"),
    )
}

/// `<user name=x>`, `<lj user=x>` and `@name` become links to accounts.
fn users(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(at) = rest.find(['<', '@']) {
        let (plain, from) = rest.split_at(at);
        out.push_str(plain);
        before = plain.chars().next_back().unwrap_or(before);
        let (link, length) = if from.starts_with('@') {
            mention(from, before)
        } else {
            user_tag(from)
        };
        match link {
            Some(name) => out.push_str(&format!("<a href=\"/users/{name}/\"><b>{name}</b></a>")),
            None => out.push_str(from.get(..length).unwrap_or_default()),
        }
        before = from
            .get(..length)
            .and_then(|taken| taken.chars().next_back())
            .unwrap_or(before);
        rest = from.get(length..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// `@name`, unless it stands in a word (an address).
fn mention(from: &str, before: char) -> (Option<String>, usize) {
    let length = from
        .bytes()
        .skip(1)
        .take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        .count();
    let name = from.get(1..=length).and_then(crate::user::canonical);
    if before.is_alphanumeric() || matches!(before, '/' | '.' | '_' | '-' | '=' | '"') {
        return (None, 1 + length);
    }
    (name, 1 + length)
}

/// `<user name=x>` or `<lj user=x>`; any other tag as it is.
fn user_tag(from: &str) -> (Option<String>, usize) {
    let length = from.find('>').map_or(from.len(), |end| end + 1);
    let tag = from.get(..length).unwrap_or_default();
    let name = if find_tag(tag, "user") == Some(0) {
        attribute(tag, "name").or_else(|| attribute(tag, "user"))
    } else if find_tag(tag, "lj") == Some(0) {
        attribute(tag, "user")
    } else {
        None
    };
    (name.as_deref().and_then(crate::user::canonical), length)
}

/// Text for HTML.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// Plain text of HTML, for mails and titles.
#[must_use]
pub fn plain(text: &str) -> String {
    let bare = ammonia::Builder::empty()
        .clean(&text.replace("<br>", "\n"))
        .to_string();
    bare.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&nbsp;", " ")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(body: &str, format: Format, expected: &str) {
        assert_eq!(entry(body, format, Cuts::Show), expected, "{body}");
    }

    #[test]
    fn what_could_act_is_removed() {
        check("<script>alert(1)</script>ok", Format::Html, "ok");
        check(
            "<img src=x onerror=alert(1)>",
            Format::Html,
            "<img src=\"x\">",
        );
        check(
            "<a href=\"javascript:alert(1)\">x</a>",
            Format::Html,
            "<a rel=\"nofollow noopener ugc\">x</a>",
        );
        check(
            "<b style=\"position:fixed\">x</b>",
            Format::Html,
            "<b>x</b>",
        );
        check(
            "[x](javascript:alert(1))",
            Format::Markdown,
            "<p><a rel=\"nofollow noopener ugc\">x</a></p>\n",
        );
        check(
            "<form action=/logout><button>x</button></form>",
            Format::Preformatted,
            "x",
        );
        assert_eq!(comment("<img src=x>hi"), "hi");
    }

    #[test]
    fn line_feeds_are_kept_as_the_author_meant_them() {
        check("a\nb", Format::Html, "a<br>\nb");
        check("a\nb", Format::Preformatted, "a\nb");
        check("<pre>a\nb</pre>\nc", Format::Html, "<pre>a\nb</pre>\nc");
        check("a\n\nb", Format::Html, "a<br>\n<br>\nb");
        check(
            "a\n\n<blockquote>b</blockquote>\nc",
            Format::Html,
            "a\n<blockquote>b</blockquote>\nc",
        );
        check("*a*", Format::Markdown, "<p><em>a</em></p>\n");
    }

    #[test]
    fn accounts_become_links() {
        let link = "<a href=\"/users/ada/\" rel=\"nofollow noopener ugc\"><b>ada</b></a>";
        check("<user name=ada>", Format::Html, link);
        check("<lj user=\"ada\">", Format::Html, link);
        check("@Ada", Format::Html, link);
        check("write to me@ada.org", Format::Html, "write to me@ada.org");
        check("<lj user='<b>'>", Format::Html, "");
    }

    #[test]
    fn cuts_fold_in_lists_and_open_on_the_page() {
        let body = "a <cut text=\"b & c\">secret</cut> d";
        let folded = entry(body, Format::Html, Cuts::Fold("/e"));
        assert!(
            folded.contains("href=\"/e#e-cutid1\"")
                && folded.contains("b &amp; c")
                && !folded.contains("secret"),
            "{folded}"
        );
        let shown = entry(body, Format::Html, Cuts::Show);
        assert!(
            shown.contains("id=\"e-cutid1\"") && shown.contains("secret"),
            "{shown}"
        );
        assert!(!entry("<lj-cut>endless", Format::Html, Cuts::Fold("/e")).contains("endless"));
    }

    proptest! {
        #[test]
        fn nothing_dangerous_survives_any_text(body in "[<>a-z@/=\"' &;\n-]{0,80}") {
            for format in [Format::Html, Format::Preformatted, Format::Markdown] {
                let out = entry(&body, format, Cuts::Fold("/e")).to_lowercase();
                prop_assert!(!out.contains("<script") && !out.contains("javascript:"), "{out}");
            }
        }
    }
}

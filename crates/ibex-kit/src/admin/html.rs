//! The status page: one self-contained HTML document, light and dark, no request to anywhere else.
//!
//! Owns the look. Every text from outside is escaped here; it works without script.

use super::readiness;
use crate::logging;
use crate::page::{Body, Section};
use crate::{Kit, lock};

/// Recent messages shown; the rest is at `/-/log`.
const RECENT_SHOWN: usize = 20;

/// The other pages: path and name.
const LINKS: [(&str, &str); 8] = [
    ("/metrics", "metrics"),
    ("/-/config", "configuration"),
    ("/readyz?verbose", "readiness"),
    ("/-/workers", "workers"),
    ("/-/connections", "connections"),
    ("/-/debug/tasks", "tasks"),
    ("/-/log", "log"),
    ("/-/build", "build"),
];

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5a6675;--paper:#fff;--line:#d9dee5;--good:#176b3a;--bad:#a4262c;--head:#f3f5f8}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#a3adba;--paper:#14181e;--line:#333b47;--good:#6fd08c;--bad:#ff8a80;--head:#1d232c}}
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;max-width:70rem;padding:1rem}
header{display:flex;flex-wrap:wrap;gap:.4rem 1.2rem;align-items:baseline;border-bottom:2px solid var(--line);padding-bottom:.6rem}
h1{font-size:1.35rem;margin:0}h2{font-size:1.05rem;margin:1.4rem 0 .4rem}
.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}.soft{color:var(--soft)}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
thead th{background:var(--head);position:sticky;top:0}td.number,th.number{text-align:right;font-variant-numeric:tabular-nums}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85rem;border:1px solid var(--line);padding:.5rem}
th[scope=row]{width:35%;font-weight:500}
progress{width:8rem}nav{display:flex;flex-wrap:wrap;gap:.3rem .9rem}a{color:inherit}
";

/// Text for HTML, also inside quoted attributes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// The whole page.
pub(super) fn status_page(kit: &Kit) -> String {
    let inner = &kit.inner;
    let about = inner.about;
    let readiness = readiness(inner);
    let (class, word) = if readiness.is_ready() {
        ("good", "ready")
    } else {
        ("bad", "not ready")
    };
    let mut out = String::with_capacity(16 * 1024);
    put!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=\"refresh\" content=\"5\"><title>{name} on {node}</title><style>{STYLE}</style></head><body><header><h1>{name}</h1>\
         <span>{version}</span><span>node <b>{node}</b></span><span class=\"{class}\">{word}</span><span>phase {phase}</span><span>up {uptime}</span></header>\
         <p class=\"soft\">{summary}</p>",
        name = escape(about.name),
        node = escape(&inner.node),
        version = escape(about.version),
        phase = inner.phase.borrow().name(),
        uptime = escape(&uptime(inner.started.elapsed().as_secs())),
        summary = escape(about.summary),
    );
    out.push_str("<nav>");
    for (path, name) in LINKS {
        put!(out, "<a href=\"{path}\">{name}</a>");
    }
    out.push_str("</nav>");
    section(
        &mut out,
        &Section::table(
            "Listeners",
            ["name", "address"],
            kit.addresses()
                .into_iter()
                .map(|(name, addr)| vec![name, addr])
                .collect(),
        ),
    );
    let pages = lock(&inner.pages).clone();
    for page in pages {
        for part in page() {
            section(&mut out, &part);
        }
    }
    workers(&mut out, kit);
    recent(&mut out);
    out.push_str("</body></html>\n");
    out
}

fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    if days > 0 {
        format!("{days}d {hours}h")
    } else if hours > 0 {
        format!("{hours}h {minutes}m")
    } else {
        format!("{minutes}m {}s", seconds % 60)
    }
}

fn section(out: &mut String, section: &Section) {
    put!(
        out,
        "<section><h2>{}</h2><div class=\"wide\"><table>",
        escape(&section.title)
    );
    match &section.body {
        Body::Facts(facts) => {
            for (name, value) in facts {
                put!(
                    out,
                    "<tr><th scope=\"row\">{}</th><td>{}</td></tr>",
                    escape(name),
                    escape(value)
                );
            }
        }
        Body::Table { columns, rows } => {
            let number = |cell: &String| cell.parse::<f64>().is_ok();
            let numeric = |index: usize| {
                !rows.is_empty() && rows.iter().all(|row| row.get(index).is_some_and(number))
            };
            let class = |index: usize| {
                if numeric(index) {
                    " class=\"number\""
                } else {
                    ""
                }
            };
            out.push_str("<thead><tr>");
            for (index, column) in columns.iter().enumerate() {
                put!(
                    out,
                    "<th scope=\"col\"{}>{}</th>",
                    class(index),
                    escape(column)
                );
            }
            out.push_str("</tr></thead><tbody>");
            let classes: Vec<&str> = (0..columns.len()).map(class).collect();
            for row in rows {
                out.push_str("<tr>");
                for (index, cell) in row.iter().enumerate() {
                    let class = classes.get(index).copied().unwrap_or_default();
                    put!(out, "<td{class}>{}</td>", escape(cell));
                }
                out.push_str("</tr>");
            }
            if rows.is_empty() {
                put!(
                    out,
                    "<tr><td colspan=\"{}\" class=\"soft\">none</td></tr>",
                    columns.len().max(1)
                );
            }
            out.push_str("</tbody>");
        }
    }
    out.push_str("</table></div></section>");
}

fn workers(out: &mut String, kit: &Kit) {
    let views = kit.inner.workers.views();
    if views.is_empty() {
        return;
    }
    out.push_str(
        "<section><h2>Background workers</h2><div class=\"wide\"><table><thead><tr>\
         <th>worker</th><th>state</th><th>progress</th><th class=\"number\">per second</th>\
         <th class=\"number\">errors</th><th>note</th></tr></thead><tbody>",
    );
    for view in views {
        let progress = match view.total {
            Some(total) => format!(
                "<progress max=\"{total}\" value=\"{}\"></progress> {} of {total}",
                view.done, view.done
            ),
            None => view.done.to_string(),
        };
        let note = view.last_error.as_deref().map_or_else(
            || escape(&view.note),
            |error| format!("<span class=\"bad\">{}</span>", escape(error)),
        );
        put!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{progress}</td><td class=\"number\">{:.1}</td><td class=\"number\">{}</td><td>{note}</td></tr>",
            escape(&view.name),
            view.state,
            view.rate_per_second,
            view.errors
        );
    }
    out.push_str("</tbody></table></div></section>");
}

fn recent(out: &mut String) {
    let recent = logging::recent();
    out.push_str("<section><h2>Recent warnings and errors</h2>");
    if recent.is_empty() {
        out.push_str("<p class=\"soft\">none</p>");
    } else {
        out.push_str("<pre>");
        for line in recent.iter().rev().take(RECENT_SHOWN) {
            putln!(
                out,
                "{} {} {}",
                escape(&line.time),
                line.level,
                escape(&line.text)
            );
        }
        out.push_str("</pre>");
    }
    out.push_str("</section>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped() {
        let mut out = String::new();
        section(
            &mut out,
            &Section::table(
                "<t>",
                ["a&b", "n"],
                vec![vec!["<script>\"'".to_owned(), "12".to_owned()]],
            ),
        );
        assert!(
            !out.contains("<script>")
                && out.contains("&lt;script&gt;&quot;&#39;")
                && out.contains("<td class=\"number\">12</td>"),
            "{out}"
        );
    }

    #[test]
    fn uptimes() {
        assert_eq!(
            [uptime(5), uptime(3_700), uptime(90_000)],
            ["0m 5s", "1h 1m", "1d 1h"]
        );
    }
}

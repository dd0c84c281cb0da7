//! Signing up, posting, who sees what where, threads, the friends page over two clusters.

use crate::browser::{Browser, PASSWORD};
use crate::site::{Site, addr, on_both};
use ibex_testkit::http::Request;

/// Ann writes three entries; Bob is her friend, Cid is nobody, Eve is not logged in.
struct People {
    ann: Browser,
    bob: Browser,
    cid: Browser,
    eve: Browser,
}

fn people(addr: std::net::SocketAddr) -> People {
    let mut ann = Browser::sign_up(addr, "ann");
    let (bob, cid) = (Browser::sign_up(addr, "bob"), Browser::sign_up(addr, "cid"));
    ann.befriend("bob");
    People {
        ann,
        bob,
        cid,
        eve: Browser::new(addr),
    }
}

#[test]
fn who_sees_what_is_the_same_on_every_page_and_feed() {
    on_both(|site| {
        let daemon = site.serve();
        let People {
            mut ann,
            mut bob,
            mut cid,
            mut eve,
        } = people(addr(&daemon));
        let entries = [
            ("public", "Seen by all"),
            ("friends", "Seen by friends"),
            ("private", "Seen by me"),
        ];
        let urls: Vec<String> = entries
            .iter()
            .map(|(security, subject)| ann.write(subject, security))
            .collect();
        bob.befriend("ann");
        let sees = |browser: &mut Browser, expected: [bool; 3], who: &str| {
            let friends = format!("/users/{who}/read");
            let mut places = vec![
                "/users/ann/",
                "/users/ann/tag/all",
                "/users/ann/archive",
                "/users/ann/data/atom",
                "/users/ann/data/rss",
            ];
            if who == "bob" {
                places.push(&friends);
            }
            for ((url, (_, subject)), expected) in urls.iter().zip(entries).zip(expected) {
                assert_eq!(
                    browser.status(url),
                    if expected { 200 } else { 404 },
                    "{who}: {subject}"
                );
                for place in &places {
                    assert_eq!(
                        browser.page(place).contains(subject),
                        expected,
                        "{who} on {place}: {subject}"
                    );
                }
            }
        };
        sees(&mut ann, [true, true, true], "ann");
        sees(&mut bob, [true, true, false], "bob");
        sees(&mut cid, [true, false, false], "cid");
        sees(&mut eve, [true, false, false], "eve");
        assert!(
            !eve.page("/users/bob/read").contains("Seen by friends"),
            "somebody else's friends page shows what is public"
        );
        assert!(
            eve.page("/latest").contains("Seen by all")
                && !eve.page("/latest").contains("Seen by friends")
        );
        let removed = ann.submit(
            "/manage/circle",
            "/manage/circle",
            &[("action", "remove"), ("user", "bob")],
        );
        assert_eq!(removed.status, 303);
        sees(&mut bob, [true, false, false], "bob");
        daemon.stop().unwrap();
    });
}

#[test]
fn what_may_not_be_seen_is_answered_like_what_is_not_there() {
    let site = Site::sqlite();
    let daemon = site.serve();
    let People {
        mut ann, mut eve, ..
    } = people(addr(&daemon));
    let url = ann.write("Hidden", "private");
    let number: i64 = url
        .trim_end_matches(".html")
        .rsplit('/')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let hidden = eve.get(&url);
    let wrong_anum = eve.get(&format!("/users/ann/{}.html", number ^ 1));
    let missing = eve.get(&format!("/users/ann/{}.html", number + 256 * 50));
    assert_eq!((hidden.status, &hidden.body), (404, &missing.body));
    assert_eq!(wrong_anum.body, missing.body);
    assert_eq!(
        ann.status(&format!("/users/ann/{}.html", number ^ 1)),
        404,
        "a wrong number is wrong for its author too"
    );
    daemon.stop().unwrap();
}

#[test]
fn entries_are_edited_closed_and_deleted_by_their_author_only() {
    on_both(|site| {
        let daemon = site.serve();
        let People {
            mut ann,
            mut bob,
            mut eve,
            ..
        } = people(addr(&daemon));
        let url = ann.write("First", "public");
        let edit = format!("{url}/edit");
        assert_eq!(bob.status(&edit), 403);
        assert_eq!(eve.status(&edit), 303, "to the log-in");
        let saved = ann.submit(
            &edit,
            &edit,
            &[
                ("subject", "Second"),
                ("event", "*x*"),
                ("security", "friends"),
                ("format", "markdown"),
                ("nocomments", "1"),
            ],
        );
        assert_eq!(saved.status, 303);
        let page = bob.page(&url);
        assert!(
            page.contains("Second")
                && page.contains("<em>x</em>")
                && page.contains("Comments are closed"),
            "{page}"
        );
        assert_eq!(eve.status(&url), 404);
        let asked = ann.submit(&edit, &edit, &[("delete", "1")]);
        assert!(asked.text().contains("Delete this entry?"));
        assert_eq!(ann.status(&url), 200);
        assert_eq!(ann.submit(&edit, &edit, &[("delete", "sure")]).status, 303);
        assert_eq!(ann.status(&url), 404);
        assert!(
            site.ok(&["admin", "check", "ann"])
                .contains("is consistent")
        );
        daemon.stop().unwrap();
    });
}

#[test]
fn a_repeated_post_is_the_same_entry_and_bad_ones_are_refused_with_what_was_typed() {
    let site = Site::sqlite();
    let daemon = site.serve();
    let mut ann = Browser::sign_up(addr(&daemon), "ann");
    let first = ann.write("Twice", "public");
    assert_eq!(ann.write("Twice", "public"), first);
    assert_ne!(ann.write("Twice", "private"), first);
    let refused = ann.submit(
        "/update",
        "/update",
        &[
            ("subject", "Kept words"),
            ("event", "  "),
            ("security", "private"),
        ],
    );
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("The entry is empty") && refused.text().contains("Kept words"));
    daemon.stop().unwrap();
}

#[test]
fn threads_keep_their_order_and_states() {
    on_both(|site| {
        let daemon = site.serve();
        let People {
            mut ann,
            mut bob,
            mut cid,
            mut eve,
        } = people(addr(&daemon));
        let url = ann.write("Talk", "public");
        let one = bob.comment(&url, "0", "first <b>thread</b>");
        let two = eve.comment(&url, "0", "second from nobody known");
        let answer = ann.comment(&url, &one, "answer to the first");
        let page = eve.page(&url);
        let at = |text: &str| {
            page.find(text)
                .unwrap_or_else(|| panic!("{text} not in {page}"))
        };
        assert!(
            at("first <b>thread</b>") < at("answer to the first")
                && at("answer to the first") < at("second from nobody known")
        );
        assert!(
            page.contains("3 comments")
                && page.contains(&format!("class=\"comment d1\" id=\"cmt{answer}\""))
                && page.contains("Anonymous")
        );
        let act = |browser: &mut Browser, id: &str, action: &str| {
            browser
                .submit(
                    "/update",
                    &format!("{url}/comment/{id}"),
                    &[("action", action)],
                )
                .status
        };
        assert_eq!(act(&mut cid, &one, "delete"), 403);
        assert_eq!(act(&mut ann, &two, "screen"), 303);
        assert!(
            !eve.page(&url).contains("second from nobody known")
                && ann.page(&url).contains("second from nobody known")
        );
        assert!(eve.page(&url).contains("2 comments"));
        assert_eq!(act(&mut ann, &one, "freeze"), 303);
        let refused = cid.submit(
            &url.clone().replace(&url, "/update"),
            &format!("{url}/reply"),
            &[("parent", &one), ("body", "too late")],
        );
        assert_eq!(refused.status, 422, "a frozen comment is not answered");
        assert_eq!(act(&mut bob, &one, "delete"), 303, "its author deletes it");
        let page = eve.page(&url);
        assert!(
            page.contains("A comment that was deleted")
                && page.contains("answer to the first")
                && page.contains("1 comment"),
            "{page}"
        );
        assert!(
            site.ok(&["admin", "check", "ann"])
                .contains("is consistent")
        );
        daemon.stop().unwrap();
    });
}

#[test]
fn the_friends_page_gathers_both_clusters_newest_first() {
    on_both(|site| {
        let daemon = site.serve();
        let mut reader = Browser::sign_up(addr(&daemon), "reader");
        let mut homes = std::collections::BTreeSet::new();
        for n in 0..6 {
            let name = format!("writer{n}");
            let mut writer = Browser::sign_up(addr(&daemon), &name);
            writer.write(&format!("Entry {n}"), "public");
            reader.befriend(&name);
            homes.insert(site.ok(&["admin", "user-where", &name]).trim().to_owned());
        }
        assert_eq!(homes.len(), 2, "new users are spread");
        let page = reader.page("/users/reader/read");
        let places: Vec<usize> = (0..6)
            .rev()
            .map(|n| {
                page.find(&format!(">Entry {n}<"))
                    .unwrap_or_else(|| panic!("entry {n} is missing"))
            })
            .collect();
        let mut sorted = places.clone();
        sorted.sort_unstable();
        assert_eq!(places.len(), sorted.len());
        let gathers = daemon.metric("ibex_journal_gather_requests_total").unwrap();
        assert!(gathers >= 2.0, "both clusters were asked");
        daemon.stop().unwrap();
    });
}

#[test]
fn old_addresses_lead_to_the_present_ones_and_feeds_answer_conditionally() {
    let site = Site::sqlite();
    let daemon = site.serve();
    let mut ann = Browser::sign_up(addr(&daemon), "ann");
    ann.write("Fed", "public");
    let mut eve = Browser::new(addr(&daemon));
    assert_eq!(
        eve.get("/~ann/data/rss").header("location"),
        Some("/users/ann/data/rss")
    );
    assert_eq!(
        eve.get("/community/ann/").header("location"),
        Some("/users/ann/")
    );
    assert_eq!(
        eve.get("/users/Ann").header("location"),
        Some("/users/ann/")
    );
    let feed = eve.get("/users/ann/data/atom");
    let tag = feed.header("etag").unwrap().to_owned();
    let again = eve.send(Request::get("/users/ann/data/atom").header("if-none-match", &tag));
    assert_eq!((again.status, again.body.len()), (304, 0));
    daemon.stop().unwrap();
}

#[test]
fn settings_profile_keys_and_logout() {
    let site = Site::sqlite();
    let daemon = site.serve();
    let mut ann = Browser::sign_up(addr(&daemon), "ann");
    let fields = [
        ("name", "Ann A."),
        ("title", "Notes & such"),
        ("bio", "I <i>read</i>."),
        ("email", "ann@elsewhere.example"),
        ("whocanreply", "reg"),
    ];
    assert_eq!(
        ann.submit("/manage/settings", "/manage/settings", &fields)
            .status,
        303
    );
    let profile = ann.page("/users/ann/profile");
    assert!(
        profile.contains("Notes &#38; such") || profile.contains("Notes &amp; such"),
        "{profile}"
    );
    assert!(profile.contains("I <i>read</i>."));
    let url = ann.write("Registered only", "public");
    let mut eve = Browser::new(addr(&daemon));
    assert!(eve.page(&format!("{url}?replyto=0")).contains("log in"));
    let made = ann.submit(
        "/manage/keys",
        "/manage/keys",
        &[("action", "make"), ("name", "old client")],
    );
    assert!(made.text().contains("shown only now"));
    let mut other = Browser::new(addr(&daemon));
    assert_eq!(
        other
            .submit(
                "/login",
                "/login",
                &[("user", "Ann"), ("password", PASSWORD), ("remember", "1")]
            )
            .status,
        303
    );
    assert_eq!(
        ann.submit(
            "/manage/keys",
            "/manage/keys",
            &[("action", "logout_others")]
        )
        .status,
        303
    );
    assert_eq!(other.status("/inbox"), 303, "the other session is over");
    assert_eq!(ann.submit("/inbox", "/logout", &[]).status, 303);
    assert_eq!(ann.status("/inbox"), 303);
    daemon.stop().unwrap();
}

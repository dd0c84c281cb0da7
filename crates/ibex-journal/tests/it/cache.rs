//! Two web processes behind one memcached: what one writes the other shows at once; without the cache everything goes on.

use crate::browser::Browser;
use crate::site::{Site, addr};
use ibex_testkit::{skip, wait};
use std::process::{Child, Command};

/// The Debian memcached on a free port; `None` with a visible reason where there is none.
struct Memcached {
    child: Child,
    addr: String,
}

impl Memcached {
    fn start() -> Option<Self> {
        let program = skip::program("memcached")?;
        let port = ibex_testkit::ports::free().port();
        let child = Command::new(program)
            .args([
                "-l",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-U",
                "0",
                "-u",
                "root",
            ])
            .spawn()
            .unwrap();
        let addr = format!("127.0.0.1:{port}");
        wait::until_true("memcached accepts", || {
            std::net::TcpStream::connect(&addr).is_ok()
        })
        .unwrap();
        Some(Self { child, addr })
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn what_one_process_writes_the_other_shows_at_once() {
    let Some(memcached) = Memcached::start() else {
        return;
    };
    let mut site = Site::sqlite();
    site.set("cache.servers", &memcached.addr);
    let (one, two) = (site.serve(), site.serve());
    let mut ann = Browser::sign_up(addr(&one), "ann");
    let mut bob = Browser::sign_up(addr(&two), "bob");
    ann.befriend("bob");
    bob.befriend("ann");
    let mut eve = Browser::new(addr(&two));
    for turn in 0..5 {
        let subject = format!("Turn {turn}");
        let url = ann.write(&subject, "public");
        let edit = format!("{url}/edit");
        for page in [
            "/users/ann/",
            "/users/bob/read",
            "/users/ann/data/rss",
            &url,
        ] {
            assert!(bob.page(page).contains(&subject), "{page}: {subject}");
        }
        bob.comment(&url, "0", "Seen");
        assert!(
            ann.page(&url).contains("1 comment"),
            "the other process shows the comment"
        );
        assert_eq!(eve.status(&url), 200);
        ann.submit(
            &edit,
            &edit,
            &[
                ("subject", &subject),
                ("event", "locked now"),
                ("security", "private"),
            ],
        );
        assert_eq!(
            (eve.status(&url), bob.status(&url)),
            (404, 404),
            "a locked entry is gone at once"
        );
        for page in ["/users/ann/", "/users/bob/read", "/users/ann/data/rss"] {
            assert!(!bob.page(page).contains(&subject), "{page}: {subject}");
        }
    }
    let hits = two.metric("ibex_journal_cache_hits_total").unwrap();
    assert!(hits > 20.0, "the cache was used: {hits}");
    let removed = ann.submit(
        "/manage/circle",
        "/manage/circle",
        &[("action", "remove"), ("user", "bob")],
    );
    assert_eq!(removed.status, 303);
    let locked = ann.write("No longer for Bob", "friends");
    assert_eq!(bob.status(&locked), 404);
    one.stop().unwrap();
    two.stop().unwrap();
}

#[test]
fn a_warm_friends_page_reads_no_database_of_entries() {
    let Some(memcached) = Memcached::start() else {
        return;
    };
    let mut site = Site::sqlite();
    site.set("cache.servers", &memcached.addr);
    let daemon = site.serve();
    let mut ann = Browser::sign_up(addr(&daemon), "ann");
    for n in 0..4 {
        let mut writer = Browser::sign_up(addr(&daemon), &format!("w{n}"));
        writer.write(&format!("By {n}"), "public");
        ann.befriend(&format!("w{n}"));
    }
    ann.page("/users/ann/read");
    ann.page("/users/ann/read");
    let count = |name: &str| {
        daemon
            .metric(&format!("ibex_journal_{name}_total"))
            .unwrap()
    };
    let before = (
        count("gather_requests"),
        count("user_reads"),
        count("global_writes"),
    );
    for _ in 0..10 {
        assert!(ann.page("/users/ann/read").contains("By 3"));
    }
    assert_eq!(
        (
            count("gather_requests"),
            count("user_reads"),
            count("global_writes")
        ),
        before
    );
    daemon.stop().unwrap();
}

#[test]
fn without_the_cache_everything_goes_on_and_the_pages_say_so() {
    let Some(memcached) = Memcached::start() else {
        return;
    };
    let mut site = Site::sqlite();
    site.set("cache.servers", &memcached.addr);
    let daemon = site
        .daemon("serve")
        .announce("cache does not answer")
        .start()
        .unwrap();
    let mut ann = Browser::sign_up(addr(&daemon), "ann");
    let url = ann.write("Before", "public");
    ann.page(&url);
    drop(memcached);
    let page = ann.page(&url);
    assert!(
        page.contains("Before") && page.contains("The cache is away"),
        "{page}"
    );
    let after = ann.write("After", "friends");
    assert_eq!(ann.status(&after), 200);
    assert_eq!(
        Browser::new(addr(&daemon)).status(&after),
        404,
        "nothing is shown that should not be"
    );
    daemon.stop().unwrap();
}

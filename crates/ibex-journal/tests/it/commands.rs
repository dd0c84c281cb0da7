//! The commands: schemas, demonstration data, accounts.

use crate::browser::{Browser, PASSWORD};
use crate::site::{Site, addr, on_both};

#[test]
fn demonstration_data_is_there_once_and_the_site_shows_it() {
    on_both(|site| {
        let seed = [
            "seed-demo",
            "--users",
            "30",
            "--entries",
            "120",
            "--seed",
            "5",
            "--pictures",
            "2",
            "--password",
            PASSWORD,
        ];
        let said = site.ok(&seed);
        assert!(said.contains("120 entries"), "{said}");
        assert!(site.ok(&seed).contains("holds this already"));
        let name = said.trim().rsplit(' ').next().unwrap().to_owned();
        let daemon = site.serve();
        let mut first = Browser::new(addr(&daemon));
        let answer = first.submit(
            "/login",
            "/login",
            &[("user", &name), ("password", PASSWORD)],
        );
        assert_eq!(
            answer.header("location"),
            Some(format!("/users/{name}/read").as_str()),
            "{}",
            answer.text()
        );
        assert!(
            first
                .page(&format!("/users/{name}/read"))
                .matches("class=\"entry\"")
                .count()
                > 5
        );
        assert_eq!(first.status("/userpic/1/1"), 200);
        assert!(first.page("/people").matches("class=\"user\"").count() > 30);
        assert!(
            site.ok(&["admin", "check", &name])
                .contains("is consistent")
        );
        daemon.stop().unwrap();
    });
}

#[test]
fn accounts_and_communities_are_made_and_found() {
    let site = Site::sqlite();
    site.ok(&["migrate"]);
    site.ok(&[
        "admin",
        "user-add",
        "ann",
        "--password",
        PASSWORD,
        "--cluster",
        "2",
    ]);
    assert_eq!(
        site.ok(&["admin", "user-where", "ann"]).lines().last(),
        Some("2")
    );
    site.ok(&["admin", "community-add", "readers", "--owner", "ann"]);
    assert_eq!(site.ok(&["admin", "apikey-add", "ann"]).trim().len(), 32);
    let twice = site.run(&["admin", "user-add", "ann", "--password", PASSWORD]);
    assert_eq!(twice.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&twice.stderr).contains("taken"));
    let daemon = site.serve();
    let mut ann = Browser::new(addr(&daemon));
    ann.submit(
        "/login",
        "/login",
        &[("user", "ann"), ("password", PASSWORD)],
    );
    let answer = ann.submit(
        "/update",
        "/update",
        &[
            ("journal", "readers"),
            ("subject", "For members"),
            ("event", "x"),
            ("security", "friends"),
        ],
    );
    let url = answer.header("location").unwrap().to_owned();
    assert!(url.starts_with("/users/readers/"));
    let mut bob = Browser::sign_up(addr(&daemon), "bob");
    assert_eq!(bob.status(&url), 404);
    bob.befriend("readers");
    assert_eq!(bob.status(&url), 200, "membership is open");
    assert!(site.ok(&["admin", "rebuild-usage"]).contains("made anew"));
    daemon.stop().unwrap();
}

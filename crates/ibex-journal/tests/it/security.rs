//! What an attacker would try: forms of other sites, missing tokens, redirects, guessing, markup.

use crate::browser::{Browser, PASSWORD};
use crate::site::{Site, addr};
use ibex_testkit::http::Request;

#[test]
fn forms_need_their_token_and_their_own_site() {
    let site = Site::sqlite();
    let daemon = site.serve();
    let mut ann = Browser::sign_up(addr(&daemon), "ann");
    let mut bob = Browser::sign_up(addr(&daemon), "bob");
    let fields = [("subject", "x"), ("event", "x"), ("security", "public")];
    assert_eq!(ann.post("/update", &fields).status, 403, "no token");
    let token = bob.token("/update");
    assert_eq!(
        ann.post(
            "/update",
            &[&[("csrf", token.as_str())], &fields[..]].concat()
        )
        .status,
        403,
        "somebody else's token"
    );
    let token = ann.token("/update");
    let body = format!("csrf={token}&event=x&security=public");
    let form = |name: &str, value: &str| {
        Request::post("/update", "application/x-www-form-urlencoded", body.clone())
            .header(name, value)
    };
    assert_eq!(ann.send(form("sec-fetch-site", "cross-site")).status, 403);
    assert_eq!(ann.send(form("origin", "https://evil.example")).status, 403);
    assert_eq!(ann.send(form("sec-fetch-site", "same-origin")).status, 303);
    daemon.stop().unwrap();
}

#[test]
fn every_answer_carries_the_protecting_headers() {
    let site = Site::sqlite();
    let daemon = site.serve();
    let mut eve = Browser::new(addr(&daemon));
    for path in ["/", "/users/nobody/", "/static/site.css", "/login"] {
        let answer = eve.get(path);
        let csp = answer.header("content-security-policy").unwrap();
        assert!(
            csp.contains("default-src 'none'")
                && csp.contains("frame-ancestors 'none'")
                && !csp.contains("unsafe"),
            "{path}: {csp}"
        );
        assert_eq!(
            answer.header("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
        assert!(
            !answer.text().contains("style=") && !answer.text().contains("<script"),
            "{path}"
        );
    }
    let cookie = Browser::new(addr(&daemon)).get("/login");
    let cookie = cookie.header("set-cookie").unwrap();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"),
        "{cookie}"
    );
    daemon.stop().unwrap();
}

#[test]
fn log_in_sends_nobody_elsewhere_and_stops_guessing() {
    let site = Site::sqlite();
    let daemon = site.serve();
    drop(Browser::sign_up(addr(&daemon), "ann"));
    let mut back = Browser::new(addr(&daemon));
    let answer = back.submit(
        "/login",
        "/login",
        &[
            ("user", "ann"),
            ("password", PASSWORD),
            ("back", "//evil.example/"),
        ],
    );
    assert_eq!(
        (answer.status, answer.header("location")),
        (303, Some("/users/ann/read"))
    );
    let mut guesser = Browser::new(addr(&daemon));
    for turn in 0..3 {
        let answer = guesser.submit(
            "/login",
            "/login",
            &[("user", "ann"), ("password", "guess guess")],
        );
        assert_eq!(answer.status, 422, "guess {turn}");
    }
    let known = guesser.submit(
        "/login",
        "/login",
        &[("user", "ann"), ("password", PASSWORD)],
    );
    assert_eq!(known.status, 429, "even the right one waits now");
    let unknown = guesser.submit(
        "/login",
        "/login",
        &[("user", "nobody"), ("password", "guess guess")],
    );
    assert!(
        unknown
            .text()
            .contains("The name or the password is wrong.")
    );
    daemon.stop().unwrap();
}

#[test]
fn what_people_write_cannot_act() {
    let site = Site::sqlite();
    let daemon = site.serve();
    let mut ann = Browser::sign_up(addr(&daemon), "ann");
    let evil = "<script>alert(1)</script><img src=x onerror=alert(1)><a href=\"javascript:alert(1)\">x</a><form action=/logout \
        method=post><button>y</button></form>";
    let answer = ann.submit(
        "/update",
        "/update",
        &[
            ("subject", evil.get(..90).unwrap()),
            ("event", evil),
            ("security", "public"),
            ("mood", "<b>bold</b>"),
        ],
    );
    let url = answer.header("location").unwrap().to_owned();
    ann.comment(&url, "0", evil);
    for page in [
        ann.page(&url),
        ann.page("/users/ann/"),
        ann.page("/users/ann/archive"),
        ann.page("/"),
    ] {
        assert!(
            !page.contains("<script>alert")
                && !page.contains("<img src=x")
                && !page.contains("href=\"javascript:"),
            "{page}"
        );
        assert!(!page.contains("<b>bold</b>"));
    }
    daemon.stop().unwrap();
}

#[test]
fn the_balancers_question_is_answered_at_once_and_the_site_port_has_no_admin_pages() {
    let site = Site::sqlite();
    let daemon = site.serve();
    assert_eq!(
        Request::new("OPTIONS", "*")
            .send(addr(&daemon))
            .unwrap()
            .status,
        200
    );
    let mut eve = Browser::new(addr(&daemon));
    for path in ["/metrics", "/healthz", "/_perlbal/x"] {
        assert_eq!(eve.status(path), 404, "{path}");
    }
    daemon.stop().unwrap();
}

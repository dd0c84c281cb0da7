//! The pages for people: what they may do, to whom they are shown, and that strangers' texts are no markup in them.

use crate::{Case, send};
use ibex_testkit::http::{Request, Response, get};
use serde_json::{Value, json};

fn form(case: &Case, body: &str, headers: &[(&str, &str)]) -> Response {
    let request = Request::post("/plain", "application/x-www-form-urlencoded", body);
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(name, value)
    });
    send(case.addr, &request)
}

#[test]
fn a_person_without_scripts_finds_an_error_retries_the_job_and_pauses_a_function() {
    let case = Case::start(&[]);
    let nasty = "<script>alert('x')</script>";
    case.insert(&json!({"func": nasty, "args": {"to": "<b>fred"}, "format": "storable"}));
    let job = case.fetch(nasty, 0).remove(0);
    case.finish(
        &job,
        "fail",
        json!({"permanent": true, "message": "smtp <refused> & gone"}),
    );
    let handle = job["handle"].as_str().unwrap();
    let page = get(case.addr, "/plain").unwrap();
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
    assert!(
        page.text().contains("smtp &lt;refused&gt; &amp; gone"),
        "{}",
        page.text()
    );
    assert!(!page.text().contains("<script>"), "{}", page.text());
    assert!(page.text().contains(&format!("href=\"/plain/{handle}\"")));
    let one = get(case.addr, &format!("/plain/{handle}")).unwrap().text();
    assert!(
        one.contains("&quot;to&quot;: &quot;&lt;b&gt;fred&quot;"),
        "{one}"
    );
    assert!(
        one.contains("<dd>failed</dd>") && one.contains("value=\"retry\""),
        "{one}"
    );

    let own = case.addr.to_string();
    let origin = format!("http://{own}");
    let own = [("origin", origin.as_str())];
    let answer = form(&case, &format!("do=retry&handle={handle}"), &own);
    assert_eq!(
        (answer.status, answer.header("location")),
        (303, Some("/plain"))
    );
    let again = get(case.addr, &format!("/plain/{handle}")).unwrap().text();
    assert!(
        again.contains("&quot;to&quot;: &quot;&lt;b&gt;fred&quot;"),
        "{again}"
    );
    assert_eq!(form(&case, "do=pause&func=Mail", &own).status, 303);
    assert!(case.fetch("Mail", 0).is_empty());
    let funcs = case.ok("GET", "/v1/funcs", &Value::Null);
    let funcs = funcs["funcs"].as_array().unwrap();
    assert!(
        funcs
            .iter()
            .any(|func| func["func"] == "Mail" && func["paused"] == true)
    );
    assert_eq!(form(&case, "do=resume&func=Mail", &own).status, 303);
    assert_eq!(
        form(&case, &format!("do=cancel&handle={handle}"), &own).status,
        303
    );
    assert_eq!(form(&case, "do=explode", &own).status, 400);
    assert_eq!(get(case.addr, "/plain/nonsense").unwrap().status, 400);
    case.daemon.stop().unwrap();
}

#[test]
fn forms_act_only_for_a_page_of_this_daemon() {
    let case = Case::start(&[]);
    let pause = "do=pause&func=Mail";
    assert_eq!(
        form(&case, pause, &[]).status,
        403,
        "nobody says where it comes from"
    );
    for foreign in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        assert_eq!(form(&case, pause, &[foreign]).status, 403, "{foreign:?}");
    }
    assert_eq!(
        form(&case, pause, &[("sec-fetch-site", "same-origin")]).status,
        303
    );
    // The calls the page with scripts makes are refused the same way, whatever they are.
    for (method, path) in [
        ("POST", "/v1/funcs/Mail/resume"),
        ("DELETE", "/v1/cron/x"),
        ("PUT", "/v1/funcs/Mail"),
        ("POST", "/v1/retry"),
    ] {
        let request = Request::new(method, path).header("origin", "http://evil.example");
        assert_eq!(send(case.addr, &request).status, 403, "{method} {path}");
    }
    case.daemon.stop().unwrap();
}

#[test]
fn with_a_token_the_pages_show_nothing_and_do_nothing_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "secret").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let case = Case::start(&[("token_file", file.to_str().unwrap())]);
    let page = get(case.addr, "/").unwrap();
    assert!(
        page.text().contains("dashboard.js"),
        "the page itself holds nothing"
    );
    for asset in ["/dashboard.js", "/dashboard.css"] {
        let asset = get(case.addr, asset).unwrap();
        assert_eq!(
            (asset.status, asset.header("x-content-type-options")),
            (200, Some("nosniff"))
        );
    }
    let plain = get(case.addr, "/plain").unwrap();
    assert_eq!(plain.status, 401);
    assert!(
        plain
            .header("www-authenticate")
            .unwrap()
            .starts_with("Basic")
    );
    let own = ("sec-fetch-site", "same-origin");
    assert_eq!(form(&case, "do=pause&func=F", &[own]).status, 401);
    // Anybody, "secret"; and a wrong one.
    let right = ("authorization", "Basic YW55Ym9keTpzZWNyZXQ=");
    assert_eq!(form(&case, "do=pause&func=F", &[own, right]).status, 303);
    assert_eq!(
        form(&case, "do=pause&func=F", &[right]).status,
        403,
        "another site's form"
    );
    let wrong = ("authorization", "Basic YW55Ym9keTp3cm9uZw==");
    assert_eq!(form(&case, "do=pause&func=F", &[own, wrong]).status, 403);
    let shown = Request::get("/plain").header(right.0, right.1);
    assert_eq!(send(case.addr, &shown).status, 200);
    case.daemon.stop().unwrap();
}

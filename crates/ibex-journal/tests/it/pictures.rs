//! Icons and photos: upload, scaling, who may fetch them, the balancer's way.

use crate::browser::{Browser, between};
use crate::site::{Site, addr};
use ibex_testkit::http::Request;

/// A PNG of one colour, made by the same encoder as uploads.
fn png(width: u32, height: u32) -> Vec<u8> {
    let mut out = std::io::Cursor::new(Vec::new());
    image::DynamicImage::new_rgb8(width, height)
        .write_to(&mut out, image::ImageFormat::Png)
        .unwrap();
    out.into_inner()
}

#[test]
fn an_icon_is_scaled_shown_and_deleted() {
    let site = Site::sqlite();
    let daemon = site.serve();
    let mut ann = Browser::sign_up(addr(&daemon), "ann");
    let mut eve = Browser::new(addr(&daemon));
    assert_eq!(
        ann.upload("/manage/icons", &png(300, 200), &[("keyword", "hill")])
            .status,
        303
    );
    let page = ann.page("/users/ann/icons");
    let url = between(&page, "src=\"/userpic/", "\"")
        .map(|rest| format!("/userpic/{rest}"))
        .unwrap();
    let icon = eve.get(&url);
    assert_eq!(
        (icon.status, icon.header("content-type")),
        (200, Some("image/png"))
    );
    let size = image::load_from_memory(&icon.body).unwrap();
    assert_eq!((size.width(), size.height()), (100, 100));
    assert!(icon.header("cache-control").unwrap().contains("immutable"));
    let tag = icon.header("etag").unwrap().to_owned();
    assert_eq!(
        eve.send(Request::get(&url).header("if-none-match", &tag))
            .status,
        304
    );
    assert!(
        eve.page("/users/ann/").contains(&url),
        "the first icon is the default"
    );
    for bad in [
        b"not a picture".to_vec(),
        png(2, 2).get(..20).unwrap().to_vec(),
        Vec::new(),
    ] {
        let refused = ann.upload("/manage/icons", &bad, &[]);
        assert_eq!(refused.status, 422);
    }
    let id = url.split('/').nth(2).unwrap();
    assert_eq!(
        ann.submit(
            "/manage/icons",
            "/manage/icons/act",
            &[("action", "delete"), ("picid", id)]
        )
        .status,
        303
    );
    assert_eq!(eve.status(&url), 404);
    daemon.stop().unwrap();
}

#[test]
fn a_friends_only_photo_is_for_friends_only() {
    let site = Site::sqlite();
    let daemon = site.serve();
    let mut ann = Browser::sign_up(addr(&daemon), "ann");
    let mut bob = Browser::sign_up(addr(&daemon), "bob");
    let mut eve = Browser::new(addr(&daemon));
    ann.befriend("bob");
    assert_eq!(
        ann.upload(
            "/manage/photos",
            &png(500, 400),
            &[("title", "Lake"), ("security", "friends")]
        )
        .status,
        303
    );
    let page = ann.page("/manage/photos");
    let url = between(&page, "<a href=\"/photo/", "\"")
        .map(|rest| format!("/photo/{rest}"))
        .unwrap();
    for path in [url.clone(), format!("{url}/thumb")] {
        assert_eq!(
            (ann.status(&path), bob.status(&path), eve.status(&path)),
            (200, 200, 404),
            "{path}"
        );
    }
    assert!(
        bob.get(&url)
            .header("cache-control")
            .unwrap()
            .contains("private")
    );
    let thumb = image::load_from_memory(&bob.get(&format!("{url}/thumb")).body).unwrap();
    assert_eq!(thumb.width(), 320);
    let missing = eve.get("/photo/ann/99999");
    assert_eq!(
        eve.get(&url).body,
        missing.body,
        "a hidden photo looks like a missing one"
    );
    daemon.stop().unwrap();
}

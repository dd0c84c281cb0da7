//! `/metrics` in both forms: clean to the reference parser, few, quick.

use std::process::Command;
use std::time::{Duration, Instant};

use ibex_testkit::http::Request;
use ibex_testkit::skip;
use integration_tests::{peers, ping};

use super::Case;

const SERIES_MAX: usize = 2000;
/// Best of some tries: the other tests take the processor when they like.
const SCRAPE_TIME_MAX: Duration = Duration::from_millis(10);

pub(super) fn clean(short: &str) {
    let case = Case::new(short);
    let daemon = case.builder().start().unwrap();
    ping::of(short)
        .unwrap()
        .fresh(daemon.addr(case.member.listener).unwrap())
        .unwrap();
    let admin = daemon.admin().unwrap();

    let classic = daemon.admin_get("/metrics").unwrap();
    assert_eq!(
        classic.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let text = classic.text();
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(series < SERIES_MAX, "{series} series while idle");
    for wanted in [
        "ibex_build_info{",
        "process_open_fds ",
        "ibex_ready 1",
        "ibex_config_reload_success 1",
    ] {
        assert!(text.contains(wanted), "{wanted} is missing:\n{text}");
    }
    if let Some(promtool) = skip::program("promtool") {
        let output = peers::run(
            Command::new(promtool).args(["check", "metrics"]),
            text.as_bytes(),
        )
        .unwrap();
        let lint = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && lint.trim().is_empty(),
            "promtool: {lint}"
        );
    }

    let open = Request::get("/metrics")
        .header("accept", "application/openmetrics-text; version=1.0.0")
        .send(admin)
        .unwrap();
    assert_eq!(
        open.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    assert!(open.text().ends_with("# EOF\n"));

    let mut best = Duration::MAX;
    for _ in 0..20 {
        let start = Instant::now();
        daemon.admin_get("/metrics").unwrap();
        best = best.min(start.elapsed());
    }
    assert!(best < SCRAPE_TIME_MAX, "a scrape takes {best:?}");
    daemon.stop().unwrap();
}

//! Paused functions, periodic jobs, failed jobs brought back, results; and who leads when there are several daemons.

use crate::{Case, call};
use ibex_testkit::Daemon;
use ibex_testkit::wait::until_true;
use serde_json::{Value, json};

fn func(case: &Case, name: &str) -> Value {
    let funcs = case.ok("GET", "/v1/funcs", &Value::Null);
    let list = funcs["funcs"].as_array().unwrap();
    list.iter()
        .find(|func| func["func"] == name)
        .cloned()
        .unwrap_or_default()
}

#[test]
fn a_paused_function_hands_nothing_out_until_it_is_resumed() {
    let case = Case::start(&[]);
    let first = case.insert(&json!({"func": "Mail/out", "arg": "1"}));
    case.ok("POST", "/v1/funcs/Mail%2Fout/pause", &Value::Null);
    assert_eq!(
        (
            &func(&case, "Mail/out")["paused"],
            &func(&case, "Mail/out")["blocked"]
        ),
        (&json!(true), &json!(1))
    );
    case.insert(&json!({"func": "Mail/out", "arg": "2"}));
    assert!(case.fetch("Mail/out", 50).is_empty());
    let state = || case.ok("GET", &format!("/v1/jobs/{first}"), &Value::Null)["state"].clone();
    assert_eq!(state(), "blocked");
    let blocked = || case.ok("GET", "/v1/jobs?state=blocked", &Value::Null)["jobs"].clone();
    until_true("the leader to park what came later", || {
        blocked().as_array().unwrap().len() == 2
    })
    .unwrap();
    // A waiting worker gets them when they are back.
    let addr = case.addr;
    let waiting = std::thread::spawn(move || {
        let want = json!({"funcs": ["Mail/out"], "max": 9, "wait_ms": 60_000});
        call(addr, "POST", "/v1/fetch", &want)
    });
    let answer = case.ok("POST", "/v1/funcs/Mail%2Fout/resume", &Value::Null);
    assert_eq!(answer["was_paused"], true);
    assert_eq!(
        waiting.join().unwrap().1["jobs"].as_array().unwrap().len(),
        2
    );
    assert_eq!(
        case.call("POST", "/v1/funcs/x/pause?for=0", &Value::Null).0,
        400
    );
    assert_eq!(case.call("POST", "/v1/funcs//pause", &Value::Null).0, 404);
    case.daemon.stop().unwrap();
}

#[test]
fn periodic_jobs_come_by_themselves() {
    let case = Case::start(&[]);
    let new =
        json!({"spec": "@every 1s", "catch_up": "one", "job": {"func": "Tick", "args": {"n": 1}}});
    let entry = case.ok("PUT", "/v1/cron/every%20second", &new);
    assert_eq!(
        (&entry["job"]["func"], &entry["last_at"]),
        (&json!("Tick"), &Value::Null)
    );
    let jobs = case.fetch("Tick", 60_000);
    assert_eq!(jobs[0]["args"], json!({"n": 1}));
    until_true("the entry to say that it ran", || {
        case.ok("GET", "/v1/cron/every%20second", &Value::Null)["last_at"].is_u64()
    })
    .unwrap();
    assert_eq!(
        case.ok("GET", "/v1/cron", &Value::Null)["cron"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    case.ok("DELETE", "/v1/cron/every%20second", &Value::Null);
    assert_eq!(
        case.call("DELETE", "/v1/cron/every%20second", &Value::Null)
            .0,
        404
    );

    let yearly = json!({"spec": "0 0 1 1 *", "zone": "Europe/Vienna", "job": {"func": "Yearly"}});
    case.ok("PUT", "/v1/cron/y", &yearly);
    assert_eq!(
        case.call("POST", "/v1/cron/y/run", &Value::Null).0,
        201,
        "by hand"
    );
    assert_eq!(case.fetch("Yearly", 0).len(), 1);
    for bad in [
        json!({"spec": "61 * * * *", "job": {"func": "F"}}),
        json!({"spec": "@daily", "zone": "Mars/Base", "job": {"func": "F"}}),
        json!({"spec": "@daily", "job": {"func": ""}}),
        json!({"spec": "@daily", "job": {"func": "F", "run_after": 5}}),
        json!({"spec": "@daily", "catch_up": "some", "job": {"func": "F"}}),
        json!({"spec": "@daily"}),
    ] {
        assert_eq!(case.call("PUT", "/v1/cron/bad", &bad).0, 400, "{bad}");
    }
    assert_eq!(case.call("GET", "/v1/cron/bad", &Value::Null).0, 404);
    case.daemon.stop().unwrap();
}

#[test]
fn failed_jobs_are_brought_back_together_and_results_are_kept() {
    let case = Case::start(&[]);
    for (func, key) in [("A", "a"), ("A", "b"), ("B", "c")] {
        case.insert(&json!({"func": func, "uniqkey": key}));
        let job = &case.fetch(func, 0)[0];
        assert_eq!(
            case.finish(job, "fail", json!({"message": "no", "permanent": true}))
                .0,
            200
        );
    }
    case.insert(&json!({"func": "A", "uniqkey": "b"}));
    let answer = case.ok("POST", "/v1/retry", &json!({"func": "A"}));
    assert_eq!(answer, json!({"retried": 1, "duplicates": 1}));
    assert_eq!(case.fetch("A", 0).len(), 2);
    assert!(case.fetch("B", 0).is_empty());
    let answer = case.ok("POST", "/v1/retry", &json!({}));
    assert_eq!(answer, json!({"retried": 1, "duplicates": 1}));
    let job = &case.fetch("B", 0)[0];
    let result = json!({"rows": [1, "two"]});
    assert_eq!(
        case.finish(job, "complete", json!({"result": result})).0,
        200
    );
    let handle = job["handle"].as_str().unwrap();
    let status = case.ok("GET", &format!("/v1/jobs/{handle}"), &Value::Null);
    assert_eq!(
        (&status["state"], &status["result"]),
        (&json!("completed"), &result)
    );
    assert_eq!(case.call("POST", "/v1/retry", &json!({"limit": 0})).0, 400);
    case.daemon.stop().unwrap();
}

#[test]
fn leases_of_a_daemon_that_was_killed_count_as_failures() {
    let mut case = Case::start(&[]);
    let lost = case.insert(&json!({"func": "Crash"}));
    let declined = case.insert(&json!({"func": "Back"}));
    case.ok(
        "POST",
        "/v1/fetch",
        &json!({"funcs": ["Crash"], "grab_for": 2}),
    );
    let job = case.fetch("Back", 0).remove(0);
    assert_eq!(case.finish(&job, "decline", json!({})).0, 200);
    case.daemon.kill().unwrap();
    case.daemon.restart().unwrap();
    case.addr = case.daemon.addr("schwartz").unwrap();
    let status = |handle: &str| case.ok("GET", &format!("/v1/jobs/{handle}"), &Value::Null);
    until_true("the lost lease to be counted", || {
        status(&lost)["failures"].as_array().unwrap().len() == 1
    })
    .unwrap();
    assert_eq!(status(&lost)["failures"][0]["message"], "lease expired");
    assert_eq!(status(&lost)["state"], "scheduled");
    assert_eq!(status(&declined)["state"], "ready");
    assert_eq!(status(&declined)["failures"], json!([]));
    case.daemon.stop().unwrap();
}

#[test]
fn one_of_two_daemons_leads_and_the_other_follows_it() {
    let mut case = Case::start(&[]);
    let leads = |daemon: &Daemon| {
        daemon
            .metric("ibex_schwartzd_leader{db=\"0\"}")
            .unwrap_or(0.0)
            > 0.0
    };
    until_true("the first to lead", || leads(&case.daemon)).unwrap();
    let mut second = Daemon::builder("ibex-schwartzd")
        .set("store.url", &case.url())
        .set("shutdown.grace", "2s")
        .start()
        .unwrap();
    let addr = second.addr("schwartz").unwrap();
    let new = json!({"spec": "@every 1s", "catch_up": "all", "job": {"func": "Tick"}});
    let (_, entry) = call(addr, "PUT", "/v1/cron/t", &new);
    let first_tick = entry["next_at"].as_u64().unwrap();
    let next_tick = || {
        let (_, entry) = call(addr, "GET", "/v1/cron/t", &Value::Null);
        entry["next_at"].as_u64().unwrap()
    };
    until_true("some ticks", || next_tick() >= first_tick + 2).unwrap();
    until_true("one of the two to lead", || {
        leads(&case.daemon) != leads(&second)
    })
    .unwrap();
    case.daemon.terminate().unwrap();
    until_true("the second to lead", || leads(&second)).unwrap();
    let left = next_tick();
    until_true("ticks of the second", || next_tick() > left).unwrap();
    // Every tick is one job, whoever inserted it: asked between two equal looks at the next tick.
    until_true("a look between two ticks", || {
        let before = next_tick();
        let (_, jobs) = call(addr, "GET", "/v1/jobs?func=Tick&limit=1000", &Value::Null);
        let count = u64::try_from(jobs["jobs"].as_array().unwrap().len()).unwrap();
        if next_tick() != before {
            return false;
        }
        assert_eq!(count, before - first_tick);
        true
    })
    .unwrap();
    second.kill().unwrap();
}

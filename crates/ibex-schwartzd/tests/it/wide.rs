//! Limits, windows, batches, parents over HTTP: the engine's own rules are tested in the library, here that callers reach them and that
//! waiting workers are told at once.

use crate::{Case, call};
use ibex_testkit::wait::until_true;
use serde_json::{Value, json};

#[test]
fn a_limit_holds_and_the_next_of_its_key_is_pushed() {
    let case = Case::start(&[]);
    let job = |arg: &str| json!({"func": "Lim", "arg": arg, "concurrency": {"key": "k", "limit": 1}, "max_attempts": 3});
    case.insert(&job("1"));
    let second = case.insert(&job("2"));
    let hands = case.fetch("Lim", 60_000);
    assert_eq!(hands.len(), 1);
    assert_eq!(hands[0]["max_attempts"], 3);
    let status = case.ok("GET", &format!("/v1/jobs/{second}"), &Value::Null);
    assert_eq!(
        (&status["state"], &status["concurrency"]),
        (&json!("blocked"), &json!("k"))
    );
    assert!(status["run_after"].as_u64().unwrap() < 4_000_000_000);
    let addr = case.addr;
    let waiting = std::thread::spawn(move || {
        let want = json!({"funcs": ["Lim"], "max": 9, "wait_ms": 60_000});
        call(addr, "POST", "/v1/fetch", &want)
    });
    assert_eq!(case.finish(&hands[0], "complete", json!({})).0, 200);
    let next = waiting.join().unwrap().1["jobs"].clone();
    assert_eq!(next[0]["handle"], second.as_str());
    case.finish(&next[0], "complete", json!({}));
    case.daemon.stop().unwrap();
}

#[test]
fn many_finishes_of_one_call_let_all_go_that_they_held_back() {
    let case = Case::start(&[]);
    let jobs: Vec<Value> = (0..6)
        .map(|n| json!({"func": "Lim", "args": [n], "concurrency": {"key": "k", "limit": 2}}))
        .collect();
    case.ok("POST", "/v1/jobs", &json!({"jobs": jobs, "atomic": true}));
    for _ in 0..3 {
        let hands = case.fetch("Lim", 60_000);
        assert_eq!(hands.len(), 2);
        let results: Vec<Value> = hands
            .iter()
            .map(|job| json!({"handle": job["handle"], "lease": job["lease"], "op": "complete"}))
            .collect();
        let answer = case.ok("POST", "/v1/finish", &json!({ "results": results }));
        assert_eq!(answer["results"][1]["status"], "ok");
    }
    assert!(case.fetch("Lim", 50).is_empty());
    case.daemon.stop().unwrap();
}

#[test]
fn windows_merging_and_times_to_live_reach_the_engine() {
    let case = Case::start(&[]);
    let job = json!({"func": "U", "args": {"id": 1}, "unique": {"by": ["id"], "for": 1000}});
    let first = case.insert(&job);
    let (status, answer) = case.call("POST", "/v1/jobs", &job);
    assert_eq!((status, &answer["handle"]), (200, &json!(first)));
    let carries = json!({"func": "C", "meta": {"tenant": 7}, "trace": "00-1-2-01"});
    let handle = case.insert(&carries);
    let carried = &case.fetch("C", 60_000)[0];
    assert_eq!(
        (&carried["meta"], &carried["trace"]),
        (&json!({"tenant": 7}), &json!("00-1-2-01"))
    );
    case.finish(
        carried,
        "fail",
        json!({"permanent": true, "message": "once"}),
    );
    case.ok("POST", &format!("/v1/jobs/{handle}/retry"), &Value::Null);
    let again = case.ok("GET", &format!("/v1/jobs/{handle}"), &Value::Null);
    assert_eq!(
        (&again["past"][0]["message"], &again["failures"]),
        (&json!("once"), &json!([]))
    );
    let merged =
        |arg: Value| json!({"func": "M", "args": arg, "coalesce": "c", "coalesce_merge": "append"});
    case.insert(&merged(json!([1])));
    assert_eq!(
        case.ok("POST", "/v1/jobs", &merged(json!([2])))["duplicate"],
        true
    );
    assert_eq!(case.fetch("M", 60_000)[0]["args"], json!([1, 2]));
    let late = case.insert(&json!({"func": "E", "expires_in": 1}));
    until_true("the leader to remove it", || {
        case.ok("GET", &format!("/v1/jobs/{late}"), &Value::Null)["state"] == "expired"
    })
    .unwrap();
    let listed = case.ok("GET", "/v1/jobs?state=expired", &Value::Null);
    assert_eq!(listed["jobs"][0]["handle"], late.as_str());
    case.daemon.stop().unwrap();
}

#[test]
fn a_batch_calls_back_and_a_child_reads_its_parents_results() {
    let case = Case::start(&[]);
    let made = case.ok(
        "POST",
        "/v1/batches",
        &json!({
            "jobs": [{"func": "Part", "arg": "1"}, {"func": "Part", "arg": "2"}], "open": true,
            "on_complete": {"func": "Done"}, "on_death": {"func": "Dead", "arg": "d"},
        }),
    );
    let batch = made["batch"].as_str().unwrap();
    let parts = made["jobs"].as_array().unwrap();
    let child = case.insert(
        &json!({"func": "Sum", "depends_on": [parts[0]["handle"], {"job": parts[1]["handle"], "on_death": "run"}]}),
    );
    let hands = case.fetch("Part", 60_000);
    assert_eq!(hands.len(), 2);
    case.finish(&hands[0], "complete", json!({"result": {"n": 7}}));
    case.finish(&hands[1], "fail", json!({"permanent": true}));
    assert_eq!(case.fetch("Dead", 60_000)[0]["arg"], "d");
    let sum = case.fetch("Sum", 60_000);
    assert_eq!(sum[0]["handle"], child.as_str());
    let status = case.ok("GET", &format!("/v1/jobs/{child}"), &Value::Null);
    assert_eq!(status["parents"][0]["result"], json!({"n": 7}));
    assert_eq!(status["parents"][1]["state"], "failed");
    assert!(case.fetch("Done", 50).is_empty(), "it is open");
    let closed = case.ok("POST", &format!("/v1/batches/{batch}/close"), &Value::Null);
    assert_eq!(
        (&closed["done"], &closed["failed"], &closed["open"]),
        (&json!(1), &json!(1), &json!(false))
    );
    assert_eq!(case.fetch("Done", 60_000)[0]["args"]["failed"], 1);
    let list = case.ok("GET", "/v1/batches", &Value::Null);
    assert_eq!(list["batches"][0]["batch"], batch);
    assert_eq!(
        case.call("GET", &format!("{}9", "/v1/batches/x"), &Value::Null)
            .0,
        400
    );
    let none = format!("/v1/batches/{}-999", batch.split('-').next().unwrap());
    assert_eq!(case.call("GET", &none, &Value::Null).0, 404);
    let circle = json!({"jobs": [{"func": "A", "depends_on": ["#1"]}, {"func": "B", "depends_on": ["#0"]}], "atomic": true});
    assert_eq!(case.call("POST", "/v1/jobs", &circle).0, 400);
    case.daemon.stop().unwrap();
}

#[test]
fn settings_of_a_function_hold_at_once_and_are_shown() {
    let case = Case::start(&[]);
    let settings = json!({"max_running": 1, "dead_func": "Grave", "retain_completed": 1000});
    let answer = case.ok("PUT", "/v1/funcs/Set", &settings);
    assert_eq!(answer["settings"], settings);
    for arg in ["1", "2"] {
        case.insert(&json!({"func": "Set", "arg": arg}));
    }
    let hands = case.fetch("Set", 60_000);
    assert_eq!(hands.len(), 1);
    assert!(case.fetch("Set", 50).is_empty());
    case.finish(&hands[0], "complete", json!({}));
    let second = case.fetch("Set", 60_000);
    case.finish(
        &second[0],
        "fail",
        json!({"permanent": true, "message": "worn out"}),
    );
    let letter = &case.fetch("Grave", 60_000)[0]["args"];
    assert_eq!(
        (&letter["error"], &letter["original"]["arg"]),
        (&json!("worn out"), &json!("2"))
    );
    let kept = case.ok("GET", "/v1/jobs?state=completed", &Value::Null);
    assert_eq!(kept["jobs"][0]["handle"], hands[0]["handle"]);
    let funcs = case.ok("GET", "/v1/funcs", &Value::Null);
    let list = funcs["funcs"].as_array().unwrap();
    let shown = list.iter().find(|func| func["func"] == "Set").unwrap();
    assert_eq!(shown["settings"], settings);
    assert_eq!(
        case.call("PUT", "/v1/funcs/Set", &json!({"max_running": 0}))
            .0,
        400
    );
    assert_eq!(
        case.call("PUT", "/v1/funcs/*", &json!({"weight": 2})).0,
        400
    );
    let all = case.ok(
        "PUT",
        "/v1/funcs/*",
        &json!({"rate": {"n": 1000, "per": 1}}),
    );
    assert_eq!(all["settings"]["rate"]["n"], 1000);
    case.daemon.stop().unwrap();
}

//! Inserts that are repeated with their `Idempotency-Key`.

use crate::{Case, send};
use ibex_testkit::http::{Request, Response};
use serde_json::{Value, json};

fn post(case: &Case, query: &str, key: &str, body: &Value) -> Response {
    let request = Request::post(
        &format!("/v1/jobs{query}"),
        "application/json",
        body.to_string(),
    );
    send(case.addr, &request.header("idempotency-key", key))
}

fn jobs(case: &Case, func: &str) -> usize {
    let list = case.ok(
        "GET",
        &format!("/v1/jobs?limit=1000&func={func}"),
        &Value::Null,
    );
    list["jobs"].as_array().unwrap().len()
}

#[test]
fn a_repeated_insert_gets_the_first_answer_across_finishes_and_a_kill() {
    let mut case = Case::start(&[]);
    let body = json!({"func": "Once", "arg": "1"});
    let first = post(&case, "", "order-7", &body);
    assert_eq!(
        (first.status, first.header("idempotent-replayed")),
        (201, None)
    );
    let again = post(&case, "", "order-7", &body);
    assert_eq!(
        (again.status, again.header("idempotent-replayed")),
        (201, Some("true"))
    );
    assert_eq!(again.body, first.body);
    assert_eq!(jobs(&case, "Once"), 1);
    let other = post(&case, "", "order-7", &json!({"func": "Once", "arg": "2"}));
    assert_eq!(other.status, 409);
    assert!(other.text().contains("\"conflict\""), "{}", other.text());
    assert_eq!(
        post(&case, "?on_duplicate=error", "order-7", &body).status,
        409,
        "another call"
    );
    let job = case.fetch("Once", 0).remove(0);
    assert_eq!(case.finish(&job, "complete", json!({})).0, 200);
    case.daemon.kill().unwrap();
    case.daemon.restart().unwrap();
    case.addr = case.daemon.addr("schwartz").unwrap();
    let late = post(&case, "", "order-7", &body);
    assert_eq!(
        (&late.body, late.header("idempotent-replayed")),
        (&first.body, Some("true"))
    );
    assert_eq!(jobs(&case, "Once"), 0);
    assert!(
        case.daemon
            .metric("ibex_schwartzd_insert_repeats_total")
            .unwrap()
            > 0.5
    );
    case.daemon.stop().unwrap();
}

#[test]
fn lists_keys_of_jobs_and_refusals_are_repeated_as_they_were() {
    let case = Case::start(&[]);
    let list = json!({"jobs": [{"func": "L", "uniqkey": "a"}, {"func": ""}, {"func": "L", "uniqkey": "a"}, {"func": "L"}]});
    let first = post(&case, "", "list", &list);
    let answer: Value = serde_json::from_slice(&first.body).unwrap();
    assert_eq!(
        (
            &answer["jobs"][0]["duplicate"],
            &answer["jobs"][2]["duplicate"]
        ),
        (&json!(false), &json!(true))
    );
    assert_eq!(answer["jobs"][2]["handle"], answer["jobs"][0]["handle"]);
    assert_eq!(answer["jobs"][1]["error"]["code"], "bad_request");
    assert_eq!(post(&case, "", "list", &list).body, first.body);
    assert_eq!(jobs(&case, "L"), 2);
    // All or none: nothing is kept of none, so that it can be tried again.
    let atomic = json!({"jobs": [{"func": "L"}, {"func": "L", "uniqkey": "a"}], "atomic": true});
    assert_eq!(post(&case, "", "atomic", &atomic).status, 409);
    let single = json!({"func": "L", "uniqkey": "a"});
    assert_eq!(
        post(&case, "?on_duplicate=error", "single", &single).status,
        409
    );
    let told = post(&case, "", "told", &single);
    assert_eq!(told.status, 200);
    for job in case.fetch("L", 0) {
        assert_eq!(case.finish(&job, "complete", json!({})).0, 200);
    }
    assert_eq!(post(&case, "", "atomic", &atomic).status, 201);
    assert_eq!(
        post(&case, "", "told", &single).body,
        told.body,
        "as it was then"
    );
    for key in ["", &"k".repeat(256)] {
        assert_eq!(post(&case, "", key, &json!({"func": "N"})).status, 400);
    }
    assert_eq!(
        post(&case, "?on_duplicate=replace", "r", &json!({"func": "N"})).status,
        400
    );
    assert_eq!(post(&case, "", "bad", &json!({"func": ""})).status, 400);
    assert_eq!(jobs(&case, "N"), 0);
    case.daemon.stop().unwrap();
}

#[test]
fn repetitions_at_the_same_moment_insert_once() {
    let case = Case::start(&[]);
    for round in 0..5 {
        let key = format!("round {round}");
        let answers: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let calls: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| post(&case, "", &key, &json!({"func": "Same"}))))
                .collect();
            calls
                .into_iter()
                .map(|call| {
                    let answer = call.join().unwrap();
                    assert_eq!(answer.status, 201);
                    answer.body
                })
                .collect()
        });
        assert!(answers.iter().all(|one| *one == answers[0]));
    }
    assert_eq!(jobs(&case, "Same"), 5);
    case.daemon.stop().unwrap();
}

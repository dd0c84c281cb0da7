//! Rows of the interface's table that no other module has: versions of HTTP, packed bodies, codes, tokens, traces, workers of all daemons, metrics.

use crate::{Case, call, send, until_waiting};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use ibex_schwartz::{Client, SeenWorker};
use ibex_testkit::Daemon;
use ibex_testkit::http::Request;
use ibex_testkit::wait::until_true;
use serde_json::{Value, json};
use std::io::Write as _;

#[test]
fn http_2_with_prior_knowledge_carries_waiting_and_other_calls_on_one_connection() {
    let case = Case::start(&[]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client: HttpClient<_, Full<bytes::Bytes>> = HttpClient::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let addr = case.addr;
    let ask = move |path: &'static str, body: Value| {
        let client = client.clone();
        async move {
            let request = http::Request::post(format!("http://{addr}{path}"))
                .body(Full::from(body.to_string()))
                .unwrap();
            let answer = client.request(request).await.unwrap();
            assert_eq!(answer.version(), http::Version::HTTP_2);
            let status = answer.status().as_u16();
            let bytes = answer.into_body().collect().await.unwrap().to_bytes();
            (status, serde_json::from_slice::<Value>(&bytes).unwrap())
        }
    };
    runtime.block_on(async {
        let waiting = tokio::spawn(ask(
            "/v1/fetch",
            json!({"funcs": ["H2"], "wait_ms": 60_000}),
        ));
        tokio::task::block_in_place(|| until_waiting(&case, 1));
        let mut handles = Vec::new();
        for _ in 0..50 {
            let (status, answer) = ask("/v1/jobs", json!({"func": "H2"})).await;
            assert_eq!(status, 201);
            handles.push(answer["handle"].clone());
        }
        let (_, answer) = waiting.await.unwrap();
        assert_eq!(answer["jobs"][0]["handle"], handles[0]);
    });
    case.daemon.stop().unwrap();
}

#[test]
fn packed_bodies_are_read_and_damaged_ones_refused() {
    let case = Case::start(&[]);
    let pack = |bytes: &[u8]| {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    };
    let post = |body: &[u8]| {
        let request = Request::post("/v1/jobs", "application/json", body);
        send(case.addr, &request.header("content-encoding", "gzip"))
    };
    let whole = pack(
        json!({"func": "Z", "arg": "x".repeat(5000)})
            .to_string()
            .as_bytes(),
    );
    assert_eq!(post(&whole).status, 201);
    for cut in [3, 12, whole.len() / 2, whole.len() - 1] {
        let answer = post(&whole[..cut]);
        assert_eq!(answer.status, 400, "{cut} {}", answer.text());
    }
    let bomb = pack(&vec![b' '; (16 << 20) + 1]);
    assert_eq!(post(&bomb).status, 413);
    assert_eq!(case.fetch("Z", 0).len(), 1, "the whole one and no other");
    case.daemon.stop().unwrap();
}

#[test]
fn refusals_say_their_code_and_when_to_come_again() {
    let case = Case::start(&[]);
    let code = |answer: &ibex_testkit::http::Response| {
        let value: Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(!value["error"]["message"].as_str().unwrap().is_empty());
        value["error"]["code"].as_str().unwrap().to_owned()
    };
    let post =
        |path: &str, body: &str| send(case.addr, &Request::post(path, "application/json", body));
    for (path, body, status, expected) in [
        ("/v1/jobs", "{", 400, "bad_json"),
        ("/v1/jobs", "{\"func\":\"\"}", 400, "bad_request"),
        (
            "/v1/jobs?on_duplicate=x",
            "{\"func\":\"f\"}",
            400,
            "bad_request",
        ),
        ("/v1/jobs/%ff", "{}", 400, "bad_request"),
        ("/v1/nothing", "{}", 404, "not_found"),
        ("/v1/workers/%0a/quiet", "{}", 400, "bad_request"),
        (
            "/v1/fetch",
            "{\"funcs\":[\"f\"],\"worker\":\"a\\nb\"}",
            400,
            "bad_request",
        ),
    ] {
        let answer = post(path, body);
        assert_eq!(
            (answer.status, code(&answer).as_str()),
            (status, expected),
            "{path} {body}"
        );
    }
    let named = Request::get("/v1/funcs").header("host", "evil.example");
    let answer = send(case.addr, &named);
    assert_eq!((answer.status, code(&answer).as_str()), (403, "forbidden"));
    let listeners: Vec<_> = (0..100)
        .map(|_| crate::watching::listen(case.addr, ""))
        .collect();
    let answer = send(case.addr, &Request::get("/v1/events"));
    assert_eq!(
        (
            answer.status,
            code(&answer).as_str(),
            answer.header("retry-after")
        ),
        (429, "rate_limited", Some("1"))
    );
    drop(listeners);
    case.daemon.stop().unwrap();
}

#[test]
fn a_job_is_changed_only_while_nobody_has_it() {
    let case = Case::start(&[("max_arg_size", "1K")]);
    let path = format!(
        "/v1/jobs/{}",
        case.insert(&json!({"func": "C", "delay": 1000}))
    );
    let patch = |body: Value| case.call("PATCH", &path, &body);
    for bad in [
        json!({"run_after": 1, "delay": 1}),
        json!({"run_after": 4_294_967_295_u64}),
        json!({"arg": "a", "arg_b64": "YQ=="}),
        json!({"arg_b64": "?"}),
        json!({"priority": 65_536}),
        json!({"delay": -1}),
    ] {
        assert_eq!(patch(bad.clone()).0, 400, "{bad}");
    }
    assert_eq!(patch(json!({"arg": "x".repeat(1025)})).0, 413);
    assert_eq!(
        patch(json!({"arg": "new", "priority": 9, "colour": "red"})).0,
        200
    );
    let job = case.ok("GET", &path, &Value::Null);
    assert_eq!(
        (&job["arg"], &job["priority"], &job["state"]),
        (&json!("new"), &json!(9), &json!("scheduled"))
    );
    assert_eq!(patch(json!({"delay": 0})).0, 200);
    let held = case.fetch("C", 60_000);
    let (status, answer) = patch(json!({"delay": 0}));
    assert_eq!(
        (status, answer["error"]["code"].as_str()),
        (409, Some("conflict"))
    );
    case.finish(&held[0], "complete", json!({}));
    assert_eq!(patch(json!({"delay": 0})).0, 404);
    case.daemon.stop().unwrap();
}

#[test]
fn handles_that_name_no_job_here_are_refused_at_every_call() {
    let case = Case::start(&[]);
    let own = case.insert(&json!({"func": "H"}));
    let (hash, _) = own.split_once('-').unwrap();
    let lease = case.fetch("H", 0)[0]["lease"].clone();
    let tried = [
        (format!("{hash}-07"), 400),
        (format!("{hash}-0"), 400),
        (format!("{hash}-9223372036854775808"), 400),
        (format!("{}-1", hash.to_uppercase()), 400),
        (format!("{hash}-1%00"), 400),
        (format!("{}-1", "0".repeat(32)), 404),
        (format!("{hash}-9223372036854775807"), 404),
    ];
    for (handle, expected) in tried {
        for (method, rest) in [
            ("GET", ""),
            ("DELETE", ""),
            ("PATCH", ""),
            ("POST", "/retry"),
            ("POST", "/complete"),
            ("POST", "/fail"),
            ("POST", "/decline"),
            ("POST", "/extend"),
            ("POST", "/replace"),
        ] {
            let path = format!("/v1/jobs/{handle}{rest}");
            let body = json!({"lease": lease, "delay": 1, "jobs": [{"func": "H"}]});
            let (status, answer) = case.call(method, &path, &body);
            // The lease is of another job, which is said before the job is looked for.
            let is_right = status == expected || !rest.is_empty() && status == 400;
            assert!(is_right, "{method} {path}: {status} {answer}");
        }
    }
    let state = case.ok("GET", &format!("/v1/jobs/{own}"), &Value::Null);
    assert_eq!(state["state"], "grabbed");
    case.daemon.stop().unwrap();
}

#[test]
fn each_token_opens_its_calls() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, name).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        path.display().to_string()
    };
    let case = Case::start(&[
        ("token_file", &file("all")),
        ("token_insert_file", &file("producer")),
        ("token_work_file", &file("worker")),
    ]);
    let ask = |token: &str, method: &str, path: &str, body: &str| {
        let request =
            Request::new(method, path).header("authorization", &format!("Bearer {token}"));
        send(case.addr, &request.body(body)).status
    };
    let job = "{\"func\":\"T\"}";
    let fetch = "{\"funcs\":[\"T\"]}";
    assert_eq!(ask("producer", "POST", "/v1/jobs", job), 201);
    assert_eq!(ask("worker", "POST", "/v1/jobs", job), 403);
    assert_eq!(ask("producer", "POST", "/v1/fetch", fetch), 403);
    assert_eq!(ask("worker", "POST", "/v1/fetch", fetch), 200);
    assert_eq!(ask("worker", "GET", "/v1/funcs", ""), 403);
    assert_eq!(ask("producer", "POST", "/v1/funcs/T/pause", ""), 403);
    assert_eq!(ask("all", "POST", "/v1/funcs/T/pause", ""), 200);
    assert_eq!(ask("nobody", "GET", "/v1/funcs", ""), 403);
    let answer = send(case.addr, &Request::get("/v1/funcs"));
    assert_eq!(answer.status, 401);
    assert!(
        answer
            .header("www-authenticate")
            .unwrap()
            .starts_with("Bearer")
    );
    case.daemon.stop().unwrap();
}

#[test]
fn a_traceparent_goes_with_the_jobs_it_inserts() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let case = Case::start(&[]);
    let post = |body: &Value, trace: &str| {
        let request = Request::post("/v1/jobs", "application/json", body.to_string());
        assert_eq!(
            send(case.addr, &request.header("traceparent", trace)).status,
            201
        );
    };
    post(&json!({"func": "T"}), TRACE);
    post(
        &json!({"jobs": [{"func": "T"}, {"func": "T", "trace": "its own"}]}),
        TRACE,
    );
    post(&json!({"func": "T"}), "nonsense");
    let jobs = case.fetch("T", 0);
    let traces: Vec<&Value> = jobs.iter().map(|job| &job["trace"]).collect();
    assert_eq!(
        traces,
        [
            &json!(TRACE),
            &json!(TRACE),
            &json!("its own"),
            &Value::Null
        ]
    );
    case.daemon.stop().unwrap();
}

#[test]
fn workers_are_known_to_all_daemons_and_orders_reach_them_everywhere() {
    let case = Case::start(&[]);
    let second = Daemon::builder("ibex-schwartzd")
        .set("store.url", &case.url())
        .set("shutdown.grace", "2s")
        .start()
        .unwrap();
    let there = second.addr("schwartz").unwrap();
    case.insert(&json!({"func": "R"}));
    let job = case.ok(
        "POST",
        "/v1/fetch",
        &json!({"worker": "w/1", "funcs": ["R", "S"]}),
    )["jobs"][0]
        .clone();
    let seen = || {
        let (_, list) = call(there, "GET", "/v1/workers", &Value::Null);
        let list = list["workers"].as_array().unwrap();
        list.iter().find(|one| one["worker"] == "w/1").cloned()
    };
    until_true("the other daemon to know the worker", || {
        seen().is_some_and(|one| one["running"] == 1)
    })
    .unwrap();
    let one = seen().unwrap();
    assert_eq!(
        (&one["state"], &one["funcs"]),
        (&json!("alive"), &json!(["R", "S"]))
    );
    assert_ne!(one["daemon"], "");
    let here = case.ok("GET", "/v1/workers", &Value::Null);
    assert_eq!(here["workers"][0]["jobs"][0]["handle"], job["handle"]);
    // Told at one, heard at the other, and after a restart.
    assert_eq!(
        call(there, "POST", "/v1/workers/w%2F1/quiet", &Value::Null).0,
        200
    );
    let told = || {
        case.ok(
            "POST",
            "/v1/fetch",
            &json!({"worker": "w/1", "funcs": ["R"]}),
        )["state"]
            .clone()
    };
    until_true("the order to reach the first daemon", || told() == "quiet").unwrap();
    assert_eq!(
        call(there, "POST", "/v1/workers/w%2F1/resume", &Value::Null).0,
        200
    );
    until_true("the order to be taken back", || told().is_null()).unwrap();
    // One that was not heard of for longer than a minute.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = runtime.block_on(Client::open([case.url()])).unwrap();
    let gone = SeenWorker {
        id: "gone".to_owned(),
        funcs: vec!["R".to_owned()],
        running: 0,
        age: 61,
    };
    runtime
        .block_on(client.note_workers("elsewhere", &[gone]))
        .unwrap();
    let list = case.ok("GET", "/v1/workers", &Value::Null);
    let gone = list["workers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["worker"] == "gone");
    assert_eq!(gone.unwrap()["state"], "dead");
    second.stop().unwrap();
    case.daemon.stop().unwrap();
}

#[test]
fn the_metrics_have_the_names_they_are_agreed_by() {
    let case = Case::start(&[("metrics.max_names", "3")]);
    for n in 0..6 {
        case.insert(&json!({"func": format!("F{n}")}));
    }
    let job = case.fetch("F0", 0).remove(0);
    case.finish(&job, "complete", json!({}));
    let (status, _) = case.finish(&job, "complete", json!({}));
    assert!(status == 404 || status == 409, "{status}");
    for (func, end) in [
        ("F1", json!({"permanent": true})),
        ("F2", json!({"retry_in": 1000})),
    ] {
        let job = case.fetch(func, 0).remove(0);
        assert_eq!(case.finish(&job, "fail", end).0, 200);
    }
    until_true("the depths to be counted", || {
        // Asking counts them, too.
        case.ok("GET", "/v1/funcs", &Value::Null);
        case.daemon
            .metric("schwartz_queue_ready{func=\"other\",db=\"0\"}")
            .unwrap_or(0.0)
            > 2.5
    })
    .unwrap();
    for (sample, value) in [
        ("schwartz_jobs_inserted_total{func=\"F0\"}", 1.0),
        ("schwartz_jobs_inserted_total{func=\"other\"}", 3.0),
        ("schwartz_jobs_grabbed_total{func=\"F0\"}", 1.0),
        ("schwartz_jobs_completed_total{func=\"F0\"}", 1.0),
        ("schwartz_jobs_lease_lost_total{func=\"other\"}", 1.0),
        ("schwartz_jobs_failed_total{func=\"F1\"}", 1.0),
        ("schwartz_jobs_retried_total{func=\"F2\"}", 1.0),
        ("schwartz_queue_grabbed{func=\"F1\",db=\"0\"}", 0.0),
        ("schwartz_queue_scheduled{func=\"F2\",db=\"0\"}", 1.0),
        ("schwartz_queue_blocked{func=\"F1\",db=\"0\"}", 0.0),
        ("schwartz_insert_commit_seconds_count", 6.0),
        ("schwartz_pickup_seconds_count", 3.0),
        ("schwartz_run_seconds_count", 3.0),
        ("schwartz_group_size_count", 3.0),
        ("schwartz_db_state{db=\"0\"}", 1.0),
        ("schwartz_fetch_waiters", 0.0),
    ] {
        let found = case.daemon.metric(sample).unwrap();
        assert!((found - value).abs() < 1e-9, "{sample} is {found}");
    }
    let text = case.daemon.admin_get("/metrics").unwrap().text();
    assert!(text.contains("schwartz_oldest_ready_seconds{func=\"F1\"}"));
    let series = text
        .lines()
        .filter(|line| line.starts_with("schwartz_jobs_inserted_total{"));
    assert_eq!(series.count(), 4, "three names and all others");
    case.daemon.stop().unwrap();
}

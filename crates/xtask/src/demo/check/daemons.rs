//! The daemons below the site, each asked in its own protocol.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ibex_testkit::http::{self, Request};
use ibex_testkit::wait;

use super::super::browser::encode;
use super::super::clients::{Gearman, Lines};
use super::super::layout::DOMAIN;
use super::super::stack::Stack;

/// Replication works in the background; its second copy must be there within this time.
const COPIES_PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn all_ready(stack: &mut Stack, _run: &str) -> Result<String> {
    let mut pids = Vec::new();
    for process in stack.all_mut() {
        ensure!(
            process.exited()?.is_none(),
            "{} has ended",
            process.spec.name
        );
        if let Some(admin) = process.admin() {
            let answer = http::get(admin, "/readyz")?;
            ensure!(
                answer.status == 200,
                "{}: {}",
                process.spec.name,
                answer.text()
            );
        }
        pids.push(process.pid().context("it runs")?);
    }
    Ok(format!("{} processes answer /readyz", pids.len()))
}

pub(super) fn cache(stack: &mut Stack, run: &str) -> Result<String> {
    for name in ["memcached1", "memcached2"] {
        let mut cache = Lines::connect(stack.addr(name)?)?;
        let (key, value) = (format!("demo:{run}"), format!("on {name}"));
        cache.cache_set(&key, &value)?;
        let got = cache.cache_get(&key)?;
        ensure!(
            got.as_deref() == Some(value.as_str()),
            "{name} answers {got:?}"
        );
    }
    Ok("what was stored came back from each".to_owned())
}

pub(super) fn jobs(stack: &mut Stack, run: &str) -> Result<String> {
    let addr = stack.addr("gearmand1")?;
    let echoed = Gearman::connect(addr)?.echo("who is there")?;
    ensure!(echoed == "who is there", "echo answers {echoed:?}");
    let function = format!("demo_reverse_{run}");
    let named = function.clone();
    let worker = std::thread::spawn(move || {
        Gearman::connect(addr)?.work_once(&named, |text| text.chars().rev().collect())
    });
    let result = Gearman::connect(addr)?.call(&function, "xebi")?;
    worker
        .join()
        .map_err(|_| anyhow::anyhow!("the worker's thread panicked"))??;
    ensure!(result == "ibex", "the job answers {result:?}");
    let lines = Lines::connect(addr)?.until_dot("status")?;
    Ok(format!(
        "job answered {result:?}; {} functions in status",
        lines.len()
    ))
}

/// Stores `bytes` under `key` as an outsider would: open, PUT, close.
pub(super) fn store(stack: &Stack, key: &str, bytes: &[u8]) -> Result<()> {
    let mut tracker = Lines::connect(stack.addr("mogilefsd1")?)?;
    let opened = tracker.tracker(
        "create_open",
        &[("domain", DOMAIN), ("class", "photo"), ("key", key)],
    )?;
    let (fid, devid, path) = (&opened["fid"], &opened["devid"], &opened["path"]);
    let (addr, target) = split_url(path)?;
    let put = Request::new("PUT", &target).body(bytes).send(addr)?;
    ensure!(
        (200..300).contains(&put.status),
        "PUT {path}: {}",
        put.status
    );
    let size = bytes.len().to_string();
    let args = [
        ("domain", DOMAIN),
        ("class", "photo"),
        ("key", key),
        ("fid", fid),
        ("devid", devid),
        ("path", path),
        ("size", &size),
    ];
    tracker.tracker("create_close", &args)?;
    Ok(())
}

/// The addresses of all copies of `key`.
pub(super) fn paths(stack: &Stack, key: &str) -> Result<Vec<String>> {
    let mut tracker = Lines::connect(stack.addr("mogilefsd1")?)?;
    let answer = tracker.tracker(
        "get_paths",
        &[("domain", DOMAIN), ("key", key), ("noverify", "1")],
    )?;
    let count: usize = answer
        .get("paths")
        .context("get_paths answers no count")?
        .parse()?;
    (1..=count)
        .map(|number| {
            answer
                .get(&format!("path{number}"))
                .cloned()
                .context("fewer paths than said")
        })
        .collect()
}

/// `http://host:port/path` as an address and a target.
pub(super) fn split_url(url: &str) -> Result<(std::net::SocketAddr, String)> {
    let rest = url
        .strip_prefix("http://")
        .with_context(|| format!("{url:?} is no http address"))?;
    let (host, path) = rest
        .split_once('/')
        .with_context(|| format!("{url:?} has no path"))?;
    Ok((
        host.parse().with_context(|| format!("host of {url:?}"))?,
        format!("/{path}"),
    ))
}

/// Requires that each copy of `key` is `bytes`.
pub(super) fn fetch(stack: &Stack, key: &str, bytes: &[u8]) -> Result<usize> {
    let paths = paths(stack, key)?;
    ensure!(!paths.is_empty(), "{key} has no copy");
    for path in &paths {
        let (addr, target) = split_url(path)?;
        let got = http::get(addr, &target)?;
        ensure!(
            got.status == 200 && got.body == bytes,
            "{path}: {} with {} bytes",
            got.status,
            got.body.len()
        );
    }
    Ok(paths.len())
}

/// Waits until `key` has two copies on different hosts.
pub(super) fn wait_copies(stack: &Stack, key: &str) -> Result<()> {
    wait::until(COPIES_PATIENCE, &format!("a second copy of {key}"), || {
        paths(stack, key)
            .is_ok_and(|paths| paths.len() >= 2)
            .then_some(())
    })
}

pub(super) fn files(stack: &mut Stack, run: &str) -> Result<String> {
    let key = format!("demo/{run}.txt");
    let bytes = format!("a file of walk {run}\n").repeat(1000).into_bytes();
    store(stack, &key, &bytes)?;
    wait_copies(stack, &key)?;
    let copies = fetch(stack, &key, &bytes)?;
    Ok(format!("{} bytes, {copies} copies, all equal", bytes.len()))
}

pub(super) fn reliable_jobs(stack: &mut Stack, run: &str) -> Result<String> {
    let addr = stack.addr("schwartzd1")?;
    let function = format!("demo-{run}");
    let handle = insert(addr, &function, "one")?;
    let job = grab(addr, &function)?.context("the job that was inserted cannot be grabbed")?;
    complete(addr, &job)?;
    let none = grab(addr, &function)?;
    ensure!(
        none.is_none(),
        "a completed job was handed out again: {none:?}"
    );
    Ok(format!("job {handle} done once"))
}

fn ask(
    addr: std::net::SocketAddr,
    path: &str,
    body: &serde_json::Value,
) -> Result<serde_json::Value> {
    let answer = Request::post(path, "application/json", body.to_string()).send(addr)?;
    ensure!(
        (200..300).contains(&answer.status),
        "POST {path}: {} {}",
        answer.status,
        answer.text()
    );
    if answer.body.is_empty() {
        return Ok(serde_json::Value::Null);
    }
    serde_json::from_slice(&answer.body)
        .with_context(|| format!("POST {path} answers {}", answer.text()))
}

/// Inserts a job; the answer is its handle.
pub(super) fn insert(addr: std::net::SocketAddr, function: &str, arg: &str) -> Result<String> {
    let answer = ask(
        addr,
        "/v1/jobs",
        &serde_json::json!({ "func": function, "arg": arg }),
    )?;
    answer["handle"]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("no handle in {answer}"))
}

/// Takes a job of `function`, if there is one.
pub(super) fn grab(
    addr: std::net::SocketAddr,
    function: &str,
) -> Result<Option<serde_json::Value>> {
    let answer = ask(
        addr,
        "/v1/fetch",
        &serde_json::json!({ "worker": "demo", "funcs": [function], "max": 1, "wait_ms": 0 }),
    )?;
    Ok(answer["jobs"]
        .as_array()
        .and_then(|jobs| jobs.first())
        .cloned())
}

/// Reports a job as done.
pub(super) fn complete(addr: std::net::SocketAddr, job: &serde_json::Value) -> Result<()> {
    let handle = job["handle"]
        .as_str()
        .with_context(|| format!("no handle in {job}"))?;
    ask(
        addr,
        &format!("/v1/jobs/{}/complete", encode(handle)),
        &serde_json::json!({ "lease": job["lease"] }),
    )?;
    Ok(())
}

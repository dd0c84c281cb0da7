//! One daemon of each kind ends by SIGKILL; the site must go on where there is a second one, come back where there is not, and nothing that was acknowledged
//! may be gone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ibex_testkit::wait;

use super::super::browser::Browser;
use super::super::clients::{Gearman, Lines};
use super::super::stack::Stack;
use super::site::{self, Reader, Seen};
use super::{Walk, daemons};

/// The site finds its way around a dead daemon within this time.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(30);

/// Kills one of each kind, one after the other.
pub(super) fn walk(walk: &mut Walk<'_>, seen: &mut Seen) -> Result<()> {
    walk.step(
        "SIGKILL memcached1: pages go on, the cache comes back empty",
        |stack, run| memcached(stack, run, seen),
    )?;
    walk.step(
        "SIGKILL gearmand1: an acknowledged background job is still there",
        |stack, run| gearmand(stack, run, seen),
    )?;
    walk.step(
        "SIGKILL mogstored1: pictures come from the other copy",
        |stack, run| mogstored(stack, run, seen),
    )?;
    walk.step(
        "SIGKILL mogilefsd1: every file is still known",
        |stack, run| mogilefsd(stack, run, seen),
    )?;
    walk.step(
        "SIGKILL schwartzd1: an acknowledged job is still there, once",
        schwartzd,
    )?;
    walk.step("SIGKILL worker1: the mail still goes out", |stack, run| {
        worker(stack, run, seen)
    })?;
    walk.step(
        "SIGKILL journal1: readers see no error page for long",
        |stack, run| journal(stack, run, seen),
    )?;
    walk.step(
        "SIGKILL perlbal1: the site is back with its balancer",
        |stack, _| perlbal(stack, seen),
    )?;
    walk.step("everything acknowledged is there", |stack, _| {
        site::check_all(stack, seen)?;
        Ok(format!(
            "{} entries, {} comments, the picture, the limits of who may see",
            seen.public.len() + 1,
            seen.comments.len()
        ))
    })?;
    Ok(())
}

/// Waits until the whole site serves everything that was acknowledged; answers how long that took.
fn recovered(stack: &Stack, seen: &mut Seen) -> Result<String> {
    let start = std::time::Instant::now();
    let mut last = None;
    let outcome = wait::until(
        RECOVERY_PATIENCE,
        "the site to serve everything again",
        || match site::check_all(stack, seen) {
            Ok(()) => Some(()),
            Err(error) => {
                last = Some(error);
                None
            }
        },
    );
    if let (Err(error), Some(last)) = (outcome, last) {
        return Err(last.context(error));
    }
    Ok(format!("{} ms", start.elapsed().as_millis()))
}

fn memcached(stack: &mut Stack, run: &str, seen: &mut Seen) -> Result<String> {
    stack.get_mut("memcached1")?.kill()?;
    let without = recovered(stack, seen)?;
    let words = format!("Written without a cache server, walk {run}");
    let entry = seen
        .anna
        .post(&words, "It is colder, and it works.", "public")?;
    seen.public.push((entry, words));
    site::check_all(stack, seen)?;
    stack.get_mut("memcached1")?.restart()?;
    let mut cache = Lines::connect(stack.addr("memcached1")?)?;
    ensure!(
        cache.cache_get(&format!("demo:{run}"))?.is_none(),
        "a cache that was killed remembers"
    );
    site::check_all(stack, seen)?;
    Ok(format!(
        "all pages without it after {without}, an entry written meanwhile; nothing stale after its return"
    ))
}

fn gearmand(stack: &mut Stack, run: &str, seen: &mut Seen) -> Result<String> {
    let addr = stack.addr("gearmand1")?;
    let function = format!("demo_durable_{run}");
    let handle = Gearman::connect(addr)?.background(&function, "only-one", "survive")?;
    stack.get_mut("gearmand1")?.kill()?;
    let without = recovered(stack, seen)?;
    stack.get_mut("gearmand1")?.restart()?;
    let workload = Gearman::connect(addr)?.work_once(&function, str::to_owned)?;
    ensure!(workload == "survive", "the job came back as {workload:?}");
    Ok(format!(
        "{handle} was done after the restart; pages meanwhile after {without}"
    ))
}

fn mogstored(stack: &mut Stack, run: &str, seen: &mut Seen) -> Result<String> {
    let key = format!("demo/two-copies-{run}");
    daemons::store(stack, &key, b"kept twice")?;
    daemons::wait_copies(stack, &key)?;
    stack.get_mut("mogstored1")?.kill()?;
    let without = recovered(stack, seen)?;
    let key_meanwhile = format!("demo/meanwhile-{run}");
    wait::until(RECOVERY_PATIENCE, "a store with one node down", || {
        daemons::store(stack, &key_meanwhile, b"on the others").ok()
    })?;
    stack.get_mut("mogstored1")?.restart()?;
    daemons::wait_copies(stack, &key_meanwhile)?;
    daemons::fetch(stack, &key, b"kept twice")?;
    let copies = daemons::fetch(stack, &key_meanwhile, b"on the others")?;
    Ok(format!(
        "pictures from the other copy after {without}; a file stored meanwhile has {copies} copies"
    ))
}

fn mogilefsd(stack: &mut Stack, run: &str, seen: &mut Seen) -> Result<String> {
    let key = format!("demo/tracker-{run}");
    daemons::store(stack, &key, b"acknowledged before the kill")?;
    stack.get_mut("mogilefsd1")?.kill()?;
    stack.get_mut("mogilefsd1")?.restart()?;
    let copies = daemons::fetch(stack, &key, b"acknowledged before the kill")?;
    let back = recovered(stack, seen)?;
    daemons::wait_copies(stack, &key)?;
    Ok(format!(
        "{copies} copies known at once; site whole after {back}; replication goes on"
    ))
}

fn schwartzd(stack: &mut Stack, run: &str) -> Result<String> {
    let addr = stack.addr("schwartzd1")?;
    let function = format!("demo-durable-{run}");
    let handle = daemons::insert(addr, &function, "survive")?;
    stack.get_mut("schwartzd1")?.kill()?;
    stack.get_mut("schwartzd1")?.restart()?;
    let job = daemons::grab(addr, &function)?.context("the job is gone")?;
    ensure!(
        daemons::grab(addr, &function)?.is_none(),
        "one job was handed out twice"
    );
    daemons::complete(addr, &job)?;
    Ok(format!("{handle} was handed out once after the restart"))
}

fn worker(stack: &mut Stack, run: &str, seen: &mut Seen) -> Result<String> {
    stack.get_mut("worker1")?.kill()?;
    let (entry, _) = seen
        .public
        .first()
        .cloned()
        .context("something was written")?;
    let words = format!("Written while a worker was dead, walk {run}");
    seen.ben.comment(&entry, &words)?;
    seen.comments.push(words.clone());
    let file = site::wait_mail(&stack.mail_dir(), &seen.anna.name, &words)?;
    stack.get_mut("worker1")?.restart()?;
    Ok(format!("{file} was sent by the other worker"))
}

fn journal(stack: &mut Stack, run: &str, seen: &mut Seen) -> Result<String> {
    stack.get_mut("journal1")?.kill()?;
    let back = recovered(stack, seen)?;
    let (entry, words) = seen
        .public
        .first()
        .cloned()
        .context("something was written")?;
    let reader = Reader::start(&seen.cleo, &entry, &words);
    let words = format!("Written on the other web process, walk {run}");
    let entry = seen.anna.post(&words, "One of two is gone.", "public")?;
    seen.public.push((entry, words));
    stack.get_mut("journal1")?.restart()?;
    site::check_all(stack, seen)?;
    let pages = reader.stop()?;
    Ok(format!(
        "the other serves after {back}; {pages} pages read and one entry written meanwhile"
    ))
}

fn perlbal(stack: &mut Stack, seen: &mut Seen) -> Result<String> {
    stack.get_mut("perlbal1")?.kill()?;
    let refused = Browser::new(stack.addr("perlbal1")?).get("/");
    ensure!(
        refused.is_err(),
        "something answers at the port of a dead balancer"
    );
    stack.get_mut("perlbal1")?.restart()?;
    let back = recovered(stack, seen)?;
    Ok(format!(
        "whole again {back} after its start, sessions and all"
    ))
}

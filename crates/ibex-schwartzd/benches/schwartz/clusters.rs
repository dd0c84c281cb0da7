//! Three nodes of a Galera cluster: three of our daemons, and three Perl workers.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use ibex_testkit::Daemon;

use crate::cluster;
use crate::http::{Http, together};
use crate::ours::{bulk, take_and_finish};
use crate::perl;

/// Jobs that ours works off.
const JOBS: usize = 40_000;
/// Jobs that lie there for Perl: more than it gets done.
const JOBS_PERL: usize = 20_000;

/// What was seen.
pub(crate) struct Seen {
    pub(crate) ours: f64,
    /// Rows of the table of errors, and jobs that were handed out twice.
    pub(crate) ours_errors: u64,
    pub(crate) ours_twice: usize,
    pub(crate) perl: Option<(f64, u64)>,
}

pub(crate) fn run(time: Duration) -> Option<Seen> {
    if !cluster::is_installed() {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster::start(dir.path());
    let daemons: Vec<Daemon> = (0..3)
        .map(|index| {
            let mut hosts: Vec<String> = nodes.iter().map(|node| node.sql.to_string()).collect();
            hosts.rotate_left(index);
            let hosts = hosts.join(",");
            let url = format!("mysql://root@{hosts}/q?dbi=dbi%3Amysql%3Adatabase%3Dq");
            let builder = Daemon::builder("ibex-schwartzd").set("store.url", &url);
            builder.set("shutdown.grace", "1s").start().unwrap()
        })
        .collect();
    let addrs: Vec<_> = daemons
        .iter()
        .map(|daemon| daemon.addr("schwartz").unwrap())
        .collect();
    let mut http = Http::new(addrs[0]);
    let fill = |http: &mut Http, jobs: usize| {
        for _ in 0..jobs / 500 {
            http.post("/v1/jobs", &bulk(500));
        }
    };
    fill(&mut http, JOBS);
    let runs = Mutex::new((BTreeSet::new(), 0));
    let ours = together(
        addrs.iter().copied().map(Http::new).collect(),
        Duration::from_secs(120),
        |http| {
            take_and_finish(http, 100, |handle| {
                let mut runs = runs.lock().unwrap();
                let is_new = runs.0.insert(handle.to_owned());
                runs.1 += usize::from(!is_new);
            })
        },
    );
    let (distinct, ours_twice) = runs.into_inner().unwrap();
    assert_eq!(distinct.len(), JOBS, "every job is handed out");
    let errors = cluster::ask(nodes[0].sql, "SELECT COUNT(*) FROM q.error").unwrap();
    fill(&mut http, JOBS_PERL);
    for daemon in daemons {
        daemon.stop().unwrap();
    }
    let children: Option<Vec<_>> = nodes
        .iter()
        .map(|node| {
            let (host, port) = (node.sql.ip(), node.sql.port());
            let dsn = format!("dbi:MariaDB:database=q;host={host};port={port}");
            let mut command = perl::script("share", &dsn, "root", time)?;
            command.stdout(Stdio::piped()).stderr(Stdio::null());
            Some(command.spawn().unwrap())
        })
        .collect();
    let perl = children.map(|children| {
        let rates = children.into_iter().map(perl::rate);
        rates.fold((0.0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    });
    Some(Seen {
        ours,
        ours_errors: errors.trim().parse().unwrap(),
        ours_twice,
        perl,
    })
}

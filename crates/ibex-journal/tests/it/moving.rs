//! `move-user` while people write, and movers that die.

use crate::browser::Browser;
use crate::site::{Site, addr, on_both};
use ibex_sql::params;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn other(cluster: &str) -> &'static str {
    if cluster.trim() == "1" { "2" } else { "1" }
}

#[test]
fn a_user_moves_while_he_writes_and_nothing_is_lost_or_doubled() {
    on_both(|site| {
        let (one, two) = (site.serve(), site.serve());
        let ann = Browser::sign_up(addr(&one), "ann");
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = [addr(&one), addr(&two), addr(&one)]
            .into_iter()
            .enumerate()
            .map(|(writer, at)| {
                let (mut ann, stop) = (ann.at(at), Arc::clone(&stop));
                std::thread::spawn(move || {
                    let (mut acknowledged, mut turn) = (Vec::new(), 0);
                    while !stop.load(Ordering::SeqCst) {
                        turn += 1;
                        let url = ann.write(&format!("Writer {writer} turn {turn}"), "public");
                        ann.comment(&url, "0", "to myself");
                        acknowledged.push(url);
                    }
                    acknowledged
                })
            })
            .collect();
        let mut home = site.ok(&["admin", "user-where", "ann"]);
        for _ in 0..3 {
            let said = site.ok(&["move-user", "ann", other(&home), "--verify-full"]);
            assert!(said.contains("moved ann"), "{said}");
            home = site.ok(&["admin", "user-where", "ann"]);
        }
        stop.store(true, Ordering::SeqCst);
        let mut all = Vec::new();
        for writer in writers {
            all.extend(writer.join().unwrap());
        }
        assert_eq!(
            all.iter().collect::<BTreeSet<_>>().len(),
            all.len(),
            "no number was given twice"
        );
        let mut reader = ann.at(addr(&two));
        for url in &all {
            assert!(reader.page(url).contains("1 comment"), "{url}");
        }
        let archive = reader.page("/users/ann/archive");
        assert_eq!(archive.matches("<tr>").count(), all.len().min(1000));
        assert!(
            site.ok(&["admin", "check", "ann"])
                .contains("is consistent")
        );
        one.stop().unwrap();
        two.stop().unwrap();
    });
}

#[test]
fn a_mover_that_dies_is_undone_or_finished_by_the_worker() {
    let site = Site::sqlite();
    let daemon = site.serve();
    let mut ann = Browser::sign_up(addr(&daemon), "ann");
    ann.write("Early", "public");
    for (step, moves) in [
        ("copy", false),
        ("lock", false),
        ("pivot-dst", false),
        ("pivot-global", true),
    ] {
        let home = site.ok(&["admin", "user-where", "ann"]).trim().to_owned();
        let died = site.run(&["move-user", "ann", other(&home), "--die-at", step]);
        assert!(!died.status.success(), "{step}");
        let early = site.ok(&["move-user", "--resume"]);
        assert!(early.contains("under way"), "the lease still runs: {early}");
        end_leases(&site);
        let resumed = site.ok(&["move-user", "--resume"]);
        assert!(
            resumed.contains(if moves { "finished" } else { "undone" }),
            "{step}: {resumed}"
        );
        let now = site.ok(&["admin", "user-where", "ann"]).trim().to_owned();
        assert_eq!(now != home, moves, "{step}");
        let url = ann.write(&format!("After {step}"), "public");
        assert_eq!(ann.status(&url), 200);
        assert!(
            site.ok(&["admin", "check", "ann"])
                .contains("is consistent"),
            "{step}"
        );
    }
    daemon.stop().unwrap();
}

/// As if thirty seconds had passed.
fn end_leases(site: &Site) {
    let dsn = format!("sqlite:{}", site.dir.path().join("global.db").display());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let db = ibex_sql::Db::open(&ibex_sql::Config::new(&dsn).unwrap())
            .await
            .unwrap();
        db.execute(
            "UPDATE move SET lease_until = 0 WHERE open_user IS NOT NULL",
            params![],
        )
        .await
        .unwrap();
    });
}

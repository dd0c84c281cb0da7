//! A comment becomes a notice and a mail, once, by way of the job queue.

use crate::browser::{Browser, between};
use crate::site::{Site, addr, on_both};
use ibex_testkit::daemon::binary;
use ibex_testkit::wait;
use std::path::Path;
use std::process::{Child, Command};

/// The mail receiver as a child of its own, killed at the end.
struct Sink {
    child: Child,
    addr: String,
}

impl Sink {
    fn start(dir: &Path) -> Self {
        let ports = dir.join("smtp.toml");
        let child = Command::new(binary("ibex-journal").unwrap())
            .args(["smtp-sink", "--listen", "127.0.0.1:0", "--dir"])
            .arg(dir.join("mail"))
            .env("IBEX_PORT_FILE", &ports)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        wait::until_true("the mail receiver listens", || ports.exists()).unwrap();
        let text = std::fs::read_to_string(&ports).unwrap();
        Self {
            child,
            addr: between(&text, "\"", "\"").unwrap().to_owned(),
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn mails(site: &Site) -> Vec<String> {
    let Ok(dir) = std::fs::read_dir(site.dir.path().join("mail")) else {
        return Vec::new();
    };
    let mut files: Vec<_> = dir
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "eml"))
        .collect();
    files.sort();
    files
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect()
}

#[test]
fn a_comment_is_told_once_by_mail_and_in_the_inbox() {
    on_both(|mut site| {
        let sink = Sink::start(site.dir.path());
        site.set("mail.smtp", &sink.addr);
        site.set("site.url", "https://journal.example");
        let daemon = site.serve();
        let worker = site
            .daemon("worker")
            .without_env("IBEX_LISTEN")
            .start()
            .unwrap();
        let mut ann = Browser::sign_up(addr(&daemon), "ann");
        let mut bob = Browser::sign_up(addr(&daemon), "bob");
        let url = ann.write("Tell me", "public");
        let one = bob.comment(&url, "0", "Fish & chips <b>now</b>");
        wait::until_true("the mail arrives", || mails(&site).len() == 1).unwrap();
        let mail = mails(&site).remove(0);
        assert!(
            mail.contains("X-Envelope-To: <ann@people.example>"),
            "{mail}"
        );
        assert!(
            mail.contains("https://journal.example/users/ann/")
                && mail.contains("List-Unsubscribe:"),
            "{mail}"
        );
        let inbox = ann.page("/inbox");
        assert!(
            inbox.contains("bob commented on your entry") && inbox.contains("Tell me"),
            "{inbox}"
        );
        ann.comment(&url, &one, "Answered");
        wait::until_true("the answer is told too", || mails(&site).len() == 2).unwrap();
        assert!(
            mails(&site)
                .iter()
                .any(|mail| mail.contains("X-Envelope-To: <bob@people.example>"))
        );
        assert!(bob.page("/inbox").contains("ann answered your comment"));
        let quiet = ann.submit(
            "/manage/settings",
            "/manage/settings",
            &[("name", "Ann"), ("email", "ann@people.example")],
        );
        assert_eq!(quiet.status, 303);
        bob.comment(&url, "0", "No mail for this");
        wait::until_true("the notice is there", || {
            ann.page("/inbox")
                .matches("commented on your entry")
                .count()
                == 2
        })
        .unwrap();
        assert_eq!(mails(&site).len(), 2, "who wants no mail gets none");
        worker.stop().unwrap();
        daemon.stop().unwrap();
    });
}

#[test]
fn a_mail_waits_for_its_server() {
    let mut site = Site::sqlite();
    let sink = Sink::start(site.dir.path());
    let smtp = sink.addr.clone();
    drop(sink);
    std::fs::remove_file(site.dir.path().join("smtp.toml")).unwrap();
    site.set("mail.smtp", &smtp);
    site.set("worker.in_serve", "true");
    let daemon = site.serve();
    let mut ann = Browser::sign_up(addr(&daemon), "ann");
    let mut bob = Browser::sign_up(addr(&daemon), "bob");
    let url = ann.write("Patience", "public");
    bob.comment(&url, "0", "Hello");
    wait::until_true("the notice is there", || {
        ann.page("/inbox").contains("bob commented")
    })
    .unwrap();
    let dsn = format!("sqlite:{}", site.dir.path().join("global.db").display());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let waiting = || {
        runtime.block_on(async {
            let db = ibex_sql::Db::open(&ibex_sql::Config::new(&dsn).unwrap())
                .await
                .unwrap();
            let sql = "SELECT COUNT(*) FROM job JOIN error ON error.jobid = job.jobid";
            db.query_one(sql, Vec::new())
                .await
                .unwrap()
                .unwrap()
                .get::<i64>(0)
                .unwrap()
        })
    };
    wait::until_true("the mail failed once and is kept", || waiting() == 1).unwrap();
    assert!(mails(&site).is_empty());
    daemon.stop().unwrap();
}

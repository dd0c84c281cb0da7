//! Debian's gearmand beside ours, the same bytes to both. Where they differ, the difference is one of the list below, and it really is one.
//!
//! Handles are compared by their order of appearance, not by their numbers.

mod jobs;
mod packets;
mod text;
mod workers;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use ibex_gearman_proto::Request;
use ibex_testkit::{Daemon, skip, wait};

use crate::packets::Wire;

/// The original as a child process.
pub(crate) struct Original(
    Child,
    SocketAddr,
    #[expect(dead_code, reason = "kept until the process is gone")] tempfile::TempDir,
);

impl Original {
    pub(crate) fn addr(&self) -> SocketAddr {
        self.1
    }

    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(flags: &[String]) -> Option<Self> {
        let program = skip::program("gearmand")?;
        let port = ibex_testkit::ports::free().port();
        // It unlinks its pid file when it starts and ends: never a path that anybody else needs.
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new(program)
            .args([
                "-L",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-t",
                "1",
                "-l",
                "stderr",
            ])
            .args(flags)
            .arg("-P")
            .arg(dir.path().join("pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        wait::until_true("the original listens", || {
            std::net::TcpStream::connect(addr).is_ok()
        })
        .unwrap();
        Some(Self(child, addr, dir))
    }
}

impl Drop for Original {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// One scene: what several connections do, and what they heard.
pub(crate) struct Scene {
    addr: SocketAddr,
    heard: Vec<String>,
    handles: Vec<String>,
}

impl Scene {
    fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            heard: Vec::new(),
            handles: Vec::new(),
        }
    }

    fn connect(&self) -> Wire {
        Wire::connect(self.addr)
    }

    /// Sends, waits until everything is answered, notes what was heard.
    fn tell(&mut self, who: &str, wire: &mut Wire, requests: &[Request<'_>]) {
        for request in requests {
            wire.send(*request);
        }
        self.listen(who, wire);
    }

    fn line(&mut self, who: &str, wire: &mut Wire, line: &str) {
        wire.send_bytes(line.as_bytes());
        self.listen(who, wire);
    }

    fn listen(&mut self, who: &str, wire: &mut Wire) {
        for packet in wire.said() {
            let words = packet
                .split(' ')
                .map(|word| self.named(word))
                .collect::<Vec<_>>();
            self.heard.push(format!("{who}: {}", words.join(" ")));
        }
    }

    /// `h1`, `h2` … for handles, in the order in which they were seen.
    fn named(&mut self, word: &str) -> String {
        let (handle, rest) = word
            .split_once("\\t")
            .map_or((word, String::new()), |(h, rest)| (h, format!("\\t{rest}")));
        if !handle.starts_with("H:") {
            return word.to_owned();
        }
        let at = self
            .handles
            .iter()
            .position(|h| h == handle)
            .unwrap_or_else(|| {
                self.handles.push(handle.to_owned());
                self.handles.len() - 1
            });
        format!("h{}{rest}", at + 1)
    }

    /// The handle that was seen as the n-th.
    fn handle(&self, n: usize) -> String {
        self.handles
            .get(n - 1)
            .cloned()
            .unwrap_or_else(|| "H:none:1".into())
    }
}

pub(crate) type Play = fn(&mut Scene);

/// Name, the row of `docs/gearman/compatibility.md` that says how ours differs (`None`: it must not), and the scene.
pub(crate) type Staged = (&'static str, Option<&'static str>, Play);

/// All scenes, subject by subject.
pub(crate) fn scenes() -> impl Iterator<Item = &'static Staged> {
    [packets::SCENES, jobs::SCENES, workers::SCENES, text::SCENES]
        .into_iter()
        .flatten()
}
#[test]
fn the_same_bytes_to_both() {
    let mut wrong = Vec::new();
    for (name, difference, play) in scenes() {
        // Fresh servers: what one scene leaves behind must not play in the next.
        let Some(original) = Original::start() else {
            return;
        };
        let daemon = Daemon::builder("ibex-gearmand")
            .set("queue", "memory")
            .start()
            .unwrap();
        let (mut ours, mut theirs) = (
            Scene::new(daemon.addr("gearman").unwrap()),
            Scene::new(original.1),
        );
        play(&mut ours);
        play(&mut theirs);
        daemon.stop().unwrap();
        let is_same = ours.heard == theirs.heard;
        match difference {
            None if !is_same => wrong.push(format!(
                "{name}\n  ours   {:#?}\n  theirs {:#?}",
                ours.heard, theirs.heard
            )),
            Some(reason) if is_same => wrong.push(format!(
                "{name}: no difference any more ({reason}): {:#?}",
                ours.heard
            )),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

//! The smallest daemon on the kit: it sends back what it hears. The kit's own tests start it as a real process.
//!
//! Owns nothing worth keeping; shows every call a daemon makes. A line `stall` stops its heartbeat, `panic` panics a task, `hoard` takes all
//! file descriptors while its connection lasts, so that tests can see what the kit does then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ibex_kit::prometheus_client::metrics::counter::Counter;
use ibex_kit::{
    About, Arrival, CommonArgs, DaemonArgs, Detach, Failure, Kit, ListenAddr, Problem, Secret,
    Step, Validate, Worker, WorkerStatus,
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

const ABOUT: About = About {
    name: "ibex-echo",
    short: "echo",
    summary: "says what it hears",
    version: env!("CARGO_PKG_VERSION"),
    admin_port: 9899,
    original_flags: "The letters of nothing in particular.",
};

#[derive(clap::Parser)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
    /// What is said first.
    #[arg(short = 'g', long)]
    greeting: Option<String>,
    /// Accepted and ignored.
    #[arg(short = 'x', hide = true)]
    odd: bool,
    /// Into the background.
    #[arg(short = 'd', long)]
    daemon: bool,
    /// Write the process id here.
    #[arg(short = 'P', long)]
    pidfile: Option<std::path::PathBuf>,
}

impl DaemonArgs for Args {
    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn settings(&self) -> Vec<(String, toml::Value)> {
        let greeting = self.greeting.as_ref();
        greeting
            .map(|text| ("greeting".to_owned(), text.as_str().into()))
            .into_iter()
            .collect()
    }

    fn ignored(&self) -> Vec<String> {
        self.odd.then(|| "-x".to_owned()).into_iter().collect()
    }

    fn detach(&self) -> Detach {
        Detach {
            background: self.daemon,
            pid_file: self.pidfile.clone(),
            user: None,
        }
    }
}

ibex_kit::config! {
    /// Whole configuration of ibex-echo.
    pub struct Config {
        /// Data ports.
        live listen: Vec<ListenAddr> = vec![ListenAddr::Tcp { host: Some("127.0.0.1".to_owned()), port: 7007 }],
        /// What is said first; at most 80 bytes.
        live greeting: String = "hello".to_owned(),
        /// Keep state, and so refuse a second instance.
        restart keep_state: bool = false,
        /// Passwords of echoing.
        table auth: AuthConfig,
    }
}

ibex_kit::config! {
    /// `[auth]`
    pub struct AuthConfig {
        /// Password that is never asked for.
        restart password: Secret,
        /// Database URL that is never opened.
        restart url: String,
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), Vec<Problem>> {
        if self.greeting.len() <= 80 {
            return Ok(());
        }
        Err(vec![Problem::new("greeting", "must be at most 80 bytes")])
    }
}

/// Counts to a hundred and rests.
struct CountUp(u64);

impl Worker for CountUp {
    fn name(&self) -> String {
        "count-up".to_owned()
    }

    fn status(&self) -> WorkerStatus {
        WorkerStatus {
            done: self.0,
            total: Some(100),
            note: "counting".to_owned(),
        }
    }

    async fn step(&mut self) -> Result<Step, anyhow::Error> {
        if self.0 == 100 {
            return Ok(Step::Idle {
                wait: std::time::Duration::from_secs(3600),
            });
        }
        self.0 += 1;
        Ok(Step::Busy)
    }
}

struct Echo {
    kit: Kit,
    greeting: std::sync::Mutex<String>,
    lines: Counter,
    stalled: AtomicBool,
}

impl Echo {
    async fn connection(self: Arc<Self>, arrival: Arrival) {
        let Arrival {
            stream,
            peer,
            listed,
        } = arrival;
        let (draining, cut) = (self.kit.draining(), self.kit.cut());
        let (read, mut write) = tokio::io::split(stream);
        let mut lines = BufReader::new(read).lines();
        let mut hoarded = Vec::new();
        let greeting = self
            .greeting
            .lock()
            .map(|text| text.clone())
            .unwrap_or_default();
        if write
            .write_all(format!("{greeting}\n").as_bytes())
            .await
            .is_err()
        {
            return;
        }
        loop {
            let line = tokio::select! {
                line = lines.next_line() => line,
                () = draining.cancelled() => return,
            };
            let Ok(Some(line)) = line else { return };
            listed.received(line.len() + 1);
            let _busy = self.kit.busy();
            match line.as_str() {
                "stall" => self.stalled.store(true, Ordering::SeqCst),
                "panic" => drop(self.kit.spawn("fragile", async { panic!("as asked for") })),
                "hoard" => {
                    while let Ok(file) = std::fs::File::open("/dev/null") {
                        hoarded.push(file);
                    }
                }
                "slow" => {
                    tokio::select! {
                        () = tokio::time::sleep(std::time::Duration::from_secs(600)) => {}
                        () = cut.cancelled() => return,
                    }
                }
                "strange" => {
                    for _ in 0..1000 {
                        tracing::warn!(peer = %peer, "strange input");
                    }
                }
                _ => {}
            }
            self.lines.inc();
            if write
                .write_all(format!("{line}\n").as_bytes())
                .await
                .is_err()
            {
                return;
            }
            listed.sent(line.len() + 1);
        }
    }
}

async fn run(cfg: Config, kit: Kit) -> Result<(), Failure> {
    if cfg.keep_state {
        kit.state_dir()?;
    }
    let bound = kit.bind("echo", &cfg.listen)?;
    let echo = Arc::new(Echo {
        kit: kit.clone(),
        greeting: std::sync::Mutex::new(cfg.greeting.clone()),
        lines: Counter::default(),
        stalled: AtomicBool::new(false),
    });
    kit.metrics()
        .with(|registry| registry.register("echo_lines", "Lines echoed", echo.lines.clone()));
    let reloaded = Arc::clone(&echo);
    kit.on_reload(move |new: &Config| {
        if let Ok(mut greeting) = reloaded.greeting.lock() {
            new.greeting.clone_into(&mut greeting);
        }
    });
    let counted = echo.lines.clone();
    kit.json(
        "/-/lines",
        move || serde_json::json!({ "lines": counted.get() }),
    );
    let counted = echo.lines.clone();
    kit.page(move || {
        vec![ibex_kit::page::Section::facts(
            "Echo",
            [("lines", counted.get())],
        )]
    });
    kit.worker(CountUp(0));
    let beat = kit.heartbeat("echo");
    let beating = Arc::clone(&echo);
    kit.spawn_background("beat", async move {
        loop {
            if !beating.stalled.load(Ordering::SeqCst) {
                beat.beat();
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    bound.serve(
        |cfg: &Config| cfg.listen.clone(),
        move |arrival| Arc::clone(&echo).connection(arrival),
    );
    kit.ready().await?;
    kit.draining().cancelled().await;
    Ok(())
}

fn main() -> std::process::ExitCode {
    ibex_kit::main::<Args, Config, _>(ABOUT, run)
}

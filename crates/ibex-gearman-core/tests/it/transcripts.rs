//! Runs the transcripts in `tests/scripts`: commands in, outputs out, reviewed as text. `UPDATE_GOLDENFILES=1` writes what happens; read the difference.
//!
//! `conn: command key=value…` is a packet from a connection, which is made at its first packet. Without a connection: `server` (policies, first in a
//! script), `tick ms=`, what the store says (`scripted_store.rs`), operators' acts, `jobs`, `functions`. Outputs come at the end of a block,
//! `conn: PACKET arguments`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use goldenscript::{ArgumentConsumer, Block, Command, Context, Runner};
use ibex_gearman_core::{
    Config, ConnId, Input, JobServer, Output, Reply, RetryPolicy, TimeoutAction, TimeoutUnit,
    Wakeup,
};
use ibex_gearman_proto::{Grab, Priority, QueueLimits, Request, Submit, kind};

#[test]
fn transcripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut scripts: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    scripts.sort();
    assert!(scripts.len() >= 10, "only {} scripts", scripts.len());
    for script in scripts {
        goldenscript::run(&mut Script::new(), &script)
            .unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    }
}

/// The wall clock at the start of every script: 2001-09-09 01:46:40 UTC.
pub(crate) const EPOCH_MS: u64 = 1_000_000_000_000;

pub(crate) struct Script {
    pub(crate) server: JobServer,
    pub(crate) now: Instant,
    names: BTreeMap<String, ConnId>,
    conns: u64,
    pub(crate) is_store_held: bool,
    pub(crate) shown: String,
}

#[expect(
    clippy::disallowed_methods,
    reason = "an origin; only differences matter"
)]
fn origin() -> Instant {
    Instant::now()
}

impl Script {
    fn new() -> Self {
        let now = origin();
        Self {
            server: JobServer::new(config(), now, EPOCH_MS),
            now,
            names: BTreeMap::new(),
            conns: 0,
            is_store_held: false,
            shown: String::new(),
        }
    }

    fn conn(&mut self, name: &str) -> ConnId {
        if let Some(conn) = self.names.get(name) {
            return *conn;
        }
        self.conns += 1;
        let conn = ConnId(self.conns);
        self.names.insert(name.to_owned(), conn);
        self.server.handle(self.now, Input::Connected(conn));
        conn
    }

    fn name(&self, conn: ConnId) -> &str {
        self.names
            .iter()
            .find(|(_, c)| **c == conn)
            .map_or("?", |(name, _)| name)
    }

    fn drain(&mut self) {
        while let Some(output) = self.server.poll_output() {
            if let Output::Send(conn, reply) = &output {
                let line = format!("{}: {}", self.name(*conn), show(reply));
                writeln!(self.shown, "{}", line.trim_end()).unwrap();
            } else if let Output::Text(conn, text) = &output {
                let line = format!("{}: text {}", self.name(*conn), text.escape_ascii());
                writeln!(self.shown, "{line}").unwrap();
            } else {
                self.store_output(&output);
            }
        }
        self.server.check_invariants(self.now);
    }

    fn packet(&mut self, name: &str, command: &Command) -> Result<(), Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut field = |key: &str| args.take_key(key).map(str::to_owned);
        let (func, unique, arg) = (
            field("func").unwrap_or_default(),
            field("unique").unwrap_or_default(),
            field("arg").unwrap_or_default(),
        );
        // Long ones by their size.
        let arg = match field("size") {
            Some(size) => arg.repeat(size.parse()?),
            None => arg,
        };
        // An argument of its own before the data.
        let arg = field("headers").map_or(arg.clone(), |headers| format!("{headers}\0{arg}"));
        let every = field("every");
        let (at, id) = (field("at"), field("id").unwrap_or_default());
        let option = field("name").unwrap_or_default();
        let handle =
            field("handle").unwrap_or_else(|| format!("H:t:{}", field("job").unwrap_or_default()));
        let (of, delay, reducer) = (
            field("of").unwrap_or_default(),
            field("delay").unwrap_or_default(),
            field("reducer"),
        );
        let rest: Vec<&str> = std::iter::from_fn(|| args.next_pos()).collect();
        args.reject_next()?;
        let conn = self.conn(name);
        let at = at.map(|text| {
            text.parse::<i64>()
                .map_or(text, |s| (s + 1_000_000_000).to_string())
        });
        let submit = Submit {
            reducer: reducer.as_ref().map(|r| [r.as_bytes(), &b""[..]]),
            schedule: every.as_ref().and_then(|text| {
                let fields: Vec<&[u8]> = text.split(' ').map(str::as_bytes).collect();
                fields.try_into().ok()
            }),
            epoch: at.as_ref().map(|text| text.as_bytes()),
            ..Submit::new(func.as_bytes(), unique.as_bytes(), arg.as_bytes())
        };
        let (function, handle, data) = (func.as_bytes(), handle.as_bytes(), arg.as_bytes());
        let option = rest
            .first()
            .map_or(option.as_bytes(), |word| word.as_bytes());
        let request = match command.name.as_str() {
            "close" => {
                self.server.handle(self.now, Input::Closed(conn));
                self.names.remove(name);
                return Ok(());
            }
            "submit" => Request::Submit(submit),
            "submit_high" => Request::Submit(submit.priority(Priority::High)),
            "submit_low" => Request::Submit(submit.priority(Priority::Low)),
            "submit_bg" => Request::Submit(submit.background()),
            "submit_high_bg" => Request::Submit(submit.background().priority(Priority::High)),
            "submit_low_bg" => Request::Submit(submit.background().priority(Priority::Low)),
            "can_do" => Request::CanDo { function },
            "can_do_timeout" => Request::CanDoTimeout {
                function,
                timeout: data,
            },
            "cant_do" => Request::CantDo { function },
            "reset" => Request::ResetAbilities,
            "grab" => Request::GrabJob(Grab::Plain),
            "grab_uniq" => Request::GrabJob(Grab::Unique),
            "grab_all" => Request::GrabJob(Grab::All),
            "sleep" => Request::PreSleep,
            "status" => Request::WorkStatus {
                handle,
                numerator: data,
                denominator: of.as_bytes(),
            },
            "data" => Request::WorkData { handle, data },
            "warning" => Request::WorkWarning { handle, data },
            "complete" => Request::WorkComplete { handle, data },
            "fail" => Request::WorkFail { handle },
            "exception" => Request::WorkException { handle, data },
            "get_status" => Request::GetStatus { handle },
            "get_status_unique" => Request::GetStatusUnique {
                unique: unique.as_bytes(),
            },
            "echo" => Request::Echo { data },
            "option" => Request::Option { name: option },
            "client_id" => Request::SetClientId { id: id.as_bytes() },
            "all_yours" => Request::AllYours,
            "attach" => Request::Attach { handle },
            "nack" => Request::Nack {
                handle,
                delay: delay.as_bytes(),
                data,
            },
            "touch" => Request::Touch { handle },
            other => return Err(format!("unknown packet {other}").into()),
        };
        self.server.handle(self.now, Input::Packet(conn, request));
        Ok(())
    }

    fn control(&mut self, command: &Command) -> Result<(), Box<dyn Error>> {
        let mut args = command.consume_args();
        let now = self.now;
        match command.name.as_str() {
            "server" => {
                self.server = JobServer::new(policies(&mut args)?, now, EPOCH_MS);
                self.names.clear();
            }
            "tick" => {
                self.now += Duration::from_millis(number(&mut args, "ms")?.unwrap_or(0));
                self.server.handle_timeout(self.now);
            }
            "clock" => {
                let ahead: u64 = number(&mut args, "s")?.unwrap_or(0);
                self.server
                    .handle(now, Input::Clock(EPOCH_MS + ahead * 1000));
            }
            _ if self.store_control(command)? => {}
            _ => self.operate(command)?,
        }
        Ok(())
    }

    /// Operators' acts and views.
    fn operate(&mut self, command: &Command) -> Result<(), Box<dyn Error>> {
        let mut args = command.consume_args();
        let job = args.take_key("job").map(|n| format!("H:t:{n}"));
        let func = args.take_key("func").unwrap_or_default().as_bytes();
        let now = self.now;
        match command.name.as_str() {
            "cancel" => {
                let outcome = self
                    .server
                    .cancel_job(now, job.unwrap_or_default().as_bytes());
                writeln!(self.shown, "{outcome:?}")?;
            }
            "create" => assert!(self.server.create_function(func)),
            "drop" => {
                let outcome = self.server.drop_function(func);
                writeln!(self.shown, "{outcome:?}")?;
            }
            "maxqueue" => {
                let mut bound = |key| number::<u32>(&mut args, key).map(Option::unwrap_or_default);
                let limits = QueueLimits([bound("high")?, bound("normal")?, bound("low")?]);
                self.server.limit_queue(func, limits);
            }
            "limit_running" => {
                self.server
                    .limit_running(now, func, number(&mut args, "max")?.unwrap_or(0))
            }
            "limit_rate" => {
                let (rate, burst) = (
                    number(&mut args, "rate")?.unwrap_or(0),
                    number(&mut args, "burst")?.unwrap_or(1),
                );
                self.server.limit_rate(now, func, rate, burst);
            }
            "pause" => self.server.pause(now, func, true),
            "resume" => self.server.pause(now, func, false),
            "purge" => {
                let count = self.server.purge(now, func, None);
                writeln!(self.shown, "purged {count}")?;
            }
            "drop_schedule" => {
                let unique = args.take_key("unique").unwrap_or_default();
                let was_known = self.server.drop_schedule(func, unique.as_bytes());
                writeln!(self.shown, "dropped {was_known}")?;
            }
            "drain" => self.server.drain(args.next_pos() == Some("on")),
            "retry_dead" => {
                let count = self.server.retry_dead(now, None);
                writeln!(self.shown, "retried {count}")?;
            }
            _ => self.view(command)?,
        }
        Ok(())
    }

    fn view(&mut self, command: &Command) -> Result<(), Box<dyn Error>> {
        let now = self.now;
        match command.name.as_str() {
            "dead" => {
                for dead in self.server.dead() {
                    writeln!(
                        self.shown,
                        "{:?} {} attempts={} {}",
                        dead.handle,
                        dead.function.escape_ascii(),
                        dead.attempts,
                        dead.reason.escape_ascii()
                    )?;
                }
            }
            "schedules" => {
                for s in self.server.schedules() {
                    writeln!(
                        self.shown,
                        "{:?} {} unique={} next={}",
                        s.handle,
                        s.function.escape_ascii(),
                        s.unique.escape_ascii(),
                        due(s.next_ms)
                    )?;
                }
            }
            "functions" => {
                for f in self.server.functions(now) {
                    let name = f.name.escape_ascii().to_string();
                    writeln!(
                        self.shown,
                        "{name} total={} running={} workers={} waiting={:?} sleeping={}",
                        f.total(),
                        f.running,
                        f.workers,
                        f.waiting,
                        f.sleeping
                    )?;
                    if f.behind > 0 {
                        writeln!(self.shown, "{name} behind={}", f.behind)?;
                    }
                }
            }
            "jobs" => {
                for j in self.server.jobs(now) {
                    let state = format!("{:?}", j.state).to_lowercase();
                    let background = if j.is_background {
                        "background"
                    } else {
                        "foreground"
                    };
                    writeln!(
                        self.shown,
                        "{:?} {} {state} {background} clients={} attempts={}",
                        j.handle,
                        j.function.escape_ascii(),
                        j.clients,
                        j.attempts
                    )?;
                }
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        Ok(())
    }
}

pub(crate) fn number<T: std::str::FromStr<Err: Error + 'static>>(
    args: &mut ArgumentConsumer<'_>,
    key: &str,
) -> Result<Option<T>, Box<dyn Error>> {
    Ok(args.take_key(key).map(str::parse).transpose()?)
}

fn config() -> Config {
    Config {
        handle_prefix: "H:t".into(),
        ..Config::default()
    }
}

fn policies(args: &mut ArgumentConsumer<'_>) -> Result<Config, Box<dyn Error>> {
    let mut config = config();
    config.durable = number(args, "durable")?.unwrap_or(false);
    config.retries_max = number(args, "retries")?;
    if let Some(function) = args.take_key("retry") {
        let policy = RetryPolicy {
            attempts: number(args, "attempts")?.unwrap_or(1),
            pause_min: Duration::from_secs(number(args, "pause")?.unwrap_or(1)),
            pause_max: Duration::from_secs(3600),
        };
        let function = Bytes::copy_from_slice(function.as_bytes());
        config.retry.insert(function, policy);
    }
    config.is_round_robin = number(args, "round_robin")?.unwrap_or(true);
    config.is_loss_failure = number(args, "fail_on_loss")?.unwrap_or(false);
    config.jobs_max = number(args, "jobs_max")?.unwrap_or(0);
    config.workload_bytes_max = number(args, "bytes_max")?.unwrap_or(0);
    config.result_ttl = number(args, "result_ttl")?.map(Duration::from_secs);
    if let Some(bytes) = number(args, "results_max")? {
        config.results_bytes_max = bytes;
    }
    config.function_ttl = number(args, "function_ttl")?.map(Duration::from_secs);
    if let Some(ms) = number(args, "grab_hold")? {
        config.grab_hold = Duration::from_millis(ms);
    }
    config.timeout_unit = TimeoutUnit::Auto;
    if args.take_key("timeout_action") == Some("requeue") {
        config.timeout_action = TimeoutAction::Requeue;
    }
    config.wakeup = match args.take_key("wakeup") {
        None | Some("auto") => Wakeup::Auto,
        Some("all") => Wakeup::All,
        Some(count) => Wakeup::Count(count.parse()?),
    };
    Ok(config)
}

/// Due times as seconds after the script's start.
pub(crate) fn due(due_ms: u64) -> String {
    if due_ms == 0 {
        "now".into()
    } else {
        format!("+{}s", (due_ms - EPOCH_MS) / 1000)
    }
}

/// A packet as its name and its arguments.
fn show(reply: &Reply) -> String {
    let mut wire = Vec::new();
    reply.encode(&mut wire);
    let arguments = wire[12..]
        .split(|b| *b == 0)
        .map(|a| match a.len() {
            0..100 => a.escape_ascii().to_string(),
            len => format!("<{len} bytes>"),
        })
        .collect::<Vec<_>>()
        .join(" ");
    format!("{} {arguments}", kind::name(reply.kind()).unwrap_or("?"))
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, context: &Context) -> Result<String, Box<dyn Error>> {
        match &context.prefix {
            Some(name) => self.packet(&name.clone(), command)?,
            None => self.control(command)?,
        }
        self.drain();
        Ok(String::new())
    }

    fn end_block(&mut self, _: &Block) -> Result<String, Box<dyn Error>> {
        Ok(std::mem::take(&mut self.shown))
    }
}

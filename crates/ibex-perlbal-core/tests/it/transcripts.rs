//! Runs the scripts in `tests/scripts`: commands in, outputs out, reviewed as text.
#![allow(
    clippy::unwrap_used,
    reason = "a test harness stops at the first surprise"
)]

use std::error::Error;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use goldenscript::Argument;
use ibex_perlbal_core::dispatcher::{
    Balance, Class, Config, ConnId, Dispatcher, Input, NodeSpec, Output, Release, Ticket,
};

struct Runner {
    dispatcher: Dispatcher,
    config: Config,
    now: Instant,
}

impl Runner {
    fn new() -> Self {
        let config = Config {
            balance: Balance::RoundRobin,
            ..Config::default()
        };
        Self {
            dispatcher: Dispatcher::new(config.clone(), 1),
            config,
            now: crate::origin(),
        }
    }

    fn input(&mut self, command: &goldenscript::Command) -> Result<Option<Input>, Box<dyn Error>> {
        let word = |n: usize| command.pos(n);
        let ticket = |n: usize| -> Result<Ticket, Box<dyn Error>> {
            Ok(Ticket(word(n)?.trim_start_matches('t').parse()?))
        };
        let conn = |n: usize| -> Result<ConnId, Box<dyn Error>> {
            Ok(ConnId(word(n)?.trim_start_matches('c').parse()?))
        };
        let class = |n: usize| match command.pos(n).ok() {
            Some("high") => Class::High,
            Some("low") => Class::Low,
            _ => Class::Normal,
        };
        Ok(Some(match command.name.as_str() {
            "ask" => Input::Ask(ticket(0)?, class(1)),
            "cancel" => Input::Cancel(ticket(0)?),
            "connected" => Input::Connected(conn(0)?),
            "connect_failed" => Input::ConnectFailed(conn(0)?),
            "verified" => Input::Verified(conn(0)?),
            "verify_failed" => Input::VerifyFailed(conn(0)?),
            "released" => Input::Released(
                conn(0)?,
                Release::Reusable {
                    expires: command
                        .pos(1)
                        .ok()
                        .map(|a| self.now + Duration::from_secs(a.parse().unwrap())),
                },
            ),
            "finished" => Input::Released(conn(0)?, Release::Finished),
            "stale" => Input::Stale(conn(0)?, ticket(1)?, Class::Normal),
            "nodes" => Input::SetNodes(command.args.iter().map(|a| spec(text_of(a))).collect()),
            "config" => {
                for arg in &command.args {
                    if let Argument::KeyValue(key, value) = arg {
                        self.set(key, value)?;
                    }
                }
                Input::SetConfig(self.config.clone())
            }
            _ => return Ok(None),
        }))
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Box<dyn Error>> {
        match key {
            "persist" => self.config.persist = value == "on",
            "persist_cache" => self.config.persist_cache = value.parse()?,
            "connect_ahead" => self.config.connect_ahead = value.parse()?,
            "uses_max" => self.config.uses_max = value.parse()?,
            "verify" => self.config.verify = value == "on",
            "queue_max" => self.config.queue_max = value.parse()?,
            "fail_fast" => self.config.fail_fast = value == "on",
            "pending" => self.config.pending_per_node_max = value.parse()?,
            "hedge_ms" => self.config.hedge_after = Duration::from_millis(value.parse()?),
            other => return Err(format!("unknown setting {other}").into()),
        }
        Ok(())
    }
}

fn spec(text: &str) -> NodeSpec {
    let (address, drained) = text
        .strip_prefix("drained-")
        .map_or((text, false), |a| (a, true));
    NodeSpec {
        is_drained: drained,
        ..NodeSpec::new(address)
    }
}

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        match (command.name.as_str(), self.input(command)?) {
            (_, Some(input)) => self.dispatcher.handle(self.now, input),
            ("wait_ms", None) => {
                self.now += Duration::from_millis(command.pos(0)?.parse()?);
                self.dispatcher.handle_timeout(self.now);
            }
            ("show", None) => {
                let counts: Vec<usize> = Class::ALL
                    .iter()
                    .map(|c| self.dispatcher.queue(*c, self.now).0)
                    .collect();
                writeln!(
                    out,
                    "waiting {counts:?} idle {} conns {}",
                    self.dispatcher.idle_count(),
                    self.dispatcher.conn_count()
                )?;
            }
            (other, None) => return Err(format!("unknown command {other}").into()),
        }
        while let Some(output) = self.dispatcher.poll_output() {
            match output {
                Output::Connect(conn, node) => writeln!(out, "connect c{} to {node}", conn.0)?,
                Output::Verify(conn) => writeln!(out, "verify c{}", conn.0)?,
                Output::Assign {
                    ticket,
                    conn,
                    node,
                    uses,
                } => writeln!(
                    out,
                    "assign c{} ({node}, used {uses}) to t{}",
                    conn.0, ticket.0
                )?,
                Output::Refuse(ticket, why) => writeln!(out, "refuse t{}: {why:?}", ticket.0)?,
                Output::Close(conn) => writeln!(out, "close c{}", conn.0)?,
            }
        }
        Ok(out)
    }
}

trait Positional {
    fn pos(&self, n: usize) -> Result<&str, Box<dyn Error>>;
}

impl Positional for goldenscript::Command {
    fn pos(&self, n: usize) -> Result<&str, Box<dyn Error>> {
        self.args
            .get(n)
            .map(text_of)
            .ok_or_else(|| "argument missing".into())
    }
}

fn text_of(argument: &Argument) -> &str {
    match argument {
        Argument::Positional(text) | Argument::KeyValue(_, text) => text,
        _ => "",
    }
}

fn script(name: &str) {
    goldenscript::run(
        &mut Runner::new(),
        std::path::Path::new("tests/scripts").join(name),
    )
    .unwrap();
}

#[test]
fn queue_order() {
    script("queue_order");
}

#[test]
fn persistence() {
    script("persistence");
}

#[test]
fn verification_and_hedging() {
    script("verification");
}

#[test]
fn failing_nodes() {
    script("failing_nodes");
}

#[test]
fn membership() {
    script("membership");
}

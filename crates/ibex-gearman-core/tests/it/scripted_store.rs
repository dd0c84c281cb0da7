//! The store of the transcripts: prints what it is asked, and says what the script says.
//!
//! `store auto|hold`: whether it answers by itself. `persisted N`, `persist_failed N`; `fetched N arg= size=`, `fetch_failed N`, `fetch_lost N`; `restored …`,
//! `restored_away … bytes=`, `restored_dead … reason=`, `restored_schedule …`, `restored_result …`.

use std::error::Error;
use std::fmt::Write as _;

use bytes::Bytes;
use goldenscript::{ArgumentConsumer, Command};
use ibex_gearman_core::{End, Input, JobId, Output, StoredJob, StoredResult, StoredSchedule};
use ibex_gearman_proto::Priority;

use crate::transcripts::{EPOCH_MS, Script, due, number};

impl Script {
    pub(crate) fn store_output(&mut self, output: &Output) {
        let answered = match output {
            Output::Persist(job) => Some(job.id),
            Output::Revive(job) => Some(*job),
            Output::KeepSchedule(schedule) => Some(schedule.id),
            Output::Send(..)
            | Output::Text(..)
            | Output::Attempt { .. }
            | Output::Forget(_)
            | Output::Bury { .. }
            | Output::Fetch(_)
            | Output::KeepResult(_)
            | Output::ForgetResult(_)
            | Output::RestoreSchedule(_)
            | Output::MoveSchedule { .. }
            | Output::DropSchedule { .. } => None,
        };
        writeln!(self.shown, "store: {}", asked(output)).unwrap();
        if let Some(id) = answered.filter(|_| !self.is_store_held) {
            self.server.handle(self.now, Input::Persisted(id));
        }
    }

    /// Whether the command was one of the store's.
    pub(crate) fn store_control(&mut self, command: &Command) -> Result<bool, Box<dyn Error>> {
        let mut args = command.consume_args();
        let now = self.now;
        let mut named =
            || Ok::<_, Box<dyn Error>>(JobId(args.next_pos().unwrap_or_default().parse()?));
        let input = match command.name.as_str() {
            "store" => {
                self.is_store_held = args.next_pos() == Some("hold");
                return Ok(true);
            }
            "persisted" => Input::Persisted(named()?),
            "persist_failed" => Input::PersistFailed(named()?),
            "fetch_failed" => Input::FetchFailed(named()?),
            "fetch_lost" => Input::FetchLost(named()?),
            "fetched" => {
                let id = named()?;
                let arg = args.take_key("arg").unwrap_or_default();
                let workload = arg.repeat(number(&mut args, "size")?.unwrap_or(1));
                Input::Fetched(id, workload.into())
            }
            "restored_schedule" => Input::RestoredSchedule(stored_schedule(&mut args)?),
            "restored" => Input::Restored(stored_job(&mut args)?),
            "restored_away" => {
                let bytes = number(&mut args, "bytes")?.unwrap_or(0);
                Input::RestoredAway(stored_job(&mut args)?, bytes)
            }
            "restored_dead" => {
                let bytes = number(&mut args, "bytes")?.unwrap_or(0);
                let reason = text(&mut args, "reason");
                Input::RestoredDead(stored_job(&mut args)?, bytes, reason)
            }
            "restored_result" => Input::RestoredResult(stored_result(&mut args)?),
            _ => return Ok(false),
        };
        self.server.handle(now, input);
        Ok(true)
    }
}

fn text(args: &mut ArgumentConsumer<'_>, key: &str) -> Bytes {
    Bytes::copy_from_slice(args.take_key(key).unwrap_or_default().as_bytes())
}

fn stored_job(args: &mut ArgumentConsumer<'_>) -> Result<StoredJob, Box<dyn Error>> {
    Ok(StoredJob {
        id: JobId(number(args, "id")?.unwrap_or(0)),
        function: text(args, "func"),
        unique: text(args, "unique"),
        priority: Priority::Normal,
        due_ms: number::<u64>(args, "at")?.map_or(0, |s| EPOCH_MS + s * 1000),
        attempts: number(args, "attempts")?.unwrap_or(0),
        reducer: Bytes::new(),
        headers: text(args, "headers"),
        workload: text(args, "arg"),
    })
}

fn stored_result(args: &mut ArgumentConsumer<'_>) -> Result<StoredResult, Box<dyn Error>> {
    Ok(StoredResult {
        id: JobId(number(args, "id")?.unwrap_or(0)),
        function: text(args, "func"),
        unique: text(args, "unique"),
        workload: text(args, "workload"),
        end: End::Complete(text(args, "arg")),
        ended_ms: EPOCH_MS - number::<u64>(args, "ago")?.unwrap_or(0) * 1000,
        until_ms: EPOCH_MS + number::<u64>(args, "for")?.unwrap_or(0) * 1000,
    })
}

fn stored_schedule(args: &mut ArgumentConsumer<'_>) -> Result<StoredSchedule, Box<dyn Error>> {
    let field = Bytes::from_static(b"*");
    Ok(StoredSchedule {
        id: JobId(number(args, "id")?.unwrap_or(0)),
        function: text(args, "func"),
        unique: Bytes::from_static(b"u"),
        fields: [
            Bytes::from_static(b"0"),
            field.clone(),
            field.clone(),
            field.clone(),
            field,
        ],
        next_ms: EPOCH_MS - number::<u64>(args, "ago")?.unwrap_or(0) * 1000,
        workload: Bytes::from_static(b"w"),
    })
}

/// What the store is asked, as a line.
fn asked(output: &Output) -> String {
    match output {
        Output::Persist(job) => {
            let workload = match job.workload.len() {
                0..100 => job.workload.escape_ascii().to_string(),
                len => format!("<{len} bytes>"),
            };
            format!(
                "PERSIST {} {} unique={} due={} {workload}",
                job.id.0,
                job.function.escape_ascii(),
                job.unique.escape_ascii(),
                due(job.due_ms)
            )
        }
        Output::Revive(job) => format!("REVIVE {}", job.0),
        Output::Attempt {
            job,
            attempts,
            due_ms,
        } => format!("ATTEMPT {} attempts={attempts} due={}", job.0, due(*due_ms)),
        Output::Forget(job) => format!("FORGET {}", job.0),
        Output::Bury {
            job,
            attempts,
            reason,
        } => format!(
            "BURY {} attempts={attempts} {}",
            job.0,
            reason.escape_ascii()
        ),
        Output::Fetch(jobs) => {
            let ids: Vec<String> = jobs.iter().map(|job| job.0.to_string()).collect();
            format!("FETCH {}", ids.join(" "))
        }
        Output::KeepResult(result) => {
            let after = (result.until_ms - result.ended_ms) / 1000;
            format!("RESULT {} for {after}s {:?}", result.id.0, result.end)
        }
        Output::ForgetResult(job) => format!("FORGET_RESULT {}", job.0),
        Output::KeepSchedule(s) => format!("KEEP {} next={}", s.id.0, due(s.next_ms)),
        Output::RestoreSchedule(s) => format!("RESTORE {}", s.id.0),
        Output::MoveSchedule { next_ms, .. } => format!("MOVE next={}", due(*next_ms)),
        Output::DropSchedule { function, .. } => format!("DROP {}", function.escape_ascii()),
        Output::Send(..) | Output::Text(..) => "nothing".to_owned(),
    }
}

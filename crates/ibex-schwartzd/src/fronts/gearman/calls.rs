//! What each packet of a client or worker does; submissions alone are in `session`, which joins them.

use super::session::{Session, Wrong, durable};
use ibex_gearman_proto::text::error_text;
use ibex_gearman_proto::{ErrorCode, Request, Response};
use ibex_schwartz::{Finish, RESULT_BYTES_MAX, State, When};

/// Longest lease a CAN_DO_TIMEOUT or a NACK may ask for, in seconds: a day, as over HTTP.
const SECONDS_MAX: u64 = 86_400;
/// Characters of a client id that are kept.
const NAME_BYTES_MAX: usize = 127;

impl Session {
    pub(super) async fn handle(&mut self, request: Request<'_>) {
        match request {
            Request::CanDo { function } => self.can_do(function, None),
            Request::CanDoTimeout { function, timeout } => {
                let seconds = seconds(timeout).filter(|seconds| *seconds > 0);
                self.can_do(function, seconds.map(|seconds| seconds.min(SECONDS_MAX)));
            }
            Request::CantDo { function } => self.cannot_do(function),
            Request::ResetAbilities => self.can_do_nothing(),
            Request::PreSleep => self.sleep(),
            Request::Submit(submit) => self.forward(&submit).await,
            Request::GrabJob(form) => self.grab(form).await,
            Request::WorkStatus {
                handle,
                numerator,
                denominator,
            } => self.progress(handle, numerator, denominator),
            Request::WorkComplete { handle, data } => {
                self.end(handle, self.complete(data), error_text::NO_JOB_FOR_RESULT)
                    .await;
            }
            Request::WorkFail { handle } => {
                self.end(
                    handle,
                    self.fail("WORK_FAIL".to_owned()),
                    error_text::NO_JOB_FOR_RESULT,
                )
                .await;
            }
            Request::WorkException { handle, data } => {
                let end = self.fail(String::from_utf8_lossy(data).into_owned());
                self.end(handle, end, error_text::NO_JOB_FOR_EXCEPTION)
                    .await;
                self.except(handle);
            }
            // Nobody waits for parts of a durable job.
            Request::WorkData { handle, .. } | Request::WorkWarning { handle, .. } => {
                if self.mine(handle).is_none() {
                    self.missing(error_text::NO_JOB_FOR_DATA);
                }
            }
            Request::GetStatus { handle } => self.status(handle).await,
            Request::Echo { data } => self.echo(data),
            Request::SetClientId { id } => {
                let id = id.get(..NAME_BYTES_MAX).unwrap_or(id);
                self.rename(String::from_utf8_lossy(id).into_owned());
            }
            Request::AllYours => {}
            Request::Option { name } => self.option(name),
            Request::Nack { handle, delay, .. } => match seconds(delay) {
                Some(seconds) => {
                    let when = When::In(seconds.min(SECONDS_MAX));
                    self.end(handle, Finish::Decline(Some(when)), error_text::NO_JOB)
                        .await;
                }
                None => self.wrong(&Wrong::new(
                    ErrorCode::InvalidArgument.as_str(),
                    error_text::BAD_DELAY,
                )),
            },
            Request::Touch { handle } => {
                let grab_for = self.front.app.config.load().grab_for.std().as_secs();
                self.end(handle, Finish::Extend(grab_for), error_text::NO_JOB)
                    .await;
            }
            Request::GetStatusUnique { .. } | Request::Attach { .. } => self.wrong(&Wrong::new(
                ErrorCode::InvalidCommand.as_str(),
                "durable jobs are asked for by their handles",
            )),
        }
    }

    fn missing(&mut self, text: &'static str) {
        self.wrong(&Wrong::new(ErrorCode::JobNotFound.as_str(), text));
    }

    fn complete(&self, data: &[u8]) -> Finish {
        let keep = self.kept_seconds();
        if keep == 0 || data.is_empty() || data.len() > RESULT_BYTES_MAX {
            return Finish::Complete { status: 0, keep };
        }
        Finish::CompleteWith {
            status: 0,
            keep,
            result: bytes::Bytes::copy_from_slice(data),
        }
    }

    fn fail(&self, message: String) -> Finish {
        Finish::Fail {
            message,
            status: 1,
            retry: self.front.app.retry_policy(),
            keep: self.kept_seconds(),
        }
    }

    fn kept_seconds(&self) -> u64 {
        let config = self.front.app.config.load();
        config.keep_exit_status_for.std().as_secs()
    }

    fn option(&mut self, name: &[u8]) {
        if name == b"exceptions" {
            self.want_exceptions();
            self.say(&Response::Option {
                name: "exceptions".to_owned(),
            });
        } else {
            self.wrong(&Wrong::new(
                ErrorCode::UnknownOption.as_str(),
                error_text::UNKNOWN_OPTION,
            ));
        }
    }

    async fn status(&mut self, handle: &[u8]) {
        let text = String::from_utf8_lossy(handle).into_owned();
        let (mut known, mut running, mut progress) = (false, false, (0, 0));
        if let Some(job) = durable(handle) {
            match self.front.app.client.status(&job).await {
                Ok(status) => {
                    known = status.pending.is_some();
                    running = matches!(status.pending, Some((_, State::Grabbed)));
                    progress = self.progress_of(&job);
                }
                Err(ibex_schwartz::Error::ForeignHandle(_)) => {}
                Err(error) => {
                    return self.wrong(&Wrong::new(
                        ErrorCode::QueueError.as_str(),
                        error.to_string(),
                    ));
                }
            }
        } else if let Some(job) = self.forwarded(handle) {
            let front = std::sync::Arc::clone(&self.front);
            let asked = async { front.forwarding().await?.status(&job).await };
            if let Ok(status) = asked.await {
                (known, running) = (status.is_known, status.is_running);
                progress = (status.numerator, status.denominator);
            }
        }
        self.say(&Response::Status {
            handle: text,
            known,
            running,
            numerator: progress.0,
            denominator: progress.1,
        });
    }
}

fn seconds(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

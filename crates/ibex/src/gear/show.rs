//! What `ibex gear client` prints of a job: raw, as the original tool does, or a line of JSON.
//!
//! COMPAT(gearman): parts, results, `N% Complete` and `Task created: HANDLE` go to standard output, warnings and exceptions to standard error, as they are.
//! DIFFERS(gearman): `-P` puts the name before every line; the original puts it before every packet.

use std::io::Write as _;

use anyhow::Context as _;
use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use ibex_gearman_client::{Error, Event, Job};
use serde_json::{Value, json};

/// How a job went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Well, or it is in the background.
    Done,
    /// Its worker said no.
    Failed,
}

/// The form of the output.
#[derive(Debug, Clone, Copy)]
pub struct Show<'a> {
    /// A line of JSON for each job, once it has ended.
    pub is_json: bool,
    /// Put before every line.
    pub prefix: Option<&'a str>,
}

impl Show<'_> {
    /// Prints a job's events to its end.
    ///
    /// # Errors
    /// Those of the job's connection, and of standard output.
    pub async fn job(self, function: Option<&str>, job: Job) -> anyhow::Result<Outcome> {
        if self.is_json {
            self.job_as_json(function, job).await
        } else {
            self.job_as_it_comes(job).await
        }
    }

    async fn job_as_it_comes(self, mut job: Job) -> anyhow::Result<Outcome> {
        while let Some(event) = job.next().await? {
            match event {
                Event::Data(bytes) | Event::Complete(bytes) => self.out(&bytes)?,
                Event::Warning(bytes) => self.err(&bytes),
                Event::Status {
                    numerator,
                    denominator,
                } => {
                    let percent = u64::from(numerator) * 100 / u64::from(denominator.max(1));
                    self.out(format!("{percent}% Complete\n").as_bytes())?;
                }
                Event::Exception(bytes) => {
                    self.err(&bytes);
                    eprintln!("{}Job failed", if bytes.is_empty() { "" } else { "\n" });
                    return Ok(Outcome::Failed);
                }
                Event::Fail => {
                    eprintln!("Job failed");
                    return Ok(Outcome::Failed);
                }
            }
        }
        Ok(Outcome::Done)
    }

    async fn job_as_json(self, function: Option<&str>, mut job: Job) -> anyhow::Result<Outcome> {
        let handle = job.handle().to_string();
        let mut warnings: Vec<Value> = Vec::new();
        let mut parts = BytesMut::new();
        let (status, outcome, data) = loop {
            match job.next().await? {
                Some(Event::Data(part)) => parts.extend_from_slice(&part),
                Some(Event::Warning(text)) => warnings.push(text_of(&text)),
                Some(Event::Status { .. }) => {}
                Some(Event::Complete(rest)) => {
                    parts.extend_from_slice(&rest);
                    break ("complete", Outcome::Done, parts.freeze());
                }
                Some(Event::Exception(reason)) => break ("exception", Outcome::Failed, reason),
                Some(Event::Fail) | None => break ("failed", Outcome::Failed, Bytes::new()),
            }
        };
        let mut line = json!({ "handle": handle, "status": status });
        if let Some(function) = function {
            line["function"] = function.into();
        }
        put_data(&mut line, &data);
        if !warnings.is_empty() {
            line["warnings"] = warnings.into();
        }
        self.line(&line)?;
        Ok(outcome)
    }

    /// A job that was created and is not waited for; without JSON only if somebody wants to know.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn created(self, function: &str, handle: &str, is_verbose: bool) -> anyhow::Result<()> {
        if self.is_json {
            self.line(&json!({ "function": function, "handle": handle, "status": "created" }))
        } else if is_verbose {
            self.out(format!("Task created: {handle}\n").as_bytes())
        } else {
            Ok(())
        }
    }

    /// A line for one result of a map.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn mapped(
        self,
        function: &str,
        handle: &str,
        result: &Result<Bytes, Error>,
    ) -> anyhow::Result<()> {
        if !self.is_json {
            if let Err(error) = result {
                eprintln!("{error}");
            }
            let data = result.as_ref().map_or(&b""[..], |data| data);
            return self.out(&[data, b"\n"].concat());
        }
        let (status, data) = match result {
            Ok(data) => ("complete", data.clone()),
            Err(Error::JobException { data, .. }) => ("exception", data.clone()),
            Err(_) => ("failed", Bytes::new()),
        };
        let mut line = json!({ "function": function, "handle": handle, "status": status });
        put_data(&mut line, &data);
        self.line(&line)
    }

    fn line(self, value: &Value) -> anyhow::Result<()> {
        let plain = Show {
            prefix: None,
            ..self
        };
        plain.out(format!("{value}\n").as_bytes())
    }

    /// Results are bytes and stay bytes; only a wanted prefix is put in front of each line.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn out(self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(&self.prefixed(bytes))
            .and_then(|()| stdout.flush())
            .context("write standard output")
    }

    fn err(self, bytes: &[u8]) {
        // Whoever closed standard error does not want to know.
        drop(std::io::stderr().lock().write_all(&self.prefixed(bytes)));
    }

    fn prefixed(self, bytes: &[u8]) -> Vec<u8> {
        match self.prefix {
            None => bytes.to_vec(),
            Some(prefix) => bytes
                .split_inclusive(|&byte| byte == b'\n')
                .flat_map(|line| [prefix.as_bytes(), b": ", line].concat())
                .collect(),
        }
    }
}

/// `data`, or `data_base64` for what is no text.
fn put_data(line: &mut Value, data: &[u8]) {
    match std::str::from_utf8(data) {
        Ok(text) => line["data"] = text.into(),
        Err(_) => {
            let encoded = base64::engine::general_purpose::STANDARD.encode(data);
            line["data_base64"] = encoded.into();
        }
    }
}

fn text_of(bytes: &[u8]) -> Value {
    String::from_utf8_lossy(bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_before_every_line() {
        let show = Show {
            is_json: false,
            prefix: Some("f"),
        };
        assert_eq!(show.prefixed(b"a\nb"), b"f: a\nf: b");
        assert_eq!(show.prefixed(b""), b"");
    }

    #[test]
    fn data_is_text_or_base64() {
        let mut line = json!({});
        put_data(&mut line, "ü".as_bytes());
        put_data(&mut line, b"\xff");
        assert_eq!(line, json!({ "data": "ü", "data_base64": "/w==" }));
    }
}

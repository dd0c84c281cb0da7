//! A submission as a job of the tables, or why it is none.

use super::session::Wrong;
use bytes::Bytes;
use ibex_gearman_proto::text::error_text;
use ibex_gearman_proto::{ErrorCode, Mode, Priority, Submit};
use ibex_schwartz::Job;
use md5::{Digest, Md5};

/// The `unique` that means: the workload is the key.
const UNIQUE_IS_WORKLOAD: &[u8] = b"-";

/// The job a background submission asks for.
pub(super) fn job_of(submit: &Submit<'_>, arg_bytes_max: usize) -> Result<Job, Wrong> {
    if submit.schedule.is_some() || submit.reducer.is_some() {
        return Err(Wrong::new(
            ErrorCode::InvalidCommand.as_str(),
            "schedules are periodic jobs over HTTP, and there are no reducers",
        ));
    }
    if submit.mode == Mode::Foreground && submit.epoch.is_none() {
        return Err(Wrong::new(
            "not_durable",
            "nobody waits for a job of this server: submit it in the background",
        ));
    }
    if submit.workload.len() > arg_bytes_max {
        return Err(Wrong::new(
            ErrorCode::DataTooLarge.as_str(),
            error_text::TOO_LARGE,
        ));
    }
    let function = std::str::from_utf8(submit.function)
        .map_err(|_| invalid_name("function name is no UTF-8"))?;
    let mut job = Job::new(function, Bytes::copy_from_slice(submit.workload))
        .priority(priority(submit.priority));
    if !submit.unique.is_empty() {
        job = job.uniqkey(unique(submit)?);
    }
    if let Some(epoch) = submit.epoch {
        job = job.run_after(when(epoch)?);
    }
    job.check()
        .map_err(|error| invalid_name(&error.to_string()))?;
    Ok(job)
}

fn invalid_name(text: &str) -> Wrong {
    Wrong::new(ErrorCode::InvalidArgument.as_str(), text)
}

/// Bigger is more urgent in the tables.
fn priority(priority: Priority) -> u16 {
    match priority {
        Priority::High => 2,
        Priority::Normal => 1,
        Priority::Low => 0,
    }
}

fn unique(submit: &Submit<'_>) -> Result<String, Wrong> {
    if submit.unique == UNIQUE_IS_WORKLOAD {
        // A key has 255 characters; a workload has as many bytes as it likes.
        let digest = Md5::digest(submit.workload);
        return Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect());
    }
    std::str::from_utf8(submit.unique)
        .map(str::to_owned)
        .map_err(|_| invalid_name("unique key is no UTF-8"))
}

fn when(epoch: &[u8]) -> Result<u64, Wrong> {
    std::str::from_utf8(epoch)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Wrong::new(ErrorCode::InvalidArgument.as_str(), error_text::BAD_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submissions_as_jobs() {
        let submit = Submit::new(b"f", b"u", b"\0\xff").background();
        let job = job_of(&submit.priority(Priority::High), 2).unwrap();
        assert_eq!((job.funcname(), job.priority_value()), ("f", Some(2)));
        assert_eq!(&job.arg()[..], b"\0\xff");
        let same = |workload| {
            unique(&Submit::new(b"f", UNIQUE_IS_WORKLOAD, workload)).map_err(|wrong| wrong.code)
        };
        assert_eq!(same(b"").unwrap(), "d41d8cd98f00b204e9800998ecf8427e");
        assert_ne!(same(b"a"), same(b"b"));
    }

    #[test]
    fn submissions_that_are_no_jobs() {
        let code = |submit: Submit<'_>| job_of(&submit, 3).unwrap_err().code;
        let good = Submit::new(b"f", b"", b"abc").background();
        assert!(job_of(&good, 3).is_ok());
        let submit = |change: fn(Submit<'_>) -> Submit<'_>| code(change(good));
        assert_eq!(code(Submit::new(b"f", b"", b"")), "not_durable");
        assert_eq!(
            submit(|s| Submit {
                workload: b"abcd",
                ..s
            }),
            "DATA_TOO_LARGE"
        );
        assert_eq!(
            submit(|s| Submit {
                function: b"\xff",
                ..s
            }),
            "INVALID_ARGUMENT"
        );
        assert_eq!(
            submit(|s| Submit { function: b"", ..s }),
            "INVALID_ARGUMENT"
        );
        assert_eq!(
            submit(|s| Submit {
                unique: b"\xff",
                ..s
            }),
            "INVALID_ARGUMENT"
        );
        assert_eq!(
            submit(|s| Submit {
                epoch: Some(b"soon"),
                ..s
            }),
            "INVALID_ARGUMENT"
        );
        assert_eq!(
            submit(|s| Submit {
                epoch: Some(b"4294967295"),
                ..s
            }),
            "INVALID_ARGUMENT"
        );
        assert_eq!(
            submit(|s| Submit {
                reducer: Some([b"r", b""]),
                ..s
            }),
            "INVALID_COMMAND"
        );
    }
}

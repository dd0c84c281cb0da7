//! Waiting for a condition, with a deadline and a reason in the error. Apart because every other module waits, and none may invent its own loop.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::Result;

/// How long a condition of an ordinary test may take on a busy machine before it counts as never: long enough for eight parallel compilations beside it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two looks at a condition: short against any human, long against a system call.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks at `condition` until it answers `Some`, at most for `patience`.
///
/// # Errors
/// Names `what` and the time waited when the deadline passes.
pub fn until<T>(
    patience: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if start.elapsed() >= patience {
            bail!(
                "waited {:.1} s in vain for {what}",
                start.elapsed().as_secs_f64()
            );
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Like [`until`] for a condition that is simply true or not, with the usual [`PATIENCE`].
///
/// # Errors
/// Names `what` when the deadline passes.
pub fn until_true(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    until(PATIENCE, what, || condition().then_some(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_it_waited_for() {
        let error = until(Duration::ZERO, "the moon", || None::<()>).unwrap_err();
        assert!(error.to_string().contains("the moon"));
    }

    #[test]
    fn answers_at_the_first_some() {
        let mut looks = 0;
        let value = until(PATIENCE, "three", || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(value.unwrap(), 3);
    }
}

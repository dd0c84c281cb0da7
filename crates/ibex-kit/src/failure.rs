//! Why a daemon could not start or go on, as the operator and the supervisor see it.
//!
//! Owns the exit codes (spec/ops.md 1.2) and the rule that the last line on stderr says what, where and
//! what to do. Apart from the error types of libraries because only here does an error become an exit code.
//! It does not log: the caller prints it once, at the end.

use std::fmt;
use std::process::ExitCode;

/// What kind of end this is; decides the exit code and with it whether systemd tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Wrong flags: exit 64, not restarted.
    Usage,
    /// A listener could not be opened: exit 69, restarted.
    Address,
    /// A bug of ours: exit 70, restarted.
    Bug,
    /// Store or state directory unusable: exit 74, restarted.
    Io,
    /// Something outside is not there yet: exit 75, restarted.
    Temporary,
    /// Wrong configuration: exit 78, not restarted.
    Config,
}

impl Kind {
    /// The exit code, from sysexits.h.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::Address => 69,
            Self::Bug => 70,
            Self::Io => 74,
            Self::Temporary => 75,
            Self::Config => 78,
        }
    }
}

/// The end of a daemon that is not a clean stop.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    message: String,
}

impl Failure {
    /// A failure of the given kind; `message` says what, where and what to do, in one lowercase fragment.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// Wrong flags (exit 64).
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Wrong configuration (exit 78).
    #[must_use]
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Kind::Config, message)
    }

    /// A listener could not be opened (exit 69).
    #[must_use]
    pub fn address(message: impl Into<String>) -> Self {
        Self::new(Kind::Address, message)
    }

    /// The store or the state directory is unusable (exit 74).
    #[must_use]
    pub fn io(message: impl Into<String>) -> Self {
        Self::new(Kind::Io, message)
    }

    /// Something outside was not there in time, such as the database (exit 75).
    #[must_use]
    pub fn temporary(message: impl Into<String>) -> Self {
        Self::new(Kind::Temporary, message)
    }

    /// A bug of ours (exit 70).
    #[must_use]
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Kind::Bug, message)
    }

    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The exit code for the supervisor.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind.code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    /// A `Failure` inside the chain keeps its kind; an I/O error is exit 74 (69 for a busy address); the rest is a bug.
    fn from(error: anyhow::Error) -> Self {
        let mut kind = Kind::Bug;
        for cause in error.chain() {
            if let Some(failure) = cause.downcast_ref::<Self>() {
                kind = failure.kind;
                break;
            }
            if let Some(io) = cause.downcast_ref::<std::io::Error>() {
                let busy = matches!(
                    io.kind(),
                    std::io::ErrorKind::AddrInUse | std::io::ErrorKind::AddrNotAvailable
                );
                kind = if busy { Kind::Address } else { Kind::Io };
                break;
            }
        }
        Self::new(kind, format!("{error:#}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn codes_are_those_of_the_spec() {
        let codes = [
            Kind::Usage,
            Kind::Address,
            Kind::Bug,
            Kind::Io,
            Kind::Temporary,
            Kind::Config,
        ]
        .map(Kind::code);
        assert_eq!(codes, [64, 69, 70, 74, 75, 78]);
    }

    #[test]
    fn anyhow_keeps_the_kind_of_a_failure_inside() {
        let error = Err::<(), _>(Failure::temporary("database away"))
            .context("open store")
            .unwrap_err();
        let failure = Failure::from(error);
        assert_eq!(failure.kind(), Kind::Temporary);
        assert_eq!(failure.to_string(), "open store: database away");
    }

    #[test]
    fn io_errors_map_to_io_or_address() {
        let busy = anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::AddrInUse));
        assert_eq!(Failure::from(busy).kind(), Kind::Address);
        let disk = anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert_eq!(Failure::from(disk).kind(), Kind::Io);
        assert_eq!(Failure::from(anyhow::anyhow!("odd")).kind(), Kind::Bug);
    }
}

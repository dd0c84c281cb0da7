//! States of devices and hosts: what each permits, and which changes are allowed.
//!
//! The administrator's word (`state`) and the monitor's observation (`Observed`) are apart on purpose: a disk that is `alive` may still be
//! unreachable this minute.

use std::fmt;

/// What the administrator says about a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceState {
    /// In use.
    Alive,
    /// Lost for ever; its files are replicated anew from elsewhere.
    Dead,
    /// Out for a while; nothing is read or written, its replicas still count.
    Down,
    /// Reads only.
    Readonly,
    /// Reads and deletes, but nothing new.
    Drain,
}

impl DeviceState {
    const ALL: [Self; 5] = [
        Self::Alive,
        Self::Dead,
        Self::Down,
        Self::Readonly,
        Self::Drain,
    ];

    /// Name on the wire and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Dead => "dead",
            Self::Down => "down",
            Self::Readonly => "readonly",
            Self::Drain => "drain",
        }
    }

    /// The state called `name`.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|state| state.name().as_bytes() == name)
    }

    /// A state read from the database, where an unknown text is the safest known one.
    #[must_use]
    pub fn from_stored(name: &[u8]) -> Self {
        Self::from_name(name).unwrap_or(Self::Down)
    }

    /// Whether readers may be sent there.
    #[must_use]
    pub const fn can_read(self) -> bool {
        matches!(self, Self::Alive | Self::Readonly | Self::Drain)
    }

    /// Whether files may be removed from it.
    #[must_use]
    pub const fn can_delete(self) -> bool {
        matches!(self, Self::Alive | Self::Drain)
    }

    /// Whether new files and replicas may go there.
    #[must_use]
    pub const fn gets_files(self) -> bool {
        matches!(self, Self::Alive)
    }

    /// Whether a replica there counts towards a file's replicas.
    #[must_use]
    pub const fn counts(self) -> bool {
        !matches!(self, Self::Dead)
    }

    /// Whether the monitor asks it how it is.
    #[must_use]
    pub const fn is_monitored(self) -> bool {
        self.can_read()
    }

    /// Whether an administrator may change the state to `to`: everything but calling a dead disk alive at once, since its files have been given up.
    #[must_use]
    pub const fn may_become(self, to: Self) -> bool {
        !matches!(
            (self, to),
            (Self::Dead, Self::Alive | Self::Readonly | Self::Drain)
        )
    }
}

/// What the administrator says about a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostState {
    /// In use.
    Alive,
    /// Lost.
    Dead,
    /// Out for a while.
    Down,
    /// Reads only, whatever its disks allow.
    Readonly,
}

impl HostState {
    const ALL: [Self; 4] = [Self::Alive, Self::Dead, Self::Down, Self::Readonly];

    /// Name on the wire and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Dead => "dead",
            Self::Down => "down",
            Self::Readonly => "readonly",
        }
    }

    /// The state called `name`.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|state| state.name().as_bytes() == name)
    }

    /// A state read from the database, where an unknown text is the safest known one.
    #[must_use]
    pub fn from_stored(name: &[u8]) -> Self {
        Self::from_name(name).unwrap_or(Self::Down)
    }

    /// Whether anything may be read from its disks.
    #[must_use]
    pub const fn can_read(self) -> bool {
        matches!(self, Self::Alive | Self::Readonly)
    }

    /// Whether anything may be changed on its disks.
    #[must_use]
    pub const fn can_write(self) -> bool {
        matches!(self, Self::Alive)
    }
}

/// What the monitor saw last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Observed {
    /// Not asked yet.
    #[default]
    Unknown,
    /// A test file was written and read back.
    Writeable,
    /// It answers, but a test file could not be written.
    Readable,
    /// It does not answer.
    Unreachable,
}

impl Observed {
    /// Name on the wire; empty while unknown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Writeable => "writeable",
            Self::Readable => "readable",
            Self::Unreachable => "unreachable",
        }
    }

    /// Whether a reader would find it answering.
    #[must_use]
    pub const fn can_read(self) -> bool {
        matches!(self, Self::Writeable | Self::Readable)
    }
}

impl fmt::Display for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for HostState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_the_table_of_the_protocol_document() {
        let row = |state: DeviceState| {
            (
                state.can_read(),
                state.can_delete(),
                state.gets_files(),
                state.counts(),
                state.is_monitored(),
            )
        };
        assert_eq!(row(DeviceState::Alive), (true, true, true, true, true));
        assert_eq!(row(DeviceState::Readonly), (true, false, false, true, true));
        assert_eq!(row(DeviceState::Drain), (true, true, false, true, true));
        assert_eq!(row(DeviceState::Down), (false, false, false, true, false));
        assert_eq!(row(DeviceState::Dead), (false, false, false, false, false));
    }

    #[test]
    fn the_dead_come_back_through_down_only() {
        assert!(!DeviceState::Dead.may_become(DeviceState::Alive));
        assert!(DeviceState::Dead.may_become(DeviceState::Down));
        assert!(DeviceState::Down.may_become(DeviceState::Alive));
    }

    #[test]
    fn unknown_texts_are_down() {
        assert_eq!(DeviceState::from_stored(b"sparkling"), DeviceState::Down);
        assert_eq!(HostState::from_stored(b""), HostState::Down);
        assert_eq!(DeviceState::from_name(b"ALIVE"), None);
    }
}

//! The built-in plugins by name.
//!
//! Owns which exist. Their behaviour lives where it takes effect; nothing is loaded at run time.

/// A built-in plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Plugin {
    AccessControl,
    AutoRemoveLeadingDir,
    EchoService,
    Highpri,
    Include,
    LazyCdn,
    MaxContentLength,
    NotModified,
    Queues,
    Redirect,
    Stats,
    Vhosts,
    Vpaths,
    XffExtras,
}

impl Plugin {
    const ALL: [(Self, &'static str); 14] = [
        (Self::AccessControl, "AccessControl"),
        (Self::AutoRemoveLeadingDir, "AutoRemoveLeadingDir"),
        (Self::EchoService, "EchoService"),
        (Self::Highpri, "Highpri"),
        (Self::Include, "Include"),
        (Self::LazyCdn, "LazyCDN"),
        (Self::MaxContentLength, "MaxContentLength"),
        (Self::NotModified, "NotModified"),
        (Self::Queues, "Queues"),
        (Self::Redirect, "Redirect"),
        (Self::Stats, "Stats"),
        (Self::Vhosts, "Vhosts"),
        (Self::Vpaths, "Vpaths"),
        (Self::XffExtras, "XFFExtras"),
    ];

    /// The plugin of that name, any case.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, n)| n.eq_ignore_ascii_case(name))
            .map(|(p, _)| *p)
    }

    pub(crate) fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(p, _)| *p == self)
            .map_or("", |(_, n)| n)
    }

    /// Settings of the plugin (`SET service.plugin.key`).
    pub(crate) fn settings(self) -> &'static [&'static str] {
        match self {
            Self::AccessControl => &["use_observed_ip"],
            Self::Highpri => &["uri_pattern", "host_pattern"],
            Self::NotModified => &["host_pattern"],
            Self::AutoRemoveLeadingDir
            | Self::EchoService
            | Self::Include
            | Self::LazyCdn
            | Self::MaxContentLength
            | Self::Queues
            | Self::Redirect
            | Self::Stats
            | Self::Vhosts
            | Self::Vpaths
            | Self::XffExtras => &[],
        }
    }
}

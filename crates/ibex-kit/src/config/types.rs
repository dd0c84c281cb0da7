//! Configuration values that carry their unit: durations, sizes, addresses, secrets.
//!
//! Owns the text form of each in TOML, environment and flags, both directions. Bare numbers are refused for
//! durations and sizes because their unit would be a guess. It resolves no names and opens nothing.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

/// A span of time, written `250ms`, `5s`, `10m`, `2h`, `7d`, or several together: `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration(std::time::Duration);

const DURATION_UNITS: [(&str, u64); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

impl Duration {
    /// No time at all.
    pub const ZERO: Self = Self(std::time::Duration::ZERO);

    /// Whole seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(std::time::Duration::from_secs(secs))
    }

    /// Whole milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(std::time::Duration::from_millis(millis))
    }

    /// The same as the standard library's type.
    #[must_use]
    pub const fn std(self) -> std::time::Duration {
        self.0
    }

    /// Whether it is zero, which most options read as "off".
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl From<std::time::Duration> for Duration {
    fn from(span: std::time::Duration) -> Self {
        Self(span)
    }
}

impl From<Duration> for std::time::Duration {
    fn from(span: Duration) -> Self {
        span.0
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a duration (write 250ms, 5s, 10m, 2h or 7d)");
        if text == "0" {
            return Ok(Self::ZERO);
        }
        let mut rest = text.trim();
        let mut nanos: u64 = 0;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit())
                .ok_or_else(|| format!("{text:?} has no unit (write {text}s, {text}ms, …)"))?;
            let number: u64 = rest
                .get(..digits)
                .and_then(|d| d.parse().ok())
                .ok_or_else(wrong)?;
            let after = rest.get(digits..).unwrap_or_default();
            let end = after
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(after.len());
            let unit = after.get(..end).unwrap_or_default().trim();
            let scale = DURATION_UNITS
                .iter()
                .find(|(name, _)| *name == unit)
                .map(|(_, scale)| *scale)
                .ok_or_else(wrong)?;
            nanos = number
                .checked_mul(scale)
                .and_then(|part| nanos.checked_add(part))
                .ok_or_else(|| format!("{text:?} is too long (at most 584 years)"))?;
            rest = after.get(end..).unwrap_or_default();
        }
        Ok(Self(std::time::Duration::from_nanos(nanos)))
    }
}

impl fmt::Display for Duration {
    /// The biggest unit that shows the value exactly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        let fit = DURATION_UNITS
            .iter()
            .rev()
            .find(|(_, scale)| nanos.is_multiple_of(u128::from(*scale)));
        let (unit, scale) = fit.copied().unwrap_or(("ns", 1));
        write!(f, "{}{unit}", nanos / u128::from(scale))
    }
}

/// A number of bytes, written `512`, `64K`, `64M`, `1G`, `2T` or with `iB`/`B` behind; all are powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(u64);

const SIZE_UNITS: [(&str, u64); 5] = [
    ("", 1),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
];

impl ByteSize {
    /// Exactly so many bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Kibibytes.
    #[must_use]
    pub const fn from_kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// Mebibytes.
    #[must_use]
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes for memory sizes, saturating where the address space is smaller.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a size (write 512, 64K, 64M, 1G or 1GiB)");
        let trimmed = text.trim();
        let digits = trimmed
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(trimmed.len());
        let number: u64 = trimmed
            .get(..digits)
            .and_then(|d| d.parse().ok())
            .ok_or_else(wrong)?;
        let unit = trimmed.get(digits..).unwrap_or_default().trim();
        let short = unit
            .strip_suffix("iB")
            .or_else(|| unit.strip_suffix('B'))
            .unwrap_or(unit)
            .to_ascii_uppercase();
        let scale = SIZE_UNITS
            .iter()
            .find(|(name, _)| *name == short)
            .map(|(_, scale)| *scale)
            .ok_or_else(wrong)?;
        number
            .checked_mul(scale)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is too big"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fit = SIZE_UNITS
            .iter()
            .rev()
            .find(|(_, scale)| self.0 != 0 && self.0.is_multiple_of(*scale));
        let (unit, scale) = fit.copied().unwrap_or(("", 1));
        write!(f, "{}{unit}", self.0 / scale)
    }
}

/// Where to listen: `host:port`, `:port`, `[v6]:port`, `unix:/path`, or `fd:NAME` for a socket passed by systemd.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListenAddr {
    /// TCP. No host means every IPv4 and IPv6 address of the machine; port 0 means any free port.
    Tcp {
        /// Host name or address; an IPv6 address without its brackets.
        host: Option<String>,
        /// Port, 0 = any free one.
        port: u16,
    },
    /// A unix stream socket at this path.
    Unix(PathBuf),
    /// The sockets systemd passed under this `FileDescriptorName`.
    Fd(String),
}

impl ListenAddr {
    /// Whether only this machine can reach it: loopback address, `localhost`, or a unix socket. A passed socket is
    /// looked at when it is taken, and counts as not loopback here.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp {
                host: Some(host), ..
            } => {
                host == "localhost"
                    || host
                        .parse::<std::net::IpAddr>()
                        .is_ok_and(|ip| ip.is_loopback())
            }
            Self::Tcp { host: None, .. } | Self::Fd(_) => false,
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for ListenAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err("unix: needs a path".to_owned())
            } else {
                Ok(Self::Unix(PathBuf::from(path)))
            };
        }
        if let Some(name) = text.strip_prefix("fd:") {
            return if name.is_empty() {
                Err("fd: needs the name of a passed socket".to_owned())
            } else {
                Ok(Self::Fd(name.to_owned()))
            };
        }
        let wrong = || {
            format!(
                "{text:?} is not a listen address (write host:port, :port, [v6]:port, unix:/path or fd:NAME)"
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port
            .parse()
            .map_err(|_| format!("{text:?} has no port from 0 to 65535 behind its last colon"))?;
        let host = match host.strip_prefix('[') {
            Some(inner) => {
                let inner = inner.strip_suffix(']').ok_or_else(wrong)?;
                inner.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
                Some(inner.to_owned())
            }
            None if host.contains(':') => {
                return Err(format!(
                    "{text:?}: an IPv6 address needs brackets: [::1]:80"
                ));
            }
            None if host.is_empty() || host == "*" => None,
            None => Some(host.to_owned()),
        };
        Ok(Self::Tcp { host, port })
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp {
                host: Some(host),
                port,
            } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp {
                host: Some(host),
                port,
            } => write!(f, "{host}:{port}"),
            Self::Tcp { host: None, port } => write!(f, ":{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Fd(name) => write!(f, "fd:{name}"),
        }
    }
}

/// An address that may be switched off with `none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionalAddr {
    /// Not listening.
    Off,
    /// Listening here.
    At(ListenAddr),
}

impl FromStr for OptionalAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            Ok(Self::Off)
        } else {
            text.parse().map(Self::At)
        }
    }
}

impl fmt::Display for OptionalAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("none"),
            Self::At(addr) => addr.fmt(f),
        }
    }
}

/// A number, or `auto` to let the daemon choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AutoOr {
    /// The daemon chooses.
    #[default]
    Auto,
    /// Exactly this.
    Exactly(u64),
}

impl FromStr for AutoOr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse()
            .map(Self::Exactly)
            .map_err(|_| format!("{text:?} is neither \"auto\" nor a number"))
    }
}

impl fmt::Display for AutoOr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Exactly(number) => number.fmt(f),
        }
    }
}

/// A password, token or key. `Debug` and `Display` print `***`; [`Secret::reveal`] is the only way to its text.
/// A configuration field of this type named `x` may also be given as `x_file`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Never log what this returns.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether nothing was set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    /// The loader carries configurations through a tree, so this writes the true text; everything that prints a tree masks it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// Text forms: serde through `FromStr` and `Display`. Numbers are refused, with a hint at the unit.
macro_rules! text_serde {
    ($($ty:ty => $hint:literal),* $(,)?) => {$(
        impl Serialize for $ty {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $ty {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $ty;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($hint)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$ty, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text).map_err(D::Error::custom)
            }
        }
    )*};
}
text_serde! {
    Duration => "a duration with its unit in quotes, such as \"5s\"",
    ByteSize => "a size in quotes, such as \"64M\"",
    ListenAddr => "an address in quotes, such as \"127.0.0.1:80\"",
    OptionalAddr => "an address in quotes, or \"none\"",
    AutoOr => "\"auto\" or a number in quotes",
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round<T: FromStr<Err = String> + fmt::Display>(text: &str) -> String {
        text.parse::<T>()
            .map_or_else(|error| format!("error: {error}"), |value| value.to_string())
    }

    #[test]
    fn durations() {
        for (text, shown) in [
            ("250ms", "250ms"),
            ("5s", "5s"),
            ("120s", "2m"),
            ("1h30m", "90m"),
            ("0", "0s"),
            ("2h", "2h"),
            ("36h", "36h"),
            ("48h", "2d"),
        ] {
            assert_eq!(round::<Duration>(text), shown);
        }
        assert!(
            round::<Duration>("5").contains("has no unit"),
            "{}",
            round::<Duration>("5")
        );
        for text in [
            "",
            "s",
            "5x",
            "-5s",
            "5 s x",
            "99999999999999999999s",
            "9999999999d",
        ] {
            assert!(round::<Duration>(text).starts_with("error"), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, shown) in [
            ("0", "0"),
            ("512", "512"),
            ("1024", "1K"),
            ("64M", "64M"),
            ("1GiB", "1G"),
            ("64MB", "64M"),
            ("3k", "3K"),
            ("16777215T", "16777215T"),
        ] {
            assert_eq!(round::<ByteSize>(text), shown);
        }
        for text in ["", "M", "1.5G", "-1", "1Q", "16777216T"] {
            assert!(round::<ByteSize>(text).starts_with("error"), "{text}");
        }
    }

    #[test]
    fn addresses() {
        for text in [
            "127.0.0.1:80",
            ":80",
            "[::1]:80",
            "host.example:0",
            "unix:/run/x.sock",
            "fd:http",
        ] {
            assert_eq!(round::<ListenAddr>(text), text);
        }
        assert_eq!(round::<ListenAddr>("*:80"), ":80");
        for text in [
            "", "80", "::1:80", "[::1:80", "[x]:80", "h:65536", "unix:", "fd:", "h:",
        ] {
            assert!(round::<ListenAddr>(text).starts_with("error"), "{text}");
        }
        assert!("127.0.0.1:1".parse::<ListenAddr>().unwrap().is_local());
        assert!("[::1]:1".parse::<ListenAddr>().unwrap().is_local());
        assert!(!":1".parse::<ListenAddr>().unwrap().is_local());
    }

    #[test]
    fn secrets_do_not_show() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {secret}"), "*** ***");
        assert_eq!(secret.reveal(), "hunter2");
    }
}

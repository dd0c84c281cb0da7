//! Replication policies: how many replicas a file needs and where they may be.
//!
//! This file owns the language (`MultipleHosts(3)`), `decide` the judgement. A class without a policy has `MultipleHosts()`, whose count is the class's own.

mod decide;
mod spread;

use ibex_mogilefs_proto::DevId;
use std::fmt;

pub use decide::{Situation, Verdict};

/// Deepest nesting of `Union`; a policy is written by hand and has two or three levels.
const DEPTH_MAX: usize = 16;

/// Longest policy text; the database column holds 255 bytes.
const TEXT_BYTES_MAX: usize = 255;

/// How the replicas of a file must be spread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    /// On so many different hosts; `None` takes the class's count.
    MultipleHosts(Option<u32>),
    /// On so many devices, whatever their hosts.
    MultipleDevices(Option<u32>),
    /// On as many networks as there are, then on different hosts.
    MultipleNetworks(Option<u32>),
    /// On so many hosts of each named zone.
    HostsPerNetwork(Vec<(String, u32)>),
    /// One replica on each of these devices.
    OnDevices(Vec<DevId>),
    /// One replica on each of these hosts.
    OnHosts(Vec<String>),
    /// All of these at once.
    Union(Vec<Self>),
}

/// Why a text is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not `Name(arguments)`.
    #[error("policy is not of the form Name(arguments)")]
    Syntax,
    /// No policy has this name.
    #[error("unknown policy {0}")]
    Unknown(String),
    /// The arguments do not suit the policy.
    #[error("bad arguments for {0}")]
    Arguments(&'static str),
    /// Too deeply nested or too long.
    #[error("policy too long or nested too deeply")]
    TooLarge,
}

impl Default for Policy {
    fn default() -> Self {
        Self::MultipleHosts(None)
    }
}

impl Policy {
    /// Reads a policy. Blanks are allowed around every part.
    ///
    /// # Errors
    /// [`PolicyError`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(PolicyError::TooLarge);
        }
        Self::parse_nested(text, 0)
    }

    fn parse_nested(text: &str, depth: usize) -> Result<Self, PolicyError> {
        if depth > DEPTH_MAX {
            return Err(PolicyError::TooLarge);
        }
        let (name, rest) = text.trim().split_once('(').ok_or(PolicyError::Syntax)?;
        let args = rest
            .trim_end()
            .strip_suffix(')')
            .ok_or(PolicyError::Syntax)?;
        let parts = split_top_level(args)?;
        match name.trim() {
            "MultipleHosts" => Ok(Self::MultipleHosts(optional_count(
                &parts,
                "MultipleHosts",
            )?)),
            "MultipleDevices" => Ok(Self::MultipleDevices(optional_count(
                &parts,
                "MultipleDevices",
            )?)),
            "MultipleNetworks" => Ok(Self::MultipleNetworks(optional_count(
                &parts,
                "MultipleNetworks",
            )?)),
            "HostsPerNetwork" => Ok(Self::HostsPerNetwork(zone_counts(&parts)?)),
            "OnDevices" => Ok(Self::OnDevices(devices(&parts)?)),
            "OnHosts" if !parts.is_empty() => Ok(Self::OnHosts(
                parts.iter().map(|&part| part.to_owned()).collect(),
            )),
            "OnHosts" => Err(PolicyError::Arguments("OnHosts")),
            "Union" if !parts.is_empty() => {
                let nested: Result<_, _> = parts
                    .iter()
                    .map(|part| Self::parse_nested(part, depth + 1))
                    .collect();
                Ok(Self::Union(nested?))
            }
            "Union" => Err(PolicyError::Arguments("Union")),
            other => Err(PolicyError::Unknown(other.to_owned())),
        }
    }
}

/// The arguments between commas that are not inside parentheses; none for blank text.
fn split_top_level(args: &str) -> Result<Vec<&str>, PolicyError> {
    if args.trim().is_empty() {
        return Ok(Vec::new());
    }
    let mut parts = Vec::new();
    let mut depth = 0_usize;
    let mut start = 0;
    for (at, byte) in args.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.checked_sub(1).ok_or(PolicyError::Syntax)?,
            b',' if depth == 0 => {
                parts.push(args[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(args[start..].trim());
    if depth > 0 || parts.iter().any(|part| part.is_empty()) {
        return Err(PolicyError::Syntax);
    }
    Ok(parts)
}

fn count(text: &str) -> Option<u32> {
    text.parse().ok().filter(|count| (1..=255).contains(count))
}

fn optional_count(parts: &[&str], policy: &'static str) -> Result<Option<u32>, PolicyError> {
    match parts {
        [] => Ok(None),
        [one] => count(one).map(Some).ok_or(PolicyError::Arguments(policy)),
        _ => Err(PolicyError::Arguments(policy)),
    }
}

fn zone_counts(parts: &[&str]) -> Result<Vec<(String, u32)>, PolicyError> {
    let bad = PolicyError::Arguments("HostsPerNetwork");
    if parts.is_empty() {
        return Err(bad);
    }
    parts
        .iter()
        .map(|part| {
            let (zone, hosts) = part.split_once('=').ok_or_else(|| bad.clone())?;
            Ok((
                zone.trim().to_owned(),
                count(hosts.trim()).ok_or_else(|| bad.clone())?,
            ))
        })
        .collect()
}

fn devices(parts: &[&str]) -> Result<Vec<DevId>, PolicyError> {
    let bad = PolicyError::Arguments("OnDevices");
    if parts.is_empty() {
        return Err(bad);
    }
    parts
        .iter()
        .map(|part| DevId::parse(part.as_bytes()).ok_or_else(|| bad.clone()))
        .collect()
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with_count = |f: &mut fmt::Formatter<'_>, name: &str, count: &Option<u32>| match count {
            Some(count) => write!(f, "{name}({count})"),
            None => write!(f, "{name}()"),
        };
        match self {
            Self::MultipleHosts(count) => with_count(f, "MultipleHosts", count),
            Self::MultipleDevices(count) => with_count(f, "MultipleDevices", count),
            Self::MultipleNetworks(count) => with_count(f, "MultipleNetworks", count),
            Self::HostsPerNetwork(zones) => write!(
                f,
                "HostsPerNetwork({})",
                join(zones.iter().map(|(zone, count)| format!("{zone}={count}")))
            ),
            Self::OnDevices(devices) => write!(
                f,
                "OnDevices({})",
                join(devices.iter().map(ToString::to_string))
            ),
            Self::OnHosts(hosts) => write!(f, "OnHosts({})", hosts.join(",")),
            Self::Union(parts) => {
                write!(f, "Union({})", join(parts.iter().map(ToString::to_string)))
            }
        }
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_it_prints() {
        for text in [
            "MultipleHosts()",
            "MultipleHosts(3)",
            "MultipleDevices(2)",
            "MultipleNetworks()",
            "HostsPerNetwork(near=2,far=1)",
            "OnDevices(7,9)",
            "OnHosts(a,b)",
            "Union(MultipleHosts(2),OnDevices(7))",
        ] {
            assert_eq!(
                Policy::parse(text)
                    .map(|policy| policy.to_string())
                    .as_deref(),
                Ok(text)
            );
        }
        assert_eq!(
            Policy::parse(" MultipleHosts ( 3 ) "),
            Ok(Policy::MultipleHosts(Some(3)))
        );
    }

    #[test]
    fn refuses_what_is_no_policy() {
        for text in [
            "",
            "MultipleHosts",
            "MultipleHosts(0)",
            "MultipleHosts(x)",
            "MultipleHosts(1,2)",
            "Nonsense(1)",
            "Union()",
            "Union(MultipleHosts(1)",
            "MultipleHosts())",
            "OnDevices(0)",
            "HostsPerNetwork(near)",
            "OnDevices(1,,2)",
        ] {
            assert!(Policy::parse(text).is_err(), "{text}");
        }
        let deep = format!(
            "{}MultipleHosts(){}",
            "Union(".repeat(10_000),
            ")".repeat(10_000)
        );
        assert_eq!(Policy::parse(&deep), Err(PolicyError::TooLarge));
    }

    proptest! {
        #[test]
        fn never_panics(text: String) {
            let _policy = Policy::parse(&text);
        }
    }
}

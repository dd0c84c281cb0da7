//! In which ways clients may come in by an address: with or without TLS, in which protocol.
//!
//! Owns the notation of the original's `-l` items and of the key `listen_as`, and the names of listeners. Opens nothing.

use crate::config::Config;
use ibex_kit::ListenAddr;
use ibex_kit::serde::de::{Deserialize, Deserializer, Error as _};
use ibex_kit::serde::ser::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Longest tag of an item, the original's.
const TAG_BYTES_MAX: usize = 8;

/// What a listener asks of its clients before the first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mode {
    /// TLS and client certificates as configured for all.
    #[default]
    Usual,
    /// No TLS.
    Plain,
    /// TLS, and no client certificate whatever is configured for the others.
    Basic,
    /// TLS with a client certificate in any case.
    Mutual,
}

/// What is spoken behind a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Speaks {
    /// As configured for all.
    #[default]
    Usual,
    /// Text.
    Ascii,
    /// Packets.
    Binary,
    /// Either, by the first byte.
    Negotiating,
}

/// Mode and protocol of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Way {
    pub(crate) mode: Mode,
    pub(crate) speaks: Speaks,
}

const fn way(mode: Mode, speaks: Speaks) -> Way {
    Way { mode, speaks }
}

/// Every way, with the name its listeners are published under.
pub(crate) const WAYS: [(Way, &str); 16] = [
    (way(Mode::Usual, Speaks::Usual), "memcached"),
    (way(Mode::Plain, Speaks::Usual), "memcached_plain"),
    (way(Mode::Mutual, Speaks::Usual), "memcached_mtls"),
    (way(Mode::Basic, Speaks::Usual), "memcached_btls"),
    (way(Mode::Usual, Speaks::Ascii), "memcached_ascii"),
    (way(Mode::Usual, Speaks::Binary), "memcached_binary"),
    (
        way(Mode::Usual, Speaks::Negotiating),
        "memcached_negotiating",
    ),
    (way(Mode::Plain, Speaks::Ascii), "memcached_plain_ascii"),
    (way(Mode::Plain, Speaks::Binary), "memcached_plain_binary"),
    (
        way(Mode::Plain, Speaks::Negotiating),
        "memcached_plain_negotiating",
    ),
    (way(Mode::Mutual, Speaks::Ascii), "memcached_mtls_ascii"),
    (way(Mode::Mutual, Speaks::Binary), "memcached_mtls_binary"),
    (
        way(Mode::Mutual, Speaks::Negotiating),
        "memcached_mtls_negotiating",
    ),
    (way(Mode::Basic, Speaks::Ascii), "memcached_btls_ascii"),
    (way(Mode::Basic, Speaks::Binary), "memcached_btls_binary"),
    (
        way(Mode::Basic, Speaks::Negotiating),
        "memcached_btls_negotiating",
    ),
];

const MODES: [(&str, Mode); 3] = [
    ("notls:", Mode::Plain),
    ("btls:", Mode::Basic),
    ("mtls:", Mode::Mutual),
];

const PROTOCOLS: [(&str, Speaks); 3] = [
    ("ascii", Speaks::Ascii),
    ("binary", Speaks::Binary),
    ("negotiating", Speaks::Negotiating),
];

impl Way {
    /// All addresses that are configured for this way.
    pub(crate) fn addresses(self, config: &Config) -> Vec<ListenAddr> {
        let own = match self {
            Self {
                speaks: Speaks::Ascii | Speaks::Binary | Speaks::Negotiating,
                ..
            }
            | Self {
                mode: Mode::Basic, ..
            } => &[][..],
            Self {
                mode: Mode::Usual, ..
            } => &config.listen,
            Self {
                mode: Mode::Plain, ..
            } => &config.listen_plain,
            Self {
                mode: Mode::Mutual, ..
            } => &config.listen_mtls,
        };
        let others = config.listen_as.iter().filter(|door| door.way == self);
        own.iter()
            .chain(others.map(|door| &door.addr))
            .cloned()
            .collect()
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((prefix, _)) = MODES.iter().find(|(_, mode)| *mode == self.mode) {
            f.write_str(prefix)?;
        }
        match PROTOCOLS.iter().find(|(_, speaks)| *speaks == self.speaks) {
            Some((name, _)) => write!(f, "proto[{name}]:"),
            None => Ok(()),
        }
    }
}

/// An item of `-l`: its way, and what is left of it, host and maybe port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Item<'a> {
    pub(crate) way: Way,
    pub(crate) host: &'a str,
}

/// What stands in `[…]:` at the front of `text`, or in the older `_…_:` of tags; and what is behind it.
fn bracketed(text: &str) -> Option<(&str, &str)> {
    let (inner, rest) = match text.strip_prefix('[') {
        Some(text) => text.split_once(']')?,
        None => text.strip_prefix('_')?.split_once('_')?,
    };
    Some((inner, rest.strip_prefix(':')?))
}

impl<'a> Item<'a> {
    /// Reads `[notls:|btls:|mtls:][proto[ascii|binary|negotiating]:][tag[name]:]host[:port]`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &'a str) -> Result<Self, String> {
        let mut way = Way::default();
        let mut rest = text;
        for (prefix, mode) in MODES {
            if let Some(behind) = text.strip_prefix(prefix) {
                (way.mode, rest) = (mode, behind);
            }
        }
        if let Some(behind) = rest.strip_prefix("proto[") {
            let (name, behind) = behind
                .split_once("]:")
                .ok_or_else(|| format!("{text:?}: proto[ is not followed by a word and ]:"))?;
            let known = PROTOCOLS.iter().find(|(known, _)| *known == name);
            let (_, speaks) = known.ok_or_else(|| {
                format!("{text:?}: {name:?} is no protocol (write ascii, binary or negotiating)")
            })?;
            (way.speaks, rest) = (*speaks, behind);
        }
        // A tag names listeners for the proxy's routes, which are not here: it is checked and has no effect.
        if let Some(behind) = rest
            .strip_prefix("tag")
            .filter(|behind| behind.starts_with(['[', '_']))
        {
            let (tag, behind) = bracketed(behind)
                .ok_or_else(|| format!("{text:?}: write tag[name]: before the host"))?;
            if tag.is_empty() || tag.len() > TAG_BYTES_MAX {
                return Err(format!(
                    "{text:?}: a tag has from 1 to {TAG_BYTES_MAX} bytes"
                ));
            }
            rest = behind;
        }
        if rest.is_empty() {
            return Err(format!("{text:?}: names no host"));
        }
        Ok(Self { way, host: rest })
    }
}

/// An address and the way clients come in by it, written as an item of the original's `-l`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorAddr {
    pub(crate) way: Way,
    pub(crate) addr: ListenAddr,
}

impl FromStr for DoorAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let item = Item::parse(text)?;
        Ok(Self {
            way: item.way,
            addr: item.host.parse()?,
        })
    }
}

impl fmt::Display for DoorAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.way, self.addr)
    }
}

impl Serialize for DoorAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DoorAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_of_the_originals_list() {
        for (text, mode, speaks, host) in [
            ("127.0.0.1", Mode::Usual, Speaks::Usual, "127.0.0.1"),
            ("[::1]:1", Mode::Usual, Speaks::Usual, "[::1]:1"),
            ("notls:::1", Mode::Plain, Speaks::Usual, "::1"),
            ("btls:h:1", Mode::Basic, Speaks::Usual, "h:1"),
            (
                "mtls:proto[binary]:tag[a]:h",
                Mode::Mutual,
                Speaks::Binary,
                "h",
            ),
            (
                "proto[ascii]:tag_tools_:h:1",
                Mode::Usual,
                Speaks::Ascii,
                "h:1",
            ),
            (
                "proto[negotiating]:h",
                Mode::Usual,
                Speaks::Negotiating,
                "h",
            ),
            ("tagged.host:1", Mode::Usual, Speaks::Usual, "tagged.host:1"),
        ] {
            let expected = Item {
                way: Way { mode, speaks },
                host,
            };
            assert_eq!(Item::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn wrong_items_are_refused() {
        for text in [
            "proto[http]:h",
            "proto[proxy]:h",
            "proto[ascii",
            "proto[ascii]h",
            "tag[]:h",
            "tag[ninebytes]:h",
            "tag[x:h",
            "notls:",
        ] {
            assert!(Item::parse(text).is_err(), "{text}");
        }
        assert!("proto[ascii]:h".parse::<DoorAddr>().is_err(), "no port");
    }

    #[test]
    fn every_way_is_written_as_it_is_read() {
        for (way, name) in WAYS {
            let door: DoorAddr = format!("{way}[::1]:80").parse().unwrap();
            assert_eq!(door.way, way, "{name}");
            assert_eq!(door.to_string(), format!("{way}[::1]:80"));
        }
        let names: std::collections::BTreeSet<_> = WAYS.iter().map(|(_, name)| name).collect();
        assert_eq!(names.len(), WAYS.len());
    }
}

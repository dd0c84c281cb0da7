//! Which service a Host belongs to.
//!
//! Owns the pattern rules and the match order of the Vhosts and Redirect plugins (spec part A10). Apart because two
//! plugins and `EXPLAIN` share it. It knows names, not services.

use std::collections::BTreeMap;

/// Host patterns to values, in the match order of the original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostMap<T>(BTreeMap<String, T>);

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// True when the text may be a host pattern.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.*;:".contains(&b))
}

/// Host as it is looked up: lower case, without port and without one trailing dot.
#[must_use]
pub fn normal_host(host: &[u8]) -> String {
    let text = String::from_utf8_lossy(host).to_ascii_lowercase();
    let without_port = match text.strip_prefix('[') {
        Some(_) => text.split_inclusive(']').next().unwrap_or(&text),
        None => text.split(':').next().unwrap_or(&text),
    };
    without_port
        .strip_suffix('.')
        .unwrap_or(without_port)
        .to_owned()
}

impl<T> HostMap<T> {
    /// Defines or replaces a pattern; patterns are case-insensitive.
    pub fn insert(&mut self, pattern: &str, value: T) {
        self.0.insert(pattern.to_ascii_lowercase(), value);
    }

    /// Forgets a pattern; false if it was not defined.
    pub fn remove(&mut self, pattern: &str) -> bool {
        self.0.remove(&pattern.to_ascii_lowercase()).is_some()
    }

    /// True when nothing is defined.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All definitions, sorted by pattern.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(p, v)| (p.as_str(), v))
    }

    /// Value of exactly this pattern.
    #[must_use]
    pub fn exact(&self, pattern: &str) -> Option<&T> {
        self.0.get(&pattern.to_ascii_lowercase())
    }

    /// Looks a Host up: exact, `*.host`, `*.` each parent, `*`. Without a host only `*` matches.
    #[must_use]
    pub fn find(&self, host: Option<&[u8]>) -> Option<&T> {
        let Some(host) = host.filter(|h| !h.is_empty()) else {
            return self.0.get("*");
        };
        let host = normal_host(host);
        if let Some(found) = self.0.get(&host) {
            return Some(found);
        }
        let mut suffix = host.as_str();
        loop {
            if let Some(found) = self.0.get(&format!("*.{suffix}")) {
                return Some(found);
            }
            match suffix.split_once('.') {
                Some((_, parent)) => suffix = parent,
                None => return self.0.get("*"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn match_order() {
        let mut map = HostMap::default();
        for pattern in ["www.example.com", "*.example.com", "*.com", "*"] {
            map.insert(pattern, pattern);
        }
        let find = |host: &str| *map.find(Some(host.as_bytes())).unwrap();
        assert_eq!(find("WWW.Example.com:8080"), "www.example.com");
        assert_eq!(find("www.example.com."), "www.example.com");
        assert_eq!(find("a.b.example.com"), "*.example.com");
        assert_eq!(find("example.com"), "*.example.com");
        assert_eq!(find("other.com"), "*.com");
        assert_eq!(find("org"), "*");
        assert_eq!(map.find(None), Some(&"*"));
        assert!(map.remove("*") && map.find(Some(b"org")).is_none() && map.find(None).is_none());
        assert!(is_pattern("*.a-b_c.d;using:x") && !is_pattern("") && !is_pattern("a/b"));
        assert_eq!(normal_host(b"[::1]:80"), "[::1]");
    }
}

//! Content types by file name extension.
//!
//! Owns the original's table and today's additions, and the changes the `MIME` command makes. Apart because a running
//! balancer changes it. It does not look into files.

use std::collections::BTreeMap;

/// The type of a file without a known extension.
pub const DEFAULT_TYPE: &str = "text/plain";

/// The original's table (spec part A9), then today's types.
const TABLE: &[(&str, &str)] = &[
    ("css", "text/css"),
    ("doc", "application/msword"),
    ("gif", "image/gif"),
    ("htm", "text/html"),
    ("html", "text/html"),
    ("jpg", "image/jpeg"),
    ("js", "application/x-javascript"),
    ("mp3", "audio/mpeg"),
    ("mpg", "video/mpeg"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    ("torrent", "application/x-bittorrent"),
    ("txt", "text/plain"),
    ("zip", "application/zip"),
    ("atom", "application/atom+xml"),
    ("avif", "image/avif"),
    ("csv", "text/csv"),
    ("gz", "application/gzip"),
    ("ico", "image/x-icon"),
    ("jpeg", "image/jpeg"),
    ("json", "application/json"),
    ("map", "application/json"),
    ("md", "text/markdown"),
    ("mjs", "text/javascript"),
    ("mp4", "video/mp4"),
    ("ogg", "audio/ogg"),
    ("otf", "font/otf"),
    ("rss", "application/rss+xml"),
    ("svg", "image/svg+xml"),
    ("ttf", "font/ttf"),
    ("wasm", "application/wasm"),
    ("wav", "audio/wav"),
    ("webm", "video/webm"),
    ("webmanifest", "application/manifest+json"),
    ("webp", "image/webp"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("xhtml", "application/xhtml+xml"),
    ("xml", "application/xml"),
];

/// Extension to type, changeable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MimeTypes(BTreeMap<String, String>);

impl Default for MimeTypes {
    fn default() -> Self {
        Self(
            TABLE
                .iter()
                .map(|(e, t)| ((*e).to_owned(), (*t).to_owned()))
                .collect(),
        )
    }
}

impl MimeTypes {
    /// Type of a file by the extension after its last dot, any case.
    // DIFFERS(perlbal): the original compares extensions case-sensitively.
    #[must_use]
    pub fn of(&self, path: &[u8]) -> &str {
        self.known(path).unwrap_or(DEFAULT_TYPE)
    }

    /// Like [`Self::of`], `None` when the extension is not in the table.
    #[must_use]
    pub fn known(&self, path: &[u8]) -> Option<&str> {
        let name = path.rsplit(|b| *b == b'/').next()?;
        let dot = name.iter().rposition(|b| *b == b'.')?;
        let extension = std::str::from_utf8(&name[dot + 1..]).ok()?;
        self.0
            .get(extension)
            .or_else(|| self.0.get(&extension.to_ascii_lowercase()))
            .map(String::as_str)
    }

    /// Defines the type of an extension.
    pub fn set(&mut self, extension: &str, mime: &str) {
        self.0.insert(extension.to_owned(), mime.to_owned());
    }

    /// Forgets an extension; false if it was not defined.
    pub fn remove(&mut self, extension: &str) -> bool {
        self.0.remove(extension).is_some()
    }

    /// All definitions, sorted by extension.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(e, t)| (e.as_str(), t.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_last_extension() {
        let mut types = MimeTypes::default();
        assert_eq!(types.of(b"/a/b.tar.gz"), "application/gzip");
        assert_eq!(types.of(b"/a/B.JPG"), "image/jpeg");
        assert_eq!(types.of(b"/a.png/readme"), "text/plain");
        assert_eq!(types.of(b"/x.unknown"), "text/plain");
        types.set("unknown", "x/y");
        assert_eq!(types.of(b"/x.unknown"), "x/y");
        assert!(types.remove("unknown") && !types.remove("unknown"));
    }
}

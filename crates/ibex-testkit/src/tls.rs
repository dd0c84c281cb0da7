//! Certificates for tests: files of this crate, see `tls/README.md`.

use std::path::{Path, PathBuf};

/// The path of one of the files: `ca.pem`, and `first`, `second` (of servers) and `client` with `.pem` and `.key`.
#[must_use]
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tls").join(name)
}

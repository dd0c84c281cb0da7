//! Logins: the users file, and comparing passwords without telling by time how much of them was right.

use ibex_kit::Failure;
use std::sync::{PoisonError, RwLock};
use subtle::{Choice, ConstantTimeEq};

/// Who may log in. Reloaded on SIGHUP; those who are in stay in.
#[derive(Debug)]
pub(crate) struct Users {
    path: String,
    entries: RwLock<Vec<Entry>>,
}

struct Entry {
    user: Vec<u8>,
    password: Vec<u8>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entry(***)")
    }
}

fn read(path: &str) -> Result<Vec<Entry>, Failure> {
    let text = std::fs::read(path)
        .map_err(|error| Failure::config(format!("auth_file {path}: {error}")))?;
    let entry = |(number, line): (usize, &[u8])| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let at = line.iter().position(|byte| *byte == b':');
        let at = at.ok_or_else(|| {
            Failure::config(format!(
                "auth_file {path}: line {} is not user:password",
                number + 1
            ))
        })?;
        Ok::<_, Failure>(Entry {
            user: line[..at].to_vec(),
            password: line[at + 1..].to_vec(),
        })
    };
    let lines = text
        .split(|byte| *byte == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.trim_ascii().is_empty());
    let entries: Vec<Entry> = lines.map(entry).collect::<Result<_, _>>()?;
    if entries.is_empty() {
        return Err(Failure::config(format!("auth_file {path}: holds no user")));
    }
    Ok(entries)
}

impl Users {
    /// Reads the file.
    pub(crate) fn open(path: &str) -> Result<Self, Failure> {
        Ok(Self {
            path: path.to_owned(),
            entries: RwLock::new(read(path)?),
        })
    }

    /// Reads the file again; the old users stay if it cannot be read.
    pub(crate) fn reload(&self) -> Result<(), Failure> {
        let fresh = read(&self.path)?;
        *self.entries.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Whether user and password belong together. `user@realm` is the same as `user`.
    pub(crate) fn admits(&self, user: &[u8], password: &[u8]) -> bool {
        let plain = user.split(|byte| *byte == b'@').next().unwrap_or_default();
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let mut admitted = Choice::from(0);
        // Every entry is compared, so that the time does not depend on which one fits.
        for entry in entries.iter() {
            let is_user = entry.user.ct_eq(user) | entry.user.ct_eq(plain);
            admitted |= is_user & entry.password.ct_eq(password);
        }
        admitted.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_logins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        std::fs::write(&path, "foo:bar\nspacy:two words\nlast:line").unwrap();
        let users = Users::open(path.to_str().unwrap()).unwrap();
        assert!(users.admits(b"foo", b"bar"));
        assert!(users.admits(b"foo@realm", b"bar"));
        assert!(users.admits(b"spacy", b"two words"));
        assert!(users.admits(b"last", b"line"));
        for (user, password) in [
            (&b"foo"[..], &b"ba"[..]),
            (b"foo", b"barr"),
            (b"fo", b"bar"),
            (b"", b""),
            (b"last", b""),
        ] {
            assert!(!users.admits(user, password));
        }
        std::fs::write(&path, "nonsense\n").unwrap();
        assert!(users.reload().is_err());
        assert!(users.admits(b"foo", b"bar"));
        assert!(Users::open("/does/not/exist").is_err());
    }
}

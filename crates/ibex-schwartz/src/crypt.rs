//! Arguments that are encrypted where they lie: in the rows, in backups, in what kept jobs leave.
//!
//! Apart because the database and everybody without a key must do without it: a sealed argument is bytes like any other, Perl workers included.
//!
//! ```text
//!  00 'S' 'Z' 'E' '1' | length of the key's name, 1 byte | name | nonce, 12 bytes | ChaCha20-Poly1305(argument), 16 bytes longer
//! ```
//!
//! The function's name is authenticated with it: an argument cannot be moved to a job of another function. Only arguments are sealed; keys, tags,
//! `meta`, progress and results are not. Nonces are random: one key is good for some four thousand million jobs.

use crate::error::Error;
use crate::job::limits;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// What a sealed argument begins with: no JSON, and nothing Perl's Storable writes.
const MAGIC: &[u8] = b"\0SZE1";

/// Keys for arguments: the first seals, all open. Clones share them.
#[derive(Clone)]
pub struct Keys {
    keys: Arc<[Key]>,
    random: SystemRandom,
}

struct Key {
    name: String,
    key: LessSafeKey,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.keys.iter().map(|key| key.name.as_str()).collect();
        f.debug_struct("Keys").field("names", &names).finish()
    }
}

impl Keys {
    /// Reads a file of keys, see [`Keys::parse`].
    ///
    /// # Errors
    /// [`Error::Config`] when it cannot be read, or as [`Keys::parse`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::Config(format!("keys of {}: {error}", path.display())))?;
        Self::parse(&text)
    }

    /// One key a line: its name of 1 to 64 letters, digits, `-`, `_` and `.`, a blank, 32 bytes in base64. Empty lines and those that start with
    /// `#` are skipped. To rotate, put the new key first and keep the old one as long as jobs sealed with it are there.
    ///
    /// # Errors
    /// [`Error::Config`] for a line that is none, a name that is there twice, or no key at all. The text of a key is never told.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut keys: Vec<Key> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = parse_line(line).filter(|new| keys.iter().all(|old| old.name != new.name));
            let Some(key) = key else {
                return Err(Error::Config(format!(
                    "line {} of the keys is no new name and 32 bytes in base64",
                    index + 1
                )));
            };
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(Error::Config("there is no key among the keys".to_owned()));
        }
        Ok(Self {
            keys: keys.into(),
            random: SystemRandom::new(),
        })
    }

    /// Whether an argument is sealed, by whatever key.
    #[must_use]
    pub fn is_sealed(arg: &[u8]) -> bool {
        arg.starts_with(MAGIC)
    }

    /// Seals an argument with the first key; one that is sealed already stays as it is.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when it fits the row no more.
    pub fn seal(&self, func: &str, arg: &Bytes) -> Result<Bytes, Error> {
        if Self::is_sealed(arg) {
            return Ok(arg.clone());
        }
        let Some(key) = self.keys.first() else {
            return Ok(arg.clone());
        };
        let failed = |_| Error::Config("the system gives no random numbers".to_owned());
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(failed)?;
        let mut sealed = arg.to_vec();
        key.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(func.as_bytes()),
                &mut sealed,
            )
            .map_err(failed)?;
        let name = u8::try_from(key.name.len()).unwrap_or(u8::MAX);
        let blob = [MAGIC, &[name], key.name.as_bytes(), &nonce, &sealed].concat();
        if blob.len() > limits::ARG_BYTES_MAX {
            return Err(Error::TooLarge {
                bytes: blob.len(),
                max: limits::ARG_BYTES_MAX,
            });
        }
        Ok(blob.into())
    }

    /// The argument of a job of this function; `None` when its key is none of these, or it was changed or moved.
    #[must_use]
    pub fn open(&self, func: &str, blob: &[u8]) -> Option<Bytes> {
        let rest = blob.strip_prefix(MAGIC)?;
        let (length, rest) = rest.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let key = self.keys.iter().find(|key| key.name.as_bytes() == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plain = sealed.to_vec();
        let length = key
            .key
            .open_in_place(nonce, Aad::from(func.as_bytes()), &mut plain)
            .ok()?
            .len();
        plain.truncate(length);
        Some(plain.into())
    }
}

fn parse_line(line: &str) -> Option<Key> {
    let (name, secret) = line.split_once(char::is_whitespace)?;
    let is_name = (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let secret = STANDARD.decode(secret.trim()).ok()?;
    let key = UnboundKey::new(&CHACHA20_POLY1305, &secret).ok()?;
    is_name.then(|| Key {
        name: name.to_owned(),
        key: LessSafeKey::new(key),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OLD: &str = "2025 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const NEW: &str = "2026 HxwdHhsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

    fn keys(text: &str) -> Keys {
        Keys::parse(text).unwrap()
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let (old, both) = (
            keys(OLD),
            keys(&format!("# newest first\n{NEW}\n\n{OLD}\n")),
        );
        let arg = Bytes::from_static(b"to=fred@example.org");
        let sealed = old.seal("Mail", &arg).unwrap();
        assert!(sealed.starts_with(b"\0SZE1\x042025"));
        assert_eq!(sealed.len(), 5 + 1 + 4 + 12 + arg.len() + 16);
        assert!(Keys::is_sealed(&sealed) && !crate::storable::is_frozen(&sealed));
        assert_eq!(both.open("Mail", &sealed), Some(arg.clone()));
        let newer = both.seal("Mail", &arg).unwrap();
        assert_eq!(
            (old.open("Mail", &newer), both.open("Mail", &newer)),
            (None, Some(arg.clone()))
        );
        assert_eq!(
            both.seal("Mail", &sealed).unwrap(),
            sealed,
            "once is enough"
        );
        assert_ne!(both.seal("Mail", &arg).unwrap(), newer, "another nonce");
        assert_eq!(
            both.open("Other", &newer),
            None,
            "moved to another function"
        );
        assert_eq!(format!("{both:?}"), "Keys { names: [\"2026\", \"2025\"] }");
    }

    #[test]
    fn what_is_no_key_is_refused_without_telling_it() {
        for text in [
            "",
            "# none",
            "2025",
            "2025 AAECAw==",
            "2025 ????",
            "a/b AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            &format!("{OLD}\n{OLD}"),
        ] {
            let error = Keys::parse(text).unwrap_err().to_string();
            assert!(!error.contains("AAEC"), "{error}");
        }
    }

    #[test]
    fn the_largest_argument_is_one_that_fits_sealed() {
        let over = 5 + 1 + 4 + 12 + 16;
        let arg = |more: usize| Bytes::from(vec![0; limits::ARG_BYTES_MAX - over + more]);
        assert!(keys(OLD).seal("F", &arg(0)).is_ok());
        assert!(matches!(
            keys(OLD).seal("F", &arg(1)),
            Err(Error::TooLarge { .. })
        ));
    }

    proptest! {
        #[test]
        fn every_change_is_noticed(arg in proptest::collection::vec(any::<u8>(), 0..40), at in any::<usize>(), bit in 0..8_u32) {
            let keys = keys(OLD);
            let sealed = keys.seal("F", &Bytes::from(arg.clone())).unwrap();
            let mut changed = sealed.to_vec();
            let at = at % changed.len();
            changed[at] ^= 1 << bit;
            prop_assert_eq!(keys.open("F", &changed), None);
            for end in 0..sealed.len() {
                prop_assert_eq!(keys.open("F", &sealed[..end]), None);
            }
            prop_assert_eq!(keys.open("F", &sealed), Some(arg.into()));
        }
    }
}

//! A key, and what chooses its server.

use bytes::Bytes;

/// A key on the wire together with the bytes that choose its server, which are the key itself unless said otherwise.
///
/// A pair `(hash_key, key)` keeps many keys of one owner on one server: `("42", "user:42:friends")`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key<'k> {
    pub(crate) key: &'k [u8],
    pub(crate) hash_key: &'k [u8],
}

impl<'k> Key<'k> {
    /// `key`, on the server of `hash_key`.
    pub fn by(hash_key: &'k [u8], key: &'k [u8]) -> Self {
        Self { key, hash_key }
    }
}

impl<'k, K: AsRef<[u8]> + ?Sized> From<&'k K> for Key<'k> {
    fn from(key: &'k K) -> Self {
        Self {
            key: key.as_ref(),
            hash_key: key.as_ref(),
        }
    }
}

impl<'k, H: AsRef<[u8]> + ?Sized, K: AsRef<[u8]> + ?Sized> From<(&'k H, &'k K)> for Key<'k> {
    fn from((hash_key, key): (&'k H, &'k K)) -> Self {
        Self {
            key: key.as_ref(),
            hash_key: hash_key.as_ref(),
        }
    }
}

/// A stored value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The bytes.
    pub value: Bytes,
    /// The client flags it was stored with.
    pub flags: u32,
    /// Its cas number, if the server gave one.
    pub cas: Option<u64>,
}

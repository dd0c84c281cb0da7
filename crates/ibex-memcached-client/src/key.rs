//! A key, and what chooses its server.

use bytes::Bytes;

/// A key on the wire together with what chooses its server: the key itself, or other bytes, or a number.
///
/// A pair `(hash_key, key)` keeps many keys of one owner on one server: `("42", "user:42:friends")`. [`Key::numbered`] does it the way Cache::Memcached
/// and LiveJournal do, where the number is not hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key<'k> {
    pub(crate) key: &'k [u8],
    pub(crate) choice: Choice<'k>,
}

/// What chooses the server of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice<'k> {
    /// The hash of these bytes.
    Bytes(&'k [u8]),
    /// This number in place of a hash.
    Number(u64),
}

impl<'k> Key<'k> {
    /// `key`, on the server of `hash_key`.
    pub fn by(hash_key: &'k [u8], key: &'k [u8]) -> Self {
        Self {
            key,
            choice: Choice::Bytes(hash_key),
        }
    }

    /// `key`, on the server of `number`, which stands in place of the hash: Cache::Memcached's pair `[$number, $key]`.
    pub fn numbered(number: u64, key: &'k [u8]) -> Self {
        Self {
            key,
            choice: Choice::Number(number),
        }
    }
}

impl<'k, K: AsRef<[u8]> + ?Sized> From<&'k K> for Key<'k> {
    fn from(key: &'k K) -> Self {
        Self::by(key.as_ref(), key.as_ref())
    }
}

impl<'k, H: AsRef<[u8]> + ?Sized, K: AsRef<[u8]> + ?Sized> From<(&'k H, &'k K)> for Key<'k> {
    fn from((hash_key, key): (&'k H, &'k K)) -> Self {
        Self::by(hash_key.as_ref(), key.as_ref())
    }
}

/// The server that gave a cas number; only there it means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(pub(crate) usize);

/// The number of a stored version, and the server that gave it: numbers of different servers cannot be compared, so a compare-and-swap goes to this server
/// even if calls for the key go elsewhere meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cas {
    number: u64,
    place: Option<Place>,
}

impl Cas {
    pub(crate) fn at(number: u64, place: Place) -> Self {
        Self {
            number,
            place: Some(place),
        }
    }

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u64 {
        self.number
    }

    pub(crate) fn place(self) -> Option<Place> {
        self.place
    }
}

/// A number without its server, as another program may have handed it over: the server that is responsible for the key is asked.
impl From<u64> for Cas {
    fn from(number: u64) -> Self {
        Self {
            number,
            place: None,
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
    pub cas: Option<Cas>,
}

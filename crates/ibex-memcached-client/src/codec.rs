//! What values look like inside: compression, and which client flags say so. Pure functions; nothing here talks to a server.
//!
//! Flag bits are other clients' habits, not the protocol's. A pool that is shared with programs in another language uses that language's [`Convention`], then
//! either side reads what the other compressed. The formats behind the bits:
//!
//! | convention | compressed | zstd | JSON ([`crate::Client::set_json`]) | who |
//! |---|---|---|---|---|
//! | Python | 8: zlib stream | 32, ours | 16 (text) | python-memcached, pymemcache `compressed_serde`, pylibmc |
//! | PHP | 16 + 32: length (u32, little endian), zlib stream | 16 + 128, same length before it | 6 | php-memcached |
//! | Perl | 2: gzip | 32, ours | 0 | Cache::Memcached, ::Fast |

use crate::{Error, Item};
use bytes::Bytes;
use std::borrow::Cow;

/// Values below this are not worth the processor's time. php-memcached and Cache::Memcached use similar thresholds.
const THRESHOLD_BYTES: usize = 2000;
/// The longest value that decompression makes, unless told otherwise. Policy: [`Error::Codec`]; a value made to explode takes no more memory than this.
const DECODED_BYTES_MAX: usize = 64 << 20;
/// Length before the stream that php-memcached writes, in bytes.
const PHP_LENGTH_BYTES: usize = 4;

/// Which clients' flag bits are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Convention {
    /// python-memcached, pymemcache and pylibmc.
    #[default]
    Python,
    /// php-memcached, on machines with little endian numbers.
    Php,
    /// Cache::Memcached and Cache::Memcached::Fast.
    Perl,
}

/// How values are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Deflate, as all those clients read it: a zlib stream, for Perl a gzip file.
    #[cfg(feature = "zlib")]
    Zlib,
    /// Zstandard at level 3: smaller and faster; php-memcached 3.3 reads it, others do not.
    #[cfg(feature = "zstd")]
    Zstd,
}

/// How a compressed value announces itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Zlib,
    Gzip,
    Zstd,
    Unknown,
}

impl Convention {
    /// The flag bits of a form.
    fn bits(self, form: Form) -> u32 {
        match (self, form) {
            (Self::Python, Form::Zlib) => 8,
            (Self::Perl, Form::Gzip) => 2,
            (Self::Python | Self::Perl, Form::Zstd) => 32,
            (Self::Php, Form::Zlib) => 16 | 32,
            (Self::Php, Form::Zstd) => 16 | 128,
            (Self::Python, Form::Gzip) | (Self::Perl, Form::Zlib) | (Self::Php, Form::Gzip) => 0,
            (_, Form::Unknown) => 0,
        }
    }

    /// All bits that say something about compression.
    fn mask(self) -> u32 {
        match self {
            Self::Python => 8 | 32,
            Self::Perl => 2 | 32,
            // Compressed, zlib, fastlz, zstd.
            Self::Php => 16 | 32 | 64 | 128,
        }
    }

    /// What the flags of a stored value say; `None`: it is as it is.
    fn form(self, flags: u32) -> Option<Form> {
        let set = flags & self.mask();
        let is_compressed = match self {
            Self::Python | Self::Perl => set != 0,
            Self::Php => set & 16 != 0,
        };
        if !is_compressed {
            return None;
        }
        let known = [Form::Zlib, Form::Gzip, Form::Zstd];
        let form = known.into_iter().find(|form| self.bits(*form) == set);
        Some(form.unwrap_or(Form::Unknown))
    }

    /// The flags of JSON text.
    #[cfg(feature = "serde")]
    pub(crate) fn json(self) -> u32 {
        match self {
            Self::Python => 16,
            Self::Php => 6,
            Self::Perl => 0,
        }
    }
}

/// How values are written and read. See [`crate::Config::with_codec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codec {
    convention: Convention,
    compression: Option<Compression>,
    threshold_bytes: usize,
    decoded_bytes_max: usize,
}

impl Codec {
    /// Reads what clients of this convention compressed (with the cargo features `zlib` and `zstd`); writes values as they are.
    #[must_use]
    pub fn new(convention: Convention) -> Self {
        Self {
            convention,
            compression: None,
            threshold_bytes: THRESHOLD_BYTES,
            decoded_bytes_max: DECODED_BYTES_MAX,
        }
    }

    /// Compresses values of at least [`with_threshold`](Self::with_threshold) bytes, if they get smaller by it. Values cannot be appended to then.
    #[must_use]
    pub fn with_compression(self, compression: Compression) -> Self {
        Self {
            compression: Some(compression),
            ..self
        }
    }

    /// The length of a value, in bytes, from which it is compressed. Default 2000.
    #[must_use]
    pub fn with_threshold(self, threshold_bytes: usize) -> Self {
        Self {
            threshold_bytes,
            ..self
        }
    }

    /// The longest value, in bytes, that decompression makes; longer ones are errors, and are not compressed here. Default 64 MiB.
    #[must_use]
    pub fn with_decoded_max(self, decoded_bytes_max: usize) -> Self {
        Self {
            decoded_bytes_max,
            ..self
        }
    }

    pub(crate) fn compresses(&self) -> bool {
        self.compression.is_some()
    }

    #[cfg(feature = "serde")]
    pub(crate) fn convention(&self) -> Convention {
        self.convention
    }

    /// The bytes and flags to store for `value` with the caller's own `flags`, whose bits must not be those of the convention's compression.
    ///
    /// # Errors
    /// [`Error::Codec`] if the flags claim that the value is compressed, or if compression fails.
    pub fn encode<'v>(&self, value: &'v [u8], flags: u32) -> Result<(Cow<'v, [u8]>, u32), Error> {
        if self.convention.form(flags).is_some() {
            return Err(Error::Codec(format!(
                "flags {flags} mean a compressed value"
            )));
        }
        let Some(compression) = self.compression else {
            return Ok((Cow::Borrowed(value), flags));
        };
        if value.len() < self.threshold_bytes || value.len() > self.decoded_bytes_max {
            return Ok((Cow::Borrowed(value), flags));
        }
        let (form, packed) = pack(self.convention, compression, value)?;
        if packed.len() >= value.len() {
            return Ok((Cow::Borrowed(value), flags));
        }
        Ok((Cow::Owned(packed), flags | self.convention.bits(form)))
    }

    /// A stored item as its writer meant it: decompressed, without the flags of compression.
    ///
    /// # Errors
    /// [`Error::Codec`] if the value is damaged, longer than [`with_decoded_max`](Self::with_decoded_max), or of a form that is not compiled in.
    pub fn decode(&self, item: Item) -> Result<Item, Error> {
        let Some(form) = self.convention.form(item.flags) else {
            return Ok(item);
        };
        let stream = match self.convention {
            Convention::Php => item.value.get(PHP_LENGTH_BYTES..).unwrap_or_default(),
            Convention::Python | Convention::Perl => &item.value,
        };
        Ok(Item {
            value: unpack(form, stream, item.flags, self.decoded_bytes_max)?,
            flags: item.flags & !self.convention.mask(),
            cas: item.cas,
        })
    }
}

#[cfg(not(any(feature = "zlib", feature = "zstd")))]
fn pack(_: Convention, compression: Compression, _: &[u8]) -> Result<(Form, Vec<u8>), Error> {
    match compression {}
}

#[cfg(any(feature = "zlib", feature = "zstd"))]
fn pack(
    convention: Convention,
    compression: Compression,
    value: &[u8],
) -> Result<(Form, Vec<u8>), Error> {
    let mut out = Vec::with_capacity(value.len() / 2);
    if convention == Convention::Php {
        // Its reader gives that many bytes to the decompressor. Lengths are bounded far below 2^32.
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_le_bytes());
    }
    let failed = |error| Error::Codec(format!("compress: {error}"));
    let form = match (compression, convention) {
        #[cfg(feature = "zlib")]
        (Compression::Zlib, Convention::Perl) => {
            use std::io::Write as _;
            let level = flate2::Compression::default();
            let mut encoder = flate2::write::GzEncoder::new(&mut out, level);
            encoder
                .write_all(value)
                .and_then(|()| encoder.try_finish())
                .map_err(failed)?;
            Form::Gzip
        }
        #[cfg(feature = "zlib")]
        (Compression::Zlib, Convention::Python | Convention::Php) => {
            use std::io::Write as _;
            let level = flate2::Compression::default();
            let mut encoder = flate2::write::ZlibEncoder::new(&mut out, level);
            encoder
                .write_all(value)
                .and_then(|()| encoder.try_finish())
                .map_err(failed)?;
            Form::Zlib
        }
        #[cfg(feature = "zstd")]
        (Compression::Zstd, _) => {
            zstd::stream::copy_encode(value, &mut out, zstd::DEFAULT_COMPRESSION_LEVEL)
                .map_err(failed)?;
            Form::Zstd
        }
    };
    Ok((form, out))
}

#[cfg_attr(
    not(any(feature = "zlib", feature = "zstd")),
    expect(unused_variables, reason = "nothing can be read")
)]
fn unpack(form: Form, stream: &[u8], flags: u32, bytes_max: usize) -> Result<Bytes, Error> {
    match form {
        #[cfg(feature = "zlib")]
        Form::Zlib => bounded(flate2::read::ZlibDecoder::new(stream), bytes_max),
        #[cfg(feature = "zlib")]
        Form::Gzip => bounded(flate2::read::GzDecoder::new(stream), bytes_max),
        #[cfg(feature = "zstd")]
        Form::Zstd => zstd::stream::read::Decoder::with_buffer(stream)
            .map_err(|error| damaged(&error))
            .and_then(|stream| bounded(stream, bytes_max)),
        _ => Err(Error::Codec(format!(
            "flags {flags} mean a compression that is not compiled in"
        ))),
    }
}

#[cfg(any(feature = "zlib", feature = "zstd"))]
fn damaged(error: &std::io::Error) -> Error {
    Error::Codec(format!("decompress: {error}"))
}

#[cfg(any(feature = "zlib", feature = "zstd"))]
fn bounded(reader: impl std::io::Read, bytes_max: usize) -> Result<Bytes, Error> {
    use std::io::Read as _;
    let mut value = Vec::new();
    reader
        .take((bytes_max as u64).saturating_add(1))
        .read_to_end(&mut value)
        .map_err(|error| damaged(&error))?;
    if value.len() > bytes_max {
        return Err(Error::Codec(format!(
            "longer than {bytes_max} bytes when decompressed"
        )));
    }
    Ok(value.into())
}

#[cfg(all(test, feature = "zlib", feature = "zstd"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONVENTIONS: [Convention; 3] = [Convention::Python, Convention::Php, Convention::Perl];
    const COMPRESSIONS: [Compression; 2] = [Compression::Zlib, Compression::Zstd];

    fn stored(codec: Codec, value: &[u8], flags: u32) -> Item {
        let (value, flags) = codec.encode(value, flags).expect("it can be compressed");
        Item {
            value: value.into_owned().into(),
            flags,
            cas: None,
        }
    }

    #[test]
    fn the_threshold_at_one_less_itself_and_one_more() {
        for compression in COMPRESSIONS {
            let codec = Codec::new(Convention::Python)
                .with_compression(compression)
                .with_threshold(100);
            let shrinks = |bytes: usize| stored(codec, &vec![b'x'; bytes], 0).flags != 0;
            assert_eq!(
                [shrinks(99), shrinks(100), shrinks(101)],
                [false, true, true]
            );
        }
    }

    #[test]
    fn the_bits_are_those_of_the_other_clients() {
        let bits = |convention, compression| {
            let codec = Codec::new(convention).with_compression(compression);
            stored(codec, &[b'x'; 5000], 1).flags & !1
        };
        assert_eq!(CONVENTIONS.map(|c| bits(c, Compression::Zlib)), [8, 48, 2]);
        assert_eq!(
            CONVENTIONS.map(|c| bits(c, Compression::Zstd)),
            [32, 144, 32]
        );
    }

    #[test]
    fn what_does_not_shrink_stays_as_it_is() {
        let mut rng = ibex_base::rng::Rng::new(5);
        let noise: Vec<u8> = (0..4000).map(|_| rng.next_u64().to_le_bytes()[0]).collect();
        let codec = Codec::new(Convention::Perl).with_compression(Compression::Zlib);
        let item = stored(codec, &noise, 0);
        assert_eq!((&item.value[..], item.flags), (&noise[..], 0));
    }

    #[test]
    fn flags_that_claim_compression_are_refused() {
        for convention in CONVENTIONS {
            let flags = convention.mask();
            let encoded = Codec::new(convention).encode(b"v", flags);
            assert!(matches!(encoded, Err(Error::Codec(_))));
        }
    }

    #[test]
    fn an_exploding_value_is_an_error() {
        const MAX: usize = 100_000;
        let codec = Codec::new(Convention::Python).with_decoded_max(MAX);
        for compression in COMPRESSIONS {
            let decoded = |bytes: usize| {
                let packed = pack(Convention::Python, compression, &vec![0; bytes]);
                let (form, packed) = packed.expect("it can be compressed");
                assert!(packed.len() < 1000);
                codec.decode(Item {
                    value: packed.into(),
                    flags: Convention::Python.bits(form),
                    cas: None,
                })
            };
            assert!(decoded(MAX - 1).is_ok() && decoded(MAX).is_ok());
            assert!(matches!(decoded(MAX + 1), Err(Error::Codec(_))));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn what_was_written_is_read(value in "[a-c]{0,6000}", own in 0_u32..2) {
            for convention in CONVENTIONS {
                for compression in COMPRESSIONS {
                    let codec = Codec::new(convention).with_compression(compression).with_threshold(16);
                    let item = codec.decode(stored(codec, value.as_bytes(), own)).unwrap();
                    prop_assert_eq!((&item.value[..], item.flags), (value.as_bytes(), own));
                }
            }
        }

        #[test]
        fn damaged_values_are_errors_and_no_more(value in proptest::collection::vec(any::<u8>(), 0..300), flags: u32) {
            for convention in CONVENTIONS {
                let item = Item { value: value.clone().into(), flags, cas: None };
                if let Err(error) = Codec::new(convention).decode(item) {
                    prop_assert!(matches!(error, Error::Codec(_)));
                }
            }
        }
    }
}

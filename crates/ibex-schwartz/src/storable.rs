//! Perl's `Storable` format, as far as job arguments use it: frozen bytes to JSON and back.
//!
//! Apart because it parses bytes of strangers: nothing is allocated from a declared count, nesting and nodes are limited, and
//! what cannot be shown faithfully (hooks, ties, cycles, shared references) is [`DecodeError::Opaque`]. Format: `Storable.xs` of
//! perl 5, as described in the house's notes of the argument column.
//!
//! A blob is frozen when [`is_frozen`] says so; Perl thaws such blobs by itself, so plain text arguments never start with these bytes.

use serde_json::{Map, Number, Value};

/// Nesting of containers, at most; Perl's own limit is higher, jobs of more are not shown.
const DEPTH_MAX: usize = 64;
/// Values in one argument, at most.
const NODES_MAX: usize = 1_000_000;

/// Why bytes could not be read as a structure. The argument is then treated as plain bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It does not start as a frozen structure.
    #[error("not frozen by Storable")]
    NotFrozen,
    /// It ends too early, has bytes left over or names lengths beyond its end.
    #[error("damaged frozen structure")]
    Damaged,
    /// A kind of value that has no faithful JSON form.
    #[error("frozen structure with parts that only Perl can read")]
    Opaque,
    /// Deeper or larger than is shown.
    #[error("frozen structure beyond the limits")]
    TooBig,
}

/// Why a value cannot be frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Only arrays and objects are references in Perl.
    #[error("only arrays and objects can be frozen")]
    NotAContainer,
    /// Deeper than [`decode`] reads.
    #[error("nested too deep to be frozen")]
    TooDeep,
    /// A string or container is longer than 32 bits can say.
    #[error("too long to be frozen")]
    TooLong,
}

/// Whether Perl would try to thaw these bytes: major version 2 to 5 in the first byte, or the file mark.
#[must_use]
pub fn is_frozen(arg: &[u8]) -> bool {
    arg.starts_with(b"pst0") || matches!(arg.first(), Some(0x04..=0x0b))
}

/// Reads a frozen structure. Strings that are UTF-8 become strings, others `{"$b64": …}`; blessed references become
/// `{"$class": …, "value": …}`.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(arg: &[u8]) -> Result<Value, DecodeError> {
    let body = arg.strip_prefix(b"pst0").unwrap_or(arg);
    let mut reader = Reader {
        rest: body,
        native: false,
        nodes: 0,
        classes: Vec::new(),
    };
    reader.header()?;
    let value = reader.object(0)?;
    if reader.rest.is_empty() {
        Ok(value)
    } else {
        Err(DecodeError::Damaged)
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    /// Lengths are in the byte order of the machine that froze it; only little-endian ones are read.
    native: bool,
    nodes: usize,
    classes: Vec<String>,
}

impl<'a> Reader<'a> {
    fn header(&mut self) -> Result<(), DecodeError> {
        let major = self.byte().map_err(|_| DecodeError::NotFrozen)?;
        if !(0x04..=0x0b).contains(&major) {
            return Err(DecodeError::NotFrozen);
        }
        if major >> 1 != 2 {
            return Err(DecodeError::Opaque);
        }
        self.byte()?;
        if major & 1 == 0 {
            self.native = true;
            let length = usize::from(self.byte()?);
            let order = self.take(length)?;
            // Sizes of int, long, pointer and NV.
            let sizes = self.take(4)?;
            if order != b"12345678" || sizes != [4, 8, 8, 8] {
                return Err(DecodeError::Opaque);
            }
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(DecodeError::Damaged)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| DecodeError::Damaged)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    /// A declared length or count; each element takes at least a byte, so more than what is left cannot be true.
    fn length(&mut self) -> Result<usize, DecodeError> {
        let bytes = self.array::<4>()?;
        let length = if self.native {
            u32::from_le_bytes(bytes)
        } else {
            u32::from_be_bytes(bytes)
        };
        let length = usize::try_from(length).map_err(|_| DecodeError::Damaged)?;
        if length > self.rest.len() {
            Err(DecodeError::Damaged)
        } else {
            Ok(length)
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, DecodeError> {
        self.nodes += 1;
        if depth > DEPTH_MAX || self.nodes > NODES_MAX {
            return Err(DecodeError::TooBig);
        }
        match self.byte()? {
            1 => self
                .length()
                .and_then(|length| Ok(text(self.take(length)?))),
            2 => self.list(depth),
            3 => self.hash(depth),
            4 | 20 => self.object(depth + 1),
            5 | 14 => Ok(Value::Null),
            6 if self.native => Ok(i64::from_le_bytes(self.array()?).into()),
            7 if self.native => Ok(Number::from_f64(f64::from_le_bytes(self.array()?))
                .map_or(Value::Null, Value::Number)),
            8 => Ok((i64::from(self.byte()?) - 128).into()),
            9 => Ok(i32::from_be_bytes(self.array()?).into()),
            10 => {
                let length = usize::from(self.byte()?);
                Ok(text(self.take(length)?))
            }
            15 => Ok(Value::Bool(true)),
            16 => Ok(Value::Bool(false)),
            17 => self.blessed(depth),
            18 => {
                let index = usize::from(self.byte()?);
                let class = self
                    .classes
                    .get(index)
                    .cloned()
                    .ok_or(DecodeError::Damaged)?;
                self.with_class(class, depth)
            }
            23 => {
                let length = usize::from(self.byte()?);
                utf8(self.take(length)?)
            }
            24 => self.length().and_then(|length| utf8(self.take(length)?)),
            25 => self.flag_hash(depth),
            _ => Err(DecodeError::Opaque),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, DecodeError> {
        let count = self.length()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(self.object(depth + 1)?);
        }
        Ok(Value::Array(items))
    }

    fn hash(&mut self, depth: usize) -> Result<Value, DecodeError> {
        let count = self.length()?;
        let mut map = Map::new();
        for _ in 0..count {
            let value = self.object(depth + 1)?;
            let length = self.length()?;
            map.insert(key(self.take(length)?)?, value);
        }
        Ok(Value::Object(map))
    }

    fn flag_hash(&mut self, depth: usize) -> Result<Value, DecodeError> {
        self.byte()?;
        let count = self.length()?;
        let mut map = Map::new();
        for _ in 0..count {
            let value = self.object(depth + 1)?;
            let flags = self.byte()?;
            // Placeholders and keys that are no plain strings belong to restricted hashes.
            if flags & !1 != 0 {
                return Err(DecodeError::Opaque);
            }
            let length = self.length()?;
            map.insert(key(self.take(length)?)?, value);
        }
        Ok(Value::Object(map))
    }

    fn blessed(&mut self, depth: usize) -> Result<Value, DecodeError> {
        let length = self.byte()?;
        // The high bit announces a long length; no class of a job is that long.
        if length > 127 {
            return Err(DecodeError::Opaque);
        }
        let class = key(self.take(usize::from(length))?)?;
        self.classes.push(class.clone());
        self.with_class(class, depth)
    }

    fn with_class(&mut self, class: String, depth: usize) -> Result<Value, DecodeError> {
        let value = self.object(depth + 1)?;
        let mut map = Map::new();
        map.insert("$class".to_owned(), Value::String(class));
        map.insert("value".to_owned(), value);
        Ok(Value::Object(map))
    }
}

/// A Perl string that may be text or bytes.
fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::String(text.to_owned()),
        Err(_) => {
            use base64::Engine;
            let mut map = Map::new();
            map.insert(
                "$b64".to_owned(),
                Value::String(base64::engine::general_purpose::STANDARD.encode(bytes)),
            );
            Value::Object(map)
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<Value, DecodeError> {
    std::str::from_utf8(bytes)
        .map(|text| Value::String(text.to_owned()))
        .map_err(|_| DecodeError::Opaque)
}

/// JSON has only text keys.
fn key(bytes: &[u8]) -> Result<String, DecodeError> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| DecodeError::Opaque)
}

/// Freezes an array or object as `Storable::nfreeze` would, readable by every Perl since 5.6.
///
/// # Errors
/// See [`EncodeError`].
pub fn encode(value: &Value) -> Result<Vec<u8>, EncodeError> {
    if !matches!(value, Value::Array(_) | Value::Object(_)) {
        return Err(EncodeError::NotAContainer);
    }
    // Major version 2 in network order; minor version 4 is the oldest that knows everything used here.
    let mut out = vec![0x05, 0x04];
    write(&mut out, value, 0)?;
    Ok(out)
}

/// A container itself, or a scalar.
fn write(out: &mut Vec<u8>, value: &Value, depth: usize) -> Result<(), EncodeError> {
    if depth >= DEPTH_MAX / 2 {
        return Err(EncodeError::TooDeep);
    }
    match value {
        Value::Null => out.push(5),
        Value::Bool(flag) => string(out, if *flag { "1" } else { "" })?,
        Value::Number(number) => self::number(out, number)?,
        Value::String(text) => string(out, text)?,
        Value::Array(items) => {
            out.push(2);
            length(out, items.len())?;
            for item in items {
                element(out, item, depth + 1)?;
            }
        }
        Value::Object(map) => {
            // Keys beyond ASCII need a flag each to be characters in Perl.
            let flagged = map.keys().any(|key| !key.is_ascii());
            if flagged {
                out.extend([25, 0]);
            } else {
                out.push(3);
            }
            length(out, map.len())?;
            for (key, item) in map {
                element(out, item, depth + 1)?;
                if flagged {
                    out.push(u8::from(!key.is_ascii()));
                }
                length(out, key.len())?;
                out.extend(key.as_bytes());
            }
        }
    }
    Ok(())
}

/// A value inside a container: containers in containers are references.
fn element(out: &mut Vec<u8>, value: &Value, depth: usize) -> Result<(), EncodeError> {
    if matches!(value, Value::Array(_) | Value::Object(_)) {
        out.push(4);
    }
    write(out, value, depth)
}

fn length(out: &mut Vec<u8>, length: usize) -> Result<(), EncodeError> {
    let length = u32::try_from(length).map_err(|_| EncodeError::TooLong)?;
    out.extend(length.to_be_bytes());
    Ok(())
}

fn number(out: &mut Vec<u8>, number: &Number) -> Result<(), EncodeError> {
    match number.as_i64() {
        Some(small @ -128..=127) => {
            out.push(8);
            // In −128..=127, so adding 128 gives a byte.
            out.push(u8::try_from(small + 128).unwrap_or(0));
            Ok(())
        }
        Some(other) => match i32::try_from(other) {
            Ok(middle) => {
                out.push(9);
                out.extend(middle.to_be_bytes());
                Ok(())
            }
            Err(_) => string(out, &other.to_string()),
        },
        None => string(out, &number.to_string()),
    }
}

fn string(out: &mut Vec<u8>, text: &str) -> Result<(), EncodeError> {
    let (short, long) = if text.is_ascii() { (10, 1) } else { (23, 24) };
    match u8::try_from(text.len()) {
        Ok(count) => out.extend([short, count]),
        Err(_) => {
            out.push(long);
            length(out, text.len())?;
        }
    }
    out.extend(text.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text
            .bytes()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    #[expect(clippy::needless_pass_by_value, reason = "call sites read as a table")]
    fn check(bytes: &str, expected: Value) {
        assert_eq!(decode(&hex(bytes)).unwrap(), expected, "{bytes}");
    }

    #[test]
    fn what_perl_froze() {
        check(
            "050b03 00000001 0a02 6f6b 00000002 646f",
            json!({"do": "ok"}),
        );
        check("050b02 00000002 0881 0a03 616263", json!([1, "abc"]));
        check("050b02 00000001 087b", json!([-5]));
        check("050b02 00000001 1703 e298ba", json!(["☺"]));
        check("050b02 00000001 09 00000080", json!([128]));
        check(
            "050b03 00000001 0402 00000002 0881 0403 00000001 0882 00000001 62 00000001 61",
            json!({"a": [1, {"b": 2}]}),
        );
        check("050b02 00000001 0a02 ff00", json!([{"$b64": "/wA="}]));
        check(
            "050b11 03 466f6f 03 00000000",
            json!({"$class": "Foo", "value": {}}),
        );
        check(
            "040b08 3132333435363738 04080808 02 01000000 06 0500000000000000",
            json!([5]),
        );
    }

    #[test]
    fn what_must_not_be_believed() {
        let error = |bytes: &str| decode(&hex(bytes)).unwrap_err();
        assert_eq!(error(""), DecodeError::NotFrozen);
        assert_eq!(error("7b7d"), DecodeError::NotFrozen);
        assert_eq!(error("050b02 ffffffff 0881"), DecodeError::Damaged);
        assert_eq!(error("050b03 7fffffff"), DecodeError::Damaged);
        assert_eq!(error("050b02 00000001 00 00000000"), DecodeError::Opaque);
        assert_eq!(error("050b13 00"), DecodeError::Opaque);
        assert_eq!(error("050b02 00000000 00"), DecodeError::Damaged);
        let mut deep = vec![5, 11];
        deep.extend(std::iter::repeat_n(4, 100_000));
        assert_eq!(decode(&deep).unwrap_err(), DecodeError::TooBig);
        assert_eq!(encode(&json!("x")).unwrap_err(), EncodeError::NotAContainer);
    }

    #[test]
    fn text_never_looks_frozen() {
        assert!(!is_frozen(br#"{"a":1}"#) && !is_frozen(b"") && !is_frozen(b"hello"));
        assert!(is_frozen(&encode(&json!({})).unwrap()) && is_frozen(b"pst0\x04"));
    }

    fn json_tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(Value::from),
            ".{0,300}".prop_map(Value::from)
        ];
        let tree = leaf.prop_recursive(5, 60, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(".{0,8}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        });
        prop_oneof![
            prop::collection::vec(tree.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(".{0,8}", tree, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    }

    proptest! {
        #[test]
        fn what_was_frozen_thaws(tree in json_tree()) {
            prop_assert_eq!(decode(&encode(&tree).unwrap()).unwrap(), tree);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), start in prop_oneof![Just(vec![5, 11]), Just(vec![]), Just(vec![4, 11])]) {
            let mut all = start;
            all.extend(bytes);
            drop(decode(&all));
        }

        #[test]
        fn every_prefix_is_an_error(tree in json_tree()) {
            let bytes = encode(&tree).unwrap();
            for end in 0..bytes.len() {
                prop_assert!(decode(&bytes[..end]).is_err());
            }
        }
    }
}

//! Row keys and rows as bytes: what the change log stores, and what checksums are taken over.
//!
//! Apart because the encoding must be the same on both engines: a number is eight bytes whether SQLite or MySQL returned it.

use crate::layout::Column;
use crate::layout::Kind;
use ibex_sql::{Error, ErrorKind, Row, Value};

/// Reads the columns of a row, starting at `from`, each as its kind.
pub(crate) fn values(row: &Row, from: usize, columns: &[Column]) -> Result<Vec<Value>, Error> {
    let mut out = Vec::with_capacity(columns.len());
    for (offset, column) in columns.iter().enumerate() {
        let index = from + offset;
        out.push(match column.kind {
            Kind::Int => Value::Int(row.get::<i64>(index)?),
            Kind::Text => Value::Text(row.get::<String>(index)?),
            Kind::Blob => Value::Blob(row.get::<Vec<u8>>(index)?),
        });
    }
    Ok(out)
}

/// Appends one value: a letter, for text and bytes the length, the content.
fn put(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Int(number) => {
            out.push(b'i');
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::UInt(number) => {
            out.push(b'i');
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Text(text) => put_bytes(out, b't', text.as_bytes()),
        Value::Blob(bytes) => put_bytes(out, b'b', bytes),
        Value::Real(number) => {
            out.push(b'r');
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Null => out.push(b'n'),
    }
}

fn put_bytes(out: &mut Vec<u8>, letter: u8, bytes: &[u8]) {
    out.push(letter);
    out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// The canonical bytes of some values.
pub(crate) fn encode(values: &[Value]) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.len() * 9);
    for value in values {
        put(&mut out, value);
    }
    out
}

/// The values of a row key that [`encode`] wrote.
pub(crate) fn decode(mut bytes: &[u8]) -> Result<Vec<Value>, Error> {
    let mut out = Vec::new();
    while let Some((&letter, rest)) = bytes.split_first() {
        let (number, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        bytes = rest;
        match letter {
            b'i' => out.push(Value::Int(i64::from_be_bytes(*number))),
            b't' | b'b' => {
                let length = usize::try_from(u64::from_be_bytes(*number)).map_err(|_| damaged())?;
                let (content, rest) = rest.split_at_checked(length).ok_or_else(damaged)?;
                bytes = rest;
                out.push(if letter == b'b' {
                    Value::Blob(content.to_vec())
                } else {
                    Value::Text(String::from_utf8(content.to_vec()).map_err(|_| damaged())?)
                });
            }
            _ => return Err(damaged()),
        }
    }
    Ok(out)
}

fn damaged() -> Error {
    Error::new(ErrorKind::Decode, "row key of the change log is damaged")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i64>().prop_map(Value::Int),
            ".{0,12}".prop_map(Value::Text),
            proptest::collection::vec(any::<u8>(), 0..12).prop_map(Value::Blob),
        ]
    }

    proptest! {
        #[test]
        fn keys_come_back(key in proptest::collection::vec(value(), 0..4)) {
            prop_assert_eq!(decode(&encode(&key)).unwrap(), key);
        }

        #[test]
        fn damaged_keys_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            drop(decode(&bytes));
        }
    }

    #[test]
    fn a_cut_key_is_refused() {
        let whole = encode(&[Value::Int(7), Value::Text("tag".into())]);
        for cut in 1..whole.len() {
            if cut != 9 {
                assert!(decode(&whole[..cut]).is_err(), "cut at {cut}");
            }
        }
    }
}

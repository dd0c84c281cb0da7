//! Values that travel in and out of statements, rows, and the conversions a caller may rely on.
//!
//! Apart because both engines and every caller share it. It does not know either database library: their conversions
//! live beside the code that talks to them.

use crate::error::{Error, ErrorKind};
use bytes::Bytes;
use std::sync::Arc;

/// One SQL value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// A signed integer.
    Int(i64),
    /// An unsigned integer; SQLite refuses those beyond `i64::MAX`.
    UInt(u64),
    /// A floating point number.
    Real(f64),
    /// Text, UTF-8.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

/// What a statement that changes rows did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done {
    /// Rows the statement matched, on both engines (MySQL runs with `CLIENT_FOUND_ROWS`), so `UPDATE … SET x = x` counts.
    pub rows_affected: u64,
    /// The id given to the last inserted row; meaningless when nothing was inserted.
    pub last_insert_id: u64,
}

/// One row of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    columns: Arc<[String]>,
    values: Vec<Value>,
}

impl Row {
    pub(crate) fn new(columns: Arc<[String]>, values: Vec<Value>) -> Self {
        Self { columns, values }
    }

    /// The column at `index`, counted from 0.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when there is no such column or its value does not fit `T`.
    pub fn get<T: FromValue>(&self, index: usize) -> Result<T, Error> {
        let Some(value) = self.values.get(index) else {
            return Err(Error::decode(format!(
                "row has {} columns, column {index} asked for",
                self.values.len()
            )));
        };
        T::from_value(value).ok_or_else(|| {
            let name = self.columns.get(index).map_or("", String::as_str);
            Error::decode(format!(
                "column {index} ({name}) holds {} and not {}",
                value.type_name(),
                T::NAME
            ))
        })
    }

    /// The column called `name`, compared without regard to case.
    ///
    /// # Errors
    /// As [`Row::get`].
    pub fn named<T: FromValue>(&self, name: &str) -> Result<T, Error> {
        match self
            .columns
            .iter()
            .position(|column| column.eq_ignore_ascii_case(name))
        {
            Some(index) => self.get(index),
            None => Err(Error::new(
                ErrorKind::Decode,
                format!("row has no column {name}"),
            )),
        }
    }

    /// Every value, in column order.
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The names of the columns.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }
}

impl Value {
    /// The kind of value, for messages; the value itself never gets into one.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Int(_) | Self::UInt(_) => "an integer",
            Self::Real(_) => "a real number",
            Self::Text(_) => "text",
            Self::Blob(_) => "bytes",
        }
    }

    /// Bytes held, for limits on what one group may carry.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Null | Self::Int(_) | Self::UInt(_) | Self::Real(_) => 8,
            Self::Text(text) => text.len(),
            Self::Blob(bytes) => bytes.len(),
        }
    }
}

/// Types a column can be read as.
pub trait FromValue: Sized {
    /// The type's name in error messages.
    const NAME: &'static str;
    /// The value as this type, or `None` when it does not fit.
    fn from_value(value: &Value) -> Option<Self>;
}

/// An integer of any column; text that is wholly a number counts, because other programs bind numbers as text and MySQL sums
/// arrive as decimals.
fn wide(value: &Value) -> Option<i128> {
    match value {
        Value::Int(number) => Some(i128::from(*number)),
        Value::UInt(number) => Some(i128::from(*number)),
        Value::Text(text) => text.trim().parse().ok(),
        Value::Blob(bytes) => std::str::from_utf8(bytes).ok()?.trim().parse().ok(),
        Value::Null | Value::Real(_) => None,
    }
}

macro_rules! integers {
    ($($type:ty),+) => { $(
        impl FromValue for $type {
            const NAME: &'static str = stringify!($type);
            fn from_value(value: &Value) -> Option<Self> {
                <$type>::try_from(wide(value)?).ok()
            }
        }
    )+ };
}
integers!(i64, u64, i32, u32, i16, u16, u8, usize);

impl FromValue for bool {
    const NAME: &'static str = "bool";
    fn from_value(value: &Value) -> Option<Self> {
        wide(value).map(|number| number != 0)
    }
}

impl FromValue for f64 {
    const NAME: &'static str = "f64";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Real(number) => Some(*number),
            Value::Int(number) => i32::try_from(*number).ok().map(Self::from),
            Value::UInt(number) => u32::try_from(*number).ok().map(Self::from),
            Value::Text(text) => text.trim().parse().ok(),
            Value::Null | Value::Blob(_) => None,
        }
    }
}

impl FromValue for String {
    const NAME: &'static str = "String";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text.clone()),
            Value::Blob(bytes) => Self::from_utf8(bytes.clone()).ok(),
            Value::Int(number) => Some(number.to_string()),
            Value::UInt(number) => Some(number.to_string()),
            Value::Null | Value::Real(_) => None,
        }
    }
}

impl FromValue for Vec<u8> {
    const NAME: &'static str = "bytes";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Blob(bytes) => Some(bytes.clone()),
            Value::Text(text) => Some(text.clone().into_bytes()),
            Value::Int(number) => Some(number.to_string().into_bytes()),
            Value::UInt(number) => Some(number.to_string().into_bytes()),
            Value::Real(number) => Some(number.to_string().into_bytes()),
            Value::Null => None,
        }
    }
}

impl FromValue for Bytes {
    const NAME: &'static str = "bytes";
    fn from_value(value: &Value) -> Option<Self> {
        Vec::from_value(value).map(Self::from)
    }
}

impl FromValue for Value {
    const NAME: &'static str = "any value";
    fn from_value(value: &Value) -> Option<Self> {
        Some(value.clone())
    }
}

impl<T: FromValue> FromValue for Option<T> {
    const NAME: &'static str = T::NAME;
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            Value::Int(_) | Value::UInt(_) | Value::Real(_) | Value::Text(_) | Value::Blob(_) => {
                T::from_value(value).map(Some)
            }
        }
    }
}

macro_rules! from {
    ($($type:ty => |$name:ident| $make:expr),+ $(,)?) => { $(
        impl From<$type> for Value {
            fn from($name: $type) -> Self { $make }
        }
    )+ };
}
from! {
    i64 => |v| Self::Int(v), i32 => |v| Self::Int(i64::from(v)), i16 => |v| Self::Int(i64::from(v)), i8 => |v| Self::Int(i64::from(v)),
    u32 => |v| Self::Int(i64::from(v)), u16 => |v| Self::Int(i64::from(v)), u8 => |v| Self::Int(i64::from(v)),
    bool => |v| Self::Int(i64::from(v)), f64 => |v| Self::Real(v), String => |v| Self::Text(v), Vec<u8> => |v| Self::Blob(v),
    &str => |v| Self::Text(v.to_owned()), &String => |v| Self::Text(v.clone()), &[u8] => |v| Self::Blob(v.to_vec()),
    &Vec<u8> => |v| Self::Blob(v.clone()), Bytes => |v| Self::Blob(v.to_vec()), &Bytes => |v| Self::Blob(v.to_vec()), &Value => |v| v.clone(),
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        i64::try_from(number).map_or(Self::UInt(number), Self::Int)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::from(number as u64)
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<const N: usize> From<&[u8; N]> for Value {
    fn from(bytes: &[u8; N]) -> Self {
        Self::Blob(bytes.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[expect(clippy::needless_pass_by_value, reason = "call sites read as a table")]
    fn check<T: FromValue + PartialEq + std::fmt::Debug>(value: &Value, expected: Option<T>) {
        assert_eq!(T::from_value(value), expected, "{value:?}");
    }

    #[test]
    fn integers_of_other_programs_are_read_however_they_were_bound() {
        check(&Value::Text("42".into()), Some(42_u64));
        check(&Value::Blob(b"42".to_vec()), Some(42_i64));
        check(&Value::UInt(u64::MAX), Some(u64::MAX));
        check::<i64>(&Value::UInt(u64::MAX), None);
        check::<u32>(&Value::Int(-1), None);
        check::<u64>(&Value::Text("42x".into()), None);
        check(&Value::Null, Some(None::<u64>));
        check::<u64>(&Value::Null, None);
        check::<String>(&Value::Blob(vec![0xff]), None);
    }

    #[test]
    fn a_row_names_the_column_that_does_not_fit() {
        let row = Row::new(
            Arc::from(vec!["jobid".to_owned()]),
            vec![Value::Text("x".into())],
        );
        let error = row.get::<u64>(0).unwrap_err();
        assert!(error.to_string().contains("jobid"), "{error}");
        assert_eq!(row.named::<String>("JOBID").unwrap(), "x");
        assert_eq!(row.get::<u64>(1).unwrap_err().kind(), ErrorKind::Decode);
        assert_eq!(
            row.named::<u64>("no").unwrap_err().kind(),
            ErrorKind::Decode
        );
    }

    proptest! {
        #[test]
        fn numbers_survive_the_way_in_and_out(number: u64, signed: i64) {
            prop_assert_eq!(u64::from_value(&Value::from(number)), Some(number));
            prop_assert_eq!(i64::from_value(&Value::from(signed)), Some(signed));
        }
    }
}

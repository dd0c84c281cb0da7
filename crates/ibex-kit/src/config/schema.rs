//! What a configuration struct tells the kit about itself: keys, documentation, defaults, what may change live.
//!
//! Owns the [`config!`](crate::config!) macro and the [`Field`] table it generates; the loader, the reference file, the man
//! page and the reload all read that one table. It holds no values.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Whether a changed value takes effect on reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// On SIGHUP, without a restart.
    Live,
    /// Only at the next start; a reload says so.
    Restart,
}

/// One key of a configuration table.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its name in TOML.
    pub key: &'static str,
    /// Its doc comment, line by line as written.
    pub doc: &'static str,
    /// When a change takes effect.
    pub reload: Reload,
    /// The fields inside, if this is a table.
    pub table: Option<Vec<Self>>,
    /// Whether the value must never be shown; such a key `x` may also be given as `x_file`.
    pub secret: bool,
    /// Checks that a value has the right type and form, with a message for people.
    pub check: fn(toml::Value) -> Result<(), String>,
}

/// A struct made by [`config!`](crate::config!).
pub trait ConfigTable:
    Serialize + DeserializeOwned + Default + Clone + std::fmt::Debug + Send + Sync + 'static
{
    /// Its keys, in the order of the struct.
    fn fields() -> Vec<Field>;
}

/// What is wrong with one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key by its path, such as `admin.listen`.
    pub key: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl Problem {
    /// A problem with the value of `key`.
    #[must_use]
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            message: message.into(),
        }
    }
}

/// A future that says what a deep check found.
pub type DeepCheck<'a> =
    std::pin::Pin<Box<dyn Future<Output = Result<(), Vec<Problem>>> + Send + 'a>>;

/// Checks that a type alone cannot make: ranges, and values that must fit together.
pub trait Validate {
    /// Everything that is wrong, not only the first.
    ///
    /// # Errors
    /// The list of problems, each with its key.
    fn validate(&self) -> Result<(), Vec<Problem>> {
        Ok(())
    }

    /// What is allowed but probably not meant; `--check-config` prints these and a start logs them.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// What only the outside world can tell (`--check-config --deep`): connect to the store, ask upstreams.
    fn check_deep(&self) -> DeepCheck<'_> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Declares a configuration struct with documentation, defaults and reload behaviour in one place.
///
/// Each field is `live`, `restart` or `table`, then `name: Type = default`; without a default `Default::default()` is used.
/// A `table` field's type must itself come from this macro. A field of type `Secret` named `x` may also be given as `x_file`.
/// The default may depend on nothing at run time; the loader merges layers above it key by key.
#[macro_export]
macro_rules! config {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $( $(#[doc = $doc:literal])* $kind:ident $field:ident : $ty:ty $(= $default:expr)? ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, $crate::serde::Serialize, $crate::serde::Deserialize)]
        #[serde(crate = "ibex_kit::serde", deny_unknown_fields, default)]
        $vis struct $name {
            $( $(#[doc = $doc])* pub $field: $ty, )*
        }

        impl ::core::default::Default for $name {
            fn default() -> Self {
                Self { $( $field: $crate::__config_default!($($default)?), )* }
            }
        }

        impl $crate::ConfigTable for $name {
            fn fields() -> ::std::vec::Vec<$crate::Field> {
                ::std::vec![ $( $crate::Field {
                    key: ::core::stringify!($field),
                    doc: ::core::concat!($($doc, "\n"),*),
                    reload: $crate::__config_reload!($kind),
                    table: $crate::__config_table!($kind, $ty),
                    secret: $crate::is_secret_type(::core::stringify!($ty)),
                    check: |value| $crate::check_type::<$ty>(value),
                } ),* ]
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __config_default {
    () => {
        ::core::default::Default::default()
    };
    ($default:expr) => {
        $default
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __config_reload {
    (live) => {
        $crate::Reload::Live
    };
    (restart) => {
        $crate::Reload::Restart
    };
    (table) => {
        $crate::Reload::Live
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __config_table {
    (table, $ty:ty) => {
        ::core::option::Option::Some(<$ty as $crate::ConfigTable>::fields())
    };
    ($kind:ident, $ty:ty) => {
        ::core::option::Option::None
    };
}

#[doc(hidden)]
#[must_use]
pub fn is_secret_type(name: &str) -> bool {
    name.rsplit([':', ' ', '<'])
        .next()
        .is_some_and(|last| last.trim_end_matches('>') == "Secret")
}

#[doc(hidden)]
pub fn check_type<T: DeserializeOwned>(value: toml::Value) -> Result<(), String> {
    T::deserialize(value)
        .map(drop)
        .map_err(|error| error.to_string().trim_end().to_owned())
}

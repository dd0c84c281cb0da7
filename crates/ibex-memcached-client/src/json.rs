//! Values of any type, as JSON text: what every other client can read too.

use crate::codec::Convention;
use crate::key::Key;
use crate::{Client, Error, Expiry, Verb};
use serde::Serialize;
use serde::de::DeserializeOwned;

impl Client {
    /// Stores `value` as JSON text, with the flags that the codec's convention has for it (PHP: its JSON type; Python: text), 0 without a codec.
    ///
    /// # Errors
    /// [`Error::Codec`] if the value has no JSON form; else as [`Client::set`].
    pub async fn set_json<'k, T: Serialize + ?Sized>(
        &self,
        key: impl Into<Key<'k>>,
        value: &T,
        expiry: Expiry,
    ) -> Result<(), Error> {
        let text = serde_json::to_vec(value).map_err(|error| not_json(&error))?;
        let convention = self.pool.config.codec.map(|codec| codec.convention());
        let flags = convention.map_or(0, Convention::json);
        self.store(Verb::Set, key, text, flags, expiry)
            .await
            .map(|_| ())
    }

    /// The value under `key` read as JSON text, whatever its flags; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Codec`] if it is not the JSON of a `T`; else as [`Client::get`].
    pub async fn get_json<'k, T: DeserializeOwned>(
        &self,
        key: impl Into<Key<'k>>,
    ) -> Result<Option<T>, Error> {
        let item = self.get(key).await?;
        item.map(|item| serde_json::from_slice(&item.value).map_err(|error| not_json(&error)))
            .transpose()
    }
}

fn not_json(error: &serde_json::Error) -> Error {
    Error::Codec(format!("JSON: {error}"))
}

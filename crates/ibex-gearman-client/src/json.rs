//! Arguments and results as values instead of bytes (feature `json`): what can be serialised is submitted, what comes back is read.
//!
//! JSON, because every other client reads it. Whoever wants another form uses bytes; nothing else of this crate knows of this module.

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::error::Error;
use crate::worker::{JobError, Worker};

/// The argument as it travels.
///
/// # Errors
/// [`Error::InvalidArgument`]: a value that JSON cannot say.
pub fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, Error> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| Error::InvalidArgument(error.to_string()))
}

/// A result as it came.
///
/// # Errors
/// [`Error::Undecodable`]: not the JSON of such a value.
pub fn from_bytes<R: DeserializeOwned>(function: &[u8], bytes: &[u8]) -> Result<R, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::Undecodable {
        function: String::from_utf8_lossy(function).into_owned(),
        reason: error.to_string(),
    })
}

impl Client {
    /// Submits a foreground job with `argument` and waits for its result, as long as it takes.
    ///
    /// # Errors
    /// As [`call`](Self::call), and [`Error::InvalidArgument`], [`Error::Undecodable`].
    pub async fn call_json<T: Serialize + ?Sized, R: DeserializeOwned>(
        &self,
        function: impl AsRef<[u8]>,
        argument: &T,
    ) -> Result<R, Error> {
        let function = function.as_ref();
        let result = self.call(function, to_bytes(argument)?).await?;
        from_bytes(function, &result)
    }

    /// The distributed map: `function` over `arguments`, at most `concurrency` at once; results in the order of the arguments, or the first error.
    ///
    /// ```no_run
    /// # async fn example(client: ibex_gearman_client::Client) -> Result<(), ibex_gearman_client::Error> {
    /// let names: Vec<String> = client.dmap("hostname_of", 1..=10, 4).await?;
    /// # drop(names); Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`call_json`](Self::call_json).
    pub async fn dmap<T: Serialize, R: DeserializeOwned>(
        &self,
        function: impl AsRef<[u8]>,
        arguments: impl IntoIterator<Item = T>,
        concurrency: usize,
    ) -> Result<Vec<R>, Error> {
        let function = function.as_ref();
        let calls = arguments
            .into_iter()
            .map(|argument| async move { self.call_json(function, &argument).await });
        let mut results = futures_util::stream::iter(calls).buffered(concurrency.max(1));
        let mut values = Vec::new();
        while let Some(result) = results.next().await {
            values.push(result?);
        }
        Ok(values)
    }
}

impl Worker {
    /// Registers a function of a value. An argument that cannot be read is an exception that says so, before the handler is asked.
    pub fn json_function<T, R, F, O>(self, name: impl AsRef<[u8]>, handler: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        R: Serialize,
        F: Fn(T) -> O + Send + Sync + Clone + 'static,
        O: Future<Output = Result<R, JobError>> + Send + 'static,
    {
        self.function(name, move |job| {
            let handler = handler.clone();
            async move {
                let argument = serde_json::from_slice(job.workload())
                    .map_err(|error| JobError::exception(format!("argument: {error}")))?;
                let result = handler(argument).await?;
                Ok(serde_json::to_vec(&result)?.into())
            }
        })
    }
}

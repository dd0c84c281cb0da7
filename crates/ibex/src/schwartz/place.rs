//! Where commands go: to the tables, or through a daemon.

use std::sync::Arc;

use ibex_schwartz::{Client, storable};
use serde_json::Value;

use super::Usage;
use super::server::Server;

/// Where commands go.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Tables(Client),
    Daemon(Arc<Server>),
}

impl Place {
    /// The databases, for what a daemon does not do.
    pub(super) fn tables(&self, command: &str) -> anyhow::Result<&Client> {
        match self {
            Self::Tables(client) => Ok(client),
            Self::Daemon(_) => {
                let text = format!("{command} works on databases: give --db instead of --server");
                Err(Usage(text).into())
            }
        }
    }

    pub(super) async fn close(&self) -> anyhow::Result<()> {
        match self {
            Self::Tables(client) => Ok(client.close().await?),
            Self::Daemon(_) => Ok(()),
        }
    }
}

/// An argument as JSON shows it: a frozen structure thawed, text as text, other bytes in Rust's escapes.
pub(super) fn argument(arg: &[u8]) -> Value {
    if storable::is_frozen(arg)
        && let Ok(value) = storable::decode(arg)
    {
        return value;
    }
    match std::str::from_utf8(arg) {
        Ok(text) => text.into(),
        Err(_) => arg.escape_ascii().to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn arguments_are_shown_readably() {
        assert_eq!(argument(b"to=fred"), json!("to=fred"));
        assert_eq!(argument(b"\xff\x00"), json!("\\xff\\x00"));
        let frozen = storable::encode(&json!({"a": "b"})).unwrap();
        assert_eq!(argument(&frozen), json!({"a": "b"}));
    }
}

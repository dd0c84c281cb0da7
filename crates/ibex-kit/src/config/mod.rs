//! Configuration in layers: defaults, file, `conf.d`, environment, flags.
//!
//! One tree of TOML values is merged key by key, each key remembering who set it; every value is checked against its
//! field where it was written, so that an error can point at `file:line:col`. Apart from the daemons because all of them
//! load, print, check and reload alike. It binds nothing, opens no store and writes no file.

pub(crate) mod common;
pub(crate) mod error;
pub(crate) mod layers;
pub(crate) mod load;
pub(crate) mod print;
pub(crate) mod schema;
pub(crate) mod secret;
pub(crate) mod suggest;
pub(crate) mod types;

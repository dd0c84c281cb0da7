//! Perlbal configuration and management language, reproxy and range semantics, as pure functions.

//! The journal as its readers and operators meet it: the real binary, over HTTP, on SQLite and where present on MariaDB, with the
//! Debian memcached and gearmand as peers where present.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod browser;
mod cache;
mod commands;
mod mail;
mod moving;
mod pages;
mod pictures;
mod security;
mod site;

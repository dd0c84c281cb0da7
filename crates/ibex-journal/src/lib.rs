//! The journal: a blogging site that composes the whole family through its clients.
//!
//! ```text
//!  browser ── ibex-perlbal ── ibex-journal serve ──┬─ memcached   every read (cache, keys)
//!                 ▲                                ├─ databases   global + user clusters (ibex-cluster)
//!                 │ X-REPROXY-URL                  ├─ gearman     image_resize, wake-ups (jobs)
//!                 └──── storage nodes ◄── mogile ──┤              ▲
//!                                                  └─ schwartz ───┼── ibex-journal worker ── SMTP
//!                                                     (queue)     └── (worker, notify)
//! ```
//!
//! Life of a request: `web::router` matches the path → `web::ctx::Ctx` finds out who asks (session cookie, form token, proxy) →
//! a thin handler in `web` → one call into the module named after the thing (`entry`, `comment`, `circle`, `picture`, …), which reads
//! through `cache` and writes through `app::App::write` → a template. One function, `visibility::may_see`, decides who sees what.
//!
//! Threads: one tokio runtime; SQLite on `ibex-sql`'s threads; argon2 and picture scaling on blocking threads.

#![forbid(unsafe_code)]

pub mod app;
pub mod args;
pub mod cache;
pub mod circle;
pub mod clock;
pub mod commands;
pub mod comment;
pub mod config;
pub mod entry;
pub mod error;
pub mod feed;
pub mod files;
pub mod images;
pub mod inbox;
pub mod jobs;
pub mod keys;
pub mod markup;
pub mod media;
mod metrics;
pub mod notify;
pub mod picture;
pub mod queue;
pub mod reading;
pub mod schema;
mod seed;
mod server;
pub mod session;
mod smtp_sink;
pub mod token;
pub mod usage;
pub mod user;
pub mod visibility;
pub mod web;
mod worker;

pub use server::serve;
pub use worker::work;

/// What the kit tells about this daemon.
pub const ABOUT: ibex_kit::About = ibex_kit::About {
    name: "ibex-journal",
    short: "journal",
    summary: "blogging site over user clusters",
    version: env!("CARGO_PKG_VERSION"),
    admin_port: 9818,
    original_flags: "",
};

//! The real binary against small backends that behave and misbehave on purpose.

mod life;
mod manage;
mod peer;
mod proxy;
mod reproxy;
mod strict;
mod support;
mod upload;
mod web;

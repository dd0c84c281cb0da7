//! Blogging site that composes the whole family.

//! Roles and user clusters: which database holds which user, per-user number spaces, moving users.

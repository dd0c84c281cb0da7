//! The Gearman protocol: packets and admin text to messages, both directions.

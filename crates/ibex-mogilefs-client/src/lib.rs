//! Asynchronous MogileFS client: tracker calls and storage transfers.

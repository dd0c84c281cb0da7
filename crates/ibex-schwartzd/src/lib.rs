//! Network face of the reliable job queue.

//! Asynchronous Gearman client and worker.

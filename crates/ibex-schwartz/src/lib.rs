//! TheSchwartz: reliable jobs over databases, client and worker.

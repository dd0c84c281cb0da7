//! Balancer decisions: backend choice, pools, client queues, buffering.

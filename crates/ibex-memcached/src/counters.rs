//! What a worker counts. Each worker owns one set and is its only writer; `stats` and `/metrics` add all sets up.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number with one writer: adding needs no locked instruction.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, amount: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(amount),
            Ordering::Relaxed,
        );
    }

    pub(crate) fn sub(&self, amount: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_sub(amount),
            Ordering::Relaxed,
        );
    }

    /// Keeps the larger of what it is and `amount`.
    pub(crate) fn raise(&self, amount: u64) {
        if amount > self.0.load(Ordering::Relaxed) {
            self.0.store(amount, Ordering::Relaxed);
        }
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Declares the set, its sum and what `stats reset` leaves alone.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// One worker's numbers.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $($(#[$doc])* pub(crate) $name: Counter),* }

        /// The sum over all workers.
        #[derive(Debug, Default, Clone, Copy)]
        pub(crate) struct Totals { $($(#[$doc])* pub(crate) $name: u64),* }

        impl Totals {
            pub(crate) fn add(&mut self, counters: &Counters) {
                $(self.$name = self.$name.wrapping_add(counters.$name.value());)*
            }

            /// What was counted since `base`.
            pub(crate) fn since(&self, base: &Self) -> Self {
                Self { $($name: self.$name.wrapping_sub(base.$name)),* }
            }
        }
    };
}

counters! {
    /// Keys asked for.
    cmd_get,
    /// Storage commands.
    cmd_set,
    /// flush_all.
    cmd_flush,
    /// touch, and reads that touch.
    cmd_touch,
    /// me.
    cmd_meta,
    /// Keys found.
    get_hits,
    /// Keys not found.
    get_misses,
    /// Keys found expired.
    get_expired,
    /// Keys found flushed.
    get_flushed,
    /// delete without item.
    delete_misses,
    /// delete of an item.
    delete_hits,
    /// incr without item.
    incr_misses,
    /// incr of an item.
    incr_hits,
    /// decr without item.
    decr_misses,
    /// decr of an item.
    decr_hits,
    /// cas without item.
    cas_misses,
    /// cas that stored.
    cas_hits,
    /// cas with another number.
    cas_badval,
    /// touch of an item.
    touch_hits,
    /// touch without item.
    touch_misses,
    /// Items over the size limit.
    store_too_large,
    /// Items without room.
    store_no_memory,
    /// Logins.
    auth_cmds,
    /// Refused logins.
    auth_errors,
    /// Connections closed for idleness.
    idle_kicks,
    /// Bytes read from clients.
    bytes_read,
    /// Bytes written to clients.
    bytes_written,
    /// Turns that ended at the request limit.
    conn_yields,
    /// Requests of the text and binary protocols.
    requests,
    /// Connections closed because of an error.
    conn_errors,
    /// Connections closed because of what they were sending, with read_buf_mem_limit reached.
    read_buf_oom,
    /// Connections closed because of replies not taken, with read_buf_mem_limit reached.
    response_obj_oom,
    /// TLS handshakes that failed.
    tls_handshake_errors,
    /// TLS sessions that failed later.
    tls_errors,
    /// Datagrams that are no requests.
    datagrams_dropped,
    /// Datagrams that were answered.
    datagrams_answered,
}

/// Gauges of a worker that a reset leaves alone.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    /// Bytes of read buffers and of values being received.
    pub(crate) read_bytes: Counter,
    /// Bytes of output not yet taken.
    pub(crate) write_bytes: Counter,
}

impl Gauges {
    /// Bytes of all buffers.
    pub(crate) fn bytes(&self) -> u64 {
        self.read_bytes() + self.write_bytes()
    }

    pub(crate) fn read_bytes(&self) -> u64 {
        self.read_bytes.value()
    }

    pub(crate) fn write_bytes(&self) -> u64 {
        self.write_bytes.value()
    }
}

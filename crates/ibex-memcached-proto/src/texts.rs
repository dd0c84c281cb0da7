//! Every line of text a server answers, in one place.
//!
//! Clients compare these byte for byte, so they live apart from the code that chooses them. All end in CRLF and
//! come from memcached's `proto_text.c`, `proto_parser.c` and `doc/protocol.txt`, release 1.6.45, unless a line says otherwise.

/// Declares constants and the list of all of them, so that a test can look at each.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: &[u8] = concat!($text, "\r\n").as_bytes();)*
        /// All texts of this table.
        pub const ALL: &[&[u8]] = &[$($name),*];
    };
}

texts! {
    /// The value was stored.
    STORED = "STORED";
    /// A condition (add, replace, append, prepend) did not hold.
    NOT_STORED = "NOT_STORED";
    /// The item changed since the caller read its cas number.
    EXISTS = "EXISTS";
    /// No item under that key.
    NOT_FOUND = "NOT_FOUND";
    /// The item was deleted.
    DELETED = "DELETED";
    /// The item's expiry was changed.
    TOUCHED = "TOUCHED";
    /// End of a list of values or statistics.
    END = "END";
    /// Done.
    OK = "OK";
    /// Counters were zeroed.
    RESET = "RESET";
    /// Unknown command.
    ERROR = "ERROR";
    /// Too few words, a key over 250 bytes, a number that is none.
    BAD_FORMAT = "CLIENT_ERROR bad command line format";
    /// `delete` with a word it does not know; two blanks as in the original.
    DELETE_USAGE = "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]";
    /// A data block that does not end where its length says.
    BAD_CHUNK = "CLIENT_ERROR bad data chunk";
    /// An expiry that is not a number.
    INVALID_EXPTIME = "CLIENT_ERROR invalid exptime argument";
    /// A delta that is not an unsigned 64-bit number.
    INVALID_DELTA = "CLIENT_ERROR invalid numeric delta argument";
    /// incr or decr on a value that is not a number.
    NON_NUMERIC = "CLIENT_ERROR cannot increment or decrement non-numeric value";
    /// flush_all while it is switched off.
    FLUSH_DISABLED = "CLIENT_ERROR flush_all not allowed";
    /// The item does not fit under the item size limit.
    TOO_LARGE = "SERVER_ERROR object too large for cache";
    /// There is no room and nothing may be evicted.
    NO_MEMORY = "SERVER_ERROR out of memory storing object";
    /// `shutdown` while it is switched off; the colon is the original's.
    SHUTDOWN_DISABLED = "SERVER_ERROR: shutdown not enabled";
    /// `shutdown` with an unknown word.
    SHUTDOWN_MODE = "CLIENT_ERROR invalid shutdown mode";
    /// `cache_memlimit` under 8 MiB.
    MEMLIMIT_TOO_SMALL = "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m";
    /// `cache_memlimit` given in bytes.
    MEMLIMIT_TOO_LARGE = "MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes";
    /// The limit could not be changed.
    MEMLIMIT_FAILED = "MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust";
    /// A connection closed for what it was sending: all buffers together are over their limit.
    NO_MEMORY_READING = "SERVER_ERROR out of memory reading request";
    /// A reply longer than may be sent in datagrams.
    UDP_REPLY_TOO_LARGE = "SERVER_ERROR reply too large for UDP";
    /// More clients than the daemon takes.
    TOO_MANY_CONNECTIONS = "ERROR Too many open connections";

    /// Meta: a letter given twice.
    META_DUPLICATE_FLAG = "CLIENT_ERROR duplicate flag";
    /// Meta: a letter no meta command knows.
    META_INVALID_FLAG = "CLIENT_ERROR invalid flag";
    /// Meta: a flag whose number is none.
    META_BAD_TOKEN = "CLIENT_ERROR bad token in command line format";
    /// Meta: more than 20 words.
    META_TOO_MANY = "CLIENT_ERROR options flags are too long";
    /// Meta: an opaque over 32 bytes.
    META_OPAQUE_TOO_LONG = "CLIENT_ERROR opaque token too long";
    /// Meta: any wrong flag of `ma`.
    META_ARITHMETIC_FLAG = "CLIENT_ERROR invalid or duplicate flag";
    /// Meta: a key with flag `b` that is not base64.
    META_BAD_KEY = "CLIENT_ERROR error decoding key";
    /// Meta: unknown mode of `ms`.
    META_STORE_MODE = "CLIENT_ERROR invalid mode for ms M token";
    /// Meta: unknown mode of `ma`.
    META_ARITHMETIC_MODE = "CLIENT_ERROR invalid mode for ma M token";
    /// Meta: a hit without value, or success.
    META_HD = "HD";
    /// Meta: a miss of `mg` or `me`.
    META_EN = "EN";
    /// Meta: not found.
    META_NF = "NF";
    /// Meta: not stored.
    META_NS = "NS";
    /// Meta: exists, the cas number differs.
    META_EX = "EX";
    /// Meta: answer of `mn`.
    META_MN = "MN";

    /// A line before the login of an ASCII-authenticated connection.
    UNAUTHENTICATED = "CLIENT_ERROR unauthenticated";
    /// A login with a wrong user or password.
    AUTH_FAILURE = "CLIENT_ERROR authentication failure";
    /// A login without blank between user and password.
    AUTH_FORMAT = "CLIENT_ERROR bad authentication token format";
    /// A login block over 16 KiB.
    AUTH_TOO_LONG = "CLIENT_ERROR auth token too long";

    /// `slabs reassign` between equal classes.
    SLABS_SAME = "SAME src and dst class are identical";
    /// `slabs reassign` with a class out of range.
    SLABS_BAD_CLASS = "BADCLASS invalid src or dst class id";
    /// `slabs automove window` out of range.
    AUTOMOVE_WINDOW = "CLIENT_ERROR automove window too low or too high";
    /// `lru tune` with shares over 80 percent.
    LRU_PERCENT = "ERROR hot and warm pcts must not exceed 80";
    /// `lru tune` with factors at or below zero.
    LRU_FACTOR = "ERROR hot/warm age factors must be greater than 0";
    /// `lru_crawler enable` while it runs.
    CRAWLER_RUNNING = "ERROR failed to start lru crawler thread";
    /// `lru_crawler sleep` over one second.
    CRAWLER_SLEEP = "CLIENT_ERROR sleep must be one second or less";
    /// A second crawl or dump at the same time.
    CRAWLER_BUSY = "BUSY currently processing crawler request";
    /// A class id that is none.
    CRAWLER_BAD_CLASS = "BADCLASS invalid class id";
    /// `lru_crawler metadump` with -X.
    METADUMP_DISABLED = "ERROR metadump not allowed";
    /// `lru_crawler mgdump` with -X.
    MGDUMP_DISABLED = "ERROR key dump not allowed";
    /// `lru_crawler metadump` behind unsent replies.
    METADUMP_PIPELINED = "ERROR cannot pipeline other commands before metadump";
    /// `watch` with -W.
    WATCH_DISABLED = "CLIENT_ERROR watch commands not allowed";
    /// `watch` behind unsent replies.
    WATCH_PIPELINED = "ERROR cannot pipeline other commands before watch";
    /// `watch` while twenty others watch.
    WATCH_TOO_MANY = "WATCHER_TOO_MANY log watcher limit reached";
    /// `ns_invalidate` of yet another prefix.
    NS_TOO_MANY = "SERVER_ERROR too many namespaces";
    /// `refresh_certs` without TLS.
    TLS_DISABLED = "Error TLS not enabled";

    /// `stats detail` with an unknown word.
    STATS_DETAIL_USAGE = "CLIENT_ERROR usage: stats detail on|off|dump";
    /// `stats detail` with -X.
    STATS_DETAIL_DISABLED = "CLIENT_ERROR stats detail not allowed";
    /// `stats hotkeys` with -X; ours.
    HOTKEYS_DISABLED = "CLIENT_ERROR stats hotkeys not allowed";
    /// `stats cachedump` with too few words.
    CACHEDUMP_USAGE = "CLIENT_ERROR bad command line";
    /// `stats cachedump` with a class over 63.
    CACHEDUMP_CLASS = "CLIENT_ERROR Illegal slab id";
    /// `stats cachedump` with -X.
    CACHEDUMP_DISABLED = "CLIENT_ERROR stats cachedump not allowed";
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn every_text_is_one_line() {
        for text in ALL {
            assert!(text.ends_with(b"\r\n"), "{text:?}");
            assert_eq!(
                text.iter().filter(|byte| **byte == b'\n').count(),
                1,
                "{text:?}"
            );
        }
    }

    #[test]
    fn no_text_is_listed_twice() {
        let mut sorted: Vec<_> = ALL.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), ALL.len());
    }
}

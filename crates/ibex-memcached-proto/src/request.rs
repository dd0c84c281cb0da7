//! Server side of the text protocol: one line to one typed request, or to the refusal it deserves.
//!
//! Each verb has one function here; the match in [`parse`] is the list of all. Data blocks are not read here: a request that
//! carries one says how long it is, and the connection checks its end with [`block_ends_well`]. See `doc/protocol.txt`.

use crate::KEY_BYTES_MAX;
use crate::line::Words;
use crate::meta::{self, MetaArithmetic, MetaDebug, MetaDelete, MetaGet, MetaStore};
use crate::texts;
use ibex_base::ascii::{parse_i64, parse_u64};

/// Longest value a data block may announce, in bytes: the original's limit of a signed 32-bit number less the CRLF.
pub const BLOCK_BYTES_MAX: u64 = 2_147_483_645;

/// What a storage command does with an item that is or is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreVerb {
    /// Store in any case.
    Set,
    /// Store if there is no item.
    Add,
    /// Store if there is one.
    Replace,
    /// Put the data behind the stored value.
    Append,
    /// Put the data before the stored value.
    Prepend,
    /// Store if the item's cas number is this one.
    Cas(u64),
}

/// Direction of arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Add, wrapping at 2^64.
    Incr,
    /// Subtract, stopping at 0.
    Decr,
}

/// Whether the caller wants an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Reply as usual.
    Wanted,
    /// `noreply`: say nothing, not even errors.
    Suppressed,
}

/// Whether replies to a read carry cas numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithCas {
    /// `get`, `gat`.
    Omitted,
    /// `gets`, `gats`.
    Shown,
}

/// The line of a storage command; its data block of `value_bytes` and CRLF follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLine<'a> {
    /// What to do.
    pub verb: StoreVerb,
    /// The key, 1 to 250 bytes.
    pub key: &'a [u8],
    /// The client's flags.
    pub flags: u32,
    /// Expiry as written: 0 never, negative at once, up to 30 days relative, else absolute seconds.
    pub exptime: i64,
    /// Length of the data block without CRLF.
    pub value_bytes: usize,
    /// `noreply`.
    pub answer: Answer,
}

/// Commands of operators; their words are read where they are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminVerb {
    /// `stats …`
    Stats,
    /// `slabs …`
    Slabs,
    /// `lru …`
    Lru,
    /// `lru_crawler …`
    LruCrawler,
    /// `watch …`
    Watch,
    /// `refresh_certs`
    RefreshCerts,
    /// `debugtime …`, known only with test hooks.
    DebugTime,
    /// `ns_invalidate prefix`, known only with namespaces.
    NamespaceInvalidate,
}

/// How `shutdown` ends the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownMode {
    /// As SIGINT.
    Now,
    /// As SIGUSR1.
    Graceful,
    /// A word that is no mode.
    Unknown,
}

/// One request of the text protocol.
#[derive(Debug, Clone)]
pub enum Request<'a> {
    /// `get`, `gets`. Every key was checked.
    Get {
        /// Whether cas numbers are shown.
        with_cas: WithCas,
        /// The keys, at least one.
        keys: Words<'a>,
    },
    /// `gat`, `gats`. Every key was checked.
    GetAndTouch {
        /// Whether cas numbers are shown.
        with_cas: WithCas,
        /// The new expiry as written.
        exptime: i64,
        /// The keys, at least one.
        keys: Words<'a>,
    },
    /// A storage command.
    Store(StoreLine<'a>),
    /// `delete`.
    Delete {
        /// The key.
        key: &'a [u8],
        /// `noreply`.
        answer: Answer,
    },
    /// `incr`, `decr`.
    Arithmetic {
        /// Up or down.
        direction: Direction,
        /// The key.
        key: &'a [u8],
        /// By how much.
        delta: u64,
        /// `noreply`.
        answer: Answer,
    },
    /// `touch`.
    Touch {
        /// The key.
        key: &'a [u8],
        /// The new expiry as written.
        exptime: i64,
        /// `noreply`.
        answer: Answer,
    },
    /// `flush_all`.
    FlushAll {
        /// When, as written; `None` or 0 is now.
        delay: Option<i64>,
        /// `noreply`.
        answer: Answer,
    },
    /// `version`.
    Version,
    /// `verbosity`.
    Verbosity {
        /// The level asked for.
        level: u64,
        /// `noreply`.
        answer: Answer,
    },
    /// `quit`.
    Quit,
    /// `shutdown`.
    Shutdown(ShutdownMode),
    /// `cache_memlimit` in MiB.
    CacheMemlimit {
        /// The new limit.
        megabytes: u64,
        /// `noreply`.
        answer: Answer,
    },
    /// `mg`.
    MetaGet(MetaGet<'a>),
    /// `ms`; its data block follows.
    MetaStore(MetaStore<'a>),
    /// `md`.
    MetaDelete(MetaDelete<'a>),
    /// `ma`.
    MetaArithmetic(MetaArithmetic<'a>),
    /// `mn`.
    MetaNoop,
    /// `me`.
    MetaDebug(MetaDebug<'a>),
    /// A command of operators.
    Admin {
        /// Which.
        verb: AdminVerb,
        /// The words behind it.
        words: Words<'a>,
    },
}

/// Why a line is no request, and what the connection does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The line to answer, unless suppressed.
    pub text: &'static [u8],
    /// Length of the data block (without CRLF) that follows and is thrown away.
    pub swallow: Option<usize>,
    /// `noreply` was on the line.
    pub answer: Answer,
    /// The peer speaks HTTP: close without a reply.
    pub close: bool,
}

impl Refusal {
    /// A refusal that is answered and has no data block behind it.
    pub const fn text(text: &'static [u8]) -> Self {
        Self {
            text,
            swallow: None,
            answer: Answer::Wanted,
            close: false,
        }
    }

    const fn quiet_if(self, answer: Answer) -> Self {
        Self { answer, ..self }
    }

    pub(crate) const fn swallowing(self, bytes: usize) -> Self {
        Self {
            swallow: Some(bytes),
            ..self
        }
    }
}

/// Result of reading a line.
pub type Parsed<'a> = Result<Request<'a>, Refusal>;

/// Reads one line (without CR and LF).
///
/// # Errors
/// A [`Refusal`] when the line is no request.
#[inline]
pub fn parse(line: &[u8]) -> Parsed<'_> {
    if line.len() < 2 {
        return Err(Refusal::text(texts::BAD_FORMAT));
    }
    let mut words = Words::new(line);
    let Some(verb) = words.next() else {
        return Err(Refusal::text(texts::BAD_FORMAT));
    };
    match verb {
        b"get" => read(words, WithCas::Omitted),
        b"gets" => read(words, WithCas::Shown),
        b"set" => store(words, StoreVerb::Set),
        b"mg" => meta::parse_get(words).map(Request::MetaGet),
        b"ms" => meta::parse_store(words).map(Request::MetaStore),
        b"md" => meta::parse_delete(words).map(Request::MetaDelete),
        b"ma" => meta::parse_arithmetic(words).map(Request::MetaArithmetic),
        b"mn" => Ok(Request::MetaNoop),
        b"me" => meta::parse_debug(words).map(Request::MetaDebug),
        b"add" => store(words, StoreVerb::Add),
        b"replace" => store(words, StoreVerb::Replace),
        b"append" => store(words, StoreVerb::Append),
        b"prepend" => store(words, StoreVerb::Prepend),
        b"cas" => store(words, StoreVerb::Cas(0)),
        b"gat" => read_and_touch(words, WithCas::Omitted),
        b"gats" => read_and_touch(words, WithCas::Shown),
        b"delete" => delete(words),
        b"incr" => arithmetic(words, Direction::Incr),
        b"decr" => arithmetic(words, Direction::Decr),
        b"touch" => touch(words),
        b"flush_all" => flush_all(words),
        b"version" => Ok(Request::Version),
        b"verbosity" => verbosity(words),
        b"quit" => Ok(Request::Quit),
        b"shutdown" => Ok(Request::Shutdown(shutdown_mode(words))),
        b"cache_memlimit" => cache_memlimit(words),
        _ => operators(verb, words, line),
    }
}

fn operators<'a>(verb: &[u8], words: Words<'a>, line: &'a [u8]) -> Parsed<'a> {
    let verb = match verb {
        b"stats" => AdminVerb::Stats,
        b"slabs" => AdminVerb::Slabs,
        b"lru" => AdminVerb::Lru,
        b"lru_crawler" => AdminVerb::LruCrawler,
        b"watch" => AdminVerb::Watch,
        b"refresh_certs" => AdminVerb::RefreshCerts,
        b"debugtime" => AdminVerb::DebugTime,
        b"ns_invalidate" => AdminVerb::NamespaceInvalidate,
        _ => {
            let close = Words::new(line)
                .last()
                .is_some_and(|word| word.starts_with(b"HTTP/"));
            return Err(Refusal {
                close,
                ..Refusal::text(texts::ERROR)
            });
        }
    };
    Ok(Request::Admin { verb, words })
}

fn bad_format() -> Refusal {
    Refusal::text(texts::BAD_FORMAT)
}

fn answer_of(rest: &[u8]) -> Answer {
    match Words::new(rest).last() {
        Some(b"noreply") => Answer::Suppressed,
        Some(_) | None => Answer::Wanted,
    }
}

/// Checks that there is at least one key and none too long.
fn check_keys(words: &Words<'_>) -> Result<(), Refusal> {
    let mut rest = words.clone();
    let mut count = 0_usize;
    for key in rest.by_ref() {
        if key.len() > KEY_BYTES_MAX {
            return Err(bad_format());
        }
        count += 1;
    }
    if count == 0 {
        Err(bad_format())
    } else {
        Ok(())
    }
}

fn read(words: Words<'_>, with_cas: WithCas) -> Parsed<'_> {
    check_keys(&words)?;
    Ok(Request::Get {
        with_cas,
        keys: words,
    })
}

fn read_and_touch(mut words: Words<'_>, with_cas: WithCas) -> Parsed<'_> {
    let exptime = words.next().ok_or_else(bad_format)?;
    check_keys(&words)?;
    let exptime = parse_i64(exptime).ok_or(Refusal::text(texts::INVALID_EXPTIME))?;
    Ok(Request::GetAndTouch {
        with_cas,
        exptime,
        keys: words,
    })
}

fn store(mut words: Words<'_>, verb: StoreVerb) -> Parsed<'_> {
    let answer = answer_of(words.rest());
    let refusal = bad_format().quiet_if(answer);
    let key = words.next().ok_or(refusal)?;
    let (flags, exptime, bytes) = (
        words.next().ok_or(refusal)?,
        words.next().ok_or(refusal)?,
        words.next().ok_or(refusal)?,
    );
    let value_bytes = parse_u64(bytes)
        .filter(|bytes| *bytes <= BLOCK_BYTES_MAX)
        .ok_or(refusal)?;
    let value_bytes = usize::try_from(value_bytes).map_err(|_| refusal)?;
    let refusal = refusal.swallowing(value_bytes);
    if key.len() > KEY_BYTES_MAX {
        return Err(refusal);
    }
    let flags = parse_u64(flags)
        .and_then(|flags| u32::try_from(flags).ok())
        .ok_or(refusal)?;
    let exptime = parse_i64(exptime).ok_or(refusal)?;
    let verb = match verb {
        StoreVerb::Cas(_) => StoreVerb::Cas(words.next().and_then(parse_u64).ok_or(refusal)?),
        StoreVerb::Set
        | StoreVerb::Add
        | StoreVerb::Replace
        | StoreVerb::Append
        | StoreVerb::Prepend => verb,
    };
    Ok(Request::Store(StoreLine {
        verb,
        key,
        flags,
        exptime,
        value_bytes,
        answer,
    }))
}

fn delete(mut words: Words<'_>) -> Parsed<'_> {
    let answer = answer_of(words.rest());
    let key = words.next().ok_or(bad_format())?;
    if key.len() > KEY_BYTES_MAX {
        return Err(bad_format().quiet_if(answer));
    }
    // COMPAT(memcached 1.6.18): a third word must be `0` or `noreply`; libmemcached's checker tests it.
    let fine = match (words.next(), words.next(), words.next()) {
        (None, _, _)
        | (Some(b"0" | b"noreply"), None, _)
        | (Some(b"0"), Some(b"noreply"), None) => true,
        (Some(_), _, _) => false,
    };
    if !fine {
        return Err(Refusal::text(texts::DELETE_USAGE).quiet_if(answer));
    }
    Ok(Request::Delete { key, answer })
}

fn arithmetic(mut words: Words<'_>, direction: Direction) -> Parsed<'_> {
    let answer = answer_of(words.rest());
    let refusal = bad_format().quiet_if(answer);
    let key = words.next().ok_or(refusal)?;
    let delta = words.next().ok_or(refusal)?;
    if key.len() > KEY_BYTES_MAX {
        return Err(refusal);
    }
    let delta = parse_u64(delta).ok_or(Refusal::text(texts::INVALID_DELTA).quiet_if(answer))?;
    Ok(Request::Arithmetic {
        direction,
        key,
        delta,
        answer,
    })
}

fn touch(mut words: Words<'_>) -> Parsed<'_> {
    let answer = answer_of(words.rest());
    let refusal = bad_format().quiet_if(answer);
    let key = words.next().ok_or(refusal)?;
    let exptime = words.next().ok_or(refusal)?;
    if key.len() > KEY_BYTES_MAX {
        return Err(refusal);
    }
    let exptime =
        parse_i64(exptime).ok_or(Refusal::text(texts::INVALID_EXPTIME).quiet_if(answer))?;
    Ok(Request::Touch {
        key,
        exptime,
        answer,
    })
}

fn flush_all(mut words: Words<'_>) -> Parsed<'_> {
    let answer = answer_of(words.rest());
    let delay = match words.next() {
        None | Some(b"noreply") => None,
        Some(word) => {
            Some(parse_i64(word).ok_or(Refusal::text(texts::INVALID_EXPTIME).quiet_if(answer))?)
        }
    };
    Ok(Request::FlushAll { delay, answer })
}

fn verbosity(mut words: Words<'_>) -> Parsed<'_> {
    let answer = answer_of(words.rest());
    let refusal = bad_format().quiet_if(answer);
    match words.next() {
        // COMPAT(memcached): `verbosity` alone is too short to be a command at all.
        None => Err(Refusal::text(texts::ERROR)),
        Some(word) => {
            let level = parse_u64(word).ok_or(refusal)?;
            Ok(Request::Verbosity { level, answer })
        }
    }
}

fn shutdown_mode(mut words: Words<'_>) -> ShutdownMode {
    match words.next() {
        None => ShutdownMode::Now,
        Some(b"graceful") => ShutdownMode::Graceful,
        Some(_) => ShutdownMode::Unknown,
    }
}

fn cache_memlimit(mut words: Words<'_>) -> Parsed<'_> {
    let answer = answer_of(words.rest());
    let megabytes = words
        .next()
        .and_then(parse_u64)
        .ok_or(Refusal::text(texts::ERROR).quiet_if(answer))?;
    Ok(Request::CacheMemlimit { megabytes, answer })
}

/// Whether the two bytes behind a data block end it properly.
pub fn block_ends_well(tail: &[u8]) -> bool {
    tail == b"\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal(line: &[u8]) -> Refusal {
        match parse(line) {
            Err(refusal) => refusal,
            Ok(request) => panic!("{request:?} should be refused"),
        }
    }

    fn check_store(line: &[u8], expected: StoreLine<'_>) {
        match parse(line) {
            Ok(Request::Store(store)) => assert_eq!(store, expected),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn storage_lines() {
        let set = StoreLine {
            verb: StoreVerb::Set,
            key: b"k",
            flags: 4_294_967_295,
            exptime: -1,
            value_bytes: 5,
            answer: Answer::Wanted,
        };
        check_store(b"set k 4294967295 -1 5", set);
        check_store(
            b"set k 4294967295 -1 5 noreply",
            StoreLine {
                answer: Answer::Suppressed,
                ..set
            },
        );
        check_store(
            b"cas k 4294967295 -1 5 77",
            StoreLine {
                verb: StoreVerb::Cas(77),
                ..set
            },
        );
        check_store(b"set k 4294967295 -1 5 extra words", set);
    }

    #[test]
    fn a_readable_length_is_swallowed_and_an_unreadable_one_is_not() {
        assert_eq!(refusal(b"set k x 0 5").swallow, Some(5));
        assert_eq!(refusal(b"set k 0 0 -5").swallow, None);
        assert_eq!(refusal(b"set k 0 0 2147483646").swallow, None);
        assert_eq!(
            refusal(b"set k -1 0 7 noreply"),
            bad_format().quiet_if(Answer::Suppressed).swallowing(7)
        );
    }

    #[test]
    fn key_limit_at_minus_one_zero_plus_one() {
        for (len, fine) in [
            (KEY_BYTES_MAX - 1, true),
            (KEY_BYTES_MAX, true),
            (KEY_BYTES_MAX + 1, false),
        ] {
            let mut line = b"get ".to_vec();
            line.resize(4 + len, b'k');
            assert_eq!(parse(&line).is_ok(), fine, "{len}");
        }
    }

    #[test]
    fn http_is_closed_without_a_word() {
        assert!(refusal(b"GET / HTTP/1.1").close);
        assert!(!refusal(b"GET /").close);
        assert_eq!(refusal(b"GET /").text, texts::ERROR);
    }

    #[test]
    fn delete_takes_a_zero_and_noreply_only() {
        assert!(parse(b"delete k").is_ok());
        assert!(parse(b"delete k 0").is_ok());
        assert!(parse(b"delete k 0 noreply").is_ok());
        assert_eq!(refusal(b"delete k 4").text, texts::DELETE_USAGE);
        assert_eq!(refusal(b"delete k foo noreply").answer, Answer::Suppressed);
    }

    proptest! {
        #[test]
        fn no_line_panics(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(parse(&line));
        }

        #[test]
        fn no_line_of_plausible_words_panics(line in "(get|gets|set|add|cas|mg|ms|md|ma|me|mn|gat|touch|incr|delete|flush_all|verbosity)( [a-zA-Z0-9+=-]{0,4}){0,24}") {
            drop(parse(line.as_bytes()));
        }
    }
}

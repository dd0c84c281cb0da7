//! FILE.meta: what the items' file holds, as lines of text that end with a digest of themselves.

use std::fmt::Write as _;
use xxhash_rust::xxh3::xxh3_64;

/// First line; the number changes with the format.
const MAGIC: &str = "ibex-memcached items 1";

/// What is known of the items' file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    /// Length of the file.
    pub(super) bytes: u64,
    pub(super) blocks: u64,
    pub(super) items: u64,
    /// Of all blocks, see `blocks.rs`.
    pub(super) digest: u64,
    /// Date of the clock's second 0.
    pub(super) zero_unix: i64,
    /// The clock's second when the items were written.
    pub(super) now: u32,
    /// The last cas number given.
    pub(super) cas: u64,
    pub(super) hash_power: u32,
    /// Second of a flush that is still to come, 0 for none.
    pub(super) flush_at: u32,
    /// Seed of the hash; not in files of older versions.
    pub(super) seed: Option<u64>,
}

impl Meta {
    /// The file's text.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{MAGIC}\n");
        let Self {
            bytes,
            blocks,
            items,
            digest,
            zero_unix,
            now,
            cas,
            hash_power,
            flush_at,
            seed,
        } = self;
        let lines = format!(
            "bytes {bytes}\nblocks {blocks}\nitems {items}\ndigest {digest}\nzero_unix {zero_unix}\nnow {now}\ncas {cas}\nhash_power {hash_power}\nflush_at {flush_at}\n"
        );
        text.push_str(&lines);
        if let Some(seed) = seed {
            text.push_str(&format!("seed {seed}\n"));
        }
        let check = xxh3_64(text.as_bytes());
        // Writing to a String cannot fail.
        let _written = writeln!(text, "check {check:016x}").is_ok();
        text
    }

    /// Reads the text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        if text.is_empty() {
            return Err("its description is empty".to_owned());
        }
        let text = std::str::from_utf8(text).map_err(|_| "its description is no text")?;
        if text.lines().next() != Some(MAGIC) {
            return Err(format!(
                "was not written by this program or format: no \"{MAGIC}\""
            ));
        }
        let (body, check) = text
            .strip_suffix('\n')
            .and_then(|text| text.rsplit_once('\n'))
            .ok_or("its description is not whole")?;
        let body = format!("{body}\n");
        if check != format!("check {:016x}", xxh3_64(body.as_bytes())) {
            return Err("its description was changed or is not whole".to_owned());
        }
        Ok(Self {
            bytes: number(&body, "bytes")?,
            blocks: number(&body, "blocks")?,
            items: number(&body, "items")?,
            digest: number(&body, "digest")?,
            zero_unix: number(&body, "zero_unix")?,
            now: number(&body, "now")?,
            cas: number(&body, "cas")?,
            hash_power: number(&body, "hash_power")?,
            flush_at: number(&body, "flush_at")?,
            seed: number(&body, "seed").ok(),
        })
    }
}

fn number<N: std::str::FromStr>(body: &str, name: &str) -> Result<N, String> {
    let words = body.lines().filter_map(|line| line.split_once(' '));
    let mut value = words
        .filter(|(found, _)| *found == name)
        .map(|(_, value)| value);
    value
        .next_back()
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| format!("its description has no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: Meta = Meta {
        bytes: 12_345,
        blocks: 2,
        items: 100,
        digest: u64::MAX,
        zero_unix: -5,
        now: 77,
        cas: 1 << 50,
        hash_power: 17,
        flush_at: 0,
        seed: Some(u64::MAX),
    };

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Meta::parse(META.text().as_bytes()), Ok(META));
        let older = Meta { seed: None, ..META };
        assert_eq!(Meta::parse(older.text().as_bytes()), Ok(older));
    }

    #[test]
    fn anything_else_is_refused() {
        let text = META.text().into_bytes();
        for len in 0..text.len() {
            assert!(Meta::parse(&text[..len]).is_err(), "{len}");
        }
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 1;
            assert!(Meta::parse(&changed).is_err(), "{at}");
        }
        assert!(
            Meta::parse(b"K1\nmemory_file\n")
                .unwrap_err()
                .contains("not written by this program")
        );
    }
}

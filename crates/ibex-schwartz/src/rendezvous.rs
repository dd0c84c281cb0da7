//! An order of databases that depends on words alone, the same at every client (rendezvous hashing).
//!
//! Apart because whoever asks for the same key must begin at the same database, whatever else differs.

use crate::database::Database;
use std::cmp::Reverse;

/// Sorts databases by a hash of each with the words.
pub(crate) fn sort(databases: &mut [Database], words: &[&str]) {
    databases.sort_by_key(|database| Reverse(weight(database.hash(), words)));
}

fn weight(database: &str, words: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for word in std::iter::once(&database).chain(words) {
        for byte in word.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    // FNV leaves the last bytes in the low bits only.
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spread_and_words_are_kept_apart() {
        let first = (0..1000)
            .filter(|key| {
                let key = key.to_string();
                weight("one", &["f", &key]) > weight("two", &["f", &key])
            })
            .count();
        assert!((400..600).contains(&first), "{first}");
        assert_ne!(weight("d", &["ab", "c"]), weight("d", &["a", "bc"]));
    }
}

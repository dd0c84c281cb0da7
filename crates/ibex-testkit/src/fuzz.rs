//! What fuzz targets do without a fuzzer: their corpus again, and changed copies of it by seed, on the stable compiler.
//!
//! A target's body takes any bytes and panics when something does not hold. Under cargo-fuzz the coverage finds the bytes; here the files it once found
//! interesting are the start, and the same seed gives the same run on every machine.

use std::path::Path;

use ibex_base::rng::Rng;

/// Changes to one input, at the most.
const EDITS_MAX: u64 = 6;

/// The inputs in `folder`, in the order of their names.
///
/// # Panics
/// If the folder cannot be read, or holds fewer than `least` files: a corpus that got lost must not pass for one that holds.
#[must_use]
pub fn corpus(folder: impl AsRef<Path>, least: usize) -> Vec<Vec<u8>> {
    let folder = folder.as_ref();
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a folder's entry").path())
        .collect();
    paths.sort();
    assert!(
        paths.len() >= least,
        "the corpus in {} has only {} files",
        folder.display(),
        paths.len()
    );
    paths
        .iter()
        .map(|path| {
            std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        })
        .collect()
}

/// Every input as it is, and each cut off behind every byte: what a peer sends that dies at any moment.
pub fn prefixes(inputs: &[Vec<u8>], mut body: impl FnMut(&[u8])) {
    for input in inputs {
        for end in 0..=input.len() {
            body(&input[..end]);
        }
    }
}

/// `runs` changed copies of `inputs` by `seed`; `IBEX_FUZZ_RUNS` widens the run.
///
/// # Panics
/// If there are no inputs, or `IBEX_FUZZ_RUNS` is no number.
pub fn neighbours(inputs: &[Vec<u8>], seed: u64, runs: u64, mut body: impl FnMut(&[u8])) {
    let runs = std::env::var("IBEX_FUZZ_RUNS").map_or(runs, |runs| {
        runs.parse().expect("IBEX_FUZZ_RUNS is a number")
    });
    let mut rng = Rng::new(seed);
    for _ in 0..runs {
        let mut input = rng.pick(inputs).expect("inputs to change").clone();
        for _ in 0..=rng.below(EDITS_MAX) {
            edit(&mut rng, &mut input, inputs);
        }
        body(&input);
    }
}

/// One change: a byte more, another or gone, a bit turned, a cut, a piece said twice, or a piece of another input amid this one.
fn edit(rng: &mut Rng, input: &mut Vec<u8>, inputs: &[Vec<u8>]) {
    let at = rng.index(input.len() + 1);
    let byte = rng.next_u64().to_le_bytes()[0];
    match rng.below(8) {
        0 => input.insert(at, byte),
        1 if at < input.len() => input[at] = byte,
        2 if at < input.len() => drop(input.remove(at)),
        3 if at < input.len() => input[at] ^= 1 << rng.below(8),
        4 => input.truncate(at),
        5 => {
            let end = (at + rng.index(64)).min(input.len());
            let piece = input[at..end].to_vec();
            input.splice(at..at, piece);
        }
        _ => {
            let other = rng.pick(inputs).expect("inputs to change");
            let from = rng.index(other.len() + 1);
            input.splice(at..at, other[from..].iter().copied());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_run_and_every_edit_occurs() {
        let inputs = [b"one input".to_vec(), b"another".to_vec()];
        let run = |seed| {
            let mut seen = Vec::new();
            neighbours(&inputs, seed, 500, |input| seen.push(input.to_vec()));
            seen
        };
        let seen = run(7);
        assert_eq!(seen, run(7));
        assert_ne!(seen, run(8));
        assert!(seen.iter().any(|input| input.len() > 20));
        assert!(seen.iter().any(|input| input.len() < 5));
    }

    #[test]
    fn prefixes_begin_with_nothing_and_end_with_all() {
        let mut seen = Vec::new();
        prefixes(&[b"abc".to_vec()], |input| seen.push(input.to_vec()));
        assert_eq!(
            seen,
            [&b""[..], b"a", b"ab", b"abc"].map(<[u8]>::to_vec).to_vec()
        );
    }

    #[test]
    #[should_panic(expected = "has only 1 files")]
    fn a_lost_corpus_is_no_corpus() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), b"x").unwrap();
        drop(corpus(folder.path(), 2));
    }
}

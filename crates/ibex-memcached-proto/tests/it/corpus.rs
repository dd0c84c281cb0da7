//! Replays the fuzz target's corpus on stable: every input that was ever interesting runs through the same body as under the fuzzer.

use std::path::Path;

#[path = "../../fuzz/src/body.rs"]
mod body;

#[test]
fn corpus_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/stream");
    let mut count = 0;
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    for file in files {
        body::run(&std::fs::read(&file).unwrap());
        count += 1;
    }
    assert!(
        count >= 20,
        "the corpus in {} has only {count} files",
        folder.display()
    );
}

#[test]
fn mutated_corpus_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/stream");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect();
    let mut rng = ibex_base::rng::Rng::new(11211);
    for _ in 0..20_000 {
        let mut input = rng.pick(&seeds).unwrap().clone();
        for _ in 0..=rng.below(4) {
            mutate(&mut rng, &mut input, &seeds);
        }
        body::run(&input);
    }
}

fn mutate(rng: &mut ibex_base::rng::Rng, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let at = rng.index(input.len() + 1);
    let byte = u8::try_from(rng.below(256)).unwrap();
    match rng.below(6) {
        0 => input.insert(at, byte),
        1 if at < input.len() => input[at] = byte,
        2 if at < input.len() => {
            input.remove(at);
        }
        3 if at < input.len() => input[at] ^= 1 << rng.below(8),
        4 => input.truncate(at),
        _ => input.extend_from_slice(rng.pick(seeds).unwrap()),
    }
}

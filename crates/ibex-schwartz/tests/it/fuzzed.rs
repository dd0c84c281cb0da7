//! The fuzz target's corpus, and a while of changed copies of it by seed, on the stable compiler: `IBEX_FUZZ_RUNS` makes it longer.

#[path = "../../fuzz/src/body.rs"]
mod body;

use ibex_base::rng::Rng;

const RUNS: u64 = 20_000;

fn corpus() -> Vec<Vec<u8>> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/schwartz");
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

#[test]
fn the_corpus_and_its_neighbours_hold() {
    let corpus = corpus();
    assert!(corpus.len() >= 20);
    for bytes in &corpus {
        body::run(bytes);
        for end in 0..bytes.len() {
            body::run(&bytes[..end]);
        }
    }
    let runs = std::env::var("IBEX_FUZZ_RUNS")
        .ok()
        .and_then(|runs| runs.parse().ok())
        .unwrap_or(RUNS);
    let mut rng = Rng::new(7);
    let mut below =
        |limit: usize| usize::try_from(rng.below(u64::try_from(limit).unwrap())).unwrap();
    for _ in 0..runs {
        let mut bytes = corpus[below(corpus.len())].clone();
        for _ in 0..=below(6) {
            let at = below(bytes.len() + 1);
            match below(4) {
                0 => bytes.insert(at, u8::try_from(below(256)).unwrap()),
                1 if at < bytes.len() => drop(bytes.remove(at)),
                2 if at < bytes.len() => bytes[at] = u8::try_from(below(256)).unwrap(),
                _ => {
                    let other = &corpus[below(corpus.len())];
                    let from = below(other.len() + 1);
                    bytes.splice(at..at, other[from..].iter().copied().take(40));
                }
            }
        }
        body::run(&bytes);
    }
}

//! The fuzz target's corpus, cut off everywhere, and a while of changed copies of it by seed, on the stable compiler.

#[path = "../../fuzz/src/body.rs"]
mod body;

use ibex_testkit::fuzz;

#[test]
fn the_corpus_and_its_neighbours_hold() {
    let corpus = fuzz::corpus(
        concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/schwartz"),
        20,
    );
    fuzz::prefixes(&corpus, body::run);
    fuzz::neighbours(&corpus, 7, 20_000, body::run);
}

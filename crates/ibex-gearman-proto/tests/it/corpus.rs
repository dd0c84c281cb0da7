//! Replays the fuzz target's corpus on stable: every input that was ever interesting runs through the same body as under the fuzzer.

use ibex_testkit::fuzz;

#[path = "../../fuzz/src/body.rs"]
mod body;

fn corpus() -> Vec<Vec<u8>> {
    fuzz::corpus(
        concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/stream"),
        20,
    )
}

#[test]
fn corpus_holds() {
    for input in corpus() {
        body::run(&input);
    }
}

#[test]
fn mutated_corpus_holds() {
    fuzz::neighbours(&corpus(), 4730, 20_000, body::run);
}

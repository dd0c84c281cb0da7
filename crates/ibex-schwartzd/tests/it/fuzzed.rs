//! The fuzz target's corpus, cut off everywhere, and a while of changed copies of it by seed, on the stable compiler.

use ibex_testkit::fuzz;

#[test]
fn bodies_handles_and_leases_of_the_corpus_and_their_neighbours_hold() {
    let corpus = fuzz::corpus(
        concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/schwartzd"),
        30,
    );
    fuzz::prefixes(&corpus, ibex_schwartzd::probe);
    fuzz::neighbours(&corpus, 11, 20_000, ibex_schwartzd::probe);
}

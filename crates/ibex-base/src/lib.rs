//! Std-only helpers shared by the pure crates: deadline heap, ASCII numbers, escaped bytes, seeded random numbers.

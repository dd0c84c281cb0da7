//! Giving freed memory back to the system.
//!
//! Apart because it is one of the crate's two places with `unsafe`. The C library keeps what a program frees in the middle of its heap, for its next
//! allocations; after a large queue has been worked off that is most of the process.

/// Asks the C library to give back whole pages that are free, wherever they lie. Takes time in proportion to what is free, during which other threads may
/// wait for memory: for the moment after much was freed, not for a routine. Without the GNU C library it does nothing.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    trim();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(
    unsafe_code,
    reason = "a function of the C library that Rust's library does not have"
)]
fn trim() {
    // SAFETY: the declaration is malloc_trim(3)'s.
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    // SAFETY: it may be called by any thread at any time; it changes nothing that is allocated.
    let has_given = unsafe { malloc_trim(0) };
    tracing::debug!(has_given, "freed memory given back");
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_allocated_stays() {
        let kept: Vec<Box<[u8]>> = (0..1000_u16)
            .map(|n| vec![n.to_le_bytes()[0]; 1000].into())
            .collect();
        drop(vec![0_u8; 1 << 20]);
        super::give_back();
        assert!(
            kept.iter()
                .zip(0..1000_u16)
                .all(|(bytes, n)| bytes.iter().all(|byte| *byte == n.to_le_bytes()[0]))
        );
    }
}

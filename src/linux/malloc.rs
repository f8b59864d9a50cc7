//! Tunes glibc's allocator: few arenas, and freed memory returned to the kernel. `main` calls the
//! first once, `daemon` the second when a burst of work is over.

/// The arenas of the allocator: with two, one more thread may allocate without waiting, and little
/// memory is kept apart.
const ARENAS: libc::c_int = 2;

/// Limits the number of arenas. Call it before threads start.
#[cfg(target_env = "gnu")]
pub fn limit_arenas() {
    // SAFETY: mallopt only sets a parameter of the allocator; M_ARENA_MAX takes any positive
    // number.
    #[expect(unsafe_code, reason = "the parameter has no safe interface")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

/// Returns free memory to the kernel. Takes up to some milliseconds with a large heap.
#[cfg(target_env = "gnu")]
pub fn trim() {
    // SAFETY: malloc_trim takes the allocator's own locks and touches free memory only.
    #[expect(unsafe_code, reason = "there is no safe interface to it")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Does nothing: other C libraries have no arenas.
#[cfg(not(target_env = "gnu"))]
pub fn limit_arenas() {}

/// Does nothing: other C libraries return memory by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn trim() {}

#[cfg(test)]
mod tests {
    #[test]
    fn both_leave_the_allocator_working() {
        super::limit_arenas();
        let kept: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        super::trim();
        assert_eq!(kept.concat().len(), 10 + 90 * 2 + 900 * 3);
    }
}

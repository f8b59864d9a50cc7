//! Makes randomness repeatable for a simulation: while a seed is set, the C library's `getrandom`
//! is a generator.
//!
//! The standard library takes the keys of its hash maps from `getrandom`, and from those tokio
//! takes the order of the branches of a `select!`. The standard library lets programs replace the C
//! library's `getrandom` for exactly such a purpose. Compiled for tests and with the feature
//! `testkit` only.

use std::cell::Cell;

thread_local! {
    /// The generator's state; zero passes the kernel's randomness on.
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// Derives the randomness of this thread from `seed` from now on: its keys are no secrets.
pub fn seed_this_thread(seed: u64) {
    STATE.set(seed | 1);
}

/// Returns the next number of a SplitMix64 generator.
pub fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[expect(unsafe_code, reason = "the C library's function has this signature")]
// SAFETY: the program has one function of this name, with the signature of the C library's.
#[unsafe(no_mangle)]
extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    let mut state = STATE.get();
    if state == 0 {
        // SAFETY: the arguments are the caller's, as it would have given them to the C library.
        let got = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) };
        return libc::ssize_t::try_from(got).unwrap_or(-1);
    }

    // SAFETY: the caller owns `length` bytes at `buffer`.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        let number = next(&mut state).to_le_bytes();
        chunk.copy_from_slice(&number[..chunk.len()]);
    }

    STATE.set(state | 1);
    libc::ssize_t::try_from(length).unwrap_or(-1)
}

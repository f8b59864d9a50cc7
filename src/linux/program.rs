//! The memory of the program itself: pages of its code that were needed once. Called by `daemon` when a burst of work is
//! over, as `malloc::trim`.

/// Where the kernel lists the mappings of this process.
const MAPS: &str = "/proc/self/maps";

/// Lets go of the pages of the program's and its libraries' code. What is used again comes back from the page cache at the
/// price of a soft fault; what only the start or a burst needed does not, and is no longer counted or kept for this
/// process. Nothing is lost: code is never written, so its pages are those of the file.
pub fn forget_code() {
    let Ok(program) = std::fs::read_link("/proc/self/exe") else { return };
    let Ok(maps) = std::fs::read_to_string(MAPS) else { return };
    for (start, length) in code(&maps, &program.to_string_lossy()) {
        // SAFETY: the range is a private mapping of a file that is not writable and never was, so no page of it differs
        // from the file; dropping the pages makes the next access read them from there again.
        #[expect(unsafe_code, reason = "there is no safe interface to it")]
        let outcome =
            unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(start), length, libc::MADV_DONTNEED) };
        if outcome != 0 {
            tracing::debug!(error = %std::io::Error::last_os_error(), "The program's code stays in memory");
        }
    }
}

/// The mappings of files that hold code, and the first one of `program`, its constants: where each starts and how long
/// it is. Not what the linker has written to and then protected, which lies behind the code.
fn code(maps: &str, program: &str) -> Vec<(usize, usize)> {
    let parse = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (range, mode, offset) = (fields.next()?, fields.next()?, fields.next()?);
        // Of a path with spaces only the beginning: enough to see that it is one.
        let path = fields.nth(2)?;
        let is_constants = mode == "r--p" && offset.bytes().all(|digit| digit == b'0') && path == program;
        if !(mode == "r-xp" && path.starts_with('/') || is_constants) {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        Some((start, usize::from_str_radix(end, 16).ok()?.checked_sub(start)?))
    };
    maps.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::{code, forget_code};

    #[test]
    fn only_what_was_never_written_is_let_go() {
        let maps = "\
55d4c97b3000-55d4c9a62000 r--p 00000000 fe:00 123    /usr/bin/rkubelet
55d4c9a62000-55d4ca3f1000 r-xp 002af000 fe:00 123    /usr/bin/rkubelet
55d4ca3f1000-55d4ca439000 r--p 00c3e000 fe:00 123    /usr/bin/rkubelet
55d4ca500000-55d4ca501000 rwxp 00c3e000 fe:00 123    /usr/bin/rkubelet
7fee28a69000-7fee28bbf000 r--p 00000000 fe:00 456    /other/usr/bin/rkubelet
7fee28c69000-7fee28cbf000 r-xp 00026000 fe:00 456    /usr/lib/a b/libc.so.6
7fee28d69000-7fee28d70000 r-xp 00000000 00:00 0
7ffc30000000-7ffc30002000 r-xp 00000000 00:00 0      [vdso]
";
        let found = code(maps, "/usr/bin/rkubelet");
        assert_eq!(found, [(0x55d4_c97b_3000, 0x2a_f000), (0x55d4_c9a6_2000, 0x98_f000), (0x7fee_28c6_9000, 0x5_6000)]);
        assert_eq!(code("", "/usr/bin/rkubelet"), []);
    }

    #[test]
    fn the_program_goes_on_after_it() {
        forget_code();
        assert_eq!((0..10).map(|number| number.to_string()).collect::<String>(), "0123456789");
    }
}

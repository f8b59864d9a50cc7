//! The memory of the program itself: pages of its code that were needed once. Called by `daemon` when a burst of work is
//! over, as `malloc::trim`.

/// Where the kernel lists the mappings of this process and what of each is in memory.
const MAPS: &str = "/proc/self/smaps";

/// Lets go of the pages of the program and its libraries that nobody has written to: code and constants. What is used
/// again comes back from the page cache at the price of a soft fault; what only the start or a burst needed does not, and
/// is no longer counted or kept for this process. Nothing is lost: these pages are those of the file.
pub fn forget_code() {
    let Ok(maps) = std::fs::read_to_string(MAPS) else { return };
    for (start, length) in unwritten(&maps) {
        // SAFETY: the range is a private mapping of a file that is not writable and has no page of its own, so no page
        // of it differs from the file; dropping the pages makes the next access read them from there again.
        #[expect(unsafe_code, reason = "there is no safe interface to it")]
        let outcome =
            unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(start), length, libc::MADV_DONTNEED) };
        if outcome != 0 {
            tracing::debug!(error = %std::io::Error::last_os_error(), "The program's code stays in memory");
        }
    }
}

/// The mappings of files that cannot be written and of which the kernel says that no page was: where each starts and how
/// long it is. What the linker has written to and then protected has pages of its own, here or swapped out.
fn unwritten(maps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    // The mapping that the lines are about, if it may be let go, and which of its two counts are known to be zero.
    let mut current: Option<(usize, usize)> = None;
    let mut own_pages_none = false;
    for line in maps.lines() {
        let Some((name, size)) = line.split_once(char::is_whitespace) else { continue };
        match name {
            "Anonymous:" => own_pages_none = size.trim() == "0 kB",
            "Swap:" if own_pages_none && size.trim() == "0 kB" => found.extend(current.take()),
            _ if name.ends_with(':') => {}
            _ => (current, own_pages_none) = (protected_file(line), false),
        }
    }
    found
}

/// Where the mapping of `line` starts and how long it is, if it is one of a file, private, and cannot be written.
fn protected_file(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, mode) = (fields.next()?, fields.next()?);
    // Of a path with spaces only the beginning: enough to see that it is one.
    let path = fields.nth(3)?;
    if !matches!(mode, "r-xp" | "r--p") || !path.starts_with('/') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    Some((start, usize::from_str_radix(end, 16).ok()?.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::{forget_code, unwritten};

    #[test]
    fn only_what_was_never_written_is_let_go() {
        let mapping = |head: &str, own: u32, swapped: u32| {
            format!("{head}\nRss:  8 kB\nAnonymous:   {own} kB\nTHPeligible:    0\nSwap:   {swapped} kB\nVmFlags: rd\n")
        };
        let maps = [
            mapping("55d4c97b3000-55d4c9a62000 r--p 00000000 fe:00 123    /usr/bin/rkubelet", 0, 0),
            mapping("55d4c9a62000-55d4ca3f1000 r-xp 002af000 fe:00 123    /usr/bin/rkubelet", 0, 0),
            mapping("55d4ca3f1000-55d4ca439000 r--p 00c3e000 fe:00 123    /usr/bin/rkubelet", 288, 0),
            mapping("55d4ca440000-55d4ca441000 r--p 00c3e000 fe:00 123    /usr/bin/rkubelet", 0, 4),
            mapping("55d4ca500000-55d4ca501000 rwxp 00c3e000 fe:00 123    /usr/bin/rkubelet", 0, 0),
            mapping("55d4ca600000-55d4ca601000 r-xs 00c3e000 fe:00 123    /usr/bin/rkubelet", 0, 0),
            mapping("7fee28c69000-7fee28cbf000 r-xp 00026000 fe:00 456    /usr/lib/a b/libc.so.6", 0, 0),
            mapping("7fee28d69000-7fee28d70000 r-xp 00000000 00:00 0 ", 0, 0),
            mapping("7ffc30000000-7ffc30002000 r-xp 00000000 00:00 0      [vdso]", 0, 0),
        ];
        let expected = [(0x55d4_c97b_3000, 0x2a_f000), (0x55d4_c9a6_2000, 0x98_f000), (0x7fee_28c6_9000, 0x5_6000)];
        assert_eq!(unwritten(&maps.concat()), expected);
        assert_eq!(unwritten(""), []);
        assert_eq!(unwritten("7fee28c69000-7fee28cbf000 r-xp 00026000 fe:00 456 /usr/lib/libc.so.6\nRss: 4 kB"), []);
    }

    #[test]
    fn the_program_goes_on_after_it() {
        forget_code();
        assert_eq!((0..10).map(|number| number.to_string()).collect::<String>(), "0123456789");
    }
}

//! Releases memory of the program itself: pages of its code that were needed once. Called by
//! `daemon` when a burst of work is over, as `malloc::trim`.

use std::ffi::{c_int, c_void};

use nix::unistd::{SysconfVar, sysconf};

/// Releases the pages of the program and its libraries that cannot have been written to: code and
/// constants.
///
/// Pages that are used again come back from the page cache at the price of a soft fault. Pages that
/// only the start or a burst needed do not, and no longer count for this process. Nothing is lost:
/// the pages are those of the files.
pub fn forget_code() {
    // SAFETY: the callback has the required type and keeps none of its arguments.
    #[expect(unsafe_code, reason = "there is no safe interface to it")]
    unsafe {
        libc::dl_iterate_phdr(Some(forget_object), std::ptr::null_mut());
    }
}

/// Called for each loaded object, while the linker's lock keeps it loaded.
#[expect(unsafe_code, reason = "there is no safe interface to it")]
unsafe extern "C" fn forget_object(
    info: *mut libc::dl_phdr_info,
    _: usize,
    _: *mut c_void,
) -> c_int {
    // SAFETY: the linker gives a valid description, with as many headers as it says, for as long as
    // this call lasts.
    let (base, headers) = unsafe {
        let info = &*info;
        (info.dlpi_addr, std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)))
    };
    let page =
        sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| u64::try_from(size).ok());
    let Some(page) = page.filter(|page| page.is_power_of_two()) else { return 0 };

    for (start, length) in unwritten(base, headers, page) {
        // SAFETY: the range is a loaded segment that is not writable, so its pages are those of the
        // file (the linker writes only to writable segments, some of which it protects afterwards);
        // the lock keeps it mapped. Dropping the pages makes the next access read them from the
        // file again.
        let outcome = unsafe {
            libc::madvise(std::ptr::with_exposed_provenance_mut(start), length, libc::MADV_DONTNEED)
        };
        if outcome != 0 {
            tracing::debug!(error = %std::io::Error::last_os_error(), "the program's code stays in memory");
        }
    }

    0
}

/// Returns the start and length of the whole pages of an object's segments that are loaded and not
/// writable.
fn unwritten(base: u64, headers: &[libc::Elf64_Phdr], page: u64) -> Vec<(usize, usize)> {
    let range = |header: &libc::Elf64_Phdr| {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            return None;
        }
        let first = base.checked_add(header.p_vaddr)?;
        let start = first & !(page - 1);
        let end = first.checked_add(header.p_memsz)?.checked_next_multiple_of(page)?;
        Some((usize::try_from(start).ok()?, usize::try_from(end - start).ok()?))
    };
    headers.iter().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::{forget_code, unwritten};

    const READ: u32 = libc::PF_R;
    const RUN: u32 = libc::PF_R | libc::PF_X;
    const WRITE: u32 = libc::PF_R | libc::PF_W;

    fn header(kind: u32, flags: u32, address: u64, size: u64) -> libc::Elf64_Phdr {
        libc::Elf64_Phdr {
            p_type: kind,
            p_flags: flags,
            p_offset: 0,
            p_vaddr: address,
            p_paddr: 0,
            p_filesz: size,
            p_memsz: size,
            p_align: 0x1000,
        }
    }

    #[test]
    fn only_what_was_never_written_is_let_go() {
        let headers = [
            header(libc::PT_PHDR, READ, 0x40, 0x300),
            header(libc::PT_LOAD, READ, 0, 0x2d_1234),
            header(libc::PT_LOAD, RUN, 0x2d_2240, 0x9d_f000),
            header(libc::PT_LOAD, WRITE, 0xcb_2000, 0x4_c000),
            header(libc::PT_LOAD, WRITE, 0xcf_f000, 0x4_0000),
            header(libc::PT_GNU_RELRO, READ, 0xcb_2000, 0x4_c000),
        ];
        let base = 0x55d4_c97b_3000;
        let expected = [(0x55d4_c97b_3000, 0x2d_2000), (0x55d4_c9a8_5000, 0x9e_0000)];
        assert_eq!(unwritten(base, &headers, 0x1000), expected);
        assert_eq!(unwritten(base, &[], 0x1000), []);
        let absurd = header(libc::PT_LOAD, RUN, u64::MAX - 1, 0x1000);
        assert_eq!(unwritten(base, &[absurd], 0x1000), []);
    }

    #[test]
    fn the_program_goes_on_after_it() {
        forget_code();
        assert_eq!((0..10).map(|number| number.to_string()).collect::<String>(), "0123456789");
    }
}

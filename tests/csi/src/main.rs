//! The driver as a program: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    rkubelet_csi_driver::main(std::env::args().skip(1).collect())
}

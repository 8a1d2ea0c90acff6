//! All programs of the fake in one file: the name by which it is called says which one it is.

use std::process::ExitCode;

fn main() -> ExitCode {
    fake_mps::program::main()
}

//! `fake-imds [--listen 127.0.0.1:0] [--script FILE]`: the fake as a program, for demonstrations.

use std::process::ExitCode;

fn main() -> ExitCode {
    http_stub::program::run::<fake_imds::FakeImds>()
}

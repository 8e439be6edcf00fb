//! The program `nf-core`: the network function with the plugins that it brings along.

use std::process::ExitCode;

fn main() -> ExitCode {
    nf_core::cli::main(nf_core::plugin::Registry::builtin())
}

//! The command line of `nf-core`. A program with plugins of its own calls `main` with a registry that has them.

#[cfg_attr(not(feature = "dpdk"), allow(dead_code, reason = "without DPDK only the manual page is made of it"))]
mod args;
#[cfg(feature = "dpdk")]
mod program;

#[cfg(feature = "dpdk")]
pub use program::main;

/// The command line, for its manual page.
pub fn command() -> clap::Command {
    <args::Cli as clap::CommandFactory>::command()
}

//! Manual pages and shell completions, made of the command line's own description.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Error;
use crate::args::Cli;

/// The script for a shell.
pub(crate) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "nf-ctl", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes a page for each program, and one for each of their commands.
pub(crate) fn pages(directory: &Path) -> Result<(), Error> {
    let failed = |error| Error::File(format!("{}: {error}", directory.display()));
    for command in [Cli::command().name("nf-ctl"), nf_core::cli::command().name("nf-core")] {
        clap_mangen::generate_to(command, directory).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_and_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        pages(dir.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(read("nf-ctl.1").contains("Exit codes") && read("nf-core.1").contains("ESP termination"));
        assert!(read("nf-ctl-sa-add.1").contains("replay"));
        assert!(read("nf-core-check.1").contains("configuration"));
        assert!(pages(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn shells_complete_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completions(shell);
            assert!(script.contains("nf-ctl") && script.contains("explain"), "{shell}");
        }
    }
}

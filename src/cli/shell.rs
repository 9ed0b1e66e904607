//! `oarlock completions` and `oarlock man`: made from the arguments themselves.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::cli::{Failure, print};

/// Example: source <(oarlock completions bash)
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// For which shell
    shell: Shell,
}

pub(super) fn completions(of: &Completions, mut command: Command) {
    let mut script = Vec::new();
    clap_complete::generate(of.shell, &mut command, "oarlock", &mut script);
    print(&String::from_utf8_lossy(&script));
}

/// Prints the manual page, that of each command after it.
pub(super) fn man(mut command: Command) -> Result<(), Failure> {
    command.build();
    let mut page = Vec::new();
    let failed = |error: std::io::Error| Failure::usage(format!("write the page: {error}"));
    clap_mangen::Man::new(command.clone()).render(&mut page).map_err(failed)?;
    for part in command.get_subcommands().filter(|part| !part.is_hide_set()) {
        let man = clap_mangen::Man::new(part.clone());
        man.render_synopsis_section(&mut page).map_err(failed)?;
        man.render_description_section(&mut page).map_err(failed)?;
        man.render_options_section(&mut page).map_err(failed)?;
    }
    print(&String::from_utf8_lossy(&page));
    Ok(())
}

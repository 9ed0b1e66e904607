//! The binary: arguments to the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "proof")]
    if !plant() {
        return ExitCode::from(2);
    }
    oarlock::cli::main()
}

/// Takes the planted bug from the environment, if one is named there; false if there is none of that
/// name.
#[cfg(feature = "proof")]
fn plant() -> bool {
    use std::io::Write;

    use oarlock_core::planted;
    let chosen = planted::choose(std::env::var(planted::VARIABLE).ok());
    let said = match (&chosen, planted::chosen()) {
        (Err(why), _) => format!("oarlock: {why}\n"),
        (Ok(()), Some(bug)) => format!("oarlock: wrong on purpose: {}\n", bug.what()),
        (Ok(()), None) => String::new(),
    };
    let _no_terminal = std::io::stderr().write_all(said.as_bytes());
    chosen.is_ok()
}

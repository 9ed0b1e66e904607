//! The binary: arguments to the command line.

fn main() -> std::process::ExitCode {
    oarlock::cli::main()
}

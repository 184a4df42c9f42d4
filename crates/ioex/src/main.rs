//! The program: reads the command line, runs the command, maps errors to exit codes.

use std::{
    io::{Write as _, stderr, stdout},
    process::ExitCode,
};

use clap::FromArgMatches as _;
use ioex::{
    cli::Cli,
    commands,
    exit::{self, Failure},
    render,
};

fn main() -> ExitCode {
    let parsed = Cli::describe().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let json = cli.json;
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match Failure::of(&error) {
            // Whoever read our output has what it wanted.
            None => ExitCode::SUCCESS,
            Some(failure) => {
                // Where nobody listens there is nobody to tell.
                let _ = if json {
                    writeln!(stdout(), "{}", failure.json())
                } else {
                    writeln!(stderr(), "error: {}", render::printable_lines(&failure.message))
                };
                failure.exit_code()
            }
        },
    }
}

/// Help and version go to stdout; what makes no sense is an error, with `--json` an object.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|arg| arg == "--json") {
        let message = error.render().to_string().trim_end().to_owned();
        let failure = Failure { exit: exit::USAGE, code: "usage".to_owned(), message };
        let _ = writeln!(stdout(), "{}", failure.json());
    } else {
        let _ = error.print();
    }
    ExitCode::from(exit::USAGE)
}

//! `veghe-collector`: parse, load the configuration, start logging, run, exit code.

use std::process::ExitCode;

use clap::Parser as _;
use veghe_collector::{app, cli::Cli};

/// Usage or configuration is wrong (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            return error.print().map_or(ExitCode::FAILURE, |()| ExitCode::from(code));
        }
    };
    match app::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<veghe_wire::document::Problems>() => {
            app::complain(&format!("{error}"));
            ExitCode::from(EXIT_USAGE)
        }
        Err(error) => {
            app::complain(&format!("veghe-collector: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

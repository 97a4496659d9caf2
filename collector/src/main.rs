//! `veghe-collector`: parse, load the configuration, start logging, run, exit code.

use std::process::ExitCode;

use clap::Parser as _;
use veghe_collector::alerting::RuleProblems;
use veghe_collector::config::ConfigProblems;
use veghe_collector::{app, cli::Cli};
use veghe_wire::document::Problems;

/// The system's allocator keeps what loads and queries gave back: after a load of 200,000 series 288 MiB stayed resident, with
/// this one 97, for the same CPU time. `tests/PEERS.md` has what was tried beside it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    let ended = app::run(cli);
    // The agent of this machine may hang in a file system that does not answer.
    #[cfg(target_os = "linux")]
    veghe_agent::departure::let_go();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<ConfigProblems>() => {
            app::complain(&format!("{error}"));
            ExitCode::from(EXIT_USAGE)
        }
        Err(error) => {
            app::complain(&format!("veghe-collector: {error:#}"));
            // Also where the agent of this machine or a rule file that changed meanwhile is wrong.
            let is_configuration = error.chain().any(|cause| cause.is::<Problems>() || cause.is::<RuleProblems>());
            if is_configuration { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

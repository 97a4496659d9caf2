//! `veghe-agent`: parse, start logging, run, exit.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use veghe_agent::cli::{Cli, Command, execute, is_usage};

const FAILURE: u8 = 1;
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let is_help = !error.use_stderr();
            error.print().ok();
            return ExitCode::from(if is_help { 0 } else { USAGE });
        }
    };
    start_logging();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be gone, and there is nobody else to tell.
            writeln!(io::stderr(), "veghe-agent: {error:#}").ok();
            ExitCode::from(if is_usage(&error) { USAGE } else { FAILURE })
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    // rumqttc and whoever else asks for the process's provider gets ring; a second installation changes nothing.
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let Command::Run { state_dir } = command else { return execute(command, &mut io::stdout()).await };
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
        let agent = veghe_agent::app::run(&state_dir, stop.clone());
        tokio::pin!(agent);
        tokio::select! {
            result = &mut agent => return result,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
        agent.await
    })
}

fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_env_filter(filter)
        .init();
}

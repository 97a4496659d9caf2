//! `veghe-agent`: parse, start logging, run, exit.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use tokio_util::sync::CancellationToken;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use veghe_agent::cli::{Cli, Command, execute, is_usage};
use veghe_agent::log_budget::Budget;
use veghe_agent::system::told_to_end;

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
    let ended = run(cli.command);
    #[cfg(target_os = "linux")]
    veghe_agent::departure::let_go();
    match ended {
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
    #[cfg(target_os = "linux")]
    let keep_small = veghe_agent::thrift::Thrift::at_start().keep_small();
    #[cfg(not(target_os = "linux"))]
    let keep_small = std::future::pending::<std::convert::Infallible>();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let Command::Run { state_dir } = command else { return execute(command, &mut io::stdout()).await };
        let stop = CancellationToken::new();
        let agent = veghe_agent::app::run(&state_dir, stop.clone());
        tokio::pin!(agent);
        tokio::select! {
            result = &mut agent => return result,
            told = told_to_end() => told.context("cannot listen to signals")?,
            never = keep_small => match never {},
        }
        stop.cancel();
        agent.await
    })
}

/// By hand instead of with `EnvFilter`, whose regular expressions would be a good part of the agent's memory.
fn start_logging() {
    let wanted = std::env::var("RUST_LOG").ok().filter(|wanted| !wanted.is_empty());
    let parsed = wanted.as_deref().map(str::parse::<Targets>);
    let filter = match &parsed {
        Some(Ok(targets)) => targets.clone(),
        Some(Err(_)) | None => Targets::new().with_default(Level::INFO),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let lines = lines.with_filter(Budget::default());
    tracing_subscriber::registry().with(lines).with(filter).init();
    if let Some(Err(error)) = parsed {
        tracing::warn!(%error, "cannot use RUST_LOG; write for example RUST_LOG=info,veghe_agent=debug");
    }
}

//! Wires the modules and says in what order they start and stop.
//!
//! Start: data directory (held by the store's lock), ledger, broker and ingest, alerting, status, web; `listeners.json`
//! comes last, so whoever waits for it finds everything answering. Stop: the agent in this process, intake (drained to
//! disk and acknowledged), alerting and status, at last the web.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::CommandFactory as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use veghe_tsdb::Store;
use veghe_wire::document::format_duration;

use crate::alerting::{Alerting, AlertingHandle};
use crate::cli::{AgentsCommand, Cli, Command, TokenCommand, Up};
use crate::config::Config;
use crate::ingest::{Ingest, IngestHandle};
use crate::ledger::Ledger;
use crate::query::QueryService;
use crate::status::Status;
use crate::web::{self, Access, Exposure, FirstLogin, HttpMetrics, Listener, Operations};
use crate::{admin, clock, housekeeping};

/// Threads that run queries and disk work at most; each is there only while it is needed.
const MAX_BLOCKING_THREADS: usize = 64;

/// Does what the command line says.
///
/// # Errors
/// The chain that `main` prints; [`veghe_wire::document::Problems`] where the configuration is wrong.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Up(up) => serve(config_of(up)?, InProcessAgent::Runs),
        Command::Run { config } => serve(load(&config)?, InProcessAgent::None),
        Command::CheckConfig { file } => {
            load(&file)?;
            say(&format!("{}: no problem found", file.display()))
        }
        Command::ShowConfig { file } => say(load(&file)?.show().trim_end()),
        Command::Token(TokenCommand::Create { agent, expires, running }) => {
            let token = admin::create_token(&running.data_dir, &agent, expires)?;
            say(&format!(
                "This token admits {agent} once, within {}. On that machine:\n  veghe-agent join URL --token TOKEN\n{token}",
                format_duration(expires)
            ))
        }
        Command::Agents(AgentsCommand::List { running }) => say(&admin::list_agents(&running.data_dir)?),
        Command::Agents(AgentsCommand::Revoke { agent, running }) => {
            admin::revoke_agent(&running.data_dir, &agent)?;
            say(&format!("{agent} is cut off; a new token (`token create --agent {agent}`) admits it again"))
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "veghe-collector", &mut script);
            Ok(std::io::stdout().write_all(&script)?)
        }
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// Tells a person at the terminal what went wrong; where even that fails nobody is there to hear it.
pub fn complain(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// Whether this machine's agent runs in the collector's process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InProcessAgent {
    Runs,
    None,
}

fn config_of(up: Up) -> anyhow::Result<Config> {
    let mut config = Config::defaults(up.data_dir);
    (config.ops.listen, config.status_listen, config.mqtt.listen) = (up.ops, up.status, up.mqtt);
    for (option, address) in [("--ops", up.ops), ("--status", up.status), ("--mqtt", up.mqtt)] {
        if !address.ip().is_loopback() {
            bail!("`up` stays on this machine, and {option} {address} does not; use `run --config FILE` for a network");
        }
    }
    Ok(config)
}

fn load(path: &Path) -> anyhow::Result<Config> {
    let config = Config::load(path)?;
    // Rule files are part of the configuration: wrong ones are found here, not after the start.
    crate::alerting::RuleSet::load(&config.alerting.sources())?;
    Ok(config)
}

fn serve(config: Config, agent: InProcessAgent) -> anyhow::Result<()> {
    start_logging()?;
    rustls::crypto::ring::default_provider().install_default().ok().context("a TLS provider is installed already")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async move {
        let collector = Collector::start(config, agent).await?;
        collector.until_stopped().await
    })
}

fn start_logging() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .with_env_var("RUST_LOG")
        .try_from_env()
        .or_else(|error| match std::env::var_os("RUST_LOG") {
            // The broker's own words are ours to say; its library's are for those who ask.
            None => tracing_subscriber::EnvFilter::try_new("info,rmqtt=warn,rmqtt_net=warn").map_err(Into::into),
            Some(_) => Err(error),
        })
        .context("cannot read RUST_LOG")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init()
        .ok()
        .context("cannot start logging")
}

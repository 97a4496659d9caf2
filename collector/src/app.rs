//! Wires the modules and says in what order they start and stop.
//!
//! Start: data directory (held by the store's lock), ledger, broker and ingest, alerting, status, web; `listeners.json`
//! comes last, so whoever waits for it finds everything answering. Stop: the agent in this process, intake (drained to
//! disk and acknowledged), alerting and status, at last the web.

mod fleet;
mod inventory;
mod reports;

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
use veghe_agent::digitization::settings::HotFolder;
use veghe_agent::join::Existing;
use veghe_model::Timestamp;
use veghe_tsdb::{OpenError, Store};
use veghe_wire::AgentId;
use veghe_wire::document::format_duration;
use veghe_wire::enrolment::{EnrolmentRequest, EnrolmentResponse};

use crate::admin::{Request, Response};
use crate::alerting::{Alerting, AlertingHandle};
use crate::cli::{AgentsCommand, Cli, Command, Promql, TokenCommand, Up};
use crate::config::Config;
use crate::digitization::sender::Sender;
use crate::digitization::{self, Digitization, event};
use crate::fleet::Standing;
use crate::fleet::office::{columns, in_short};
use crate::ingest::{self, AgentInfo, EnrolError, Ingest, IngestHandle, IngestSettings};
use crate::ledger::Ledger;
use crate::query::QueryService;
use crate::status::Status;
use crate::terminal::{self, Output};
use crate::web::certificates::{CertificateError, Files};
use crate::web::{
    self, Access, AgentState, AgentView, EnrolRefusal, Exposure, FirstLogin, HttpMetrics, Listener, Operations,
};
use crate::{admin, backup, clock, housekeeping, import, remote};

/// The length of a chunk. Two hours at 15 s are 480 samples: longer ones gain little, shorter ones cost more.
const WINDOW: Duration = Duration::from_hours(2);
/// Threads that run queries and disk work at most; each is there only while it is needed.
const MAX_BLOCKING_THREADS: usize = 64;
/// How long a thread for queries and disk waits for more work: what it freed last goes back to the system when it ends.
const IDLE_THREAD: Duration = Duration::from_secs(1);

/// Does what the command line says.
///
/// # Errors
/// The chain that `main` prints; [`ConfigProblems`](crate::config::ConfigProblems) where the configuration is wrong.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Up(mut up) => {
            let watch = hot_folders(std::mem::take(&mut up.watch))?;
            serve(config_of(up)?, InProcessAgent::Runs, watch)
        }
        Command::Run { config } => serve(Config::load(&config)?, InProcessAgent::None, Vec::new()),
        Command::CheckConfig { file } => {
            Config::load(&file)?;
            say(&format!("{}: no problem found", file.display()))
        }
        Command::ShowConfig { file } => say(Config::load(&file)?.show().trim_end()),
        Command::Token(TokenCommand::Create { agent, expires, label, running }) => {
            if !label.is_empty() {
                fleet::label(&agent, label, &running.data_dir)?;
            }
            let request = Request::TokenCreate { agent: agent.to_string(), ttl_s: Some(expires.as_secs()) };
            let Response::Token { token, .. } = admin::ask(&running.data_dir, &request)? else {
                bail!("the collector answered something else");
            };
            say(&format!(
                "This token admits {agent} once, within {}. On that machine:\n  veghe-agent join URL --token TOKEN\n{token}",
                format_duration(expires)
            ))
        }
        Command::Agents(AgentsCommand::List { running }) => {
            let Response::Agents { agents } = admin::ask(&running.data_dir, &Request::AgentsList)? else {
                bail!("the collector answered something else");
            };
            say(table(&agents, &fleet::standings(&running.data_dir)?, clock::now()).trim_end())
        }
        Command::Agents(AgentsCommand::Show { agent, running }) => {
            say(fleet::show(&agent, &running.data_dir)?.trim_end())
        }
        Command::Agents(AgentsCommand::Label { agent, labels, running }) => {
            say(&fleet::label(&agent, labels, &running.data_dir)?)
        }
        Command::Agents(AgentsCommand::Apply { retry, running }) => say(&fleet::apply(retry, &running.data_dir)?),
        Command::Discovered(command) => say(fleet::discovered(command)?.trim_end()),
        Command::Agents(AgentsCommand::Revoke { agent, running }) => {
            admin::ask(&running.data_dir, &Request::AgentsRevoke { name: agent.to_string() })?;
            say(&format!("{agent} is cut off; a new token (`token create --agent {agent}`) admits it again"))
        }
        Command::Backup { dir, running } => say(&backup::backup_command(&dir, &running.data_dir)?),
        Command::Restore { dir, data_dir } => say(&backup::restore_command(&dir, &data_dir)?),
        Command::Compact { data_dir } => say(&backup::compact_command(&data_dir)?),
        Command::Verify { dir, running } => {
            // A reader that went away has seen enough.
            say(&backup::verify_command(dir, &running.data_dir, &|line| drop(say(line)))?)
        }
        Command::Import { files, format, running } => {
            let dir = &running.data_dir;
            import::command::run(&files, dir, format, || open_store(dir), &mut std::io::stdout().lock())
        }
        Command::Promql(promql) => ask(&promql),
        Command::Inventory(command) => say(&inventory::run(command)?),
        Command::Digitization(command) => say(&reports::run(command)?),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "veghe-collector", &mut script);
            Ok(std::io::stdout().write_all(&script)?)
        }
    }
}

/// The store of a collector that does not run.
fn open_store(data_dir: &Path) -> anyhow::Result<Store> {
    let max_series = Config::defaults(data_dir.to_owned()).storage.max_series;
    let options = veghe_tsdb::Options { dir: data_dir.join("tsdb"), max_series, window: WINDOW };
    let store = Store::open(options).map_err(|error| import::command::explain(error, data_dir))?.0;
    remote::hold_for_targets(&store);
    Ok(store)
}

fn ask(promql: &Promql) -> anyhow::Result<()> {
    let whom = match &promql.url {
        None => terminal::Whom::DataDir(promql.data_dir.clone()),
        Some(url) => {
            install_tls_provider()?;
            let (url, token_file, ca_file) = (url.clone(), promql.token_file.clone(), promql.ca_file.clone());
            terminal::Whom::Url { url, token_file, ca_file }
        }
    };
    let question = promql.question(clock::now());
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    let output = promql.output.unwrap_or(if is_terminal { Output::Table } else { Output::Tsv });
    let (mut out, mut notes) = (std::io::stdout().lock(), std::io::stderr().lock());
    terminal::run(&question, &whom, output, || open_store(&promql.data_dir), &mut out, &mut notes)
}

fn install_tls_provider() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok().context("a TLS provider is installed already")
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

/// What `--watch` names, as this machine's agent sees it.
fn hot_folders(watch: Vec<PathBuf>) -> anyhow::Result<Vec<HotFolder>> {
    let folder = |(number, dir): (usize, PathBuf)| {
        let path = dir.canonicalize().with_context(|| format!("cannot watch {}", dir.display()))?;
        let template = "{unit}/...".parse().map_err(anyhow::Error::msg)?;
        Ok(HotFolder::new(&format!("watch-{number}"), path, template))
    };
    (1..).zip(watch).map(folder).collect()
}

fn serve(config: Config, agent: InProcessAgent, watch: Vec<HotFolder>) -> anyhow::Result<()> {
    start_logging()?;
    install_tls_provider()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_keep_alive(IDLE_THREAD)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async move {
        let collector = Collector::start(config, agent, watch).await?;
        collector.until_stopped().await
    })
}

fn start_logging() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .with_env_var("RUST_LOG")
        .try_from_env()
        .or_else(|error| match std::env::var_os("RUST_LOG") {
            // What broker and scheduler do is ours to say; their libraries' words are for those who ask.
            None => tracing_subscriber::EnvFilter::try_new("info,rmqtt=warn,rmqtt_net=warn,tokio_cron_scheduler=warn")
                .map_err(Into::into),
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

/// A running collector.
struct Collector {
    /// Ends intake: broker, enrolment, the agent of this machine.
    intake: CancellationToken,
    /// Ends what stands on stored data: alerting, status, sealing.
    rest: CancellationToken,
    /// Ends the listeners.
    web: CancellationToken,
    ingest: IngestHandle,
    alerting: AlertingHandle,
    fleet: crate::fleet::Fleet,
    agent: Option<std::thread::JoinHandle<()>>,
    stop_agent: CancellationToken,
    background: TaskTracker,
    serving: TaskTracker,
    _retention: tokio_cron_scheduler::JobScheduler,
    _reports: Option<tokio_cron_scheduler::JobScheduler>,
    listeners_file: PathBuf,
}

/// Where everything listens.
#[derive(serde::Serialize)]
struct Listeners {
    ops: String,
    status: String,
    mqtt: String,
}

impl Collector {
    async fn start(config: Config, with_agent: InProcessAgent, watch: Vec<HotFolder>) -> anyhow::Result<Self> {
        let started = clock::now();
        let data_dir = config.data_dir.clone();
        let option = option_names(with_agent);
        DirBuilder::new().recursive(true).mode(0o700).create(&data_dir).with_context(|| {
            format!("cannot make data directory {}; choose another with {}", data_dir.display(), option.data_dir)
        })?;
        if data_dir.join(backup::UNFINISHED_RESTORE).exists() {
            bail!(
                "data directory {} holds a restore that was cut off; run `veghe-collector restore DIR --data-dir {0}` again",
                data_dir.display()
            );
        }
        let (store, recovery) = Store::open(veghe_tsdb::Options {
            dir: data_dir.join("tsdb"),
            max_series: config.storage.max_series,
            window: WINDOW,
        })
        .map_err(|error| refused_directory(error, &data_dir, option))?;
        store.keep_free(config.storage.min_free_bytes);
        tracing::info!(
            samples = recovery.replayed_samples,
            records = recovery.replayed_records,
            torn_bytes = recovery.torn_bytes,
            "log was replayed"
        );
        let listeners_file = data_dir.join("listeners.json");
        // An earlier run's addresses are nobody's now.
        if listeners_file.exists() {
            fs::remove_file(&listeners_file).with_context(|| format!("cannot remove {}", listeners_file.display()))?;
        }
        let ledger = Ledger::open(&data_dir.join("ledger.db"))?;
        let mut digitization = config.digitization.clone();
        digitization.privacy.key_file.get_or_insert_with(|| data_dir.join("operators.key"));
        let project = Digitization::open(ledger.clone(), digitization)?;
        let registry = prometheus::Registry::new();
        web::register_process_metrics(&registry, started)?;
        let http_metrics = HttpMetrics::new(&registry)?;
        let access = Access::new(ledger.clone(), &registry)?;
        let fleet = fleet::open(&config, &ledger, &registry, started)?;

        let (intake, rest, web_stop) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let (background, serving) = (TaskTracker::new(), TaskTracker::new());
        let queries = QueryService::new(store.clone(), config.query.clone());

        let ops_socket = bind(config.ops.listen, "operations", option.ops).await?;
        let status_socket = bind(config.status_listen, "the status page", option.status).await?;
        let (ops_address, status_address) = (ops_socket.local_addr()?, status_socket.local_addr()?);
        let mut settings = ingest_settings(&config);
        settings.events = Some(Arc::new(Happenings(project.clone())));
        settings.steward = Some(Arc::new(fleet.clone()));
        let ingest = Ingest::start(settings, ledger.clone(), store.clone(), &registry, &intake, &background)
            .await
            .map_err(|error| refused_broker(error, config.mqtt.listen, option))?;
        admin::serve(
            &data_dir,
            ingest.clone(),
            queries.clone(),
            project.clone(),
            fleet.clone(),
            rest.clone(),
            &background,
        )?;
        crate::fleet::start(fleet.clone(), ingest.clone(), rest.clone(), &background);
        let alerting = Alerting::start(
            config.alerting.clone(),
            ledger.clone(),
            queries.clone(),
            &ingest.unstored_since(),
            &registry,
            rest.clone(),
            &background,
        )?;
        digitization::metrics::start(project.clone(), &registry, rest.clone(), &background)?;
        digitization::workflow::start(&project, &registry, &intake, &background)?;
        digitization::runway::start(project.clone(), queries.clone(), rest.clone(), &background);
        digitization::privacy::office::start(project.clone(), rest.clone(), &background);
        let reports = match config.digitization.reports.clone() {
            Some(schedule) => Some(reports::start(project.clone(), schedule, &config.alerting.receivers).await?),
            None => None,
        };
        let status = Status::start(config.status.clone(), ledger.clone(), queries.clone(), rest.clone(), &background)?;
        // Before sealing begins: what targets have not read yet must stay in the log.
        let (targets, external) = (&config.remote_write, &config.external_labels);
        remote::start_senders(targets, external, &store, &registry, &rest, &background)?;
        housekeeping::start_sealing(store.clone(), rest.clone(), &background);
        let retention = housekeeping::start_retention(store.clone(), config.storage.retention.of_store()).await?;
        // Last of what can fail for reasons outside: it is shown once, by a start that succeeds.
        let sign_in = access.ensure_first_login(&data_dir, started)?;

        let exposure = Exposure::of(ops_address.ip());
        let listeners = Listeners {
            ops: format!("{}://{ops_address}", if exposure == Exposure::Loopback { "http" } else { "https" }),
            status: format!("http://{status_address}"),
            mqtt: format!("mqtts://{}", ingest.address()),
        };
        let (ready, is_ready) = watch::channel(false);
        let operations = Operations {
            queries,
            registry: registry.clone(),
            access,
            exposure,
            host_names: config.ops.names.clone(),
            origins: config.ops.cors_origin.clone(),
            external_labels: config.external_labels.clone(),
            metrics: http_metrics.clone(),
            enrol: Arc::new(Gate { ingest: ingest.clone(), runtime: tokio::runtime::Handle::current() }),
            fleet: Arc::new(Agents(ingest.clone(), fleet.clone())),
            alerting: Arc::new(Alarms(alerting.clone())),
            digitization: project,
            ready: is_ready.clone(),
            about: web::About {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                started,
                data_dir: data_dir.clone(),
                retention: config.storage.retention.to_string(),
                config_yaml: config.show_without_secrets(),
                flags: BTreeMap::new(),
                status_url: Some(listeners.status.clone()),
            },
        };
        let ops_listener = Listener {
            tls: match exposure {
                Exposure::Loopback => None,
                Exposure::Network => Some(server_tls(&config, &ingest)?),
            },
            metrics: Some(http_metrics.connections("operations")),
            ..Listener::from(ops_socket)
        };
        let status_listener =
            Listener { metrics: Some(http_metrics.connections("status")), ..Listener::from(status_socket) };
        let public = web::public_site(web::public::router(status), is_ready, http_metrics);
        for (listener, router) in [(ops_listener, operations.router()), (status_listener, public)] {
            let (stop, tracker) = (web_stop.clone(), serving.clone());
            serving.spawn(async move { web::serve(listener, router, stop, &tracker).await });
        }
        ready.send_replace(true);

        let stop_agent = CancellationToken::new();
        let agent = match with_agent {
            InProcessAgent::None => None,
            InProcessAgent::Runs => Some(start_agent(&data_dir, &listeners, &ingest, watch, stop_agent.clone()).await?),
        };
        write_listeners(&listeners_file, &listeners)?;
        greet(&listeners, sign_in.as_ref(), &data_dir, with_agent)?;
        Ok(Self {
            intake,
            rest,
            web: web_stop,
            ingest,
            alerting,
            fleet,
            agent,
            stop_agent,
            background,
            serving,
            _retention: retention,
            _reports: reports,
            listeners_file,
        })
    }

    /// Runs until SIGINT or SIGTERM, then drains. SIGHUP reads the rule files again.
    async fn until_stopped(mut self) -> anyhow::Result<()> {
        let (mut interrupt, mut terminate, mut hangup) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
        loop {
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                _ = hangup.recv() => {
                    fleet::reload(&self.fleet).await;
                    match self.alerting.reload().await {
                    Ok(()) => tracing::info!("rule files were read again"),
                    Err(error) => tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "cannot read rule files again; the last good rules stay"
                    ),
                    }
                }
            }
        }
        tracing::info!("stopping: intake is drained to disk first");
        self.stop_agent.cancel();
        if let Some(agent) = self.agent.take() {
            // It ends by itself within seconds; a panic in it must not keep the collector from draining.
            let ended = tokio::task::spawn_blocking(move || agent.join()).await;
            if !matches!(ended, Ok(Ok(()))) {
                tracing::error!("the agent panicked");
            }
        }
        self.intake.cancel();
        self.ingest.stop().await;
        self.rest.cancel();
        self.background.close();
        self.background.wait().await;
        self.web.cancel();
        self.serving.close();
        self.serving.wait().await;
        fs::remove_file(&self.listeners_file).context("cannot remove listeners.json")?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// How the command in hand names what a message tells a person to change.
#[derive(Clone, Copy)]
struct OptionNames {
    data_dir: &'static str,
    ops: &'static str,
    status: &'static str,
    mqtt: &'static str,
}

/// `up` is told by options, `run` by its file.
fn option_names(agent: InProcessAgent) -> OptionNames {
    match agent {
        InProcessAgent::Runs => {
            OptionNames { data_dir: "`--data-dir`", ops: "`--ops`", status: "`--status`", mqtt: "`--mqtt`" }
        }
        InProcessAgent::None => OptionNames {
            data_dir: "`data_dir` in the configuration",
            ops: "`ops.listen` in the configuration",
            status: "`status.listen` in the configuration",
            mqtt: "`mqtt.listen` in the configuration",
        },
    }
}

async fn bind(address: SocketAddr, purpose: &str, option: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| refused_address(error, address, purpose, option))
}

/// What to do about an address that can't be taken.
fn refused_address(error: std::io::Error, address: SocketAddr, purpose: &str, option: &str) -> anyhow::Error {
    let remedy = match error.kind() {
        std::io::ErrorKind::AddrInUse => "stop the program that has it, or choose another with",
        std::io::ErrorKind::AddrNotAvailable => "this machine does not have it; choose another with",
        _ => "choose another with",
    };
    anyhow::Error::new(error).context(format!("cannot listen on {address} for {purpose}; {remedy} {option}"))
}

/// As [`refused_address`], for the broker, whose library hides what the system says: asked once more, it says it again.
fn refused_broker(error: ingest::IngestError, address: SocketAddr, option: OptionNames) -> anyhow::Error {
    match std::net::TcpListener::bind(address) {
        Err(refusal) => refused_address(refusal, address, "agents", option.mqtt),
        Ok(_) => error.into(),
    }
}

/// What to do about a data directory that can't be used.
fn refused_directory(error: OpenError, data_dir: &Path, option: OptionNames) -> anyhow::Error {
    let OptionNames { data_dir: option, .. } = option;
    let shown = data_dir.display();
    let context = match &error {
        OpenError::Held { pid: Some(pid), .. } => {
            format!(
                "data directory {shown} is in use by process {pid}; stop it (`kill {pid}`) or choose another with {option}"
            )
        }
        OpenError::Held { pid: None, .. } => {
            format!("data directory {shown} is in use by another process; stop it or choose another with {option}")
        }
        _ => format!("cannot use data directory {shown}; mend its permissions or choose another with {option}"),
    };
    match error {
        // Said already.
        OpenError::Held { .. } => anyhow::Error::msg(context),
        error => anyhow::Error::new(error).context(context),
    }
}

fn write_listeners(path: &Path, listeners: &Listeners) -> anyhow::Result<()> {
    // Whole or not at all: whoever waits for the file reads it at once.
    let part = path.with_extension("part");
    fs::write(&part, serde_json::to_string_pretty(listeners)?)
        .and_then(|()| fs::rename(&part, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn greet(
    listeners: &Listeners,
    sign_in: Option<&FirstLogin>,
    data_dir: &Path,
    agent: InProcessAgent,
) -> anyhow::Result<()> {
    let mut text = format!(
        "Veghe {} is on watch.\n  status page  {}\n  operations   {}\n  broker       {}\n  data         {}\n",
        env!("CARGO_PKG_VERSION"),
        listeners.status,
        listeners.ops,
        listeners.mqtt,
        data_dir.display()
    );
    if let Some(sign_in) = sign_in {
        let lines = format!(
            "\nFirst sign-in, shown once and kept in {}:\n  user      {}\n  password  {}\n  API token {}\n",
            data_dir.join("first-login").display(),
            sign_in.user,
            sign_in.password,
            sign_in.token
        );
        text.push_str(&lines);
    }
    if agent == InProcessAgent::Runs {
        text += "\nThis machine's own agent runs in this process. Ctrl-C drains and ends.";
    }
    say(&text)
}

fn ingest_settings(config: &Config) -> IngestSettings {
    IngestSettings {
        server_names: config.ops.names.clone(),
        mqtt_url: config.mqtt.advertise.clone(),
        certificate_life: config.agents.certificate_lifetime,
        limits: ingest::Limits { series: config.agents.max_series, ..ingest::Limits::default() },
        ..IngestSettings::new(&config.data_dir, config.mqtt.listen)
    }
}

/// Takes in what agents tell of the digitization.
#[derive(Debug)]
struct Happenings(Digitization);

impl ingest::EventSink for Happenings {
    fn take(&self, agent: &AgentId, payload: &[u8]) -> Result<Option<String>, ingest::EventsNotKept> {
        let events = match event::parse(payload) {
            Ok(events) => events,
            Err(error) => return Ok(Some(format!("the message {error}"))),
        };
        let events = Sender::Agent(agent.as_str()).keep_own(events);
        let receipt = self.0.submit(events, clock::now()).map_err(|_logged| ingest::EventsNotKept)?;
        let first = receipt.refused.first().map(|(place, refused)| {
            let (field, message) = refused.problems.first().cloned().unwrap_or_default();
            format!("{} refused, event {place} first: {field} {message}", receipt.refused.len())
        });
        Ok(first)
    }
}

/// Lets agents in for the web, which knows no broker.
struct Gate {
    ingest: IngestHandle,
    runtime: tokio::runtime::Handle,
}

impl web::Enrol for Gate {
    fn enrol(&self, request: EnrolmentRequest) -> Result<EnrolmentResponse, EnrolRefusal> {
        self.runtime.block_on(self.ingest.enrol(request)).map_err(|error| {
            let (code, message) = (error.code(), error.to_string());
            match error {
                EnrolError::UnknownToken
                | EnrolError::UsedToken
                | EnrolError::ExpiredToken
                | EnrolError::WrongAgent { .. }
                | EnrolError::NotEnrolled { .. } => EnrolRefusal::Token { code, message },
                EnrolError::BadRequest(_) => EnrolRefusal::Request { code, message },
                EnrolError::Ca(_) | EnrolError::Ledger(_) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "cannot admit an agent");
                    EnrolRefusal::Unavailable
                }
            }
        })
    }
}

/// An agent that was silent for this many of its intervals is down.
const SILENT_INTERVALS: u32 = 3;
/// As long as that takes at least.
const LEAST_SILENCE: Duration = Duration::from_secs(45);

/// Shows the agents to the web.
struct Agents(IngestHandle, crate::fleet::Fleet);

impl web::Fleet for Agents {
    fn agents(&self) -> Vec<AgentView> {
        let now = clock::now();
        let standings = self.1.standings();
        let shown = |agent: AgentInfo| {
            let settings = standings.get(&agent.agent).map(fleet::view).unwrap_or_default();
            AgentView { settings, ..view(agent, now) }
        };
        self.0.agents().into_iter().map(shown).collect()
    }

    fn found(&self) -> Vec<web::FoundView> {
        self.1.found().into_iter().filter_map(fleet::found_view).collect()
    }
}

fn view(agent: AgentInfo, now: Timestamp) -> AgentView {
    let last_seen = agent.last_seen_ms.map(Timestamp);
    let interval = Duration::from_millis(u64::from(agent.interval_ms));
    let patience = (interval * SILENT_INTERVALS).max(LEAST_SILENCE);
    let state = match (agent.revoked_ms, last_seen) {
        (Some(_), _) => AgentState::Revoked,
        (None, None) => AgentState::Waiting,
        (None, Some(seen)) if now.since(seen) <= patience => AgentState::Up,
        (None, Some(_)) => AgentState::Down,
    };
    AgentView {
        id: agent.agent,
        state,
        last_seen,
        version: Some(agent.version).filter(|v| !v.is_empty()),
        settings: web::SettingsView::default(),
    }
}

/// Agents as `agents list` shows them.
fn table(agents: &[AgentInfo], standings: &BTreeMap<String, Standing>, now: Timestamp) -> String {
    if agents.is_empty() {
        return "No agent yet. `veghe-collector token create --agent ID` admits one.".to_owned();
    }
    let mut rows =
        vec![["AGENT", "STATE", "LAST SEEN", "VERSION", "PROTOCOL", "SETTINGS", "REFUSED"].map(str::to_owned)];
    for agent in agents {
        let shown = view(agent.clone(), now);
        let seen = shown.last_seen.map_or("never".to_owned(), |seen| {
            let seconds = Duration::from_secs(now.since(seen).as_secs());
            format!("{} ago", format_duration(seconds))
        });
        let state = match shown.state {
            AgentState::Up => "up",
            AgentState::Down => "down",
            AgentState::Waiting => "waiting",
            AgentState::Revoked => "revoked",
        };
        let refused: u64 = agent.refusals.values().sum();
        let trouble = agent.last_refusal.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
        rows.push([
            agent.agent.clone(),
            state.to_owned(),
            seen,
            agent.version.clone(),
            agent.foreign_major.map_or_else(|| agent.protocol.clone(), |major| format!("{major}.x (refused)")),
            standings.get(&agent.agent).map_or_else(|| "-".to_owned(), in_short),
            format!("{refused}{trouble}"),
        ]);
    }
    columns(&rows)
}
/// Shows rules and alerts to the web.
struct Alarms(AlertingHandle);

impl web::AlertingView for Alarms {
    fn rule_groups(&self) -> Vec<serde_json::Value> {
        self.0.rules().iter().filter_map(|group| serde_json::to_value(group).ok()).collect()
    }

    fn reload(&self) -> web::Reloading {
        let alerting = self.0.clone();
        Box::pin(async move {
            alerting.reload().await.map_err(|error| {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot read rule files again; the last good rules stay"
                );
                error.to_string()
            })
        })
    }

    fn alerts(&self) -> Vec<serde_json::Value> {
        self.0.alerts().iter().filter_map(|alert| serde_json::to_value(alert).ok()).collect()
    }
}

/// The operations listener's certificates; the CA's own goes along so that agents can compare its fingerprint.
fn server_tls(config: &Config, ingest: &IngestHandle) -> Result<Arc<rustls::ServerConfig>, CertificateError> {
    let ca = ingest.ca();
    let own = Files { chain: vec![ca.server_certificate_path(), ca.certificate_path()], key: ca.server_key_path() };
    let public =
        config.ops.tls.as_ref().map(|(certificate, key)| Files { chain: vec![certificate.clone()], key: key.clone() });
    web::certificates::server_config(&own, public.as_ref())
}

/// Enrols this machine's agent through the front door if need be, and runs it on a thread of its own as it would run
/// elsewhere.
async fn start_agent(
    data_dir: &Path,
    listeners: &Listeners,
    ingest: &IngestHandle,
    watch: Vec<HotFolder>,
    stop: CancellationToken,
) -> anyhow::Result<std::thread::JoinHandle<()>> {
    let state_dir = data_dir.join("agent");
    let settings = state_dir.join(veghe_agent::config::FILE);
    if !settings.exists() {
        let hostname = rustix::system::uname();
        let id = AgentId::from_hostname(&hostname.nodename().to_string_lossy());
        let id = id.or_else(|| AgentId::from_hostname("this-machine")).context("no name for this machine's agent")?;
        let token = ingest.create_token(id, Duration::from_mins(5)).await?;
        // What is left of an enrolment without settings was cut off midway.
        veghe_agent::join::join(&listeners.ops, &token, &state_dir, Existing::Replace)
            .await
            .context("cannot enrol this machine's agent")?;
    }
    veghe_agent::config::Config::load(&settings)?;
    // With port 0 the broker is somewhere else each time.
    let mqtt = veghe_agent::config::parse_mqtt_url(&listeners.mqtt).map_err(anyhow::Error::msg)?;
    let given = veghe_agent::app::Given { mqtt, hot_folders: watch };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name("agent".to_owned())
        .spawn(move || {
            // Said at once: the collector goes on without it, and its alerts tell the rest.
            if let Err(error) = runtime.block_on(veghe_agent::app::run_given(given, &state_dir, stop)) {
                tracing::error!(error = %format!("{error:#}"), "this machine's agent failed");
            }
        })
        .context("cannot start the agent's thread")
}

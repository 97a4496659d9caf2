//! The command line: flags, help, and what each command does. What it deliberately does not do: exit the process.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use veghe_wire::document::Problems;
use veghe_wire::enrolment::Token;

use crate::config::{self, Config};
use crate::inspect::Inspect;
use crate::join::{Existing, JoinError};
use crate::schedule;
use crate::sensors::{self, SensorSettings};

/// No round follows in which what takes its time could be told.
const ONCE_PATIENCE: Duration = Duration::from_secs(20);
const ONCE_DEADLINE: Duration = Duration::from_secs(30);

/// The default of `--state-dir`.
pub const STATE_DIR: &str = if cfg!(windows) { r"C:\ProgramData\Veghe\agent" } else { "/var/lib/veghe-agent" };

/// Report the health, capacity and digitization throughput of this machine to a Veghe collector.
#[derive(Debug, Parser)]
#[command(name = "veghe-agent", version, arg_required_else_help = true)]
#[command(after_help = "Logs go to stderr; RUST_LOG sets their detail, for example RUST_LOG=veghe_agent=debug.\n\
    Exit status: 0 success, 1 failure, 64 wrong usage or configuration.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure, spool and send until told to end (SIGTERM, Ctrl-C)
    #[command(after_help = "Example: veghe-agent run --state-dir /var/lib/veghe-agent")]
    Run {
        /// Directory of agent.yaml, key, certificates and spool
        #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
        state_dir: PathBuf,
    },
    /// Enrol this machine at a collector with a one-time token
    #[command(after_help = "Examples:\n  \
        veghe-agent join https://veghe.cjtimis.ro:9090 --token-file token.txt\n  \
        veghe-collector token create --agent scan-1 | tail -n 1 | veghe-agent join http://127.0.0.1:9090 --token -")]
    Join(Join),
    /// Print one round of every sensor that runs by default as Prometheus text
    #[command(after_help = "Example: veghe-agent once | promtool check metrics")]
    Once,
    /// List what can be measured on this machine, and why the rest can not
    #[command(after_help = "Example: veghe-agent sensors --state-dir /var/lib/veghe-agent")]
    Sensors {
        /// Directory whose agent.yaml says which sensors are disabled, if it is there
        #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
        state_dir: PathBuf,
    },
    /// Check settings, tell every problem, and print them with all defaults
    #[command(after_help = "Example: veghe-agent check-config /var/lib/veghe-agent/agent.yaml")]
    CheckConfig {
        /// Settings to check
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Show the settings in force, the collector's included, and where each value comes from
    #[command(
        after_help = "Behind a value: `file` for agent.yaml, which wins, `collector`, or nothing for a default.\n\n\
        Example: veghe-agent show-config --state-dir /var/lib/veghe-agent"
    )]
    ShowConfig {
        /// Directory of agent.yaml
        #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
        state_dir: PathBuf,
    },
    /// List what could be watched on this machine
    #[command(after_help = "Example: veghe-agent discover")]
    Discover,
    /// Tell what image files say of themselves: images, size, resolution, compression, completeness
    #[command(after_help = "TIFF, JPEG, JPEG 2000 and PDF; only headers are read, unless with `--pages`.\n\n\
        Examples:\n  \
        veghe-agent inspect scans/CJT-URB-1987-0142\n  \
        veghe-agent inspect --pages scans/CJT-URB-1987-0142 | grep -E 'blank|duplicate'\n  \
        veghe-agent inspect --json scans | jq 'select(.complete | not) | .file'")]
    Inspect(Inspect),
    /// Verify that masters are what they were, and tell which are not
    #[cfg(target_os = "linux")]
    Fixity {
        /// What to do.
        #[command(subcommand)]
        command: crate::fixity::command::Fixity,
    },
    /// Tell which files and rows of the digitization do not count, and why
    #[cfg(target_os = "linux")]
    #[command(after_help = "Example: veghe-agent digitization --state-dir /var/lib/veghe-agent")]
    Digitization {
        /// Directory of the agent's database
        #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
        state_dir: PathBuf,
    },
    /// Install, remove or run the agent as a Windows service
    #[cfg(windows)]
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Print a completion script for a shell
    #[command(after_help = "Example: veghe-agent completion bash > /etc/bash_completion.d/veghe-agent")]
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// The Windows service.
#[cfg(windows)]
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Install the service and start it, as administrator
    Install {
        /// Directory of agent.yaml, key, certificates and spool
        #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
        state_dir: PathBuf,
    },
    /// Stop the service and remove it, as administrator
    Uninstall,
    /// Run under the service manager
    Run {
        /// Directory of agent.yaml, key, certificates and spool
        #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
        state_dir: PathBuf,
    },
}

/// How to enrol.
#[derive(Debug, Args)]
pub struct Join {
    /// The collector's operations address; plain http only on its own machine
    #[arg(value_name = "URL")]
    pub url: String,
    /// The token that `veghe-collector token create` printed; `-` reads it from stdin, out of the process list
    #[arg(long, value_name = "TOKEN", required_unless_present = "token_file", conflicts_with = "token_file")]
    pub token: Option<String>,
    /// File with the token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Where key, certificates, agent.yaml and spool will be
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    pub state_dir: PathBuf,
    /// Replace an enrolment that is there, its settings included
    #[arg(long)]
    pub force: bool,
}

/// Does what needs no signals: everything but [`Command::Run`].
///
/// # Errors
/// What went wrong, for the edge to print; [`is_usage`] tells which are the caller's mistakes.
pub async fn execute(command: Command, out: &mut impl Write) -> anyhow::Result<()> {
    match command {
        Command::Run { state_dir } => crate::app::run(&state_dir, tokio_util::sync::CancellationToken::new()).await,
        Command::Join(arguments) => join(arguments, out).await,
        Command::Once => {
            let sensors = sensors::all(&SensorSettings { patience: ONCE_PATIENCE, ..SensorSettings::default() });
            let settings = schedule::Settings { deadline: ONCE_DEADLINE, ..schedule::Settings::default() };
            let round = schedule::once(sensors, &settings);
            let mut text = String::new();
            crate::exposition::write_text(&round, &mut text);
            write_out(out, &text)
        }
        Command::Sensors { state_dir } => list_sensors(&state_dir, out),
        Command::CheckConfig { file } => write_out(out, &Config::load(&file)?.to_yaml()),
        Command::ShowConfig { state_dir } => {
            let local = Config::load_local(&state_dir.join(config::FILE))?;
            write_out(out, &crate::remote::Remote::look(&state_dir, local)?.to_text())
        }
        Command::Discover => {
            let found = crate::discovery::look(&crate::discovery::Settings::default()).found;
            let mut text = String::new();
            for finding in &found {
                text = format!("{text}{:13} {}  {}\n", finding.kind, finding.name, finding.detail);
            }
            write_out(out, if found.is_empty() { "Nothing found that could be watched.\n" } else { &text })
        }
        Command::Inspect(arguments) => {
            let mut out = io::BufWriter::new(out);
            match crate::inspect::run(&arguments, &mut out).and_then(|()| Ok(out.flush()?)) {
                Err(error) if crate::inspect::is_broken_pipe(&error) => Ok(()),
                result => result,
            }
        }
        #[cfg(target_os = "linux")]
        Command::Fixity { command } => crate::fixity::command::run(&command, out),
        #[cfg(target_os = "linux")]
        Command::Digitization { state_dir } => write_out(out, &crate::digitization::report(&state_dir)?),
        #[cfg(windows)]
        Command::Service(command) => match command {
            ServiceCommand::Install { state_dir } => crate::service::install(&state_dir),
            ServiceCommand::Uninstall => crate::service::uninstall(),
            ServiceCommand::Run { state_dir } => crate::service::run(state_dir),
        },
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "veghe-agent", &mut script);
            write_out(out, &String::from_utf8_lossy(&script))
        }
    }
}

/// Whether `error` is a mistake in usage or configuration (exit status 64) and no failure (1).
pub fn is_usage(error: &anyhow::Error) -> bool {
    let is_join = |error: &JoinError| matches!(error, JoinError::Exists { .. } | JoinError::Url { .. });
    error.chain().any(|cause| {
        cause.is::<Problems>()
            || cause.is::<veghe_wire::enrolment::TokenError>()
            || cause.downcast_ref::<JoinError>().is_some_and(is_join)
    })
}

fn write_out(out: &mut impl Write, text: &str) -> anyhow::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // A reader that has seen enough, such as `head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to stdout"),
    }
}

async fn join(arguments: Join, out: &mut impl Write) -> anyhow::Result<()> {
    let text = match (arguments.token.as_deref(), &arguments.token_file) {
        (Some("-"), _) => {
            let mut text = String::new();
            io::stdin().take(4096).read_to_string(&mut text).context("cannot read the token from stdin")?;
            text
        }
        (Some(token), _) => token.to_owned(),
        (None, Some(file)) => {
            fs::read_to_string(file).with_context(|| format!("cannot read the token from {}", file.display()))?
        }
        (None, None) => String::new(),
    };
    let token: Token = text.trim().parse()?;
    let existing = if arguments.force { Existing::Replace } else { Existing::Keep };
    let agent = crate::join::join(&arguments.url, &token, &arguments.state_dir, existing).await?;
    let state_dir = arguments.state_dir.display();
    write_out(
        out,
        &format!(
            "Enrolled as {agent}. Settings: {state_dir}/{}\nStart it: veghe-agent run --state-dir {state_dir}\n",
            config::FILE
        ),
    )
}

fn list_sensors(state_dir: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let file = state_dir.join(config::FILE);
    let settings = if file.exists() { Config::load(&file)?.sensors } else { SensorSettings::default() };
    let survey = sensors::survey(&settings);
    let width = survey.iter().map(|sensor| sensor.sensor.len()).max().unwrap_or(0);
    let (mut text, mut needed) = (String::new(), BTreeSet::new());
    for sensor in &survey {
        let state = match (&sensor.obstacle, &sensor.missing) {
            (Some(why), _) => format!("does not run: {why}"),
            (None, Some(missing)) => format!("runs, but lacks {missing}"),
            (None, None) => "runs".to_owned(),
        };
        let source = if sensor.source.is_empty() { String::new() } else { format!("  ({})", sensor.source) };
        needed.extend(sensor.missing.iter().flat_map(|missing| capabilities_in(missing)));
        text = format!("{text}{:width$}  {state}{source}\n", sensor.sensor);
    }
    if !needed.is_empty() {
        let names = needed.into_iter().collect::<Vec<_>>().join(" ");
        text = format!(
            "{text}\nTo grant the service what its sensors lack: systemctl edit veghe-agent\n  [Service]\n  AmbientCapabilities={names}\n  CapabilityBoundingSet={names}\n"
        );
    }
    write_out(out, &text)
}

/// Names such as `CAP_SYS_RAWIO` in what a sensor lacks.
fn capabilities_in(missing: &str) -> impl Iterator<Item = &str> {
    let words = missing.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("CAP_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_found_in_what_is_lacking() {
        let found: Vec<_> = capabilities_in("answers: CAP_SYS_ADMIN CAP_SYS_RAWIO (group disk), CAP").collect();
        assert_eq!(found, ["CAP_SYS_ADMIN", "CAP_SYS_RAWIO"]);
    }

    #[test]
    fn the_help_of_every_command_is_as_reviewed() {
        let mut command = Cli::command().term_width(100);
        let mut text = command.render_long_help().to_string();
        command.build();
        for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
            let sub = std::mem::take(sub).term_width(100);
            let name = sub.get_name().to_owned();
            text = format!("{text}\n=== {name}\n{}", sub.clone().render_long_help());
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_token_must_be_given_once() {
        assert!(Cli::try_parse_from(["veghe-agent", "join", "http://localhost"]).is_err());
        assert!(
            Cli::try_parse_from(["veghe-agent", "join", "http://localhost", "--token", "a", "--token-file", "b"])
                .is_err()
        );
        assert!(Cli::try_parse_from(["veghe-agent", "join", "http://localhost", "--token", "-"]).is_ok());
    }
}

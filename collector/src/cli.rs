//! The command line: one place per option feeds parser, help and completion.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use url::Url;
use veghe_model::Timestamp;
use veghe_wire::AgentId;
use veghe_wire::document::parse_duration;

use crate::digitization::pack::{Form, Language, Period};
use crate::import::Format;
use crate::terminal::{Output, Question};

/// Collect the health of servers, scanners and storage; store, query, alert and show it.
#[derive(Debug, Parser)]
#[command(
    name = "veghe-collector",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  veghe-collector up                                   everything on this machine, now
  veghe-collector run --config /etc/veghe/collector.yaml
  veghe-collector token create --agent nas-1           a one-time token for `veghe-agent join`

Logs go to stderr; RUST_LOG sets their detail, for example RUST_LOG=veghe_collector=debug.
Exit status: 0 success, 1 failure, 64 wrong usage or configuration."
)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start everything on this machine: the collector on loopback and an agent of this machine
    ///
    /// Prints the addresses and, once, the first sign-in, which is kept in DIR/first-login. The real addresses are also
    /// in DIR/listeners.json. Ctrl-C drains what was accepted to disk and ends.
    #[command(after_help = "Example: veghe-collector up --data-dir ./veghe-data --ops 127.0.0.1:9090")]
    Up(Up),
    /// Run the collector from a configuration file
    ///
    /// SIGHUP reads the rule files again, SIGTERM drains what was accepted to disk and ends. An operations address
    /// outside loopback speaks TLS by itself.
    #[command(after_help = "Example: veghe-collector run --config /etc/veghe/collector.yaml")]
    Run {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration file and the files that it names: rules, certificates, secrets
    ///
    /// Prints every problem in one run, with file, line, key and remedy; exit code 64 if there is one. Run it as the
    /// collector's user: it must be able to read the files that the configuration names.
    #[command(after_help = "Example: veghe-collector check-config /etc/veghe/collector.yaml")]
    CheckConfig {
        /// The configuration file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Show the configuration in force: the file with every default filled in
    ///
    /// The output is a configuration file that gives the same. Secrets are not in it, only the files that hold them.
    #[command(after_help = "Example: veghe-collector show-config /etc/veghe/collector.yaml")]
    ShowConfig {
        /// The configuration file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Make one-time tokens that admit agents
    #[command(subcommand)]
    Token(TokenCommand),
    /// List agents, or cut one off
    #[command(subcommand)]
    Agents(AgentsCommand),
    /// List what agents found on their machines, and decide what is watched
    #[command(subcommand)]
    Discovered(DiscoveredCommand),
    /// Copy everything that the running collector holds to a new directory
    ///
    /// Samples, ledger, certificate authority, rules and whatever else the data directory has, as of one moment, while the
    /// collector goes on. What the agent of this machine has not delivered yet is not in it.
    #[command(after_help = "Example: veghe-collector backup /mnt/backup/veghe-monday --data-dir /var/lib/veghe")]
    Backup {
        /// Where to; must not exist, or be empty. The collector writes it, as its user
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Which collector
        #[command(flatten)]
        running: Running,
    },
    /// Make a backup a data directory again; every byte is checked on the way
    ///
    /// Nothing is ever overwritten. Run it as the collector's user, with no collector on that directory. A database of samples
    /// that could not give free room back is written anew, as `compact` does, where there is room for that.
    #[command(after_help = "Example: veghe-collector restore /mnt/backup/veghe-monday --data-dir /var/lib/veghe-new")]
    Restore {
        /// The backup
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// The new data directory; must not exist, or be empty
        #[arg(long, value_name = "NEW")]
        data_dir: PathBuf,
    },
    /// Write the database of samples anew, so that the room in it that is free goes back to the file system
    ///
    /// For data directories that programs before format 5 made: theirs never shrinks by itself, whatever is deleted. Others give
    /// room back as they run and gain little. Stop the collector first; needs room for a second database beside it. Cut off
    /// at any moment, the directory is what it was.
    #[command(after_help = "Example: veghe-collector compact --data-dir /var/lib/veghe")]
    Compact {
        /// The data directory of a collector that does not run
        #[arg(long, value_name = "DIR", default_value = "veghe-data")]
        data_dir: PathBuf,
    },
    /// Check every checksum of samples, log and ledger; exit code 1 if one does not hold
    ///
    /// Prints every damaged place: file, table and row, whose samples, from when to when. Without DIR it checks the
    /// collector that runs on the data directory, or the directory itself where none runs.
    #[command(after_help = "\
Examples:
  veghe-collector verify --data-dir /var/lib/veghe
  veghe-collector verify /mnt/backup/veghe-monday")]
    Verify {
        /// A backup, or the data directory of a collector that does not run
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Which collector
        #[command(flatten)]
        running: Running,
    },
    /// Load samples of the past from text files: Prometheus' text format, OpenMetrics, or a `promtool tsdb dump`
    ///
    /// Goes to the collector that runs on the data directory, or to its store while none runs. Files may be packed with
    /// gzip or zstd. What is on disk already stays as it is, so an import that broke off can be repeated. Samples older
    /// than the retention are deleted with the next hourly round.
    #[command(after_help = "\
Examples:
  veghe-collector import history.om --data-dir /var/lib/veghe
  promtool tsdb dump /var/lib/prometheus/metrics2 | veghe-collector import -")]
    Import {
        /// Text files; `-` is standard input
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// How to read them
        #[arg(long, value_name = "FORMAT", value_enum, default_value = "auto")]
        format: Format,
        /// Which collector
        #[command(flatten)]
        running: Running,
    },
    /// Ask a query in PromQL
    ///
    /// On a terminal the answer is a table, with a sparkline for each series of a range; into a pipe it is lines
    /// separated by tabs.
    #[command(after_help = "\
Examples:
  veghe-collector promql up
  veghe-collector promql 'sum by (instance) (rate(node_cpu_seconds_total[5m]))' --range 6h --step 5m
  veghe-collector promql 'node_filesystem_avail_bytes' --at 2026-01-31T12:00:00Z --output csv
  veghe-collector promql up --url http://127.0.0.1:9090")]
    Promql(Promql),
    /// Import, export or show the inventory of what is digitized
    #[command(subcommand)]
    Inventory(InventoryCommand),
    /// Write reports of the digitization, and check that none was changed
    #[command(subcommand)]
    Digitization(DigitizationCommand),
    /// Print a completion script for a shell
    #[command(after_help = "Example: veghe-collector completion bash > /etc/bash_completion.d/veghe-collector")]
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: Shell,
    },
}

/// Options of `up`.
#[derive(Debug, Args)]
pub struct Up {
    /// Where everything is kept
    #[arg(long, value_name = "DIR", default_value = "veghe-data")]
    pub data_dir: PathBuf,
    /// Address of the operations listener (queries, metrics, console); port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9090")]
    pub ops: SocketAddr,
    /// Address of the public status page; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub status: SocketAddr,
    /// Address of the MQTT broker for agents; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8883")]
    pub mqtt: SocketAddr,
    /// Folder that scans come into, with a folder for each unit; may be given several times
    #[arg(long, value_name = "DIR")]
    pub watch: Vec<PathBuf>,
}

/// Options of `promql`.
#[derive(Debug, Args)]
pub struct Promql {
    /// The expression
    #[arg(value_name = "EXPR")]
    pub expression: String,
    /// The moment, or the end of the range: RFC 3339 or seconds since 1970; now if not said
    #[arg(long, value_name = "TIME", value_parser = parse_moment, allow_hyphen_values = true)]
    pub at: Option<Timestamp>,
    /// The length of a range, with its unit: 30m, 6h, 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub range: Option<Duration>,
    /// The step of a range, with its unit; if not said, a hundredth of the range, at least 1s
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "range")]
    pub step: Option<Duration>,
    /// How to write the answer; a table on a terminal, else tsv
    #[arg(long, value_name = "FORM", value_enum)]
    pub output: Option<Output>,
    /// Ask anything that speaks Prometheus' API instead: its address, without /api/v1
    #[arg(long, value_name = "URL", conflicts_with = "data_dir")]
    pub url: Option<Url>,
    /// A file with an API token for that address
    #[arg(long, value_name = "FILE", requires = "url")]
    pub token_file: Option<PathBuf>,
    /// Certificates (PEM) to trust beside the system's, for example DIR/ca/ca.crt of a collector
    #[arg(long, value_name = "FILE", requires = "url")]
    pub ca_file: Option<PathBuf>,
    /// The data directory of the collector
    #[arg(long, value_name = "DIR", default_value = "veghe-data")]
    pub data_dir: PathBuf,
}

impl Promql {
    /// What is asked, where `now` is now.
    pub fn question(&self, now: Timestamp) -> Question {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let range_ms = self.range.map(|range| {
            let step = self.step.unwrap_or_else(|| Duration::from_secs((range.as_secs() / 100).max(1)));
            (ms(range), ms(step))
        });
        Question { query: self.expression.clone(), at_ms: self.at.unwrap_or(now).millis(), range_ms }
    }
}

fn parse_moment(text: &str) -> Result<Timestamp, String> {
    if let Some(seconds) = text.parse::<f64>().ok().filter(|seconds| seconds.abs() < 9e12) {
        return Ok(Timestamp::from_seconds(seconds));
    }
    text.parse::<jiff::Timestamp>()
        .map(|moment| Timestamp(moment.as_millisecond()))
        .map_err(|_neither| "neither RFC 3339, for example 2026-01-31T12:00:00Z, nor seconds since 1970".to_owned())
}

/// Which running collector is meant.
#[derive(Debug, Args)]
pub struct Running {
    /// The data directory of the running collector
    #[arg(long, value_name = "DIR", default_value = "veghe-data")]
    pub data_dir: PathBuf,
}

/// Commands on tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token; the last line of the output is the token alone
    #[command(after_help = "Example: veghe-collector token create --agent nas-1 --expires 1h")]
    Create {
        /// The agent that it admits: a-z, 0-9, `.`, `-`, `_`
        #[arg(long, value_name = "ID")]
        agent: AgentId,
        /// How long it is good for, with its unit: 30m, 1h, 7d; at most 30d
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
        expires: Duration,
        /// A label of the agent, by which group files choose it; may be given again
        #[arg(long, value_name = "NAME=VALUE", value_parser = parse_label)]
        label: Vec<(String, String)>,
        /// Which collector
        #[command(flatten)]
        running: Running,
    },
}

/// Commands on agents.
#[derive(Debug, Subcommand)]
pub enum AgentsCommand {
    /// List every agent: state, version, last word, trouble
    #[command(after_help = "Example: veghe-collector agents list --data-dir /var/lib/veghe")]
    List {
        /// Which collector
        #[command(flatten)]
        running: Running,
    },
    /// Show labels, groups and settings of one agent, and what it refuses and why
    #[command(after_help = "Example: veghe-collector agents show nas-1 --data-dir /var/lib/veghe")]
    Show {
        /// The agent
        #[arg(value_name = "ID")]
        agent: AgentId,
        /// Which collector
        #[command(flatten)]
        running: Running,
    },
    /// Set labels of an agent, by which group files choose it; an empty value takes one away
    #[command(after_help = "Example: veghe-collector agents label scan-1 role=scanner site=timisoara canary=true")]
    Label {
        /// The agent
        #[arg(value_name = "ID")]
        agent: AgentId,
        /// Its labels; those with `canary=true` are first when settings are rolled out
        #[arg(value_name = "NAME=VALUE", required = true, value_parser = parse_label)]
        labels: Vec<(String, String)>,
        /// Which collector
        #[command(flatten)]
        running: Running,
    },
    /// Read the group files again and roll out what they changed
    ///
    /// A group file of `agents.groups` (DIR/agents.d) has `match`, labels with a value or a list of values, and
    /// `settings`, a part of agent.yaml. First a few agents get what is new, the others after these have lasted; where
    /// one of them refuses it, falls silent or has failing sensors since, all go back to what was before.
    #[command(after_help = "Example: veghe-collector agents apply --data-dir /var/lib/veghe")]
    Apply {
        /// Also try settings that were rolled back before
        #[arg(long)]
        retry: bool,
        /// Which collector
        #[command(flatten)]
        running: Running,
    },
    /// Cut an agent off at once; a new token admits it again
    #[command(after_help = "Example: veghe-collector agents revoke nas-1 --data-dir /var/lib/veghe")]
    Revoke {
        /// The agent
        #[arg(value_name = "ID")]
        agent: AgentId,
        /// Which collector
        #[command(flatten)]
        running: Running,
    },
}

/// Commands on what agents found on their machines.
#[derive(Debug, Subcommand)]
pub enum DiscoveredCommand {
    /// List what agents found: new, watched, vanished, ignored
    #[command(after_help = "Example: veghe-collector discovered list --data-dir /var/lib/veghe")]
    List {
        /// Which collector
        #[command(flatten)]
        running: Running,
    },
    /// Have a found thing watched; what that needs is added to the settings of its agent
    #[command(after_help = "Example: veghe-collector discovered watch nas-1 exporter 127.0.0.1:9187")]
    Watch(Thing),
    /// Show a found thing no more
    #[command(after_help = "Example: veghe-collector discovered ignore nas-1 tool restic")]
    Ignore(Thing),
    /// Take back what was decided about a found thing
    #[command(after_help = "Example: veghe-collector discovered forget nas-1 tool restic")]
    Forget(Thing),
}

/// A thing that an agent found.
#[derive(Debug, Args)]
pub struct Thing {
    /// The agent
    #[arg(value_name = "ID")]
    pub agent: AgentId,
    /// What it is, as `discovered list` shows it
    #[arg(value_name = "KIND")]
    pub kind: String,
    /// Which one, as `discovered list` shows it
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Which collector
    #[command(flatten)]
    pub running: Running,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let wrong = || format!("`{text}` is no label; write for example `site=timisoara`");
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    let is_good = name != "agent" && veghe_wire::remote::is_label(name, if value.is_empty() { "x" } else { value });
    if is_good { Ok((name.to_owned(), value.to_owned())) } else { Err(wrong()) }
}

/// Commands on the inventory.
#[derive(Debug, Subcommand)]
pub enum InventoryCommand {
    /// Import an inventory from CSV or XLSX: check every row, show what would change, and ask
    ///
    /// CSV is UTF-8 separated by `;`, tabs or commas; of XLSX the first sheet is read. The first row names the columns:
    /// `cod_unitate`, `nr_file` and `latime_mm` must be there; `fond`, `inventar`, `nr_crt`, `tip`, `titlu`,
    /// `ani_extremi`, `termen_pastrare`, `format`, `legatura`, `stare`, `acces`, `cutie`, `locatie`, `prioritate`, `lot`
    /// and `pagini_estimate` may be. Case, accents and spaces do not matter. Every problem is told in one run, with row,
    /// column and remedy.
    #[command(after_help = "\
Examples:
  veghe-collector inventory import inventar.csv --data-dir /var/lib/veghe
  veghe-collector inventory import opis.xlsx --map cod_unitate=Cota --map \"latime_mm=Grosime (mm)\"")]
    Import {
        /// CSV or XLSX
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Take a column of ours from one that has another name; may be given again
        #[arg(long, value_name = "OURS=THEIRS")]
        map: Vec<String>,
        /// Make it the inventory without asking
        #[arg(long)]
        yes: bool,
        /// Which collector
        #[command(flatten)]
        running: Running,
    },
    /// Print the inventory in force as CSV
    #[command(after_help = "Example: veghe-collector inventory export --data-dir /var/lib/veghe > inventar.csv")]
    Export {
        /// Which collector
        #[command(flatten)]
        running: Running,
    },
    /// Show the versions of the inventory and what the one in force holds
    #[command(after_help = "Example: veghe-collector inventory show --data-dir /var/lib/veghe")]
    Show {
        /// Which collector
        #[command(flatten)]
        running: Running,
    },
}

/// Commands on reports of the digitization.
#[derive(Debug, Subcommand)]
pub enum DigitizationCommand {
    /// Write the report of a week or month as a workbook with charts, CSV or JSON
    ///
    /// Until it is frozen it is a draft, and says so. Freezing fixes every day up to the end of the period: what comes for
    /// them later counts on the day of its arrival and is listed in the next report. Each frozen report has a digest that
    /// covers its data and the digest of the report before.
    #[command(after_help = "\
Examples:
  veghe-collector digitization report 2026-05 --data-dir /var/lib/veghe
  veghe-collector digitization report 2026-W19 --freeze --format csv --language en --output week-19.csv")]
    Report {
        /// A week of ISO 8601 or a month
        #[arg(value_name = "PERIOD", value_parser = str::parse::<Period>)]
        period: Period,
        /// xlsx, csv or json
        #[arg(long, value_name = "FORMAT", default_value = "xlsx", value_parser = parse_form)]
        format: Form,
        /// ro or en
        #[arg(long, value_name = "LANGUAGE", default_value = "ro", value_parser = parse_language)]
        language: Language,
        /// Where to; if not said, a file of this directory that is named after the period
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Freeze the period first, which can't be undone
        #[arg(long)]
        freeze: bool,
        /// Which collector
        #[command(flatten)]
        running: Running,
    },
    /// List the frozen reports with their digests
    #[command(after_help = "Example: veghe-collector digitization reports --data-dir /var/lib/veghe")]
    Reports {
        /// Which collector
        #[command(flatten)]
        running: Running,
    },
    /// Tell who of some people did the events of a unit, where pseudonyms are kept; the look goes on record
    ///
    /// No name is stored anywhere: the file's names are hashed with the keys of the last weeks and compared. The record (who, when,
    /// why, which unit, how many events) is written before the answer and shown at /digitization/privacy; it has no names.
    #[command(after_help = "\
Example:
  veghe-collector digitization reveal CJT-URB-1987-0142 --names staff.txt --by 'Ion Vasile' \\
    --why 'pages 12 to 40 are missing, complaint 1234' --data-dir /var/lib/veghe")]
    Reveal {
        /// The unit, by its code
        #[arg(value_name = "UNIT")]
        unit: String,
        /// The people who may have done them, one name on a line as the capture software writes it
        #[arg(long, value_name = "FILE")]
        names: PathBuf,
        /// Who looks
        #[arg(long, value_name = "NAME")]
        by: String,
        /// What the look is for, a sentence
        #[arg(long, value_name = "REASON")]
        why: String,
        /// Which collector
        #[command(flatten)]
        running: Running,
    },
    /// Check that every report is as it was made and follows from the one before; exit code 1 if one does not
    #[command(after_help = "Example: veghe-collector digitization verify --data-dir /var/lib/veghe")]
    Verify {
        /// Which collector
        #[command(flatten)]
        running: Running,
    },
}

fn parse_form(text: &str) -> Result<Form, String> {
    Form::ALL
        .into_iter()
        .find(|form| form.extension() == text)
        .ok_or_else(|| "is none of xlsx, csv and json".to_owned())
}

fn parse_language(text: &str) -> Result<Language, String> {
    Language::ALL.into_iter().find(|language| language.tag() == text).ok_or_else(|| "is neither ro nor en".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn help_reads_well() {
        let mut command = Cli::command();
        // Gives subcommands their full names, as the program does.
        command.build();
        let mut help = vec![command.render_long_help().to_string()];
        for path in [
            "up",
            "run",
            "check-config",
            "show-config",
            "token",
            "token create",
            "agents",
            "agents list",
            "agents show",
            "agents label",
            "agents apply",
            "agents revoke",
            "discovered",
            "discovered list",
            "discovered watch",
            "discovered ignore",
            "discovered forget",
            "backup",
            "restore",
            "verify",
            "import",
            "promql",
            "inventory",
            "inventory import",
            "inventory export",
            "inventory show",
            "digitization",
            "digitization report",
            "digitization reports",
            "digitization verify",
            "completion",
        ] {
            let sub =
                path.split(' ').fold(&mut command, |command, name| command.find_subcommand_mut(name).expect(name));
            help.push(format!("--- {path}\n{}", sub.render_long_help()));
        }
        insta::assert_snapshot!(help.join("\n"));
    }

    #[test]
    fn every_shell_gets_a_completion_script() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "veghe-collector", &mut script);
            let script = String::from_utf8(script).expect("text");
            assert!(script.contains("check-config") && script.contains("revoke"), "{shell}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

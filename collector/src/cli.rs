//! The command line: one place per option feeds parser, help and completion.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use veghe_wire::AgentId;
use veghe_wire::document::parse_duration;

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
  veghe-collector token create --agent nas-1           a one-time token for `veghe-agent join`"
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
    /// Import, export or show the inventory of what is digitized
    #[command(subcommand)]
    Inventory(InventoryCommand),
    /// Print the completion script of a shell
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

/// Commands on the inventory.
#[derive(Debug, Subcommand)]
pub enum InventoryCommand {
    /// Import an inventory from CSV or XLSX: checks every row, shows what would change, and asks
    ///
    /// CSV is UTF-8 separated by `;`, tabs or commas; of XLSX the first sheet is read. The first row names the columns:
    /// `cod_unitate`, `nr_file` and `latime_mm` must be there; `fond`, `inventar`, `nr_crt`, `tip`, `titlu`,
    /// `ani_extremi`, `termen_pastrare`, `format`, `legatura`, `stare`, `acces`, `cutie`, `locatie`, `prioritate`, `lot`
    /// and `pagini_estimate` may be. Case, accents and spaces do not matter. Every problem is told in one run, with row,
    /// column and remedy.
    #[command(after_help = "\
Examples:
  veghe-collector inventory import inventar.csv --data-dir /var/lib/veghe
  veghe-collector inventory import opis.xlsx --map cod_unitate=Cota --map \"latime_mm=Grosime (mm)\" --yes")]
    Import {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Takes a column of ours from one that has another name; may be given again
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
            "agents revoke",
            "inventory",
            "inventory import",
            "inventory export",
            "inventory show",
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

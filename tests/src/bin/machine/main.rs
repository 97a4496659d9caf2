//! A machine of its own for what this one's kernel does not have: boots Debian's kernel in QEMU, with a real systemd, real
//! disks, arrays, shares and buses, on the files of this machine (read-only, what is written stays in memory), and runs checks of
//! the agent in it.
//!
//! `cargo run -p veghe-tests --bin machine`. Each check is a line; exit status 1 if one failed. What each said is in
//! `target/machine/work`. With KVM where the processor has it, else emulated, which takes several times as long.

mod checks;
mod clock;
mod host;
mod inside;
mod packages;
mod shares;
mod unit;

use std::process::ExitCode;

use clap::Parser;

/// Boot a machine with Debian's kernel and check the agent at what it has.
///
/// Example: cargo run -p veghe-tests --bin machine -- --only nfs4 --only quotas
#[derive(Parser)]
struct Arguments {
    /// Nothing but this check; may be given several times
    #[arg(long, value_name = "CHECK")]
    only: Vec<String>,
    /// Print the checks and what each shows
    #[arg(long)]
    list: bool,
    /// Run the checks here: what the machine itself calls
    #[arg(long, hide = true)]
    inside: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(name) = arguments.only.iter().find(|name| !checks::ALL.iter().any(|check| check.name == **name)) {
        anyhow::bail!("there is no check `{name}`; --list tells which there are");
    }
    // The others need the devices.
    let is_chosen = |name: &str| name == "devices" || arguments.only.iter().any(|only| only == name);
    let chosen = |check: &&checks::Check| arguments.only.is_empty() || is_chosen(check.name);
    if arguments.list {
        return host::list().map(|()| ExitCode::SUCCESS);
    }
    if arguments.inside {
        return inside::run(checks::ALL.iter().filter(chosen));
    }
    host::run(&arguments.only)
}

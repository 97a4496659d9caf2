//! The real programs as child processes: built once, started on free ports, killed when dropped.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use url::Url;

/// How long a condition may take before a test gives up on it; far above what any of them needs.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// The path of one of our programs, of the profile that the caller runs in, built now if need be; or, where the environment
/// variable `VEGHE_PROGRAMS` names a directory, the one that is there.
///
/// # Panics
/// Where it can't be built: no test makes sense then.
pub fn program(name: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        if let Some(built) = std::env::var_os("VEGHE_PROGRAMS") {
            return built.into();
        }
        let dir = profile_directory();
        let profile: &[&str] = if dir.ends_with("release") { &["--release"] } else { &[] };
        build(&[&["--workspace", "--bins", "--examples"], profile].concat());
        dir
    })
    .join(name)
}

/// The path of one of our programs as it is installed, of the profile `dist`, built now if need be; or where the environment
/// variable `VEGHE_PROGRAMS` says, as of [`program`].
///
/// # Panics
/// Where it can't be built.
pub fn installed(name: &str) -> PathBuf {
    if let Some(built) = std::env::var_os("VEGHE_PROGRAMS") {
        return PathBuf::from(built).join(name);
    }
    // Alone, as it is built for others: beside other packages it would have what those ask of common dependencies.
    build(&["--profile", "dist", "--package", name, "--bin", name]);
    profile_directory().with_file_name("dist").join(name)
}

/// Where cargo put this program.
///
/// # Panics
/// Where it is in no directory.
pub fn profile_directory() -> PathBuf {
    let own = std::env::current_exe().expect("own path");
    let dir = own.parent().expect("target directory");
    if dir.ends_with("deps") { dir.parent().expect("profile directory").to_owned() } else { dir.to_owned() }
}

/// `cargo build` into the target directory of this program.
fn build(arguments: &[&str]) {
    let mut build = cargo();
    build.args(["build", "--quiet"]).args(arguments);
    assert!(build.status().expect("cargo").success(), "cannot build the programs");
}

/// Cargo, in this workspace and with the target directory of this program.
///
/// # Panics
/// Where this program is in no target directory.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.env("CARGO_TARGET_DIR", profile_directory().parent().expect("target directory"));
    // What cargo told this process about this package is not true of the packages to build, and build scripts that watch
    // it would build everything anew.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// Asks `condition` until it gives a value.
///
/// # Errors
/// At once what `condition` fails with, or that it gave nothing within [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let end = now() + PATIENCE;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        ensure!(now() < end, "waited {PATIENCE:?} in vain: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// The monotonic clock of the tests.
#[expect(clippy::disallowed_methods, reason = "the one home of the clock in the tests")]
pub fn now() -> Instant {
    Instant::now()
}

/// A child process whose output goes to a file; killed when dropped.
pub struct Process {
    child: Child,
    /// Where its standard error goes.
    pub log: PathBuf,
}

impl Process {
    /// Starts `command`, its output appended to `log`.
    ///
    /// # Errors
    /// Where it can't be started.
    pub fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it at once, as a power cut of the process would.
    ///
    /// # Errors
    /// Where it can't be waited for.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end (SIGINT, as Ctrl-C does) and waits.
    ///
    /// # Errors
    /// Where it does not end within [`PATIENCE`].
    pub fn interrupt(&mut self) -> anyhow::Result<ExitStatus> {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::INT)?;
        self.wait()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Where it does not end within [`PATIENCE`].
    pub fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        wait_for("the process ends", || Ok(self.child.try_wait()?))
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// Where that can't be told.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Everything it said so far.
    ///
    /// # Errors
    /// Where the log can't be read.
    pub fn output(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        File::open(&self.log)?.read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Where a running collector listens.
#[derive(Clone, Debug)]
pub struct Listeners {
    /// The operations listener.
    pub ops: Url,
    /// The public status listener.
    pub status: Url,
    /// The broker.
    pub mqtt: Url,
}

impl Listeners {
    /// Reads `listeners.json`; `None` while it is not there.
    ///
    /// # Errors
    /// Where it is there and wrong.
    pub fn read(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let Ok(text) = fs::read_to_string(data_dir.join("listeners.json")) else { return Ok(None) };
        let json: Value = serde_json::from_str(&text)?;
        let url = |key: &str| -> anyhow::Result<Url> {
            Ok(json[key].as_str().with_context(|| format!("{key} is missing in {text}"))?.parse()?)
        };
        Ok(Some(Self { ops: url("ops")?, status: url("status")?, mqtt: url("mqtt")? }))
    }
}

/// A running collector and what it is reached by.
pub struct Collector {
    /// The process.
    pub process: Process,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Its addresses.
    pub listeners: Listeners,
}

impl Collector {
    /// Starts `veghe-collector` with `arguments` and waits until it is ready.
    ///
    /// # Errors
    /// Where it ends or is not ready within [`PATIENCE`].
    pub fn start(data_dir: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(program("veghe-collector"));
        command.args(arguments);
        // A file of an earlier run would name ports that nobody holds any more.
        if data_dir.join("listeners.json").exists() {
            fs::remove_file(data_dir.join("listeners.json"))?;
        }
        Self::adopt(Process::start(&mut command, &data_dir.with_extension("collector.log"))?, data_dir)
    }

    /// `up` on free ports in `data_dir`.
    ///
    /// # Errors
    /// As [`Collector::start`].
    pub fn up(data_dir: &Path) -> anyhow::Result<Self> {
        let dir = data_dir.to_str().context("path is not UTF-8")?;
        let any = "127.0.0.1:0";
        Self::start(data_dir, &["up", "--data-dir", dir, "--ops", any, "--status", any, "--mqtt", any])
    }

    /// Takes over a process that is about to be a collector with this data directory, and waits until it is ready.
    ///
    /// # Errors
    /// Where it ends or is not ready within [`PATIENCE`].
    pub fn adopt(mut process: Process, data_dir: &Path) -> anyhow::Result<Self> {
        let listeners = wait_for("the collector is ready", || {
            ensure!(process.is_running()?, "the collector ended: {}", process.output()?);
            let Some(listeners) = Listeners::read(data_dir)? else { return Ok(None) };
            let ready = crate::http::get(&listeners.ops.join("/-/ready")?).is_ok();
            Ok(ready.then_some(listeners))
        })?;
        Ok(Self { process, data_dir: data_dir.to_owned(), listeners })
    }

    /// Runs an administrative command against it and gives its standard output.
    ///
    /// # Errors
    /// Where the command fails.
    pub fn admin(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output =
            Command::new(program("veghe-collector")).args(arguments).arg("--data-dir").arg(&self.data_dir).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A fresh token for `agent`.
    ///
    /// # Errors
    /// Where none is given.
    pub fn token(&self, agent: &str) -> anyhow::Result<String> {
        let output = self.admin(&["token", "create", "--agent", agent])?;
        Ok(output.lines().last().context("no token was printed")?.trim().to_owned())
    }

    /// Enrols `agent` into `state_dir`, with `interval` between its cycles.
    ///
    /// # Errors
    /// Where the enrolment fails.
    pub fn join(&self, agent: &str, state_dir: &Path, interval: &str) -> anyhow::Result<()> {
        let output = Command::new(program("veghe-agent"))
            .args(["join", self.listeners.ops.as_str().trim_end_matches('/'), "--token", &self.token(agent)?])
            .arg("--state-dir")
            .arg(state_dir)
            .output()?;
        ensure!(output.status.success(), "join: {}", String::from_utf8_lossy(&output.stderr));
        let settings = state_dir.join("agent.yaml");
        let text = fs::read_to_string(&settings)?;
        ensure!(text.contains("interval: 15s"), "agent.yaml has no `interval: 15s`: {text}");
        fs::write(settings, text.replace("interval: 15s", &format!("interval: {interval}")))?;
        Ok(())
    }
}

/// Starts an agent that was enrolled into `state_dir`.
///
/// # Errors
/// Where it can't be started.
pub fn agent(state_dir: &Path) -> anyhow::Result<Process> {
    let mut command = Command::new(program("veghe-agent"));
    command.arg("run").arg("--state-dir").arg(state_dir).env("RUST_LOG", "veghe_agent=debug");
    Process::start(&mut command, &state_dir.with_extension("agent.log"))
}

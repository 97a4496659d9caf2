//! `veghe-agent fixity`: verify a storage now, tell what is known of all, take an object as it is.

use std::io::{self, IsTerminal as _, Write};
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use tokio_util::sync::CancellationToken;
use veghe_wire::document::{format_bytes, format_duration};

use super::database::{Database, FILE, Object, Outcome, StorageRow};
use super::pass::{self, Ending, Finding, Plan, Progress};
use super::{settings, shown};
use crate::clock;
use crate::config::{self, Config};

/// Objects that the report names of each storage.
const MAX_NAMED: usize = 10_000;
/// From one line of progress to the next.
const TERMINAL_EVERY: Duration = Duration::from_millis(500);
const LOG_EVERY: Duration = Duration::from_secs(30);

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Fixity {
    /// Read every file below a folder and compare it with what it was
    #[command(
        after_help = "The first pass keeps the digests; later ones name what changed, decayed or is gone. A pass that was \
        interrupted goes on\nwhere it was. Exit status: 0 all is as it was, 1 something is not.\n\n\
        Example: veghe-agent fixity verify /srv/masters --pace 50MiB --database masters.db"
    )]
    Verify(Verify),
    /// Tell how far every storage is, and name the objects that are not as they were
    #[command(after_help = "Example: veghe-agent fixity report --state-dir /var/lib/veghe-agent")]
    Report(Place),
    /// Take a file, or all below a folder, as it is from now on
    #[command(after_help = "For masters that were replaced on purpose; the next pass keeps their new digests.\n\n\
        Example: veghe-agent fixity accept /srv/masters/CJT-URB-1987-0142")]
    Accept(Accept),
}

/// Where digests are.
#[derive(Debug, Args)]
pub struct Place {
    /// Directory of agent.yaml and of the database of digests
    #[arg(long, value_name = "DIR", default_value = crate::cli::STATE_DIR)]
    pub state_dir: PathBuf,
    /// Database of digests, instead of the one in the state directory
    #[arg(long, value_name = "FILE")]
    pub database: Option<PathBuf>,
}

impl Place {
    fn open(&self) -> anyhow::Result<Database> {
        Database::open(&self.database.clone().unwrap_or_else(|| self.state_dir.join(FILE)))
            .context("no digests to compare with; name another database with --database")
    }
}

/// What to verify.
#[derive(Debug, Args)]
pub struct Verify {
    /// Folder whose files are verified
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Bytes a second, for example 50MiB; without it as fast as disk and processor can
    #[arg(long, value_name = "SIZE", value_parser = settings::pace)]
    pub pace: Option<NonZeroU64>,
    /// Where digests are kept
    #[command(flatten)]
    pub place: Place,
}

/// What to take.
#[derive(Debug, Args)]
pub struct Accept {
    /// File or folder
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Where digests are kept
    #[command(flatten)]
    pub place: Place,
}

/// Does it.
///
/// # Errors
/// Where something is not as it was, or can't be read.
pub fn run(command: &Fixity, out: &mut impl Write) -> anyhow::Result<()> {
    match command {
        Fixity::Verify(arguments) => verify(arguments, out),
        Fixity::Report(place) => report(place, out),
        Fixity::Accept(arguments) => accept(arguments, out),
    }
}

/// The storage of the settings that has that path, or one that is called as the path is.
fn storage(database: &Database, place: &Place, dir: &Path) -> anyhow::Result<(StorageRow, Plan)> {
    let file = place.state_dir.join(config::FILE);
    let configured =
        if place.database.is_none() && file.exists() { Config::load(&file)?.fixity.storages } else { vec![] };
    let configured = configured.into_iter().find(|storage| storage.path == dir);
    let name = configured.as_ref().map_or_else(|| dir.to_string_lossy().into_owned(), |storage| storage.name.clone());
    let copies = configured.as_ref().and_then(|storage| storage.copies.clone());
    let row = database.storage(&name, dir.as_os_str().as_bytes(), copies.as_deref())?;
    let exclude = configured.map_or_else(settings::excluded, |storage| storage.exclude);
    Ok((row, Plan { root: dir.to_owned(), exclude, pace: None }))
}

fn verify(arguments: &Verify, out: &mut impl Write) -> anyhow::Result<()> {
    let dir = arguments.dir.canonicalize().with_context(|| format!("cannot read {}", arguments.dir.display()))?;
    let mut database = arguments.place.open()?;
    let (mut row, mut plan) = storage(&database, &arguments.place, &dir)?;
    plan.pace = arguments.pace;
    let (progress, stop) = (Arc::new(Progress::default()), CancellationToken::new());
    let known = database.counts(row.id)?.objects;
    let begin = clock::instant();
    let is_over = AtomicBool::new(false);
    let (mut found, mut broken) = (0_u64, None);
    let ending = std::thread::scope(|scope| {
        scope.spawn(|| show_progress(&progress, known, &is_over));
        let ending = pass::run(&mut database, &mut row, &plan, &progress, &stop, &mut |_, finding| {
            found += u64::from(finding.outcome != Outcome::Good);
            broken = broken.take().or(writeln!(out, "{}", line(finding)).and_then(|()| out.flush()).err());
            Ok(())
        });
        is_over.store(true, Relaxed);
        ending
    })?;
    if let Some(error) = broken.filter(|error| error.kind() != io::ErrorKind::BrokenPipe) {
        return Err(error).context("cannot write to stdout");
    }
    let counts = database.counts(row.id)?;
    let seconds = begin.elapsed().as_secs_f64();
    let bytes = progress.bytes.load(Relaxed);
    let state = if ending == Ending::Finished { "finished" } else { "stopped" };
    let told = writeln!(
        out,
        "pass {} {state}: {} objects, {} read in {} ({}/s), {} new, {} mismatch, {} missing, {} unreadable",
        row.pass,
        counts.objects,
        format_bytes(bytes),
        format_duration(Duration::from_millis((seconds * 1000.0) as u64)),
        format_bytes((bytes as f64 / seconds.max(0.001)) as u64 >> 10 << 10),
        row.new,
        counts.mismatch,
        counts.missing,
        counts.failed,
    );
    match told {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error).context("cannot write to stdout"),
        _ => {}
    }
    anyhow::ensure!(found == 0, "{found} of {} objects are not as they were", counts.objects);
    Ok(())
}

fn show_progress(progress: &Progress, known: u64, is_over: &AtomicBool) {
    let is_terminal = io::stderr().is_terminal();
    let every = if is_terminal { TERMINAL_EVERY } else { LOG_EVERY };
    let begin = clock::instant();
    let mut next = begin + every;
    while !is_over.load(Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
        if clock::instant() < next {
            continue;
        }
        next = clock::instant() + every;
        let (bytes, objects) = (progress.bytes.load(Relaxed), progress.objects.load(Relaxed));
        let pace = (bytes as f64 / begin.elapsed().as_secs_f64()) as u64 >> 20 << 20;
        let of = if known > 0 { format!(" of about {known}") } else { String::new() };
        let text = format!("{objects}{of} objects, {} read, {}/s", format_bytes(bytes >> 20 << 20), format_bytes(pace));
        let end = if is_terminal { "\r" } else { "\n" };
        // Nobody may look any more.
        write!(io::stderr(), "{text}{end}").ok();
    }
    if is_terminal {
        write!(io::stderr(), "\x1b[K").ok();
    }
}

fn hex(digest: Option<[u8; 32]>) -> String {
    digest.map_or_else(|| "-".to_owned(), |digest| blake3::Hash::from_bytes(digest).to_hex().to_string())
}

/// `mismatch  damaged  CJT-1/0001.tif  expected b3 found b3; whole on nas-2`.
fn line(finding: &Finding) -> String {
    let name = shown(&finding.path);
    let (outcome, reason) = (finding.outcome.name(), finding.reason);
    let copy = finding.good_copy.as_ref().map(|copy| format!("; as it was on {copy}")).unwrap_or_default();
    match finding.outcome {
        Outcome::Good => format!("{outcome:8}  again as it was  {name}"),
        Outcome::Mismatch => {
            let (expected, found) = (hex(finding.expected), hex(finding.found));
            format!("{outcome:8}  {reason}  {name}  expected {expected} found {found}{copy}")
        }
        Outcome::Missing | Outcome::Failed => format!("{outcome:8}  {reason}  {name}{copy}"),
    }
}

fn report(place: &Place, out: &mut impl Write) -> anyhow::Result<()> {
    let database = place.open()?;
    let storages = database.storages()?;
    let mut text = String::new();
    if storages.is_empty() {
        text.push_str("Nothing was verified yet. Verify a folder: veghe-agent fixity verify DIR\n");
    }
    for row in storages {
        text.push_str(&storage_report(&database, &row)?);
    }
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to stdout"),
    }
}

fn storage_report(database: &Database, row: &StorageRow) -> anyhow::Result<String> {
    use std::fmt::Write as _;
    let counts = database.counts(row.id)?;
    let time = |ms: i64| jiff::Timestamp::from_millisecond(ms).unwrap_or_default().to_string();
    let mut text = format!("{} ({})\n", row.name, shown(&row.root));
    let state = match (row.is_running, row.pass) {
        (_, 0) => "never verified".to_owned(),
        (true, pass) => format!("pass {pass} under way since {}", time(row.started_ms)),
        (false, pass) => format!("pass {pass} finished {}", time(row.finished_ms)),
    };
    let oldest = database.oldest_verified_ms(row.id)?.map(|ms| format!(", oldest verified {}", time(ms)));
    writeln!(text, "  {state}{}", oldest.unwrap_or_default())?;
    writeln!(
        text,
        "  {} objects: {} ok, {} mismatch, {} missing, {} unreadable",
        counts.objects, counts.good, counts.mismatch, counts.missing, counts.failed
    )?;
    for Object { path, outcome, reason, blake3, verified_ms, .. } in database.wrong(row.id, MAX_NAMED)? {
        let copy = database.good_copy(row, &path, &blake3)?;
        let copy = copy.map(|copy| format!("; as it was on {copy}")).unwrap_or_default();
        let last = if verified_ms > 0 { format!("last good {}", time(verified_ms)) } else { "never good".to_owned() };
        let (outcome, reason) = (outcome.name(), reason.unwrap_or_default());
        writeln!(text, "  {outcome:8}  {reason}  {}  {last}{copy}", shown(&path))?;
    }
    if row.copies.is_some() {
        let (differing, count) = database.differing_copies(row, MAX_NAMED)?;
        writeln!(text, "  {count} objects differ from their copies")?;
        for (path, other) in differing {
            writeln!(text, "  differs   from {other}  {}", shown(&path))?;
        }
    }
    Ok(text)
}

fn accept(arguments: &Accept, out: &mut impl Write) -> anyhow::Result<()> {
    let path = std::path::absolute(&arguments.path).context("cannot tell the path")?;
    let mut database = arguments.place.open()?;
    let mut count = 0;
    for row in database.storages()? {
        let root = Path::new(std::ffi::OsStr::from_bytes(&row.root));
        if let Ok(below) = path.strip_prefix(root) {
            count += database.write(|database| database.accept(row.id, below.as_os_str().as_bytes()))?;
        }
    }
    anyhow::ensure!(
        count > 0,
        "nothing is known of {}; `veghe-agent fixity report` lists the storages",
        path.display()
    );
    writeln!(out, "{count} objects are taken as they are at the next pass").context("cannot write to stdout")
}

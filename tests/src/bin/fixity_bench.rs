//! Measures `veghe-agent fixity verify` beside Debian's `b3sum` on the same files in one run, from the disk and from a file
//! system in memory, and finds one flipped bit in a large sparse file. Quote ratios: machines are shared and noisy.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser;
use rustix::fs::{Advice, fadvise};
use veghe_tests::process::{now, program};

/// Measure fixity beside b3sum.
///
/// Example: `cargo run --release -p veghe-tests --bin fixity_bench -- --dir /srv/scratch`
#[derive(Parser)]
struct Arguments {
    /// Where the files are made and removed again
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// MiB of files in all, once there and once in memory
    #[arg(long, default_value_t = 2048)]
    mib: u64,
    /// MiB of each file; 26 is an A4 page at 300 ppi, raw
    #[arg(long, default_value_t = 26)]
    file_mib: u64,
    /// Rounds of each, by turns; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// GiB of the sparse file that a bit is flipped in; 0 leaves it out
    #[arg(long, default_value_t = 100)]
    sparse_gib: u64,
}

/// What a program took.
#[derive(Clone, Copy, Debug)]
struct Taken {
    wall: Duration,
    peak_kib: u64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let dir = tempfile::tempdir_in(&arguments.dir).context("cannot use --dir")?;
    let mut out = std::io::stdout();
    if arguments.mib > 0 {
        writeln!(out, "| what | ours | b3sum | b3sum, as polite | ours / b3sum | ours / b3sum, as polite |")?;
        writeln!(out, "|---|---|---|---|---|---|")?;
        let memory = tempfile::tempdir_in("/dev/shm").context("no file system in memory")?;
        for (name, place) in [("from the disk", dir.path()), ("from memory", memory.path())] {
            let files = place.join("files");
            let bytes = make(&files, arguments.mib, arguments.file_mib)?;
            let (mut all_ours, mut all_peer, mut all_polite) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..arguments.rounds {
                evict(&files)?;
                all_ours.push(ours(&files, dir.path())?.0);
                evict(&files)?;
                all_peer.push(peer(&files, Command::new("b3sum"))?);
                evict(&files)?;
                all_polite.push(peer(&files, polite())?);
            }
            let all = [median(all_ours)?, median(all_peer)?, median(all_polite)?];
            let [a, b, c] = all.map(|taken| bytes as f64 / 1e6 / taken.wall.as_secs_f64());
            writeln!(out, "| {name} | {a:.0} MB/s | {b:.0} MB/s | {c:.0} MB/s | {:.2} | {:.2} |", a / b, a / c)?;
            let [a, b, c] = all.map(|taken| taken.peak_kib as f64 / 1024.0);
            writeln!(
                out,
                "| {name}, peak resident memory | {a:.1} MiB | {b:.1} MiB | {c:.1} MiB | {:.2} | {:.2} |",
                a / b,
                a / c
            )?;
            fs::remove_dir_all(files)?;
        }
    }
    if arguments.sparse_gib > 0 {
        let folder = dir.path().join("sparse");
        fs::create_dir(&folder)?;
        let file = File::create(folder.join("large.tif"))?;
        file.set_len(arguments.sparse_gib << 30)?;
        file.write_all_at(b"II*\0", 0)?;
        let (first, _) = ours(&folder, dir.path())?;
        let modified = file.metadata()?.modified()?;
        let at = (arguments.sparse_gib << 30) / 7 * 5 + 12_345;
        file.write_all_at(&[0x10], at)?;
        file.set_modified(modified)?;
        let (second, told) = ours(&folder, dir.path())?;
        ensure!(told.contains("mismatch  damaged  large.tif"), "{told}");
        writeln!(
            out,
            "one bit in {} GiB sparse: first pass {:.0} s, found and named in {:.0} s, peak resident memory {:.1} MiB",
            arguments.sparse_gib,
            first.wall.as_secs_f64(),
            second.wall.as_secs_f64(),
            second.peak_kib.max(first.peak_kib) as f64 / 1024.0,
        )?;
    }
    Ok(())
}

/// The one in the middle by its time, with the largest memory of all.
fn median(mut all: Vec<Taken>) -> anyhow::Result<Taken> {
    all.sort_by_key(|taken| taken.wall);
    let peak_kib = all.iter().map(|taken| taken.peak_kib).max().unwrap_or(0);
    let middle = all.get(all.len() / 2).context("no round")?;
    Ok(Taken { peak_kib, ..*middle })
}

/// Files that do not compress and of which no two are alike.
fn make(dir: &Path, mib: u64, file_mib: u64) -> anyhow::Result<u64> {
    fs::create_dir(dir)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = vec![0_u8; 1 << 20];
    let (mut bytes, mut number) = (0, 0);
    while bytes < mib << 20 {
        let mut file = File::create(dir.join(format!("{number:05}.tif")))?;
        for _ in 0..file_mib {
            for word in block.chunks_exact_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes());
            }
            file.write_all(&block)?;
            bytes += block.len() as u64;
        }
        file.sync_all()?;
        number += 1;
    }
    Ok(bytes)
}

/// Nothing of the files stays in the page cache; a file system in memory has no other place for them.
fn evict(dir: &Path) -> anyhow::Result<()> {
    fs::read_dir(dir)?.try_for_each(|entry| Ok(fadvise(File::open(entry?.path())?, 0, None, Advice::DontNeed)?))
}

fn ours(dir: &Path, state: &Path) -> anyhow::Result<(Taken, String)> {
    let mut command = Command::new(program("veghe-agent"));
    command.args(["fixity", "verify"]).arg(dir).arg("--database").arg(state.join("fixity.db"));
    let (taken, told, _) = run(&mut command)?;
    ensure!(told.contains("finished"), "{told}");
    Ok((taken, told))
}

/// b3sum with the priorities that our readers have: where the machine is busy, others come first.
fn polite() -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "10", "ionice", "-c", "3", "b3sum"]);
    command
}

fn peer(dir: &Path, mut command: Command) -> anyhow::Result<Taken> {
    for entry in fs::read_dir(dir)? {
        command.arg(entry?.path());
    }
    let (taken, _, is_good) = run(&mut command).context("b3sum is Debian's package b3sum")?;
    ensure!(is_good, "b3sum failed");
    Ok(taken)
}

fn run(command: &mut Command) -> anyhow::Result<(Taken, String, bool)> {
    let begin = now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    let mut stdout = child.stdout.take().context("stdout")?;
    let reader = std::thread::spawn(move || {
        let mut told = String::new();
        stdout.read_to_string(&mut told).map(|_| told)
    });
    let good = loop {
        if let Some(ended) = child.try_wait()? {
            break ended.success();
        }
        let text = fs::read_to_string(&status).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|rest| rest.trim().strip_suffix(" kB")).and_then(|kib| kib.parse().ok());
        peak_kib = peak.unwrap_or(0).max(peak_kib);
        std::thread::sleep(Duration::from_millis(5));
    };
    let wall = begin.elapsed();
    let told = reader.join().ok().context("reader")??;
    Ok((Taken { wall, peak_kib }, told, good))
}

//! `import FILE`: text from files to the collector that runs on a data directory, or to its store where none runs.
//!
//! Between the two processes the text goes over the administrative socket in frames, a length before each and a
//! length of zero at the end: a command that is killed midway must not look like the end of a text.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read, Seek as _, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use veghe_model::Timestamp;
use veghe_tsdb::{OpenError, Store};

use super::{Format, ImportError, Importer, Packing, Summary};
use crate::admin::{self, AdminError, Request, Response};
use crate::clock;

/// Text of one frame at most.
const FRAME_BYTES: usize = 256 << 10;
/// How long the other side may take to go on: a busy disk may seal for a while in between.
const PATIENCE: Duration = Duration::from_mins(5);
/// The pause between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Imports `files` (`-` is standard input) and tells on `out` what became of each.
///
/// # Errors
/// Where a file can't be read or a line of it was refused; the files before it are stored.
pub fn run(
    files: &[impl AsRef<Path>],
    data_dir: &Path,
    format: Format,
    open: impl FnOnce() -> anyhow::Result<Store>,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    // A collector that starts or ends meanwhile is told of by the store's lock.
    let store = match admin::ask(data_dir, &Request::Ping) {
        Ok(_) => None,
        Err(AdminError::NotRunning { .. }) if data_dir.join("tsdb").is_dir() => Some(open()?),
        Err(error) => return Err(error.into()),
    };
    let mut refused = 0;
    for file in files {
        let file = file.as_ref();
        let name = if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
        let summary = one(file, data_dir, format, store.as_ref()).with_context(|| format!("cannot import {name}"))?;
        writeln!(out, "{name}: {}", tell(&summary))?;
        for problem in summary.problem_text().lines() {
            writeln!(out, "{name}: {problem}")?;
        }
        refused += summary.refused;
    }
    if refused > 0 {
        bail!("{refused} lines were refused; the others are stored");
    }
    Ok(())
}

/// What to do about a store that can't be opened.
pub fn explain(error: OpenError, data_dir: &Path) -> anyhow::Error {
    let context = match &error {
        OpenError::Held { .. } => {
            format!("the collector on {} is starting or stopping; try again in a moment", data_dir.display())
        }
        _ => format!("cannot open the store in {}", data_dir.display()),
    };
    anyhow::Error::new(error).context(context)
}

fn tell(summary: &Summary) -> String {
    let date = |ms| jiff::Timestamp::from_millisecond(ms).map_or_else(|_outside| ms.to_string(), |t| t.to_string());
    let times = summary.min_time_ms.zip(summary.max_time_ms);
    let times = times.map_or_else(String::new, |(from, to)| format!(", {} to {}", date(from), date(to)));
    let exemplars = match summary.dropped_exemplars {
        0 => String::new(),
        some => format!("; {some} exemplars were left out"),
    };
    format!("{} samples of {} series{times}{exemplars}", summary.samples, summary.series)
}

fn one(file: &Path, data_dir: &Path, format: Format, store: Option<&Store>) -> anyhow::Result<Summary> {
    let (input, size): (Box<dyn Read + Send>, Option<u64>) = if file == Path::new("-") {
        (Box::new(io::stdin()), None)
    } else {
        let opened = File::open(file)?;
        let metadata = opened.metadata()?;
        (Box::new(opened), metadata.is_file().then_some(metadata.len()))
    };
    let mut reader = BufReader::with_capacity(FRAME_BYTES, Progress::new(input, size));
    let packing = Packing::of(reader.fill_buf()?);
    let format = match (format, packing, size) {
        (Format::Auto, Packing::Plain, Some(size)) if ends_as_open_metrics(file, size)? => Format::OpenMetrics,
        _ => format,
    };
    let mut text = packing.unpack(reader)?;
    match store {
        Some(store) => {
            let mut importer = Importer::new(store.clone(), format, clock::now());
            importer.run(text)?;
            Ok(importer.summary().clone())
        }
        None => send(&mut text, data_dir, format),
    }
}

/// Whether the last line is `# EOF`: then its time stamps are seconds from the first on.
fn ends_as_open_metrics(file: &Path, size: u64) -> io::Result<bool> {
    let mut opened = File::open(file)?;
    opened.seek(SeekFrom::Start(size.saturating_sub(16)))?;
    let mut end = Vec::new();
    opened.take(16).read_to_end(&mut end)?;
    let end = String::from_utf8_lossy(&end);
    Ok(end.trim_end().rsplit('\n').next().is_some_and(|line| line == "# EOF"))
}

fn send(text: &mut dyn BufRead, data_dir: &Path, format: Format) -> anyhow::Result<Summary> {
    let mut talk = admin::Talk::open(data_dir, PATIENCE)?;
    match talk.ask(&Request::Import { format })? {
        Response::Go => {}
        _ => bail!("the collector answered something else; is it of another version?"),
    }
    let sent = send_frames(text, talk.stream());
    // Where it stopped to listen it says why.
    match talk.hear() {
        Ok(Response::Imported { summary }) => {
            sent?;
            Ok(summary)
        }
        Ok(_) => bail!("the collector answered something else; is it of another version?"),
        Err(error) => {
            sent?;
            Err(error.into())
        }
    }
}

fn send_frames(text: &mut dyn BufRead, mut stream: &UnixStream) -> io::Result<()> {
    loop {
        let piece = text.fill_buf()?;
        let piece = piece.get(..FRAME_BYTES).unwrap_or(piece);
        let length = piece.len();
        match stream.write_all(&(length as u32).to_le_bytes()).and_then(|()| stream.write_all(piece)) {
            // It gave up, and its answer says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            result => result?,
        }
        if length == 0 {
            return Ok(());
        }
        text.consume(length);
    }
}

/// The collector's side: reads frames from `stream` into `store`. Blocks.
///
/// # Errors
/// [`ImportError`]; also where the stream ends without its last frame.
pub(crate) fn receive(
    stream: &UnixStream,
    store: Store,
    format: Format,
    now: Timestamp,
) -> Result<Summary, ImportError> {
    let failed = |source| ImportError::Read { line: 0, source };
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let frames = Frames { reader: BufReader::new(stream), left: 0, ended: false };
    let mut importer = Importer::new(store, format, now);
    importer.run(BufReader::with_capacity(FRAME_BYTES, frames))?;
    Ok(importer.summary().clone())
}

struct Frames<R> {
    reader: R,
    left: usize,
    ended: bool,
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.ended {
            let mut length = [0; 4];
            self.reader.read_exact(&mut length)?;
            self.left = u32::from_le_bytes(length) as usize;
            self.ended = self.left == 0;
        }
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let room = buffer.len().min(self.left);
        let got = self.reader.read(&mut buffer[..room])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= got;
        Ok(got)
    }
}

/// Shows on a terminal how far a file is read.
struct Progress<R> {
    input: R,
    size: Option<u64>,
    read: u64,
    began: Instant,
    shown: Option<Instant>,
    on_terminal: bool,
}

impl<R> Progress<R> {
    fn new(input: R, size: Option<u64>) -> Self {
        let on_terminal = io::stderr().is_terminal();
        Self { input, size, read: 0, began: clock::instant(), shown: None, on_terminal }
    }

    fn show(&mut self) {
        let now = clock::instant();
        if !self.on_terminal || self.shown.unwrap_or(self.began) + PROGRESS_EVERY > now {
            return;
        }
        self.shown = Some(now);
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let rate = mib(self.read) / (now - self.began).as_secs_f64();
        let of = self.size.filter(|size| *size > 0).map_or(String::new(), |size| {
            format!(" of {:.1} MiB, {:.0} %", mib(size), 100.0 * self.read as f64 / size as f64)
        });
        // A terminal that takes nothing harms no import.
        drop(write!(io::stderr(), "\r\x1b[K{:.1} MiB{of}, {rate:.1} MiB/s", mib(self.read)));
    }
}

impl<R: Read> Read for Progress<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        self.read += got as u64;
        self.show();
        Ok(got)
    }
}

impl<R> Drop for Progress<R> {
    fn drop(&mut self) {
        if self.shown.is_some() {
            drop(write!(io::stderr(), "\r\x1b[K"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_crosses_in_frames_and_one_that_is_cut_off_is_no_whole_text() {
        let text: Vec<u8> = (0..FRAME_BYTES * 2 + 7).map(|i| i as u8).collect();
        let (near, far) = UnixStream::pair().expect("sockets");
        let sent = std::thread::spawn({
            let text = text.clone();
            move || send_frames(&mut &*text, &near)
        });
        let mut got = Vec::new();
        let mut raw = Vec::new();
        (&far).read_to_end(&mut raw).expect("bytes");
        sent.join().expect("thread").expect("sent");
        Frames { reader: &*raw, left: 0, ended: false }.read_to_end(&mut got).expect("frames");
        assert_eq!(got, text);
        for cut in [0, 3, 100, raw.len() - 1] {
            let frames = Frames { reader: &raw[..cut], left: 0, ended: false };
            let error = BufReader::new(frames).read_to_end(&mut Vec::new()).expect_err("cut");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{cut}");
        }
    }

    #[test]
    fn the_end_of_a_file_tells_open_metrics() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("text");
        for (text, expected) in
            [("a 1 2\n# EOF\n", true), ("# EOF", true), ("a 1 2\n", false), ("", false), ("x # EOF", false)]
        {
            std::fs::write(&path, text).expect("file");
            assert_eq!(ends_as_open_metrics(&path, text.len() as u64).expect("read"), expected, "{text}");
        }
    }
}

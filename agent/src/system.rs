//! Where operating systems differ: who may read a file, places in a file, directories on disk, the word to end.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::path::Path;

/// Made so that nobody but the agent's user may read it. On Windows the rights of the directory above decide: an
/// installation there gives it to administrators and the service alone.
pub(crate) trait Private {
    /// The same, private.
    fn private(&mut self) -> &mut Self;
}

impl Private for OpenOptions {
    fn private(&mut self) -> &mut Self {
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(self, 0o600);
        self
    }
}

impl Private for DirBuilder {
    fn private(&mut self) -> &mut Self {
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(self, 0o700);
        self
    }
}

/// Fills `bytes` with what `file` has at `offset`.
pub(crate) fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset);
    #[cfg(windows)]
    {
        let (mut rest, mut at) = (bytes, offset);
        while !rest.is_empty() {
            let read = std::os::windows::fs::FileExt::seek_read(file, rest, at)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            rest = rest.get_mut(read..).unwrap_or_default();
            at += read as u64;
        }
        Ok(())
    }
}

/// Writes `bytes` into `file` at `offset`.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_all_at(file, bytes, offset);
    #[cfg(windows)]
    {
        let (mut rest, mut at) = (bytes, offset);
        while !rest.is_empty() {
            let written = std::os::windows::fs::FileExt::seek_write(file, rest, at)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            rest = rest.get(written..).unwrap_or_default();
            at += written as u64;
        }
        Ok(())
    }
}

/// Has the names in `directory` on disk. Windows opens no directory as a file, and its file system keeps names in order
/// by itself.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    #[cfg(unix)]
    return File::open(directory)?.sync_all();
    #[cfg(windows)]
    {
        let _ = directory;
        Ok(())
    }
}

/// Waits for the word to end: SIGTERM or SIGINT, on Windows Ctrl-C.
///
/// # Errors
/// Where the system does not let it listen.
pub async fn told_to_end() -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    }
    #[cfg(windows)]
    tokio::signal::ctrl_c().await
}

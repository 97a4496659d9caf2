//! Gives memory back to the machine that only the start needed: pages of the program and of its libraries, and freed heap.
//! Whoever needs such a page again reads it anew from the page cache.
//!
//! For the program's own process only, not where the agent runs inside another. What it deliberately does not do: bound
//! what is in use, which is for [`crate::footprint`].

use std::convert::Infallible;
use std::time::Duration;
use std::{fs, io};

/// Until the start is over: settings are read, the first rounds taken and sent.
const START: Duration = Duration::from_secs(10);
/// From one time to the next: renewing a certificate or reading other settings brings pages back. A time costs about
/// as much as one round.
const EVERY: Duration = Duration::from_mins(10);

/// What was mapped when the program began: itself and the libraries that it was linked with, which stay where they are.
/// Others may come and go later, as name services do, while their memory is looked at.
#[derive(Debug)]
pub struct Thrift {
    at_start: Vec<Mapping>,
}

impl Thrift {
    /// To be called before there is a second thread, which could load a library meanwhile, or take a heap of its own.
    pub fn at_start() -> Self {
        share_one_heap();
        Self {
            at_start: fs::read_to_string("/proc/self/smaps")
                .map_or_else(|_| Vec::new(), |smaps| unchanged_files(&smaps)),
        }
    }

    /// Gives back what is not in use, soon and then now and again, until it is dropped.
    pub async fn keep_small(self) -> Infallible {
        let mut next = START;
        loop {
            tokio::time::sleep(next).await;
            match self.give_back() {
                Ok(released_bytes) => tracing::debug!(released_bytes, "gave back what the start needed"),
                Err(error) => tracing::debug!(%error, "cannot read what is mapped; memory stays as it is"),
            }
            next = EVERY;
        }
    }

    /// Returns the size of the mappings that were given back, of which the pages in use come again.
    fn give_back(&self) -> io::Result<usize> {
        trim_heap();
        let mut released_bytes = 0;
        for mapping in unchanged_files(&fs::read_to_string("/proc/self/smaps")?) {
            if self.at_start.contains(&mapping) && release(mapping).is_ok() {
                released_bytes += mapping.bytes;
            }
        }
        Ok(released_bytes)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    address: usize,
    bytes: usize,
}

/// The mappings of files, in the form of `proc_pid_smaps(5)`, that nothing can write to and of which no page differs from
/// its file: programs and libraries, without the parts that their loader has changed.
fn unchanged_files(smaps: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        if let Some((mapping, is_read_only_file)) = parse_header(line) {
            candidate = Some(mapping).filter(|_| is_read_only_file);
        } else if let Some(anonymous) = line.strip_prefix("Anonymous:") {
            found.extend(candidate.take().filter(|_| anonymous.trim() == "0 kB"));
        }
    }
    found
}

/// A line that begins a mapping: which, and whether it is a file's that nothing can write to.
fn parse_header(line: &str) -> Option<(Mapping, bool)> {
    let mut words = line.split_ascii_whitespace();
    let (range, mode) = (words.next()?, words.next()?);
    let (from, to) = range.split_once('-')?;
    let (from, to) = (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
    let is_read_only_file = matches!(mode, "r-xp" | "r--p") && words.nth(3).is_some_and(|path| path.starts_with('/'));
    Some((Mapping { address: from, bytes: to.checked_sub(from)? }, is_read_only_file))
}

#[expect(unsafe_code, reason = "no dependency wraps this call for a mapping that the loader made")]
fn release(mapping: Mapping) -> io::Result<()> {
    let address = std::ptr::with_exposed_provenance_mut(mapping.address);
    // SAFETY: the mapping is private, of a file, not writable, and no page of it differs from the file; so that each
    // page reads the same after it is dropped, as `madvise(2)` says of MADV_DONTNEED. It was there when the program
    // began: nobody maps anything else in its place.
    unsafe { rustix::mm::madvise(address, mapping.bytes, rustix::mm::Advice::LinuxDontNeed) }?;
    Ok(())
}

/// The C library gives threads heaps of their own, for programs in which many allocate at once. The agent's take turns, and
/// each heap keeps what it once needed most.
fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "no dependency wraps mallopt(3)")]
    // SAFETY: the call takes two numbers; no other thread allocates yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// The C library keeps what was freed unless told otherwise; others give back by themselves.
fn trim_heap() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "no dependency wraps malloc_trim(3)")]
    // SAFETY: the call takes a number and is safe in any thread, as its manual says.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The program's text, as far as it is mapped, in KiB.
    fn resident_text() -> u64 {
        let smaps = fs::read_to_string("/proc/self/smaps").expect("smaps");
        let program = std::env::current_exe().expect("path");
        let program = program.to_str().expect("UTF-8");
        let mut is_text = false;
        let mut resident = 0;
        for line in smaps.lines() {
            if parse_header(line).is_some() {
                is_text = line.contains(" r-xp ") && line.ends_with(program);
            } else if let Some(size) = line.strip_prefix("Rss:").filter(|_| is_text) {
                resident += size.trim().trim_end_matches(" kB").parse::<u64>().expect("kilobytes");
            }
        }
        resident
    }

    #[test]
    fn the_program_runs_on_with_fewer_of_its_pages() {
        // Whatever the test has run so far, and a parser of numbers and patterns besides.
        assert!(regex::Regex::new(r"^\p{Greek}+[0-9]{2,5}$").expect("pattern").is_match("αβγ123"));
        let before = resident_text();
        assert_ne!(Thrift::at_start().give_back().expect("smaps"), 0);
        let after = resident_text();
        assert!(after < before, "{after} KiB of {before} KiB");
        assert!(regex::Regex::new(r"^\p{Greek}+[0-9]{2,5}$").expect("pattern").is_match("αβγ123"));
    }

    #[test]
    fn only_what_equals_its_file_is_given_back() {
        let smaps = "\
55d0c0000000-55d0c0001000 r--p 00000000 fe:00 12 /usr/bin/veghe-agent
Rss: 4 kB
Anonymous: 0 kB
55d0c0001000-55d0c0003000 r-xp 00001000 fe:00 12 /usr/bin/veghe-agent
Anonymous:             0 kB
VmFlags: rd ex mr mw me
55d0c0003000-55d0c0004000 r--p 00003000 fe:00 12 /usr/bin/veghe-agent
Anonymous:             4 kB
55d0c0004000-55d0c0005000 rw-p 00004000 fe:00 12 /usr/bin/veghe-agent
Anonymous:             0 kB
55d0c0005000-55d0c0006000 r--s 00000000 fe:00 13 /var/lib/veghe-agent/shared
Anonymous:             0 kB
55d0c0006000-55d0c0007000 r--p 00000000 00:00 0
Anonymous:             0 kB
7ffe00000000-7ffe00002000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
";
        let expected = [
            Mapping { address: 0x55d0_c000_0000, bytes: 0x1000 },
            Mapping { address: 0x55d0_c000_1000, bytes: 0x2000 },
        ];
        assert_eq!(unchanged_files(smaps), expected);
    }
}

//! `/proc/mdstat`: Linux' software RAID, its disks, and how far a repair is.

use super::source::Source;
use super::text::{self, Malformed};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "mdadm",
    |settings| vec![settings.roots.proc.join("mdstat")],
    |settings| Box::new(Mdadm::new(&settings.roots)),
);

/// `node_md_*`.
pub(crate) struct Mdadm {
    source: Source,
}

/// In the order of [`STATES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Active,
    Inactive,
    Recovering,
    Resync,
    Check,
}

const STATES: [(&str, State); 5] = [
    ("active", State::Active),
    ("inactive", State::Inactive),
    ("recovering", State::Recovering),
    ("resync", State::Resync),
    ("check", State::Check),
];

#[derive(Debug, PartialEq, Eq)]
struct Array<'a> {
    device: &'a [u8],
    state: Option<State>,
    active: u64,
    required: u64,
    failed: usize,
    spare: usize,
    blocks: u64,
    blocks_synced: u64,
}

impl Mdadm {
    pub(crate) fn new(roots: &Roots) -> Self {
        Self { source: Source::new(roots.proc.join("mdstat")) }
    }
}

impl Sensor for Mdadm {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let parsed = parse(self.source.read()?, |array| {
            let device = text::label(array.device);
            let device = ("device", &*device);
            sink.put("node_md_disks_required", &[device], array.required as f64);
            for (state, disks) in
                [("active", array.active), ("failed", array.failed as u64), ("spare", array.spare as u64)]
            {
                sink.put("node_md_disks", &[device, ("state", state)], disks as f64);
            }
            for (name, state) in STATES {
                let is_in = f64::from(u8::from(array.state == Some(state)));
                sink.put("node_md_state", &[device, ("state", name)], is_in);
            }
            sink.put("node_md_blocks", &[device], array.blocks as f64);
            sink.put("node_md_blocks_synced", &[device], array.blocks_synced as f64);
        });
        parsed.map_err(|error| self.source.malformed(error))
    }
}

fn has(line: &[u8], part: &[u8]) -> bool {
    count(line, part) > 0
}

fn count(line: &[u8], part: &[u8]) -> usize {
    line.windows(part.len()).filter(|window| *window == part).count()
}

/// An array is a line that begins with its name, one with its size, and perhaps one that tells of a repair.
fn parse<'a>(bytes: &'a [u8], mut each: impl FnMut(&Array<'a>)) -> Result<(), Malformed> {
    let mut lines = text::lines(bytes).peekable();
    while let Some((line, content)) = lines.next() {
        let is_other = content.trim_ascii().is_empty()
            || content.starts_with(b" ")
            || content.starts_with(b"Personalities")
            || content.starts_with(b"unused");
        if is_other {
            continue;
        }
        let mut fields = text::fields(content);
        let (Some(device), Some(_), Some(state)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(Malformed { line, expected: "a device, a colon and a state" });
        };
        let (size_line, size) = lines.next().unwrap_or((line + 1, b""));
        let malformed = |expected| Malformed { line: size_line, expected };
        let blocks = text::fields(size).next().and_then(text::number).ok_or(malformed("a number of blocks"))?;
        let is_striped = has(content, b"raid0") || has(content, b"linear");
        let (active, required) = if is_striped {
            // Each of them must be there, and only the list tells how many they are.
            let disks = count(content, b"[") as u64;
            (disks, disks)
        } else if state == b"inactive" {
            (0, 0)
        } else {
            let (required, active) = disks(size).ok_or(malformed("disks as in [2/1]"))?;
            (active, required)
        };
        if lines.peek().is_some_and(|(_, content)| has(content, b"bitmap")) {
            lines.next();
        }
        let mut array = Array {
            device,
            state: match state {
                b"active" => Some(State::Active),
                b"inactive" => Some(State::Inactive),
                _ => None,
            },
            active,
            required,
            failed: count(content, b"(F)"),
            spare: count(content, b"(S)"),
            blocks,
            blocks_synced: blocks,
        };
        if let Some(&(line, progress)) = lines.peek() {
            let repairs = [(&b"recovery"[..], State::Recovering), (b"check", State::Check), (b"resync", State::Resync)];
            if let Some((_, state)) = repairs.iter().find(|(word, _)| has(progress, word)) {
                array.state = Some(*state);
                array.blocks_synced = if has(progress, b"PENDING") || has(progress, b"DELAYED") {
                    0
                } else {
                    synced(progress).ok_or(Malformed { line, expected: "blocks as in (12/34)" })?
                };
            }
        }
        each(&array);
    }
    Ok(())
}

/// `[required/active]`.
fn disks(line: &[u8]) -> Option<(u64, u64)> {
    let mut parts = line.split(|&byte| byte == b'[').skip(1);
    parts.find_map(|part| {
        let inside = part.split(|&byte| byte == b']').next()?;
        let slash = inside.iter().position(|&byte| byte == b'/')?;
        let (required, active) = inside.split_at(slash);
        Some((text::number(required)?, text::number(active.get(1..)?)?))
    })
}

/// The first number in `(16775552/195310144)`.
fn synced(line: &[u8]) -> Option<u64> {
    let inside = line.split(|&byte| byte == b'(').nth(1)?;
    text::number(inside.split(|&byte| byte == b'/').next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_the_line() {
        let error = |text: &[u8]| parse(text, |_| {}).expect_err("malformed");
        let header = b"Personalities : [raid1]\nmd0 : active raid1 sda[0]\n";
        let expected = Malformed { line: 3, expected: "a number of blocks" };
        assert_eq!(error(header), expected);
        assert_eq!(error(&[&header[..], b"  9 blocks [2]\n"].concat()).expected, "disks as in [2/1]");
        let repair = error(&[&header[..], b"  9 blocks [2/1] [U_]\n  recovery = 1%\n"].concat());
        assert_eq!(repair, Malformed { line: 4, expected: "blocks as in (12/34)" });
    }
}

//! The flags of `TapeAlert` (SSC-3, annex A), with the names by which `sg_logs` calls them.

/// By number, from 1: name and severity. Those without a name are reserved or obsolete.
const FLAGS: [(&str, Severity); 60] = {
    use Severity::{Critical as C, Information as I, Unknown as U, Warning as W};
    [
        ("Read warning", W),
        ("Write warning", W),
        ("Hard error", W),
        ("Media", C),
        ("Read failure", C),
        ("Write failure", C),
        ("Media life", W),
        ("Not data grade", W),
        ("Write protect", C),
        ("No removal", I),
        ("Cleaning media", I),
        ("Unsupported format", I),
        ("Recoverable mechanical cartridge failure", C),
        ("Unrecoverable mechanical cartridge failure", C),
        ("Memory chip in cartridge failure", W),
        ("Forced eject", C),
        ("Read only format", W),
        ("Tape directory corrupted on load", W),
        ("Nearing media life", I),
        ("Cleaning required", C),
        ("Cleaning requested", W),
        ("Expired cleaning media", C),
        ("Invalid cleaning tape", C),
        ("Retension requested", W),
        ("Dual port interface error", W),
        ("Cooling fan failing", W),
        ("Power supply failure", W),
        ("Power consumption", W),
        ("Drive maintenance", W),
        ("Hardware A", C),
        ("Hardware B", C),
        ("Interface", W),
        ("Eject media", C),
        ("Microcode update fail", W),
        ("Drive humidity", W),
        ("Drive temperature", W),
        ("Drive voltage", W),
        ("Predictive failure", C),
        ("Diagnostics required", W),
        ("", U),
        ("", U),
        ("", U),
        ("", U),
        ("", U),
        ("", U),
        ("", U),
        ("", U),
        ("", U),
        ("", U),
        ("Lost statistics", W),
        ("Tape directory invalid at unload", W),
        ("Tape system area write failure", C),
        ("Tape system area read failure", C),
        ("No start of data", C),
        ("Loading failure", C),
        ("Unrecoverable unload failure", C),
        ("Automation interface failure", C),
        ("Firmware failure", W),
        ("WORM medium - integrity check failed", W),
        ("WORM medium - overwrite attempted", W),
    ]
};

/// How bad a flag is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// Data is at risk, or the drive can't go on.
    Critical,
    Warning,
    Information,
    /// No known document names the flag.
    Unknown,
}

impl Severity {
    /// The value of a label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Information => "information",
            Self::Unknown => "unknown",
        }
    }
}

/// Name (empty if it has none) and severity of the flag `number`, from 1.
pub(crate) fn flag(number: u64) -> (&'static str, Severity) {
    let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
    index.and_then(|index| FLAGS.get(index)).copied().unwrap_or(("", Severity::Unknown))
}

/// `veghe_tape_alerts` and one `veghe_tape_alert` for each of `flags`, which are set.
pub(crate) fn put(
    device: &str,
    flags: impl Iterator<Item = (u64, Severity)>,
    put: &mut impl FnMut(&str, &[(&str, &str)], f64),
) {
    let flags: std::collections::BTreeMap<u64, &str> =
        flags.map(|(number, severity)| (number, severity.label())).collect();
    put("veghe_tape_alerts", &[("device", device)], flags.len() as f64);
    for (number, severity) in flags {
        let (name, _) = flag(number);
        let number = number.to_string();
        let labels = [("device", device), ("flag", number.as_str()), ("name", name), ("severity", severity)];
        put("veghe_tape_alert", &labels, 1.0);
    }
}

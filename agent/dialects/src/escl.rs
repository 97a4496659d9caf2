//! eSCL (Mopria's scan protocol, which Apple calls AirScan): what `ScannerStatus` and `ScannerCapabilities` say.
//!
//! Prefixes of names are the device's choice, so that only local names count. Unknown elements are passed over.

use quick_xml::Reader;
use quick_xml::events::Event;

/// Longer documents are refused; the longest capabilities have a tenth.
pub const MAX_BYTES: usize = 1 << 20;
const MAX_DEPTH: usize = 32;
/// Devices remember a dozen jobs.
const MAX_JOBS: usize = 200;
const MAX_TEXT: usize = 512;

/// Why a document is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EsclError {
    /// More than [`MAX_BYTES`].
    #[error("the document has more than {MAX_BYTES} bytes")]
    TooLong,
    /// It is not well-formed, or nested too deeply.
    #[error("the document is no XML")]
    Malformed,
    /// It is another document.
    #[error("the document is no {expected}")]
    Other {
        /// What it should be.
        expected: &'static str,
    },
}

/// What the scanner is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Version of the protocol.
    pub version: String,
    /// `Idle`, `Processing`, `Testing`, `Stopped`, `Down`.
    pub state: String,
    /// State of the document feeder, for example `ScannerAdfLoaded`; empty without one.
    pub adf_state: String,
    /// Jobs that it remembers.
    pub jobs: Vec<Job>,
}

/// One job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// Its address, which names it.
    pub uri: String,
    /// Another name of it, of devices that have one.
    pub uuid: String,
    /// `Pending`, `Processing`, `Completed`, `Canceled`, `Aborted`.
    pub state: String,
    /// Reasons of the state.
    pub reasons: Vec<String>,
    /// Images that were made.
    pub images_completed: u64,
    /// Images that wait to be fetched.
    pub images_to_transfer: u64,
    /// Seconds since the job changed.
    pub age_seconds: u64,
}

/// What the scanner is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Version of the protocol.
    pub version: String,
    /// Maker and model.
    pub make_and_model: String,
    /// Serial number.
    pub serial_number: String,
    /// Name of the device for ever.
    pub uuid: String,
    /// Whether it has a document feeder.
    pub has_adf: bool,
    /// Whether it has a glass.
    pub has_platen: bool,
    /// Whether the feeder scans both sides.
    pub has_duplex: bool,
}

/// Calls `found` with the path of local names and the text of each element that has text, and with an empty text where
/// an element begins.
fn walk(document: &[u8], mut found: impl FnMut(&[String], &str)) -> Result<(), EsclError> {
    if document.len() > MAX_BYTES {
        return Err(EsclError::TooLong);
    }
    let document = String::from_utf8_lossy(document);
    let mut reader = Reader::from_str(&document);
    let mut path: Vec<String> = Vec::new();
    loop {
        match reader.read_event() {
            Ok(Event::Start(element)) => {
                if path.len() >= MAX_DEPTH {
                    return Err(EsclError::Malformed);
                }
                path.push(element.local_name().as_ref().to_owned());
                found(&path, "");
            }
            Ok(Event::Empty(element)) => {
                path.push(element.local_name().as_ref().to_owned());
                found(&path, "");
                path.pop();
            }
            Ok(Event::End(_)) => {
                path.pop();
            }
            Ok(Event::Text(text)) => {
                let text = text.trim();
                if !text.is_empty() {
                    found(&path, text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default());
                }
            }
            Ok(Event::Eof) if path.is_empty() => return Ok(()),
            // A DOCTYPE may define entities; none of these documents has one.
            Ok(Event::Eof | Event::DocType(_)) | Err(_) => return Err(EsclError::Malformed),
            Ok(_) => {}
        }
    }
}

/// Reads a `ScannerStatus`.
///
/// # Errors
/// Where it is none.
pub fn status(document: &[u8]) -> Result<Status, EsclError> {
    let mut status = Status::default();
    let mut is_status = false;
    walk(document, |path, text| {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        is_status |= names == ["ScannerStatus"];
        match names.as_slice() {
            ["ScannerStatus", "Version"] => text.clone_into(&mut status.version),
            ["ScannerStatus", "State"] => text.clone_into(&mut status.state),
            ["ScannerStatus", "AdfState"] => text.clone_into(&mut status.adf_state),
            ["ScannerStatus", "Jobs", "JobInfo"] if text.is_empty() && status.jobs.len() < MAX_JOBS => {
                status.jobs.push(Job::default());
            }
            ["ScannerStatus", "Jobs", "JobInfo", rest @ ..] => {
                if let Some(job) = status.jobs.last_mut() {
                    job.take(rest, text);
                }
            }
            _ => {}
        }
    })?;
    if is_status && !status.state.is_empty() { Ok(status) } else { Err(EsclError::Other { expected: "ScannerStatus" }) }
}

impl Job {
    fn take(&mut self, path: &[&str], text: &str) {
        let number = || text.parse().unwrap_or(0);
        match path {
            ["JobUri"] => text.clone_into(&mut self.uri),
            ["JobUuid"] => text.clone_into(&mut self.uuid),
            ["JobState"] => text.clone_into(&mut self.state),
            ["Age"] => self.age_seconds = number(),
            ["ImagesCompleted"] => self.images_completed = number(),
            ["ImagesToTransfer"] => self.images_to_transfer = number(),
            ["JobStateReasons", "JobStateReason"] if !text.is_empty() && self.reasons.len() < 8 => {
                self.reasons.push(text.to_owned());
            }
            _ => {}
        }
    }
}

/// Reads `ScannerCapabilities`.
///
/// # Errors
/// Where they are none.
pub fn capabilities(document: &[u8]) -> Result<Capabilities, EsclError> {
    let mut found = Capabilities::default();
    let mut is_it = false;
    walk(document, |path, text| {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        is_it |= names == ["ScannerCapabilities"];
        match names.as_slice() {
            ["ScannerCapabilities", "Version"] => text.clone_into(&mut found.version),
            ["ScannerCapabilities", "MakeAndModel"] => text.clone_into(&mut found.make_and_model),
            ["ScannerCapabilities", "SerialNumber"] => text.clone_into(&mut found.serial_number),
            ["ScannerCapabilities", "UUID"] => text.clone_into(&mut found.uuid),
            ["ScannerCapabilities", "Platen"] => found.has_platen = true,
            ["ScannerCapabilities", "Adf"] => found.has_adf = true,
            ["ScannerCapabilities", "Adf", "AdfDuplexInputCaps"] => found.has_duplex = true,
            _ => {}
        }
    })?;
    if is_it { Ok(found) } else { Err(EsclError::Other { expected: "ScannerCapabilities" }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As devices write it, with the prefixes that most choose.
    const STATUS: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<scan:ScannerStatus xmlns:scan="http://schemas.hp.com/imaging/escl/2011/05/03" xmlns:pwg="http://www.pwg.org/schemas/2010/12/sm">
  <pwg:Version>2.63</pwg:Version>
  <pwg:State>Processing</pwg:State>
  <scan:AdfState>ScannerAdfJam</scan:AdfState>
  <scan:Jobs>
    <scan:JobInfo>
      <pwg:JobUri>/eSCL/ScanJobs/893e6fcd-487f-4056-a8c9-a87709b85daf</pwg:JobUri>
      <pwg:JobUuid>893e6fcd-487f-4056-a8c9-a87709b85daf</pwg:JobUuid>
      <scan:Age>10</scan:Age>
      <pwg:ImagesCompleted>12</pwg:ImagesCompleted>
      <pwg:ImagesToTransfer>2</pwg:ImagesToTransfer>
      <pwg:JobState>Processing</pwg:JobState>
      <pwg:JobStateReasons><pwg:JobStateReason>JobScanning</pwg:JobStateReason></pwg:JobStateReasons>
    </scan:JobInfo>
    <scan:JobInfo><pwg:JobUri>/eSCL/ScanJobs/2</pwg:JobUri><pwg:JobState>Completed</pwg:JobState></scan:JobInfo>
  </scan:Jobs>
</scan:ScannerStatus>"#;

    #[test]
    fn a_status_is_read_whatever_its_prefixes_are() {
        let expected = Status {
            version: "2.63".to_owned(),
            state: "Processing".to_owned(),
            adf_state: "ScannerAdfJam".to_owned(),
            jobs: vec![
                Job {
                    uri: "/eSCL/ScanJobs/893e6fcd-487f-4056-a8c9-a87709b85daf".to_owned(),
                    uuid: "893e6fcd-487f-4056-a8c9-a87709b85daf".to_owned(),
                    state: "Processing".to_owned(),
                    reasons: vec!["JobScanning".to_owned()],
                    images_completed: 12,
                    images_to_transfer: 2,
                    age_seconds: 10,
                },
                Job { uri: "/eSCL/ScanJobs/2".to_owned(), state: "Completed".to_owned(), ..Job::default() },
            ],
        };
        assert_eq!(status(STATUS.as_bytes()), Ok(expected.clone()));
        let other = STATUS.replace("scan:", "a:").replace("pwg:", "").replace("xmlns:scan", "xmlns:a");
        assert_eq!(status(other.as_bytes()), Ok(expected));
    }

    #[test]
    fn capabilities_tell_what_the_scanner_has() {
        let document = "<scan:ScannerCapabilities><pwg:Version>2.6</pwg:Version><pwg:MakeAndModel>Fujitsu fi-8170</pwg:MakeAndModel>
            <pwg:SerialNumber>B1</pwg:SerialNumber><scan:UUID>4509a320-00a0-008f-00b6-002507510eca</scan:UUID>
            <scan:Adf><scan:AdfSimplexInputCaps/><scan:AdfDuplexInputCaps/></scan:Adf></scan:ScannerCapabilities>";
        let found = capabilities(document.as_bytes()).expect("capabilities");
        assert_eq!((found.make_and_model.as_str(), found.serial_number.as_str()), ("Fujitsu fi-8170", "B1"));
        assert_eq!((found.has_adf, found.has_duplex, found.has_platen), (true, true, false));
    }

    #[test]
    fn other_documents_bombs_and_depths_are_refused() {
        let deep = format!("{}{}", "<a>".repeat(40), "</a>".repeat(40));
        let bomb = "<!DOCTYPE a [<!ENTITY b \"c\">]><ScannerStatus><State>&b;</State></ScannerStatus>";
        for (document, error) in [
            ("", EsclError::Other { expected: "ScannerStatus" }),
            ("<html><State>Idle</State></html>", EsclError::Other { expected: "ScannerStatus" }),
            ("<ScannerStatus></ScannerStatus>", EsclError::Other { expected: "ScannerStatus" }),
            ("<ScannerStatus><State>Idle</State>", EsclError::Malformed),
            ("<ScannerStatus><State>Idle</ScannerStatus>", EsclError::Malformed),
            (bomb, EsclError::Malformed),
            (&deep, EsclError::Malformed),
            (&" ".repeat(MAX_BYTES + 1), EsclError::TooLong),
        ] {
            assert_eq!(status(document.as_bytes()), Err(error), "{} bytes", document.len());
        }
    }

    proptest! {
        #[test]
        fn a_damaged_document_is_an_error_or_a_status(at in any::<prop::sample::Index>(), length in 0usize..30, put in "[<>/a-z&;!\\[\\]]{0,8}") {
            let mut bytes = STATUS.as_bytes().to_vec();
            let start = at.index(bytes.len());
            let end = (start + length).min(bytes.len());
            bytes.splice(start..end, put.bytes());
            drop(status(&bytes));
            drop(capabilities(&bytes));
        }
    }
}

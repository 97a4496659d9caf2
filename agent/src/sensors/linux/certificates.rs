//! Certificates in files: until when they are valid. Names are those of `x509-certificate-exporter`.
//!
//! A file is read again when it changes. Keys in it are skipped and never kept.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

use super::found;
use super::{Entry, Sensor, SensorError, Sink, right_to_read, unreadable};
use crate::clock;

pub(crate) const ENTRY: Entry = Entry::new(
    "certificates",
    |_| Vec::new(),
    |settings| Box::new(Certificates::new(settings.options.certificates.clone())),
)
.unless(|settings| {
    settings.options.certificates.is_empty().then(|| "no files are set; set sensors.certificates.files".to_owned())
})
.needing(|settings| {
    let lacking = |pattern: &String| {
        let (files, refused) = found::files_and_refused(pattern, MAX_FILES);
        refused.or_else(|| files.into_iter().find(|file| unreadable(file)))
    };
    settings.options.certificates.iter().find_map(lacking).map(|path| right_to_read(&path))
});

const MAX_FILES: usize = 1000;
const MAX_BYTES: u64 = 1 << 20;

/// `x509_cert_not_after`, `x509_cert_not_before`, `x509_cert_expired`, `x509_read_errors`.
pub(crate) struct Certificates {
    patterns: Vec<String>,
    files: Vec<CertificateFile>,
}

struct CertificateFile {
    path: PathBuf,
    state: (SystemTime, u64),
    /// `None` if it can't be read, or there is none in it.
    certificates: Option<Vec<Certificate>>,
}

#[derive(Debug, PartialEq)]
struct Certificate {
    issuer: String,
    serial_number: String,
    subject: String,
    not_before_seconds: i64,
    not_after_seconds: i64,
}

impl Certificates {
    pub(crate) fn new(patterns: Vec<String>) -> Self {
        Self { patterns, files: Vec::new() }
    }
}

impl Sensor for Certificates {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let mut paths = Vec::new();
        let mut errors = 0;
        for pattern in &self.patterns {
            let (files, refused) = found::files_and_refused(pattern, MAX_FILES);
            paths.extend(files);
            // What is there can't even be listed.
            errors += u32::from(refused.is_some());
        }
        paths.sort();
        paths.dedup();
        let mut known = std::mem::take(&mut self.files);
        for path in paths {
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let state = (metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len());
            let same = known.iter().position(|file| file.path == path && file.state == state);
            self.files.push(match same {
                Some(position) => known.swap_remove(position),
                None => CertificateFile { certificates: certificates(&path), path, state },
            });
        }
        let now_seconds = clock::now_ms() / 1000;
        for file in &self.files {
            let Some(certificates) = &file.certificates else {
                errors += 1;
                continue;
            };
            let path = file.path.to_string_lossy();
            let name = file.path.file_name().unwrap_or_default().to_string_lossy();
            for certificate in certificates {
                let labels = [
                    ("filename", &*name),
                    ("filepath", &*path),
                    ("issuer_CN", &certificate.issuer),
                    ("serial_number", &certificate.serial_number),
                    ("subject_CN", &certificate.subject),
                ];
                let is_expired = certificate.not_after_seconds < now_seconds;
                sink.put("x509_cert_expired", &labels, f64::from(u8::from(is_expired)));
                sink.put("x509_cert_not_after", &labels, certificate.not_after_seconds as f64);
                sink.put("x509_cert_not_before", &labels, certificate.not_before_seconds as f64);
            }
        }
        sink.put("x509_read_errors", &[], f64::from(errors));
        Ok(())
    }
}

/// Every certificate of the file, each once.
fn certificates(path: &Path) -> Option<Vec<Certificate>> {
    let bytes = bytes(path).ok()?;
    let mut found: Vec<Certificate> = Vec::new();
    for der in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate(&der.ok()?)?;
        if !found.contains(&certificate) {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        // Some programs want the bytes without the dressing.
        found.push(certificate(&bytes)?);
    }
    Some(found)
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn certificate(der: &[u8]) -> Option<Certificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = |name: &X509Name<'_>| {
        let common = name.iter_common_name().next().and_then(|name| name.as_str().ok());
        common.unwrap_or_default().to_owned()
    };
    Some(Certificate {
        issuer: name(certificate.issuer()),
        serial_number: certificate.serial.to_string(),
        subject: name(certificate.subject()),
        not_before_seconds: certificate.validity().not_before.timestamp(),
        not_after_seconds: certificate.validity().not_after.timestamp(),
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn signed(common_name: &str, until_year: i32) -> rcgen::Certificate {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(until_year, 1, 1);
        parameters.serial_number = Some(4711u64.into());
        parameters.self_signed(&KeyPair::generate().expect("key")).expect("certificate")
    }

    #[test]
    fn certificates_of_chains_and_plain_ones_are_told_and_others_counted() {
        let directory = tempfile::tempdir().expect("directory");
        let (old, new) = (signed("old.example", 2021), signed("new.example", 2095));
        let chain = format!("{}{}{}", old.pem(), new.pem(), old.pem());
        fs::write(directory.path().join("chain.pem"), chain).expect("write");
        fs::write(directory.path().join("plain.pem"), new.der()).expect("write");
        fs::write(directory.path().join("key.pem"), KeyPair::generate().expect("key").serialize_pem()).expect("write");
        let mut sensor = Certificates::new(vec![format!("{}/*.pem", directory.path().display())]);
        let mut sink = Sink::default();
        sensor.read(&mut sink).expect("never fails");
        let (series, values) = sink.take();
        let not_after: Vec<_> =
            series.0.iter().zip(&values).filter(|(name, _)| name.metric() == "x509_cert_not_after").collect();
        let (old_name, old_value) = not_after[0];
        assert_eq!(*old_value, 1_609_459_200.0);
        let labels: Vec<_> = old_name.labels().iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(
            (labels[0], labels[3], labels[4]),
            (("filename", "chain.pem"), ("serial_number", "4711"), ("subject_CN", "old.example"))
        );
        assert_eq!(not_after.len(), 3);
        let expired: Vec<_> =
            series.0.iter().zip(&values).filter(|(name, _)| name.metric() == "x509_cert_expired").collect();
        assert_eq!(expired.iter().map(|(_, value)| **value).collect::<Vec<_>>(), [1.0, 0.0, 0.0]);
        assert_eq!(values.last(), Some(&1.0), "the key is no certificate");
    }
}

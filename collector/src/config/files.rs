//! The files that a configuration names: there, readable, and what they should be.
//!
//! Invariant: no content of a file is in a message. What it deliberately does not do: keep what it read; secrets are
//! read again when they are needed, so that they may be renewed. Rule files have their own check in `alerting`.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use veghe_wire::document::Problems;

/// The longest password or token; a file beyond is something else.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// What a file should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Rules, or a directory of them.
    Rules,
    /// Certificates in PEM.
    Certificates,
    /// A private key in PEM.
    Key,
    /// A password or token.
    Secret,
}

/// A file and where it is named.
#[derive(Debug)]
pub(super) struct NamedFile {
    pub(super) kind: Kind,
    pub(super) path: PathBuf,
    pub(super) line: usize,
    pub(super) key: String,
}

/// Notes what is wrong with `files`; those of them that can't be opened.
pub(super) fn check(files: &[NamedFile], problems: &mut Problems) -> Vec<PathBuf> {
    let mut unreadable = Vec::new();
    for file in files {
        let shown = file.path.display();
        if let Err(error) = File::open(&file.path) {
            let remedy = format_args!("cannot read {shown}: {error}; check path and permissions").to_string();
            problems.note(file.line, &*file.key, remedy);
            unreadable.push(file.path.clone());
            continue;
        }
        let found = match file.kind {
            Kind::Rules => Ok(()),
            Kind::Certificates => certificates(&file.path),
            Kind::Key => key(&file.path),
            Kind::Secret => secret(&file.path),
        };
        if let Err(wrong) = found {
            problems.note(file.line, &*file.key, format_args!("{shown} {wrong}"));
        }
    }
    unreadable
}

fn certificates(path: &Path) -> Result<(), String> {
    const WRONG: &str = "holds no certificate; name a file in PEM that begins with `-----BEGIN CERTIFICATE-----`";
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found {
        Ok(certificates) if !certificates.is_empty() => Ok(()),
        Ok(_) => Err(WRONG.to_owned()),
        Err(error) => Err(format!("{WRONG} ({error})")),
    }
}

fn key(path: &Path) -> Result<(), String> {
    PrivateKeyDer::from_pem_file(path).map(drop).map_err(|error| {
        format!("holds no private key; name a file in PEM that begins with `-----BEGIN PRIVATE KEY-----` ({error})")
    })
}

fn secret(path: &Path) -> Result<(), String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        File::open(path)?.take(MAX_SECRET_BYTES + 1).read_to_end(&mut content)?;
        Ok(content)
    };
    let content = read().map_err(|error| format!("cannot be read: {error}; name a file with the secret alone"))?;
    if content.len() as u64 > MAX_SECRET_BYTES {
        return Err(format!("has more than {MAX_SECRET_BYTES} bytes; name a file with the secret alone"));
    }
    match std::str::from_utf8(&content) {
        Ok(text) if text.trim().is_empty() => Err("is empty; write the secret into it".to_owned()),
        Ok(_) => Ok(()),
        Err(_) => Err("is not UTF-8; name a file with the secret alone".to_owned()),
    }
}

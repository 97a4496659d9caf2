//! The agent's key and certificates in its state directory: `agent.key`, `agent.crt`, `ca.crt`.
//!
//! Invariant: key and certificate belong together after every crash. A pair is replaced through `agent.key.new` and
//! `agent.crt.new`, the key's name first; what a crash left in between, [`Identity::load`] ends.
//! What it deliberately does not do: ask anybody for a certificate.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use veghe_wire::AgentId;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::system::{self, Private as _};

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The machine was never enrolled, or its files are gone.
    #[error("cannot read {}; enrol this machine with `veghe-agent join`", path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("cannot use {}: {reason}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file can't be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A new certificate is none for us.
    #[error("cannot use the new certificate: {reason}")]
    Foreign {
        /// What is wrong.
        reason: &'static str,
    },
    /// No key or request can be made.
    #[error("cannot make a key and certificate request")]
    Make(#[source] rcgen::Error),
}

/// Who the agent is and whom it trusts.
#[derive(Debug)]
pub struct Identity {
    /// The certificate's common name.
    pub agent: AgentId,
    /// The certificate and what leads to its CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
    /// The pinned CA.
    pub ca: CertificateDer<'static>,
    /// From when the certificate is valid, seconds since the Unix epoch.
    pub not_before_seconds: i64,
    /// Until when.
    pub not_after_seconds: i64,
}

/// A new key and the request for its certificate, in PEM.
pub struct KeyRequest {
    key: KeyPair,
    /// PKCS#10 in PEM.
    pub request: String,
}

impl KeyRequest {
    /// A new ECDSA P-256 key for `agent`.
    ///
    /// # Errors
    /// [`IdentityError::Make`].
    pub fn new(agent: &AgentId) -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, agent.as_str());
        let request = params.serialize_request(&key).and_then(|request| request.pem()).map_err(IdentityError::Make)?;
        Ok(Self { key, request })
    }

    /// The key in PEM: secret.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

impl Identity {
    /// Reads the identity in `state_dir`.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn load(state_dir: &Path) -> Result<Self, IdentityError> {
        finish_replacement(state_dir)?;
        let (key_path, path, ca_path) = (state_dir.join(KEY), state_dir.join(CERTIFICATE), state_dir.join(CA));
        let key_pem = read(&key_path)?;
        let chain = certificates(&path, &read(&path)?)?;
        let ca = certificates(&ca_path, &read(&ca_path)?)?.swap_remove(0);
        let malformed =
            |path: &Path, reason: &str| IdentityError::Malformed { path: path.into(), reason: reason.into() };
        let key = KeyPair::from_pem(&key_pem).map_err(|error| malformed(&key_path, &error.to_string()))?;
        let leaf =
            Leaf::parse(chain.first().map_or(&[][..], AsRef::as_ref)).map_err(|reason| malformed(&path, reason))?;
        if leaf.public_key != key.der_bytes() {
            return Err(malformed(&path, "it belongs to another key than agent.key"));
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|error| malformed(&key_path, &error.to_string()))?;
        let Leaf { agent, not_before_seconds, not_after_seconds, .. } = leaf;
        Ok(Self { agent, chain, key, ca, not_before_seconds, not_after_seconds })
    }

    /// When to ask for the next certificate, seconds since the Unix epoch: two thirds of the life of this one.
    pub fn renew_at_seconds(&self) -> i64 {
        self.not_before_seconds + (self.not_after_seconds - self.not_before_seconds) / 3 * 2
    }
}

/// Makes `certificate_pem`, the answer to `request`, the agent's identity in `state_dir`.
///
/// # Errors
/// [`IdentityError::Foreign`] where it is not for `agent` and this key; otherwise see [`IdentityError`].
pub fn replace(
    state_dir: &Path,
    agent: &AgentId,
    request: &KeyRequest,
    certificate_pem: &str,
) -> Result<(), IdentityError> {
    let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes());
    let der = der.or(Err(IdentityError::Foreign { reason: "it is not PEM" }))?;
    let leaf = Leaf::parse(&der).map_err(|reason| IdentityError::Foreign { reason })?;
    if leaf.public_key != request.key.der_bytes() {
        return Err(IdentityError::Foreign { reason: "it belongs to another key" });
    }
    if leaf.agent != *agent {
        return Err(IdentityError::Foreign { reason: "it names another agent" });
    }
    write_new(&state_dir.join(KEY_NEW), request.key_pem().as_bytes())?;
    write_new(&state_dir.join(CERTIFICATE_NEW), certificate_pem.as_bytes())?;
    finish_replacement(state_dir)
}

/// Writes `content` under `path`, whole or not at all, readable by nobody else.
///
/// # Errors
/// [`IdentityError::Write`].
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    write_new(&temporary, content)?;
    rename(&temporary, path)
}

const KEY: &str = "agent.key";
const CERTIFICATE: &str = "agent.crt";
/// The pinned CA's file.
pub const CA: &str = "ca.crt";
const KEY_NEW: &str = "agent.key.new";
const CERTIFICATE_NEW: &str = "agent.crt.new";

/// Names of the files that make an enrolment.
pub const FILES: [&str; 3] = [KEY, CERTIFICATE, CA];

fn read(path: &Path) -> Result<String, IdentityError> {
    fs::read_to_string(path).map_err(|source| IdentityError::Missing { path: path.to_owned(), source })
}

fn certificates(path: &Path, pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let malformed = |reason| IdentityError::Malformed { path: path.to_owned(), reason };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|error| malformed(error.to_string()))?;
    if found.is_empty() { Err(malformed("there is no certificate in it".to_owned())) } else { Ok(found) }
}

fn write_new(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    let write = || {
        fs::remove_file(path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        let mut file = OpenOptions::new().write(true).create_new(true).private().open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|source| IdentityError::Write { path: path.to_owned(), source })
}

fn rename(from: &Path, to: &Path) -> Result<(), IdentityError> {
    let sync = || system::sync_directory(to.parent().unwrap_or(Path::new(".")));
    let renamed = fs::rename(from, to).and_then(|()| sync());
    renamed.map_err(|source| IdentityError::Write { path: to.to_owned(), source })
}

/// Ends what [`replace`] began: both files are there under their new names, or only the certificate still is.
fn finish_replacement(state_dir: &Path) -> Result<(), IdentityError> {
    let (key_new, certificate_new) = (state_dir.join(KEY_NEW), state_dir.join(CERTIFICATE_NEW));
    let Ok(pem) = fs::read_to_string(&certificate_new) else { return Ok(()) };
    let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else { return Ok(()) };
    let Ok(leaf) = Leaf::parse(&der) else { return Ok(()) };
    let belongs = |path: &Path| {
        let pem = fs::read_to_string(path).ok();
        pem.and_then(|pem| KeyPair::from_pem(&pem).ok()).is_some_and(|key| key.der_bytes() == leaf.public_key)
    };
    if belongs(&key_new) {
        rename(&key_new, &state_dir.join(KEY))?;
    }
    if belongs(&state_dir.join(KEY)) {
        rename(&certificate_new, &state_dir.join(CERTIFICATE))?;
    }
    Ok(())
}

struct Leaf {
    agent: AgentId,
    public_key: Vec<u8>,
    not_before_seconds: i64,
    not_after_seconds: i64,
}

impl Leaf {
    fn parse(der: &[u8]) -> Result<Self, &'static str> {
        let (_, certificate) = X509Certificate::from_der(der).or(Err("it is not an X.509 certificate"))?;
        let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let agent = name.and_then(|name| name.parse().ok()).ok_or("its common name is not an agent id")?;
        Ok(Self {
            agent,
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
            not_before_seconds: certificate.validity().not_before.timestamp(),
            not_after_seconds: certificate.validity().not_after.timestamp(),
        })
    }
}

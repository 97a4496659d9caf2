//! Whose certificates count when a device or an exporter is asked by TLS.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::{ClientConfig, ClientConnection, Error, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::HttpError;
use crate::tls::{self, Identity, Judge, Shown, fingerprint};

/// Where systems keep the CAs that they trust: Debian, Fedora, SUSE, Alpine.
const SYSTEM_CAS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Below the state directory.
const PINS: &str = "pins";

/// What certificates of one server count.
#[derive(Debug)]
pub(crate) struct Pin {
    /// Where the pinned one is kept.
    file: PathBuf,
    /// What was seen at the last handshake.
    seen: Mutex<Option<[u8; 32]>>,
}

fn hex(bytes: [u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

impl Pin {
    fn pinned(&self) -> io::Result<Option<String>> {
        match fs::read_to_string(&self.file) {
            Ok(text) => Ok(text.split_whitespace().next().map(str::to_owned)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn keep(&self, fingerprint: &str) -> io::Result<()> {
        let directory = self.file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{fingerprint}\n"))?;
        // A crash midway leaves the old one, or none.
        fs::rename(new, &self.file)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Option<[u8; 32]>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares what was seen with what is pinned; pins what is seen for the first time.
    fn check(&self) -> Result<(), HttpError> {
        let Some(now) = self.seen().take().map(hex) else { return Ok(()) };
        match self.pinned()? {
            Some(before) if before == now => Ok(()),
            Some(before) => Err(HttpError::CertificateChanged { now, before, file: self.file.clone() }),
            None => {
                self.keep(&now)?;
                tracing::info!(sha256 = now, file = %self.file.display(), "pinned the certificate of a device");
                Ok(())
            }
        }
    }
}

impl Judge for Pin {
    fn judge(&self, shown: &Shown<'_>) -> Result<(), Error> {
        let seen = fingerprint(shown.certificate);
        *self.seen() = Some(seen);
        match self.pinned() {
            Ok(None) => Ok(()),
            Ok(Some(pinned)) if pinned == hex(seen) => Ok(()),
            _ => Err(Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure)),
        }
    }
}

/// Whoever it is: what `insecure_skip_verify` asks for.
#[derive(Debug)]
struct Anybody;

impl Judge for Anybody {
    fn judge(&self, _shown: &Shown<'_>) -> Result<(), Error> {
        Ok(())
    }
}

/// What a `tls_config` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The CAs whose certificates count; without it, those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// The certificate to show, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate must have, where that is not its address.
    pub server_name: Option<String>,
    /// Whether any certificate counts.
    pub insecure_skip_verify: bool,
}

/// Whom a device has to be.
pub(crate) struct Trust {
    config: Arc<ClientConfig>,
    pin: Option<Arc<Pin>>,
    server_name: Option<String>,
}

fn roots(file: &Path) -> Result<RootCertStore, HttpError> {
    let wrong = |source| HttpError::Ca { path: file.to_owned(), source };
    let bytes = fs::read(file).map_err(wrong)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        roots.add(certificate.map_err(|error| wrong(io::Error::other(error)))?)?;
    }
    if roots.is_empty() { Err(wrong(io::Error::other("it has no certificate in PEM form"))) } else { Ok(roots) }
}

fn system_roots() -> Result<RootCertStore, HttpError> {
    let bytes = SYSTEM_CAS.iter().find_map(|file| fs::read(file).ok()).ok_or(HttpError::NoCas)?;
    let mut roots = RootCertStore::empty();
    // A system may have some that rustls takes for malformed.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok));
    if roots.is_empty() { Err(HttpError::NoCas) } else { Ok(roots) }
}

fn identity(certificate: &Path, key: &Path) -> Result<Identity, HttpError> {
    let wrong = |path: &Path, source| HttpError::Identity { path: path.to_owned(), source };
    let read = |path: &Path| fs::read(path).map_err(|source| wrong(path, source));
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(certificate)?).collect();
    let chain = chain.map_err(|error| wrong(certificate, io::Error::other(error)))?;
    let own = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| wrong(key, io::Error::other(error)))?;
    Ok((chain, own))
}

impl Trust {
    /// Whoever is met first as `address` (host and port), kept below `state_dir`.
    pub(crate) fn first_use(state_dir: &Path, address: &str) -> Result<Self, HttpError> {
        let name: String = address
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' })
            .collect();
        let file = state_dir.join(PINS).join(format!("{name}.sha256"));
        let pin = Arc::new(Pin { file, seen: Mutex::new(None) });
        let config = tls::with_identity(tls::judged_by(Arc::<Pin>::clone(&pin))?, None)?;
        Ok(Self { config: Arc::new(config), pin: Some(pin), server_name: None })
    }

    /// Whoever has a certificate for the name from a CA in `file`.
    pub(crate) fn ca(file: &Path) -> Result<Self, HttpError> {
        Self::new(&Tls { ca_file: Some(file.to_owned()), ..Tls::default() })
    }

    /// Whom `settings` name.
    pub(crate) fn new(settings: &Tls) -> Result<Self, HttpError> {
        let identity = settings.identity.as_ref().map(|(certificate, key)| identity(certificate, key)).transpose()?;
        let config = if settings.insecure_skip_verify {
            tls::with_identity(tls::judged_by(Arc::new(Anybody))?, identity)?
        } else {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
            let roots = match &settings.ca_file {
                Some(file) => roots(file)?,
                None => system_roots()?,
            };
            tls::with_identity(builder.with_root_certificates(roots), identity)?
        };
        Ok(Self { config: Arc::new(config), pin: None, server_name: settings.server_name.clone() })
    }

    /// Speaks TLS on `stream` with whoever calls itself `host`.
    pub(crate) fn wrap<S: Read + Write>(
        &self,
        stream: S,
        host: &str,
    ) -> Result<StreamOwned<ClientConnection, S>, HttpError> {
        let host = self.server_name.as_deref().unwrap_or(host.trim_matches(['[', ']']));
        let name = ServerName::try_from(host.to_owned()).or(Err(HttpError::NoAddress))?;
        let mut tls = StreamOwned::new(ClientConnection::new(Arc::clone(&self.config), name)?, stream);
        let shaken = tls.conn.complete_io(&mut tls.sock);
        // What is pinned tells more than that the handshake failed.
        if let Some(pin) = &self.pin {
            pin.check()?;
        }
        shaken?;
        Ok(tls)
    }
}

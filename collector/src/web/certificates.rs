//! Which certificate the operations listener shows: the collector's own to agents, the administration's to people.
//!
//! Agents ask for [`COLLECTOR_SERVER_NAME`] and trust the collector's CA only, which is sent along so that a token's
//! fingerprint can be compared. Browsers ask for a host name and get the configured certificate, if there is one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use veghe_wire::COLLECTOR_SERVER_NAME;

/// Why TLS can't be spoken.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file holds no certificate or key in PEM.
    #[error("cannot read {} as PEM", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: rustls_pki_types::pem::Error,
    },
    /// The key can't be used.
    #[error("cannot use key {}", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
}

/// Files in PEM: certificates that are sent, and the key of the first of them.
#[derive(Clone, Debug)]
pub struct Files {
    /// The server's certificate and what leads from it to a root, in one or more files.
    pub chain: Vec<PathBuf>,
    /// The key.
    pub key: PathBuf,
}

/// TLS 1.2 and 1.3 with `own` for agents, and for everybody else where there is no `public`.
///
/// # Errors
/// [`CertificateError`] names the file.
pub fn server_config(own: &Files, public: Option<&Files>) -> Result<Arc<ServerConfig>, CertificateError> {
    let own = load(own)?;
    let public = public.map(load).transpose()?.unwrap_or_else(|| Arc::clone(&own));
    let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(ByName { own, public }));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn load(files: &Files) -> Result<Arc<CertifiedKey>, CertificateError> {
    let mut chain = Vec::new();
    for path in &files.chain {
        chain.extend(read(path, |path| CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>())?);
    }
    let key = read(&files.key, |path| PrivateKeyDer::from_pem_file(path))?;
    let key = any_supported_type(&key).map_err(|source| CertificateError::Key { path: files.key.clone(), source })?;
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

fn read<T>(
    path: &Path,
    parse: impl FnOnce(&Path) -> Result<T, rustls_pki_types::pem::Error>,
) -> Result<T, CertificateError> {
    parse(path).map_err(|source| CertificateError::Pem { path: path.to_owned(), source })
}

#[derive(Debug)]
struct ByName {
    own: Arc<CertifiedKey>,
    public: Arc<CertifiedKey>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let for_agent = hello.server_name() == Some(COLLECTOR_SERVER_NAME);
        Some(Arc::clone(if for_agent { &self.own } else { &self.public }))
    }
}

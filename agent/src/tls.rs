//! Whom the agent trusts and how it shows who it is: the collector's own CA, pinned, and a client certificate.
//!
//! The one place that has a verifier of certificates; others say whose count (`Judge`).
//!
//! Invariant: a server is the collector if its certificate comes from the pinned CA and bears
//! [`veghe_wire::COLLECTOR_SERVER_NAME`]; the host name or address by which it was reached says nothing.
//! What it deliberately does not do: connect.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WantsClientCert, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};

/// How the collector is recognised.
#[derive(Clone, Debug)]
pub enum Pin {
    /// By the CA's certificate.
    Ca(CertificateDer<'static>),
    /// By the SHA-256 of the CA's certificate, which the server has to send.
    Fingerprint([u8; 32]),
}

/// A client that trusts `pin` and nobody else, and shows `identity` where it has one: its certificates and key.
///
/// # Errors
/// What rustls finds wrong with the certificates or the key.
pub fn client_config(pin: Pin, identity: Option<Identity>) -> Result<ClientConfig, Error> {
    with_identity(judged_by(Arc::new(pin))?, identity)
}

/// Certificates, the own one first, and the key.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A client that trusts whom `judge` does.
pub(crate) fn judged_by(judge: Arc<dyn Judge>) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Verifier { judge, algorithms: provider.signature_verification_algorithms });
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
}

/// A client that shows `identity` where it has one.
pub(crate) fn with_identity(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    identity: Option<Identity>,
) -> Result<ClientConfig, Error> {
    match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// SHA-256 of a certificate.
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// What a server shows of itself.
pub(crate) struct Shown<'a> {
    pub(crate) certificate: &'a CertificateDer<'a>,
    pub(crate) intermediates: &'a [CertificateDer<'a>],
    pub(crate) now: UnixTime,
    pub(crate) algorithms: &'a WebPkiSupportedAlgorithms,
}

/// Whose certificates count. That the server has their key is checked whoever judges.
pub(crate) trait Judge: std::fmt::Debug + Send + Sync {
    /// Nothing where they do.
    ///
    /// # Errors
    /// Why they do not.
    fn judge(&self, shown: &Shown<'_>) -> Result<(), Error>;
}

impl Judge for Pin {
    fn judge(&self, shown: &Shown<'_>) -> Result<(), Error> {
        let ca = match self {
            Self::Ca(ca) => ca.clone(),
            Self::Fingerprint(pinned) => {
                let sent = shown.intermediates.iter().find(|certificate| fingerprint(certificate) == *pinned);
                sent.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?.clone().into_owned()
            }
        };
        let mut roots = RootCertStore::empty();
        roots.add(ca)?;
        let certificate = ParsedCertificate::try_from(shown.certificate)?;
        let algorithms = shown.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &roots, shown.intermediates, shown.now, algorithms)?;
        let name = ServerName::try_from(veghe_wire::COLLECTOR_SERVER_NAME)
            .or(Err(Error::General("the collector's name is not a DNS name".to_owned())))?;
        verify_server_name(&certificate, &name)
    }
}

#[derive(Debug)]
struct Verifier {
    judge: Arc<dyn Judge>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _reached_as: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = Shown { certificate: end_entity, intermediates, now, algorithms: &self.algorithms };
        self.judge.judge(&shown)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

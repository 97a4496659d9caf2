//! Whom the agent trusts and how it shows who it is: the collector's own CA, pinned, and a client certificate.
//!
//! Invariant: a server is the collector if its certificate comes from the pinned CA and bears
//! [`veghe_wire::COLLECTOR_SERVER_NAME`]; the host name or address by which it was reached says nothing.
//! What it deliberately does not do: connect.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
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
pub fn client_config(
    pin: Pin,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(PinnedVerifier { pin, algorithms: provider.signature_verification_algorithms });
    let builder = builder(provider)?.dangerous().with_custom_certificate_verifier(verifier);
    match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key),
        None => Ok(builder.with_no_client_auth()),
    }
}

fn builder(provider: Arc<CryptoProvider>) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
}

/// SHA-256 of a certificate.
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

#[derive(Debug)]
struct PinnedVerifier {
    pin: Pin,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _reached_as: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ca = match &self.pin {
            Pin::Ca(ca) => ca.clone(),
            Pin::Fingerprint(pinned) => {
                let sent = intermediates.iter().find(|certificate| fingerprint(certificate) == *pinned);
                sent.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?.clone().into_owned()
            }
        };
        let mut roots = RootCertStore::empty();
        roots.add(ca)?;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&certificate, &roots, intermediates, now, self.algorithms.all)?;
        let name = ServerName::try_from(veghe_wire::COLLECTOR_SERVER_NAME)
            .or(Err(Error::General("the collector's name is not a DNS name".to_owned())))?;
        verify_server_name(&certificate, &name)?;
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

//! The collector's certificate authority: one ECDSA P-256 key that signs the collector's own certificate and those of
//! its agents.
//!
//! Invariants: keys exist only in files of mode 0600; an agent's certificate is for client authentication only and
//! the collector's for server authentication only, so that neither can play the other. What it deliberately does not
//! do: remember whom it certified (`agents`) or check certificates of connections (the broker's TLS does).

use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use sha2::{Digest as _, Sha256};
use veghe_model::Timestamp;
use veghe_wire::{AgentId, COLLECTOR_SERVER_NAME};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

const DAY: Duration = Duration::from_hours(24);
const CA_LIFE: Duration = Duration::from_hours(24 * 365 * 20);
/// The longest that browsers and systems accept of a server certificate whose CA was installed by hand.
const SERVER_LIFE: Duration = Duration::from_hours(24 * 820);
/// Clocks of agents may be behind: certificates begin this much before they are made.
const BACKDATE: Duration = Duration::from_hours(24);
/// A PKCS#10 request with a P-256 key has about 500 bytes, one with RSA 4096 about 2 KB.
const MAX_REQUEST_BYTES: usize = 16 << 10;

/// Why the certificate authority can't work.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// One of its files.
    #[error("cannot read or write {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Key or certificate in a file are not what they were.
    #[error("cannot use {}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: rcgen::Error,
    },
    /// A certificate could not be made.
    #[error("cannot make certificate of {subject}")]
    Make {
        /// Whose.
        subject: String,
        /// What is wrong.
        source: rcgen::Error,
    },
    /// A request for a certificate is none.
    #[error("cannot read certificate request")]
    Request(#[source] rcgen::Error),
    /// A request for a certificate is far larger than any real one.
    #[error("certificate request has {bytes} bytes, at most {MAX_REQUEST_BYTES} are accepted")]
    RequestSize {
        /// Its size.
        bytes: usize,
    },
    /// The system gives no random numbers.
    #[error("cannot get random numbers")]
    Random(#[source] getrandom::Error),
}

/// A certificate made for an agent.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate in PEM.
    pub pem: String,
    /// Its serial number, lower-case hexadecimal without leading zeros.
    pub serial: String,
    /// When it ends.
    pub not_after: Timestamp,
}

/// The collector's certificate authority.
pub struct Ca {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: Vec<u8>,
}

impl Ca {
    /// Opens the authority in `data_dir/ca`, made if missing, and makes sure that its server certificate is good for
    /// `names` beside the built-in ones and is not past two thirds of its life.
    ///
    /// # Errors
    /// See [`CaError`].
    pub fn open(data_dir: &Path, names: &[String], now: Timestamp) -> Result<Self, CaError> {
        let dir = data_dir.join("ca");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|source| CaError::File { path: dir.clone(), source })?;
        let (key_path, certificate_path) = (dir.join("ca.key"), dir.join("ca.crt"));
        // The certificate is written last: without it the key has signed nothing yet and both are made anew.
        let (key, pem) = match fs::read_to_string(&certificate_path) {
            Ok(pem) => {
                let key = read(&key_path)?;
                let key = KeyPair::from_pem(&key).map_err(|source| CaError::Content { path: key_path, source })?;
                (key, pem)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (key, pem) = make_ca(now)?;
                write(&key_path, &key.serialize_pem(), 0o600)?;
                write(&certificate_path, &pem, 0o644)?;
                (key, pem)
            }
            Err(source) => return Err(CaError::File { path: certificate_path, source }),
        };
        let unreadable = |source| CaError::Content { path: certificate_path.clone(), source };
        let der = der_of(&pem).ok_or_else(|| unreadable(rcgen::Error::CouldNotParseCertificate))?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(unreadable)?;
        let ca = Self { dir, issuer, pem, der };
        ca.keep_server_certificate(names, now)?;
        Ok(ca)
    }

    /// The authority's own certificate in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// Where the authority's own certificate is.
    pub fn certificate_path(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// Where the collector's certificate is, in PEM.
    pub fn server_certificate_path(&self) -> PathBuf {
        self.dir.join("server.crt")
    }

    /// Where the key of the collector's certificate is, in PEM.
    pub fn server_key_path(&self) -> PathBuf {
        self.dir.join("server.key")
    }

    /// SHA-256 of the authority's certificate in DER; tokens carry it.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.der).into()
    }

    /// A certificate for `agent` that lasts `life`, with the key of `request` (PKCS#10 in PEM) and nothing else of it.
    ///
    /// # Errors
    /// [`CaError::Request`] and [`CaError::RequestSize`] are the applicant's mistakes, the others ours.
    pub fn certify(&self, agent: &AgentId, request: &str, life: Duration, now: Timestamp) -> Result<Issued, CaError> {
        if request.len() > MAX_REQUEST_BYTES {
            return Err(CaError::RequestSize { bytes: request.len() });
        }
        let request = CertificateSigningRequestParams::from_pem(request).map_err(CaError::Request)?;
        let serial = random_serial()?;
        let not_after = now.saturating_add(life);
        let mut params = leaf(agent.as_str(), &serial, now, not_after);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(|source| CaError::Make { subject: agent.to_string(), source })?;
        Ok(Issued { pem: certificate.pem(), serial: canonical_serial(&serial), not_after })
    }

    fn keep_server_certificate(&self, names: &[String], now: Timestamp) -> Result<(), CaError> {
        let mut wanted: Vec<String> =
            [COLLECTOR_SERVER_NAME.into(), "localhost".into(), Ipv4Addr::LOCALHOST.to_string()]
                .into_iter()
                .chain([Ipv6Addr::LOCALHOST.to_string()])
                .chain(names.iter().cloned())
                .collect();
        wanted.sort();
        wanted.dedup();
        let path = self.server_certificate_path();
        if self.server_key_path().exists()
            && fs::read_to_string(&path).is_ok_and(|pem| self.is_server_certificate_good(&pem, &wanted, now))
        {
            return Ok(());
        }
        let failed = |source| CaError::Make { subject: COLLECTOR_SERVER_NAME.into(), source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = leaf(COLLECTOR_SERVER_NAME, &random_serial()?, now, now.saturating_add(SERVER_LIFE));
        params.subject_alt_names = CertificateParams::new(wanted).map_err(failed)?.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        // Without its key beside it the old certificate would not load: it goes first, the new one comes last.
        if let Err(source) = fs::remove_file(&path)
            && source.kind() != io::ErrorKind::NotFound
        {
            return Err(CaError::File { path, source });
        }
        write(&self.server_key_path(), &key.serialize_pem(), 0o600)?;
        write(&path, &(certificate.pem() + &self.pem), 0o644)?;
        tracing::info!(names = ?params.subject_alt_names.len(), "made server certificate");
        Ok(())
    }

    fn is_server_certificate_good(&self, pem: &str, wanted: &[String], now: Timestamp) -> bool {
        let Some(der) = der_of(pem) else { return false };
        let Ok((_, certificate)) = X509Certificate::from_der(&der) else { return false };
        let validity = certificate.validity();
        let (begin, end) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let is_young = now.millis() / 1000 < begin + (end - begin) / 3 * 2;
        let mut names: Vec<String> = match certificate.subject_alternative_name() {
            Ok(Some(names)) => names.value.general_names.iter().filter_map(name_text).collect(),
            _ => return false,
        };
        names.sort();
        // The chain in the file ends with the authority that signed it.
        is_young && names == wanted && pem.ends_with(&self.pem)
    }
}

/// Whose certificate `pem` is, its serial number and when it ends; `None` where it is no certificate.
pub fn describe(pem: &str) -> Option<(String, String, Timestamp)> {
    let der = der_of(pem)?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let ends = Timestamp(certificate.validity().not_after.timestamp().saturating_mul(1000));
    Some((name, certificate.serial.to_str_radix(16), ends))
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
        },
        _ => None,
    }
}

fn make_ca(now: Timestamp) -> Result<(KeyPair, String), CaError> {
    let failed = |source| CaError::Make { subject: "the authority".into(), source };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let serial = random_serial()?;
    let mut params = leaf("Veghe CA", &serial, now, now.saturating_add(CA_LIFE));
    // Two collectors' authorities must not look alike in a trust store.
    params.distinguished_name.push(DnType::OrganizationName, canonical_serial(&serial));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pem = params.self_signed(&key).map_err(failed)?.pem();
    Ok((key, pem))
}

fn leaf(common_name: &str, serial: &[u8], now: Timestamp, not_after: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    // Whole seconds: certificates know no smaller unit. A century bounds what the calendar is asked for.
    let moment = |t: Timestamp| epoch + Duration::from_secs(t.millis().clamp(0, 1 << 42) as u64 / 1000);
    params.not_before = moment(now.saturating_sub(BACKDATE));
    params.not_after = moment(not_after);
    params.serial_number = Some(SerialNumber::from(serial.to_vec()));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

/// 16 random bytes, the first between 1 and 127: positive and of one length in every notation.
fn random_serial() -> Result<Vec<u8>, CaError> {
    let mut serial = vec![0; 16];
    getrandom::fill(&mut serial).map_err(CaError::Random)?;
    serial[0] = (serial[0] & 0x7f).max(1);
    Ok(serial)
}

fn canonical_serial(serial: &[u8]) -> String {
    veghe_wire::enrolment::to_hex(serial).trim_start_matches('0').to_owned()
}

fn der_of(pem: &str) -> Option<Vec<u8>> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok().map(|(_, pem)| pem.contents)
}

fn read(path: &Path) -> Result<String, CaError> {
    fs::read_to_string(path).map_err(|source| CaError::File { path: path.to_owned(), source })
}

/// Replaces the file whole, or not at all, and for good.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), CaError> {
    let replace = || {
        let fresh = path.with_extension("new");
        if let Err(error) = fs::remove_file(&fresh)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    replace().map_err(|source| CaError::File { path: path.to_owned(), source })
}

/// How long agents' certificates last unless configured.
pub const AGENT_CERTIFICATE_LIFE: Duration = Duration::from_hours(24 * 90);
const _: () = assert!(AGENT_CERTIFICATE_LIFE.as_secs() > DAY.as_secs(), "agents renew at two thirds of the life");

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn request() -> String {
        let key = KeyPair::generate().unwrap();
        CertificateParams::new(vec!["evil.example".to_owned()]).unwrap().serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn the_authority_stays_the_same_and_its_keys_private() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp(1_800_000_000_000);
        let first = Ca::open(dir.path(), &[], now).unwrap();
        let server = fs::read_to_string(first.server_certificate_path()).unwrap();
        let second = Ca::open(dir.path(), &[], now).unwrap();
        assert_eq!(first.fingerprint(), second.fingerprint());
        assert_eq!(server, fs::read_to_string(second.server_certificate_path()).unwrap());
        for key in ["ca.key", "server.key"] {
            let mode = fs::metadata(dir.path().join("ca").join(key)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
    }

    #[test]
    fn the_server_certificate_follows_its_names_and_its_age() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp(1_800_000_000_000);
        let read = |ca: &Ca| fs::read_to_string(ca.server_certificate_path()).unwrap();
        let first = read(&Ca::open(dir.path(), &[], now).unwrap());
        let named = read(&Ca::open(dir.path(), &["veghe.cjtimis.ro".into(), "10.0.0.9".into()], now).unwrap());
        assert_ne!(first, named);
        let later = now.saturating_add(SERVER_LIFE / 3 * 2 + DAY);
        let aged = read(&Ca::open(dir.path(), &["10.0.0.9".into(), "veghe.cjtimis.ro".into()], later).unwrap());
        assert_ne!(named, aged);
        let again = read(&Ca::open(dir.path(), &["10.0.0.9".into(), "veghe.cjtimis.ro".into()], later).unwrap());
        assert_eq!(aged, again);
    }

    #[test]
    fn an_agent_gets_its_own_name_and_no_server_rights_whatever_it_asks_for() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp(1_800_000_000_000);
        let ca = Ca::open(dir.path(), &[], now).unwrap();
        let agent: AgentId = "nas-1".parse().unwrap();
        let issued = ca.certify(&agent, &request(), AGENT_CERTIFICATE_LIFE, now).unwrap();
        let der = der_of(&issued.pem).unwrap();
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth);
        assert!(certificate.subject_alternative_name().unwrap().is_none());
        assert!(!certificate.is_ca());
        assert_eq!(describe(&issued.pem), Some(("nas-1".into(), issued.serial, issued.not_after)));
        assert!(matches!(ca.certify(&agent, "no request", DAY, now), Err(CaError::Request(_))));
    }
}

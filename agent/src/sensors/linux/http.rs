//! One HTTP request at a time to a device, plain or by TLS, with a limit of time and bytes for all of it.
//!
//! Devices have certificates that nobody has signed. Theirs is taken at the first use, kept in the state directory, and
//! from then on nobody else's counts ([`Pin`]); where a CA is set, its certificates count and no others.
//! What it deliberately does not do: redirections, cookies, compression, kept connections.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, StreamOwned,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use url::Url;

use crate::clock;
use crate::tls::fingerprint;

const MAX_HEAD_BYTES: usize = 16 << 10;
/// Below the state directory.
const PINS: &str = "pins";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("cannot find the address")]
    Resolve(#[source] io::Error),
    #[error("the name has no address")]
    NoAddress,
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("cannot send or receive")]
    Io(#[from] io::Error),
    #[error("cannot speak TLS")]
    Tls(#[from] Error),
    #[error("cannot read the CA's certificates in {}", path.display())]
    Ca { path: PathBuf, source: io::Error },
    #[error("the answer is no HTTP")]
    Malformed,
    #[error("the answer has more than {max} bytes")]
    TooLong { max: usize },
    #[error("the status is {0}")]
    Status(u16),
    #[error("the certificate changed: its SHA-256 is {now} and was {before}; if that is right, remove {}", file.display())]
    CertificateChanged { now: String, before: String, file: PathBuf },
}

/// What certificates of one server count.
#[derive(Debug)]
pub(crate) struct Pin {
    /// Where the pinned one is kept.
    file: PathBuf,
    /// What was seen at the last handshake.
    seen: Mutex<Option<[u8; 32]>>,
    algorithms: WebPkiSupportedAlgorithms,
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

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let seen = fingerprint(end_entity);
        *self.seen() = Some(seen);
        match self.pinned() {
            Ok(None) => Ok(ServerCertVerified::assertion()),
            Ok(Some(pinned)) if pinned == hex(seen) => Ok(ServerCertVerified::assertion()),
            _ => Err(Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure)),
        }
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

/// Whom a device has to be.
pub(crate) struct Trust {
    config: Arc<ClientConfig>,
    pin: Option<Arc<Pin>>,
}

impl Trust {
    /// Whoever is met first as `address` (host and port), kept below `state_dir`.
    pub(crate) fn first_use(state_dir: &Path, address: &str) -> Result<Self, HttpError> {
        let name: String = address
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' })
            .collect();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let file = state_dir.join(PINS).join(format!("{name}.sha256"));
        let pin = Arc::new(Pin { file, seen: Mutex::new(None), algorithms });
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let verifier = Arc::<Pin>::clone(&pin);
        let config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        Ok(Self { config: Arc::new(config), pin: Some(pin) })
    }

    /// Whoever has a certificate for the name from a CA in `file`.
    pub(crate) fn ca(file: &Path) -> Result<Self, HttpError> {
        let wrong = |source| HttpError::Ca { path: file.to_owned(), source };
        let bytes = fs::read(file).map_err(wrong)?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&bytes) {
            roots.add(certificate.map_err(|error| wrong(io::Error::other(error)))?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        let verifier = verifier.map_err(|error| wrong(io::Error::other(error)))?;
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(Self { config: Arc::new(builder.with_webpki_verifier(verifier).with_no_client_auth()), pin: None })
    }

    /// Speaks TLS on `stream` with whoever calls itself `host`.
    pub(crate) fn wrap<S: Read + Write>(
        &self,
        stream: S,
        host: &str,
    ) -> Result<StreamOwned<ClientConnection, S>, HttpError> {
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).or(Err(HttpError::NoAddress))?;
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

/// A connection that is given up at one moment, whatever it waits for.
pub(crate) struct Timed {
    stream: TcpStream,
    until: Instant,
}

impl Timed {
    /// Connects to `host` and `port` before `until`.
    pub(crate) fn connect(host: &str, port: u16, until: Instant) -> Result<Self, HttpError> {
        let host = host.trim_matches(['[', ']']);
        let mut last = HttpError::NoAddress;
        for address in (host, port).to_socket_addrs().map_err(HttpError::Resolve)? {
            match TcpStream::connect_timeout(&address, left(until)?) {
                Ok(stream) => return Ok(Self { stream, until }),
                Err(error) => last = HttpError::Connect(error),
            }
        }
        Err(last)
    }
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(clock::instant());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.until)?))?;
        self.stream.read(buffer).map_err(timed_out)
    }
}

impl Write for Timed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(left(self.until)?))?;
        self.stream.write(buffer).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// The body of the answer to a GET, which has status 200 and at most `max` bytes, before `until`.
pub(crate) fn get(
    url: &Url,
    trust: Option<&Trust>,
    headers: &[(&str, &str)],
    max: usize,
    until: Instant,
) -> Result<Vec<u8>, HttpError> {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(80);
    let stream = Timed::connect(host, port, until)?;
    let authority = if url.port().is_some() { format!("{host}:{port}") } else { host.to_owned() };
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut request = format!("GET {}{query} HTTP/1.1\r\nHost: {authority}\r\n", url.path());
    for (name, value) in headers {
        request = format!("{request}{name}: {value}\r\n");
    }
    request += "User-Agent: veghe-agent\r\nConnection: close\r\n\r\n";
    if let Some(trust) = trust {
        exchange(trust.wrap(stream, host)?, &request, max)
    } else {
        exchange(stream, &request, max)
    }
}

fn exchange(mut stream: impl Read + Write, request: &str, max: usize) -> Result<Vec<u8>, HttpError> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    let mut head: Option<Head> = None;
    loop {
        if head.is_none()
            && let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n")
        {
            let found = Head::read(answer.get(..end).unwrap_or_default()).ok_or(HttpError::Malformed)?;
            // An interim answer: the real one follows.
            if (100..200).contains(&found.status) {
                answer.drain(..end + 4);
                continue;
            }
            if found.status != 200 {
                return Err(HttpError::Status(found.status));
            }
            answer.drain(..end + 4);
            head = Some(found);
        }
        if let Some(head) = &head {
            match head.body(&answer, max)? {
                Some(body) => return Ok(body),
                None if answer.len() > max * 2 + MAX_HEAD_BYTES => return Err(HttpError::TooLong { max }),
                None => {}
            }
        } else if answer.len() > MAX_HEAD_BYTES {
            return Err(HttpError::Malformed);
        }
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(piece.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Many devices end TLS without saying so.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error.into()),
        }
    }
    match head {
        Some(Head { length: Length::UntilEnd, .. }) if answer.len() <= max => Ok(answer),
        Some(Head { length: Length::UntilEnd, .. }) => Err(HttpError::TooLong { max }),
        _ => Err(HttpError::Io(io::ErrorKind::UnexpectedEof.into())),
    }
}

struct Head {
    status: u16,
    length: Length,
}

enum Length {
    Known(usize),
    Chunked,
    UntilEnd,
}

impl Head {
    fn read(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.split("\r\n");
        let first = lines.next()?;
        let status = first.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
        let mut length = Length::UntilEnd;
        for line in lines {
            let (name, value) = line.split_once(':')?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
                length = Length::Chunked;
            } else if name.eq_ignore_ascii_case("content-length") && !matches!(length, Length::Chunked) {
                length = Length::Known(value.parse().ok()?);
            }
        }
        Some(Self { status, length })
    }

    /// The body, once all of it is there.
    fn body(&self, bytes: &[u8], max: usize) -> Result<Option<Vec<u8>>, HttpError> {
        match self.length {
            Length::UntilEnd => {
                if bytes.len() > max {
                    Err(HttpError::TooLong { max })
                } else {
                    Ok(None)
                }
            }
            Length::Known(length) if length > max => Err(HttpError::TooLong { max }),
            Length::Known(length) => Ok(bytes.get(..length).map(<[u8]>::to_vec)),
            Length::Chunked => chunks(bytes, max),
        }
    }
}

fn chunks(bytes: &[u8], max: usize) -> Result<Option<Vec<u8>>, HttpError> {
    let mut body = Vec::new();
    let mut rest = bytes;
    loop {
        let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else {
            return if rest.len() > 64 { Err(HttpError::Malformed) } else { Ok(None) };
        };
        let (line, after) = rest.split_at(end);
        let line = std::str::from_utf8(line).or(Err(HttpError::Malformed))?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).or(Err(HttpError::Malformed))?;
        if size > max || body.len() + size > max {
            return Err(HttpError::TooLong { max });
        }
        if size == 0 {
            return Ok(Some(body));
        }
        let Some(chunk) = after.get(2..2 + size) else { return Ok(None) };
        let Some(after) = after.get(2 + size + 2..) else { return Ok(None) };
        body.extend_from_slice(chunk);
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes, some bytes at a time.
    struct Answer(&'static [u8], usize);

    impl Read for Answer {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            let (now, later) = self.0.split_at(count);
            buffer[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    impl Write for Answer {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            Ok(buffer.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn answers_of_every_length_are_read_in_pieces() {
        let told = |answer: &'static [u8]| {
            let outcomes = [1, 3, 4096].map(|piece| {
                exchange(Answer(answer, piece), "", 10)
                    .map_err(|error| error.to_string())
                    .map(|b| String::from_utf8(b).expect("text"))
            });
            assert_eq!(outcomes[0], outcomes[1]);
            assert_eq!(outcomes[0], outcomes[2]);
            outcomes[0].clone()
        };
        let ok = |body: &str| Ok(body.to_owned());
        assert_eq!(told(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd"), ok("abc"));
        assert_eq!(told(b"HTTP/1.0 200 OK\r\n\r\nabcd"), ok("abcd"));
        assert_eq!(told(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n"), ok("abc"));
        assert_eq!(told(b"HTTP/1.1 503 Busy\r\n\r\n"), Err("the status is 503".to_owned()));
        let long = Err("the answer has more than 10 bytes".to_owned());
        assert_eq!(told(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n"), long);
        assert_eq!(told(b"HTTP/1.1 200 OK\r\n\r\n01234567890"), long);
        assert_eq!(told(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n"), long);
        assert!(told(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab").is_err());
        assert_eq!(told(b"SSH-2.0-x\r\n\r\n"), Err("the answer is no HTTP".to_owned()));
    }
}

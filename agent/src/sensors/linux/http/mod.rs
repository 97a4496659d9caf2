//! One HTTP request at a time to a device, plain or by TLS, with a limit of time and bytes for all of it.
//!
//! Devices have certificates that nobody has signed. Theirs is taken at the first use, kept in the state directory, and
//! from then on nobody else's counts; where a CA is set, its certificates count and no others. Exporters are
//! trusted as Prometheus does: by the system's CAs, by one that is set, or whoever they are ([`Tls`]).
//! What it deliberately does not do: redirections, cookies, compression.

mod answer;
mod trust;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::{ClientConnection, Error, StreamOwned};
use url::Url;

use self::answer::{Reply, exchange};
pub(crate) use self::trust::{Tls, Trust};
use crate::clock;

/// A secret is a line; a longer file is another.
const MAX_SECRET_BYTES: u64 = 4096;

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
    #[error("cannot read the certificate or key in {}", path.display())]
    Identity { path: PathBuf, source: io::Error },
    #[error("cannot read the secret in {}", path.display())]
    Secret { path: PathBuf, source: io::Error },
    #[error("no CA is set, and the system has none in any of the known places")]
    NoCas,
    #[error("the answer is no HTTP")]
    Malformed,
    #[error("the answer has more than {max} bytes")]
    TooLong { max: usize },
    #[error("the status is {0}")]
    Status(u16),
    #[error("the certificate changed: its SHA-256 is {now} and was {before}; if that is right, remove {}", file.display())]
    CertificateChanged { now: String, before: String, file: PathBuf },
}

/// How the agent shows who it is. The secret is in a file, read anew for each visit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// A name, and the file with the password.
    Basic(String, PathBuf),
    /// The file with a bearer token.
    Bearer(PathBuf),
}

impl Login {
    /// The value of the header `Authorization`.
    pub(crate) fn header(&self) -> Result<String, HttpError> {
        Ok(match self {
            Self::Basic(name, file) => {
                format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{}", secret(file)?)))
            }
            Self::Bearer(file) => format!("Bearer {}", secret(file)?),
        })
    }
}

/// The one line of text in `file`.
fn secret(file: &Path) -> Result<String, HttpError> {
    let wrong = |source| HttpError::Secret { path: file.to_owned(), source };
    let length = fs::metadata(file).map_err(wrong)?.len();
    let text = if length > MAX_SECRET_BYTES { String::new() } else { fs::read_to_string(file).map_err(wrong)? };
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() || text.contains(['\r', '\n', '\0']) {
        return Err(wrong(io::Error::other(format!("it is not one line of at most {MAX_SECRET_BYTES} bytes"))));
    }
    Ok(text.to_owned())
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

/// The answer to a GET, which has status 200 and at most `max` bytes, before `until`.
pub(crate) fn get(
    url: &Url,
    trust: Option<&Trust>,
    headers: &[(&str, &str)],
    max: usize,
    until: Instant,
) -> Result<Reply, HttpError> {
    Visit::new(url, trust, until).ask(url, headers, max, Connection::Close)
}

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Connection {
    Keep,
    Close,
}

enum Line {
    Plain(Timed),
    Tls(Box<StreamOwned<ClientConnection, Timed>>),
}

/// Questions to one server, one after the other on as few connections as it takes, all before one moment.
pub(crate) struct Visit<'a> {
    server: &'a Url,
    trust: Option<&'a Trust>,
    until: Instant,
    line: Option<Line>,
}

impl<'a> Visit<'a> {
    /// Begins with nothing: the first question connects to the host and port of `server`, by TLS where there is `trust`.
    pub(crate) fn new(server: &'a Url, trust: Option<&'a Trust>, until: Instant) -> Self {
        Self { server, trust, until, line: None }
    }

    /// The answer to a GET of `path`, which has status 200 and at most `max` bytes.
    pub(crate) fn get(&mut self, path: &str, headers: &[(&str, &str)], max: usize) -> Result<Reply, HttpError> {
        let mut url = self.server.clone();
        url.set_path(path);
        let is_kept = self.line.is_some();
        match self.ask(&url, headers, max, Connection::Keep) {
            // It may have closed a connection that it kept.
            Err(HttpError::Io(_)) if is_kept => self.ask(&url, headers, max, Connection::Keep),
            answer => answer,
        }
    }

    fn ask(
        &mut self,
        url: &Url,
        headers: &[(&str, &str)],
        max: usize,
        connection: Connection,
    ) -> Result<Reply, HttpError> {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(80);
        let authority = if url.port().is_some() { format!("{host}:{port}") } else { host.to_owned() };
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let mut request = format!("GET {}{query} HTTP/1.1\r\nHost: {authority}\r\n", url.path());
        for (name, value) in headers {
            request = format!("{request}{name}: {value}\r\n");
        }
        request += if connection == Connection::Close { "Connection: close\r\n" } else { "" };
        request += "User-Agent: veghe-agent\r\n\r\n";
        // What fails in between leaves nothing to go on with.
        let mut line = if let Some(line) = self.line.take() {
            line
        } else {
            let stream = Timed::connect(host, port, self.until)?;
            match self.trust {
                Some(trust) => Line::Tls(Box::new(trust.wrap(stream, host)?)),
                None => Line::Plain(stream),
            }
        };
        let reply = match &mut line {
            Line::Plain(stream) => exchange(stream, &request, max),
            Line::Tls(stream) => exchange(&mut **stream, &request, max),
        }?;
        self.line = reply.is_kept.then_some(line);
        if reply.status == 200 { Ok(reply) } else { Err(HttpError::Status(reply.status)) }
    }
}

//! A plain HTTP/1.1 client for loopback, just enough to ask our own listeners.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use url::Url;

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header lines in the order received, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Response {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// A connection that takes one request after the other.
pub struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Connection {
    /// Connects to the host of `url`.
    ///
    /// # Errors
    /// Where nothing listens.
    pub fn open(url: &Url) -> anyhow::Result<Self> {
        let (host, port) = (url.host_str().context("url has no host")?, url.port_or_known_default().unwrap_or(80));
        let stream = TcpStream::connect((host, port)).with_context(|| format!("cannot connect to {url}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::with_capacity(256 << 10, stream), host: format!("{host}:{port}") })
    }

    /// Sends one request and reads the whole answer.
    ///
    /// # Errors
    /// Where nothing answers within 30 s, or the answer is not HTTP.
    pub fn request(
        &mut self,
        method: &str,
        url: &Url,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<Response> {
        let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.host);
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n")?;
        }
        write!(head, "Content-Length: {}\r\n\r\n", body.len())?;
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        self.stream.get_mut().write_all(&request)?;
        self.read_response().with_context(|| format!("cannot read the answer of {url}"))
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line)? > 0, "the answer is cut");
        Ok(line.trim_end().to_owned())
    }

    fn read_response(&mut self) -> anyhow::Result<Response> {
        let status = self.line()?.split(' ').nth(1).context("no status line")?.parse()?;
        let mut headers: Vec<(String, String)> = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let mut body = Vec::new();
        if header("transfer-encoding") == Some("chunked") {
            self.read_chunks(&mut body)?;
        } else if let Some(length) = header("content-length") {
            body = vec![0; length.parse()?];
            self.stream.read_exact(&mut body)?;
        } else if status != 204 && status != 304 {
            self.stream.read_to_end(&mut body)?;
        }
        let body = String::from_utf8(body).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
        Ok(Response { status, headers, body })
    }

    fn read_chunks(&mut self, body: &mut Vec<u8>) -> anyhow::Result<()> {
        loop {
            let size = usize::from_str_radix(&self.line()?, 16)?;
            let from = body.len();
            body.resize(from + size, 0);
            self.stream.read_exact(&mut body[from..])?;
            self.line()?;
            if size == 0 {
                return Ok(());
            }
        }
    }
}

/// Sends one request on a connection of its own and reads the whole answer.
///
/// # Errors
/// Where nothing listens, nothing answers within 30 s, or the answer is not HTTP.
pub fn request(method: &str, url: &Url, headers: &[(&str, &str)], body: &[u8]) -> anyhow::Result<Response> {
    let headers: Vec<(&str, &str)> = headers.iter().copied().chain([("Connection", "close")]).collect();
    Connection::open(url)?.request(method, url, &headers, body)
}

/// The body of a `GET` that must answer 200.
///
/// # Errors
/// As [`request`], and every other status.
pub fn get(url: &Url) -> anyhow::Result<String> {
    let response = request("GET", url, &[], &[])?;
    if response.status != 200 {
        bail!("{url} answers {}: {}", response.status, response.body);
    }
    Ok(response.body)
}

/// The `data.result` of an instant query.
///
/// # Errors
/// As [`get`], and where the answer is not Prometheus' JSON.
pub fn query(ops: &Url, expr: &str) -> anyhow::Result<Vec<Value>> {
    let mut url = ops.join("/api/v1/query")?;
    url.query_pairs_mut().append_pair("query", expr);
    let answer: Value = serde_json::from_str(&get(&url)?)?;
    match &answer["data"]["result"] {
        Value::Array(result) => Ok(result.clone()),
        _ => bail!("no result in {answer}"),
    }
}

/// The single value of an instant query, if there is exactly one series.
///
/// # Errors
/// As [`query`].
pub fn query_one(ops: &Url, expr: &str) -> anyhow::Result<Option<f64>> {
    let result = query(ops, expr)?;
    let [series] = result.as_slice() else { return Ok(None) };
    Ok(series["value"][1].as_str().and_then(|text| text.parse().ok()))
}

//! A plain HTTP/1.1 client for loopback, just enough to ask our own listeners.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, bail};
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

/// Sends one request and reads the whole answer.
///
/// # Errors
/// Where nothing listens, nothing answers within 30 s, or the answer is not HTTP.
pub fn request(method: &str, url: &Url, headers: &[(&str, &str)], body: &[u8]) -> anyhow::Result<Response> {
    let (host, port) = (url.host_str().context("url has no host")?, url.port_or_known_default().unwrap_or(80));
    let mut stream = TcpStream::connect((host, port)).with_context(|| format!("cannot connect to {url}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n")?;
    }
    write!(head, "Content-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).with_context(|| format!("cannot read the answer of {url}"))?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").context("the answer has no head")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next().and_then(|l| l.split(' ').nth(1)).context("no status line")?.parse()?;
    let headers: Vec<(String, String)> =
        lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
    let mut body = answer[end + 4..].to_vec();
    if headers.iter().any(|(n, v)| n == "transfer-encoding" && v == "chunked") {
        body = unchunk(&body)?;
    }
    Ok(Response { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
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

fn unchunk(mut rest: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n").context("a chunk has no size")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end])?.trim(), 16)?;
        rest = rest.get(end + 2..).context("a chunk is cut")?;
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(rest.get(..size).context("a chunk is cut")?);
        rest = rest.get(size + 2..).context("a chunk is cut")?;
    }
}

//! Answers packed with zstd, gzip or deflate where a client takes that, piece by piece as they are written.
//!
//! Invariant: a packed answer takes the memory of one piece and of the packer, however large it is. What it deliberately
//! does not do: pack what is short, packed already, or a stream of events, whose pieces must leave at once.

use std::io::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use flate2::write::{GzEncoder, ZlibEncoder};
use hyper::body::{Body as HttpBody, Frame};

/// Below this the packing costs more than it saves.
const LEAST_BYTES: u64 = 1024;
/// From this size on a packed piece is sent.
const PIECE_BYTES: usize = 16 << 10;
/// The fastest that still takes JSON to a tenth.
const DEFLATE_LEVEL: u32 = 3;
/// See [`DEFLATE_LEVEL`].
const ZSTD_LEVEL: i32 = 3;

/// `router` with its answers packed.
pub(super) fn around(router: Router) -> Router {
    router.layer(from_fn(pack))
}

/// Of equals the last is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Coding {
    /// Within zlib's frame, as HTTP means it (RFC 9110, 8.4.1.2).
    Deflate,
    Gzip,
    Zstd,
}

impl Coding {
    fn name(self) -> &'static str {
        match self {
            Self::Deflate => "deflate",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

async fn pack(request: Request, next: Next) -> Response {
    let coding = accepted(request.headers());
    let mut response = next.run(request).await;
    if !is_worth_it(&response) {
        return response;
    }
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
    match coding.map(|coding| (coding, Packer::new(coding))) {
        Some((coding, Ok(packer))) => {
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
            response.headers_mut().remove(header::CONTENT_LENGTH);
            response.map(|body| Body::new(Packed { body, packer: Some(packer) }))
        }
        // No memory for a packer: it goes unpacked.
        Some((_, Err(_))) | None => response,
    }
}

fn is_worth_it(response: &Response) -> bool {
    let headers = response.headers();
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let is_text = kind.starts_with("text/") || kind.starts_with("application/json");
    let is_short = response.body().size_hint().upper().is_some_and(|bytes| bytes < LEAST_BYTES);
    is_text && !is_short && !kind.starts_with("text/event-stream") && !headers.contains_key(header::CONTENT_ENCODING)
}

/// The best coding that both sides know: the one with the greatest weight.
fn accepted(headers: &HeaderMap) -> Option<Coding> {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let offers = values.flat_map(|value| value.split(',')).filter_map(|offer| {
        let mut parts = offer.split(';').map(str::trim);
        let coding = match parts.next()?.to_ascii_lowercase().as_str() {
            "deflate" => Coding::Deflate,
            "gzip" | "x-gzip" => Coding::Gzip,
            "zstd" => Coding::Zstd,
            _ => return None,
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse::<f64>).ok()?;
        (weight > 0.0).then_some((weight, coding))
    });
    offers.max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))).map(|(_, coding)| coding)
}

enum Packer {
    Deflate(ZlibEncoder<Vec<u8>>),
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Packer {
    fn new(coding: Coding) -> io::Result<Self> {
        let level = flate2::Compression::new(DEFLATE_LEVEL);
        Ok(match coding {
            Coding::Deflate => Self::Deflate(ZlibEncoder::new(Vec::new(), level)),
            Coding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), level)),
            Coding::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?),
        })
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        match self {
            Self::Deflate(encoder) => encoder.write_all(piece),
            Self::Gzip(encoder) => encoder.write_all(piece),
            Self::Zstd(encoder) => encoder.write_all(piece),
        }
    }

    fn packed(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Deflate(encoder) => encoder.get_mut(),
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Deflate(encoder) => encoder.finish(),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

struct Packed {
    body: Body,
    /// Nothing once the end is packed.
    packer: Option<Packer>,
}

impl HttpBody for Packed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        loop {
            let this = &mut *self;
            let Some(packer) = &mut this.packer else { return Poll::Ready(None) };
            match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers have no place behind a packed body, and no answer here has any.
                    let Ok(piece) = frame.into_data() else { continue };
                    if let Err(error) = packer.write(&piece) {
                        return Poll::Ready(Some(Err(axum::Error::new(error))));
                    }
                    let packed = packer.packed();
                    if packed.len() >= PIECE_BYTES {
                        return Poll::Ready(Some(Ok(Frame::data(std::mem::take(packed).into()))));
                    }
                }
                Poll::Ready(None) => {
                    let last = this.packer.take().map(Packer::finish).transpose().map_err(axum::Error::new);
                    return Poll::Ready(last.map(|last| last.map(|bytes| Frame::data(bytes.into()))).transpose());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_str(value).expect("header"))])
    }

    #[test]
    fn the_client_chooses_and_zstd_is_the_best_of_equals() {
        for (value, coding) in [
            ("gzip", Some(Coding::Gzip)),
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("zstd;q=0.5, gzip;q=0.9", Some(Coding::Gzip)),
            ("deflate, gzip", Some(Coding::Gzip)),
            ("deflate", Some(Coding::Deflate)),
            ("gzip;q=0", None),
            ("identity", None),
            ("br", None),
            ("gzip;q=x", None),
            ("", None),
        ] {
            assert_eq!(accepted(&headers(value)), coding, "{value}");
        }
    }

    #[tokio::test]
    async fn a_long_answer_is_packed_in_pieces_and_a_short_one_is_not() {
        use tower::ServiceExt as _;
        let long: String = (0..200_000_u64).flat_map(|i| [(i * i % 977).to_string(), ",".to_owned()]).collect();
        let text = long.clone();
        let routes = Router::new()
            .route("/long", axum::routing::get(async move || text))
            .route("/short", axum::routing::get(async || "short"))
            .route(
                "/events",
                axum::routing::get(async || ([(header::CONTENT_TYPE, "text/event-stream")], "x".repeat(5000))),
            );
        let router = around(routes);
        let ask = async |path: &str, coding: &str| {
            let request = Request::get(path).header(header::ACCEPT_ENCODING, coding).body(Body::empty());
            router.clone().oneshot(request.expect("request")).await.expect("answer")
        };
        for coding in ["deflate", "gzip", "zstd"] {
            let response = ask("/long", coding).await;
            assert_eq!(response.headers()[header::CONTENT_ENCODING], coding);
            assert_eq!(response.headers()[header::VARY], "accept-encoding");
            let packed = response.into_body().collect().await.expect("body").to_bytes();
            assert!(packed.len() < long.len());
            let mut unpacked = String::new();
            let unpack: &mut dyn std::io::Read = match coding {
                "deflate" => &mut flate2::read::ZlibDecoder::new(&*packed),
                "gzip" => &mut flate2::read::GzDecoder::new(&*packed),
                _ => &mut zstd::Decoder::new(&*packed).expect("zstd"),
            };
            unpack.read_to_string(&mut unpacked).expect("text");
            assert_eq!(unpacked, long);
        }
        for (path, coding) in [("/short", "gzip"), ("/events", "gzip"), ("/long", "br")] {
            assert!(!ask(path, coding).await.headers().contains_key(header::CONTENT_ENCODING), "{path}");
        }
    }
}

//! The public status pages and their JSON: rendered once per snapshot, served from memory.
//!
//! Invariants: a request causes no query and, for a known snapshot, no rendering; no cookie, no script, nothing from
//! elsewhere. What it deliberately does not do: decide states (`status`), bind sockets, `/-/healthy` (`web::serve`).

mod page;
mod summary;
pub(in crate::web) mod text;

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};

use self::text::Language;
use crate::status::{Snapshot, StatusHandle};

/// No script, no frame, nothing from other hosts.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; \
                                       form-action 'none'; frame-ancestors 'none'";
/// Half of the time between evaluations: a cache shows nothing that is much older than the page itself.
const PAGE_CACHING: &str = "public, max-age=15";
/// The address of the style sheet changes with its content.
const STYLE_CACHING: &str = "public, max-age=31536000, immutable";
const STYLE: &str = include_str!("public.css");

/// Something finished, ready to be sent.
#[derive(Clone)]
struct Document {
    content_type: &'static str,
    caching: &'static str,
    etag: HeaderValue,
    body: axum::body::Bytes,
}

impl Document {
    fn new(content_type: &'static str, caching: &'static str, body: String) -> Self {
        let etag = HeaderValue::from_str(&format!("\"{}\"", digest(&body)));
        let etag = etag.expect("invariant: hexadecimal digits are a header value");
        Self { content_type, caching, etag, body: body.into() }
    }

    /// The document, or 304 where the client has it already (RFC 9110, 13.1.2).
    fn respond(&self, request: &HeaderMap) -> Response {
        let ours = self.etag.as_bytes();
        let has_it = request.get_all(header::IF_NONE_MATCH).iter().any(|value| {
            let tags = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            tags.map(|tag| tag.strip_prefix(b"W/").unwrap_or(tag)).any(|tag| tag == b"*" || tag == ours)
        });
        let caching =
            [(header::ETAG, self.etag.clone()), (header::CACHE_CONTROL, HeaderValue::from_static(self.caching))];
        if has_it {
            return (StatusCode::NOT_MODIFIED, caching).into_response();
        }
        let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type))];
        (caching, content_type, self.body.clone()).into_response()
    }
}

/// Eight bytes of SHA-256 in hexadecimal: enough to tell versions of one document apart.
fn digest(body: &str) -> String {
    let hash = Sha256::digest(body.as_bytes());
    let head: [u8; 8] = std::array::from_fn(|i| hash[i]);
    format!("{:016x}", u64::from_be_bytes(head))
}

/// Everything that is made of one snapshot.
struct Rendered {
    generation: u64,
    pages: [Document; 2],
    summary: Document,
    status: Document,
    components: Document,
}

impl Rendered {
    fn new(snapshot: &Snapshot, stylesheet: &str) -> Self {
        let html = |language| {
            Document::new("text/html; charset=utf-8", PAGE_CACHING, page::status(snapshot, language, stylesheet))
        };
        let json = |value: serde_json::Value| Document::new("application/json", PAGE_CACHING, value.to_string());
        Self {
            generation: snapshot.generation,
            pages: Language::ALL.map(html),
            summary: json(summary::summary(snapshot)),
            status: json(summary::status(snapshot)),
            components: json(summary::components(snapshot)),
        }
    }
}

struct Site {
    status: StatusHandle,
    stylesheet: String,
    style: Document,
    lost: [String; 2],
    rendered: Mutex<Option<Arc<Rendered>>>,
}

impl Site {
    /// The documents of the newest snapshot. The first request after a new snapshot renders them; others wait for it.
    fn rendered(&self) -> Arc<Rendered> {
        let snapshot = self.status.snapshot();
        let mut rendered = self.rendered.lock().unwrap_or_else(PoisonError::into_inner);
        match &*rendered {
            Some(known) if known.generation >= snapshot.generation => Arc::clone(known),
            _ => {
                let new = Arc::new(Rendered::new(&snapshot, &self.stylesheet));
                *rendered = Some(Arc::clone(&new));
                new
            }
        }
    }
}

/// The public site: `/`, `/ro`, `/en`, `/api/v2/{summary,status,components}.json`, the style sheet and a page for
/// every other path. It has a fallback: merge other routes into it, not it into a router with a fallback.
pub fn router(status: StatusHandle) -> Router {
    let stylesheet = format!("/public-{}.css", digest(STYLE));
    let site = Arc::new(Site {
        status,
        style: Document::new("text/css; charset=utf-8", STYLE_CACHING, STYLE.to_owned()),
        lost: Language::ALL.map(|language| page::not_found(language, &stylesheet)),
        rendered: Mutex::new(None),
        stylesheet: stylesheet.clone(),
    });
    Router::new()
        .route("/", get(root))
        .route(
            "/ro",
            get(async |Shared(site): Shared<Arc<Site>>, headers: HeaderMap| page(&site, Language::Romanian, &headers)),
        )
        .route(
            "/en",
            get(async |Shared(site): Shared<Arc<Site>>, headers: HeaderMap| page(&site, Language::English, &headers)),
        )
        // Some write the address with a slash at its end.
        .route("/ro/", get(async || Redirect::permanent("/ro")))
        .route("/en/", get(async || Redirect::permanent("/en")))
        .route(super::icon::PATH, get(super::icon::show))
        .route(
            "/api/v2/summary.json",
            get(async |Shared(site): Shared<Arc<Site>>, headers: HeaderMap| {
                open_to_all(site.rendered().summary.respond(&headers))
            }),
        )
        .route(
            "/api/v2/status.json",
            get(async |Shared(site): Shared<Arc<Site>>, headers: HeaderMap| {
                open_to_all(site.rendered().status.respond(&headers))
            }),
        )
        .route(
            "/api/v2/components.json",
            get(async |Shared(site): Shared<Arc<Site>>, headers: HeaderMap| {
                open_to_all(site.rendered().components.respond(&headers))
            }),
        )
        .route(
            &stylesheet,
            get(async |Shared(site): Shared<Arc<Site>>, headers: HeaderMap| site.style.respond(&headers)),
        )
        .fallback(lost)
        .layer(map_response(secured))
        .with_state(site)
}

fn page(site: &Site, language: Language, headers: &HeaderMap) -> Response {
    let mut response = site.rendered().pages[language as usize].respond(headers);
    response.headers_mut().insert(header::CONTENT_LANGUAGE, HeaderValue::from_static(language.tag()));
    response
}

async fn root(headers: HeaderMap) -> Response {
    let language = preferred(&headers);
    let caching = [
        (header::VARY, HeaderValue::from_static("accept-language")),
        (header::CACHE_CONTROL, HeaderValue::from_static(PAGE_CACHING)),
    ];
    (caching, Redirect::temporary(&format!("/{}", language.tag()))).into_response()
}

async fn lost(Shared(site): Shared<Arc<Site>>, uri: Uri, headers: HeaderMap) -> Response {
    let by_path = Language::ALL.into_iter().find(|language| uri.path().split('/').nth(1) == Some(language.tag()));
    let language = by_path.unwrap_or_else(|| preferred(&headers));
    let head = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_LANGUAGE, HeaderValue::from_static(language.tag())),
        (header::VARY, HeaderValue::from_static("accept-language")),
        (header::CACHE_CONTROL, HeaderValue::from_static(PAGE_CACHING)),
    ];
    (StatusCode::NOT_FOUND, head, site.lost[language as usize].clone()).into_response()
}

fn preferred(headers: &HeaderMap) -> Language {
    let header = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
    Language::negotiate(header.unwrap_or(""))
}

/// The JSON is public and asks for no sign-in: pages of other sites may read it.
fn open_to_all(mut response: Response) -> Response {
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

async fn secured(mut response: Response) -> Response {
    let fixed: [(HeaderName, &'static str); 5] = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests;

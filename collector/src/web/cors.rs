//! Which pages of other origins may read the API, as Prometheus' `--web.cors.origin` says it.
//!
//! Invariant: none may unless the configuration names them. Reads of a loopback listener need no credential, so a
//! pattern that takes every origin lets every page that somebody on this machine opens read everything. What it
//! deliberately does not do: cookies, of which the API has none.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};

/// Origins that may read the API.
#[derive(Clone, Debug)]
pub struct Origins {
    pattern: String,
    regex: regex::Regex,
}

impl Origins {
    /// The origins that `pattern`, a regular expression, matches whole.
    ///
    /// # Errors
    /// What is wrong with the pattern.
    pub fn parse(pattern: &str) -> Result<Self, String> {
        let regex = regex::Regex::new(&format!("^(?s:{pattern})$"));
        let regex = regex.map_err(|error| format!("is no regular expression: {error}"))?;
        Ok(Self { pattern: pattern.to_owned(), regex })
    }

    /// As written.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// The `Access-Control-Allow-Origin` for a request.
    fn allow(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        if self.pattern == ".*" {
            return Some(HeaderValue::from_static("*"));
        }
        origin.to_str().is_ok_and(|origin| self.regex.is_match(origin)).then(|| origin.clone())
    }
}

/// In a request's extensions where its origin may read the API with it, whatever its method.
#[derive(Clone, Copy)]
pub(super) struct AllowedOrigin;

const PREFIX: &str = "/api/v1/";

/// What is read by POST, below [`PREFIX`]. Nothing else loses its guard against writes from other sites: a browser
/// that has signed in would send its password along.
const READ_BY_POST: &[&str] =
    &["query", "query_range", "series", "labels", "query_exemplars", "format_query", "parse_query", "read"];

/// `router` with the headers on its API, and an answer to the questions that browsers ask before.
pub(super) fn around(router: Router, origins: Option<Origins>) -> Router {
    router.layer(from_fn_with_state(Arc::new(origins), answer))
}

async fn answer(State(origins): State<Arc<Option<Origins>>>, mut request: Request, next: Next) -> Response {
    let Some(route) = request.uri().path().strip_prefix(PREFIX) else {
        return next.run(request).await;
    };
    let reads = READ_BY_POST.contains(&route);
    let allowed = origins.as_ref().as_ref().and_then(|origins| origins.allow(request.headers()));
    let mut response = if request.method() == Method::OPTIONS {
        // A browser asks without credentials.
        StatusCode::NO_CONTENT.into_response()
    } else {
        if allowed.is_some() && reads {
            request.extensions_mut().insert(AllowedOrigin);
        }
        next.run(request).await
    };
    if origins.is_some() {
        response.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
    }
    if let Some(origin) = allowed {
        const FIXED: [(HeaderName, &str); 4] = [
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "Accept, Authorization, Content-Type, Origin"),
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Date"),
            (HeaderName::from_static("cross-origin-resource-policy"), "cross-origin"),
        ];
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        for (name, value) in FIXED {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(pattern: &str, origin: &str) -> Option<String> {
        let headers = HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_str(origin).expect("header"))]);
        let value = Origins::parse(pattern).expect("pattern").allow(&headers)?;
        Some(value.to_str().expect("text").to_owned())
    }

    #[test]
    fn a_pattern_matches_whole_origins() {
        let pattern = r"https?://(grafana|wiki)\.example\.org";
        let origin = "https://grafana.example.org";
        assert_eq!(allow(pattern, origin).as_deref(), Some(origin));
        for other in ["https://grafana.example.org.evil.example", "https://evil.example", "null"] {
            assert_eq!(allow(pattern, other), None, "{other}");
        }
        assert_eq!(allow(".*", "https://evil.example").as_deref(), Some("*"));
        assert!(Origins::parse("(").expect_err("unbalanced").starts_with("is no regular expression"));
    }
}

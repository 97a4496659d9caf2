//! Why a request gets nothing, for whoever asked: `{code, message}` for programs, a page with a way on for people.
//!
//! Invariant: whatever fails below a page's address is a page, with the status and the headers that it has for programs;
//! below an API's address it never is. What it deliberately does not do: tell causes; they are for the log.

use askama::Template;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::json;

use super::digitization::{Words, html, in_other_language, language, stage_choice};
use super::public::text::Language;

/// Why a request gets nothing: `{code, message}` outside; what caused it is for the log.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    told: Box<Told>,
    header: Option<(HeaderName, HeaderValue)>,
}

/// What a refusal tells. In the extensions of its response, for [`as_pages`].
#[derive(Clone, Debug)]
struct Told {
    code: &'static str,
    message: String,
    /// What is wrong with which field.
    problems: Vec<(String, String)>,
    /// The same for a person, in each language.
    words: Option<[String; 2]>,
    /// Where a person finds more: an address below this host, and what is there.
    more: Option<(String, [String; 2])>,
}

impl Refusal {
    /// A refusal with `status`; `code` is for programs and stays, `message` is for people.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let told = Told { code, message: message.into(), problems: Vec::new(), words: None, more: None };
        Self { status, told: Box::new(told), header: None }
    }

    /// 400 with every problem by the name of its field.
    pub(super) fn of_fields(problems: &[(String, String)]) -> Self {
        let message: Vec<String> = problems.iter().map(|(field, message)| format!("{field}: {message}")).collect();
        let mut refusal = Self::new(StatusCode::BAD_REQUEST, "invalid_parameters", message.join("; "));
        refusal.told.problems = problems.to_vec();
        refusal
    }

    /// The same with a header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    /// The same with what a page says of it.
    #[must_use]
    pub(super) fn in_words(mut self, words: impl Fn(Language) -> String) -> Self {
        self.told.words = Some(Language::ALL.map(words));
        self
    }

    /// The same with a link to more; the address has no language.
    #[must_use]
    pub(super) fn with_more(mut self, address: String, words: impl Fn(Language) -> String) -> Self {
        self.told.more = Some((address, Language::ALL.map(words)));
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let told = &self.told;
        let mut body = json!({ "code": told.code, "message": told.message });
        if !told.problems.is_empty() {
            let problem = |(field, message): &(String, String)| json!({ "field": field, "message": message });
            body["errors"] = told.problems.iter().map(problem).collect();
        }
        let mut response = (self.status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response.extensions_mut().insert(*self.told);
        response
    }
}

/// The addresses that programs ask; all others may be a person's.
const FOR_PROGRAMS: [&str; 5] = ["/v1", "/api", "/-", "/metrics", "/federate"];
/// The addresses of pages.
const FOR_PEOPLE: &str = "/digitization";

/// Whether a person reads the answer: only browsers ask for HTML by its name, and who asks for a page without saying what
/// it takes gets a page.
fn is_for_a_person(uri: &Uri, headers: &HeaderMap) -> bool {
    let path = uri.path();
    let is_below =
        |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let takes = |kind: &str| {
        let mut values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.contains(kind))
    };
    let is_page = is_below(FOR_PEOPLE) && !path.rsplit('/').next().unwrap_or("").contains('.');
    !FOR_PROGRAMS.into_iter().any(is_below) && (takes("text/html") || is_page && !takes("json"))
}

/// `router` with a page in place of whatever it refuses to a person.
pub(super) fn as_pages(router: Router) -> Router {
    router.layer(from_fn(answer))
}

async fn answer(request: Request, next: Next) -> Response {
    if !is_for_a_person(request.uri(), request.headers()) {
        return next.run(request).await;
    }
    let query = request.uri().query().map(str::to_owned);
    let w = language(query.as_deref(), request.headers());
    // The answer to a form has no address of its own.
    let same = request.method().is_safe().then(|| in_other_language(query.as_deref(), w));
    let response = next.run(request).await;
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if !status.is_client_error() && !status.is_server_error() || kind.is_some_and(|kind| kind.starts_with("text/html"))
    {
        return response;
    }
    let (mut head, _) = response.into_parts();
    let told = head.extensions.remove::<Told>();
    let mut page = html(&page(status, told, same, w), w, status);
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::VARY] {
        head.headers.remove(name);
    }
    // What else it says stays: how to sign in, when to try again.
    for (name, value) in &head.headers {
        page.headers_mut().insert(name, value.clone());
    }
    page
}

#[derive(Template)]
#[template(path = "digitization/refusal.html")]
struct RefusalPage {
    w: Words,
    project: String,
    title: String,
    text: String,
    problems: Vec<(String, String)>,
    more: Option<(String, String)>,
    same: Option<String>,
    is_search: bool,
    stage_choice: Vec<(&'static str, String)>,
}

fn page(status: StatusCode, told: Option<Told>, same: Option<String>, w: Words) -> RefusalPage {
    let kind = match status.as_u16() {
        known @ (400 | 401 | 403 | 404 | 405 | 413 | 421 | 429 | 503) => known,
        code if code < 500 => 400,
        _ => 500,
    };
    let title = if kind == 404 { w.t("not-found-title") } else { w.t(&format!("refused-{kind}-title")) };
    let text = match told.as_ref().map(|told| (told.code, &told.words)) {
        Some((_, Some(words))) => words[w.0 as usize].clone(),
        Some(("cross_site", None)) => w.t("refused-cross-site"),
        _ if kind == 404 => w.t("not-found"),
        _ => w.t(&format!("refused-{kind}")),
    };
    let (problems, more) = match told {
        // In words already.
        Some(Told { words: Some(_), more, .. }) => (Vec::new(), more),
        Some(Told { problems, more, .. }) => (problems, more),
        None => (Vec::new(), None),
    };
    RefusalPage {
        w,
        // Who is not signed in learns no name of a project.
        project: w.t("digi-navigation"),
        title,
        text,
        problems,
        more: more.map(|(address, words)| (format!("{address}lang={}", w.tag()), words[w.0 as usize].clone())),
        same,
        is_search: kind == 404,
        stage_choice: stage_choice(w),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn people_get_pages_and_programs_json() {
        let is_page = |path: &'static str, accept: &'static str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            is_for_a_person(&Uri::from_static(path), &headers)
        };
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for page in
            ["/", "/digitization", "/digitization/units/X-1?lang=ro", "/nothing", "/digitization/figure.csv?of=x"]
        {
            assert!(is_page(page, browser), "{page}");
        }
        assert!(is_page("/digitization/units/X-1", "*/*") && !is_page("/digitization/units/X-1", "application/json"));
        for other in ["/", "/nothing", "/digitization/figure.csv", "/digitizations"] {
            assert!(!is_page(other, "*/*"), "{other}");
        }
        for api in
            ["/v1/digitization/units/X-1", "/v1", "/api/v1/query", "/metrics", "/-/reload", "/federate?match[]=up"]
        {
            assert!(!is_page(api, browser), "{api}");
        }
    }
}

//! The public pages as visitors, caches and programs see them.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use jiff::tz::TimeZone;
use tower::ServiceExt as _;
use veghe_model::Timestamp;

use super::*;
use crate::status::{History, Localized, Observed, Settings, State, snapshot};

/// 23 November 2026, 13:05 in Bucharest.
const NOW: Timestamp = Timestamp(1_795_431_900_000);

fn text(ro: &str, en: &str) -> Localized {
    Localized { ro: ro.to_owned(), en: en.to_owned() }
}

fn settings() -> Settings {
    Settings {
        name: text("Arhiva Județului Vâlcea", "Vâlcea County Archive"),
        url: "https://stare.exemplu.ro".to_owned(),
        time_zone: TimeZone::get("Europe/Bucharest").expect("time zone"),
        ..Settings::default()
    }
}

/// A component in each state, each with a day in which that state came up.
fn every_state(states: &[State]) -> Snapshot {
    let mut history = History::new(Duration::from_secs(75));
    let names = [
        ("search", "Căutare în arhivă", "Archive search", State::Operational),
        ("viewer", "Vizualizare documente", "Document viewer", State::Degraded),
        ("scan", "Ateliere de digitizare", "Digitization workshops", State::PartialOutage),
        ("mail", "Poștă electronică", "E-mail", State::MajorOutage),
        ("backup", "Copii de siguranță", "Backups", State::Maintenance),
        ("nas", "archive-nas-1", "archive-nas-1", State::Unknown),
    ];
    let mut observed = Vec::new();
    for (i, (id, ro, en, state)) in names.into_iter().enumerate().filter(|(_, name)| states.contains(&name.3)) {
        for minute in 0..=1440_i64 {
            let seen = match minute {
                0..=200 => State::Unknown,
                600..=620 if state != State::Operational => state,
                1380.. => state,
                _ => State::Operational,
            };
            history.observe(id, Timestamp(NOW.0 - (1440 - minute) * 60_000), seen);
        }
        observed.push(Observed {
            id: id.to_owned(),
            name: text(ro, en),
            description: (i == 0)
                .then(|| text("Catalogul public <și> inventarele", "The public catalogue <and> inventories")),
            group: (i > 3).then(|| text("Infrastructură", "Infrastructure")),
            state,
        });
    }
    snapshot(&settings(), 7, NOW, false, observed, &history)
}

fn site(snapshot: Snapshot) -> Router {
    router(StatusHandle::new(snapshot))
}

async fn ask(site: &Router, path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, String) {
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = site.clone().oneshot(request.body(Body::empty()).expect("request")).await.expect("response");
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, 1 << 20).await.expect("body");
    (parts.status, parts.headers, String::from_utf8(body.to_vec()).expect("text"))
}

#[tokio::test]
async fn both_pages_show_every_state_in_words() {
    let site = site(every_state(&State::ALL));
    for language in ["ro", "en"] {
        let (status, headers, html) = ask(&site, &format!("/{language}"), &[]).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers[header::CACHE_CONTROL], "public, max-age=15");
        assert!(headers[header::CONTENT_SECURITY_POLICY].to_str().expect("text").starts_with("default-src 'none';"));
        assert!(html.len() < 30_000, "{} bytes", html.len());
        assert!(!html.contains("<script") && !html.contains(" style="));
        let style = format!("/public-{}.css", digest(STYLE));
        insta::assert_snapshot!(format!("status_{language}"), html.replace(&style, "/public.css"));
        assert_eq!(ask(&site, &style, &[]).await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn all_is_well_is_said_in_both_languages() {
    let site = site(every_state(&[State::Operational]));
    assert!(ask(&site, "/ro", &[]).await.2.contains("<h1>Toate sistemele funcționează</h1>"));
    assert!(ask(&site, "/en", &[]).await.2.contains("<h1>All systems operational</h1>"));
}

#[tokio::test]
async fn a_collector_that_has_just_started_is_checking_and_not_down() {
    let history = History::new(Duration::from_secs(75));
    let site = site(snapshot(&settings(), 0, NOW, true, Vec::new(), &history));
    assert!(ask(&site, "/ro", &[]).await.2.contains("<h1>Aflăm starea sistemelor</h1>"));
    assert!(ask(&site, "/en", &[]).await.2.contains("<h1>Checking the systems</h1>"));
}

#[tokio::test]
async fn a_page_that_the_client_has_is_not_sent_again() {
    let handle = StatusHandle::new(every_state(&[State::Operational]));
    let site = router(handle.clone());
    let (_, headers, _) = ask(&site, "/en", &[]).await;
    let etag = headers[header::ETAG].to_str().expect("text");
    let (status, again, body) = ask(&site, "/en", &[("if-none-match", &format!("\"x\", W/{etag}"))]).await;
    assert_eq!((status, body.as_str()), (StatusCode::NOT_MODIFIED, ""));
    assert_eq!(again[header::ETAG], headers[header::ETAG]);
    let mut next = every_state(&[State::MajorOutage]);
    next.generation += 1;
    handle.publish(next);
    let (status, _, html) = ask(&site, "/en", &[("if-none-match", etag)]).await;
    assert_eq!(status, StatusCode::OK);
    assert!(html.contains("<h1>The systems are down</h1>"));
}

#[tokio::test]
async fn the_root_leads_to_the_preferred_language_and_sets_no_cookie() {
    let site = site(every_state(&[]));
    let (status, headers, _) = ask(&site, "/", &[("accept-language", "en-GB,en;q=0.9,ro;q=0.1")]).await;
    assert_eq!(
        (status, &headers[header::LOCATION]),
        (StatusCode::TEMPORARY_REDIRECT, &HeaderValue::from_static("/en"))
    );
    assert_eq!(headers[header::VARY], "accept-language");
    assert!(!headers.contains_key(header::SET_COOKIE));
    assert_eq!(ask(&site, "/", &[]).await.1[header::LOCATION], "/ro");
}

#[tokio::test]
async fn an_unknown_path_is_answered_in_the_language_of_its_beginning() {
    let site = site(every_state(&[]));
    let (status, headers, html) = ask(&site, "/en/nothing", &[("accept-language", "ro")]).await;
    assert_eq!((status, &headers[header::CONTENT_LANGUAGE]), (StatusCode::NOT_FOUND, &HeaderValue::from_static("en")));
    assert!(html.contains("Page not found") && html.contains("Pagina nu există"));
}

#[tokio::test]
async fn a_slash_at_the_end_leads_to_the_page_and_the_icon_is_our_own() {
    let site = site(every_state(&[]));
    for language in ["ro", "en"] {
        let (status, headers, _) = ask(&site, &format!("/{language}/"), &[]).await;
        assert_eq!(status, StatusCode::PERMANENT_REDIRECT);
        assert_eq!(headers[header::LOCATION], format!("/{language}"));
    }
    let (status, headers, body) = ask(&site, "/favicon.svg", &[]).await;
    assert_eq!((status, &headers[header::CONTENT_TYPE]), (StatusCode::OK, &HeaderValue::from_static("image/svg+xml")));
    assert!(body.starts_with("<svg"));
}

#[tokio::test]
async fn json_has_the_form_of_statuspage() {
    let site = site(every_state(&State::ALL));
    for name in ["summary", "status", "components"] {
        let (status, headers, body) = ask(&site, &format!("/api/v2/{name}.json"), &[]).await;
        assert_eq!(
            (status, &headers[header::CONTENT_TYPE]),
            (StatusCode::OK, &HeaderValue::from_static("application/json"))
        );
        let value: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        insta::assert_snapshot!(name, serde_json::to_string_pretty(&value).expect("JSON"));
    }
}

#[tokio::test]
async fn a_real_listener_serves_the_page() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let address = listener.local_addr().expect("address");
    let tasks = tokio_util::task::TaskTracker::new();
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let server = axum::serve(listener, site(every_state(&State::ALL))).with_graceful_shutdown(stopped);
    tasks.spawn(async move { server.await.expect("server") });
    let answer = get_page(address).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("archive-nas-1"), "{answer}");
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

async fn get_page(address: std::net::SocketAddr) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connection");
    stream.write_all(b"GET /ro HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answer");
    answer
}

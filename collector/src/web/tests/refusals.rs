//! What is refused, as people and as programs see it.

use super::*;

const BROWSER: (&str, &str) = ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8");

/// The page that must have come, with its status.
fn page(answer: &Answer, status: u16, language: &str) -> String {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.head.contains("content-type: text/html; charset=utf-8"), "{answer:?}");
    assert!(
        answer.head.contains("cache-control: no-store") && answer.head.contains("default-src 'none'"),
        "{answer:?}"
    );
    assert!(answer.body.contains(&format!("<html lang=\"{language}\">")), "{answer:?}");
    for way in ["/digitization?lang=", "/?lang=", "<h1>"] {
        assert!(answer.body.contains(way), "no {way}: {answer:?}");
    }
    answer.body.clone()
}

#[tokio::test]
async fn a_person_gets_a_page_in_their_language_and_a_program_the_same_json_as_ever() {
    let site = site(Exposure::Loopback).await;
    for (path, status, ro, en) in [
        ("/digitization/units/X%3C1", 404, "unitatea „X&#60;1”", "the unit “X&#60;1”"),
        ("/digitization/lots/L-9", 404, "Din lotul „L-9” nu s-a tras", "ever drawn from batch “L-9”"),
        ("/digitization/reports/May", 404, "Nu există un asemenea raport", "There is no such report"),
        ("/digitization/nothing", 404, "La această adresă nu este nimic.", "There is nothing at this address."),
        ("/nothing", 404, "La această adresă nu este nimic.", "There is nothing at this address."),
        (
            "/digitization/units?stage=lost",
            400,
            "<strong>stage</strong> is none of",
            "<strong>stage</strong> is none of",
        ),
        ("/digitization/events?day=soon", 400, "nu se poate folosi așa", "can&#39;t be used like this"),
        ("/digitization/figure?of=everything", 400, "<strong>of</strong>", "<strong>of</strong>"),
        ("/digitization/labels?what=shelves", 400, "<strong>what</strong>", "<strong>what</strong>"),
        ("/?lang=ro&lang=en", 400, "Cererea nu se înțelege", "understood"),
    ] {
        for (language, text) in [("ro", ro), ("en", en)] {
            let and = if path.contains('?') { '&' } else { '?' };
            let answer = site.send("GET", &format!("{path}{and}lang={language}"), &[BROWSER], "").await;
            let shown = if path.starts_with("/?") { "ro" } else { language };
            let body = page(&answer, status, shown);
            let text = if path.starts_with("/?") { ro } else { text };
            assert!(body.contains(text), "{path} {language}: {body}");
            assert_eq!(body.contains("role=\"search\""), status == 404, "{path}");
        }
    }
    // As curl asks, and in the language of the browser.
    page(
        &site.send("GET", "/digitization/units/X-1", &[("accept", "*/*"), ("accept-language", "en")], "").await,
        404,
        "en",
    );
    for path in ["/v1/digitization/units/X-1", "/digitization/units/X-1", "/nothing"] {
        for accept in ["application/json", BROWSER.1] {
            let answer = site.send("GET", path, &[("accept", accept)], "").await;
            assert_eq!(answer.status, 404);
            let is_json = accept != BROWSER.1 || path.starts_with("/v1");
            assert_eq!(answer.head.contains("content-type: application/json"), is_json, "{path} {accept}: {answer:?}");
        }
    }
    let wrong = site.get("/v1/digitization/units?stage=lost&limit=0").await;
    assert_eq!((wrong.status, wrong.json()["code"].as_str()), (400, Some("invalid_parameters")));
    let fields: Vec<_> =
        wrong.json()["errors"].as_array().expect("errors").iter().map(|e| e["field"].clone()).collect();
    assert_eq!(fields, ["stage", "limit"]);
}

#[tokio::test]
async fn who_may_not_and_who_sends_for_another_site_reads_why() {
    let site = site(Exposure::Network).await;
    let closed = site.send("GET", "/digitization?lang=ro", &[BROWSER], "").await;
    let body = page(&closed, 401, "ro");
    assert!(
        body.contains("Este nevoie de autentificare") && closed.head.contains("www-authenticate: basic"),
        "{closed:?}"
    );
    let api = site.send("GET", "/v1/agents", &[BROWSER], "").await;
    assert_eq!((api.status, api.json()["code"].as_str()), (401, Some("unauthorized")));
    let bearer = format!("Bearer {}", site.login.token);
    let known = [BROWSER, ("authorization", bearer.as_str()), ("content-type", "application/x-www-form-urlencoded")];
    let form = async |path: &str, more: &[(&str, &str)], body: &str| {
        site.send("POST", path, &[&known, more].concat(), body).await
    };
    let foreign = form("/digitization/lots?lang=en", &[("sec-fetch-site", "cross-site")], "batch=L-1").await;
    assert!(page(&foreign, 403, "en").contains("A page of another site sent this"), "{foreign:?}");
    for (path, body, ro, en) in [
        ("/digitization/lots", "batch=L-9", "face parte din lotul „L-9”", "No unit of the inventory is in batch “L-9”"),
        ("/digitization/lots/verdict", "batch=L-9&defects=0", "Lotul „L-9” nu are", "has no sample to look at"),
        ("/digitization/lots/verdict", "batch=L-9&defects=1&reason=a+b", "un cuvânt scurt", "a short word"),
        ("/digitization/lots/verdict", "batch=L-9&defects=x", "nu se înțelege", "<strong>body</strong>"),
        ("/digitization/reports", "period=2026-05", "Proiectul începe cu un inventar", "begins with an inventory"),
        ("/digitization/reports", "period=May", "<strong>period</strong>", "<strong>period</strong>"),
    ] {
        for (language, text) in [("ro", ro), ("en", en)] {
            let answer = form(&format!("{path}?lang={language}"), &[], body).await;
            let body = page(&answer, 400, language);
            assert!(body.contains(text) && !body.contains("hreflang"), "{path} {language}: {body}");
        }
    }
    let read = site.send("GET", "/digitization/lots?lang=en", &known[..2], "").await;
    assert!(page(&read, 405, "en").contains("only takes forms") && read.head.contains("allow: post"), "{read:?}");
    let long = form("/digitization/lots?lang=ro", &[], &format!("batch={}", "x".repeat(300 << 10))).await;
    assert!(page(&long, 413, "ro").contains("mai mare decât se primește"), "{long:?}");
}

#[tokio::test]
async fn a_foreign_host_name_reads_the_remedy() {
    let site = site(Exposure::Loopback).await;
    let answer = site.send("GET", "/?lang=en", &[BROWSER, ("host", "evil.example")], "").await;
    assert!(page(&answer, 421, "en").contains("does not answer to this name"), "{answer:?}");
}

#[tokio::test]
async fn a_unit_that_only_events_know_has_a_page_with_them() {
    let site = site(Exposure::Loopback).await;
    let event = json!([{"specversion": "1.0", "type": "ro.cjt.digi.v1.image.captured", "source": "//cjt/station/S02",
        "id": "1", "time": "2026-05-14T08:12:31Z", "data": {"unit": "X-9", "frames": 150}}]);
    let bearer = format!("Bearer {}", site.login.token);
    let headers = [("content-type", "application/cloudevents-batch+json"), ("authorization", bearer.as_str())];
    assert_eq!(site.send("POST", "/v1/digitization/events", &headers, &event.to_string()).await.status, 200);
    for (language, text, kind) in [
        ("ro", "Inventarul nu are această unitate.", "Imagini noi"),
        ("en", "The inventory does not have this unit.", "New images"),
    ] {
        let answer = site.send("GET", &format!("/digitization/units/X-9?lang={language}"), &[BROWSER], "").await;
        assert_eq!(answer.status, 200);
        assert!(answer.body.contains(text) && answer.body.contains(kind), "{answer:?}");
    }
}

//! Labels to print and stick on units and boxes: a QR code that the page of the floor reads, and the same in letters.
//!
//! What it deliberately does not do: say what a unit is about. A label is seen by whoever passes; titles stay inside.

use std::fmt::Write as _;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use qrcode::{Color, EcLevel, QrCode};

use super::api::{Wish, blocking};
use super::page::{Words, html, in_other_language, language};
use super::what_if::refusal;
use crate::digitization::Digitization;

/// Labels of a page: ten sheets of 24.
const MAX_LABELS: usize = 240;
/// The light border that readers need, in modules (ISO/IEC 18004).
const QUIET: usize = 4;

struct Label {
    code: String,
    /// Where it belongs.
    place: String,
    qr: String,
}

#[derive(Template)]
#[template(path = "digitization/labels.html")]
struct LabelsPage<'a> {
    w: Words,
    project: &'a str,
    title: String,
    text: String,
    are_boxes: bool,
    labels: Vec<Label>,
    next: Option<String>,
    /// The same labels in the other language.
    same: String,
}

pub(super) async fn show(
    State(digitization): State<Digitization>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let w = language(query.as_deref(), &headers);
    blocking(move || {
        let mut rest = url::form_urlencoded::Serializer::new(String::new());
        let mut what = "units".to_owned();
        for (name, value) in url::form_urlencoded::parse(query.as_deref().unwrap_or("").as_bytes()).take(20) {
            match &*name {
                "what" => what = value.into_owned(),
                _ => drop(rest.append_pair(&name, &value)),
            }
        }
        let wish = match Wish::read(&rest.finish()) {
            Ok(wish) if what == "units" || what == "boxes" => wish,
            Ok(_) => return refusal(&[("what".to_owned(), "is neither units nor boxes".to_owned())]),
            Err(problems) => return refusal(&problems),
        };
        let are_boxes = what == "boxes";
        let state = digitization.state();
        let mut named: Vec<(String, String)> = if are_boxes {
            let boxes = wish.choose_boxes(&state, MAX_LABELS + 1);
            boxes.into_iter().map(|(code, place)| (code.to_owned(), place.to_owned())).collect()
        } else {
            let units = wish.choose_most(&state, MAX_LABELS + 1);
            units.into_iter().map(|unit| (unit.unit.code.clone(), unit.unit.location.clone())).collect()
        };
        drop(state);
        let has_more = named.len() > MAX_LABELS;
        named.truncate(MAX_LABELS);
        let next = named.last().filter(|_| has_more).map(|(last, _)| {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.append_pair("lang", w.tag()).append_pair("what", &what).append_pair("q", &wish.text);
            query.extend_pairs(wish.stage.map(|stage| ("stage", stage.name())));
            query.append_pair("after", last).finish()
        });
        let labels = named.into_iter().map(|(code, place)| Label { qr: qr(&code), code, place });
        let page = LabelsPage {
            w,
            project: &digitization.settings().project,
            title: w.t("digi-labels"),
            text: wish.text.clone(),
            are_boxes,
            labels: labels.collect(),
            next,
            same: in_other_language(query.as_deref(), w),
        };
        html(&page, w, StatusCode::OK)
    })
    .await
}

/// A QR code as SVG of one path, dark on light whatever the page's colours; empty where the text is too long for one.
fn qr(text: &str) -> String {
    // M: an eighth of the code may be worn off.
    let Ok(code) = QrCode::with_error_correction_level(text, EcLevel::M) else { return String::new() };
    let (width, colors) = (code.width(), code.to_colors());
    let mut path = String::new();
    for (y, row) in colors.chunks(width).enumerate() {
        let mut x = 0;
        for run in row.chunk_by(|a, b| a == b) {
            if run[0] == Color::Dark {
                let length = run.len();
                write!(path, "M{} {}h{length}v1h-{length}z", x + QUIET, y + QUIET)
                    .expect("invariant: a String takes everything");
            }
            x += run.len();
        }
    }
    let side = width + 2 * QUIET;
    format!(
        "<svg class=\"qr\" viewBox=\"0 0 {side} {side}\" aria-hidden=\"true\" shape-rendering=\"crispEdges\">\
         <path class=\"light\" d=\"M0 0h{side}v{side}h-{side}z\"/><path class=\"dark\" d=\"{path}\"/></svg>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dark_module_of_a_code_is_drawn_and_no_other() {
        let text = "CJT-URB-1987-0142";
        let code = QrCode::with_error_correction_level(text, EcLevel::M).expect("short enough");
        let svg = qr(text);
        let path = svg.split("class=\"dark\" d=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a path");
        let mut drawn = 0;
        for run in path.split('M').skip(1) {
            let (at, rest) = run.split_once('h').expect("a run");
            let (x, y) = at.split_once(' ').expect("a place");
            let (x, y): (usize, usize) = (x.parse().expect("x"), y.parse().expect("y"));
            let length: usize = rest.split('v').next().and_then(|length| length.parse().ok()).expect("a length");
            assert!(rest.ends_with(&format!("v1h-{length}z")), "{run} does not close");
            for x in x..x + length {
                assert_eq!(code[(x - QUIET, y - QUIET)], Color::Dark, "{x} {y}");
                drawn += 1;
            }
        }
        let dark = code.to_colors().iter().filter(|color| **color == Color::Dark).count();
        assert_eq!(drawn, dark);
        assert_eq!(qr(&"x".repeat(5000)), "", "nothing that no code can hold");
    }
}

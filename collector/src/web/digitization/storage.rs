//! How long the storages of the masters last: a page, JSON, and the lines of the project's page.
//!
//! What it deliberately does not do: count. `digitization::runway` does.

use askama::Template;
use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};

use super::api::blocking;
use super::page::{Words, html, language};
use crate::clock;
use crate::digitization::Digitization;
use crate::digitization::runway::{Outlook, Reading, Runway};

struct StorageLine {
    row: Runway,
    free: String,
    says: String,
    usable: String,
    needed: String,
    lacks: String,
}

#[derive(Template)]
#[template(path = "digitization/storage.html")]
struct StoragePage<'a> {
    w: Words,
    project: &'a str,
    title: String,
    lines: Vec<StorageLine>,
    outlook: &'a Outlook,
    sizes: Vec<(String, String)>,
}

/// `1,5 TB`: decimal units, as disks are sold.
pub(super) fn bytes(bytes: u64, w: Words) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for larger in ["kB", "MB", "GB", "TB", "PB"] {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1000.0, larger);
    }
    let digits = usize::from(unit != "B" && value < 100.0);
    format!("{} {unit}", w.decimal(value, digits))
}

/// What a storage still holds, in a sentence.
pub(super) fn says(row: &Runway, w: Words) -> String {
    let reading = match row.free {
        Reading::NotYet => Some("digi-storage-not-yet"),
        Reading::Nothing => Some("digi-storage-nothing"),
        Reading::Several => Some("digi-storage-several"),
        Reading::Failed => Some("digi-storage-failed"),
        Reading::Bytes { .. } => None,
    };
    if let Some(key) = reading {
        return w.t(key);
    }
    match (row.units_left, row.short_bytes, row.full_p50) {
        (Some(_), Some(0), _) => w.t("digi-storage-all"),
        (Some(units), _, Some(day)) => {
            format!(
                "{} {}",
                w.counted("digi-storage-holds", units),
                w.0.with("digi-storage-until", &[("day", w.day(day).into())])
            )
        }
        (Some(units), _, None) => w.counted("digi-storage-holds", units),
        (None, ..) => w.t("digi-storage-unknown"),
    }
}

pub(super) async fn page(
    State(digitization): State<Digitization>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let w = language(query.as_deref(), &headers);
    blocking(move || {
        let outlook = digitization.outlook(&digitization.report(clock::now()));
        let known = |number: Option<u64>| number.map_or_else(|| "–".to_owned(), |number| bytes(number, w));
        let line = |row: &Runway| StorageLine {
            free: if let Reading::Bytes { bytes: free } = row.free { bytes(free, w) } else { "–".to_owned() },
            says: says(row, w),
            usable: known(row.usable_bytes),
            needed: known(row.bytes_to_come),
            lacks: known(row.short_bytes),
            row: row.clone(),
        };
        let size = |bytes_an_image: Option<f64>| {
            bytes_an_image.map_or_else(|| "–".to_owned(), |size| bytes(size.round() as u64, w))
        };
        let sizes = outlook.strata.iter().map(|row| {
            let interval = row.low.zip(row.high).map_or_else(
                || "–".to_owned(),
                |(low, high)| format!("{} – {}", bytes(low.round() as u64, w), bytes(high.round() as u64, w)),
            );
            (size(row.bytes_an_image), interval)
        });
        let page = StoragePage {
            w,
            project: &digitization.settings().project,
            title: w.t("digi-storage-title"),
            lines: outlook.storages.iter().map(line).collect(),
            sizes: sizes.collect(),
            outlook: &outlook,
        };
        html(&page, w, StatusCode::OK)
    })
    .await
}

pub(super) async fn json(State(digitization): State<Digitization>) -> Response {
    blocking(move || Json(digitization.outlook(&digitization.report(clock::now()))).into_response()).await
}

#[cfg(test)]
mod tests {
    use super::super::super::public::text::Language;
    use super::*;

    #[test]
    fn bytes_are_written_in_the_largest_unit_that_they_fill() {
        let (ro, en) = (Words(Language::Romanian), Words(Language::English));
        let written: Vec<String> = [0, 999, 1500, 250_000_000, 12_340_000_000_000].map(|n| bytes(n, en)).to_vec();
        assert_eq!(written, ["0 B", "999 B", "1.5 kB", "250 MB", "12.3 TB"]);
        assert_eq!(bytes(1_500_000_000_000, ro), "1,5 TB");
    }
}

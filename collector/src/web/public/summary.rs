//! The status in the form of Statuspage's public API v2, which many tools read.
//!
//! Two choices where that form has no word. A component without data has the status `unknown`, beside Statuspage's own
//! five: to call it operational or down would be untrue. The page's indicator stays `none` while nothing is known to be
//! wrong, because who watches it wants to be called for outages; its description says what is known.

use serde_json::{Value, json};
use veghe_model::Timestamp;

use super::page;
use super::text::{Language, machine_time};
use crate::status::{Overall, Snapshot, State};

/// `/api/v2/summary.json`.
pub(super) fn summary(snapshot: &Snapshot) -> Value {
    json!({
        "page": page_of(snapshot), "status": status_of(snapshot), "components": components_of(snapshot),
        "incidents": [], "scheduled_maintenances": [],
    })
}

/// `/api/v2/status.json`.
pub(super) fn status(snapshot: &Snapshot) -> Value {
    json!({ "page": page_of(snapshot), "status": status_of(snapshot) })
}

/// `/api/v2/components.json`.
pub(super) fn components(snapshot: &Snapshot) -> Value {
    json!({ "page": page_of(snapshot), "components": components_of(snapshot) })
}

fn page_of(snapshot: &Snapshot) -> Value {
    json!({
        "id": "veghe",
        "name": snapshot.name.en,
        "url": snapshot.url,
        "time_zone": snapshot.time_zone.iana_name().unwrap_or("UTC"),
        "updated_at": time(snapshot, snapshot.at),
    })
}

fn status_of(snapshot: &Snapshot) -> Value {
    let indicator = match snapshot.overall {
        Overall::Empty | Overall::Checking | Overall::Unknown | Overall::Operational => "none",
        Overall::Maintenance => "maintenance",
        Overall::Degraded => "minor",
        Overall::PartialOutage => "major",
        Overall::MajorOutage => "critical",
    };
    json!({ "indicator": indicator, "description": page::overall_text(snapshot, Language::English) })
}

fn components_of(snapshot: &Snapshot) -> Vec<Value> {
    let of = |(position, component): (usize, &crate::status::ComponentView)| {
        json!({
            "id": component.id,
            "name": component.name.en,
            "description": component.description.as_ref().map(|text| &text.en),
            "group_name": component.group.as_ref().map(|text| &text.en),
            "status": match component.state {
                State::Unknown => "unknown",
                State::Operational => "operational",
                State::Maintenance => "under_maintenance",
                State::Degraded => "degraded_performance",
                State::PartialOutage => "partial_outage",
                State::MajorOutage => "major_outage",
            },
            "position": position + 1,
            "group": false,
            "group_id": null,
            "page_id": "veghe",
            "showcase": true,
            "only_show_if_degraded": false,
            "created_at": component.first_known.map(|at| time(snapshot, at)),
            "updated_at": component.since.map(|at| time(snapshot, at)),
        })
    };
    snapshot.components.iter().enumerate().map(of).collect()
}

fn time(snapshot: &Snapshot, at: Timestamp) -> String {
    machine_time(at, &snapshot.time_zone)
}

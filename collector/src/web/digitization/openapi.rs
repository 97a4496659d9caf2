//! `GET /v1/digitization/openapi.json`: what the project's API takes and gives, as `OpenAPI` 3.1.
//!
//! Invariant: every path below `/v1/digitization` is in it, and no other; a test of the web compares.

use axum::Json;
use serde_json::{Value, json};

/// Paths: method, path, what it does, what it needs beyond reading, parameters of the query, fields of the body.
type Entry =
    (&'static str, &'static str, &'static str, Option<&'static str>, &'static [&'static str], &'static [&'static str]);

/// What there is.
pub(in crate::web) const ENTRIES: &[Entry] = &[
    (
        "post",
        "/events",
        "Takes CloudEvents in, one or a batch, and tells what became of each.",
        Some("events"),
        &[],
        &[],
    ),
    (
        "get",
        "/project",
        "How far the project is, its forecast, what moved it, and how earlier forecasts held.",
        None,
        &[],
        &[],
    ),
    ("get", "/days", "Every day since the first: images and shelf length.", None, &[], &[]),
    ("get", "/flow", "Cumulative flow by week, and the shelf map.", None, &[], &[]),
    ("get", "/stations", "Stations and what they made lately.", None, &[], &[]),
    ("get", "/quality", "First-pass yield, rework by reason, faults by stratum, lots.", None, &[], &[]),
    ("get", "/fixity", "Storages, damaged objects, packages.", None, &[], &[]),
    (
        "get",
        "/quarantine",
        "Units that the inventory does not have, with the events that wait for them.",
        None,
        &[],
        &[],
    ),
    (
        "get",
        "/units",
        "Units that are like a text or in a stage, page by page.",
        None,
        &["q", "stage", "after", "limit"],
        &[],
    ),
    ("get", "/units/{code}", "A unit and every event about it, page by page.", None, &["after", "limit"], &[]),
    (
        "get",
        "/journal",
        "Events of the ledger by day, type, station, unit, batch and storage.",
        None,
        &["day", "from", "to", "kind", "station", "unit", "batch", "storage", "after", "limit"],
        &[],
    ),
    (
        "get",
        "/what-if",
        "When a number of pages is done under assumptions.",
        None,
        &["from", "pages", "per_day", "stations", "stations_now", "shifts", "shifts_now", "rejects", "days_off"],
        &[],
    ),
    ("get", "/reports", "Frozen reports, and whether their chain holds.", None, &[], &[]),
    ("post", "/reports", "Freezes a week or month and makes its report.", Some("operate"), &[], &["period"]),
    ("get", "/reports/{period}", "A frozen report, or the draft of one.", None, &[], &[]),
    ("post", "/freeze", "Leaves every day up to one as it is.", Some("operate"), &[], &["through"]),
    (
        "post",
        "/lots",
        "Draws a sample of a batch after ISO 2859-1.",
        Some("operate"),
        &[],
        &["batch", "aql", "inspection"],
    ),
    (
        "post",
        "/lots/verdict",
        "Judges a lot by the bad images of its sample.",
        Some("operate"),
        &[],
        &["batch", "defects", "reason"],
    ),
    ("get", "/lots/{batch}", "The latest draw of a batch and its verdict.", None, &[], &[]),
    ("get", "/storage", "How many units the storages still hold, and until when.", None, &[], &[]),
    ("get", "/people", "What groups of at least five people made in a week.", None, &[], &[]),
    ("get", "/privacy", "What is known of persons, and who looked behind pseudonyms.", Some("admin"), &[], &[]),
    (
        "get",
        "/figure",
        "The events behind a number of the pages, each with what it adds.",
        None,
        &[
            "of", "measure", "from", "to", "as_of", "station", "shift", "unit", "shelf", "series", "binding", "reason",
            "stage", "doing", "fault", "open", "after", "limit",
        ],
        &[],
    ),
    ("get", "/openapi.json", "This document.", None, &[], &[]),
];

fn document() -> Value {
    let mut paths = serde_json::Map::new();
    for (method, path, summary, scope, query, body) in ENTRIES {
        let in_path = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let mut parameters: Vec<Value> = in_path
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        parameters
            .extend(query.iter().map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string" } })));
        let mut operation = json!({
            "summary": summary,
            "responses": {
                "200": { "description": "JSON", "content": { "application/json": { "schema": { "type": "object" } } } },
                "400": { "description": "Every wrong parameter by its name", "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Refusal" } } } },
            },
        });
        if !parameters.is_empty() {
            operation["parameters"] = json!(parameters);
        }
        if let Some(scope) = scope {
            operation["description"] = json!(format!("Needs a credential with the scope `{scope}`."));
            operation["security"] = json!([{ "token": [] }, { "password": [] }]);
            let refusal = json!({ "description": "No credential, or one without that scope" });
            (operation["responses"]["401"], operation["responses"]["403"]) = (refusal.clone(), refusal);
        }
        if !body.is_empty() {
            let properties: serde_json::Map<String, Value> =
                body.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
            let schema = json!({ "type": "object", "properties": properties, "required": [body[0]], "additionalProperties": false });
            operation["requestBody"] =
                json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        } else if *path == "/events" {
            operation["requestBody"] = json!({ "required": true, "content": {
                "application/cloudevents+json": { "schema": { "type": "object" } },
                "application/cloudevents-batch+json": { "schema": { "type": "array", "items": { "type": "object" } } },
            } });
        }
        let at = paths.entry(format!("/v1/digitization{path}")).or_insert_with(|| json!({}));
        at[*method] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Veghe: digitization", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer" },
                "password": { "type": "http", "scheme": "basic" },
            },
            "schemas": { "Refusal": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {
                    "code": { "type": "string" },
                    "message": { "type": "string" },
                    "errors": { "type": "array", "items": { "type": "object", "properties": {
                        "field": { "type": "string" },
                        "message": { "type": "string" },
                    } } },
                },
            } },
        },
    })
}

pub(super) async fn show() -> Json<Value> {
    Json(document())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let sources = [include_str!("mod.rs"), include_str!("events.rs")].concat();
        let routes: BTreeSet<&str> = sources
            .split("\"/v1/digitization")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .filter(|path| path.starts_with('/'))
            .collect();
        let documented: BTreeSet<&str> = ENTRIES.iter().map(|(_, path, ..)| *path).collect();
        assert_eq!(routes, documented);
        let document = document();
        assert_eq!(document["paths"]["/v1/digitization/units/{code}"]["get"]["parameters"][0]["in"], "path");
        assert_eq!(document["paths"]["/v1/digitization/reports"].as_object().map(serde_json::Map::len), Some(2));
    }
}

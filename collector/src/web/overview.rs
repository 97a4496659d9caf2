//! The page at `/`: which agents there are and how they do, which alerts fire, where everything else is. In Romanian
//! and English, plain HTML, no script.
//!
//! What it deliberately does not do: change anything.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::Value as Tree;
use veghe_model::Timestamp;

use super::prometheus_api::{Api, rfc3339};
use super::{AgentState, AgentView, FoundLife, FoundView, Refusal, SettingsState};

/// Found things that the page shows; all of them are in the JSON.
const MAX_FOUND: usize = 500;

/// The languages of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Romanian,
    English,
}

struct Texts {
    lang: &'static str,
    title: &'static str,
    language: &'static str,
    alerts: &'static str,
    no_alerts: &'static str,
    alert: &'static str,
    severity: &'static str,
    where_: &'static str,
    since: &'static str,
    what: &'static str,
    agents: &'static str,
    no_agents: &'static str,
    agent: &'static str,
    state: &'static str,
    last_seen: &'static str,
    never: &'static str,
    version: &'static str,
    up: &'static str,
    down: &'static str,
    waiting: &'static str,
    revoked: &'static str,
    revoked_note: &'static str,
    settings: &'static str,
    own: &'static str,
    runs: &'static str,
    trial: &'static str,
    waits: &'static str,
    refuses: &'static str,
    found: &'static str,
    no_found: &'static str,
    kind: &'static str,
    name: &'static str,
    detail: &'static str,
    new: &'static str,
    watched: &'static str,
    vanished: &'static str,
    more: &'static str,
    digitization: &'static str,
    status_page: &'static str,
    own_metrics: &'static str,
    agents_json: &'static str,
    rules: &'static str,
    alerts_json: &'static str,
    api: &'static str,
}

const ROMANIAN: Texts = Texts {
    lang: "ro",
    title: "Privire de ansamblu",
    language: "Limbă",
    alerts: "Alerte active",
    no_alerts: "Nicio alertă activă.",
    alert: "Alertă",
    severity: "Gravitate",
    where_: "Unde",
    since: "De când",
    what: "Ce se întâmplă",
    agents: "Agenți",
    no_agents: "Niciun agent deocamdată. Înscrieți unul: prima comandă pe această mașină, a doua pe cea supravegheată.",
    agent: "Agent",
    state: "Stare",
    last_seen: "Văzut ultima oară",
    never: "niciodată",
    version: "Versiune",
    up: "în funcțiune",
    down: "nu răspunde",
    waiting: "așteptat",
    revoked: "Agenți revocați",
    revoked_note: "Nu mai sunt primiți; un jeton nou îi înscrie din nou. Ce au măsurat rămâne cât spune retenția.",
    settings: "Configurație",
    own: "fișierul propriu",
    runs: "versiunea",
    trial: "în probă: versiunea",
    waits: "așteaptă versiunea",
    refuses: "refuză versiunea",
    found: "Descoperite pe mașini",
    no_found: "Nimic deocamdată. Agenții caută la câteva secunde după pornire, apoi zilnic.",
    kind: "Fel",
    name: "Nume",
    detail: "Detalii",
    new: "nou",
    watched: "supravegheat",
    vanished: "dispărut",
    more: "Mai departe",
    digitization: "Digitizarea arhivei",
    status_page: "Pagina publică de stare",
    own_metrics: "Metricile colectorului",
    agents_json: "Agenții, ca JSON",
    rules: "Regulile de alertare, ca JSON",
    alerts_json: "Alertele, ca JSON",
    api: "Interfața de interogare (API Prometheus)",
};

const ENGLISH: Texts = Texts {
    lang: "en",
    title: "Overview",
    language: "Language",
    alerts: "Firing alerts",
    no_alerts: "No alert is firing.",
    alert: "Alert",
    severity: "Severity",
    where_: "Where",
    since: "Since",
    what: "What happens",
    agents: "Agents",
    no_agents: "No agents yet. Enrol one: the first command on this machine, the second on the one to be watched.",
    agent: "Agent",
    state: "State",
    last_seen: "Last seen",
    never: "never",
    version: "Version",
    up: "up",
    down: "down",
    waiting: "expected",
    revoked: "Revoked agents",
    revoked_note: "They are not admitted any more; a new token enrols them again. What they measured stays as long as the retention says.",
    settings: "Settings",
    own: "its own file",
    runs: "version",
    trial: "on trial: version",
    waits: "waits for version",
    refuses: "refuses version",
    found: "Found on machines",
    no_found: "Nothing yet. Agents look a few seconds after their start, and daily.",
    kind: "Kind",
    name: "Name",
    detail: "Details",
    new: "new",
    watched: "watched",
    vanished: "vanished",
    more: "Where to go",
    digitization: "Digitization of the archive",
    status_page: "Public status page",
    own_metrics: "The collector's own metrics",
    agents_json: "Agents, as JSON",
    rules: "Alerting rules, as JSON",
    alerts_json: "Alerts, as JSON",
    api: "Queries (Prometheus' API)",
};

#[derive(Template)]
#[template(path = "operations/overview.html")]
struct Page<'a> {
    texts: &'a Texts,
    version: &'a str,
    alerts: Vec<AlertRow>,
    agents: Vec<AgentRow<'a>>,
    /// Apart from those that are to be looked after.
    revoked: Vec<AgentRow<'a>>,
    found: Vec<FoundRow<'a>>,
    status_url: Option<&'a str>,
}

struct AlertRow {
    name: String,
    severity: String,
    instance: String,
    since: Option<Moment>,
    summary: String,
}

struct AgentRow<'a> {
    id: &'a str,
    state: &'static str,
    class: &'static str,
    last_seen: Option<Moment>,
    version: &'a str,
    settings: String,
    settings_class: &'static str,
    /// Why, in the words of the agent or of the collector's log, which are English.
    reason: Option<&'a str>,
}

struct FoundRow<'a> {
    agent: &'a str,
    kind: String,
    name: &'a str,
    detail: String,
    life: &'static str,
    class: &'static str,
    last: Moment,
}

struct Moment {
    machine: String,
    human: String,
}

impl Moment {
    fn at(at: Timestamp) -> Self {
        let human = jiff::Timestamp::from_millisecond(at.millis())
            .map_or_else(|_outside| String::new(), |t| t.strftime("%Y-%m-%d %H:%M:%S UTC").to_string());
        Self { machine: rfc3339(at), human }
    }
}

#[derive(Deserialize)]
pub(super) struct Wish {
    lang: Option<String>,
}

pub(super) async fn page(State(api): State<Arc<Api>>, Query(wish): Query<Wish>, headers: HeaderMap) -> Response {
    let texts = match language(wish.lang.as_deref(), &headers) {
        Language::Romanian => &ROMANIAN,
        Language::English => &ENGLISH,
    };
    let agents = api.parts.fleet.agents();
    let is_revoked = |agent: &&AgentView| agent.state == AgentState::Revoked;
    let (revoked, agents): (Vec<_>, Vec<_>) = agents.iter().partition(is_revoked);
    let mut found = api.parts.fleet.found();
    found.retain(|found| !revoked.iter().any(|agent| agent.id == found.agent));
    let page = Page {
        texts,
        version: &api.parts.about.version,
        alerts: api
            .parts
            .alerting
            .alerts()
            .iter()
            .filter(|alert| alert["state"] == "firing")
            .map(|alert| alert_row(alert, texts))
            .collect(),
        agents: agents.into_iter().map(|agent| agent_row(agent, texts)).collect(),
        revoked: revoked.iter().map(|agent| agent_row(agent, texts)).collect(),
        found: found.iter().take(MAX_FOUND).map(|found| found_row(found, texts)).collect(),
        status_url: api.parts.about.status_url.as_deref(),
    };
    match page.render() {
        Ok(html) => (
            [
                (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
                (header::VARY, HeaderValue::from_static("Accept-Language")),
                (header::CONTENT_LANGUAGE, HeaderValue::from_static(texts.lang)),
            ],
            html,
        )
            .into_response(),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot render overview");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "page", "the collector's log says why").into_response()
        }
    }
}

pub(super) async fn style() -> Response {
    (
        [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8")),
            (header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=3600")),
        ],
        include_str!("../../templates/operations/operations.css"),
    )
        .into_response()
}

/// Severities of the shipped rules in Romanian; rules of one's own may have others, which stay as they are.
const SEVERITIES_IN_ROMANIAN: [(&str, &str); 3] =
    [("critical", "critică"), ("info", "informare"), ("warning", "avertizare")];

fn alert_row(alert: &Tree, texts: &Texts) -> AlertRow {
    let text = |tree: &Tree| tree.as_str().unwrap_or("").to_owned();
    let annotations = &alert["annotations"];
    // A rule of one's own may have but one text, in whichever language.
    let wanted: &[&str] = match texts.lang {
        "ro" => &["summary_ro", "description_ro", "summary", "description"],
        _ => &["summary", "description", "summary_ro", "description_ro"],
    };
    let summary = wanted.iter().map(|name| &annotations[*name]).find(|text| text.is_string()).unwrap_or(&Tree::Null);
    let severity = text(&alert["labels"]["severity"]);
    let romanian = SEVERITIES_IN_ROMANIAN.iter().find(|(english, _)| *english == severity && texts.lang == "ro");
    AlertRow {
        name: text(&alert["labels"]["alertname"]),
        severity: romanian.map_or(severity.as_str(), |(_, romanian)| romanian).to_owned(),
        instance: text(&alert["labels"]["instance"]),
        since: alert["activeAt"]
            .as_str()
            .and_then(|at| at.parse::<jiff::Timestamp>().ok())
            .map(|at| Moment::at(Timestamp(at.as_millisecond()))),
        summary: text(summary),
    }
}

fn agent_row<'a>(agent: &'a AgentView, texts: &Texts) -> AgentRow<'a> {
    let (state, class) = match agent.state {
        AgentState::Up => (texts.up, "good"),
        AgentState::Down => (texts.down, "bad"),
        AgentState::Waiting => (texts.waiting, "wait"),
        AgentState::Revoked => (texts.revoked, "wait"),
    };
    let (about, number, settings_class) = match agent.settings.state {
        SettingsState::Own => (texts.own, None, ""),
        SettingsState::Runs => (texts.runs, Some(agent.settings.running), "good"),
        SettingsState::Trial => (texts.trial, Some(agent.settings.running), "wait"),
        SettingsState::Waits => (texts.waits, Some(agent.settings.wanted), "wait"),
        SettingsState::Refused => (texts.refuses, Some(agent.settings.wanted), "bad"),
    };
    let number = number.map_or_else(String::new, |number| format!(" {number}"));
    let settings = format!("{about}{number}");
    AgentRow {
        id: &agent.id,
        state,
        class,
        last_seen: agent.last_seen.map(Moment::at),
        version: agent.version.as_deref().unwrap_or(""),
        settings,
        settings_class,
        reason: agent.settings.reason.as_deref(),
    }
}

fn found_row<'a>(found: &'a FoundView, texts: &Texts) -> FoundRow<'a> {
    let (life, class) = match found.life {
        FoundLife::New => (texts.new, "wait"),
        FoundLife::Watched => (texts.watched, "good"),
        FoundLife::Vanished => (texts.vanished, "bad"),
    };
    let (kind, detail) = described(&found.kind, &found.detail, texts);
    FoundRow { agent: &found.agent, kind, name: &found.name, detail, life, class, last: Moment::at(found.last) }
}

/// What agents call the kinds of things that they find, and say of them, in Romanian; names and paths stay as they are.
const FOUND_IN_ROMANIAN: [(&str, &str); 23] = [
    ("AEG or Protect", "AEG sau Protect"),
    ("Cypress (many brands)", "Cypress (multe mărci)"),
    ("Eaton or MGE", "Eaton sau MGE"),
    ("MySQL or MariaDB", "MySQL sau MariaDB"),
    ("Phoenixtec or Mecer", "Phoenixtec sau Mecer"),
    ("UPS by NUT", "UPS prin NUT"),
    ("a scanner that speaks eSCL", "un scaner care vorbește eSCL"),
    ("array", "matrice RAID"),
    ("backups", "copii de rezervă"),
    ("certificates", "certificate"),
    ("containers", "containere"),
    ("database", "bază de date"),
    ("escl_scanner", "scaner eSCL"),
    ("exporter", "exporter"),
    ("health of drives", "starea discurilor"),
    ("nvme", "NVMe"),
    ("processes", "procese"),
    ("scanners that SANE lists", "scanere din lista SANE"),
    ("snapshots of ZFS", "instantanee ZFS"),
    ("tape", "unitate de bandă"),
    ("tape drives", "unități de bandă"),
    ("tool", "program"),
    ("ups", "UPS"),
];

/// Kind and detail of a thing in the page's language.
fn described(kind: &str, detail: &str, texts: &Texts) -> (String, String) {
    let word = |text: &str| {
        let known = FOUND_IN_ROMANIAN.iter().find(|(english, _)| *english == text && texts.lang == "ro");
        match (known, text.split_once(' ')) {
            (Some((_, romanian)), _) => (*romanian).to_owned(),
            (None, Some((count, what @ ("files" | "drives")))) if texts.lang == "ro" => {
                // From 20 on a number takes `de`, but for the first nineteen of each hundred.
                let hundredths = count.parse::<u32>().ok().map(|count| count % 100);
                let of = if hundredths.is_some_and(|n| n == 0 || n > 19) { "de " } else { "" };
                format!("{count} {of}{}", if what == "files" { "fișiere" } else { "discuri" })
            }
            _ => text.to_owned(),
        }
    };
    (word(kind), detail.split(", ").map(word).collect::<Vec<_>>().join(", "))
}

/// What the address asks for, else what the browser prefers, else English.
fn language(wish: Option<&str>, headers: &HeaderMap) -> Language {
    match wish {
        Some("ro") => return Language::Romanian,
        Some("en") => return Language::English,
        _ => {}
    }
    let accepted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let mut best = (0.0, Language::English);
    for part in accepted.split(',') {
        let (range, weight) = part.split_once(';').unwrap_or((part, "q=1"));
        let weight: f64 = weight.trim().strip_prefix("q=").and_then(|q| q.trim().parse().ok()).unwrap_or(0.0);
        let primary = range.trim().split('-').next().unwrap_or("").to_ascii_lowercase();
        let language = match primary.as_str() {
            "ro" | "mo" => Language::Romanian,
            "en" => Language::English,
            _ => continue,
        };
        if weight > best.0 {
            best = (weight, language);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_told_in_the_language_of_the_page() {
        let ro = |kind: &str, detail: &str| described(kind, detail, &ROMANIAN);
        assert_eq!(
            ro("tool", "/usr/bin/restic, backups"),
            ("program".into(), "/usr/bin/restic, copii de rezervă".into())
        );
        assert_eq!(ro("array", "raid1, 2 drives"), ("matrice RAID".into(), "raid1, 2 discuri".into()));
        assert_eq!(ro("certificates", "24 files").1, "24 de fișiere");
        assert_eq!(ro("nvme", "Samsung SSD 990 PRO 2TB").1, "Samsung SSD 990 PRO 2TB");
        assert_eq!(described("tool", "a, backups", &ENGLISH), ("tool".into(), "a, backups".into()));
    }

    #[test]
    fn an_alert_is_told_in_the_language_of_the_page() {
        let row = |annotations: Tree, severity: &str, texts: &Texts| {
            let alert = serde_json::json!({"labels": {"severity": severity}, "annotations": annotations});
            let row = alert_row(&alert, texts);
            (row.summary, row.severity)
        };
        let both = serde_json::json!({"summary": "a disk is full", "summary_ro": "un disc este plin"});
        assert_eq!(row(both.clone(), "critical", &ROMANIAN), ("un disc este plin".into(), "critică".into()));
        assert_eq!(row(both, "critical", &ENGLISH), ("a disk is full".into(), "critical".into()));
        let own = serde_json::json!({"description": "of one's own"});
        assert_eq!(row(own.clone(), "page", &ROMANIAN), ("of one's own".into(), "page".into()));
        assert_eq!(row(own, "page", &ENGLISH), ("of one's own".into(), "page".into()));
        assert_eq!(row(Tree::Null, "info", &ROMANIAN), (String::new(), "informare".into()));
    }

    #[test]
    fn every_severity_of_the_shipped_rules_has_its_romanian() {
        let mut severities = 0;
        for severity in
            include_str!("../../rules/host.yaml").lines().filter_map(|line| line.trim().strip_prefix("severity: "))
        {
            assert!(SEVERITIES_IN_ROMANIAN.iter().any(|(english, _)| *english == severity), "{severity}");
            severities += 1;
        }
        assert!(severities > 10, "{severities}");
    }

    #[test]
    fn every_word_of_the_agents_has_its_romanian() {
        assert_eq!(FOUND_IN_ROMANIAN.map(|(english, _)| english), veghe_wire::remote::FOUND_WORDS);
    }

    #[test]
    fn the_address_decides_before_the_browser_and_english_is_the_last_resort() {
        let accepting =
            |value: &'static str| HeaderMap::from_iter([(header::ACCEPT_LANGUAGE, HeaderValue::from_static(value))]);
        assert_eq!(language(None, &HeaderMap::new()), Language::English);
        assert_eq!(language(None, &accepting("ro-RO,ro;q=0.9,en;q=0.8")), Language::Romanian);
        assert_eq!(language(None, &accepting("de, ro;q=0.3, en;q=0.5")), Language::English);
        assert_eq!(language(Some("en"), &accepting("ro")), Language::English);
        assert_eq!(language(Some("xx"), &accepting("ro;q=abc;;,,")), Language::English);
    }
}

//! Updates that wait to be installed, under `windows_exporter`'s names, and whether the machine waits for a restart: what
//! Windows Update, the component store and installers leave in the registry.
//!
//! Windows Update's agent is asked a minute after the start and then every six hours, by a thread of its own, for what its own
//! searches have found: without the network and without its service doing more than read. A search that never ends delays
//! nothing, and what an earlier one found is told for an hour beyond the time of the next. What it deliberately does not do:
//! search on the network, download, install.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use windows::Win32::System::Variant::VARIANT;
use windows::core::{GUID, Result};

use super::automation::{Apartment, Object};
use super::slowly::Slowly;
use super::{Entry, Sensor, SensorError, SensorSettings, Sink, ask};
use crate::clock;

pub(crate) const ENTRY: Entry = Entry::new("updates", |_| Vec::new(), |settings| Box::new(Updates::new(settings)));

const KEYS: [&str; 2] = [
    r"SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootPending",
    r"SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\RebootRequired",
];
/// Files that are replaced at the next start.
const RENAMES: (&str, &str) = (r"SYSTEM\CurrentControlSet\Control\Session Manager", "PendingFileRenameOperations");

/// A machine that starts has no processor time for this.
const DELAY: Duration = Duration::from_mins(1);
const INTERVAL: Duration = Duration::from_hours(6);
/// How long an answer counts.
const COUNTED: Duration = Duration::from_hours(7);

/// `Microsoft.Update.Session`.
const SESSION: GUID = GUID::from_u128(0x4cb4_3d7f_7eee_4906_8698_60da_1c38_f2fe);
const WANTED: &str = "IsInstalled=0 and IsHidden=0";
/// The category of security updates, whatever its name is in the machine's language.
const SECURITY: &str = "0fa1201d-4330-4fa8-8ae9-b877473b6441";
/// More are counted, but not told by name.
const MAX_NAMED: usize = 100;
const MAX_UPDATES: u32 = 5000;
const MAX_CATEGORIES: u32 = 50;
const MAX_TEXT_CHARS: usize = 200;
/// From the last day of the year 1899, in whose days dates are, to the Unix epoch.
const EPOCH_DAYS: f64 = 25_569.0;
const DAY_SECONDS: f64 = 86_400.0;

/// `node_reboot_required`, `veghe_windows_updates_pending`, `windows_update_*`.
struct Updates {
    search: Slowly<Option<Found>>,
}

/// What one search told.
struct Found {
    began: Instant,
    since_epoch: Duration,
    took: Duration,
    security: u64,
    others: u64,
    /// By category, severity and title; when it was published or changed last, in seconds since the Unix epoch.
    named: BTreeMap<[String; 3], f64>,
}

impl Updates {
    fn new(settings: &SensorSettings) -> Self {
        let question = || {
            let found = search();
            found.inspect_err(|error| tracing::warn!(%error, "Windows Update can't tell what is pending")).ok()
        };
        Self { search: Slowly::new("updates", INTERVAL, settings.patience, question).after(DELAY) }
    }
}

impl Sensor for Updates {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> std::result::Result<(), SensorError> {
        let found = self.search.latest().and_then(Option::as_ref);
        if let Some(found) = found.filter(|found| found.began.elapsed() < COUNTED) {
            found.put(sink);
        }
        let wrong = |call| move |source| SensorError::Ask { call, source };
        let mut is_required = ask::has_value(RENAMES.0, RENAMES.1).map_err(wrong("RegGetValueW"))?;
        for key in KEYS {
            is_required |= ask::has_key(key).map_err(wrong("RegOpenKeyExW"))?;
        }
        sink.put("node_reboot_required", &[], f64::from(u8::from(is_required)));
        Ok(())
    }
}

impl Found {
    fn put(&self, sink: &mut Sink) {
        for (kind, count) in [("other", self.others), ("security", self.security)] {
            sink.put("veghe_windows_updates_pending", &[("kind", kind)], count as f64);
        }
        for [category, severity, title] in self.named.keys() {
            let labels = [("category", category.as_str()), ("severity", severity), ("title", title)];
            sink.put("windows_update_pending_info", &labels, 1.0);
        }
        let mut titles: BTreeMap<&str, f64> = BTreeMap::new();
        for ([.., title], published) in &self.named {
            let newest = titles.entry(title).or_insert(*published);
            *newest = newest.max(*published);
        }
        for (title, published) in titles {
            sink.put("windows_update_pending_published_timestamp", &[("title", title)], published);
        }
        sink.put("windows_update_scrape_query_duration_seconds", &[], self.took.as_secs_f64());
        sink.put("windows_update_scrape_timestamp_seconds", &[], self.since_epoch.as_secs_f64());
    }
}

/// Asks what is not installed; it may take minutes.
fn search() -> Result<Found> {
    let began = clock::instant();
    let com = Apartment::enter()?;
    let session = com.create(&SESSION)?;
    session.put("ClientApplicationID", VARIANT::from("veghe-agent"))?;
    let searcher = session.get("CreateUpdateSearcher")?.object()?;
    searcher.put("Online", VARIANT::from(false))?;
    let updates = searcher.call("Search", Some(VARIANT::from(WANTED)))?.object()?.get("Updates")?.object()?;
    let (mut named, mut security, mut others) = (BTreeMap::new(), 0, 0);
    for update in items(&updates, MAX_UPDATES)? {
        let (category, is_security) = category(&update)?;
        if is_security {
            security += 1;
        } else {
            others += 1;
        }
        if named.len() < MAX_NAMED {
            let severity = update.get("MsrcSeverity")?.text()?;
            let name = [category, severity, update.get("Title")?.text()?];
            let days = update.get("LastDeploymentChangeTime")?.number()?;
            named.insert(
                name.map(|text| text.chars().take(MAX_TEXT_CHARS).collect()),
                (days - EPOCH_DAYS) * DAY_SECONDS,
            );
        }
    }
    Ok(Found { began, since_epoch: clock::since_epoch(), took: began.elapsed(), security, others, named })
}

/// The name of the first of its categories in their order, and whether it is a security update.
fn category(update: &Object) -> Result<(String, bool)> {
    let mut first: Option<(f64, String)> = None;
    let mut is_security = false;
    for category in items(&update.get("Categories")?.object()?, MAX_CATEGORIES)? {
        let order = category.get("Order")?.number()?;
        if first.as_ref().is_none_or(|(before, _)| order < *before) {
            first = Some((order, category.get("Name")?.text()?));
        }
        is_security |= category.get("CategoryID")?.text()?.eq_ignore_ascii_case(SECURITY);
    }
    Ok((first.unwrap_or_default().1, is_security))
}

fn items(collection: &Object, max: u32) -> Result<Vec<Object>> {
    let count = (0..max).zip(0..collection.get("Count")?.number()? as u32);
    count.map(|(index, _)| collection.call("Item", Some(VARIANT::from(index.cast_signed())))?.object()).collect()
}

#[cfg(test)]
mod tests;

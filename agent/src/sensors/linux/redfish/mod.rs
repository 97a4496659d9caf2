//! Servers and disk shelves by their management controller (iDRAC, iLO, `XClarity`, ...): health, temperatures, fans, power
//! and drives by Redfish. Names are those of `redfish_exporter`.
//!
//! Controllers are slow, so that one is asked over one connection, once a minute, and its drives every fifth time. What it
//! deliberately does not do: change anything, or open a session, of which controllers have few.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use self::documents::{Chassis, Collection, Drive, Link, Power, Root, Status, Storage, System, Thermal, number};
use self::settings::Target;
use super::http::{HttpError, Login, Trust, Visit};
use super::polled::{Origin, Polled, Question};
use super::{Entry, Sensor, SensorError, Sink};
use crate::clock;

mod documents;
pub mod settings;

pub(crate) const ENTRY: Entry = Entry::new(
    "redfish",
    |_| Vec::new(),
    |settings| Box::new(Redfish::new(&settings.options.redfish, settings.state_dir.as_deref())),
)
.unless(|settings| {
    let is_empty = settings.options.redfish.is_empty();
    is_empty.then(|| "no controllers are set; set sensors.redfish.targets".to_owned())
})
.every(Duration::from_mins(1), Duration::from_secs(50));

const ROOT: &str = "/redfish/v1/";
const MAX_BYTES: usize = 1 << 20;
/// Of cases, computers, and places for drives in one.
const MAX_MEMBERS: usize = 32;
const MAX_DRIVES: usize = 128;
/// Of temperatures, fans, power supplies in one case.
const MAX_PARTS: usize = 256;
/// Rounds from one look at the drives to the next.
const DRIVE_ROUNDS: u32 = 5;
const POWER_STATES: [&str; 4] = ["On", "Off", "PoweringOn", "PoweringOff"];

/// A metric, its labels, ascending but for those of the device, and its value.
type Told = (&'static str, Vec<(&'static str, String)>, f64);

/// `redfish_*`, with `up` and `scrape_duration_seconds` of each controller.
struct Redfish {
    controllers: Polled<Controller, Asked>,
}

struct Controller {
    target: Target,
    state_dir: PathBuf,
}

struct Asked {
    told: Result<Vec<Told>, AskError>,
    duration: Duration,
}

/// Why a controller tells nothing.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("cannot ask for {path}")]
    Http { path: String, source: HttpError },
    #[error("cannot read {path}")]
    Document { path: String, source: serde_json::Error },
    #[error("cannot begin to ask")]
    Begin(#[from] HttpError),
}

impl Redfish {
    fn new(targets: &[Target], state_dir: Option<&Path>) -> Self {
        // Without a state directory, as in `once`, nothing is kept from one start to the next.
        let state_dir = state_dir.map_or_else(|| std::env::temp_dir().join("veghe-agent"), Path::to_owned);
        let controller = |target: &Target| Controller { target: target.clone(), state_dir: state_dir.clone() };
        Self { controllers: Polled::new("redfish", targets.iter().map(controller).collect(), question) }
    }
}

impl Sensor for Redfish {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        for outcome in self.controllers.round(|controller| controller.target.timeout, |asked| asked.told.is_err()) {
            let target = &outcome.target.target;
            let origin = Origin::new("redfish", &target.instance(), &target.labels);
            let duration = outcome.answer.as_ref().map_or(outcome.waited, |asked| asked.duration);
            let told = outcome.answer.and_then(|asked| asked.told.ok());
            let is_up = f64::from(u8::from(told.is_some()));
            let mut put = |metric: &str, labels: &[(&'static str, String)], value| {
                let labels = labels.iter().map(|(name, value)| (*name, value.as_str()));
                sink.put_named(&origin.series(metric, labels), value);
            };
            put("up", &[], is_up);
            put("redfish_up", &[], is_up);
            put("scrape_duration_seconds", &[], duration.as_secs_f64());
            let mut seen = std::collections::HashSet::new();
            for (metric, labels, value) in told.unwrap_or_default() {
                // Controllers give several sensors one name.
                if seen.insert((metric, labels.clone())) {
                    put(metric, &labels, value);
                }
            }
        }
        Ok(())
    }
}

fn trust(controller: &Controller) -> Result<Option<Trust>, HttpError> {
    let target = &controller.target;
    match (target.url.scheme(), &target.ca_file) {
        ("https", Some(file)) => Trust::ca(file).map(Some),
        ("https", None) => Trust::first_use(&controller.state_dir, &target.instance()).map(Some),
        _ => Ok(None),
    }
}

fn question(controller: Arc<Controller>) -> Question<Asked> {
    let mut drives = Vec::new();
    let mut rounds = 0;
    let mut was_told = false;
    Box::new(move || {
        let begin = clock::instant();
        let told = ask(&controller, begin + controller.target.timeout, rounds, &mut drives);
        match &told {
            Ok(_) => {
                if was_told {
                    tracing::info!(url = %controller.target.url, "a management controller answers again");
                }
                rounds = (rounds + 1) % DRIVE_ROUNDS;
            }
            Err(error) => {
                if !was_told {
                    let error = error as &dyn std::error::Error;
                    tracing::warn!(url = %controller.target.url, error, "cannot ask a management controller");
                }
                rounds = 0;
            }
        }
        was_told = told.is_err();
        Asked { told, duration: begin.elapsed() }
    })
}

/// All that a controller tells; of the drives what it told last, but for round 0.
fn ask(
    controller: &Controller,
    until: std::time::Instant,
    round: u32,
    drives: &mut Vec<Told>,
) -> Result<Vec<Told>, AskError> {
    let target = &controller.target;
    let trust = trust(controller)?;
    let login = target.login.clone().map(|(name, file)| Login::Basic(name, file).header()).transpose()?;
    let mut talk = Talk { visit: Visit::new(&target.url, trust.as_ref(), until), login, told: Vec::new() };
    let root: Root = talk.get(ROOT)?;
    for link in talk.members(root.chassis)? {
        talk.chassis(&link.path)?;
    }
    let systems = talk.members(root.systems)?;
    let mut storages = Vec::new();
    for link in systems {
        storages.push(talk.system(&link.path)?);
    }
    let mut told = std::mem::take(&mut talk.told);
    if round == 0 {
        for (labels, link) in storages {
            talk.storage(&labels, link)?;
        }
        *drives = talk.told;
    }
    told.extend(drives.iter().cloned());
    Ok(told)
}

/// A round's questions to one controller.
struct Talk<'a> {
    visit: Visit<'a>,
    login: Option<String>,
    told: Vec<Told>,
}

impl Talk<'_> {
    fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, AskError> {
        let mut headers = vec![("Accept", "application/json"), ("OData-Version", "4.0")];
        // The root tells everybody, and needs no login.
        headers.extend(self.login.as_deref().filter(|_| path != ROOT).map(|login| ("Authorization", login)));
        let reply = self.visit.get(path, &headers, MAX_BYTES);
        let reply = reply.map_err(|source| AskError::Http { path: path.to_owned(), source })?;
        serde_json::from_slice(&reply.body).map_err(|source| AskError::Document { path: path.to_owned(), source })
    }

    /// What is at `link`; nothing where there is none, or where it leads nowhere.
    fn follow<T: DeserializeOwned + Default>(&mut self, link: Option<Link>) -> Result<T, AskError> {
        match link.map(|link| self.get(&link.path)) {
            None | Some(Err(AskError::Http { source: HttpError::Status(404 | 501), .. })) => Ok(T::default()),
            Some(found) => found,
        }
    }

    fn members(&mut self, link: Option<Link>) -> Result<Vec<Link>, AskError> {
        let mut collection: Collection = self.follow(link)?;
        collection.members.truncate(MAX_MEMBERS);
        Ok(collection.members)
    }

    fn put(&mut self, metric: &'static str, labels: &[(&'static str, &str)], value: Option<f64>) {
        let labels = || labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.told.extend(value.map(|value| (metric, labels(), value)));
    }

    fn chassis(&mut self, path: &str) -> Result<(), AskError> {
        let chassis: Chassis = self.get(path)?;
        let id = chassis.id.as_deref().unwrap_or(path);
        let status = chassis.status.unwrap_or_default();
        let labels = [("chassis_id", id), ("resource", "chassis")];
        self.put("redfish_chassis_health", &labels, status.health());
        self.put("redfish_chassis_state", &labels, status.state());
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (manufacturer, model, part) =
            (text(&chassis.manufacturer), text(&chassis.model), text(&chassis.part_number));
        let labels = [
            ("chassis_id", id),
            ("manufacturer", &manufacturer),
            ("model", &model),
            ("part_number", &part),
            ("resource", "chassis"),
        ];
        self.put("redfish_chassis_model_info", &labels, Some(1.0));
        let thermal: Thermal = self.follow(chassis.thermal)?;
        let power: Power = self.follow(chassis.power)?;
        for part in thermal.temperatures.unwrap_or_default().iter().take(MAX_PARTS) {
            let labels =
                part_labels(id, "temperature", "sensor", "sensor_id", part.name.as_ref(), part.member_id.as_ref());
            self.put("redfish_chassis_temperature_celsius", &labels, part.reading_celsius);
            let state = part.status.as_ref().and_then(Status::state);
            self.put("redfish_chassis_temperature_sensor_state", &labels, state);
        }
        for part in thermal.fans.unwrap_or_default().iter().take(MAX_PARTS) {
            let unit = part.reading_units.as_deref().unwrap_or("RPM").to_lowercase();
            let [chassis, name, member, resource] = part_labels(
                id,
                "fan",
                "fan",
                "fan_id",
                part.name.as_ref().or(part.former_name.as_ref()),
                part.member_id.as_ref(),
            );
            let labels = [chassis, name, member, ("fan_unit", unit.as_str()), resource];
            let status = part.status.clone().unwrap_or_default();
            self.put("redfish_chassis_fan_health", &labels, status.health());
            self.put("redfish_chassis_fan_rpm", &labels, part.reading);
            self.put("redfish_chassis_fan_state", &labels, status.state());
        }
        for part in power.power_control.unwrap_or_default().iter().take(MAX_PARTS) {
            let (name, member) = (part.name.as_ref(), part.member_id.as_ref());
            let labels = part_labels(id, "power_wattage", "power_voltage", "power_voltage_id", name, member);
            let watts = part.power_metrics.as_ref().and_then(|metrics| metrics.average_consumed_watts);
            self.put("redfish_chassis_power_average_consumed_watts", &labels, watts);
        }
        for part in power.power_supplies.unwrap_or_default().iter().take(MAX_PARTS) {
            let (name, member) = (part.name.as_ref(), part.member_id.as_ref());
            let labels = part_labels(id, "power_supply", "power_supply", "power_supply_id", name, member);
            let status = part.status.clone().unwrap_or_default();
            for (metric, value) in [
                ("redfish_chassis_power_powersupply_health", status.health()),
                ("redfish_chassis_power_powersupply_last_power_output_watts", part.last_power_output_watts),
                ("redfish_chassis_power_powersupply_power_capacity_watts", part.power_capacity_watts),
                ("redfish_chassis_power_powersupply_power_input_watts", part.power_input_watts),
                ("redfish_chassis_power_powersupply_power_output_watts", part.power_output_watts),
                ("redfish_chassis_power_powersupply_state", status.state()),
            ] {
                self.put(metric, &labels, value);
            }
        }
        Ok(())
    }

    /// Tells of the computer; gives what its drives bear, and where they are.
    fn system(&mut self, path: &str) -> Result<([String; 2], Option<Link>), AskError> {
        let system: System = self.get(path)?;
        let host = system.host_name.unwrap_or_default();
        let id = system.id.unwrap_or_else(|| path.to_owned());
        let labels = [("hostname", host.as_str()), ("resource", "system"), ("system_id", &id)];
        let status = system.status.unwrap_or_default();
        self.put("redfish_system_health_state", &labels, status.health());
        self.put("redfish_system_power_state", &labels, number(&POWER_STATES, system.power_state.as_deref()));
        self.put("redfish_system_state", &labels, status.state());
        let memory = system.memory_summary.and_then(|memory| memory.status).unwrap_or_default();
        self.put("redfish_system_total_memory_health_state", &labels, memory.health());
        Ok(([host, id], system.storage))
    }

    fn storage(&mut self, [host, id]: &[String; 2], link: Option<Link>) -> Result<(), AskError> {
        let mut left = MAX_DRIVES;
        for link in self.members(link)? {
            let storage: Storage = self.get(&link.path)?;
            for link in storage.drives.unwrap_or_default() {
                if left == 0 {
                    return Ok(());
                }
                left -= 1;
                let path = link.path.clone();
                let drive: Drive = self.follow(Some(link))?;
                let status = drive.status.unwrap_or_default();
                if status.is_absent() {
                    continue;
                }
                let drive_id = drive.id.as_deref().unwrap_or(&path);
                let labels = [
                    ("drive", drive.name.as_deref().unwrap_or(drive_id)),
                    ("drive_id", drive_id),
                    ("hostname", host),
                    ("resource", "drive"),
                    ("system_id", id),
                ];
                self.put("redfish_system_storage_drive_capacity", &labels, drive.capacity_bytes);
                self.put("redfish_system_storage_drive_health_state", &labels, status.health());
                self.put("redfish_system_storage_drive_state", &labels, status.state());
            }
        }
        Ok(())
    }
}

/// The labels of a part of a case: `chassis_id`, its name, its number, `resource`.
fn part_labels<'a>(
    chassis: &'a str,
    resource: &'a str,
    name_label: &'static str,
    id_label: &'static str,
    name: Option<&'a String>,
    id: Option<&'a String>,
) -> [(&'static str, &'a str); 4] {
    let text = |text: Option<&'a String>| text.map_or("", String::as_str);
    [("chassis_id", chassis), (name_label, text(name)), (id_label, text(id)), ("resource", resource)]
}

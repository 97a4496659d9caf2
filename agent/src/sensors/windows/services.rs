//! Windows services under `windows_exporter`'s names: those that start with the machine, and those that settings name
//! besides, as a whole machine's would be thousands of series.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use windows_service::service::{ServiceAccess, ServiceConfig, ServiceStartType};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};

use super::super::glob::Globs;
use super::{Entry, Sensor, SensorError, Sink, ask};
use crate::clock;

pub(crate) const ENTRY: Entry = Entry::new(
    "services",
    |_| Vec::new(),
    |settings| {
        let include = settings.options.services.clone();
        Box::new(Services { include, configs: BTreeMap::new(), asked: None })
    },
);

/// How services start changes rarely, and each is asked on its own.
const CONFIG_INTERVAL: Duration = Duration::from_mins(5);
/// By the number that Windows gives them, from 1.
const STATES: [&str; 7] =
    ["stopped", "start pending", "stop pending", "running", "continue pending", "pause pending", "paused"];
const START_MODES: [(ServiceStartType, &str); 5] = [
    (ServiceStartType::AutoStart, "auto"),
    (ServiceStartType::BootStart, "boot"),
    (ServiceStartType::Disabled, "disabled"),
    (ServiceStartType::OnDemand, "manual"),
    (ServiceStartType::SystemStart, "system"),
];

/// `windows_service_info`, `windows_service_start_mode`, `windows_service_state`.
struct Services {
    include: Globs,
    /// By name; none of one that does not tell.
    configs: BTreeMap<String, Option<ServiceConfig>>,
    asked: Option<Instant>,
}

impl Services {
    fn configure(&mut self, found: &BTreeMap<String, u32>) -> Result<(), windows_service::Error> {
        let is_due = self.asked.is_none_or(|asked| asked.elapsed() >= CONFIG_INTERVAL);
        if is_due {
            self.asked = Some(clock::instant());
            self.configs.clear();
        }
        self.configs.retain(|name, _| found.contains_key(name));
        if found.len() == self.configs.len() {
            return Ok(());
        }
        let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT)?;
        for name in found.keys().filter(|name| !self.configs.contains_key(*name)).cloned().collect::<Vec<_>>() {
            let config =
                manager.open_service(&name, ServiceAccess::QUERY_CONFIG).and_then(|found| found.query_config());
            self.configs.insert(name, config.ok());
        }
        Ok(())
    }
}

impl Sensor for Services {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        let ask = |call| move |source| SensorError::Ask { call, source };
        let found = ask::services().map_err(ask("EnumServicesStatusExW"))?;
        let found: BTreeMap<String, u32> = found.into_iter().map(|found| (found.name, found.state)).collect();
        self.configure(&found).map_err(|error| ask("OpenSCManagerW")(std::io::Error::other(error)))?;
        for (name, state) in &found {
            let config = self.configs.get(name).and_then(Option::as_ref);
            let is_auto = config.is_some_and(|config| config.start_type == ServiceStartType::AutoStart);
            if !is_auto && !self.include.matches(name) {
                continue;
            }
            if let Some(config) = config {
                let display_name = config.display_name.to_string_lossy();
                let path_name = config.executable_path.to_string_lossy();
                let run_as = config.account_name.as_deref().unwrap_or_default().to_string_lossy();
                let labels = [
                    ("display_name", display_name.as_ref()),
                    ("name", name),
                    ("path_name", &path_name),
                    ("run_as", &run_as),
                ];
                sink.put("windows_service_info", &labels, 1.0);
                for (start_type, mode) in START_MODES {
                    let is_it = f64::from(u8::from(config.start_type == start_type));
                    sink.put("windows_service_start_mode", &[("name", name), ("start_mode", mode)], is_it);
                }
            }
            for (number, known) in (1..).zip(STATES) {
                let is_it = f64::from(u8::from(*state == number));
                sink.put("windows_service_state", &[("name", name), ("state", known)], is_it);
            }
        }
        Ok(())
    }
}

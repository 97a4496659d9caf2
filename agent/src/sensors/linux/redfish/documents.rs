//! What management controllers say: the part of Redfish's documents that the sensor tells of.
//!
//! Everything may be missing or null, as it is with many a vendor; a document that is no JSON is an error.

use serde::Deserialize;

/// A reference to another document, by its path.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Link {
    #[serde(rename = "@odata.id", default)]
    pub(super) path: String,
}

/// `/redfish/v1/`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Root {
    pub(super) chassis: Option<Link>,
    pub(super) systems: Option<Link>,
}

/// A list of documents.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Collection {
    pub(super) members: Vec<Link>,
}

/// How something is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Status {
    state: Option<String>,
    health: Option<String>,
}

impl Status {
    /// 1 OK, 2 Warning, 3 Critical; none where it does not tell.
    pub(super) fn health(&self) -> Option<f64> {
        number(&["OK", "Warning", "Critical"], self.health.as_deref())
    }

    /// By the exporter's numbers, from 1 Enabled.
    pub(super) fn state(&self) -> Option<f64> {
        const STATES: [&str; 11] = [
            "Enabled",
            "Disabled",
            "StandbyOffline",
            "StandbySpare",
            "InTest",
            "Starting",
            "Absent",
            "UnavailableOffline",
            "Deferring",
            "Quiesced",
            "Updating",
        ];
        number(&STATES, self.state.as_deref())
    }

    /// Whether there is nothing in its place.
    pub(super) fn is_absent(&self) -> bool {
        self.state.as_deref() == Some("Absent")
    }
}

/// The place of `word` among `words`, from 1.
pub(super) fn number(words: &[&str], word: Option<&str>) -> Option<f64> {
    words.iter().position(|known| Some(*known) == word).map(|position| (position + 1) as f64)
}

/// A case with what is in it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Chassis {
    pub(super) id: Option<String>,
    pub(super) manufacturer: Option<String>,
    pub(super) model: Option<String>,
    pub(super) part_number: Option<String>,
    pub(super) status: Option<Status>,
    pub(super) thermal: Option<Link>,
    pub(super) power: Option<Link>,
}

/// Temperatures and fans of a case.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Thermal {
    pub(super) temperatures: Option<Vec<Temperature>>,
    pub(super) fans: Option<Vec<Fan>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Temperature {
    pub(super) member_id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) reading_celsius: Option<f64>,
    pub(super) status: Option<Status>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Fan {
    pub(super) member_id: Option<String>,
    pub(super) name: Option<String>,
    /// What `name` was called in older versions.
    #[serde(rename = "FanName")]
    pub(super) former_name: Option<String>,
    pub(super) reading: Option<f64>,
    pub(super) reading_units: Option<String>,
    pub(super) status: Option<Status>,
}

/// Power of a case.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Power {
    pub(super) power_control: Option<Vec<PowerControl>>,
    pub(super) power_supplies: Option<Vec<PowerSupply>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct PowerControl {
    pub(super) member_id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) power_metrics: Option<PowerMetrics>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct PowerMetrics {
    pub(super) average_consumed_watts: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct PowerSupply {
    pub(super) member_id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) power_capacity_watts: Option<f64>,
    pub(super) power_input_watts: Option<f64>,
    pub(super) power_output_watts: Option<f64>,
    pub(super) last_power_output_watts: Option<f64>,
    pub(super) status: Option<Status>,
}

/// A computer.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct System {
    pub(super) id: Option<String>,
    pub(super) host_name: Option<String>,
    pub(super) power_state: Option<String>,
    pub(super) status: Option<Status>,
    pub(super) memory_summary: Option<Summary>,
    pub(super) storage: Option<Link>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Summary {
    pub(super) status: Option<Status>,
}

/// What drives hang on.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Storage {
    pub(super) drives: Option<Vec<Link>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Drive {
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) capacity_bytes: Option<f64>,
    pub(super) status: Option<Status>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_null_or_of_another_version_is_missing_and_no_error() {
        let text = r#"{"Temperatures": [{"Name": "Inlet", "ReadingCelsius": null, "Status": {"State": "Absent", "Health": null}}, {}], "Fans": null, "Oem": {"x": [1]}}"#;
        let thermal: Thermal = serde_json::from_str(text).expect("thermal");
        let temperatures = thermal.temperatures.expect("temperatures");
        assert_eq!((temperatures.len(), temperatures[0].reading_celsius, thermal.fans.is_none()), (2, None, true));
        let status = temperatures[0].status.clone().expect("status");
        assert_eq!((status.is_absent(), status.state(), status.health()), (true, Some(7.0), None));
        assert!(serde_json::from_str::<Thermal>("<html>").is_err());
    }
}

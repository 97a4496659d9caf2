//! `/sys/class/hwmon`: temperatures, fans, voltages, currents, power.
//!
//! Which files there are is worked out when the names change, so that a round only reads numbers.

use std::collections::BTreeMap;

use super::glob::Globs;
use super::text;
use super::tree::{Scale, Texts, Tree};
use super::{Entry, Roots, Sensor, SensorError, Sink};

pub(crate) const ENTRY: Entry = Entry::new(
    "hwmon",
    |settings| vec![settings.roots.sys.join("class/hwmon")],
    |settings| Box::new(Hwmon::new(&settings.roots, settings.ignored("hwmon"))),
);

const KINDS: [&str; 13] = [
    "vrm",
    "beep_enable",
    "update_interval",
    "in",
    "cpu",
    "fan",
    "pwm",
    "temp",
    "curr",
    "power",
    "energy",
    "humidity",
    "intrusion",
];
const THOUSANDTHS: Scale = Scale::Times(0.001);
const MILLIONTHS: Scale = Scale::Over(1_000_000.0);

/// `node_hwmon_*`; the label `chip` tells the device's place, as names of chips repeat.
pub(crate) struct Hwmon {
    tree: Tree,
    ignored: Globs,
    chips: Texts,
    names: Texts,
    /// The names of all chips and their files when the plan was made.
    planned_for: Vec<u8>,
    now: Vec<u8>,
    plan: Vec<Value>,
}

/// Where one value comes from and goes to.
#[derive(Debug)]
enum Value {
    Number { file: String, metric: String, chip: String, sensor: String, scale: Scale },
    Label { metric: &'static str, chip: String, label: &'static str, text: String, sensor: Option<String> },
}

impl Hwmon {
    pub(crate) fn new(roots: &Roots, ignored: Globs) -> Self {
        Self {
            tree: Tree::new(&roots.sys.join("class/hwmon")),
            ignored,
            chips: Texts::default(),
            names: Texts::default(),
            planned_for: Vec::new(),
            now: Vec::new(),
            plan: Vec::new(),
        }
    }

    /// Notes the names of all files that there are.
    fn look(&mut self) -> Result<(), SensorError> {
        let tree = &mut self.tree;
        let list = tree.directories(&mut self.chips);
        list.map_err(|source| SensorError::Read { path: tree.path().to_owned(), source })?;
        self.now.clear();
        for chip in self.chips.iter() {
            let mark = tree.enter(chip);
            for directory in ["", "device"] {
                let inner = tree.enter(directory);
                // Few have files of values in the device's own directory, and no list is no names.
                tree.names(&mut self.names).unwrap_or_else(|_| self.names.clear());
                tree.leave(inner);
                for part in [chip, "\n"].into_iter().chain(self.names.iter().flat_map(|name| [name, "\n"])) {
                    self.now.extend_from_slice(part.as_bytes());
                }
                self.now.push(0);
            }
            tree.leave(mark);
        }
        Ok(())
    }

    fn make_plan(&mut self) {
        self.plan.clear();
        for chip in self.chips.iter().filter(|chip| !self.ignored.matches(chip)) {
            let mark = self.tree.enter(chip);
            plan_chip(&mut self.tree, chip, &mut self.names, &mut self.plan);
            self.tree.leave(mark);
        }
    }
}

impl Sensor for Hwmon {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn read(&mut self, sink: &mut Sink) -> Result<(), SensorError> {
        self.look()?;
        if self.now != self.planned_for {
            self.make_plan();
            self.planned_for.clone_from(&self.now);
        }
        for value in &self.plan {
            match value {
                Value::Number { file, metric, chip, sensor, scale } => {
                    // Not every value can be read at every moment.
                    let number = self.tree.text(file).and_then(text::decimal);
                    if let Some(number) = number {
                        sink.put(metric, &[("chip", chip), ("sensor", sensor)], scale.apply(number));
                    }
                }
                Value::Label { metric, chip, label, text, sensor: None } => {
                    sink.put(metric, &[("chip", chip), (label, text)], 1.0);
                }
                Value::Label { metric, chip, label, text, sensor: Some(sensor) } => {
                    sink.put(metric, &[("chip", chip), (label, text), ("sensor", sensor)], 1.0);
                }
            }
        }
        Ok(())
    }
}

/// Puts the values of the chip, in whose directory `tree` is, into `plan`.
fn plan_chip(tree: &mut Tree, directory: &str, names: &mut Texts, plan: &mut Vec<Value>) {
    let chip = chip_name(tree, directory);
    let readable = tree.text("name").map(clean).filter(|name| !name.is_empty());
    if let Some(text) = readable {
        plan.push(Value::Label {
            metric: "node_hwmon_chip_names",
            chip: chip.clone(),
            label: "chip_name",
            text,
            sensor: None,
        });
    }
    // Kind, number and element of each sensor, and the file of the last.
    let mut sensors: BTreeMap<(usize, u32), BTreeMap<String, String>> = BTreeMap::new();
    for below in ["", "device/"] {
        let mark = tree.enter(below);
        tree.names(names).unwrap_or_else(|_| names.clear());
        tree.leave(mark);
        for name in names.iter() {
            if let Some((kind, number, element)) = explode(name) {
                sensors.entry((kind, number)).or_default().insert(element.to_owned(), format!("{below}{name}"));
            }
        }
    }
    for ((kind, number), elements) in sensors {
        let kind = KINDS.get(kind).copied().unwrap_or_default();
        let sensor = format!("{kind}{number}");
        let label = elements.get("label").and_then(|file| tree.text(file)).map(|text| text::label(text).into_owned());
        if let Some(text) = label.filter(|text| !text.is_empty()) {
            let (metric, label) = ("node_hwmon_sensor_label", "label");
            plan.push(Value::Label { metric, chip: chip.clone(), label, text, sensor: Some(sensor.clone()) });
        }
        let has_plain = elements.contains_key("");
        for (element, file) in elements.iter().filter(|(element, _)| *element != "label") {
            let Some((metric, scale)) = metric(kind, element, has_plain) else { continue };
            let file = format!("{directory}/{file}");
            plan.push(Value::Number { file, metric, chip: chip.clone(), sensor: sensor.clone(), scale });
        }
    }
}

/// The metric of a sensor's element, and the unit in which the kernel has it.
fn metric(kind: &str, element: &str, has_plain: bool) -> Option<(String, Scale)> {
    let fixed = match kind {
        "beep_enable" => Some(("node_hwmon_beep_enabled", Scale::One)),
        "vrm" => Some(("node_hwmon_voltage_regulator_version", Scale::One)),
        "update_interval" => Some(("node_hwmon_update_interval_seconds", THOUSANDTHS)),
        _ => None,
    };
    if let Some((name, scale)) = fixed {
        return element.is_empty().then(|| (name.to_owned(), scale));
    }
    let mut name = format!("node_hwmon_{kind}");
    // The input is the value itself, unless there is a file without an element.
    if !(element.is_empty() || element == "input" && !has_plain) {
        name = format!("{name}_{}", clean(element.as_bytes()));
    }
    let (suffix, scale) = match (kind, element) {
        (_, "fault" | "alarm") | ("temp", "type") => ("", Scale::One),
        (_, "beep") => ("_enabled", Scale::One),
        ("in" | "cpu", _) => ("_volts", THOUSANDTHS),
        ("temp", _) => ("_celsius", THOUSANDTHS),
        ("curr", _) => ("_amps", THOUSANDTHS),
        ("energy", _) => ("_joule_total", MILLIONTHS),
        ("power", "accuracy") | ("humidity", _) => ("", MILLIONTHS),
        ("power", "average_interval" | "average_interval_min" | "average_interval_max") => ("_seconds", THOUSANDTHS),
        ("power", _) => ("_watt", MILLIONTHS),
        ("fan", "input" | "min" | "max" | "target") => ("_rpm", Scale::One),
        _ => ("", Scale::One),
    };
    Some((name + suffix, scale))
}

/// `temp1_max` is the kind `temp`, the number 1 and the element `max`.
fn explode(name: &str) -> Option<(usize, u32, &str)> {
    let digits = name.find(|c: char| c.is_ascii_digit());
    let (kind, rest) = match digits {
        Some(at) => name.split_at_checked(at)?,
        // Without a number, all of it up to the last part is the kind, as in `beep_enable` and `update_interval`.
        None => (name, ""),
    };
    let kind = KINDS.iter().position(|known| *known == kind)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (number, element) = rest.split_at_checked(end)?;
    let number = if number.is_empty() { 0 } else { number.parse().ok()? };
    match element.strip_prefix('_') {
        Some(element) if !element.is_empty() => Some((kind, number, element)),
        None if element.is_empty() => Some((kind, number, "")),
        _ => None,
    }
}

/// Lower case, and `_` for whatever can't be in a name, but not at its ends.
fn clean(name: &[u8]) -> String {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == ':' || c == '_';
    let lower = text::label(name).to_lowercase();
    let name: String = lower.chars().map(|c| if allowed(c) { c } else { '_' }).collect();
    name.trim_matches('_').to_owned()
}

/// The device's place, which stays the same when modules are loaded in another order; else the chip's own name.
fn chip_name(tree: &mut Tree, directory: &str) -> String {
    let mark = tree.enter("device");
    let device = tree.path().canonicalize();
    tree.leave(mark);
    let mut parts = device.iter().flat_map(|path| path.iter().rev()).map(|part| clean(part.as_encoded_bytes()));
    let (name, kind) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match (kind.is_empty(), name.is_empty()) {
        (false, false) => return format!("{kind}_{name}"),
        (true, false) => return name,
        _ => {}
    }
    let name = tree.text("name").map(clean).unwrap_or_default();
    if name.is_empty() { clean(directory.as_bytes()) } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_kind_number_and_element() {
        let exploded = |name| explode(name).map(|(kind, number, element)| (KINDS[kind], number, element));
        assert_eq!(exploded("temp1_max_hyst"), Some(("temp", 1, "max_hyst")));
        assert_eq!(exploded("pwm2"), Some(("pwm", 2, "")));
        assert_eq!(exploded("update_interval"), Some(("update_interval", 0, "")));
        for other in ["name", "temp1_", "temp1x", "uevent", "1", "", "temp99999999999_input"] {
            assert_eq!(exploded(other), None, "{other}");
        }
    }
}

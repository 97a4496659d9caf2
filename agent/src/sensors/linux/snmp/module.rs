//! What is walked on a device, and what metrics its values become: as `snmp_exporter` makes them.
//!
//! Invariant: whatever a device sends, a metric has at most one series for each of its rows (two dozen for states).

use veghe_dialects::snmp::{Oid, Value};

use super::mibs::BUILTIN;

/// Numbers and what they mean.
pub(super) type Names = &'static [(i64, &'static str)];

/// A module that is always there.
#[derive(Debug)]
pub(super) struct Builtin {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) walks: &'static [&'static str],
    pub(super) groups: &'static [Group],
}

/// Columns of one table, or single objects.
#[derive(Debug)]
pub(super) struct Group {
    /// What the columns are below.
    pub(super) base: &'static str,
    pub(super) indexes: &'static [&'static str],
    pub(super) found: &'static [Found],
    /// Below the base; the metric's name; its shape.
    pub(super) columns: &'static [(&'static str, &'static str, Shape)],
}

/// A label whose value is found in another column.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) by: &'static [&'static str],
    pub(super) label: &'static str,
    pub(super) oid: &'static str,
    /// Whether the indexes are no labels then.
    pub(super) instead: bool,
}

/// What a built-in column has.
#[derive(Debug)]
pub(super) enum Shape {
    Number,
    Text,
    Address,
    Time,
    States(Names),
    Info(Names),
    Bits(Names),
}

/// One module, ready to be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// The value of the label `module`.
    pub name: String,
    /// What is walked, one after the other.
    pub walks: Vec<Oid>,
    /// What it becomes.
    pub columns: Vec<Column>,
}

/// One metric of a module.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The metric's name.
    pub name: String,
    /// What its values are below.
    pub oid: Oid,
    /// How values become samples.
    pub kind: ColumnKind,
    /// What the numbers after [`Column::oid`] are.
    pub indexes: Vec<Index>,
    /// Labels from other columns.
    pub lookups: Vec<Lookup>,
    /// What values are multiplied with.
    pub scale: f64,
}

/// How values become samples.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnKind {
    /// The number.
    Number,
    /// 1, the text in a label.
    Text,
    /// 1, the bytes in a label as `0x…`.
    Bytes,
    /// 1, the hardware address in a label.
    Address,
    /// A date, in seconds since the Unix epoch.
    Time,
    /// 1 for the state that there is and 0 for each other.
    States(Vec<(i64, String)>),
    /// 1, the state in a label, as `<name>_info`.
    Info(Vec<(i64, String)>),
    /// 1 or 0 for each bit.
    Bits(Vec<(i64, String)>),
}

/// One index of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The label.
    pub label: String,
    /// How it is written.
    pub kind: IndexKind,
}

/// How an index is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexKind {
    /// One number.
    Number,
    /// A length and as many characters.
    Text,
    /// An IPv4 address.
    IpAddress,
    /// A hardware address of six bytes.
    Address,
}

/// A label whose value is found in another column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Labels of the indexes that it is found by.
    pub by: Vec<String>,
    /// The label.
    pub label: String,
    /// The other column.
    pub oid: Oid,
    /// Whether those indexes are no labels then.
    pub instead: bool,
}

/// One sample before it bears the labels of its target.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's name.
    pub metric: String,
    /// Labels, in no order.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

/// Names of the modules that are always there, and what each is about.
pub(super) fn builtin() -> impl Iterator<Item = (&'static str, &'static str)> {
    BUILTIN.iter().map(|module| (module.name, module.about))
}

impl Module {
    /// The built-in module `name`.
    pub fn named(name: &str) -> Option<Self> {
        let builtin = BUILTIN.iter().find(|module| module.name == name)?;
        let columns = builtin.groups.iter().flat_map(|group| {
            let indexes: Vec<Index> = group
                .indexes
                .iter()
                .map(|label| Index { label: (*label).to_owned(), kind: IndexKind::Number })
                .collect();
            let lookups: Vec<Lookup> = group.found.iter().filter_map(Found::lookup).collect();
            group.columns.iter().filter_map(move |(at, name, shape)| {
                Some(Column {
                    name: (*name).to_owned(),
                    oid: format!("{}.{at}", group.base).parse().ok()?,
                    kind: shape.kind(),
                    indexes: indexes.clone(),
                    lookups: lookups.clone(),
                    scale: 1.0,
                })
            })
        });
        let walks = builtin.walks.iter().filter_map(|walk| walk.parse().ok()).collect();
        Some(Self { name: name.to_owned(), walks, columns: columns.collect() })
    }

    /// What the device's values, ascending by name, say.
    pub fn samples(&self, values: &[(Oid, Value)]) -> Vec<Sample> {
        self.columns.iter().flat_map(|column| column.samples(values)).collect()
    }
}

impl Found {
    fn lookup(&self) -> Option<Lookup> {
        Some(Lookup {
            by: self.by.iter().map(|label| (*label).to_owned()).collect(),
            label: self.label.to_owned(),
            oid: self.oid.parse().ok()?,
            instead: self.instead,
        })
    }
}

impl Shape {
    fn kind(&self) -> ColumnKind {
        let owned = |names: &Names| names.iter().map(|(number, name)| (*number, (*name).to_owned())).collect();
        match self {
            Self::Number => ColumnKind::Number,
            Self::Text => ColumnKind::Text,
            Self::Address => ColumnKind::Address,
            Self::Time => ColumnKind::Time,
            Self::States(names) => ColumnKind::States(owned(names)),
            Self::Info(names) => ColumnKind::Info(owned(names)),
            Self::Bits(names) => ColumnKind::Bits(owned(names)),
        }
    }
}

/// The values below `oid`.
fn below<'a>(values: &'a [(Oid, Value)], oid: &'a Oid) -> impl Iterator<Item = (&'a [u32], &'a Value)> {
    let start = values.partition_point(|(name, _)| name < oid);
    let rest = values.get(start..).unwrap_or_default();
    rest.iter().map_while(|(name, value)| Some((name.below(oid)?, value))).filter(|(index, _)| !index.is_empty())
}

impl Column {
    fn samples(&self, values: &[(Oid, Value)]) -> Vec<Sample> {
        let mut samples = Vec::new();
        for (index, value) in below(values, &self.oid) {
            let labels = self.labels(index, values);
            let mut put = |metric: &str, own: Option<&str>, number: f64| {
                let mut labels = labels.clone();
                // An index that is also a column tells its value already.
                if let Some(own) = own.filter(|_| !labels.iter().any(|(label, _)| *label == self.name)) {
                    labels.push((self.name.clone(), own.to_owned()));
                }
                samples.push(Sample { metric: metric.to_owned(), labels, value: number });
            };
            match &self.kind {
                ColumnKind::Number => {
                    if let Some(number) = number(value) {
                        put(&self.name, None, number * self.scale);
                    }
                }
                ColumnKind::Text => put(&self.name, Some(&text(value)), 1.0),
                ColumnKind::Bytes => put(&self.name, Some(&hexadecimal(value)), 1.0),
                ColumnKind::Address => put(&self.name, Some(&address(value)), 1.0),
                ColumnKind::Time => {
                    if let Some(seconds) = date(value) {
                        put(&self.name, None, seconds);
                    }
                }
                ColumnKind::States(names) => {
                    let Some(state) = value.number() else { continue };
                    for (number, name) in names {
                        put(&self.name, Some(name), f64::from(u8::from(*number as f64 == state)));
                    }
                    if !names.iter().any(|(number, _)| *number as f64 == state) {
                        put(&self.name, Some(&state.to_string()), 1.0);
                    }
                }
                ColumnKind::Info(names) => {
                    let Some(state) = value.number() else { continue };
                    let name = names.iter().find(|(number, _)| *number as f64 == state);
                    let name = name.map_or_else(|| state.to_string(), |(_, name)| name.clone());
                    put(&format!("{}_info", self.name), Some(&name), 1.0);
                }
                ColumnKind::Bits(names) => {
                    let Value::Octets(bytes) = value else { continue };
                    for (bit, name) in names {
                        let byte = usize::try_from(*bit / 8).ok().and_then(|at| bytes.get(at)).copied().unwrap_or(0);
                        put(&self.name, Some(name), f64::from(u8::from(byte & 0x80 >> (*bit % 8) != 0)));
                    }
                }
            }
        }
        samples
    }

    /// The labels of the row `index`.
    fn labels(&self, index: &[u32], values: &[(Oid, Value)]) -> Vec<(String, String)> {
        let mut rest = index;
        let mut parts: Vec<(&Index, &[u32])> = Vec::with_capacity(self.indexes.len());
        for index in &self.indexes {
            let length = match (index.kind, rest) {
                (IndexKind::Number, _) => 1,
                (IndexKind::Text, [length, ..]) => (*length as usize).saturating_add(1),
                (IndexKind::Text, []) => 0,
                (IndexKind::IpAddress, _) => 4,
                (IndexKind::Address, _) => 6,
            };
            let (part, after) = rest.split_at(length.min(rest.len()));
            parts.push((index, part));
            rest = after;
        }
        let mut labels: Vec<(String, String)> =
            parts.iter().map(|(index, part)| (index.label.clone(), index.kind.text(part))).collect();
        for lookup in &self.lookups {
            let key = lookup.by.iter().filter_map(|label| parts.iter().find(|(index, _)| index.label == *label));
            let key: Vec<u32> = key.flat_map(|(_, part)| part.iter().copied()).collect();
            let name = Oid::new([lookup.oid.parts(), &key].concat());
            let found = name.and_then(|name| {
                let at = values.binary_search_by(|(other, _)| other.cmp(&name)).ok()?;
                values.get(at).map(|(_, value)| text(value))
            });
            let Some(found) = found else { continue };
            if lookup.instead {
                labels.retain(|(label, _)| !lookup.by.contains(label));
            }
            labels.push((lookup.label.clone(), found));
        }
        labels
    }

    /// Every label that its series may have, for the catalogue.
    #[cfg(test)]
    fn label_names(&self) -> std::collections::BTreeSet<&str> {
        let mut labels: std::collections::BTreeSet<&str> = self.indexes.iter().map(|index| &*index.label).collect();
        for lookup in &self.lookups {
            labels.retain(|label| !lookup.instead || !lookup.by.iter().any(|by| by == label));
            labels.insert(&lookup.label);
        }
        if !matches!(self.kind, ColumnKind::Number | ColumnKind::Time) {
            labels.insert(&self.name);
        }
        labels
    }
}

impl IndexKind {
    fn text(self, part: &[u32]) -> String {
        let joined =
            |part: &[u32], separator: &str| part.iter().map(u32::to_string).collect::<Vec<_>>().join(separator);
        match self {
            Self::Number | Self::IpAddress => joined(part, "."),
            Self::Text => {
                let bytes: Vec<u8> = part.iter().skip(1).map(|byte| *byte as u8).collect();
                plain(&bytes)
            }
            Self::Address => colons(&part.iter().map(|byte| *byte as u8).collect::<Vec<_>>()),
        }
    }
}

/// As a number; some devices write numbers as texts.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Octets(bytes) => std::str::from_utf8(bytes).ok()?.trim().parse().ok().filter(|n: &f64| n.is_finite()),
        value => value.number(),
    }
}

/// As a label's value.
fn text(value: &Value) -> String {
    match value {
        Value::Octets(bytes) | Value::Opaque(bytes) => plain(bytes),
        Value::ObjectId(oid) => oid.to_string(),
        Value::IpAddress(address) => std::net::Ipv4Addr::from(*address).to_string(),
        Value::Counter64(number) => number.to_string(),
        value => value.number().map(|number| number.to_string()).unwrap_or_default(),
    }
}

/// Without what devices fill fixed fields up with, or would break lines.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars()
        .map(|c| if c.is_control() && c != '\0' { ' ' } else { c })
        .filter(|c| *c != '\0')
        .collect::<String>()
        .trim()
        .to_owned()
}

fn hexadecimal(value: &Value) -> String {
    match value {
        Value::Octets(bytes) | Value::Opaque(bytes) => {
            let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
            format!("0x{}", digits.concat())
        }
        value => text(value),
    }
}

fn colons(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

fn address(value: &Value) -> String {
    match value {
        Value::Octets(bytes) => colons(bytes),
        value => text(value),
    }
}

/// `DateAndTime` (RFC 2579) in seconds since the Unix epoch; without a zone it is UTC.
fn date(value: &Value) -> Option<f64> {
    let Value::Octets(bytes) = value else { return None };
    let [year_high, year_low, month, day, hour, minute, second, deci, zone @ ..] = bytes.as_slice() else {
        return None;
    };
    let year = i16::try_from(u16::from_be_bytes([*year_high, *year_low])).ok()?;
    let small = |byte: &u8| i8::try_from(*byte).ok();
    let time = jiff::civil::DateTime::new(
        year,
        small(month)?,
        small(day)?,
        small(hour)?,
        small(minute)?,
        // A leap second.
        small(second)?.min(59),
        i32::from((*deci).min(9)) * 100_000_000,
    );
    let seconds = jiff::tz::TimeZone::UTC.to_timestamp(time.ok()?).ok()?.as_millisecond() as f64 / 1000.0;
    let offset = match zone {
        [sign, hours, minutes] => {
            let offset = f64::from(*hours) * 3600.0 + f64::from(*minutes) * 60.0;
            if *sign == b'-' { -offset } else { offset }
        }
        _ => 0.0,
    };
    Some(seconds - offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oid(text: &str) -> Oid {
        text.parse().expect("a name")
    }

    fn octets(text: &str) -> Value {
        Value::Octets(text.as_bytes().to_owned())
    }

    fn told(module: &Module, mut values: Vec<(Oid, Value)>) -> Vec<String> {
        values.sort_by(|a, b| a.0.cmp(&b.0));
        let line = |sample: Sample| {
            let mut labels: Vec<String> = sample.labels.iter().map(|(n, v)| format!("{n}={v:?}")).collect();
            labels.sort();
            format!("{}{{{}}} {}", sample.metric, labels.join(","), sample.value)
        };
        module.samples(&values).into_iter().map(line).collect()
    }

    #[test]
    fn every_name_of_the_modules_is_one_and_every_metric_in_the_catalogue_with_its_labels() {
        for builtin in BUILTIN {
            let module = Module::named(builtin.name).expect("a module");
            let columns: usize = builtin.groups.iter().map(|group| group.columns.len()).sum();
            assert_eq!((module.columns.len(), module.walks.len()), (columns, builtin.walks.len()), "{}", builtin.name);
            for group in builtin.groups {
                assert!(group.found.iter().all(|found| found.lookup().is_some()), "{}", builtin.name);
            }
            for column in &module.columns {
                let info = if matches!(column.kind, ColumnKind::Info(_)) { "_info" } else { "" };
                let metric = veghe_wire::catalogue::lookup(&format!("{}{info}", column.name));
                let metric = metric.unwrap_or_else(|| panic!("{} is not in the catalogue", column.name));
                assert_eq!(metric.labels, column.label_names().into_iter().collect::<Vec<_>>(), "{}", column.name);
                let is_walked = |oid: &Oid| module.walks.iter().any(|walk| oid.below(walk).is_some());
                assert!(is_walked(&column.oid), "{} is not walked", column.name);
                for lookup in &column.lookups {
                    assert!(is_walked(&lookup.oid), "{} is not walked", lookup.label);
                }
            }
        }
    }

    #[test]
    fn interfaces_are_told_as_snmp_exporter_tells_them() {
        let column = |column: u32| oid(&format!("1.3.6.1.2.1.2.2.1.{column}.7"));
        let values = vec![
            (oid("1.3.6.1.2.1.1.3.0"), Value::TimeTicks(4711)),
            (column(2), octets("eth0")),
            (column(3), Value::Integer(6)),
            (column(6), Value::Octets(vec![0, 0x1b, 0xff, 1, 2, 3])),
            (oid("1.3.6.1.2.1.31.1.1.1.1.7"), octets("eth0")),
            (oid("1.3.6.1.2.1.31.1.1.1.6.7"), Value::Counter64(1 << 60 | 5)),
            (oid("1.3.6.1.2.1.31.1.1.1.18.7"), octets("spre \"scanner\"")),
        ];
        let labels = r#"ifAlias="spre \"scanner\"",ifDescr="eth0",ifIndex="7",ifName="eth0""#;
        assert_eq!(
            told(&Module::named("if_mib").expect("a module"), values),
            [
                "sysUpTime{} 4711".to_owned(),
                format!(r#"ifType_info{{{labels},ifType="ethernetCsmacd"}} 1"#),
                format!(r#"ifPhysAddress{{{labels},ifPhysAddress="00:1B:FF:01:02:03"}} 1"#),
                format!("ifHCInOctets{{{labels}}} 5"),
            ]
        );
    }

    #[test]
    fn states_bits_dates_and_dropped_indexes_are_told() {
        let module = Module::named("printer_mib").expect("a module");
        let values = vec![
            (oid("1.3.6.1.2.1.25.3.5.1.1.1"), Value::Integer(4)),
            (oid("1.3.6.1.2.1.25.3.5.1.2.1"), Value::Octets(vec![0b0000_0100, 0])),
        ];
        let told_values = told(&module, values);
        let device = r#"hrDeviceIndex="1","#;
        let ones: Vec<_> = told_values.iter().filter(|line| line.ends_with(" 1")).cloned().collect();
        assert_eq!(
            ones,
            [
                format!(r#"hrPrinterStatus{{{device}hrPrinterStatus="printing"}} 1"#),
                format!(r#"hrPrinterDetectedErrorState{{{device}hrPrinterDetectedErrorState="jammed"}} 1"#),
            ]
        );
        assert_eq!(told_values.len(), 5 + 15);
        let disk = |column: u32| oid(&format!("1.3.6.1.4.1.6574.2.1.1.{column}.0"));
        let values = vec![(disk(2), octets("Disk 1\0\0")), (disk(6), Value::Integer(38))];
        assert_eq!(
            told(&Module::named("synology").expect("a module"), values),
            [r#"diskTemperature{diskID="Disk 1"} 38"#]
        );
        let date = |bytes: &[u8]| date(&Value::Octets(bytes.to_owned()));
        assert_eq!(date(&[0x07, 0xea, 3, 2, 10, 0, 0, 5, b'+', 2, 0]), Some(1_772_438_400.5));
        assert_eq!(date(&[0x07, 0xea, 13, 2, 10, 0, 0, 0]), None);
        assert_eq!(date(&[0x07, 0xea]), None);
    }
}

//! The section `digitization`: the project's calendar, shifts, plan and first assumptions.

use std::collections::BTreeSet;
use std::path::PathBuf;

use veghe_wire::document::{Node, Problems, Section, parse_bool, parse_bytes};

use super::files::NamedFile;
use super::status::parse_query;
use super::{keys, parse_text, parse_time_zone, required, set, values};
use crate::alerting::{Channel, Receiver};
use crate::digitization::Day;
use crate::digitization::pack::{Language, Schedule};
use crate::digitization::privacy::{self, LEAST_DAYS, MOST_DAYS, Operators};
use crate::digitization::quality::{Level, Rule};
use crate::digitization::runway::{Free, MAX_STORAGES, Storage};
use crate::digitization::settings::{MAX_SHIFTS, OUTSIDE, PacePrior, Plan, Settings, Shift};

pub(super) fn read(
    section: &mut Section<'_>,
    receivers: &[Receiver],
    named: &mut Vec<NamedFile>,
    p: &mut Problems,
) -> Settings {
    let mut settings = Settings::default();
    set(&mut settings.project, section.value("project", p, parse_text));
    set(&mut settings.time_zone, section.value("time_zone", p, parse_time_zone));
    settings.calendar.days_off = days(section, "days_off", p);
    settings.calendar.working_days = days(section, "working_days", p);
    let shifts = section.list("shifts", p);
    if !shifts.is_empty() {
        settings.shifts = read_shifts(shifts, p);
    }
    settings.stations = values(section, "stations", p, parse_name);
    settings.plan = section.section("plan", p).and_then(|mut plan| {
        let from = required(&mut plan, "from", p, str::parse::<Day>);
        let line = plan.line();
        let finish = required(&mut plan, "finish", p, str::parse::<Day>);
        plan.finish(keys("digitization.plan"), p);
        let plan = Plan { from: from?, finish: finish? };
        if plan.finish <= plan.from {
            p.note(line, "digitization.plan", "ends before it begins; give `finish` a day after `from`");
        }
        Some(plan)
    });
    settings.pages_per_metre = section.value("pages_per_metre", p, parse_positive);
    settings.pace = section.section("pages_per_day", p).and_then(|mut pace| {
        let line = pace.line();
        let low = required(&mut pace, "low", p, parse_positive);
        let likely = required(&mut pace, "likely", p, parse_positive);
        let high = required(&mut pace, "high", p, parse_positive);
        pace.finish(keys("digitization.pages_per_day"), p);
        let prior = PacePrior { low: low?, likely: likely?, high: high? };
        if !(prior.low <= prior.likely && prior.likely <= prior.high) {
            p.note(line, "digitization.pages_per_day", "is not ascending; write low, likely and high in this order");
        }
        Some(prior)
    });
    settings.reports = section.section("reports", p).map(|mut reports| {
        let schedule = read_schedule(&mut reports, receivers, p);
        reports.finish(keys("digitization.reports"), p);
        schedule
    });
    settings.quality = section.list("quality", p).iter().map(|node| read_rule(node, p)).collect();
    settings.workflows = super::workflow::read(section.list("workflows", p), named, p);
    if let Some(mut section) = section.section("privacy", p) {
        settings.privacy = read_privacy(&mut section, p);
        section.finish(keys("digitization.privacy"), p);
    }
    settings.storages = read_storages(section.list("storages", p), p);
    settings
}

fn read_storages(list: &[Node], p: &mut Problems) -> Vec<Storage> {
    let mut storages: Vec<Storage> = Vec::new();
    for node in list {
        let mut section = node.section(p);
        let name = required(&mut section, "name", p, parse_name);
        let instance = section.value("instance", p, parse_text);
        let mountpoint = section.value("mountpoint", p, parse_text);
        let expr = section.value("free", p, parse_query);
        let reserve_bytes = section.value("reserve", p, parse_bytes).unwrap_or(0);
        let ratio = section.value("ratio", p, parse_positive).unwrap_or(1.0);
        section.finish(keys("digitization.storages[]"), p);
        let free = match (instance, mountpoint, expr) {
            (Some(instance), Some(mountpoint), None) => Free::Mount { instance, mountpoint },
            (None, None, Some(expr)) => Free::Expr(expr),
            _ => {
                let message =
                    "says not where its free space is read; give `instance` and `mountpoint`, or `free` alone";
                p.note(node.line, &*node.key, message);
                continue;
            }
        };
        let Some(name) = name else { continue };
        if storages.iter().any(|other| other.name == name) {
            p.note(node.line, &*node.key, format_args!("name `{name}` is used twice; choose another"));
        }
        storages.push(Storage { name, free, reserve_bytes, ratio });
    }
    if storages.len() > MAX_STORAGES {
        p.note(
            list[0].line,
            "digitization.storages",
            format_args!("has {} storages; at most {MAX_STORAGES}", storages.len()),
        );
    }
    storages
}

fn read_privacy(section: &mut Section<'_>, p: &mut Problems) -> privacy::Settings {
    let mut settings = privacy::Settings::default();
    let operators = section.value("operators", p, |name| {
        let known = Operators::ALL.into_iter().find(|way| way.name() == name);
        known.ok_or_else(|| format!("`{name}` is none of {}", Operators::ALL.map(Operators::name).join(", ")))
    });
    set(&mut settings.operators, operators);
    let keep = section.value("keep", p, |text| {
        let days = text.strip_suffix('d').and_then(|days| days.parse::<u16>().ok());
        days.filter(|days| (LEAST_DAYS..=MOST_DAYS).contains(days))
            .ok_or_else(|| format!("`{text}` is not {LEAST_DAYS}d to {MOST_DAYS}d"))
    });
    set(&mut settings.keep_days, keep);
    settings.key_file = section.value("key_file", p, parse_text).map(PathBuf::from);
    settings
}

fn read_rule(node: &Node, p: &mut Problems) -> Rule {
    let mut section = node.section(p);
    let mut rule = Rule {
        series: section.value("series", p, parse_text),
        binding: section.value("binding", p, parse_text),
        min_ppi: section.value("min_ppi", p, parse_positive),
        level: section.value("level", p, |name| {
            let names = || Level::ALL.map(Level::name).join(", ");
            let known = Level::ALL.into_iter().find(|level| level.name() == name);
            known.ok_or_else(|| format!("`{name}` is none of {}", names()))
        }),
        min_bits: section.value("min_bits", p, |text| match text.parse::<u32>() {
            Ok(bits) if (1..=64).contains(&bits) => Ok(bits),
            _ => Err(format!("`{text}` is not a number of 1 to 64, for example `8`")),
        }),
        formats: values(&mut section, "formats", p, parse_text),
        compressions: values(&mut section, "compressions", p, parse_text),
        icc: false,
    };
    set(&mut rule.icc, section.value("icc", p, parse_bool));
    section.finish(keys("digitization.quality[]"), p);
    let asks = rule.least_ppi().is_some() || rule.min_bits.is_some() || rule.icc;
    if !asks && rule.formats.is_empty() && rule.compressions.is_empty() {
        p.note(node.line, &*node.key, "asks for nothing; give min_ppi, level, min_bits, formats, compressions or icc");
    }
    rule
}

fn read_schedule(section: &mut Section<'_>, receivers: &[Receiver], p: &mut Problems) -> Schedule {
    let mut schedule = Schedule::default();
    set(&mut schedule.weekly, section.value("weekly", p, parse_bool));
    set(&mut schedule.monthly, section.value("monthly", p, parse_bool));
    set(&mut schedule.at, section.value("at", p, parse_time));
    let languages = values(section, "languages", p, |tag| {
        let known = Language::ALL.into_iter().find(|language| language.tag() == tag);
        known.ok_or_else(|| format!("`{tag}` is neither `ro` nor `en`"))
    });
    if !languages.is_empty() {
        schedule.languages = languages;
    }
    schedule.mail = values(section, "mail", p, |name| {
        let receiver = receivers.iter().find(|receiver| receiver.name == name);
        match receiver.map(|receiver| &receiver.channel) {
            Some(Channel::Mail(_)) => Ok(name.to_owned()),
            Some(_) => Err(format!("`{name}` gets no mail; name a receiver of `alerting.receivers` with `mail`")),
            None => Err(format!("`{name}` is not among `alerting.receivers`; add it there with `mail`")),
        }
    });
    schedule
}

fn days(section: &mut Section<'_>, key: &str, p: &mut Problems) -> BTreeSet<Day> {
    values(section, key, p, str::parse::<Day>).into_iter().collect()
}

fn read_shifts(list: &[Node], p: &mut Problems) -> Vec<Shift> {
    let mut shifts: Vec<Shift> = Vec::new();
    for node in list {
        let mut section = node.section(p);
        let name = required(&mut section, "name", p, parse_name);
        let from = required(&mut section, "from", p, parse_time);
        let to = required(&mut section, "to", p, parse_time);
        section.finish(keys("digitization.shifts[]"), p);
        let (Some(name), Some(from), Some(to)) = (name, from, to) else { continue };
        let shift = Shift { name, from, to };
        if shifts.iter().any(|other| other.name == shift.name) {
            p.note(node.line, &*node.key, format_args!("name `{}` is used twice; choose another", shift.name));
        }
        if let Some(other) = shifts.iter().find(|other| other.contains(shift.from) || shift.contains(other.from)) {
            p.note(
                node.line,
                &*node.key,
                format_args!("overlaps shift `{}`; let one end when the other begins", other.name),
            );
        }
        shifts.push(shift);
    }
    if shifts.len() > MAX_SHIFTS {
        p.note(list[0].line, "digitization.shifts", format_args!("has {} shifts; at most {MAX_SHIFTS}", shifts.len()));
    }
    shifts
}

/// Reads a name that may become a label of metrics.
pub(super) fn parse_name(text: &str) -> Result<String, String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text == OUTSIDE {
        return Err(format!("`{OUTSIDE}` is the name of the time outside of every shift; choose another"));
    }
    if (1..=32).contains(&text.len()) && text.chars().all(is_word) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is not a short name; write 1 to 32 letters, digits, `.`, `_` or `-`, for example `S02`"))
}

/// Reads `08:00` as minutes since midnight.
fn parse_time(text: &str) -> Result<u16, String> {
    let time = text.split_once(':').and_then(|(hour, minute)| {
        let (hour, minute) = (hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?);
        (hour < 24 && minute < 60).then_some(hour * 60 + minute)
    });
    time.ok_or_else(|| format!("`{text}` is not a time of day; write for example `\"08:00\"`"))
}

fn parse_positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number < 1e12 => Ok(number),
        _ => Err(format!("`{text}` is not a number above 0")),
    }
}

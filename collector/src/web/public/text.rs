//! The words of the public pages: languages, messages, numbers, dates and durations as each language writes them.
//!
//! Invariant: every message exists in every language with the same placeables (a test compares them). What it
//! deliberately does not do: know pages.

use std::fmt::Display;
use std::sync::LazyLock;
use std::time::Duration;

use fluent_bundle::concurrent::FluentBundle;
use fluent_bundle::{FluentArgs, FluentResource, FluentValue};
use jiff::tz::TimeZone;
use unic_langid::LanguageIdentifier;
use veghe_model::Timestamp;

use crate::status::Localized;

/// A language of the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::web) enum Language {
    Romanian,
    English,
}

type Bundle = FluentBundle<FluentResource>;

static ROMANIAN: LazyLock<Bundle> = LazyLock::new(|| bundle(Language::Romanian));
static ENGLISH: LazyLock<Bundle> = LazyLock::new(|| bundle(Language::English));

const fn source(language: Language) -> &'static str {
    match language {
        Language::Romanian => include_str!("../../../locales/ro.ftl"),
        Language::English => include_str!("../../../locales/en.ftl"),
    }
}

fn bundle(language: Language) -> Bundle {
    let tag: LanguageIdentifier = language.tag().parse().expect("invariant: our tags are language tags");
    let resource = FluentResource::try_new(source(language).to_owned());
    let resource = resource.map_err(|(_, errors)| errors).expect("invariant: messages parse, a test reads them all");
    let mut bundle = FluentBundle::new_concurrent(vec![tag]);
    match language {
        Language::Romanian => bundle.set_formatter(Some(|value, _| number(value, Language::Romanian))),
        Language::English => bundle.set_formatter(Some(|value, _| number(value, Language::English))),
    }
    // Isolation marks are for mixed directions of writing; both languages run left to right.
    bundle.set_use_isolating(false);
    let form = match language {
        Language::Romanian => romanian_form as fn(u64) -> &'static str,
        Language::English => english_form,
    };
    bundle
        .add_function("PLURAL", move |arguments, _| match arguments {
            [FluentValue::Number(number)] => FluentValue::from(form(number.value as u64)),
            _ => FluentValue::Error,
        })
        .expect("invariant: the function is added once");
    bundle.add_resource(resource).expect("invariant: message keys are unique, a test reads them all");
    bundle
}

/// How a number that is put into a message is written; whatever else is written as it is.
fn number(value: &FluentValue<'_>, language: Language) -> Option<String> {
    match value {
        FluentValue::Number(number) if number.value.fract() == 0.0 => Some(language.whole(number.value as i64)),
        _ => None,
    }
}

/// Romanian plural of whole numbers: `o zi`, `2 zile`, `20 de zile`, `101 zile` (CLDR's rule; the one that comes with the
/// Fluent crates asks for `119 de zile`, so the messages call this one).
fn romanian_form(count: u64) -> &'static str {
    match (count, count % 100) {
        (1, _) => "one",
        (0, _) | (_, 1..=19) => "few",
        _ => "other",
    }
}

fn english_form(count: u64) -> &'static str {
    if count == 1 { "one" } else { "other" }
}

impl Language {
    pub(in crate::web) const ALL: [Self; 2] = [Self::Romanian, Self::English];

    /// Its tag, which is also its path.
    pub(in crate::web) const fn tag(self) -> &'static str {
        match self {
            Self::Romanian => "ro",
            Self::English => "en",
        }
    }

    pub(in crate::web) const fn other(self) -> Self {
        match self {
            Self::Romanian => Self::English,
            Self::English => Self::Romanian,
        }
    }

    pub(in crate::web) fn of(self, text: &Localized) -> &str {
        match self {
            Self::Romanian => &text.ro,
            Self::English => &text.en,
        }
    }

    /// The language that `accept_language` likes best (RFC 9110, 12.5.4). Romanian where it has no preference: the
    /// pages are a Romanian county's.
    pub(in crate::web) fn negotiate(accept_language: &str) -> Self {
        let mut quality = [None; 2];
        let mut any = None;
        // A header of a browser has a handful of entries; more than a few dozen is an attempt to make us work.
        for entry in accept_language.split(',').take(32) {
            let (range, parameter) = entry.split_once(';').unwrap_or((entry, ""));
            let q = match parameter.trim().split_once('=') {
                Some((name, value)) if name.trim().eq_ignore_ascii_case("q") => {
                    value.trim().parse::<f32>().ok().filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0)
                }
                _ => 1.0,
            };
            let range = range.trim();
            if range == "*" {
                any = Some(q);
                continue;
            }
            let primary = range.split('-').next().unwrap_or("");
            for (language, best) in Self::ALL.into_iter().zip(&mut quality) {
                if primary.eq_ignore_ascii_case(language.tag()) {
                    *best = Some(best.unwrap_or(0.0_f32).max(q));
                }
            }
        }
        let [romanian, english] = quality.map(|q| q.or(any).unwrap_or(0.0));
        if english > romanian { Self::English } else { Self::Romanian }
    }

    /// `900.000` or `900,000`, of any whole number.
    pub(in crate::web) fn whole(self, number: impl Display) -> String {
        let text = number.to_string();
        let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("−", digits));
        let mut grouped = sign.to_owned();
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                grouped.push(if self == Self::Romanian { '.' } else { ',' });
            }
            grouped.push(digit);
        }
        grouped
    }

    /// With so many digits after the comma or point.
    pub(in crate::web) fn decimal(self, number: f64, digits: usize) -> String {
        let text = format!("{number:.digits$}");
        let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
        let point = match self {
            _ if rest.is_empty() => "",
            Self::Romanian => ",",
            Self::English => ".",
        };
        format!("{}{point}{rest}", self.whole(whole))
    }

    /// The message of `key`.
    pub(in crate::web) fn text(self, key: &str) -> String {
        self.format(key, None)
    }

    /// The message of `key` with `pairs` put in.
    pub(in crate::web) fn with<'a>(self, key: &str, pairs: &[(&'a str, FluentValue<'a>)]) -> String {
        let args: FluentArgs<'_> = pairs.iter().cloned().collect();
        self.format(key, Some(&args))
    }

    /// The message of `key` that says how many.
    pub(in crate::web) fn count(self, key: &str, count: u64) -> String {
        self.with(key, &[("count", FluentValue::from(count))])
    }

    fn format(self, key: &str, args: Option<&FluentArgs<'_>>) -> String {
        let bundle = match self {
            Self::Romanian => &*ROMANIAN,
            Self::English => &*ENGLISH,
        };
        let pattern = bundle.get_message(key).and_then(|message| message.value());
        let pattern = pattern.expect("invariant: pages use messages that exist, tests render every page");
        bundle.format_pattern(pattern, args, &mut Vec::new()).into_owned()
    }

    /// A share of 1 in per cent with two digits, rounded down: what was not whole never reads 100 %.
    pub(in crate::web) fn percent(self, share: f64) -> String {
        let hundredths = (share.clamp(0.0, 1.0) * 10_000.0 + 1e-6).floor() as u64;
        let (whole, rest) = (hundredths / 100, hundredths % 100);
        match (self, rest) {
            (_, 0) => format!("{whole}%"),
            (Self::Romanian, _) => format!("{whole},{rest:02}%"),
            (Self::English, _) => format!("{whole}.{rest:02}%"),
        }
    }

    /// `23 noiembrie 2026, 13:05`.
    pub(in crate::web) fn date_time(self, at: Timestamp, zone: &TimeZone) -> String {
        let local = local(at, zone);
        self.with(
            "date-time",
            &[
                ("day", local.day().to_string().into()),
                ("month", self.text(&format!("month-{}", local.month())).into()),
                ("year", local.year().to_string().into()),
                ("time", local.strftime("%H:%M").to_string().into()),
            ],
        )
    }

    /// A duration in its two largest units, minutes the smallest: `22 de ore și 30 de minute`.
    pub(in crate::web) fn span(self, span: Duration) -> String {
        let minutes = span.as_secs() / 60;
        let (days, hours, minutes) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
        // A full day reads "24 hours": the bar's own words.
        let (days, hours) = if days == 1 && hours == 0 { (0, 24) } else { (days, hours) };
        let units = [("days", days), ("hours", hours), ("minutes", minutes)];
        let mut words = units.into_iter().filter(|(_, n)| *n > 0).take(2).map(|(key, n)| self.count(key, n));
        match (words.next(), words.next()) {
            (Some(first), Some(second)) => self.with("span-two", &[("first", first.into()), ("second", second.into())]),
            (Some(only), None) => only,
            _ => self.text("under-a-minute"),
        }
    }
}

/// `13:05`, the same in every language.
pub(in crate::web) fn clock_time(at: Timestamp, zone: &TimeZone) -> String {
    local(at, zone).strftime("%H:%M").to_string()
}

/// For `datetime` attributes and JSON: `2026-11-23T13:05:00+02:00`.
pub(in crate::web) fn machine_time(at: Timestamp, zone: &TimeZone) -> String {
    local(at, zone).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// The time zone's short name at that moment, and its distance from UTC: `EET, UTC+02:00`.
pub(in crate::web) fn zone_name(at: Timestamp, zone: &TimeZone) -> String {
    local(at, zone).strftime("%Z, UTC%:z").to_string()
}

fn local(at: Timestamp, zone: &TimeZone) -> jiff::ZonedDateTime {
    jiff::Timestamp::from_millisecond(at.0).unwrap_or_default().to_zoned_datetime(zone.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// Keys of a language's messages, each with the variables that it uses.
    fn messages(language: Language) -> BTreeMap<String, BTreeSet<String>> {
        let mut messages = BTreeMap::<String, BTreeSet<String>>::new();
        let mut key = String::new();
        for line in source(language).lines() {
            if let Some((name, _)) = line.split_once(" = ").filter(|_| !line.starts_with([' ', '#', '}'])) {
                key = name.to_owned();
                assert!(messages.insert(key.clone(), BTreeSet::new()).is_none(), "{key} is there twice");
            }
            for part in line.split('$').skip(1) {
                let name = part.chars().take_while(char::is_ascii_alphanumeric).collect();
                messages.get_mut(&key).expect("a variable belongs to a message").insert(name);
            }
        }
        messages
    }

    #[test]
    fn both_languages_have_the_same_messages_with_the_same_variables() {
        assert!(messages(Language::Romanian).len() > 40);
        assert_eq!(messages(Language::Romanian), messages(Language::English));
    }

    #[test]
    fn every_message_parses() {
        for language in Language::ALL {
            for key in messages(language).keys() {
                assert!(!language.count(key, 2).is_empty(), "{key} in {language:?}");
            }
        }
    }

    #[test]
    fn romanian_has_its_own_diacritics_and_not_the_turkish_ones() {
        assert!(source(Language::Romanian).contains('ț'));
        assert!(!source(Language::Romanian).contains(['\u{15f}', '\u{163}', '\u{15e}', '\u{162}']));
    }

    #[test]
    fn romanian_counts_days_in_three_ways() {
        let days = |n| Language::Romanian.count("days", n);
        assert_eq!(
            [1, 2, 19, 20, 100, 101, 119, 120].map(days),
            ["o zi", "2 zile", "19 zile", "20 de zile", "100 de zile", "101 zile", "119 zile", "120 de zile"]
        );
        assert_eq!(Language::English.count("days", 1), "one day");
        assert_eq!(
            (days(12_345), Language::English.count("days", 12_345)),
            ("12.345 de zile".into(), "12,345 days".into())
        );
    }

    #[test]
    fn dates_numbers_and_spans_are_written_as_each_language_does() {
        let zone = TimeZone::get("Europe/Bucharest").expect("time zone");
        let at = Timestamp(1_795_431_900_000);
        assert_eq!(Language::Romanian.date_time(at, &zone), "23 noiembrie 2026, 13:05");
        assert_eq!(Language::English.date_time(at, &zone), "23 November 2026, 13:05");
        assert_eq!(machine_time(at, &zone), "2026-11-23T13:05:00+02:00");
        assert_eq!(zone_name(at, &zone), "EET, UTC+02:00");
        assert_eq!(Language::Romanian.percent(0.999_99), "99,99%");
        assert_eq!(Language::English.percent(1.0), "100%");
        assert_eq!(Language::Romanian.span(Duration::from_mins(22 * 60 + 30)), "22 de ore și 30 de minute");
        assert_eq!(Language::English.span(Duration::from_hours(24)), "24 hours");
    }

    #[test]
    fn the_preferred_language_wins_and_romanian_where_there_is_no_preference() {
        let tags = |header| Language::negotiate(header).tag();
        assert_eq!(tags("en-GB,en;q=0.9,ro;q=0.8"), "en");
        assert_eq!(tags("en;q=0.5, ro-RO;q=0.9"), "ro");
        assert_eq!(tags("fr, *;q=0.5"), "ro");
        assert_eq!(tags("ro;q=0, *;q=0.1"), "en");
        assert_eq!(tags("ro;q=0.3,en;q=0.300001"), "en");
        assert_eq!(tags(""), "ro");
        assert_eq!(tags(";;;q=,=,en;q=nan"), "ro");
    }
}

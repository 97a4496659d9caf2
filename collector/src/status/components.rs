//! What the status page speaks of: components, the expressions behind them and the state that follows from their
//! samples.
//!
//! Invariants: ids are unique and not empty; every expression parses. "No data" is never "down": a component without
//! samples is [`State::Unknown`]. What it deliberately does not do: ask the store, keep history, know languages' words.

use std::collections::BTreeSet;

use veghe_promql::{ParseError, Query};

/// A text in every language of the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Localized {
    /// In Romanian.
    pub ro: String,
    /// In English.
    pub en: String,
}

impl Localized {
    /// The same text in every language: a host's name.
    pub fn same(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { ro: text.clone(), en: text }
    }
}

/// How a component does, from best to worst; the order decides which of two states is the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// The collector has no data: neither good nor bad, and left out of uptime.
    Unknown,
    /// Works.
    Operational,
    /// Announced work; left out of uptime.
    Maintenance,
    /// Works, but worse than it should.
    Degraded,
    /// Some of its parts are down.
    PartialOutage,
    /// Down.
    MajorOutage,
}

impl State {
    /// Every state, from best to worst.
    pub const ALL: [Self; 6] =
        [Self::Unknown, Self::Operational, Self::Maintenance, Self::Degraded, Self::PartialOutage, Self::MajorOutage];

    /// The number that stands for it in the ledger; never reused.
    pub(crate) const fn code(self) -> i64 {
        match self {
            Self::Unknown => 0,
            Self::Operational => 1,
            Self::Degraded => 2,
            Self::PartialOutage => 3,
            Self::MajorOutage => 4,
            Self::Maintenance => 5,
        }
    }

    /// The state of a ledger's number; a number of a newer program is [`State::Unknown`].
    pub(crate) fn from_code(code: i64) -> Self {
        Self::ALL.into_iter().find(|state| state.code() == code).unwrap_or(Self::Unknown)
    }
}

/// How many of an expression's samples must be good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Need {
    /// All: some bad ones are a partial outage.
    #[default]
    All,
    /// Any: redundant parts, of which one is enough.
    Any,
}

/// One component as configured.
#[derive(Clone, Debug)]
pub struct ComponentSettings {
    /// Names it in the ledger and in JSON; stays the same when the name changes.
    pub id: String,
    /// What visitors read.
    pub name: Localized,
    /// What it is for.
    pub description: Option<Localized>,
    /// The heading that it stands below.
    pub group: Option<Localized>,
    /// PromQL. Each sample is one part: 0 is down, everything else works, NaN is no data. No sample at all is
    /// unknown, so write `up == bool 1` and not the filter `up == 1`.
    pub expr: String,
    /// PromQL; a sample other than 0 makes an operational component degraded.
    pub degraded: Option<String>,
    /// How many samples of `expr` must be good.
    pub need: Need,
}

/// Which components there are.
#[derive(Clone, Debug)]
pub enum ComponentSource {
    /// Those of the configuration.
    Configured(Vec<ComponentSettings>),
    /// One for each `instance` among the samples of `expr`, named by it.
    PerInstance {
        /// As [`ComponentSettings::expr`].
        expr: String,
    },
}

impl Default for ComponentSource {
    fn default() -> Self {
        Self::PerInstance { expr: r#"up{job="node"}"#.to_owned() }
    }
}

/// Why components can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// An id is empty.
    #[error("component `{name}` has an empty id")]
    EmptyId {
        /// Its English name.
        name: String,
    },
    /// Two components share an id.
    #[error("component id `{id}` is used twice")]
    RepeatedId {
        /// The id.
        id: String,
    },
    /// An expression is no query.
    #[error("cannot parse {key} of component `{id}`")]
    Expression {
        /// The component.
        id: String,
        /// `expr` or `degraded`.
        key: &'static str,
        /// Position and cause.
        source: ParseError,
    },
}

/// One component, its expressions parsed.
#[derive(Clone, Debug)]
pub(crate) struct Component {
    pub(crate) settings: ComponentSettings,
    pub(crate) expr: Query,
    pub(crate) degraded: Option<Query>,
}

/// What is evaluated each round.
#[derive(Clone, Debug)]
pub(crate) enum Plan {
    Configured(Vec<Component>),
    PerInstance(Query),
}

impl Plan {
    /// Parses every expression of `source`.
    pub(crate) fn new(source: ComponentSource) -> Result<Self, ComponentError> {
        let parse = |id: &str, key, text: &str| {
            Query::parse(text).map_err(|source| ComponentError::Expression { id: id.to_owned(), key, source })
        };
        match source {
            ComponentSource::PerInstance { expr } => Ok(Self::PerInstance(parse("(per instance)", "expr", &expr)?)),
            ComponentSource::Configured(list) => {
                check_ids(&list)?;
                list.into_iter()
                    .map(|settings| {
                        let expr = parse(&settings.id, "expr", &settings.expr)?;
                        let degraded = settings.degraded.as_deref();
                        let degraded = degraded.map(|text| parse(&settings.id, "degraded", text)).transpose()?;
                        Ok(Component { settings, expr, degraded })
                    })
                    .collect::<Result<_, _>>()
                    .map(Self::Configured)
            }
        }
    }
}

fn check_ids(list: &[ComponentSettings]) -> Result<(), ComponentError> {
    let mut seen = BTreeSet::new();
    for settings in list {
        if settings.id.is_empty() {
            return Err(ComponentError::EmptyId { name: settings.name.en.clone() });
        }
        if !seen.insert(&settings.id) {
            return Err(ComponentError::RepeatedId { id: settings.id.clone() });
        }
    }
    Ok(())
}

/// The state that follows from the samples of `expr` and of `degraded`.
pub fn judge(need: Need, parts: &[f64], degraded: &[f64]) -> State {
    let known = || parts.iter().filter(|value| !value.is_nan());
    let bad = known().filter(|value| **value == 0.0).count();
    let good = known().count() - bad;
    let works = match need {
        Need::All => bad == 0,
        Need::Any => good > 0,
    };
    match (good, bad) {
        (0, 0) => State::Unknown,
        (0, _) => State::MajorOutage,
        _ if !works => State::PartialOutage,
        _ if degraded.iter().any(|value| *value != 0.0 && !value.is_nan()) => State::Degraded,
        _ => State::Operational,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sample_and_only_nan_are_unknown_and_never_down() {
        assert_eq!(judge(Need::All, &[], &[]), State::Unknown);
        assert_eq!(judge(Need::Any, &[f64::NAN], &[1.0]), State::Unknown);
    }

    #[test]
    fn some_bad_parts_are_a_partial_outage_unless_one_good_part_is_enough() {
        assert_eq!(judge(Need::All, &[1.0, 0.0], &[]), State::PartialOutage);
        assert_eq!(judge(Need::Any, &[1.0, 0.0], &[]), State::Operational);
        assert_eq!(judge(Need::Any, &[0.0, -0.0], &[]), State::MajorOutage);
    }

    #[test]
    fn the_degraded_expression_lowers_only_what_works() {
        assert_eq!(judge(Need::All, &[1.0, 7.0], &[0.0, 2.0]), State::Degraded);
        assert_eq!(judge(Need::All, &[1.0], &[0.0, f64::NAN]), State::Operational);
        assert_eq!(judge(Need::All, &[0.0], &[1.0]), State::MajorOutage);
    }

    #[test]
    fn every_state_comes_back_from_its_number() {
        for state in State::ALL {
            assert_eq!(State::from_code(state.code()), state);
        }
        assert_eq!(State::from_code(99), State::Unknown);
    }

    #[test]
    fn a_repeated_id_is_named() {
        let one = ComponentSettings {
            id: "archive".to_owned(),
            name: Localized::same("Archive"),
            description: None,
            group: None,
            expr: "1".to_owned(),
            degraded: None,
            need: Need::All,
        };
        let error = check_ids(&[one.clone(), one]).expect_err("repeated");
        assert_eq!(error.to_string(), "component id `archive` is used twice");
    }
}

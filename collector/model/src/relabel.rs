//! Relabelling: rules that rewrite, keep or drop label sets, with Prometheus' meaning of every action.
//!
//! What it deliberately does not do: read configuration. [`RelabelSettings`] are what a rule says, [`RelabelRule`] is the
//! rule checked and compiled.

use std::fmt;
use std::str::FromStr;

use md5::{Digest as _, Md5};
use regex::Regex;

use crate::{Labels, LabelsBuilder};

/// What a rule does (`model/relabel/relabel.go`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RelabelAction {
    /// Sets the target label to the replacement where the pattern matches.
    #[default]
    Replace,
    /// Drops what the pattern does not match.
    Keep,
    /// Drops what the pattern matches.
    Drop,
    /// Drops what does not equal the target label.
    KeepEqual,
    /// Drops what equals the target label.
    DropEqual,
    /// Sets the target label to a hash of the source labels, modulo a number.
    HashMod,
    /// Copies labels whose name the pattern matches to the name that the replacement gives.
    LabelMap,
    /// Removes labels whose name the pattern matches.
    LabelDrop,
    /// Removes labels whose name the pattern does not match.
    LabelKeep,
    /// Sets the target label to the source in lower case.
    Lowercase,
    /// Sets the target label to the source in upper case.
    Uppercase,
}

impl RelabelAction {
    const ALL: [Self; 11] = [
        Self::Replace,
        Self::Keep,
        Self::Drop,
        Self::KeepEqual,
        Self::DropEqual,
        Self::HashMod,
        Self::LabelMap,
        Self::LabelDrop,
        Self::LabelKeep,
        Self::Lowercase,
        Self::Uppercase,
    ];

    /// As in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Keep => "keep",
            Self::Drop => "drop",
            Self::KeepEqual => "keepequal",
            Self::DropEqual => "dropequal",
            Self::HashMod => "hashmod",
            Self::LabelMap => "labelmap",
            Self::LabelDrop => "labeldrop",
            Self::LabelKeep => "labelkeep",
            Self::Lowercase => "lowercase",
            Self::Uppercase => "uppercase",
        }
    }
}

impl fmt::Display for RelabelAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for RelabelAction {
    type Err = RelabelError;
    fn from_str(text: &str) -> Result<Self, RelabelError> {
        let lower = text.to_lowercase();
        let found = Self::ALL.into_iter().find(|action| action.name() == lower);
        found.ok_or_else(|| RelabelError::Action { name: text.to_owned() })
    }
}

/// What a rule says; the defaults are Prometheus'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelabelSettings {
    /// Labels whose values, joined, the rule looks at.
    pub source_labels: Vec<String>,
    /// Stands between those values; `;`.
    pub separator: String,
    /// What the joined values, or label names, are matched against, anchored at both ends; `(.*)`.
    pub regex: String,
    /// For `hashmod`.
    pub modulus: u64,
    /// The label to set; may refer to groups of the pattern in `replace`.
    pub target_label: String,
    /// What to set it to; may refer to groups of the pattern; `$1`.
    pub replacement: String,
    /// What to do.
    pub action: RelabelAction,
}

impl Default for RelabelSettings {
    fn default() -> Self {
        Self {
            source_labels: Vec::new(),
            separator: ";".to_owned(),
            regex: "(.*)".to_owned(),
            modulus: 0,
            target_label: String::new(),
            replacement: "$1".to_owned(),
            action: RelabelAction::Replace,
        }
    }
}

/// Why a rule can't work. The texts are Prometheus' where it has one.
#[derive(Debug, thiserror::Error)]
pub enum RelabelError {
    /// Nobody knows that action.
    #[error("unknown relabel action {name:?}")]
    Action {
        /// What was written.
        name: String,
    },
    /// The pattern is not a regular expression in RE2's syntax, or compiles to too much.
    #[error("cannot compile regex {pattern:?}")]
    Regex {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        source: Box<regex::Error>,
    },
    /// `hashmod` without a modulus.
    #[error("relabel configuration for hashmod requires non-zero modulus")]
    Modulus,
    /// The action sets or compares a label and none is named.
    #[error("relabel configuration for {0} action requires 'target_label' value")]
    NoTarget(RelabelAction),
    /// The action takes no replacement.
    #[error("'replacement' can not be set for {0} action")]
    Replacement(RelabelAction),
    /// `labelmap` without a name to copy to.
    #[error("{0:?} is invalid 'replacement' for labelmap action")]
    MapReplacement(String),
    /// The action looks at two things and nothing else.
    #[error("{0} action requires only 'source_labels' and `target_label`, and no other fields")]
    OnlySourceAndTarget(RelabelAction),
    /// The action looks at names and nothing else.
    #[error("{0} action requires only 'regex', and no other fields")]
    OnlyRegex(RelabelAction),
}

/// One rule, ready to run.
#[derive(Clone, Debug)]
pub struct RelabelRule {
    settings: RelabelSettings,
    regex: Regex,
}

/// The compiled size that a pattern may reach.
const REGEX_SIZE_LIMIT_BYTES: usize = 4 << 20;

impl RelabelRule {
    /// The rule that `settings` describe.
    ///
    /// # Errors
    /// [`RelabelError`], by Prometheus' checks.
    pub fn new(settings: RelabelSettings) -> Result<Self, RelabelError> {
        use RelabelAction as A;
        let default = RelabelSettings::default();
        let action = settings.action;
        if action == A::HashMod && settings.modulus == 0 {
            return Err(RelabelError::Modulus);
        }
        let sets =
            matches!(action, A::Replace | A::HashMod | A::Lowercase | A::Uppercase | A::KeepEqual | A::DropEqual);
        if sets && settings.target_label.is_empty() {
            return Err(RelabelError::NoTarget(action));
        }
        let fixed = matches!(action, A::Lowercase | A::Uppercase | A::KeepEqual | A::DropEqual);
        if fixed && settings.replacement != default.replacement {
            return Err(RelabelError::Replacement(action));
        }
        if action == A::LabelMap && settings.replacement.is_empty() {
            return Err(RelabelError::MapReplacement(settings.replacement));
        }
        let same_rest = settings.modulus == default.modulus
            && settings.separator == default.separator
            && settings.replacement == default.replacement;
        if matches!(action, A::KeepEqual | A::DropEqual) && !(same_rest && settings.regex == default.regex) {
            return Err(RelabelError::OnlySourceAndTarget(action));
        }
        let only_regex = same_rest && settings.source_labels.is_empty() && settings.target_label.is_empty();
        if matches!(action, A::LabelDrop | A::LabelKeep) && !only_regex {
            return Err(RelabelError::OnlyRegex(action));
        }
        let regex = regex::RegexBuilder::new(&format!("^(?s:{})$", settings.regex))
            .size_limit(REGEX_SIZE_LIMIT_BYTES)
            .build()
            .map_err(|source| RelabelError::Regex { pattern: settings.regex.clone(), source: Box::new(source) })?;
        Ok(Self { settings, regex })
    }

    /// What the rule says.
    pub fn settings(&self) -> &RelabelSettings {
        &self.settings
    }

    /// Applies the rule; false where the label set is dropped.
    fn apply(&self, labels: &mut LabelsBuilder) -> bool {
        use RelabelAction as A;
        let settings = &self.settings;
        let target = || labels.get(&settings.target_label).unwrap_or("");
        let source = || {
            let values: Vec<&str> = settings.source_labels.iter().map(|name| labels.get(name).unwrap_or("")).collect();
            values.join(&settings.separator)
        };
        match settings.action {
            A::Drop => return !self.regex.is_match(&source()),
            A::Keep => return self.regex.is_match(&source()),
            A::DropEqual => return target() != source(),
            A::KeepEqual => return target() == source(),
            A::Replace => {
                let source = source();
                let Some(found) = self.regex.captures(&source) else { return true };
                let (mut name, mut value) = (String::new(), String::new());
                found.expand(&settings.target_label, &mut name);
                found.expand(&settings.replacement, &mut value);
                if !name.is_empty() {
                    labels.set(name, value);
                }
            }
            A::Lowercase => {
                let value = source().to_lowercase();
                labels.set(settings.target_label.as_str(), value);
            }
            A::Uppercase => {
                let value = source().to_uppercase();
                labels.set(settings.target_label.as_str(), value);
            }
            A::HashMod => {
                // The last 8 bytes of MD5: what Prometheus takes, so that shards stay where they are.
                let hash = Md5::digest(source().as_bytes());
                let last = hash.iter().skip(8).fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
                labels.set(settings.target_label.as_str(), (last % settings.modulus).to_string());
            }
            A::LabelMap => {
                for label in &labels.build() {
                    if let Some(found) = self.regex.captures(&label.name) {
                        let mut name = String::new();
                        found.expand(&settings.replacement, &mut name);
                        if !name.is_empty() {
                            labels.set(name, std::sync::Arc::clone(&label.value));
                        }
                    }
                }
            }
            A::LabelDrop | A::LabelKeep => {
                let drops = settings.action == A::LabelDrop;
                for label in &labels.build() {
                    if self.regex.is_match(&label.name) == drops {
                        labels.remove(&label.name);
                    }
                }
            }
        }
        true
    }
}

/// `labels` after all `rules` in turn; none where a rule drops them or leaves nothing.
pub fn relabel(labels: &Labels, rules: &[RelabelRule]) -> Option<Labels> {
    if rules.is_empty() {
        return Some(labels.clone()).filter(|labels| !labels.is_empty());
    }
    let mut builder = labels.to_builder();
    if !rules.iter().all(|rule| rule.apply(&mut builder)) {
        return None;
    }
    Some(builder.build()).filter(|labels| !labels.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(action: RelabelAction) -> RelabelSettings {
        RelabelSettings { action, ..RelabelSettings::default() }
    }

    fn run(labels: &[(&str, &str)], rules: &[RelabelSettings]) -> Option<String> {
        let rules: Vec<_> = rules.iter().map(|s| RelabelRule::new(s.clone()).expect("rule")).collect();
        relabel(&Labels::from_pairs(labels.iter().copied()), &rules).map(|labels| labels.to_string())
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// The cases are those of `TestRelabel` in Prometheus' `model/relabel/relabel_test.go`.
    #[test]
    fn actions_do_what_prometheus_does() {
        let abc = [("a", "foo"), ("b", "bar"), ("c", "baz")];
        let replace = |source: &[&str], regex: &str, target: &str, replacement: &str| RelabelSettings {
            source_labels: names(source),
            regex: regex.to_owned(),
            target_label: target.to_owned(),
            replacement: replacement.to_owned(),
            ..settings(RelabelAction::Replace)
        };
        let on = |action, source: &[&str], regex: &str| RelabelSettings {
            source_labels: names(source),
            regex: regex.to_owned(),
            ..settings(action)
        };
        let text = |pairs: &str| Some(format!("{{{pairs}}}"));
        assert_eq!(
            run(&abc, &[replace(&["a"], "f(.*)", "d", "ch${1}-ch${1}")]),
            text(r#"a="foo", b="bar", c="baz", d="choo-choo""#)
        );
        assert_eq!(
            run(
                &abc,
                &[replace(&["a", "b"], "f(.*);(.*)r", "a", "b${1}${2}m"), {
                    let mut rule = replace(&["c", "a"], "(b).*b(.*)ba(.*)", "d", "$1$2$2$3");
                    rule.separator = ";".to_owned();
                    rule
                }]
            ),
            text(r#"a="boobam", b="bar", c="baz", d="boooom""#)
        );
        assert_eq!(run(&[("a", "foo")], &[on(RelabelAction::Drop, &["a"], ".*o.*")]), None);
        assert_eq!(run(&[("a", "foo")], &[on(RelabelAction::Keep, &["a"], "no-match")]), None);
        assert_eq!(run(&[("a", "foo")], &[on(RelabelAction::Drop, &["a"], "f|o")]), text(r#"a="foo""#));
        assert_eq!(run(&[("a", "foo")], &[replace(&["a"], "no-match", "a", "x")]), text(r#"a="foo""#));
        // An empty replacement removes the target.
        assert_eq!(run(&[("a", "foo"), ("d", "x")], &[replace(&["a"], "(f).*", "d", "")]), text(r#"a="foo""#));
        // The target may come from the pattern.
        assert_eq!(
            run(&[("a", "some-name-value")], &[replace(&["a"], "some-([^-]+)-([^,]+)", "${1}", "${2}")]),
            text(r#"a="some-name-value", name="value""#)
        );
        // A missing label is empty.
        assert_eq!(run(&[("a", "x")], &[replace(&["b"], "(.*)", "c", "set$1")]), text(r#"a="x", c="set""#));
        let hash = RelabelSettings {
            source_labels: names(&["c"]),
            target_label: "d".to_owned(),
            modulus: 1000,
            ..settings(RelabelAction::HashMod)
        };
        assert_eq!(run(&abc, std::slice::from_ref(&hash)), text(r#"a="foo", b="bar", c="baz", d="976""#));
        assert_eq!(
            run(&[("a", "foo\nbar")], &[RelabelSettings { source_labels: names(&["a"]), ..hash }]),
            text(r#"a="foo\nbar", d="734""#)
        );
        assert_eq!(
            run(&[("a", "1"), ("b1", "x"), ("b2", "y")], &[on(RelabelAction::LabelMap, &[], "(b.*)")]),
            text(r#"a="1", b1="x", b2="y""#)
        );
        let map = RelabelSettings {
            regex: "__meta_(my.*)".to_owned(),
            replacement: "${1}".to_owned(),
            ..settings(RelabelAction::LabelMap)
        };
        assert_eq!(
            run(&[("a", "foo"), ("__meta_my_bar", "aaa"), ("__meta_other", "ccc")], &[map]),
            text(r#"__meta_my_bar="aaa", __meta_other="ccc", a="foo", my_bar="aaa""#)
        );
        assert_eq!(
            run(&[("a", "foo"), ("b1", "bar"), ("b2", "baz")], &[on(RelabelAction::LabelKeep, &[], "(b.*)")]),
            text(r#"b1="bar", b2="baz""#)
        );
        assert_eq!(
            run(&[("a", "foo"), ("b1", "bar"), ("b2", "baz")], &[on(RelabelAction::LabelDrop, &[], "(b.*)")]),
            text(r#"a="foo""#)
        );
        let cased = |action| RelabelSettings {
            source_labels: names(&["foo"]),
            target_label: "cased".to_owned(),
            ..settings(action)
        };
        assert_eq!(
            run(&[("foo", "bAr123Foo")], &[cased(RelabelAction::Uppercase)]),
            text(r#"cased="BAR123FOO", foo="bAr123Foo""#)
        );
        assert_eq!(
            run(&[("foo", "bAr123Foo")], &[cased(RelabelAction::Lowercase)]),
            text(r#"cased="bar123foo", foo="bAr123Foo""#)
        );
        let equal = |action| RelabelSettings {
            source_labels: names(&["__port1"]),
            target_label: "__port2".to_owned(),
            ..settings(action)
        };
        let same = [("__port1", "1"), ("__port2", "1")];
        let other = [("__port1", "1"), ("__port2", "2")];
        assert!(run(&same, &[equal(RelabelAction::KeepEqual)]).is_some());
        assert_eq!(run(&other, &[equal(RelabelAction::KeepEqual)]), None);
        assert_eq!(run(&same, &[equal(RelabelAction::DropEqual)]), None);
        assert!(run(&other, &[equal(RelabelAction::DropEqual)]).is_some());
    }

    #[test]
    fn what_can_not_work_is_refused_as_prometheus_does() {
        let refused = |settings: RelabelSettings| RelabelRule::new(settings).expect_err("refused").to_string();
        assert_eq!(
            refused(settings(RelabelAction::HashMod)),
            "relabel configuration for hashmod requires non-zero modulus"
        );
        assert_eq!(
            refused(settings(RelabelAction::Replace)),
            "relabel configuration for replace action requires 'target_label' value"
        );
        let mut rule = settings(RelabelAction::LabelDrop);
        rule.target_label = "x".to_owned();
        assert_eq!(refused(rule), "labeldrop action requires only 'regex', and no other fields");
        let mut rule = settings(RelabelAction::KeepEqual);
        rule.target_label = "x".to_owned();
        rule.regex = "y".to_owned();
        assert_eq!(
            refused(rule),
            "keepequal action requires only 'source_labels' and `target_label`, and no other fields"
        );
        let mut rule = settings(RelabelAction::Keep);
        rule.regex = "(".to_owned();
        assert_eq!(refused(rule), "cannot compile regex \"(\"");
        assert_eq!(
            "teleport".parse::<RelabelAction>().expect_err("unknown").to_string(),
            "unknown relabel action \"teleport\""
        );
        assert_eq!("LabelKeep".parse::<RelabelAction>().expect("known"), RelabelAction::LabelKeep);
    }
}

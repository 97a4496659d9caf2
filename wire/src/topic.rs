//! Agent ids and the MQTT topics below `veghe/v1/<agent>/`.

use std::fmt;
use std::str::FromStr;

/// Who an agent is: the common name of its certificate, the level of its topics, the `instance` label of its series.
///
/// 1 to 64 characters of `a-z`, `0-9`, `.`, `-` and `_`, the first a letter or digit: what is safe in a topic, a file
/// name, a URL and a label alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId(String);

/// Why a string is no agent id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("agent id {given:?} is not 1 to 64 characters of a-z, 0-9, `.`, `-`, `_` that begin with a letter or digit")]
pub struct AgentIdError {
    given: String,
}

impl AgentId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nearest valid id to a host name: lower case, other characters become `-`. `None` if nothing is left.
    pub fn from_hostname(hostname: &str) -> Option<Self> {
        let id: String = hostname
            .to_lowercase()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' })
            .take(64)
            .collect();
        id.trim_start_matches(['.', '-', '_']).parse().ok()
    }
}

impl FromStr for AgentId {
    type Err = AgentIdError;
    fn from_str(given: &str) -> Result<Self, AgentIdError> {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'_');
        let first_is_alphanumeric = given.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if first_is_alphanumeric && given.len() <= 64 && given.bytes().all(allowed) {
            Ok(Self(given.to_owned()))
        } else {
            Err(AgentIdError { given: given.chars().take(80).collect() })
        }
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is said on a topic of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Agent to collector, `QoS` 1: a [`crate::batch::Batch`].
    Batch,
    /// Agent to collector, retained, also the last will: a [`crate::ack::Presence`].
    Presence,
    /// Collector to agent: an [`crate::ack::Ack`].
    Ack,
    /// Agent to collector: a PKCS#10 request in PEM, for a certificate that follows the present one.
    Renewal,
    /// Collector to agent: the PEM chain that answers a renewal.
    Certificate,
    /// Agent, or equipment that speaks for itself, to collector, `QoS` 1: `CloudEvents` in JSON, one or an array.
    Event,
    /// Collector to agent: an [`crate::remote::Offer`] of settings.
    Config,
    /// Agent to collector, `QoS` 1: a [`crate::remote::Report`] on the settings that it runs with.
    Report,
    /// Agent to collector, `QoS` 1: [`crate::remote::Findings`] of what could be watched on its machine.
    Findings,
}

impl Topic {
    const ALL: [Self; 9] = [
        Self::Batch,
        Self::Presence,
        Self::Ack,
        Self::Renewal,
        Self::Certificate,
        Self::Event,
        Self::Config,
        Self::Report,
        Self::Findings,
    ];

    /// The topic's last level.
    pub fn level(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Presence => "presence",
            Self::Ack => "ack",
            Self::Renewal => "renewal",
            Self::Certificate => "certificate",
            Self::Event => "event",
            Self::Config => "config",
            Self::Report => "report",
            Self::Findings => "findings",
        }
    }

    /// The full topic of `agent`.
    pub fn of(self, agent: &AgentId) -> String {
        format!("veghe/v1/{agent}/{}", self.level())
    }

    /// Reads `veghe/v1/<agent>/<level>`; `None` for every other topic.
    pub fn parse(topic: &str) -> Option<(AgentId, Self)> {
        let (agent, level) = topic.strip_prefix("veghe/v1/")?.split_once('/')?;
        let kind = Self::ALL.into_iter().find(|k| k.level() == level)?;
        Some((agent.parse().ok()?, kind))
    }

    /// Whether agents publish on it; on the others they only subscribe.
    pub fn is_from_agent(self) -> bool {
        matches!(self, Self::Batch | Self::Presence | Self::Renewal | Self::Event | Self::Report | Self::Findings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_can_not_leave_its_level() {
        for bad in ["", "a/b", "+", "#", "A", "ă", ".a", "a b", &"a".repeat(65)] {
            assert!(bad.parse::<AgentId>().is_err(), "{bad:?}");
        }
        assert_eq!(
            AgentId::from_hostname("Arhiva NAS.cjtimis.ro").map(|a| a.to_string()).as_deref(),
            Some("arhiva-nas.cjtimis.ro")
        );
        assert_eq!(AgentId::from_hostname("---"), None);
    }

    #[test]
    fn a_topic_reads_back() {
        let agent: AgentId = "scan-1".parse().expect("id");
        for kind in Topic::ALL {
            assert_eq!(Topic::parse(&kind.of(&agent)), Some((agent.clone(), kind)));
        }
        assert_eq!(Topic::parse("veghe/v1/scan-1/batch/x"), None);
        assert_eq!(Topic::parse("veghe/v1//batch"), None);
    }
}

//! Who may report: tokens, agents and their certificates in the ledger, and what is known of each agent now.
//!
//! Invariants: a token admits once, whatever runs at the same time, because its use and the new certificate are one
//! transaction; what decides on admission is in memory and in the ledger alike, the ledger first. The ledger has only
//! the SHA-256 of a token's secret. What it deliberately does not do: speak to agents (`broker`) or sign (`ca`).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{OptionalExtension as _, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use veghe_model::Timestamp;
use veghe_wire::ack::Presence;
use veghe_wire::enrolment::{EnrolmentRequest, EnrolmentResponse, Token};
use veghe_wire::{AgentId, AgentIdError};

use super::ca::{Ca, CaError};
use crate::ledger::{Ledger, LedgerError};

/// Tables of this module in the ledger. Times are milliseconds since the Unix epoch; serial numbers are lower-case
/// hexadecimal without leading zeros.
pub(crate) const SCHEMA: &str = "
CREATE TABLE agents (
    id TEXT PRIMARY KEY NOT NULL,
    enrolled_ms INTEGER NOT NULL,
    revoked_ms INTEGER,
    last_seen_ms INTEGER,
    version TEXT NOT NULL DEFAULT '',
    protocol TEXT NOT NULL DEFAULT '',
    interval_ms INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE agent_certificates (
    serial TEXT PRIMARY KEY NOT NULL,
    agent TEXT NOT NULL REFERENCES agents (id),
    issued_ms INTEGER NOT NULL,
    not_after_ms INTEGER NOT NULL,
    revoked_ms INTEGER
) STRICT;
CREATE INDEX agent_certificates_agent ON agent_certificates (agent);
CREATE TABLE enrolment_tokens (
    secret_sha256 BLOB PRIMARY KEY NOT NULL,
    agent TEXT NOT NULL,
    expires_ms INTEGER NOT NULL,
    used_ms INTEGER
) STRICT;
";

/// How long a token stays good unless the administrator says otherwise.
pub const TOKEN_LIFE: Duration = Duration::from_hours(1);
/// Tokens stay in the ledger this long after their end, so that a late use is told from an unknown token.
const TOKEN_MEMORY: Duration = Duration::from_hours(24 * 7);
/// Certificates of one agent that are good at the same time. Two is usual, around a renewal.
const MAX_CERTIFICATES: usize = 16;
/// Versions that agents tell of themselves are shown in lists: longer ones are cut.
const MAX_VERSION_CHARS: usize = 32;

/// Why an agent is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// No such token was made here, or it is no token at all.
    #[error("token is not known here; make a new one with `veghe-collector token create`")]
    UnknownToken,
    /// It admitted an agent before.
    #[error("token was used before; make a new one with `veghe-collector token create`")]
    UsedToken,
    /// Its time is over.
    #[error("token has expired; make a new one with `veghe-collector token create`")]
    ExpiredToken,
    /// It was made for another agent.
    #[error("token is not for agent {agent}")]
    WrongAgent {
        /// Who asked.
        agent: AgentId,
    },
    /// The agent is not enrolled or was revoked; only for renewals.
    #[error("agent {agent} is not enrolled")]
    NotEnrolled {
        /// Who asked.
        agent: AgentId,
    },
    /// The certificate request is no good.
    #[error("cannot accept the certificate request")]
    BadRequest(#[source] CaError),
    /// The authority failed.
    #[error("cannot make the certificate")]
    Ca(#[source] CaError),
    /// The ledger failed.
    #[error("cannot record the enrolment")]
    Ledger(#[from] LedgerError),
}

impl EnrolError {
    /// A constant name of the error, for metrics and the `code` in answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownToken => "unknown_token",
            Self::UsedToken => "used_token",
            Self::ExpiredToken => "expired_token",
            Self::WrongAgent { .. } => "wrong_agent",
            Self::NotEnrolled { .. } => "not_enrolled",
            Self::BadRequest(_) => "bad_request",
            Self::Ca(_) => "ca",
            Self::Ledger(_) => "ledger",
        }
    }
}

impl From<CaError> for EnrolError {
    fn from(error: CaError) -> Self {
        match error {
            CaError::Request(_) | CaError::RequestSize { .. } => Self::BadRequest(error),
            _ => Self::Ca(error),
        }
    }
}

/// Why a connection with a good certificate is refused all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inadmissible {
    /// Never enrolled here.
    Unknown,
    /// The agent was revoked.
    Revoked,
    /// The agent is welcome, but not with this certificate.
    Certificate,
}

/// What is known of one agent, for lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// Its id.
    pub agent: String,
    /// When it was enrolled, in milliseconds since the Unix epoch, as all times here.
    pub enrolled_ms: i64,
    /// When it was revoked, if it was.
    pub revoked_ms: Option<i64>,
    /// When a message of it was last seen.
    pub last_seen_ms: Option<i64>,
    /// Whether it is connected.
    pub connected: bool,
    /// Its version, empty if not yet told.
    pub version: String,
    /// Its protocol version, empty if not yet told.
    pub protocol: String,
    /// The major protocol version for which it is refused, until it speaks ours; since the collector began.
    #[serde(default)]
    pub foreign_major: Option<u8>,
    /// Its collection interval, 0 if not yet told.
    pub interval_ms: u32,
    /// Serial number of its newest certificate.
    pub certificate_serial: String,
    /// When its newest certificate ends.
    pub certificate_ends_ms: i64,
    /// Refused batches and messages by cause, since the collector began.
    pub refusals: BTreeMap<String, u64>,
    /// What was wrong with the last refused one.
    pub last_refusal: Option<String>,
}

#[derive(Clone, Debug)]
struct Certificate {
    serial: String,
    not_after: Timestamp,
    is_revoked: bool,
}

#[derive(Clone, Debug, Default)]
struct Agent {
    enrolled: Timestamp,
    revoked: Option<Timestamp>,
    /// In order of issue.
    certificates: Vec<Certificate>,
    last_seen: Option<Timestamp>,
    connected: Option<Timestamp>,
    version: String,
    protocol: String,
    foreign_major: Option<u8>,
    interval_ms: u32,
    refusals: BTreeMap<&'static str, u64>,
    last_refusal: Option<String>,
    is_unsaved: bool,
}

/// What says whether an agent is up.
#[derive(Clone, Debug)]
pub(crate) struct Pulse {
    pub(crate) agent: AgentId,
    pub(crate) last_seen: Option<Timestamp>,
    pub(crate) connected: Option<Timestamp>,
    pub(crate) interval: Duration,
}

/// Where agents find the broker, for the answer to an enrolment.
#[derive(Clone, Debug)]
pub(crate) struct BrokerAddress {
    pub(crate) url: Option<String>,
    pub(crate) port: u16,
}

/// Every agent that was ever enrolled.
pub(crate) struct Agents {
    ledger: Ledger,
    known: Mutex<HashMap<AgentId, Agent>>,
}

impl Agents {
    /// The agents in `ledger`.
    pub(crate) fn open(ledger: Ledger) -> Result<Self, LedgerError> {
        let known = ledger.with(|connection| {
            let mut known: HashMap<AgentId, Agent> = HashMap::new();
            let mut agents = connection.prepare(
                "SELECT id, enrolled_ms, revoked_ms, last_seen_ms, version, protocol, interval_ms FROM agents",
            )?;
            let mut rows = agents.query([])?;
            while let Some(row) = rows.next()? {
                let id: String = row.get(0)?;
                // Ids were checked when they were written.
                let Ok(id) = id.parse() else { continue };
                let agent = Agent {
                    enrolled: Timestamp(row.get(1)?),
                    revoked: row.get::<_, Option<i64>>(2)?.map(Timestamp),
                    last_seen: row.get::<_, Option<i64>>(3)?.map(Timestamp),
                    version: row.get(4)?,
                    protocol: row.get(5)?,
                    interval_ms: row.get(6)?,
                    ..Agent::default()
                };
                known.insert(id, agent);
            }
            let mut certificates = connection.prepare(
                "SELECT agent, serial, not_after_ms, revoked_ms IS NOT NULL FROM agent_certificates
                 ORDER BY issued_ms, rowid",
            )?;
            let mut rows = certificates.query([])?;
            while let Some(row) = rows.next()? {
                let id: String = row.get(0)?;
                let Some(agent) = id.parse().ok().and_then(|id: AgentId| known.get_mut(&id)) else { continue };
                agent.certificates.push(Certificate {
                    serial: row.get(1)?,
                    not_after: Timestamp(row.get(2)?),
                    is_revoked: row.get(3)?,
                });
            }
            Ok(known)
        })?;
        Ok(Self { ledger, known: Mutex::new(known) })
    }

    /// Makes a token that admits `agent` once within `life`.
    pub(crate) fn create_token(
        &self,
        agent: AgentId,
        life: Duration,
        ca: &Ca,
        now: Timestamp,
    ) -> Result<Token, EnrolError> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(|source| EnrolError::Ca(CaError::Random(source)))?;
        let token = Token { agent, secret, ca_fingerprint: ca.fingerprint() };
        self.ledger.with(|connection| {
            connection.execute(
                "DELETE FROM enrolment_tokens WHERE expires_ms < ?1",
                [now.saturating_sub(TOKEN_MEMORY).millis()],
            )?;
            connection.execute(
                "INSERT INTO enrolment_tokens (secret_sha256, agent, expires_ms) VALUES (?1, ?2, ?3)",
                params![digest(&secret), token.agent.as_str(), now.saturating_add(life).millis()],
            )
        })?;
        Ok(token)
    }

    /// Admits the agent that shows a good token: its earlier certificates end with that. Blocks.
    pub(crate) fn enrol(
        &self,
        ca: &Ca,
        request: &EnrolmentRequest,
        life: Duration,
        broker: &BrokerAddress,
        now: Timestamp,
    ) -> Result<(AgentId, EnrolmentResponse), EnrolError> {
        let token: Token = request.token.parse().or(Err(EnrolError::UnknownToken))?;
        let digest = digest(&token.secret);
        let agent = token.agent;
        let mut known = self.known();
        let issued = self.ledger.with(|connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // The search is by a hash that the applicant can't steer: how long it takes tells nothing of any secret.
            let found: Option<(Vec<u8>, String, i64, Option<i64>)> = transaction
                .query_row(
                    "SELECT secret_sha256, agent, expires_ms, used_ms FROM enrolment_tokens WHERE secret_sha256 = ?1",
                    [&digest[..]],
                    |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
                )
                .optional()?;
            let Some((stored, owner, expires, used)) = found else { return Ok(Err(EnrolError::UnknownToken)) };
            if !is_equal_in_constant_time(&stored, &digest) {
                return Ok(Err(EnrolError::UnknownToken));
            }
            if owner != agent.as_str() {
                return Ok(Err(EnrolError::WrongAgent { agent: agent.clone() }));
            }
            if used.is_some() {
                return Ok(Err(EnrolError::UsedToken));
            }
            if expires <= now.millis() {
                return Ok(Err(EnrolError::ExpiredToken));
            }
            let issued = match ca.certify(&agent, &request.certificate_request, life, now) {
                Ok(issued) => issued,
                Err(error) => return Ok(Err(EnrolError::from(error))),
            };
            transaction.execute(
                "UPDATE enrolment_tokens SET used_ms = ?2 WHERE secret_sha256 = ?1",
                params![&digest[..], now.millis()],
            )?;
            transaction.execute(
                "INSERT INTO agents (id, enrolled_ms) VALUES (?1, ?2)
                 ON CONFLICT (id) DO UPDATE SET enrolled_ms = excluded.enrolled_ms, revoked_ms = NULL",
                params![agent.as_str(), now.millis()],
            )?;
            transaction.execute(
                "UPDATE agent_certificates SET revoked_ms = ?2 WHERE agent = ?1 AND revoked_ms IS NULL",
                params![agent.as_str(), now.millis()],
            )?;
            transaction.execute(
                "INSERT INTO agent_certificates (serial, agent, issued_ms, not_after_ms) VALUES (?1, ?2, ?3, ?4)",
                params![issued.serial, agent.as_str(), now.millis(), issued.not_after.millis()],
            )?;
            transaction.commit()?;
            Ok(Ok(issued))
        })??;
        let entry = known.entry(agent.clone()).or_default();
        entry.enrolled = now;
        entry.revoked = None;
        entry.certificates.iter_mut().for_each(|c| c.is_revoked = true);
        entry.certificates.push(Certificate { serial: issued.serial, not_after: issued.not_after, is_revoked: false });
        let response = EnrolmentResponse {
            agent: agent.to_string(),
            certificate: issued.pem,
            ca_certificate: ca.certificate_pem().to_owned(),
            mqtt_url: broker.url.clone(),
            mqtt_port: broker.port,
        };
        Ok((agent, response))
    }

    /// A further certificate for an agent that proved who it is; its present one stays good until it ends, so that
    /// a lost answer costs nothing. Blocks.
    pub(crate) fn renew(
        &self,
        ca: &Ca,
        agent: &AgentId,
        request: &str,
        life: Duration,
        now: Timestamp,
    ) -> Result<String, EnrolError> {
        let mut known = self.known();
        let Some(entry) = known.get_mut(agent).filter(|entry| entry.revoked.is_none()) else {
            return Err(EnrolError::NotEnrolled { agent: agent.clone() });
        };
        let issued = ca.certify(agent, request, life, now)?;
        self.ledger.with(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "DELETE FROM agent_certificates WHERE agent = ?1 AND (not_after_ms < ?2 OR serial NOT IN (
                     SELECT serial FROM agent_certificates WHERE agent = ?1 ORDER BY issued_ms DESC, rowid DESC LIMIT ?3))",
                params![agent.as_str(), now.millis(), MAX_CERTIFICATES as i64 - 1],
            )?;
            transaction.execute(
                "INSERT INTO agent_certificates (serial, agent, issued_ms, not_after_ms) VALUES (?1, ?2, ?3, ?4)",
                params![issued.serial, agent.as_str(), now.millis(), issued.not_after.millis()],
            )?;
            transaction.commit()
        })?;
        entry.certificates.retain(|c| c.not_after >= now);
        // An agent that asks without end must not fill memory or ledger.
        let surplus = entry.certificates.len().saturating_sub(MAX_CERTIFICATES - 1);
        entry.certificates.drain(..surplus);
        entry.certificates.push(Certificate { serial: issued.serial, not_after: issued.not_after, is_revoked: false });
        Ok(issued.pem + ca.certificate_pem())
    }

    /// Whether `agent` may connect with the certificate of this serial number.
    pub(crate) fn admits(&self, agent: &AgentId, serial: &str) -> Result<(), Inadmissible> {
        let known = self.known();
        let entry = known.get(agent).ok_or(Inadmissible::Unknown)?;
        if entry.revoked.is_some() {
            return Err(Inadmissible::Revoked);
        }
        let is_good = entry.certificates.iter().any(|c| c.serial == serial && !c.is_revoked);
        if is_good { Ok(()) } else { Err(Inadmissible::Certificate) }
    }

    /// Whether `agent` is enrolled and not revoked.
    pub(crate) fn is_welcome(&self, agent: &AgentId) -> bool {
        self.known().get(agent).is_some_and(|entry| entry.revoked.is_none())
    }

    /// Shuts `agent` out, with every certificate and unused token it has; false where nobody of that name is known.
    /// Blocks.
    pub(crate) fn revoke(&self, agent: &AgentId, now: Timestamp) -> Result<bool, LedgerError> {
        let mut known = self.known();
        self.ledger.with(|connection| {
            let transaction = connection.transaction()?;
            let at = params![agent.as_str(), now.millis()];
            transaction.execute("UPDATE agents SET revoked_ms = ?2 WHERE id = ?1 AND revoked_ms IS NULL", at)?;
            transaction
                .execute("UPDATE agent_certificates SET revoked_ms = ?2 WHERE agent = ?1 AND revoked_ms IS NULL", at)?;
            transaction.execute("UPDATE enrolment_tokens SET used_ms = ?2 WHERE agent = ?1 AND used_ms IS NULL", at)?;
            transaction.commit()
        })?;
        let Some(entry) = known.get_mut(agent) else { return Ok(false) };
        entry.revoked = entry.revoked.or(Some(now));
        entry.certificates.iter_mut().for_each(|c| c.is_revoked = true);
        Ok(true)
    }

    /// Ends one certificate; gives whose it was. Blocks.
    pub(crate) fn revoke_serial(&self, serial: &str, now: Timestamp) -> Result<Option<AgentId>, LedgerError> {
        let serial = serial.to_ascii_lowercase().replace(':', "");
        let serial = serial.trim_start_matches('0');
        let mut known = self.known();
        self.ledger.with(|connection| {
            connection.execute(
                "UPDATE agent_certificates SET revoked_ms = ?2 WHERE serial = ?1 AND revoked_ms IS NULL",
                params![serial, now.millis()],
            )
        })?;
        let mut owner = None;
        #[expect(clippy::iter_over_hash_type, reason = "a serial number has one owner: order changes nothing")]
        for (agent, entry) in known.iter_mut() {
            if let Some(certificate) = entry.certificates.iter_mut().find(|c| c.serial == serial) {
                certificate.is_revoked = true;
                owner = Some(agent.clone());
            }
        }
        Ok(owner)
    }

    /// Every agent, by id.
    pub(crate) fn list(&self) -> Vec<AgentInfo> {
        let known = self.known();
        let mut list: Vec<AgentInfo> = known
            .iter()
            .map(|(agent, entry)| {
                let newest = entry.certificates.last();
                AgentInfo {
                    agent: agent.to_string(),
                    enrolled_ms: entry.enrolled.millis(),
                    revoked_ms: entry.revoked.map(Timestamp::millis),
                    last_seen_ms: entry.last_seen.map(Timestamp::millis),
                    connected: entry.connected.is_some(),
                    version: entry.version.clone(),
                    protocol: entry.protocol.clone(),
                    foreign_major: entry.foreign_major,
                    interval_ms: entry.interval_ms,
                    certificate_serial: newest.map_or_else(String::new, |c| c.serial.clone()),
                    certificate_ends_ms: newest.map_or(0, |c| c.not_after.millis()),
                    refusals: entry.refusals.iter().map(|(&cause, &n)| (cause.to_owned(), n)).collect(),
                    last_refusal: entry.last_refusal.clone(),
                }
            })
            .collect();
        list.sort_by(|a, b| a.agent.cmp(&b.agent));
        list
    }

    /// The pulse of every agent that is not revoked, by id.
    pub(crate) fn pulses(&self) -> Vec<Pulse> {
        let known = self.known();
        let mut pulses: Vec<Pulse> = known
            .iter()
            .filter(|(_, entry)| entry.revoked.is_none())
            .map(|(agent, entry)| Pulse {
                agent: agent.clone(),
                last_seen: entry.last_seen,
                connected: entry.connected,
                interval: Duration::from_millis(entry.interval_ms.into()),
            })
            .collect();
        pulses.sort_by(|a, b| a.agent.cmp(&b.agent));
        pulses
    }

    /// Takes note that `agent` connected, or (`None`) is gone.
    pub(crate) fn connected(&self, agent: &AgentId, since: Option<Timestamp>) {
        self.update(agent, |entry| entry.connected = since);
    }

    /// Takes note of a batch of `agent`.
    pub(crate) fn seen(&self, agent: &AgentId, now: Timestamp) {
        self.update(agent, |entry| {
            entry.last_seen = entry.last_seen.max(Some(now));
            entry.foreign_major = None;
            entry.is_unsaved = true;
        });
    }

    /// Takes note of how `agent` announced itself.
    pub(crate) fn presence(&self, agent: &AgentId, presence: &Presence) {
        let cut = |text: &str| text.chars().filter(|c| !c.is_control()).take(MAX_VERSION_CHARS).collect::<String>();
        self.update(agent, |entry| {
            entry.version = cut(&presence.version);
            entry.protocol = cut(&presence.protocol);
            entry.interval_ms = presence.interval_ms;
            entry.is_unsaved = true;
        });
    }

    /// Takes note that `agent` speaks another major version of the protocol.
    pub(crate) fn foreign_major(&self, agent: &AgentId, major: u8) {
        self.update(agent, |entry| entry.foreign_major = Some(major));
    }

    /// Counts something of `agent` that was refused.
    pub(crate) fn refused(&self, agent: &AgentId, cause: &'static str, reason: &str) {
        self.update(agent, |entry| {
            *entry.refusals.entry(cause).or_default() += 1;
            entry.last_refusal = Some(reason.to_owned());
        });
    }

    /// Writes what is known now to the ledger. Blocks.
    pub(crate) fn save(&self) -> Result<(), LedgerError> {
        let unsaved: Vec<(AgentId, Agent)> = {
            let mut known = self.known();
            let changed = known.iter_mut().filter(|(_, entry)| entry.is_unsaved);
            changed
                .map(|(agent, entry)| {
                    entry.is_unsaved = false;
                    (agent.clone(), entry.clone())
                })
                .collect()
        };
        if unsaved.is_empty() {
            return Ok(());
        }
        let saved = self.ledger.with(|connection| {
            let transaction = connection.transaction()?;
            for (agent, entry) in &unsaved {
                transaction.execute(
                    "UPDATE agents SET last_seen_ms = ?2, version = ?3, protocol = ?4, interval_ms = ?5 WHERE id = ?1",
                    params![
                        agent.as_str(),
                        entry.last_seen.map(Timestamp::millis),
                        entry.version,
                        entry.protocol,
                        entry.interval_ms
                    ],
                )?;
            }
            transaction.commit()
        });
        if saved.is_err() {
            for (agent, _) in &unsaved {
                self.update(agent, |entry| entry.is_unsaved = true);
            }
        }
        saved
    }

    fn update(&self, agent: &AgentId, change: impl FnOnce(&mut Agent)) {
        if let Some(entry) = self.known().get_mut(agent) {
            change(entry);
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<AgentId, Agent>> {
        // Every change is one assignment or comes after its transaction: a panic leaves nothing half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads an agent's id as an administrator typed it.
///
/// # Errors
/// [`AgentIdError`] says what an id looks like.
pub fn parse_agent(text: &str) -> Result<AgentId, AgentIdError> {
    text.trim().parse()
}

fn digest(secret: &[u8]) -> [u8; 32] {
    Sha256::digest(secret).into()
}

fn is_equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differences, (x, y)| differences | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ingest::ca::AGENT_CERTIFICATE_LIFE;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    struct Office {
        agents: Agents,
        ca: Ca,
        _dir: tempfile::TempDir,
    }

    impl Office {
        fn open() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let agents = Agents::open(Ledger::in_memory().unwrap()).unwrap();
            Self { agents, ca: Ca::open(dir.path(), &[], NOW).unwrap(), _dir: dir }
        }

        fn token(&self, agent: &str) -> Token {
            self.agents.create_token(agent.parse().unwrap(), TOKEN_LIFE, &self.ca, NOW).unwrap()
        }

        fn enrol(&self, token: &Token, now: Timestamp) -> Result<String, EnrolError> {
            let request =
                EnrolmentRequest { token: token.to_string(), certificate_request: crate::ingest::tests::request().1 };
            let broker = BrokerAddress { url: None, port: 8883 };
            let (_, response) = self.agents.enrol(&self.ca, &request, AGENT_CERTIFICATE_LIFE, &broker, now)?;
            Ok(crate::ingest::ca::describe(&response.certificate).unwrap().1)
        }
    }

    #[test]
    fn a_token_admits_once_even_when_two_use_it_at_the_same_moment() {
        let office = Arc::new(Office::open());
        let token = office.token("nas-1");
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8).map(|_| scope.spawn(|| office.enrol(&token, NOW))).collect();
            tries.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1);
        assert!(outcomes.iter().filter_map(|o| o.as_ref().err()).all(|e| matches!(e, EnrolError::UsedToken)));
    }

    #[test]
    fn each_wrong_token_has_its_own_answer() {
        let office = Office::open();
        let token = office.token("nas-1");
        let stranger = Token { secret: [7; 16], ..token.clone() };
        assert!(matches!(office.enrol(&stranger, NOW), Err(EnrolError::UnknownToken)));
        let other = Token { agent: "nas-2".parse().unwrap(), ..token.clone() };
        assert!(matches!(office.enrol(&other, NOW), Err(EnrolError::WrongAgent { .. })));
        let late = NOW.saturating_add(TOKEN_LIFE);
        assert!(matches!(office.enrol(&token, late), Err(EnrolError::ExpiredToken)));
        let garbage = EnrolmentRequest { token: token.to_string(), certificate_request: "garbage".into() };
        let broker = BrokerAddress { url: None, port: 1 };
        let refused = office.agents.enrol(&office.ca, &garbage, AGENT_CERTIFICATE_LIFE, &broker, NOW);
        assert!(matches!(refused, Err(EnrolError::BadRequest(_))));
        assert!(office.enrol(&token, NOW).is_ok(), "a bad request does not use the token up");
    }

    #[test]
    fn enrolling_again_ends_the_older_certificate_and_a_renewal_does_not() {
        let office = Office::open();
        let agent: AgentId = "nas-1".parse().unwrap();
        assert_eq!(office.agents.admits(&agent, "1"), Err(Inadmissible::Unknown));
        let first = office.enrol(&office.token("nas-1"), NOW).unwrap();
        let request = crate::ingest::tests::request().1;
        let renewed = office.agents.renew(&office.ca, &agent, &request, AGENT_CERTIFICATE_LIFE, NOW).unwrap();
        let renewed = crate::ingest::ca::describe(&renewed).unwrap().1;
        assert_eq!(office.agents.admits(&agent, &first), Ok(()));
        assert_eq!(office.agents.admits(&agent, &renewed), Ok(()));
        let second = office.enrol(&office.token("nas-1"), NOW).unwrap();
        assert_eq!(office.agents.admits(&agent, &first), Err(Inadmissible::Certificate));
        assert_eq!(office.agents.admits(&agent, &renewed), Err(Inadmissible::Certificate));
        assert_eq!(office.agents.admits(&agent, &second), Ok(()));
    }

    #[test]
    fn revocation_outlives_a_restart_and_takes_open_tokens_along() {
        let office = Office::open();
        let agent: AgentId = "nas-1".parse().unwrap();
        let serial = office.enrol(&office.token("nas-1"), NOW).unwrap();
        let open_token = office.token("nas-1");
        office.agents.seen(&agent, NOW);
        office.agents.save().unwrap();
        assert!(office.agents.revoke(&agent, NOW).unwrap());
        assert!(!office.agents.revoke(&"nobody".parse().unwrap(), NOW).unwrap());
        assert!(matches!(office.enrol(&open_token, NOW), Err(EnrolError::UsedToken)));
        let again = Agents::open(office.agents.ledger.clone()).unwrap();
        for agents in [&office.agents, &again] {
            assert_eq!(agents.admits(&agent, &serial), Err(Inadmissible::Revoked));
            assert!(agents.pulses().is_empty());
        }
        assert_eq!(again.list()[0].last_seen_ms, Some(NOW.millis()));
        assert!(office.enrol(&office.token("nas-1"), NOW).is_ok(), "a new token makes it welcome again");
    }

    #[test]
    fn one_certificate_can_be_revoked_by_its_serial_number() {
        let office = Office::open();
        let agent: AgentId = "nas-1".parse().unwrap();
        let serial = office.enrol(&office.token("nas-1"), NOW).unwrap();
        let shown: String = format!("0{}", serial.to_uppercase());
        assert_eq!(office.agents.revoke_serial("abc", NOW).unwrap(), None);
        assert_eq!(office.agents.revoke_serial(&shown, NOW).unwrap(), Some(agent.clone()));
        assert_eq!(office.agents.admits(&agent, &serial), Err(Inadmissible::Certificate));
    }
}

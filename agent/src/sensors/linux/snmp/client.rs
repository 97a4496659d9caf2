//! One device asked over UDP: questions, repeats, walks; all of it bounded in time, values and bytes.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, ToSocketAddrs as _, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use veghe_dialects::snmp::ber::BerError;
use veghe_dialects::snmp::message::{decode_v2c, encode_v2c};
use veghe_dialects::snmp::usm::{Answer, Session, User, UsmError};
use veghe_dialects::snmp::{Oid, Pdu, PduType, Value};

use super::settings::{Auth, Credentials, Target};
use crate::clock;

/// How long one question waits for its answer before it is repeated.
const TRY: Duration = Duration::from_secs(2);
/// How often a question is asked anew in the hope for another answer, as after an engine's time was learned.
const MAX_ROUNDS: u32 = 4;
/// What all walks of one round may bring.
const MAX_VALUES: usize = 50_000;
const MAX_BYTES: usize = 8 << 20;
const MAX_PACKET: usize = 65_535;
const MAX_SECRET_BYTES: u64 = 4096;
/// RFC 3416: the answer would not fit.
const TOO_BIG: i32 = 1;
/// RFC 3416, of version 1: there is nothing more.
const NO_SUCH_NAME: i32 = 2;

/// Why a device gives no values.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("cannot read {}", path.display())]
    Secret { path: PathBuf, source: io::Error },
    #[error("{} holds no password of at least 8 characters, which SNMPv3 asks for", path.display())]
    ShortSecret { path: PathBuf },
    #[error("cannot find the address")]
    Resolve(#[source] io::Error),
    #[error("the name has no address")]
    NoAddress,
    #[error("cannot send or receive")]
    Socket(#[from] io::Error),
    #[error("no answer in time")]
    Silent,
    #[error("refused")]
    Refused(#[source] UsmError),
    #[error("cannot draw random numbers")]
    Random,
    #[error("the device answered with error {status}")]
    Status { status: i32 },
    #[error("names do not ascend after {after}")]
    NotAscending { after: Oid },
    #[error("the device has more than {MAX_VALUES} values or {MAX_BYTES} bytes")]
    TooMuch,
}

/// A device and how it is asked.
pub(super) struct Client {
    socket: UdpSocket,
    security: Security,
    next_id: i32,
    next_salt: u64,
    /// Times of version 3 count from here.
    epoch: Instant,
    repetitions: u16,
    pub(super) sent: u32,
    pub(super) repeated: u32,
    packet: Vec<u8>,
}

enum Security {
    Community(Vec<u8>),
    User(Box<Session>),
}

/// What one file holds, without the line end that editors add.
fn secret(path: &Path) -> Result<Vec<u8>, ClientError> {
    let wrong = |source| ClientError::Secret { path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(wrong)?.len();
    if length > MAX_SECRET_BYTES {
        return Err(wrong(io::Error::other(format!("it has more than {MAX_SECRET_BYTES} bytes"))));
    }
    let mut bytes = fs::read(path).map_err(wrong)?;
    while bytes.last().is_some_and(|last| matches!(last, b'\n' | b'\r')) {
        bytes.pop();
    }
    Ok(bytes)
}

fn password(path: &Path) -> Result<Vec<u8>, ClientError> {
    let password = secret(path)?;
    if password.len() < 8 {
        return Err(ClientError::ShortSecret { path: path.to_owned() });
    }
    Ok(password)
}

fn security(auth: &Auth) -> Result<Security, ClientError> {
    match &auth.credentials {
        Credentials::Community { file: Some(file) } => secret(file).map(Security::Community),
        Credentials::Community { file: None } => Ok(Security::Community(b"public".to_vec())),
        Credentials::User { name, auth, privacy, context } => {
            let (auth, privacy) = (auth.as_ref(), privacy.as_ref());
            let auth = auth.map(|(protocol, file)| password(file).map(|password| (*protocol, password))).transpose()?;
            let privacy =
                privacy.map(|(protocol, file)| password(file).map(|password| (*protocol, password))).transpose()?;
            let user = User { name: name.clone(), auth, privacy };
            Ok(Security::User(Box::new(Session::new(user, context))))
        }
    }
}

impl Client {
    /// A socket for `target`; nothing is sent yet.
    pub(super) fn new(target: &Target) -> Result<Self, ClientError> {
        let security = security(&target.auth)?;
        let mut addresses = target.socket_address().to_socket_addrs().map_err(ClientError::Resolve)?;
        let address = addresses.next().ok_or(ClientError::NoAddress)?;
        let socket = if address.is_ipv4() {
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?
        } else {
            UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?
        };
        socket.connect(address)?;
        let mut random = [0; 12];
        getrandom::fill(&mut random).or(Err(ClientError::Random))?;
        let (id, salt) = random.split_at(4);
        let next_id = id.iter().fold(0_i32, |id, byte| id << 8 | i32::from(*byte)) & 0x3fff_ffff;
        let next_salt = salt.iter().fold(0_u64, |salt, byte| salt << 8 | u64::from(*byte));
        Ok(Self {
            socket,
            security,
            next_id,
            next_salt,
            epoch: clock::instant(),
            repetitions: target.max_repetitions,
            sent: 0,
            repeated: 0,
            packet: vec![0; MAX_PACKET],
        })
    }

    /// Every value below `roots`, ascending by name, before `until`.
    pub(super) fn walk(&mut self, roots: &[Oid], until: Instant) -> Result<Vec<(Oid, Value)>, ClientError> {
        let mut values = Vec::new();
        let mut bytes = 0;
        for root in roots {
            self.walk_one(root, until, &mut values, &mut bytes)?;
        }
        values.sort_by(|(a, _), (b, _)| a.cmp(b));
        values.dedup_by(|(later, _), (earlier, _)| later == earlier);
        Ok(values)
    }

    fn walk_one(
        &mut self,
        root: &Oid,
        until: Instant,
        values: &mut Vec<(Oid, Value)>,
        bytes: &mut usize,
    ) -> Result<(), ClientError> {
        let mut last = root.clone();
        let mut repetitions = self.repetitions;
        loop {
            let pdu = self.ask(&|id| Pdu::bulk(id, &last, repetitions), until)?;
            match pdu.error_status {
                0 => {}
                TOO_BIG if repetitions > 1 => {
                    repetitions /= 2;
                    continue;
                }
                NO_SUCH_NAME => return Ok(()),
                status => return Err(ClientError::Status { status }),
            }
            if pdu.values.is_empty() {
                return Ok(());
            }
            for (name, value) in pdu.values {
                if name.below(root).is_none() || value == Value::EndOfMibView {
                    return Ok(());
                }
                if name <= last {
                    return Err(ClientError::NotAscending { after: last });
                }
                *bytes += size_of::<(Oid, Value)>() + name.parts().len() * 4;
                if let Value::Octets(octets) | Value::Opaque(octets) = &value {
                    *bytes += octets.len();
                }
                if values.len() >= MAX_VALUES || *bytes > MAX_BYTES {
                    return Err(ClientError::TooMuch);
                }
                last = name.clone();
                values.push((name, value));
            }
        }
    }

    /// Asks until there is an answer, at the latest until `until`.
    fn ask(&mut self, question: &dyn Fn(i32) -> Pdu, until: Instant) -> Result<Pdu, ClientError> {
        let mut rounds = 0;
        let mut is_repeat = false;
        loop {
            let now = clock::instant();
            if now >= until {
                // Another device may have the address now; version 3 begins with who it is.
                if let Security::User(session) = &mut self.security {
                    session.forget();
                }
                return Err(ClientError::Silent);
            }
            self.next_id = if self.next_id >= i32::MAX - 1 { 1 } else { self.next_id + 1 };
            self.next_salt = self.next_salt.wrapping_add(1);
            let (id, salt) = (self.next_id, self.next_salt);
            let pdu = question(id);
            let since = now.duration_since(self.epoch);
            let bytes = match &mut self.security {
                Security::Community(community) => encode_v2c(community, &pdu),
                Security::User(session) => session.encode(&pdu, id, salt, since),
            };
            self.sent += 1;
            self.repeated += u32::from(is_repeat);
            self.socket.send(&bytes)?;
            match self.receive(id, until.min(now + TRY))? {
                Some(Answer::Pdu(pdu)) => return Ok(pdu),
                Some(Answer::Again) if rounds < MAX_ROUNDS => rounds += 1,
                Some(Answer::Again) => return Err(ClientError::Refused(UsmError::Untimely)),
                None => is_repeat = true,
            }
        }
    }

    /// What is said to the question `id` before `until`; what is no answer to it is passed over.
    fn receive(&mut self, id: i32, until: Instant) -> Result<Option<Answer>, ClientError> {
        loop {
            let left = until.saturating_duration_since(clock::instant());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let length = match self.socket.recv(&mut self.packet) {
                Ok(length) => length,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let bytes = self.packet.get(..length).unwrap_or_default();
            let is_it = |pdu: &Pdu| pdu.kind == PduType::Response && pdu.request_id == id;
            match &mut self.security {
                Security::Community(_) => match decode_v2c(bytes) {
                    Ok((_, pdu)) if is_it(&pdu) => return Ok(Some(Answer::Pdu(pdu))),
                    Ok(_) => {}
                    Err(error) => tell_malformed(error),
                },
                Security::User(session) => match session.decode(bytes, clock::instant().duration_since(self.epoch)) {
                    Ok(Answer::Pdu(pdu)) if !is_it(&pdu) => {}
                    Ok(answer) => return Ok(Some(answer)),
                    Err(error) if error.may_pass() => tracing::debug!(%error, "passed over an SNMP message"),
                    Err(error) => return Err(ClientError::Refused(error)),
                },
            }
        }
    }
}

fn tell_malformed(error: BerError) {
    tracing::debug!(%error, "passed over an SNMP message");
}

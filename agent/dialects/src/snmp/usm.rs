//! Version 3 with the user-based security model: who asks is known, and nobody reads along.
//!
//! Authentication HMAC-SHA-1-96 (RFC 3414) and HMAC-SHA-224 to -512 (RFC 7860); privacy AES-128 (RFC 3826), and AES-192
//! and -256 with either extension of short keys that is in use (Blumenthal's draft, and Reeder's, which Cisco took).
//! MD5 and DES, which no longer protect anything, are left out on purpose.

use std::fmt;
use std::time::Duration;

use aes::{Aes128, Aes192, Aes256};
use cfb_mode::cipher::KeyIvInit as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use sha2::{Digest as _, Sha224, Sha256, Sha384, Sha512};

use super::ber::{BerError, OCTET_STRING, Reader, SEQUENCE, Writer};
use super::message::{Pdu, PduType, Value};

const VERSION_3: i64 = 3;
const SECURITY_MODEL_USM: i64 = 3;
const AUTHENTICATED: u8 = 1;
const ENCRYPTED: u8 = 2;
const REPORTABLE: u8 = 4;
/// What an answer may have.
const MAX_MESSAGE_BYTES: i64 = 65507;
/// How far the clocks may be apart (RFC 3414, 2.2.3).
const TIME_WINDOW: Duration = Duration::from_secs(150);
/// Engines have at most this many bytes in their name (RFC 3411).
const MAX_ENGINE_ID: usize = 32;
/// What a password is repeated to (RFC 3414, A.2).
const EXPANDED_BYTES: usize = 1 << 20;
/// Below it every report of the security model is (RFC 3414, `usmStats`).
const USM_STATS: [u32; 10] = [1, 3, 6, 1, 6, 3, 15, 1, 1, 0];

/// How messages are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthProtocol {
    /// HMAC-SHA-1-96.
    Sha1,
    /// HMAC-SHA-224-128.
    Sha224,
    /// HMAC-SHA-256-192.
    Sha256,
    /// HMAC-SHA-384-256.
    Sha384,
    /// HMAC-SHA-512-384.
    Sha512,
}

macro_rules! with_hash {
    ($protocol:expr, $hash:ident => $then:expr) => {
        match $protocol {
            AuthProtocol::Sha1 => {
                type $hash = Sha1;
                $then
            }
            AuthProtocol::Sha224 => {
                type $hash = Sha224;
                $then
            }
            AuthProtocol::Sha256 => {
                type $hash = Sha256;
                $then
            }
            AuthProtocol::Sha384 => {
                type $hash = Sha384;
                $then
            }
            AuthProtocol::Sha512 => {
                type $hash = Sha512;
                $then
            }
        }
    };
}

impl AuthProtocol {
    /// Bytes of a signature.
    fn signature_bytes(self) -> usize {
        match self {
            Self::Sha1 => 12,
            Self::Sha224 => 16,
            Self::Sha256 => 24,
            Self::Sha384 => 32,
            Self::Sha512 => 48,
        }
    }

    fn hash(self, parts: &[&[u8]]) -> Vec<u8> {
        with_hash!(self, Hash => {
            let mut hash = Hash::new();
            for part in parts {
                hash.update(part);
            }
            hash.finalize().to_vec()
        })
    }

    /// The key of `password` for the engine `engine_id` (RFC 3414, A.2).
    fn key(self, password: &[u8], engine_id: &[u8]) -> Vec<u8> {
        let expanded = with_hash!(self, Hash => {
            let mut hash = Hash::new();
            // Whole passwords in pieces of some size, as a call for each byte would take its time.
            let piece: Vec<u8> = password.iter().copied().cycle().take(password.len().max(1) * 64).collect();
            let mut left = if password.is_empty() { 0 } else { EXPANDED_BYTES };
            while left > 0 {
                let part = piece.get(..left.min(piece.len())).unwrap_or_default();
                hash.update(part);
                left -= part.len();
            }
            hash.finalize().to_vec()
        });
        self.hash(&[&expanded, engine_id, &expanded])
    }

    fn sign(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        let mut signature = with_hash!(self, Hash => {
            // HMAC takes a key of any length.
            let Ok(mut mac) = Hmac::<Hash>::new_from_slice(key) else { return Vec::new() };
            for part in parts {
                mac.update(part);
            }
            mac.finalize().into_bytes().to_vec()
        });
        signature.truncate(self.signature_bytes());
        signature
    }

    fn is_signed(self, key: &[u8], parts: &[&[u8]], signature: &[u8]) -> bool {
        signature.len() == self.signature_bytes()
            && with_hash!(self, Hash => {
                Hmac::<Hash>::new_from_slice(key).is_ok_and(|mut mac| {
                    for part in parts {
                        mac.update(part);
                    }
                    mac.verify_truncated_left(signature).is_ok()
                })
            })
    }
}

/// How messages are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrivProtocol {
    /// AES-128.
    Aes128,
    /// AES-192 with keys as in Blumenthal's draft.
    Aes192,
    /// AES-256 with keys as in Blumenthal's draft.
    Aes256,
    /// AES-192 with keys as in Reeder's draft, for Cisco and others.
    Aes192Reeder,
    /// AES-256 with keys as in Reeder's draft, for Cisco and others.
    Aes256Reeder,
}

impl PrivProtocol {
    fn key_bytes(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes192 | Self::Aes192Reeder => 24,
            Self::Aes256 | Self::Aes256Reeder => 32,
        }
    }

    fn key(self, auth: AuthProtocol, password: &[u8], engine_id: &[u8]) -> Vec<u8> {
        let mut key = auth.key(password, engine_id);
        while key.len() < self.key_bytes() {
            let more = match self {
                Self::Aes192Reeder | Self::Aes256Reeder => auth.key(&key, engine_id),
                Self::Aes128 | Self::Aes192 | Self::Aes256 => auth.hash(&[&key]),
            };
            key.extend(more);
        }
        key.truncate(self.key_bytes());
        key
    }

    fn encrypt(self, key: &[u8], iv: &[u8; 16], bytes: &mut [u8]) {
        // A key is as long as its cipher wants.
        match self.key_bytes() {
            16 => drop(cfb_mode::Encryptor::<Aes128>::new_from_slices(key, iv).map(|cipher| cipher.encrypt(bytes))),
            24 => drop(cfb_mode::Encryptor::<Aes192>::new_from_slices(key, iv).map(|cipher| cipher.encrypt(bytes))),
            _ => drop(cfb_mode::Encryptor::<Aes256>::new_from_slices(key, iv).map(|cipher| cipher.encrypt(bytes))),
        }
    }

    fn decrypt(self, key: &[u8], iv: &[u8; 16], bytes: &mut [u8]) {
        match self.key_bytes() {
            16 => drop(cfb_mode::Decryptor::<Aes128>::new_from_slices(key, iv).map(|cipher| cipher.decrypt(bytes))),
            24 => drop(cfb_mode::Decryptor::<Aes192>::new_from_slices(key, iv).map(|cipher| cipher.decrypt(bytes))),
            _ => drop(cfb_mode::Decryptor::<Aes256>::new_from_slices(key, iv).map(|cipher| cipher.decrypt(bytes))),
        }
    }
}

/// Who asks, and what that is proven with. Its `Debug` shows no password.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// The user's name.
    pub name: String,
    /// How messages are signed, and the password for that.
    pub auth: Option<(AuthProtocol, Vec<u8>)>,
    /// How messages are encrypted, and the password for that; only with [`User::auth`].
    pub privacy: Option<(PrivProtocol, Vec<u8>)>,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let auth = self.auth.as_ref().map(|(protocol, _)| protocol);
        let privacy = self.privacy.as_ref().map(|(protocol, _)| protocol);
        f.debug_struct("User").field("name", &self.name).field("auth", &auth).field("privacy", &privacy).finish()
    }
}

/// Why an answer does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsmError {
    /// The bytes are no message.
    #[error("cannot read the answer")]
    Malformed(#[from] BerError),
    /// It answers another question, or is from another engine or user: one that came late.
    #[error("the answer is to another question")]
    Foreign,
    /// It is not signed as it must be.
    #[error("the answer is not signed with the user's key")]
    Unsigned,
    /// Its time is not that of the engine.
    #[error("the answer is from another time")]
    Untimely,
    /// The device wants more, or less, than these credentials give.
    #[error("the device refuses the security level; set another auth_protocol, priv_protocol or security_level")]
    Level,
    /// The device does not know the user.
    #[error("the device does not know the user; set another username")]
    UnknownUser,
    /// The device has another password for the user.
    #[error("the device has another auth password or auth_protocol for the user")]
    WrongPassword,
    /// The device can't decrypt.
    #[error("the device has another priv password or priv_protocol for the user")]
    WrongPrivacy,
    /// Another report.
    #[error("the device refuses the message")]
    Refused,
}

impl UsmError {
    /// Whether the right answer may still come.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Malformed(_) | Self::Foreign | Self::Unsigned | Self::Untimely)
    }
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// What was asked for.
    Pdu(Pdu),
    /// Who or when the engine is: ask again.
    Again,
}

/// A device's engine as it is known so far.
struct Engine {
    id: Vec<u8>,
    auth_key: Vec<u8>,
    privacy_key: Vec<u8>,
    boots: u32,
    /// Its time in seconds, and ours when it said so.
    time: u32,
    as_of: Duration,
}

impl Engine {
    fn time_at(&self, now: Duration) -> u32 {
        let passed = now.saturating_sub(self.as_of).as_secs();
        self.time.saturating_add(u32::try_from(passed).unwrap_or(u32::MAX)).min(i32::MAX as u32)
    }
}

/// Talks with one device as one user. Times are by any clock that never goes back.
pub struct Session {
    user: User,
    context: Vec<u8>,
    engine: Option<Engine>,
    /// Of the question that waits for its answer.
    message_id: i32,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let engine = self.engine.as_ref().map(|engine| &engine.id);
        f.debug_struct("Session").field("user", &self.user).field("engine", &engine).finish_non_exhaustive()
    }
}

/// A message of version 3 as it came; positions count from its beginning.
struct Envelope<'a> {
    message_id: i64,
    flags: u8,
    engine_id: &'a [u8],
    boots: u32,
    time: u32,
    user: &'a [u8],
    signature: &'a [u8],
    signature_at: usize,
    salt: &'a [u8],
    body: Reader<'a>,
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, BerError> {
        let mut message = Reader::new(bytes).typed(SEQUENCE)?;
        if message.integer()? != VERSION_3 {
            return Err(BerError::Number);
        }
        let mut header = message.typed(SEQUENCE)?;
        let message_id = header.integer()?;
        header.integer()?;
        let flags = header.octets()?.first().copied().ok_or(BerError::Truncated)?;
        if header.integer()? != SECURITY_MODEL_USM {
            return Err(BerError::Number);
        }
        let mut security = message.typed(OCTET_STRING)?.typed(SEQUENCE)?;
        let engine_id = security.octets()?;
        if engine_id.len() > MAX_ENGINE_ID {
            return Err(BerError::Length);
        }
        let mut small = || security.integer().and_then(|number| u32::try_from(number).or(Err(BerError::Number)));
        let (boots, time) = (small()?, small()?);
        let user = security.octets()?;
        let signature = security.typed(OCTET_STRING)?;
        let signature_at = signature.position();
        let salt = security.octets()?;
        Ok(Self {
            message_id,
            flags,
            engine_id,
            boots,
            time,
            user,
            signature: signature.rest(),
            signature_at,
            salt,
            body: message,
        })
    }
}

fn scoped(reader: &mut Reader<'_>) -> Result<Pdu, BerError> {
    // What is after it is padding.
    let mut scope = reader.typed(SEQUENCE)?;
    scope.octets()?;
    scope.octets()?;
    Pdu::read(&mut scope)
}

fn initial_vector(boots: u32, time: u32, salt: [u8; 8]) -> [u8; 16] {
    let mut iv = [0; 16];
    let bytes = boots.to_be_bytes().into_iter().chain(time.to_be_bytes()).chain(salt);
    iv.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
    iv
}

impl Session {
    /// With a device that nothing is known of, asked as `user` for its context `context` (most have only the empty one).
    pub fn new(user: User, context: &str) -> Self {
        Self { user, context: context.as_bytes().to_owned(), engine: None, message_id: 0 }
    }

    /// Whether the device's engine is known; the first question only asks for that.
    pub fn knows_engine(&self) -> bool {
        self.engine.is_some()
    }

    /// Forgets the device's engine, as when another device has its address now.
    pub fn forget(&mut self) {
        self.engine = None;
    }

    /// A message with the question `pdu`. `salt` must never repeat for one session.
    pub fn encode(&mut self, pdu: &Pdu, message_id: i32, salt: u64, now: Duration) -> Vec<u8> {
        self.message_id = message_id;
        let Some(engine) = &self.engine else {
            let empty = Pdu::question(PduType::Get, pdu.request_id, &[]);
            return self.message(&empty, None, 0, now).0;
        };
        let (mut bytes, signature_at) = self.message(pdu, Some(engine), salt, now);
        if let Some((protocol, _)) = &self.user.auth {
            let signature = protocol.sign(&engine.auth_key, &[&bytes]);
            let place = bytes.get_mut(signature_at..signature_at + signature.len());
            if let Some(place) = place {
                place.copy_from_slice(&signature);
            }
        }
        bytes
    }

    /// A message, its signature all zeros, and where that stands.
    fn message(&self, pdu: &Pdu, engine: Option<&Engine>, salt: u64, now: Duration) -> (Vec<u8>, usize) {
        let auth = self.user.auth.as_ref().filter(|_| engine.is_some());
        let privacy = self.user.privacy.as_ref().filter(|_| auth.is_some());
        let engine_id = engine.map_or(&[][..], |engine| &engine.id);
        let (boots, time) = match (engine, auth) {
            (Some(engine), Some(_)) => (engine.boots, engine.time_at(now)),
            _ => (0, 0),
        };
        let salt = salt.to_be_bytes();

        let mut scope = Writer::default();
        pdu.write(&mut scope);
        scope.octets(OCTET_STRING, &self.context);
        scope.octets(OCTET_STRING, engine_id);
        scope.wrap(SEQUENCE, 0);
        let mut scope = scope.finish();

        let mut writer = Writer::default();
        if let (Some((protocol, _)), Some(engine)) = (privacy, engine) {
            protocol.encrypt(&engine.privacy_key, &initial_vector(boots, time, salt), &mut scope);
            writer.octets(OCTET_STRING, &scope);
        } else {
            writer.raw(&scope);
        }
        let since = writer.len();
        writer.octets(OCTET_STRING, if privacy.is_some() { &salt } else { &[] });
        let zeros = vec![0; auth.map_or(0, |(protocol, _)| protocol.signature_bytes())];
        let after = writer.len();
        writer.octets(OCTET_STRING, &zeros);
        writer.octets(OCTET_STRING, if engine.is_some() { self.user.name.as_bytes() } else { &[] });
        writer.integer(time.into());
        writer.integer(boots.into());
        writer.octets(OCTET_STRING, engine_id);
        writer.wrap(SEQUENCE, since);
        writer.wrap(OCTET_STRING, since);

        let since = writer.len();
        writer.integer(SECURITY_MODEL_USM);
        let flags =
            REPORTABLE | if auth.is_some() { AUTHENTICATED } else { 0 } | if privacy.is_some() { ENCRYPTED } else { 0 };
        writer.octets(OCTET_STRING, &[flags]);
        writer.integer(MAX_MESSAGE_BYTES);
        writer.integer(self.message_id.into());
        writer.wrap(SEQUENCE, since);
        writer.integer(VERSION_3);
        writer.wrap(SEQUENCE, 0);
        let signature_at = writer.len() - after - zeros.len();
        (writer.finish(), signature_at)
    }

    /// What the answer `bytes` says to the question before it.
    ///
    /// # Errors
    /// Where it does not count; [`UsmError::may_pass`] tells whether the right one may still come.
    pub fn decode(&mut self, bytes: &[u8], now: Duration) -> Result<Answer, UsmError> {
        let envelope = Envelope::read(bytes)?;
        if envelope.message_id != i64::from(self.message_id) {
            return Err(UsmError::Foreign);
        }
        let is_signed = self.check_signature(&envelope, bytes)?;
        let Some(engine) = &mut self.engine else {
            return self.discover(&envelope, now);
        };
        if envelope.engine_id != engine.id {
            // An unsigned message must not tell who the device is now; whoever asks forgets that after silence.
            return Err(UsmError::Foreign);
        }
        let mut body = envelope.body.clone();
        let pdu = if envelope.flags & ENCRYPTED == 0 {
            scoped(&mut body)?
        } else {
            let (protocol, _) = self.user.privacy.as_ref().filter(|_| is_signed).ok_or(UsmError::Unsigned)?;
            let salt = envelope.salt.try_into().or(Err(UsmError::Malformed(BerError::Length)))?;
            let mut plain = body.octets()?.to_owned();
            let iv = initial_vector(envelope.boots, envelope.time, salt);
            protocol.decrypt(&engine.privacy_key, &iv, &mut plain);
            scoped(&mut Reader::new(&plain))?
        };
        if pdu.kind == PduType::Report {
            return self.report(&pdu, &envelope, is_signed, now);
        }
        if self.user.auth.is_some() && !is_signed || self.user.privacy.is_some() && envelope.flags & ENCRYPTED == 0 {
            return Err(UsmError::Unsigned);
        }
        if envelope.user != self.user.name.as_bytes() || pdu.kind != PduType::Response {
            return Err(UsmError::Foreign);
        }
        if is_signed {
            engine.hear(&envelope, now)?;
        }
        Ok(Answer::Pdu(pdu))
    }

    /// Whether it is signed with the user's key; an error where it says so and is not.
    fn check_signature(&self, envelope: &Envelope<'_>, bytes: &[u8]) -> Result<bool, UsmError> {
        if envelope.flags & AUTHENTICATED == 0 {
            return Ok(false);
        }
        let (Some((protocol, _)), Some(engine)) = (&self.user.auth, &self.engine) else {
            return Err(UsmError::Foreign);
        };
        let end = envelope.signature_at + envelope.signature.len();
        let (before, after) = (bytes.get(..envelope.signature_at), bytes.get(end..));
        let zeros = vec![0; envelope.signature.len()];
        let parts = [before.unwrap_or_default(), &zeros, after.unwrap_or_default()];
        let is_signed =
            envelope.engine_id == engine.id && protocol.is_signed(&engine.auth_key, &parts, envelope.signature);
        if is_signed { Ok(true) } else { Err(UsmError::Unsigned) }
    }

    /// Learns who the device is. What it says of its time is tried, and corrected by a signed report where it was wrong.
    fn discover(&mut self, envelope: &Envelope<'_>, now: Duration) -> Result<Answer, UsmError> {
        let pdu = scoped(&mut envelope.body.clone())?;
        if pdu.kind != PduType::Report || envelope.engine_id.is_empty() {
            return Err(UsmError::Foreign);
        }
        let id = envelope.engine_id.to_owned();
        let auth = self.user.auth.as_ref();
        let auth_key = auth.map(|(protocol, password)| protocol.key(password, &id)).unwrap_or_default();
        let privacy = self.user.privacy.as_ref().zip(auth);
        let privacy_key = privacy.map(|((protocol, password), (auth, _))| protocol.key(*auth, password, &id));
        let privacy_key = privacy_key.unwrap_or_default();
        let (boots, time) = (envelope.boots, envelope.time);
        self.engine = Some(Engine { id, auth_key, privacy_key, boots, time, as_of: now });
        Ok(Answer::Again)
    }

    fn report(
        &mut self,
        pdu: &Pdu,
        envelope: &Envelope<'_>,
        is_signed: bool,
        now: Duration,
    ) -> Result<Answer, UsmError> {
        let about = pdu.values.first().map(|(name, _): &(_, Value)| name.parts()).unwrap_or_default();
        let statistic = match about {
            [prefix @ .., which, _] if USM_STATS.starts_with(prefix) && prefix.len() == USM_STATS.len() - 1 => *which,
            _ => 0,
        };
        match statistic {
            // Not in the time window: what it says now is signed.
            2 if is_signed => {
                if let Some(engine) = &mut self.engine {
                    (engine.boots, engine.time, engine.as_of) = (envelope.boots, envelope.time, now);
                }
                Ok(Answer::Again)
            }
            1 => Err(UsmError::Level),
            3 => Err(UsmError::UnknownUser),
            5 => Err(UsmError::WrongPassword),
            6 => Err(UsmError::WrongPrivacy),
            _ => Err(UsmError::Refused),
        }
    }
}

impl Engine {
    /// Takes the time of a signed answer (RFC 3414, 3.2, 7 b).
    fn hear(&mut self, envelope: &Envelope<'_>, now: Duration) -> Result<(), UsmError> {
        let expected = self.time_at(now);
        let is_late = u64::from(envelope.time) + TIME_WINDOW.as_secs() < u64::from(expected);
        if envelope.boots < self.boots || envelope.boots == self.boots && is_late {
            return Err(UsmError::Untimely);
        }
        if envelope.boots > self.boots || envelope.time > self.time {
            (self.boots, self.time, self.as_of) = (envelope.boots, envelope.time, now);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
    }

    fn example_engine() -> Vec<u8> {
        vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    }

    #[test]
    fn keys_are_those_of_the_standards_examples() {
        // RFC 3414, A.3.2.
        let key = AuthProtocol::Sha1.key(b"maplesyrup", &example_engine());
        assert_eq!(hex(&key), "6695febc9288e36282235fc7151f128497b38f3f");
        // Each extension begins with the localized key; the drafts say how it goes on.
        let blumenthal = PrivProtocol::Aes256.key(AuthProtocol::Sha1, b"maplesyrup", &example_engine());
        assert_eq!(hex(&blumenthal[..20]), hex(&key));
        assert_eq!(hex(&blumenthal[20..]), hex(&Sha1::digest(&key)[..12]));
        let reeder = PrivProtocol::Aes256Reeder.key(AuthProtocol::Sha1, b"maplesyrup", &example_engine());
        assert_eq!(hex(&reeder[20..]), hex(&AuthProtocol::Sha1.key(&key, &example_engine())[..12]));
        assert_eq!(PrivProtocol::Aes128.key(AuthProtocol::Sha512, b"maplesyrup", &example_engine()).len(), 16);
    }

    /// A device with one user, which answers as RFC 3414 says.
    struct Device {
        session: Session,
        boots: u32,
        time: u32,
    }

    fn user(auth: &str, privacy: &str) -> User {
        User {
            name: "veghe".to_owned(),
            auth: Some((AuthProtocol::Sha256, auth.as_bytes().to_owned())),
            privacy: Some((PrivProtocol::Aes256, privacy.as_bytes().to_owned())),
        }
    }

    impl Device {
        fn new(user: User) -> Self {
            let mut session = Session::new(user, "");
            let id = example_engine();
            let (auth, auth_password) = session.user.auth.clone().expect("auth");
            let (privacy, privacy_password) = session.user.privacy.clone().expect("privacy");
            session.engine = Some(Engine {
                auth_key: auth.key(&auth_password, &id),
                privacy_key: privacy.key(auth, &privacy_password, &id),
                id,
                boots: 0,
                time: 0,
                as_of: Duration::ZERO,
            });
            Self { session, boots: 7, time: 1000 }
        }

        fn sealed(&mut self, pdu: &Pdu, message_id: i32) -> Vec<u8> {
            let engine = self.session.engine.as_mut().expect("engine");
            (engine.boots, engine.time) = (self.boots, self.time);
            self.session.encode(pdu, message_id, 99, Duration::ZERO)
        }

        fn report(&mut self, which: u32, message_id: i32) -> Vec<u8> {
            let name = super::super::Oid::new(vec![1, 3, 6, 1, 6, 3, 15, 1, 1, which, 0]).expect("a name");
            let values = vec![(name, Value::Counter32(1))];
            let pdu = Pdu { kind: PduType::Report, request_id: 0, error_status: 0, error_index: 0, values };
            if which == 2 {
                // It is signed, but not encrypted (RFC 3414, 3.2, 7 a).
                let privacy = self.session.user.privacy.take();
                let bytes = self.sealed(&pdu, message_id);
                self.session.user.privacy = privacy;
                return bytes;
            }
            let mut plain = Session::new(User { auth: None, privacy: None, ..self.session.user.clone() }, "");
            plain.engine = Some(Engine {
                id: example_engine(),
                auth_key: Vec::new(),
                privacy_key: Vec::new(),
                boots: self.boots,
                time: self.time,
                as_of: Duration::ZERO,
            });
            plain.encode(&pdu, message_id, 0, Duration::ZERO)
        }

        fn answer(&mut self, bytes: &[u8]) -> Vec<u8> {
            let envelope = Envelope::read(bytes).expect("a message");
            let message_id = envelope.message_id as i32;
            if envelope.engine_id.is_empty() {
                return self.report(4, message_id);
            }
            if self.session.check_signature(&envelope, bytes).is_err() {
                return self.report(5, message_id);
            }
            if envelope.boots != self.boots || envelope.time.abs_diff(self.time) > 150 {
                return self.report(2, message_id);
            }
            let mut plain = envelope.body.clone().octets().expect("encrypted").to_owned();
            let iv = initial_vector(envelope.boots, envelope.time, envelope.salt.try_into().expect("salt"));
            let key = &self.session.engine.as_ref().expect("engine").privacy_key;
            PrivProtocol::Aes256.decrypt(key, &iv, &mut plain);
            let Ok(question) = scoped(&mut Reader::new(&plain)) else { return self.report(6, message_id) };
            self.sealed(&Pdu { kind: PduType::Response, ..question }, message_id)
        }
    }

    fn question() -> Pdu {
        Pdu::question(PduType::Get, 4711, &["1.3.6.1.2.1.1.3.0".parse().expect("a name")])
    }

    #[test]
    fn a_question_is_answered_after_the_engine_is_known_and_again_after_it_started_anew() {
        let mut device = Device::new(user("authauth", "privpriv"));
        let mut session = Session::new(user("authauth", "privpriv"), "");
        let ask = |session: &mut Session, device: &mut Device, id: i32| {
            let bytes = session.encode(&question(), id, id as u64, Duration::ZERO);
            let answer = device.answer(&bytes);
            session.decode(&answer, Duration::ZERO)
        };
        assert_eq!(ask(&mut session, &mut device, 1), Ok(Answer::Again));
        // A device says 0 where it does not tell its time unasked.
        let engine = session.engine.as_mut().expect("engine");
        (engine.boots, engine.time) = (0, 0);
        assert_eq!(ask(&mut session, &mut device, 2), Ok(Answer::Again));
        let Ok(Answer::Pdu(pdu)) = ask(&mut session, &mut device, 3) else { panic!("no answer") };
        assert_eq!((pdu.request_id, pdu.values), (4711, question().values));
        (device.boots, device.time) = (8, 3);
        assert_eq!(ask(&mut session, &mut device, 4), Ok(Answer::Again));
        assert!(matches!(ask(&mut session, &mut device, 5), Ok(Answer::Pdu(_))));
    }

    #[test]
    fn wrong_passwords_are_told_apart_and_what_is_not_signed_does_not_count() {
        for (auth, privacy, error) in
            [("otherauth", "privpriv", UsmError::WrongPassword), ("authauth", "otherpriv", UsmError::WrongPrivacy)]
        {
            let mut device = Device::new(user("authauth", "privpriv"));
            let mut session = Session::new(user(auth, privacy), "");
            let bytes = session.encode(&question(), 1, 1, Duration::ZERO);
            let answer = device.answer(&bytes);
            assert_eq!(session.decode(&answer, Duration::ZERO), Ok(Answer::Again));
            for id in 2.. {
                let bytes = session.encode(&question(), id, 2, Duration::ZERO);
                let answer = device.answer(&bytes);
                match session.decode(&answer, Duration::ZERO) {
                    // Once, for the time.
                    Ok(Answer::Again) if id == 2 => {}
                    outcome => {
                        assert_eq!(outcome, Err(error));
                        break;
                    }
                }
            }
        }
        let mut device = Device::new(user("authauth", "privpriv"));
        let mut session = Session::new(user("authauth", "privpriv"), "");
        let bytes = session.encode(&question(), 1, 1, Duration::ZERO);
        let answer = device.answer(&bytes);
        assert_eq!(session.decode(&answer, Duration::ZERO), Ok(Answer::Again));
        for id in 2..4 {
            let bytes = session.encode(&question(), id, 2, Duration::ZERO);
            let answer = device.answer(&bytes);
            session.decode(&answer, Duration::ZERO).expect("an answer");
        }
        let bytes = session.encode(&question(), 4, 4, Duration::ZERO);
        let good = device.answer(&bytes);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let outcome = session.decode(&bad, Duration::ZERO);
            assert!(outcome.is_err(), "byte {at}: {outcome:?}");
        }
        assert!(matches!(session.decode(&good, Duration::ZERO), Ok(Answer::Pdu(_))));
        // The same answer once more, much later.
        assert_eq!(session.decode(&good, Duration::from_secs(1000)), Err(UsmError::Untimely));
        let shown = format!("{session:?}");
        assert!(!shown.contains("authauth") && !shown.contains(&format!("{:?}", b"authauth")), "{shown}");
    }
}

//! Who may do what on the operations listener: users, API tokens, the first sign-in, and the check of every request.
//!
//! Invariants: a wrong credential is refused even where none is needed; passwords are kept as argon2id, tokens as
//! SHA-256; comparing takes the same time for right and wrong; no credential reaches a log. What it deliberately does
//! not do: sessions and sign-in pages.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use prometheus::{IntCounterVec, Opts, Registry};
use rusqlite::params;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use veghe_model::Timestamp;

use super::Refusal;
use super::rate::Rate;
use crate::clock;
use crate::ledger::{Ledger, LedgerError};

/// Tables of users and their tokens.
pub(super) const SCHEMA: &str = "
    CREATE TABLE web_user (
        name TEXT PRIMARY KEY,
        password_hash TEXT NOT NULL, -- PHC string
        scopes TEXT NOT NULL, -- separated by spaces
        created_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE web_token (
        sha256 BLOB PRIMARY KEY,
        user TEXT NOT NULL REFERENCES web_user (name) ON DELETE CASCADE,
        name TEXT NOT NULL, -- what it is for
        scopes TEXT NOT NULL,
        created_ms INTEGER NOT NULL
    ) STRICT;
";

/// The file with the first sign-in, below the data directory.
pub const FIRST_LOGIN_FILE: &str = "first-login";

/// What a credential allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Queries, pages, metrics, state of agents and alerts.
    Read,
    /// Sending samples.
    Write,
    /// Silences, acknowledgements, incidents, maintenance.
    Operate,
    /// Agents, tokens, users, configuration.
    Admin,
    /// Sending events of the digitization.
    Events,
}

impl Scope {
    const ALL: [Self; 5] = [Self::Read, Self::Write, Self::Operate, Self::Admin, Self::Events];

    /// As in the ledger and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Operate => "operate",
            Self::Admin => "admin",
            Self::Events => "events",
        }
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Every scope there is.
    pub fn all() -> Self {
        Scope::ALL.into_iter().collect()
    }

    /// Whether `scope` is among them.
    pub fn allow(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8) != 0
    }

    fn parse(text: &str) -> Self {
        // A scope of a newer version is left out: it allows nothing that this version knows.
        Scope::ALL.into_iter().filter(|scope| text.split(' ').any(|word| word == scope.name())).collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | (1 << scope as u8)))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Scope::ALL.into_iter().filter(|s| self.allow(*s)).map(Scope::name).collect();
        f.write_str(&names.join(" "))
    }
}

/// Who sent a request; in the request's extensions once it passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user, or nothing for somebody on this machine who reads without credentials.
    pub user: Option<String>,
    /// What they may do.
    pub scopes: Scopes,
}

/// What a group of routes asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Reading: free on a loopback listener, a credential with [`Scope::Read`] elsewhere.
    Reading,
    /// A credential with this scope, on any listener.
    Credential(Scope),
}

/// Who can reach a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Programs on this machine only.
    Loopback,
    /// Other machines.
    Network,
}

impl Exposure {
    /// The exposure of a listener bound to `address`.
    pub fn of(address: IpAddr) -> Self {
        if address.to_canonical().is_loopback() { Self::Loopback } else { Self::Network }
    }
}

/// Why users and tokens can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The ledger failed.
    #[error("cannot keep users and tokens")]
    Ledger(#[from] LedgerError),
    /// The operating system gave no random bytes.
    #[error("cannot make a secret")]
    Random(#[source] getrandom::Error),
    /// The password could not be hashed.
    #[error("cannot hash the first password")]
    Hash(#[source] argon2::password_hash::Error),
    /// The first sign-in could not be left for the administrator.
    #[error("cannot write first sign-in {}", path.display())]
    WriteFirstLogin {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The metrics exist already.
    #[error("cannot register metrics")]
    Metrics(#[from] prometheus::Error),
}

/// The first sign-in, made once.
pub struct FirstLogin {
    /// The user's name.
    pub user: String,
    /// Their password.
    pub password: String,
    /// An API token with every scope.
    pub token: String,
}

/// Shows who, never the secrets.
impl fmt::Debug for FirstLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Users and tokens. Cloning shares them.
#[derive(Clone)]
pub struct Access {
    inner: Arc<Inner>,
}

struct Inner {
    ledger: Ledger,
    known: RwLock<Known>,
    /// Passwords that were right a moment ago, by their keyed hash, and until when that counts: a scraper with a
    /// password would otherwise cost a key derivation each time.
    verified: Mutex<HashMap<[u8; 32], (Instant, Identity)>>,
    verified_key: [u8; 32],
    /// Checked where the user doesn't exist, so that the answer takes as long.
    dummy_hash: String,
    derivations: Arc<Semaphore>,
    derivation_queue: Arc<Semaphore>,
    wrong_passwords: Rate,
    refused: IntCounterVec,
}

#[derive(Default)]
struct Known {
    users: HashMap<String, (String, Scopes)>,
    tokens: Vec<([u8; 32], Identity)>,
}

/// Key derivations at once: each takes 19 MiB and some tens of milliseconds of a core.
const MAX_DERIVATIONS: usize = 2;
/// Key derivations that may wait for their turn.
const MAX_WAITING_DERIVATIONS: usize = 32;
/// How long a right password counts without a new derivation.
const VERIFIED_FOR: Duration = Duration::from_mins(5);
/// Passwords remembered as right.
const MAX_VERIFIED: usize = 64;
/// Wrong passwords that one address may send at once, before each needs [`WRONG_PASSWORD_REFILL`].
const MAX_WRONG_PASSWORDS: u32 = 20;
/// See [`MAX_WRONG_PASSWORDS`].
const WRONG_PASSWORD_REFILL: Duration = Duration::from_secs(3);

impl Access {
    /// Users and tokens of `ledger`; counters go to `registry`.
    ///
    /// # Errors
    /// [`AccessError`]; the ledger can't be read, or no random bytes.
    pub fn new(ledger: Ledger, registry: &Registry) -> Result<Self, AccessError> {
        let refused = IntCounterVec::new(
            Opts::new("veghe_http_refused_credentials_total", "Requests refused for their credentials."),
            &["reason"],
        )?;
        registry.register(Box::new(refused.clone()))?;
        for reason in ["wrong_token", "wrong_password", "unreadable", "rate_limited", "missing", "scope"] {
            refused.with_label_values(&[reason]);
        }
        let known = RwLock::new(Known::load(&ledger)?);
        Ok(Self {
            inner: Arc::new(Inner {
                ledger,
                known,
                verified: Mutex::default(),
                verified_key: random()?,
                dummy_hash: hash_password(&secret()?)?,
                derivations: Arc::new(Semaphore::new(MAX_DERIVATIONS)),
                derivation_queue: Arc::new(Semaphore::new(MAX_DERIVATIONS + MAX_WAITING_DERIVATIONS)),
                wrong_passwords: Rate::new(MAX_WRONG_PASSWORDS, WRONG_PASSWORD_REFILL),
                refused,
            }),
        })
    }

    /// Where no user exists yet: makes `admin` with a random password and a token of all scopes and leaves them in
    /// `data_dir/first-login`, mode 0600, one a line: user, password, token. Blocks (key derivation, disk).
    ///
    /// # Errors
    /// [`AccessError`]; then no user was made, and the next call tries again.
    pub fn ensure_first_login(&self, data_dir: &Path, now: Timestamp) -> Result<Option<FirstLogin>, AccessError> {
        if !self.inner.known.read().unwrap_or_else(PoisonError::into_inner).users.is_empty() {
            return Ok(None);
        }
        let login = FirstLogin { user: "admin".to_owned(), password: secret()?, token: token()? };
        let hash = hash_password(&login.password)?;
        let path = data_dir.join(FIRST_LOGIN_FILE);
        // The file first: a crash in between leaves a file that the next start replaces, not a password nobody knows.
        write_secret(&path, &format!("{}\n{}\n{}\n", login.user, login.password, login.token))
            .map_err(|source| AccessError::WriteFirstLogin { path, source })?;
        let scopes = Scopes::all().to_string();
        self.inner.ledger.with(|connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "INSERT INTO web_user (name, password_hash, scopes, created_ms) VALUES (?1, ?2, ?3, ?4)",
                params![login.user, hash, scopes, now.millis()],
            )?;
            transaction.execute(
                "INSERT INTO web_token (sha256, user, name, scopes, created_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![sha256(login.token.as_bytes()), login.user, "first sign-in", scopes, now.millis()],
            )?;
            transaction.commit()
        })?;
        *self.inner.known.write().unwrap_or_else(PoisonError::into_inner) = Known::load(&self.inner.ledger)?;
        Ok(Some(login))
    }

    /// `router`'s routes behind this check.
    pub(super) fn guard(&self, router: axum::Router, exposure: Exposure, need: Need) -> axum::Router {
        router.layer(from_fn_with_state(Check { access: self.clone(), exposure, need }, check))
    }

    /// Who `headers` say the sender is; nothing where they don't.
    async fn identify(&self, headers: &HeaderMap, remote: IpAddr) -> Result<Option<Identity>, Refusal> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let credential = if values.next().is_some() { None } else { value.to_str().ok().and_then(Credential::parse) };
        match credential {
            None => Err(self.wrong("unreadable")),
            Some(Credential::Token(token)) => {
                // 256 random bits can't be guessed, so wrong tokens cost an address nothing: a forgotten script with
                // an old token must not lock everybody behind the same address out.
                self.inner.token(&token).map(Some).ok_or_else(|| self.wrong("wrong_token"))
            }
            Some(Credential::Password { user, password }) => self.password(user, password, remote).await.map(Some),
        }
    }

    async fn password(&self, user: String, password: String, remote: IpAddr) -> Result<Identity, Refusal> {
        let inner = Arc::clone(&self.inner);
        let key = sha256_parts(&[
            &inner.verified_key,
            &(user.len() as u64).to_le_bytes(),
            user.as_bytes(),
            password.as_bytes(),
        ]);
        let now = clock::instant();
        if let Some(identity) = inner.verified(&key, now) {
            return Ok(identity);
        }
        if !inner.wrong_passwords.has(remote, now) {
            inner.refused.with_label_values(&["rate_limited"]).inc();
            let message = "too many wrong passwords from this address; wait a minute";
            return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message)
                .with_header(header::RETRY_AFTER, HeaderValue::from_static("60")));
        }
        let busy = || {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many sign-ins at once; try again")
                .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
        };
        let _queued = Arc::clone(&inner.derivation_queue).try_acquire_owned().map_err(|_full| busy())?;
        let turn = Arc::clone(&inner.derivations).acquire_owned().await.map_err(|_closed| busy())?;
        let checked = tokio::task::spawn_blocking({
            let inner = Arc::clone(&inner);
            move || {
                let result = inner.check_password(&user, &password);
                drop(turn);
                result
            }
        });
        let Ok(Some(identity)) = checked.await else {
            inner.wrong_passwords.take(remote, now);
            return Err(self.wrong("wrong_password"));
        };
        inner.remember(key, now, identity.clone());
        Ok(identity)
    }

    fn wrong(&self, reason: &str) -> Refusal {
        self.inner.refused.with_label_values(&[reason]).inc();
        unauthorized("the credential is wrong")
    }
}

impl Inner {
    fn token(&self, token: &str) -> Option<Identity> {
        let digest = sha256(token.as_bytes());
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        // All of them each time: how long it takes tells nothing about which one was close.
        known
            .tokens
            .iter()
            .fold(None, |found, (sha256, identity)| if same(sha256, &digest) { Some(identity) } else { found })
            .cloned()
    }

    fn check_password(&self, user: &str, password: &str) -> Option<Identity> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).users.get(user).cloned();
        let (hash, scopes) = known.map_or((self.dummy_hash.clone(), None), |(hash, scopes)| (hash, Some(scopes)));
        let right = PasswordHash::new(&hash)
            .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok());
        scopes.filter(|_| right).map(|scopes| Identity { user: Some(user.to_owned()), scopes })
    }

    fn verified(&self, key: &[u8; 32], now: Instant) -> Option<Identity> {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        verified.get(key).filter(|(until, _)| now < *until).map(|(_, identity)| identity.clone())
    }

    fn remember(&self, key: [u8; 32], now: Instant, identity: Identity) {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        verified.retain(|_, (until, _)| now < *until);
        if verified.len() < MAX_VERIFIED {
            verified.insert(key, (now + VERIFIED_FOR, identity));
        }
    }
}

impl Known {
    fn load(ledger: &Ledger) -> Result<Self, LedgerError> {
        ledger.with(|connection| {
            let mut known = Self::default();
            let mut users = connection.prepare("SELECT name, password_hash, scopes FROM web_user")?;
            let mut rows = users.query([])?;
            while let Some(row) = rows.next()? {
                known.users.insert(row.get(0)?, (row.get(1)?, Scopes::parse(&row.get::<_, String>(2)?)));
            }
            let mut tokens = connection.prepare("SELECT sha256, user, scopes FROM web_token ORDER BY sha256")?;
            let mut rows = tokens.query([])?;
            while let Some(row) = rows.next()? {
                let scopes = Scopes::parse(&row.get::<_, String>(2)?);
                known.tokens.push((row.get(0)?, Identity { user: Some(row.get(1)?), scopes }));
            }
            Ok(known)
        })
    }
}

#[derive(Clone)]
struct Check {
    access: Access,
    exposure: Exposure,
    need: Need,
}

async fn check(State(check): State<Check>, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    match check.pass(&head).await {
        Ok(identity) => {
            head.extensions.insert(identity);
            next.run(Request::from_parts(head, body)).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

impl Check {
    async fn pass(&self, head: &Parts) -> Result<Identity, Refusal> {
        let refused = &self.access.inner.refused;
        let remote = head
            .extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), |ConnectInfo(remote)| remote.ip());
        let scope = match self.need {
            Need::Reading => Scope::Read,
            Need::Credential(scope) => scope,
        };
        match self.access.identify(&head.headers, remote).await? {
            Some(identity) if identity.scopes.allow(scope) => Ok(identity),
            Some(_) => {
                refused.with_label_values(&["scope"]).inc();
                let message = format!("the credential lacks the scope `{}`", scope.name());
                Err(Refusal::new(StatusCode::FORBIDDEN, "scope_missing", message))
            }
            None if self.need == Need::Reading && self.exposure == Exposure::Loopback => {
                Ok(Identity { user: None, scopes: Scopes::from_iter([Scope::Read]) })
            }
            None => {
                refused.with_label_values(&["missing"]).inc();
                Err(unauthorized("a credential is needed: an API token (Bearer) or user and password (Basic)"))
            }
        }
    }
}

fn unauthorized(message: &'static str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
        .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static(r#"Basic realm="Veghe", charset="UTF-8""#))
}

enum Credential {
    Token(String),
    Password { user: String, password: String },
}

impl Credential {
    fn parse(value: &str) -> Option<Self> {
        let (scheme, rest) = value.split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Token(rest.to_owned()));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        Some(Self::Password { user: user.to_owned(), password: password.to_owned() })
    }
}

/// Whether both are the same, in a time that doesn't depend on where they differ.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b))) == 0
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn sha256_parts(parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(Sha256::new(), sha2::Digest::chain_update).finalize().into()
}

fn random<const N: usize>() -> Result<[u8; N], AccessError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(AccessError::Random)?;
    Ok(bytes)
}

/// A password of 144 random bits that survives copying: letters, digits, `-` and `_`.
fn secret() -> Result<String, AccessError> {
    Ok(URL_SAFE_NO_PAD.encode(random::<18>()?))
}

/// A token of 256 random bits; the prefix lets scanners find one that was published by mistake.
fn token() -> Result<String, AccessError> {
    Ok(format!("veghe_{}", URL_SAFE_NO_PAD.encode(random::<32>()?)))
}

fn hash_password(password: &str) -> Result<String, AccessError> {
    Ok(Argon2::default().hash_password(password.as_bytes()).map_err(AccessError::Hash)?.to_string())
}

/// Writes `text` to `path` so that it is there wholly or not at all, readable by its owner only.
fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    // A file of another mode left by somebody else must not become ours.
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_first_sign_in_is_made_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().expect("directory");
        let ledger = Ledger::in_memory().expect("ledger");
        let access = Access::new(ledger.clone(), &Registry::new()).expect("access");
        let login = access.ensure_first_login(dir.path(), Timestamp(1)).expect("first").expect("made");
        let path = dir.path().join(FIRST_LOGIN_FILE);
        let text = std::fs::read_to_string(&path).expect("file");
        assert_eq!(text, format!("admin\n{}\n{}\n", login.password, login.token));
        assert_eq!(std::fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
        assert!(access.ensure_first_login(dir.path(), Timestamp(2)).expect("second").is_none());
        let reopened = Access::new(ledger.clone(), &Registry::new()).expect("access");
        assert!(reopened.ensure_first_login(dir.path(), Timestamp(3)).expect("third").is_none());
        assert_eq!(reopened.inner.token(&login.token).expect("known").scopes, Scopes::all());
        assert!(reopened.inner.token("veghe_wrong").is_none());
        assert!(reopened.inner.check_password("admin", &login.password).is_some());
        assert!(reopened.inner.check_password("admin", "wrong").is_none());
        assert!(reopened.inner.check_password("nobody", &login.password).is_none());
        let stored: String =
            ledger.with(|c| c.query_row("SELECT password_hash FROM web_user", [], |row| row.get(0))).expect("user");
        assert!(stored.starts_with("$argon2id$"), "{stored}");
        assert!(!format!("{login:?}").contains(&login.password));
    }

    #[test]
    fn scopes_survive_the_ledger_and_an_unknown_one_allows_nothing() {
        let some = Scopes::from_iter([Scope::Read, Scope::Operate]);
        assert_eq!(Scopes::parse(&some.to_string()), some);
        assert_eq!(Scopes::parse("teleport"), Scopes::default());
        assert!(!some.allow(Scope::Admin) && Scopes::all().allow(Scope::Admin));
    }
}

//! Administration of the running collector over a Unix socket in its data directory: one line of JSON in, one out.
//!
//! Invariants: only the user whose collector it is gets in (mode 0600); requests are bounded in size and time. What it
//! deliberately does not do: decide. `ingest` does, `backup` copies, `import` and `terminal` answer. What takes long answers each
//! second how far it is, and ends where nobody listens any more.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backup::{self, Progress, Verified};
use crate::clock;
use crate::digitization::Digitization;
use crate::digitization::privacy::office::{Found, Look};
use crate::digitization::{office, pack};
use crate::fleet::{self, Fleet};
use crate::import::{self, Format, Summary};
use crate::ingest::agents::{TOKEN_LIFE, parse_agent};
use crate::ingest::{AgentInfo, IngestHandle};
use crate::query::QueryService;
use crate::terminal::{Answer, Question};

const SOCKET: &str = "admin.sock";
/// A request may hold an inventory.
const MAX_REQUEST_BYTES: u64 = 128 << 20;
/// An answer may list every agent, or hold the inventory.
const MAX_RESPONSE_BYTES: u64 = 128 << 20;
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a long request says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
const MAX_CONNECTIONS: usize = 16;
/// A token that is not used within a month is forgotten paper.
const LONGEST_TOKEN_LIFE: Duration = Duration::from_hours(24 * 30);

/// What an administrator asks.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Who runs here.
    Ping,
    /// A one-time token for an agent.
    TokenCreate {
        /// Whom it admits.
        agent: String,
        /// For how many seconds; an hour if not said.
        ttl_s: Option<u64>,
    },
    /// Every agent.
    AgentsList,
    /// Shuts an agent, or one certificate by its serial number, out.
    AgentsRevoke {
        /// Id or serial number.
        name: String,
    },
    /// Something about agents' settings or what they found.
    Fleet {
        /// What.
        question: fleet::office::Question,
    },
    /// Something about the inventory.
    Inventory {
        /// What.
        question: office::Question,
    },
    /// Something about the reports of the digitization.
    Reports {
        /// What.
        question: pack::Question,
    },
    /// Who of some people did the events of a unit; goes on record.
    LookBehind {
        /// What is asked.
        look: Look,
    },
    /// A copy of everything in a directory.
    Backup {
        /// Which one; absolute.
        dir: PathBuf,
    },
    /// A look at every checksum.
    Verify,
    /// Samples as text follow in frames, see [`import::command`].
    Import {
        /// How to read them.
        format: Format,
    },
    /// The value of a query.
    Query(Question),
}

/// What the collector answers.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Ping`].
    Pong {
        /// The process that holds the data directory.
        pid: u32,
        /// Its version.
        version: String,
        /// Where its broker listens.
        mqtt: String,
    },
    /// To [`Request::TokenCreate`].
    Token {
        /// The token, secret.
        token: String,
        /// For how many seconds it is good.
        ttl_s: u64,
    },
    /// To [`Request::AgentsList`].
    Agents {
        /// By id.
        agents: Vec<AgentInfo>,
    },
    /// To [`Request::AgentsRevoke`].
    Revoked {
        /// Whose connection was closed.
        agent: String,
    },
    /// To [`Request::Fleet`].
    Fleet {
        /// The answer.
        answer: Box<fleet::office::Answer>,
    },
    /// To [`Request::Inventory`].
    Inventory {
        /// The answer.
        answer: Box<office::Answer>,
    },
    /// To [`Request::Reports`].
    Reports {
        /// The answer.
        answer: Box<pack::Answer>,
    },
    /// To [`Request::LookBehind`].
    Found {
        /// What was found.
        found: Box<Found>,
    },
    /// What was asked goes on; more lines follow.
    Progress {
        /// How far it is.
        progress: Progress,
    },
    /// To [`Request::Backup`].
    BackedUp {
        /// Its files.
        files: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// To [`Request::Verify`].
    Verified {
        /// What was seen.
        verified: Verified,
    },
    /// To [`Request::Import`]: the text may come.
    Go,
    /// To a text that came after [`Response::Go`].
    Imported {
        /// What became of it.
        summary: Summary,
    },
    /// To [`Request::Query`].
    Value {
        /// The value.
        answer: Answer,
    },
    /// The request failed.
    Error {
        /// Why, for a person.
        message: String,
    },
}

/// Why an administrative command failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody listens.
    #[error(
        "no collector runs on {} that answers this user; name the data directory of one with `--data-dir`",
        data_dir.display()
    )]
    NotRunning {
        /// The data directory.
        data_dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The socket can't be made.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another collector listens there.
    #[error("another collector runs on {}", data_dir.display())]
    Held {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// The conversation broke off.
    #[error("cannot talk with the collector on {}", data_dir.display())]
    Talk {
        /// The data directory.
        data_dir: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The collector's answer can't be read: it is of another version.
    #[error("cannot read the answer of the collector on {}; is it of another version?", data_dir.display())]
    Answer {
        /// The data directory.
        data_dir: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The collector refused.
    #[error("{message}")]
    Refused {
        /// Its words.
        message: String,
    },
}

/// Answers requests on the socket of `data_dir` until `stop`.
///
/// # Errors
/// [`AdminError::Held`] where another collector answers there, [`AdminError::Listen`] where the socket can't be made.
pub fn serve(
    data_dir: &Path,
    ingest: IngestHandle,
    queries: QueryService,
    project: Digitization,
    fleet: Fleet,
    stop: CancellationToken,
    tasks: &TaskTracker,
) -> Result<(), AdminError> {
    let path = data_dir.join(SOCKET);
    if BlockingStream::connect(&path).is_ok() {
        return Err(AdminError::Held { data_dir: data_dir.to_owned() });
    }
    let listen = || {
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        // Bound in a directory of mode 0700 and moved out when its own mode is right: nobody connects in between.
        let nursery = data_dir.join(".admin");
        if let Err(error) = std::fs::remove_dir_all(&nursery)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        std::fs::create_dir(&nursery)?;
        std::fs::set_permissions(&nursery, std::fs::Permissions::from_mode(0o700))?;
        let fresh = nursery.join(SOCKET);
        let listener = UnixListener::bind(&fresh)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&fresh, &path)?;
        std::fs::remove_dir(&nursery)?;
        Ok(listener)
    };
    let listener = listen().map_err(|source| AdminError::Listen { path: path.clone(), source })?;
    let connections = tasks.clone();
    let desk = Desk {
        data_dir: data_dir.to_owned(),
        ingest,
        queries,
        project,
        fleet,
        turn: Arc::new(Semaphore::new(1)),
        tasks: tasks.clone(),
        stop: stop.clone(),
    };
    tasks.spawn(async move {
        let turns = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { break };
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let desk = desk.clone();
                    connections.spawn(async move {
                        if let Err(error) = desk.converse(stream).await {
                            tracing::debug!(%error, "administrative connection broke off");
                        }
                        drop(turn);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept administrative connection");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(%error, "administrative socket was gone");
        }
    });
    Ok(())
}

/// What answers.
#[derive(Clone)]
struct Desk {
    data_dir: PathBuf,
    ingest: IngestHandle,
    queries: QueryService,
    project: Digitization,
    fleet: Fleet,
    /// Copies and verifications, one at a time: each reads everything.
    turn: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Desk {
    async fn converse(&self, mut stream: UnixStream) -> io::Result<()> {
        let stop = &self.stop;
        let mut line = String::new();
        let heard = async {
            let reader = (&mut stream).take(MAX_REQUEST_BYTES);
            tokio::time::timeout(PATIENCE, tokio::io::BufReader::new(reader).read_line(&mut line)).await
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            heard = heard => heard.map_err(io::Error::other)??,
        };
        let response = match serde_json::from_str(&line) {
            Ok(Request::Import { format }) => return take_text(stream, &self.queries, format, stop).await,
            Ok(request @ (Request::Backup { .. } | Request::Verify)) => tokio::select! {
                () = stop.cancelled() => return Ok(()),
                response = self.run(request, &mut stream) => response?,
            },
            // Its time is that of every query.
            Ok(Request::Query(question)) => tokio::select! {
                () = stop.cancelled() => return Ok(()),
                answer = question.answer(&self.queries) => {
                    answer.map_or_else(|error| failed(&error), |answer| Response::Value { answer })
                }
            },
            Ok(Request::LookBehind { look }) => {
                // Who asks, as the system knows it: nobody can say otherwise.
                let uid = stream.peer_cred()?.uid();
                let project = self.project.clone();
                let work = tokio::task::spawn_blocking(move || project.look_behind(&look, uid, clock::now()));
                match work.await {
                    Ok(Ok(found)) => Response::Found { found: Box::new(found) },
                    Ok(Err(error)) => failed(&error),
                    Err(_panicked) => Response::Error { message: "the request failed unexpectedly".to_owned() },
                }
            }
            Ok(Request::Fleet { question }) => {
                let fleet = self.fleet.clone();
                let work = tokio::task::spawn_blocking(move || fleet::office::answer(&fleet, question, clock::now()));
                match work.await {
                    Ok(Ok(answer)) => Response::Fleet { answer: Box::new(answer) },
                    Ok(Err(error)) => failed(&error),
                    Err(_panicked) => Response::Error { message: "the request failed unexpectedly".to_owned() },
                }
            }
            Ok(request) => tokio::select! {
                () = stop.cancelled() => return Ok(()),
                answer = tokio::time::timeout(PATIENCE, answer(request, &self.ingest, &self.project)) => answer.map_err(io::Error::other)?,
            },
            Err(error) => Response::Error { message: format!("cannot read request: {error}") },
        };
        say(&mut stream, &response).await?;
        tokio::time::timeout(PATIENCE, stream.shutdown()).await?
    }

    /// Does a long request on a thread of its own, and says each second how far it is. Whoever asked goes away: it ends.
    async fn run(&self, request: Request, stream: &mut UnixStream) -> io::Result<Response> {
        let Ok(turn) = Arc::clone(&self.turn).try_acquire_owned() else {
            return Ok(Response::Error { message: "another backup or verification runs; wait for its end".to_owned() });
        };
        let (told, heard) = watch::channel(Progress::default());
        let (desk, gone) = (self.clone(), self.stop.child_token());
        // Dropped with this future: then nobody waits any more.
        let _gone = gone.clone().drop_guard();
        let mut work = self.tasks.spawn_blocking(move || {
            let mut watch = |progress| {
                told.send_replace(progress);
                if gone.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let done = desk.work(request, &mut watch);
            drop(turn);
            done
        });
        let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done.unwrap_or_else(|_panicked| {
                    Response::Error { message: "it failed unexpectedly; the collector's log says more".to_owned() }
                })),
                _ = ticks.tick() => {
                    let progress = *heard.borrow();
                    say(stream, &Response::Progress { progress }).await?;
                }
            }
        }
    }

    fn work(&self, request: Request, watch: backup::Watch<'_>) -> Response {
        match request {
            Request::Backup { dir } => {
                match backup::backup(&self.data_dir, self.queries.store(), &dir, clock::now(), watch) {
                    Ok(manifest) => {
                        tracing::info!(directory = %dir.display(), bytes = manifest.bytes(), "backup was made");
                        Response::BackedUp { files: manifest.files.len() as u64, bytes: manifest.bytes() }
                    }
                    Err(error) => {
                        tracing::error!(error = &error as &dyn std::error::Error, directory = %dir.display(), "cannot make a backup");
                        failed(&error)
                    }
                }
            }
            _ => match backup::verify_running(&self.data_dir, self.queries.store(), watch) {
                Ok(verified) => {
                    for damage in &verified.damages {
                        tracing::error!(%damage, "verification found damage");
                    }
                    Response::Verified { verified }
                }
                Err(error) => failed(&error),
            },
        }
    }
}

async fn say(stream: &mut UnixStream, response: &Response) -> io::Result<()> {
    let line = line_of(response)?;
    tokio::time::timeout(PATIENCE, stream.write_all(line.as_bytes())).await?
}

/// The import of a text that follows on the connection, on a thread of its own.
async fn take_text(
    stream: UnixStream,
    queries: &QueryService,
    format: Format,
    stop: &CancellationToken,
) -> io::Result<()> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let handle = stream.try_clone()?;
    let store = queries.store().clone();
    let mut work = tokio::task::spawn_blocking(move || {
        (&stream).write_all(line_of(&Response::Go)?.as_bytes())?;
        let response = match import::command::receive(&stream, store, format, clock::now()) {
            Ok(summary) => Response::Imported { summary },
            Err(error) => failed(&error),
        };
        (&stream).write_all(line_of(&response)?.as_bytes())
    });
    tokio::select! {
        result = &mut work => result.map_err(io::Error::other)?,
        () = stop.cancelled() => {
            // Its reader fails, and what it has read so far is committed or given up: the thread must not outlive us.
            handle.shutdown(std::net::Shutdown::Both)?;
            work.await.map_err(io::Error::other)?
        }
    }
}

fn line_of(response: &Response) -> io::Result<String> {
    serde_json::to_string(response).map(|text| text + "\n").map_err(io::Error::other)
}

/// An error with its causes, in a line.
fn failed(error: &dyn std::error::Error) -> Response {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    Response::Error { message }
}

async fn answer(request: Request, ingest: &IngestHandle, project: &Digitization) -> Response {
    match request {
        Request::Ping => Response::Pong {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mqtt: ingest.address().to_string(),
        },
        Request::TokenCreate { agent, ttl_s } => {
            let life = ttl_s.map_or(TOKEN_LIFE, Duration::from_secs);
            if life.is_zero() || life > LONGEST_TOKEN_LIFE {
                let most = LONGEST_TOKEN_LIFE.as_secs();
                return Response::Error { message: format!("a token is good for 1 to {most} seconds") };
            }
            match parse_agent(&agent) {
                Ok(agent) => match ingest.create_token(agent, life).await {
                    Ok(token) => Response::Token { token: token.to_string(), ttl_s: life.as_secs() },
                    Err(error) => failed(&error),
                },
                Err(error) => failed(&error),
            }
        }
        Request::AgentsList => Response::Agents { agents: ingest.agents() },
        Request::Inventory { question } => {
            let project = project.clone();
            let work = tokio::task::spawn_blocking(move || office::answer(&project, question, clock::now()));
            match work.await {
                Ok(Ok(answer)) => Response::Inventory { answer: Box::new(answer) },
                Ok(Err(error)) => failed(&*error),
                Err(_panicked) => Response::Error { message: "the request failed unexpectedly".to_owned() },
            }
        }
        Request::Reports { question } => {
            let project = project.clone();
            let work = tokio::task::spawn_blocking(move || pack::answer(&project, &question, clock::now()));
            match work.await {
                Ok(Ok(answer)) => Response::Reports { answer: Box::new(answer) },
                Ok(Err(error)) => failed(&*error),
                Err(_panicked) => Response::Error { message: "the request failed unexpectedly".to_owned() },
            }
        }
        Request::AgentsRevoke { name } => match ingest.revoke(&name).await {
            Ok(agent) => Response::Revoked { agent: agent.to_string() },
            Err(error) => failed(&error),
        },
        Request::Import { .. }
        | Request::Query(_)
        | Request::Backup { .. }
        | Request::LookBehind { .. }
        | Request::Fleet { .. }
        | Request::Verify => Response::Error { message: "the request is answered elsewhere".to_owned() },
    }
}

/// Asks the collector that runs on `data_dir`. Blocks.
///
/// # Errors
/// [`AdminError::NotRunning`] where none runs there; [`AdminError::Refused`] has the collector's own words.
pub fn ask(data_dir: &Path, request: &Request) -> Result<Response, AdminError> {
    Talk::open(data_dir, PATIENCE)?.ask(request)
}

/// As [`ask`], for what takes long: `watch` hears each second how far it is.
///
/// # Errors
/// As [`ask`].
pub fn ask_watching(
    data_dir: &Path,
    request: &Request,
    watch: &mut dyn FnMut(Progress),
) -> Result<Response, AdminError> {
    let mut talk = Talk::open(data_dir, PATIENCE)?;
    let mut response = talk.ask(request)?;
    while let Response::Progress { progress } = response {
        watch(progress);
        response = talk.hear()?;
    }
    Ok(response)
}

/// A conversation with the collector that runs on a data directory.
pub struct Talk {
    data_dir: PathBuf,
    reader: BufReader<BlockingStream>,
}

impl Talk {
    /// Begins one in which either side may be silent for `patience`.
    ///
    /// # Errors
    /// [`AdminError::NotRunning`] where no collector runs there.
    pub fn open(data_dir: &Path, patience: Duration) -> Result<Self, AdminError> {
        let data_dir = data_dir.to_owned();
        let stream = match BlockingStream::connect(data_dir.join(SOCKET)) {
            Ok(stream) => stream,
            Err(source) => return Err(AdminError::NotRunning { data_dir, source }),
        };
        match stream.set_read_timeout(Some(patience)).and_then(|()| stream.set_write_timeout(Some(patience))) {
            Ok(()) => Ok(Self { data_dir, reader: BufReader::new(stream) }),
            Err(source) => Err(AdminError::Talk { data_dir, source }),
        }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`AdminError::Refused`] has the collector's own words.
    pub fn ask(&mut self, request: &Request) -> Result<Response, AdminError> {
        let sent = serde_json::to_string(request)
            .map_err(io::Error::other)
            .and_then(|line| self.stream().write_all((line + "\n").as_bytes()));
        sent.map_err(|source| AdminError::Talk { data_dir: self.data_dir.clone(), source })?;
        self.hear()
    }

    /// Waits for an answer.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn hear(&mut self) -> Result<Response, AdminError> {
        let data_dir = self.data_dir.clone();
        let mut line = String::new();
        match self.reader.by_ref().take(MAX_RESPONSE_BYTES).read_line(&mut line) {
            Ok(0) => {
                let source = io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without an answer");
                Err(AdminError::Talk { data_dir, source })
            }
            Ok(_) => match serde_json::from_str(&line) {
                Ok(Response::Error { message }) => Err(AdminError::Refused { message }),
                Ok(response) => Ok(response),
                Err(source) => Err(AdminError::Answer { data_dir, source }),
            },
            Err(source) => Err(AdminError::Talk { data_dir, source }),
        }
    }

    /// Where what belongs to a request is written.
    pub fn stream(&self) -> &BlockingStream {
        self.reader.get_ref()
    }
}

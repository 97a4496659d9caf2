//! Administration of the running collector over a Unix socket in its data directory: one line of JSON in, one out.
//!
//! Invariants: only the user whose collector it is gets in (mode 0600); requests are bounded in size and time. What it
//! deliberately does not do: decide. `ingest` does.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::digitization::Digitization;
use crate::digitization::office::{self, Answer, Question};
use crate::ingest::agents::{TOKEN_LIFE, parse_agent};
use crate::ingest::{AgentInfo, IngestHandle};

const SOCKET: &str = "admin.sock";
/// A request may hold an inventory.
const MAX_REQUEST_BYTES: u64 = 128 << 20;
/// An answer may list every agent, or hold the inventory.
const MAX_RESPONSE_BYTES: u64 = 128 << 20;
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_CONNECTIONS: usize = 16;
/// A token that is not used within a month is forgotten paper.
const LONGEST_TOKEN_LIFE: Duration = Duration::from_hours(24 * 30);

/// What an administrator asks.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Something about the inventory.
    Inventory {
        /// What.
        question: Question,
    },
}

/// What the collector answers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// To [`Request::Inventory`].
    Inventory {
        /// The answer.
        answer: Box<Answer>,
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
    project: Digitization,
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
                    let (ingest, project) = (ingest.clone(), project.clone());
                    let stop = stop.clone();
                    connections.spawn(async move {
                        let talk = tokio::time::timeout(PATIENCE, converse(stream, &ingest, &project));
                        tokio::select! {
                            () = stop.cancelled() => {}
                            result = talk => if let Ok(Err(error)) = result {
                                tracing::debug!(%error, "administrative connection broke off");
                            },
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

async fn converse(mut stream: UnixStream, ingest: &IngestHandle, project: &Digitization) -> io::Result<()> {
    let mut line = String::new();
    let (reader, mut writer) = stream.split();
    tokio::io::BufReader::new(reader.take(MAX_REQUEST_BYTES)).read_line(&mut line).await?;
    let response = match serde_json::from_str(&line) {
        Ok(request) => answer(request, ingest, project).await,
        Err(error) => Response::Error { message: format!("cannot read request: {error}") },
    };
    let mut text = serde_json::to_string(&response).map_err(io::Error::other)?;
    text.push('\n');
    writer.write_all(text.as_bytes()).await?;
    writer.shutdown().await
}

async fn answer(request: Request, ingest: &IngestHandle, project: &Digitization) -> Response {
    let failed = |error: &dyn std::error::Error| {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Response::Error { message }
    };
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
        Request::AgentsRevoke { name } => match ingest.revoke(&name).await {
            Ok(agent) => Response::Revoked { agent: agent.to_string() },
            Err(error) => failed(&error),
        },
    }
}

/// Asks the collector that runs on `data_dir`. Blocks.
///
/// # Errors
/// [`AdminError::NotRunning`] where none runs there; [`AdminError::Refused`] has the collector's own words.
pub fn ask(data_dir: &Path, request: &Request) -> Result<Response, AdminError> {
    let data_dir = data_dir.to_owned();
    let mut stream = match BlockingStream::connect(data_dir.join(SOCKET)) {
        Ok(stream) => stream,
        Err(source) => return Err(AdminError::NotRunning { data_dir, source }),
    };
    let mut talk = || {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = serde_json::to_string(request).map_err(io::Error::other)?;
        line.push('\n');
        stream.write_all(line.as_bytes())?;
        let mut response = String::new();
        BufReader::new((&stream).take(MAX_RESPONSE_BYTES)).read_line(&mut response)?;
        Ok(response)
    };
    match talk() {
        Ok(line) => match serde_json::from_str(&line) {
            Ok(Response::Error { message }) => Err(AdminError::Refused { message }),
            Ok(response) => Ok(response),
            Err(source) => Err(AdminError::Answer { data_dir, source }),
        },
        Err(source) => Err(AdminError::Talk { data_dir, source }),
    }
}

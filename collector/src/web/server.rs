//! A listener that serves a router and can't be worn down: bounded connections, time limits on everything that a
//! client may draw out, shutdown that finishes what was begun.
//!
//! Invariants: at most [`Limits::max_connections`] connections exist; when all places are taken, the connection that
//! has waited longest for a whole request gives way to the new one, so that thousands of silent connections can't keep
//! anybody out; where every connection has a request in progress the new one gets 503 at once. Every task is tracked.
//! What it deliberately does not do: know routes or who may use them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::guard::ConnectionMetrics;

/// What a listener lets a client use up.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; 512, well below the 1024 open files that a service has by default.
    pub max_connections: usize,
    /// From the first moment of a connection, or the end of a response, to the end of the next request's head; 20 s.
    pub head_timeout: Duration,
    /// How long a TLS handshake may take; 10 s.
    pub handshake_timeout: Duration,
    /// How long a client may refuse to take bytes of a response; 30 s.
    pub write_timeout: Duration,
    /// Request line and headers; 32 KiB.
    pub max_head_bytes: usize,
    /// How long requests in progress may go on after the order to stop; 5 s.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 512,
            head_timeout: Duration::from_secs(20),
            handshake_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            max_head_bytes: 32 << 10,
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// A bound socket and how to speak on it.
pub struct Listener {
    /// Where connections come in.
    pub socket: TcpListener,
    /// TLS on every connection, or plain HTTP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// What a client may use up.
    pub limits: Limits,
    /// Where to count connections that had no place.
    pub metrics: Option<ConnectionMetrics>,
}

impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Self {
        Self { socket, tls: None, limits: Limits::default(), metrics: None }
    }
}

/// Between two attempts to accept, where the process ran out of files: closing connections needs the time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The answer to a connection for which there is no place.
const SHED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\
    X-Content-Type-Options: nosniff\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 21\r\n\r\n\
    too many connections\n";

/// Serves `router` on `listener` until `stop`; returns when no connection comes in any more. Connections run on
/// `tasks`: waiting for the tracker waits for the requests in progress, at most [`Limits::drain_timeout`].
pub async fn serve(listener: impl Into<Listener>, router: Router, stop: CancellationToken, tasks: &TaskTracker) {
    let Listener { socket, tls, limits, metrics } = listener.into();
    let tls = tls.map(TlsAcceptor::from);
    let limits = Arc::new(limits);
    let places = Places::new(limits.max_connections);
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // One that was reset before we came to it is no reason to wait; too many open files is.
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        let (place, gave_way) = places.take();
        if let Some(metrics) = metrics.as_ref().filter(|_| gave_way) {
            metrics.silent.inc();
        }
        let Some(place) = place else {
            if let Some(metrics) = &metrics {
                metrics.busy.inc();
            }
            if tls.is_none() {
                shed(&stream);
            }
            continue;
        };
        let (router, tls, limits, stop) = (router.clone(), tls.clone(), Arc::clone(&limits), stop.clone());
        tasks.spawn(async move {
            let evicted = place.evicted.clone();
            tokio::select! {
                () = connection(stream, remote, router, tls, &limits, &stop, place) => {}
                () = evicted.cancelled() => {}
            }
        });
    }
    places.evict_waiting();
}

/// Says that there is no place, as far as the socket takes it without waiting, and closes.
fn shed(stream: &TcpStream) {
    if let Err(error) = stream.try_write(SHED) {
        tracing::debug!(error = &error as &dyn std::error::Error, "cannot tell a client that there is no place");
    }
}

async fn connection(
    stream: TcpStream,
    remote: SocketAddr,
    router: Router,
    tls: Option<TlsAcceptor>,
    limits: &Limits,
    stop: &CancellationToken,
    place: Place,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = &error as &dyn std::error::Error, "cannot set TCP_NODELAY");
    }
    let stream = Impatient::new(stream, limits.write_timeout);
    match tls {
        None => exchange(stream, remote, router, limits, stop, place).await,
        Some(tls) => match tokio::time::timeout(limits.handshake_timeout, tls.accept(stream)).await {
            Ok(Ok(mut stream)) => {
                exchange(&mut stream, remote, router, limits, stop, place).await;
                // The client learns that nothing was cut off; whether it still listens is its affair.
                drop(tokio::time::timeout(limits.handshake_timeout, stream.shutdown()).await);
            }
            Ok(Err(error)) => {
                tracing::debug!(%remote, error = &error as &dyn std::error::Error, "TLS handshake failed");
            }
            Err(_elapsed) => tracing::debug!(%remote, "TLS handshake took too long"),
        },
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    remote: SocketAddr,
    router: Router,
    limits: &Limits,
    stop: &CancellationToken,
    place: Place,
) {
    let place = Arc::new(place);
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let busy = Busy(Arc::clone(&place));
        let router = router.clone();
        async move {
            let arrival = Arrival(Arc::clone(&busy.0));
            if request.body().is_end_stream() {
                arrival.complete();
            }
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(remote));
            request.extensions_mut().insert(arrival);
            let response: Response = router.oneshot(request).await?;
            Ok::<_, Infallible>(response.map(|body| Tracked { body, _busy: busy }))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_buf_size(limits.max_head_bytes.max(8 << 10))
            .max_header_size(limits.max_head_bytes)
            .serve_connection(TokioIo::new(stream), service)
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(limits.drain_timeout, connection).await {
                Ok(result) => result,
                Err(_elapsed) => return tracing::warn!(%remote, "request cut off by shutdown"),
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%remote, error = &error as &dyn std::error::Error, "connection ended");
    }
}

/// The places for connections, and which of them wait for a request, in the order in which they began to wait.
#[derive(Clone)]
struct Places {
    state: Arc<Mutex<PlacesState>>,
    max: usize,
}

#[derive(Default)]
struct PlacesState {
    taken: usize,
    next: u64,
    waiting: BTreeMap<u64, CancellationToken>,
}

impl Places {
    fn new(max: usize) -> Self {
        Self { state: Arc::default(), max }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, PlacesState> {
        // Every critical section leaves the state whole, so a panic elsewhere harms nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, if need be that of the connection which has waited longest, and whether one had to give way; none where
    /// all have a request in progress.
    fn take(&self) -> (Option<Place>, bool) {
        let mut state = self.lock();
        let full = state.taken >= self.max;
        if full {
            let Some((_, longest)) = state.waiting.pop_first() else { return (None, false) };
            longest.cancel();
        } else {
            state.taken += 1;
        }
        let evicted = CancellationToken::new();
        let number = state.next;
        state.next += 1;
        state.waiting.insert(number, evicted.clone());
        (Some(Place { places: self.clone(), waiting_as: Mutex::new(Some(number)), evicted }), full)
    }

    /// Ends every connection without a request in progress.
    fn evict_waiting(&self) {
        let mut state = self.lock();
        for evicted in std::mem::take(&mut state.waiting).into_values() {
            evicted.cancel();
            state.taken -= 1;
        }
    }
}

/// One connection's place; free again when dropped, unless another connection has it already.
struct Place {
    places: Places,
    waiting_as: Mutex<Option<u64>>,
    evicted: CancellationToken,
}

impl Place {
    fn begin_request(&self) {
        let mut waiting_as = self.waiting_as.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = waiting_as.take() {
            self.places.lock().waiting.remove(&number);
        }
    }

    fn end_request(&self) {
        let mut waiting_as = self.waiting_as.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.places.lock();
        if !self.evicted.is_cancelled() && waiting_as.is_none() {
            let number = state.next;
            state.next += 1;
            state.waiting.insert(number, self.evicted.clone());
            *waiting_as = Some(number);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let waiting_as = self.waiting_as.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut state = self.places.lock();
        if let Some(number) = waiting_as {
            state.waiting.remove(&number);
        }
        // Who evicted this connection took its place over.
        if !self.evicted.is_cancelled() {
            state.taken -= 1;
        }
    }
}

/// In the extensions of a request: whoever reads its body tells here that it is complete. Until then the connection
/// counts as waiting, and may have to give way.
#[derive(Clone)]
pub(super) struct Arrival(Arc<Place>);

impl Arrival {
    /// The whole request is here.
    pub(super) fn complete(&self) {
        self.0.begin_request();
    }
}

/// Until the end of a response.
struct Busy(Arc<Place>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.end_request();
    }
}

/// A response's body, which keeps its connection busy until it is sent.
struct Tracked {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Tracked {
    type Data = axum::body::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose writes fail when the other side takes nothing for too long: a client that asks for a lot and reads
/// nothing would hold the answer in memory for ever.
struct Impatient<S> {
    stream: S,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, stalled: None }
    }

    fn watch<T>(&mut self, context: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.stalled = None;
            return progress;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        stalled.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(context, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(context, progress)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch(context, progress)
    }
}

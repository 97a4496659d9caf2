//! What the store needs now and then: sealing and merging, all the time in small parts; retention, each hour.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use veghe_tsdb::{Retention, SealError, Store};

use crate::clock;

/// The pause between two looks for windows that may be sealed.
const SEAL_INTERVAL: Duration = Duration::from_secs(10);
/// The pause between two parts of one seal, so that commits and queries come in between.
const SEAL_PAUSE: Duration = Duration::from_millis(50);
/// The pause after a failed seal, which is also how often its log line comes.
const SEAL_RETRY: Duration = Duration::from_mins(1);
/// Retention runs each hour, so that there is little to do at a time, and not when everybody's jobs run.
const RETENTION_SCHEDULE: &str = "0 17 * * * *";

/// Seals what may be sealed until `stop`.
pub fn start_sealing(store: Store, stop: CancellationToken, tasks: &TaskTracker) {
    tasks.spawn(async move {
        // At once: what comes before the store knows the time is sealed with the first look, rather than once it is whole.
        let mut pause = Duration::ZERO;
        while !stop.is_cancelled() {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => break,
            }
            let part = store.clone();
            pause = match tokio::task::spawn_blocking(move || part.seal(clock::now())).await {
                Ok(Ok(report)) if report.more => SEAL_PAUSE,
                Ok(Ok(_)) => SEAL_INTERVAL,
                Ok(Err(error)) => {
                    let text = if is_disk_full(&error) {
                        "disk is full: samples can't be sealed and stay in the log"
                    } else {
                        "cannot seal samples; they stay in the log"
                    };
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, directory = %store.dir().display(), "{text}");
                    SEAL_RETRY
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "sealing panicked; samples stay in the log"
                    );
                    SEAL_INTERVAL
                }
            };
        }
    });
}

fn is_disk_full(error: &SealError) -> bool {
    matches!(error, SealError::Database(cause) if cause.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull))
}

/// Deletes what `retention` does not keep each hour until the scheduler is dropped.
///
/// # Errors
/// Where the scheduler can't be started.
pub async fn start_retention(store: Store, retention: Retention) -> anyhow::Result<JobScheduler> {
    let scheduler = JobScheduler::new().await.context("cannot make the scheduler")?;
    let retention = Arc::new(retention);
    let job = Job::new_async(RETENTION_SCHEDULE, move |_id, _scheduler| {
        let (store, retention) = (store.clone(), Arc::clone(&retention));
        Box::pin(async move {
            let work = move || {
                let report = store.retain(&retention, clock::now())?;
                // What was deleted by hand leaves the disk with it.
                store.clean_tombstones().map(|_| report)
            };
            match tokio::task::spawn_blocking(work).await {
                Ok(Ok(report)) if report.aged_chunks + report.surplus_chunks == 0 => {}
                Ok(Ok(report)) => tracing::info!(
                    aged_chunks = report.aged_chunks,
                    surplus_chunks = report.surplus_chunks,
                    used_bytes = report.used_bytes,
                    "old samples were deleted"
                ),
                Ok(Err(error)) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "cannot delete old samples");
                }
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "deleting old samples panicked");
                }
            }
        })
    });
    scheduler.add(job.context("cannot schedule retention")?).await.context("cannot schedule retention")?;
    scheduler.start().await.context("cannot start the scheduler")?;
    Ok(scheduler)
}

//! The agent as a Windows service: installed, removed, and run by the service manager.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use windows_service::service::{
    Service, ServiceAccess, ServiceControl, ServiceControlAccept, ServiceErrorControl, ServiceExitCode, ServiceInfo,
    ServiceStartType, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{self, ServiceControlHandlerResult};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_service::{Error, define_windows_service, service_dispatcher};

const NAME: &str = "veghe-agent";
/// How long the manager may wait for the end: the uplink delivers what it can meanwhile.
const PATIENCE: Duration = Duration::from_secs(15);
/// `ERROR_SERVICE_DATABASE_LOCKED`.
const DATABASE_LOCKED: i32 = 1055;
const START_ATTEMPTS: u32 = 60;
const START_PAUSE: Duration = Duration::from_millis(500);

/// Makes the service, which starts with the machine and keeps its state in `state_dir`, and starts it.
///
/// # Errors
/// Where the caller is no administrator, or the service is there already.
pub fn install(state_dir: &Path) -> anyhow::Result<()> {
    let access = ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE;
    let manager = ServiceManager::local_computer(None::<&str>, access).context("cannot reach the service manager")?;
    let info = ServiceInfo {
        name: NAME.into(),
        display_name: "Veghe agent".into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: std::env::current_exe().context("cannot tell where this program is")?,
        launch_arguments: vec!["service".into(), "run".into(), "--state-dir".into(), state_dir.into()],
        dependencies: Vec::new(),
        account_name: None,
        account_password: None,
    };
    let service = manager.create_service(&info, ServiceAccess::CHANGE_CONFIG | ServiceAccess::START).context(
        "cannot create the service; run this as administrator, and `service uninstall` first if it is there",
    )?;
    service
        .set_description("Reports the health of this machine to a Veghe collector")
        .context("cannot describe the service")?;
    start(&service).context("the service is installed, but does not start; the event log says why")
}

/// Starts the service; while a machine starts its own, it starts no others.
fn start(service: &Service) -> windows_service::Result<()> {
    for _ in 1..START_ATTEMPTS {
        match service.start::<OsString>(&[]) {
            Err(Error::Winapi(error)) if error.raw_os_error() == Some(DATABASE_LOCKED) => thread::sleep(START_PAUSE),
            result => return result,
        }
    }
    service.start::<OsString>(&[])
}

/// Stops and removes the service.
///
/// # Errors
/// Where the caller is no administrator, or there is none.
pub fn uninstall() -> anyhow::Result<()> {
    let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT)
        .context("cannot reach the service manager")?;
    let access = ServiceAccess::QUERY_STATUS | ServiceAccess::STOP | ServiceAccess::DELETE;
    let service = manager
        .open_service(NAME, access)
        .context("cannot open the service; is it installed, and are you administrator?")?;
    if service.query_status().context("cannot ask the service")?.current_state != ServiceState::Stopped {
        service.stop().context("cannot stop the service")?;
    }
    // It goes once it has stopped.
    service.delete().context("cannot remove the service")
}

static STATE_DIR: OnceLock<PathBuf> = OnceLock::new();

define_windows_service!(begin, serve);

/// Runs under the service manager until that says to end.
///
/// # Errors
/// Where it was not started by the service manager.
pub fn run(state_dir: PathBuf) -> anyhow::Result<()> {
    STATE_DIR.set(state_dir).ok().context("the service runs already")?;
    service_dispatcher::start(NAME, begin)
        .context("cannot run as a service; use `veghe-agent run` outside of the service manager")
}

fn serve(_arguments: Vec<OsString>) {
    if let Err(error) = served() {
        tracing::error!(error = format!("{error:#}"), "the service failed");
    }
}

fn served() -> anyhow::Result<()> {
    let state_dir = STATE_DIR.get().context("no state directory")?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    let handler = move |control| match control {
        ServiceControl::Stop | ServiceControl::Shutdown => {
            told.cancel();
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        _ => ServiceControlHandlerResult::NotImplemented,
    };
    let status = service_control_handler::register(NAME, handler)?;
    let tell = |state, exit_code| {
        let accepted = ServiceControlAccept::STOP | ServiceControlAccept::SHUTDOWN;
        status.set_service_status(ServiceStatus {
            service_type: ServiceType::OWN_PROCESS,
            current_state: state,
            controls_accepted: if state == ServiceState::Running { accepted } else { ServiceControlAccept::empty() },
            exit_code: ServiceExitCode::Win32(exit_code),
            checkpoint: 0,
            wait_hint: PATIENCE,
            process_id: None,
        })
    };
    tell(ServiceState::Running, 0)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(crate::app::run(state_dir, stop));
    tell(ServiceState::Stopped, u32::from(result.is_err()))?;
    result
}

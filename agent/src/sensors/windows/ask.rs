//! Questions to Windows that no dependency wraps: the one place with its calls.
//!
//! Invariant: every buffer is ours and its size is told; what comes back is read within it.

use std::io;
use std::mem::size_of_val;
use std::ptr::{null, null_mut};

use windows_sys::Wdk::System::SystemInformation::{NtQuerySystemInformation, SystemProcessorPerformanceInformation};
use windows_sys::Win32::Foundation::{ERROR_FILE_NOT_FOUND, ERROR_MORE_DATA, ERROR_SUCCESS};
use windows_sys::Win32::System::Registry::{
    HKEY, HKEY_LOCAL_MACHINE, KEY_QUERY_VALUE, KEY_WOW64_64KEY, RRF_RT_ANY, RRF_SUBKEY_WOW6464KEY, RegCloseKey,
    RegGetValueW, RegOpenKeyExW,
};
use windows_sys::Win32::System::Services::{
    CloseServiceHandle, ENUM_SERVICE_STATUS_PROCESSW, EnumServicesStatusExW, OpenSCManagerW, SC_ENUM_PROCESS_INFO,
    SC_HANDLE, SC_MANAGER_ENUMERATE_SERVICE, SERVICE_STATE_ALL, SERVICE_WIN32,
};
use windows_sys::Win32::System::WindowsProgramming::SYSTEM_PROCESSOR_PERFORMANCE_INFORMATION;

/// Processors of one group, which is all that one question tells of.
const GROUP: usize = 64;
/// What one answer about services may hold, in words of 8 bytes: 128 KiB.
const SERVICES_WORDS: usize = 16 << 10;
/// More answers than any machine's services need.
const MAX_ANSWERS: usize = 64;

/// Seconds since the start of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Processor {
    pub(super) idle: f64,
    pub(super) irq: f64,
    pub(super) softirq: f64,
    /// Of the kernel, interrupts not among it.
    pub(super) system: f64,
    pub(super) user: f64,
}

/// What each processor did.
pub(super) fn processors() -> io::Result<Vec<Processor>> {
    let mut found = [SYSTEM_PROCESSOR_PERFORMANCE_INFORMATION::default(); GROUP];
    let bytes = u32::try_from(size_of_val(&found)).map_err(io::Error::other)?;
    let mut told = 0;
    let place = found.as_mut_ptr();
    #[expect(unsafe_code, reason = "no dependency wraps this call; it writes at most `bytes` into `found`")]
    // SAFETY: `place` has room for `bytes`, and numbers of any value are fine in it.
    let status =
        unsafe { NtQuerySystemInformation(SystemProcessorPerformanceInformation, place.cast(), bytes, &raw mut told) };
    if status < 0 {
        return Err(io::Error::other(format!("NTSTATUS {status:#010x}")));
    }
    let count = told as usize / size_of::<SYSTEM_PROCESSOR_PERFORMANCE_INFORMATION>();
    let seconds = |ticks: i64| ticks.max(0) as f64 / 1e7;
    let processor = |times: &SYSTEM_PROCESSOR_PERFORMANCE_INFORMATION| {
        // Of what winternl.h calls reserved, the first two are the times of DPCs and of interrupts.
        let [softirq, irq] = times.Reserved1.map(seconds);
        let idle = seconds(times.IdleTime);
        // The kernel's time has all of these in it.
        let system = (seconds(times.KernelTime) - idle - softirq - irq).max(0.0);
        Processor { idle, irq, softirq, system, user: seconds(times.UserTime) }
    };
    Ok(found.iter().take(count).map(processor).collect())
}

/// A service and what it does.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) name: String,
    /// One of `SERVICE_STOPPED` (1) to `SERVICE_PAUSED` (7).
    pub(super) state: u32,
}

struct Manager(SC_HANDLE);

impl Drop for Manager {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "no dependency wraps this call")]
        // SAFETY: the handle is open and ours alone.
        unsafe {
            CloseServiceHandle(self.0);
        }
    }
}

/// Every service, drivers not among them.
pub(super) fn services() -> io::Result<Vec<Service>> {
    #[expect(unsafe_code, reason = "no dependency wraps this call")]
    // SAFETY: both texts may be missing; then it is this machine's manager.
    let manager = Manager(unsafe { OpenSCManagerW(null(), null(), SC_MANAGER_ENUMERATE_SERVICE) });
    if manager.0.is_null() {
        return Err(io::Error::last_os_error());
    }
    // Words, as the structures in it need their alignment.
    let mut buffer = vec![0_u64; SERVICES_WORDS];
    let bytes = u32::try_from(size_of_val(buffer.as_slice())).map_err(io::Error::other)?;
    let (mut needed, mut count, mut next) = (0, 0, 0);
    let mut services = Vec::new();
    for _ in 0..MAX_ANSWERS {
        let place = buffer.as_mut_ptr().cast();
        #[expect(unsafe_code, reason = "no dependency wraps this call; it writes at most `bytes` into `buffer`")]
        // SAFETY: `place` has room for `bytes`, and the other places are for one number each.
        let is_all = 0
            != unsafe {
                EnumServicesStatusExW(
                    manager.0,
                    SC_ENUM_PROCESS_INFO,
                    SERVICE_WIN32,
                    SERVICE_STATE_ALL,
                    place,
                    bytes,
                    &raw mut needed,
                    &raw mut count,
                    &raw mut next,
                    null(),
                )
            };
        let error = io::Error::last_os_error();
        if !is_all && error.raw_os_error() != Some(ERROR_MORE_DATA as i32) {
            return Err(error);
        }
        let count = (count as usize).min(size_of_val(buffer.as_slice()) / size_of::<ENUM_SERVICE_STATUS_PROCESSW>());
        for at in 0..count {
            let place = buffer.as_ptr().cast::<ENUM_SERVICE_STATUS_PROCESSW>();
            #[expect(unsafe_code, reason = "no dependency wraps this call's answer")]
            // SAFETY: so many structures are in the buffer, which is aligned for them.
            let found = unsafe { place.add(at).read() };
            let name = text(&buffer, found.lpServiceName);
            services.push(Service { name, state: found.ServiceStatusProcess.dwCurrentState });
        }
        if is_all {
            break;
        }
    }
    Ok(services)
}

/// The text that begins at `start`, which lies within `buffer`, up to its end or the buffer's.
fn text(buffer: &[u64], start: *const u16) -> String {
    let Some(offset) = start.addr().checked_sub(buffer.as_ptr().addr()) else { return String::new() };
    let units = buffer.iter().flat_map(|word| [0, 16, 32, 48].map(|shift| (word >> shift) as u16));
    let units: Vec<u16> = units.skip(offset / 2).take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}

fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

/// Whether `HKEY_LOCAL_MACHINE` has the key `path`.
pub(super) fn has_key(path: &str) -> io::Result<bool> {
    let path = wide(path);
    let mut key: HKEY = null_mut();
    #[expect(unsafe_code, reason = "no dependency wraps this call")]
    // SAFETY: the path ends with a zero, and there is room for a handle.
    let code =
        unsafe { RegOpenKeyExW(HKEY_LOCAL_MACHINE, path.as_ptr(), 0, KEY_QUERY_VALUE | KEY_WOW64_64KEY, &raw mut key) };
    if code == ERROR_SUCCESS {
        #[expect(unsafe_code, reason = "no dependency wraps this call")]
        // SAFETY: the handle is open and ours alone.
        unsafe {
            RegCloseKey(key);
        }
    }
    is_there(code)
}

/// Whether the key `path` below `HKEY_LOCAL_MACHINE` has the value `name`.
pub(super) fn has_value(path: &str, name: &str) -> io::Result<bool> {
    let (path, name) = (wide(path), wide(name));
    #[expect(unsafe_code, reason = "no dependency wraps this call")]
    // SAFETY: both texts end with a zero, and nothing of the value is asked for.
    let code = unsafe {
        RegGetValueW(
            HKEY_LOCAL_MACHINE,
            path.as_ptr(),
            name.as_ptr(),
            RRF_RT_ANY | RRF_SUBKEY_WOW6464KEY,
            null_mut(),
            null_mut(),
            null_mut(),
        )
    };
    is_there(code)
}

fn is_there(code: u32) -> io::Result<bool> {
    match code {
        ERROR_SUCCESS => Ok(true),
        ERROR_FILE_NOT_FOUND => Ok(false),
        code => Err(io::Error::from_raw_os_error(code as i32)),
    }
}

//! The sensor beside objects that stand in Windows Update's place, asked through COM itself as the real ones are.

#![expect(unsafe_code, reason = "COM gives places in memory, also to what plays an object")]

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use windows::Win32::Foundation::{DISP_E_EXCEPTION, DISP_E_MEMBERNOTFOUND, DISP_E_UNKNOWNNAME, E_NOTIMPL, E_POINTER};
use windows::Win32::System::Com::{
    CLSCTX_INPROC_SERVER, CoRegisterClassObject, CoRevokeClassObject, DISPATCH_FLAGS, DISPATCH_PROPERTYPUT, DISPPARAMS,
    EXCEPINFO, IClassFactory, IClassFactory_Impl, IDispatch, IDispatch_Impl, ITypeInfo, REGCLS_MULTIPLEUSE,
};
use windows::Win32::System::Variant::{VT_BSTR, VT_DATE, VariantChangeType};
use windows::core::{BOOL, HRESULT, IUnknown, Interface as _, PCWSTR, Ref, implement};

use super::*;

/// `ERROR_SERVICE_DISABLED`.
const DISABLED: HRESULT = HRESULT(0x8007_0422_u32.cast_signed());

#[derive(Clone)]
enum Member {
    Text(&'static str),
    Number(i32),
    Date(f64),
    One(Members),
    /// By index.
    Many(Vec<Members>),
    /// Only to be set.
    Setting,
    Fails(HRESULT),
}

type Members = BTreeMap<&'static str, Member>;

/// What was set or searched for.
type Log = Arc<Mutex<Vec<String>>>;

#[implement(IDispatch)]
struct Played {
    members: Members,
    log: Log,
}

impl Played {
    fn object(members: &Members, log: &Log) -> VARIANT {
        VARIANT::from(IDispatch::from(Self { members: members.clone(), log: Arc::clone(log) }))
    }
}

fn text(value: &VARIANT) -> String {
    let mut text = VARIANT::default();
    // SAFETY: both are whole values, and after the change it is a text.
    unsafe {
        VariantChangeType(&raw mut text, value, Default::default(), VT_BSTR).expect("a text");
        text.Anonymous.Anonymous.Anonymous.bstrVal.to_string()
    }
}

impl IDispatch_Impl for Played_Impl {
    fn GetTypeInfoCount(&self) -> Result<u32> {
        Ok(0)
    }

    fn GetTypeInfo(&self, _: u32, _: u32) -> Result<ITypeInfo> {
        Err(E_NOTIMPL.into())
    }

    fn GetIDsOfNames(&self, _: *const GUID, names: *const PCWSTR, count: u32, _: u32, members: *mut i32) -> Result<()> {
        assert_eq!(count, 1);
        // SAFETY: one name and room for one number.
        let (name, place) = unsafe { ((*names).to_string().expect("a name"), members.as_mut().ok_or(E_POINTER)?) };
        let at = self.members.keys().position(|known| *known == name).ok_or(DISP_E_UNKNOWNNAME)?;
        *place = i32::try_from(at).expect("few");
        Ok(())
    }

    fn Invoke(
        &self,
        member: i32,
        _: *const GUID,
        _: u32,
        flags: DISPATCH_FLAGS,
        parameters: *const DISPPARAMS,
        answer: *mut VARIANT,
        exception: *mut EXCEPINFO,
        _: *mut u32,
    ) -> Result<()> {
        let (name, member) =
            self.members.iter().nth(usize::try_from(member).expect("an index")).ok_or(DISP_E_MEMBERNOTFOUND)?;
        // SAFETY: the caller's parameters, of which there is at most one.
        let argument = unsafe { (*parameters).rgvarg.as_ref().map(text) };
        let log = |what: String| self.log.lock().expect("lock").push(what);
        if flags == DISPATCH_PROPERTYPUT {
            assert!(matches!(member, Member::Setting), "{name} is set");
            log(format!("{name} = {}", argument.expect("a value")));
            return Ok(());
        }
        let value = match member {
            Member::Text(text) => VARIANT::from(*text),
            Member::Number(number) => VARIANT::from(*number),
            Member::Date(days) => {
                let (days, mut date) = (VARIANT::from(*days), VARIANT::default());
                // SAFETY: both are whole values.
                unsafe { VariantChangeType(&raw mut date, &raw const days, Default::default(), VT_DATE)? };
                date
            }
            Member::One(members) => {
                if let Some(argument) = argument {
                    log(format!("{name}({argument})"));
                }
                Played::object(members, &self.log)
            }
            Member::Many(all) => {
                let index: usize = argument.and_then(|index| index.parse().ok()).expect("an index");
                Played::object(&all[index], &self.log)
            }
            Member::Setting => return Err(DISP_E_MEMBERNOTFOUND.into()),
            Member::Fails(code) => {
                // SAFETY: the caller's place for it.
                unsafe { (*exception).scode = code.0 };
                return Err(DISP_E_EXCEPTION.into());
            }
        };
        // SAFETY: the caller's place for it, which is empty.
        unsafe { answer.write(value) };
        Ok(())
    }
}

#[implement(IClassFactory)]
struct Factory {
    session: Members,
    log: Log,
}

impl IClassFactory_Impl for Factory_Impl {
    fn CreateInstance(&self, _: Ref<IUnknown>, wanted: *const GUID, place: *mut *mut c_void) -> Result<()> {
        let object = IDispatch::from(Played { members: self.session.clone(), log: Arc::clone(&self.log) });
        // SAFETY: an identifier and room for a pointer.
        unsafe { object.query(wanted, place).ok() }
    }

    fn LockServer(&self, _: BOOL) -> Result<()> {
        Ok(())
    }
}

/// Whose the process's class is.
static ONE: Mutex<()> = Mutex::new(());

/// Windows Update as `session` has it, while `look` looks.
fn beside<T>(session: Members, look: impl FnOnce() -> T) -> (T, Vec<String>) {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let _com = Apartment::enter().expect("COM");
    let log = Log::default();
    let factory = IClassFactory::from(Factory { session, log: Arc::clone(&log) });
    // SAFETY: the factory lives until it is taken back.
    let registered = unsafe { CoRegisterClassObject(&SESSION, &factory, CLSCTX_INPROC_SERVER, REGCLS_MULTIPLEUSE) };
    let outcome = look();
    // SAFETY: it is taken back once.
    unsafe { CoRevokeClassObject(registered.expect("registered")) }.expect("taken back");
    let log = std::mem::take(&mut *log.lock().expect("lock"));
    (outcome, log)
}

fn many(all: Vec<Members>) -> Members {
    [("Count", Member::Number(i32::try_from(all.len()).expect("few"))), ("Item", Member::Many(all))].into()
}

fn of_category(id: &'static str, name: &'static str, order: i32) -> Members {
    [("CategoryID", Member::Text(id)), ("Name", Member::Text(name)), ("Order", Member::Number(order))].into()
}

fn update(title: &'static str, severity: &'static str, days: f64, categories: Vec<Members>) -> Members {
    [
        ("Categories", Member::One(many(categories))),
        ("LastDeploymentChangeTime", Member::Date(days)),
        ("MsrcSeverity", Member::Text(severity)),
        ("Title", Member::Text(title)),
    ]
    .into()
}

fn session(search: Member) -> Members {
    let searcher = [("Online", Member::Setting), ("Search", search)].into();
    [("ClientApplicationID", Member::Setting), ("CreateUpdateSearcher", Member::One(searcher))].into()
}

fn result(updates: Vec<Members>) -> Member {
    Member::One([("Updates", Member::One(many(updates)))].into())
}

/// One round of the sensor that waits for the search.
fn round() -> Vec<String> {
    let settings = SensorSettings { patience: Duration::from_mins(5), ..SensorSettings::default() };
    let mut sink = Sink::default();
    (ENTRY.make)(&settings).read(&mut sink).expect("the registry");
    let (series, values) = sink.take();
    let line = |(name, value): (&crate::reading::SeriesName, &f64)| {
        let labels: Vec<_> = name.labels().iter().map(|(_, value)| value.to_string()).collect();
        format!("{} {} {value}", name.metric(), labels.join("|"))
    };
    series.0.iter().zip(&values).map(line).collect()
}

#[test]
fn updates_are_counted_and_told_by_name_without_the_network() {
    // As a Romanian Windows Server 2022 names them; a security update is known by its category's number.
    let security = || of_category("0FA1201D-4330-4fa8-8ae9-b877473b6441", "Actualizări de securitate", 1);
    let server = || of_category("2c7888b6-f9e9-4ee9-87af-a77705193893", "Server 2022", 5);
    let definitions = of_category("e0789628-ce08-4437-be74-2495b842f43b", "Actualizări de definiții", 3);
    let all = vec![
        update("2026-11 Actualizare cumulativă (KB5070000)", "Critical", 46_341.75, vec![server(), security()]),
        update("Definiții Microsoft Defender (KB2267602)", "", 46_350.0, vec![definitions]),
        update("Realtek - Net - 10.50", "", 46_000.0, Vec::new()),
    ];
    let (told, asked) = beside(session(result(all)), round);
    let expected = [
        "veghe_windows_updates_pending other 2",
        "veghe_windows_updates_pending security 1",
        "windows_update_pending_info ||Realtek - Net - 10.50 1",
        "windows_update_pending_info Actualizări de definiții||Definiții Microsoft Defender (KB2267602) 1",
        "windows_update_pending_info Actualizări de securitate|Critical|2026-11 Actualizare cumulativă (KB5070000) 1",
        "windows_update_pending_published_timestamp 2026-11 Actualizare cumulativă (KB5070000) 1794765600",
        "windows_update_pending_published_timestamp Definiții Microsoft Defender (KB2267602) 1795478400",
        "windows_update_pending_published_timestamp Realtek - Net - 10.50 1765238400",
    ];
    assert_eq!(told.get(..expected.len()), Some(&expected.map(str::to_owned)[..]), "{told:#?}");
    let rest: Vec<_> = told.iter().skip(expected.len()).map(|line| line.split(' ').next()).collect();
    let others = [
        "windows_update_scrape_query_duration_seconds",
        "windows_update_scrape_timestamp_seconds",
        "node_reboot_required",
    ];
    assert_eq!(rest, others.map(Some), "{told:#?}");
    assert_eq!(
        asked,
        ["ClientApplicationID = veghe-agent", "Online = 0", "Search(IsInstalled=0 and IsHidden=0)"],
        "what it is asked"
    );
}

#[test]
fn nothing_pending_is_a_number() {
    let (told, _) = beside(session(result(Vec::new())), round);
    let counts = ["veghe_windows_updates_pending other 0", "veghe_windows_updates_pending security 0"];
    assert_eq!(told.get(..2), Some(&counts.map(str::to_owned)[..]), "{told:#?}");
}

#[test]
fn a_service_that_refuses_says_why_and_the_rest_is_told() {
    let (error, _) = beside(session(Member::Fails(DISABLED)), || search().err().expect("refused"));
    assert_eq!(error.code(), DISABLED);
    let (told, _) = beside(session(Member::Fails(DISABLED)), round);
    assert!(told.len() == 1 && told[0].starts_with("node_reboot_required"), "{told:#?}");
}

#[test]
fn a_machine_without_windows_update_tells_the_rest() {
    // Wine has the session's class, but none of its answers.
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let told = round();
    assert!(told.last().is_some_and(|line| line.starts_with("node_reboot_required")), "{told:#?}");
}

//! Objects of other programs that answer by name, as scripts ask them: COM's automation.
//!
//! Invariant: a thread has COM as long as its [`Apartment`] lives, and objects are only had by those that have one.

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr;

use windows::Win32::Foundation::DISP_E_EXCEPTION;
use windows::Win32::System::Com::{
    CLSCTX_INPROC_SERVER, CLSCTX_LOCAL_SERVER, COINIT_MULTITHREADED, CoCreateInstance, CoInitializeEx, CoUninitialize,
    DISPATCH_FLAGS, DISPATCH_METHOD, DISPATCH_PROPERTYGET, DISPATCH_PROPERTYPUT, DISPPARAMS, EXCEPINFO, IDispatch,
};
use windows::Win32::System::Ole::DISPID_PROPERTYPUT;
use windows::Win32::System::Variant::{VAR_CHANGE_FLAGS, VARENUM, VARIANT, VT_BSTR, VT_R8, VariantChangeType};
use windows::core::{BSTR, Error, GUID, HRESULT, HSTRING, PCWSTR, Result};

/// Texts of numbers and dates are not asked for, so that any language does.
const NEUTRAL: u32 = 0;

/// That this thread may use COM.
pub(super) struct Apartment(PhantomData<*const ()>);

impl Apartment {
    pub(super) fn enter() -> Result<Self> {
        #[expect(unsafe_code, reason = "no dependency wraps this call")]
        // SAFETY: it takes no memory of ours; `drop` undoes it, on the same thread, as this can't be sent.
        unsafe { CoInitializeEx(None, COINIT_MULTITHREADED) }.ok()?;
        Ok(Self(PhantomData))
    }

    /// A new object of `class`.
    pub(super) fn create(&self, class: &GUID) -> Result<Object> {
        #[expect(unsafe_code, reason = "no dependency wraps this call")]
        // SAFETY: COM has been initialized, and `class` is a whole identifier.
        unsafe { CoCreateInstance(class, None, CLSCTX_INPROC_SERVER | CLSCTX_LOCAL_SERVER) }.map(Object)
    }
}

impl Drop for Apartment {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "no dependency wraps this call")]
        // SAFETY: it belongs to the call of `enter`.
        unsafe {
            CoUninitialize();
        }
    }
}

/// An object that has members by name.
pub(super) struct Object(IDispatch);

impl Object {
    /// What the property `name` is.
    pub(super) fn get(&self, name: &str) -> Result<Value> {
        self.call(name, None)
    }

    /// What the method or property `name` is, given `argument`.
    pub(super) fn call(&self, name: &str, argument: Option<VARIANT>) -> Result<Value> {
        // Scripts don't know either which of the two it is.
        self.invoke(name, DISPATCH_METHOD | DISPATCH_PROPERTYGET, argument)
    }

    /// Sets the property `name`.
    pub(super) fn put(&self, name: &str, value: VARIANT) -> Result<()> {
        self.invoke(name, DISPATCH_PROPERTYPUT, Some(value)).map(|_nothing| ())
    }

    fn invoke(&self, name: &str, flags: DISPATCH_FLAGS, mut argument: Option<VARIANT>) -> Result<Value> {
        let text = HSTRING::from(name);
        let mut member = 0;
        #[expect(unsafe_code, reason = "no dependency wraps this call")]
        // SAFETY: one name, which ends with a zero, and room for one number.
        unsafe {
            self.0.GetIDsOfNames(&GUID::zeroed(), &PCWSTR(text.as_ptr()), 1, NEUTRAL, &raw mut member)?;
        }
        let mut put = DISPID_PROPERTYPUT;
        let is_put = flags == DISPATCH_PROPERTYPUT;
        let parameters = DISPPARAMS {
            rgvarg: argument.as_mut().map_or(ptr::null_mut(), ptr::from_mut),
            rgdispidNamedArgs: if is_put { &raw mut put } else { ptr::null_mut() },
            cArgs: u32::from(argument.is_some()),
            cNamedArgs: u32::from(is_put),
        };
        let (mut value, mut told) = (VARIANT::default(), EXCEPINFO::default());
        let (place, exception) = (&raw mut value, &raw mut told);
        #[expect(unsafe_code, reason = "no dependency wraps this call")]
        // SAFETY: the parameters and the places for an answer and for an exception live until it returns.
        let called = unsafe {
            let (answer, id) = ((!is_put).then_some(place), GUID::zeroed());
            self.0.Invoke(member, &id, NEUTRAL, flags, &raw const parameters, answer, Some(exception), None)
        };
        // These texts are ours to free. An error that had them would need what Windows has from version 8 on.
        drop([told.bstrSource, told.bstrDescription, told.bstrHelpFile].map(ManuallyDrop::into_inner));
        match called {
            Ok(()) => Ok(Value(value)),
            Err(error) if error.code() == DISP_E_EXCEPTION && told.scode != 0 => {
                Err(Error::from_hresult(HRESULT(told.scode)))
            }
            Err(error) => Err(error),
        }
    }
}

/// What a member is.
pub(super) struct Value(VARIANT);

impl Value {
    pub(super) fn object(&self) -> Result<Object> {
        IDispatch::try_from(&self.0).map(Object)
    }

    /// A number, or a date in days since the end of the year 1899.
    pub(super) fn number(&self) -> Result<f64> {
        let number = self.changed_to(VT_R8)?;
        #[expect(unsafe_code, reason = "no dependency reads this without a library that old systems lack")]
        // SAFETY: that it is such a number is what the change was asked for.
        Ok(unsafe { number.Anonymous.Anonymous.Anonymous.dblVal })
    }

    pub(super) fn text(&self) -> Result<String> {
        let text = self.changed_to(VT_BSTR)?;
        #[expect(unsafe_code, reason = "no dependency reads this without a library that old systems lack")]
        // SAFETY: that it is such a text is what the change was asked for; `text` owns it and outlives this.
        let text: &BSTR = unsafe { &text.Anonymous.Anonymous.Anonymous.bstrVal };
        Ok(text.to_string())
    }

    fn changed_to(&self, kind: VARENUM) -> Result<VARIANT> {
        let mut changed = VARIANT::default();
        #[expect(unsafe_code, reason = "no dependency wraps this call")]
        // SAFETY: both are whole values of which the first is empty.
        unsafe {
            VariantChangeType(&raw mut changed, &raw const self.0, VAR_CHANGE_FLAGS(0), kind)?;
        }
        Ok(changed)
    }
}

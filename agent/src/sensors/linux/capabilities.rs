//! Which of the kernel's capabilities this process has, and how to give it those that it lacks.

use rustix::thread::{CapabilitySet, capabilities};

/// Names of those that a sensor of this platform may need.
const NAMES: [(CapabilitySet, &str); 8] = [
    (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
    (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
    (CapabilitySet::FOWNER, "CAP_FOWNER"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
    (CapabilitySet::SYS_RAWIO, "CAP_SYS_RAWIO"),
    (CapabilitySet::SYSLOG, "CAP_SYSLOG"),
];

/// Names of those of `needed` that are not in effect, separated by blanks; `None` if all are.
pub(crate) fn missing(needed: CapabilitySet) -> Option<String> {
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    names(needed - effective)
}

fn names(missing: CapabilitySet) -> Option<String> {
    let names = NAMES.iter().filter(|(capability, _)| missing.contains(*capability)).map(|(_, name)| *name);
    let names = names.collect::<Vec<_>>().join(" ");
    (!names.is_empty()).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_has_the_names_that_systemd_takes() {
        let needed = CapabilitySet::SYS_RAWIO | CapabilitySet::SYS_ADMIN;
        assert_eq!(names(needed).as_deref(), Some("CAP_SYS_ADMIN CAP_SYS_RAWIO"));
        assert_eq!(names(CapabilitySet::empty()), None);
        // A thread may give up what it has; then it is missing.
        std::thread::spawn(move || {
            let none = CapabilitySet::empty();
            let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
            rustix::thread::set_capabilities(None, sets).expect("less is always allowed");
            assert_eq!(missing(needed), names(needed));
        })
        .join()
        .expect("no panic");
    }
}

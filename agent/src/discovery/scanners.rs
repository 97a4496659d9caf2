//! Scanners of the local network that offer eSCL: one question by mDNS at each look, answered by whoever has one.

use veghe_wire::remote::Finding;

use super::plain;
use crate::sensors::linux::escl;

/// What answered, each with the settings that watch it.
pub(super) fn look() -> Vec<Finding> {
    let finding = |target: escl::settings::Target| {
        let host = target.labels.iter().find(|(name, _)| name == "host").map_or("", |(_, host)| host.as_str());
        let settings = format!("sensors:\n  escl: {{targets: [{}]}}\n", escl::settings::write_target(&target));
        let detail = format!("a scanner that speaks eSCL, {host}");
        Finding { settings, ..plain("escl_scanner", target.url.to_string(), detail) }
    };
    escl::neighbours().into_iter().map(finding).collect()
}

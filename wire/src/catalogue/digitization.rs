//! What agents see of a digitization: hot folders, exports, deliveries, fixity.

use super::{Metric, Unit, counter, gauge};

/// Ascending by name.
pub(super) const METRICS: &[Metric] = &[
    counter(
        "digitization_csv_bad_rows_total",
        Unit::One,
        "Rows of capture software's exports that could not be read.",
        &["export"],
    ),
    gauge("digitization_csv_files", Unit::One, "Files of an export.", &["export"]),
    counter(
        "digitization_csv_rows_total",
        Unit::One,
        "Rows of capture software's exports that were told, once each.",
        &["export"],
    ),
    counter(
        "digitization_delivery_packages_total",
        Unit::One,
        "Delivered packages that were checked, by outcome.",
        &["delivery", "outcome"],
    ),
    gauge("digitization_delivery_up", Unit::One, "1 where a folder of deliveries can be read, else 0.", &["delivery"]),
    gauge(
        "digitization_hotfolder_files_pending",
        Unit::One,
        "Files of a hot folder that are not whole yet, or that were not looked at long enough.",
        &["folder"],
    ),
    counter(
        "digitization_hotfolder_files_refused_total",
        Unit::One,
        "Files of a hot folder that do not count, by reason.",
        &["folder", "reason"],
    ),
    counter(
        "digitization_hotfolder_files_total",
        Unit::One,
        "Files of a hot folder by what was made of them: complete ones count as images, once each.",
        &["folder", "outcome"],
    ),
    gauge(
        "digitization_hotfolder_last_activity_timestamp_seconds",
        Unit::Seconds,
        "When the last file of a hot folder was settled.",
        &["folder"],
    ),
    gauge(
        "digitization_hotfolder_scan_duration_seconds",
        Unit::Seconds,
        "How long the last look at everything in a hot folder took.",
        &["folder"],
    ),
    gauge("digitization_hotfolder_up", Unit::One, "1 where a hot folder can be read, else 0.", &["folder"]),
    counter(
        "digitization_images_total",
        Unit::One,
        "Images of complete files of hot folders, once each, by station.",
        &["station"],
    ),
    gauge("digitization_outbox_events", Unit::One, "Events that the collector does not have yet.", &[]),
    counter("digitization_outbox_told_total", Unit::One, "Events that the collector has on disk.", &[]),
];

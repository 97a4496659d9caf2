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
    counter(
        "digitization_hotfolder_images_looked_at_total",
        Unit::One,
        "Images of a hot folder that were looked at for empty pages and repeated ones, by what they are: unread ones have a format that is not decoded.",
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
    gauge(
        "digitization_hotfolder_silent_seconds",
        Unit::Seconds,
        "How long the file system of a hot folder does not answer what it is asked; 0 where it is asked nothing.",
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
    gauge(
        "fixity_copies_differing",
        Unit::One,
        "Objects with other bytes than their copy on another storage.",
        &["storage"],
    ),
    gauge(
        "fixity_last_pass_timestamp_seconds",
        Unit::Seconds,
        "When the last pass over all objects of a storage was finished.",
        &["storage"],
    ),
    gauge("fixity_objects", Unit::One, "Objects of a storage by what was last found of them.", &["outcome", "storage"]),
    gauge(
        "fixity_oldest_unverified_seconds",
        Unit::Seconds,
        "How long the good object of a storage that waits longest was not verified.",
        &["storage"],
    ),
    gauge(
        "fixity_pass",
        Unit::One,
        "The pass of a storage that is under way, or was last; counts from 1.",
        &["storage"],
    ),
    gauge("fixity_pass_running", Unit::One, "1 while a pass over a storage is under way, else 0.", &["storage"]),
    counter(
        "fixity_read_bytes_total",
        Unit::Bytes,
        "Bytes of a storage that were read for their digest.",
        &["storage"],
    ),
    counter("fixity_read_objects_total", Unit::One, "Objects of a storage that were read.", &["storage"]),
    gauge("fixity_up", Unit::One, "1 where a storage can be verified, else 0.", &["storage"]),
];

//! Counts images and jobs over everything that a scanner tells of: each once.

use std::collections::HashMap;

use veghe_dialects::escl::Job;

/// States that a job may be in.
pub(super) const STATES: [&str; 5] = ["Aborted", "Canceled", "Completed", "Pending", "Processing"];
/// States that a job ends in.
pub(super) const ENDS: [&str; 3] = ["Aborted", "Canceled", "Completed"];

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Images.
    pub(super) images: u64,
    /// Jobs by their end, as in [`ENDS`].
    pub(super) ended: [u64; ENDS.len()],
}

/// Jobs that were told of the last time.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    /// `None` until something was told.
    known: Option<HashMap<String, (u64, bool)>>,
    pub(super) counts: Counts,
}

impl Jobs {
    /// Takes what the scanner tells now. Its first list is where counting begins.
    pub(super) fn hear(&mut self, jobs: &[Job]) {
        let mut now = HashMap::with_capacity(jobs.len());
        for job in jobs {
            let name = if job.uuid.is_empty() { &job.uri } else { &job.uuid };
            let end = ENDS.iter().position(|end| *end == job.state);
            if let Some(known) = &self.known {
                let (mut images, mut had_ended) = known.get(name).copied().unwrap_or_default();
                // The name of an old job again, as after the scanner was switched off.
                if job.images_completed < images || had_ended && end.is_none() {
                    (images, had_ended) = (0, false);
                }
                self.counts.images += job.images_completed - images;
                if let (Some(end), false) = (end, had_ended)
                    && let Some(count) = self.counts.ended.get_mut(end)
                {
                    *count += 1;
                }
            }
            now.insert(name.clone(), (job.images_completed, end.is_some()));
        }
        self.known = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(uri: &str, state: &str, images_completed: u64) -> Job {
        Job { uri: uri.to_owned(), state: state.to_owned(), images_completed, ..Job::default() }
    }

    #[test]
    fn an_image_and_the_end_of_a_job_count_once() {
        let mut jobs = Jobs::default();
        let mut hear = |list: &[Job]| {
            jobs.hear(list);
            (jobs.counts.images, jobs.counts.ended)
        };
        assert_eq!(hear(&[job("1", "Completed", 20), job("2", "Processing", 3)]), (0, [0, 0, 0]));
        assert_eq!(hear(&[job("2", "Processing", 5), job("1", "Completed", 20)]), (2, [0, 0, 0]));
        assert_eq!(hear(&[job("2", "Completed", 6), job("3", "Canceled", 1)]), (4, [0, 1, 1]));
        assert_eq!(hear(&[job("2", "Completed", 6), job("3", "Canceled", 1)]), (4, [0, 1, 1]));
        // Numbers begin anew.
        assert_eq!(hear(&[job("2", "Processing", 1), job("3", "Aborted", 0)]), (5, [1, 1, 1]));
    }
}

//! Plan against actual as an earned schedule: how many working days of the plan what is done is worth.
//!
//! The plan is a straight line over its working days. The ratio of worth and time (SPI(t)) stays meaningful to the last day,
//! where that of done and planned length ends at 1 however late it is (Lipke, 2003).

use serde::Serialize;

use super::calendar::Day;
use super::settings::Settings;

/// Working days beyond which no finish is told: 40 years.
const HORIZON: f64 = 10_000.0;

/// Plan against actual.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Earned {
    /// The first day of the plan.
    pub from: Day,
    /// Its last.
    pub planned_finish: Day,
    /// Its working days.
    pub planned_days: u32,
    /// Working days that are over, up to the finish if everything is done.
    pub gone_days: u32,
    /// Working days of the plan by whose end it wanted as much done as is done.
    pub earned_days: f64,
    /// Working days ahead of the plan, behind where below 0.
    pub ahead_days: f64,
    /// Earned for each that is gone: below 1 is slower than planned. Nothing on the first day.
    pub spi: Option<f64>,
    /// Shelf length that the plan wanted done by now, in millimetres.
    pub mm_planned: u64,
    /// Shelf length that is.
    pub mm_done: u64,
    /// The day on which it ends if it goes on like this; the day on which it did. Nothing before anything is done.
    pub finish: Option<Day>,
}

/// Where a project stands with `mm_done` of `mm_scope` at the beginning of `today`, `finished` if everything is; nothing
/// without a plan, an inventory, or before its first day.
pub fn earned(mm_done: u64, mm_scope: u64, finished: Option<Day>, today: Day, settings: &Settings) -> Option<Earned> {
    let plan = settings.plan.filter(|plan| mm_scope > 0 && today >= plan.from)?;
    let calendar = &settings.calendar;
    let planned_days = calendar.count(plan.from, plan.finish);
    let last = finished.unwrap_or(Day(today.0 - 1)).max(Day(plan.from.0 - 1));
    let gone_days = if last < plan.from { 0 } else { calendar.count(plan.from, last) };
    let (planned, gone) = (f64::from(planned_days), f64::from(gone_days));
    let earned_days = planned * mm_done as f64 / mm_scope as f64;
    let all_days = (gone * planned / earned_days).ceil();
    let ends = || calendar.working_from(plan.from).nth((all_days - 1.0) as usize);
    Some(Earned {
        from: plan.from,
        planned_finish: plan.finish,
        planned_days,
        gone_days,
        earned_days,
        ahead_days: earned_days - gone,
        spi: (gone_days > 0).then(|| earned_days / gone),
        mm_planned: (mm_scope as f64 * (gone / planned.max(1.0)).min(1.0)).round() as u64,
        mm_done,
        finish: finished.or_else(|| if (1.0..=HORIZON).contains(&all_days) { ends() } else { None }),
    })
}

#[cfg(test)]
mod tests {
    use super::super::settings::Plan;
    use super::*;

    fn day(text: &str) -> Day {
        text.parse().expect(text)
    }

    fn planned() -> Settings {
        // 20 working days: 2 to 27 March 2026.
        Settings { plan: Some(Plan { from: day("2026-03-02"), finish: day("2026-03-27") }), ..Settings::default() }
    }

    #[test]
    fn a_project_at_half_its_pace_earns_half_and_ends_twice_as_late() {
        // Monday, 16 March: ten working days are gone, five are earned.
        let e = earned(250, 1000, None, day("2026-03-16"), &planned()).expect("plan");
        assert_eq!((e.planned_days, e.gone_days, e.mm_planned), (20, 10, 500));
        assert_eq!((e.earned_days, e.ahead_days, e.spi), (5.0, -5.0, Some(0.5)));
        let fortieth = planned().calendar.working_from(day("2026-03-02")).nth(39);
        assert_eq!(e.finish, fortieth);
        // Ahead: 15 of 20 days earned in ten, so it takes 14.
        let e = earned(750, 1000, None, day("2026-03-16"), &planned()).expect("plan");
        assert_eq!((e.ahead_days, e.spi, e.finish), (5.0, Some(1.5), Some(day("2026-03-19"))));
    }

    #[test]
    fn lateness_stays_when_everything_is_done() {
        // Done a week late: the time stops there, however much later one looks.
        for today in ["2026-04-04", "2026-09-01"] {
            let e = earned(1000, 1000, Some(day("2026-04-03")), day(today), &planned()).expect("plan");
            assert_eq!((e.gone_days, e.ahead_days, e.spi), (25, -5.0, Some(0.8)));
            assert_eq!((e.finish, e.mm_planned), (Some(day("2026-04-03")), 1000));
        }
    }

    #[test]
    fn before_anything_is_done_no_finish_is_told() {
        assert_eq!(earned(0, 1000, None, day("2026-03-01"), &planned()), None, "before the plan begins");
        let first = earned(0, 1000, None, day("2026-03-02"), &planned()).expect("plan");
        assert_eq!((first.gone_days, first.spi, first.finish), (0, None, None));
        let e = earned(0, 1000, None, day("2026-03-16"), &planned()).expect("plan");
        assert_eq!((e.spi, e.finish, e.ahead_days), (Some(0.0), None, -10.0));
        assert_eq!(
            earned(1, 1_000_000, None, day("2026-03-16"), &planned()).expect("plan").finish,
            None,
            "in 40 years"
        );
        assert_eq!(earned(5, 0, None, day("2026-03-16"), &planned()), None);
        assert_eq!(earned(5, 10, None, day("2026-03-16"), &Settings::default()), None);
    }
}
